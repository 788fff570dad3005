"""Hugging Face's GPT-2 and BERT train under injection as they are."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import miscompute as mc
from miscompute.hardware import PASSES
from miscompute.injection import Injection

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install .[transformers]")

pytestmark = pytest.mark.usefixtures("one_thread")

ARRAY = mc.nvdla(rows=4, cols=4)
FAULT = mc.parse_fault("weight[0,0] bit 31 flip")
TOKENS = torch.randint(0, 50, (3, 8), generator=torch.Generator().manual_seed(1))
ATTENTIONS = {"sdpa": {"scores", "values"}, "eager": {"matmul"}}
"""How attention is computed, and the products it then is."""


def gpt2(attention: str) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=50,
        n_positions=8,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
    )
    return seeded(lambda: transformers.GPT2LMHeadModel(config))


def bert(attention: str) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
        attn_implementation=attention,
    )
    return seeded(lambda: transformers.BertForSequenceClassification(config))


def seeded(build: Callable[[], Any]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model: nn.Module = build()
    return model


def inputs(model: nn.Module) -> dict[str, Tensor]:
    if isinstance(model, transformers.GPT2LMHeadModel):
        return {"input_ids": TOKENS, "labels": TOKENS}
    mask = torch.ones_like(TOKENS)
    mask[1, 5:] = 0
    return {"input_ids": TOKENS, "attention_mask": mask, "labels": torch.tensor([0, 1, 0])}


def train(model: nn.Module, *, steps: int = 3) -> dict[str, Tensor]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(4)  # dropout
        for _ in range(steps):
            optimizer.zero_grad()
            model(**inputs(model)).loss.backward()
            optimizer.step()
    return copy.deepcopy(model.state_dict())


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def executions(injection: Injection) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in injection.log:
        found.setdefault(row.layer, {})[row.pass_] = row.executions
    return found


def linear_layers(model: nn.Module) -> Iterator[str]:
    """Name the layers with a matrix as the log does: GPT-2 keeps its output layer's weight as the embedding's."""
    kinds = (nn.Linear, transformers.pytorch_utils.Conv1D)
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            yield "transformer.wte" if name == "lm_head" else name


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("build", [gpt2, bert])
def test_all_products_are_injected_in_all_passes(build: Callable[[str], nn.Module], attention: str) -> None:
    model = build(attention)
    with warnings.catch_warnings(), mc.inject(model, FAULT, array=ARRAY) as injection:
        warnings.simplefilter("error")
        faulty = train(model)
    assert injection.log.unlowered == {}
    assert injection.step == 3
    found = executions(injection)
    blocks = "transformer.h.{}.attn" if build is gpt2 else "bert.encoder.layer.{}.attention.self"
    inner = {f"{blocks.format(layer)}.{product}" for layer in range(2) for product in ATTENTIONS[attention]}
    assert found.keys() == {*linear_layers(model), *inner}
    for name, passes in found.items():
        times = 6 if name.endswith(".matmul") else 3  # both products of a module under one name
        assert passes == dict.fromkeys(PASSES, times), name
    assert all(row.changed > 0 for row in injection.log if row.pass_ == "forward")
    assert not equal(faulty, train(build(attention)))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("build", [gpt2, bert])
def test_paused_it_is_the_healthy_machine(build: Callable[[str], nn.Module], attention: str) -> None:
    model = build(attention)
    with mc.inject(model, FAULT, array=ARRAY) as injection, injection.paused():
        found = train(model)
    assert equal(found, train(build(attention)))
    assert [*injection.log] == []


@pytest.mark.parametrize("build", [gpt2, bert])
def test_evaluation_and_what_follows_it(build: Callable[[str], nn.Module]) -> None:
    model = build("sdpa").eval()
    with torch.no_grad():
        golden = model(**inputs(model)).logits
        with mc.inject(model, FAULT, array=ARRAY):
            assert not torch.equal(model(**inputs(model)).logits, golden)
        assert torch.equal(model(**inputs(model)).logits, golden)


def test_generation() -> None:
    model: Any = gpt2("sdpa").eval()
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones(1, 4).long()}
    golden = model.generate(TOKENS[:1, :4], **options)
    with mc.inject(model, mc.parse_fault("weight[0,0] bit 30 flip"), array=ARRAY) as injection:
        faulty = model.generate(TOKENS[:1, :4], **options)
    assert faulty.shape[1] <= golden.shape[1] == 7
    assert injection.log.unlowered == {}
    assert set(executions(injection)["transformer.h.1.attn.scores"]) == {"forward"}
    assert torch.equal(model.generate(TOKENS[:1, :4], **options), golden)
