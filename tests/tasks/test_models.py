"""Models: sizes are the published ones, weights come from the seed, and each learns."""

import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from miscompute import InvalidInput
from miscompute.tasks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MODELS,
    DataSet,
    Training,
    accuracy,
    build_model,
    gpt,
    recipe_for,
    resnet18,
    resnet20,
    trained_resnet20,
)
from miscompute.tasks._models import without_memory

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE_MODELS = [name for name, model in MODELS.items() if model.reads == "images"]


def built(name: str, *, channels: int = 3, classes: int = 10, width: float = 1.0, seed: int = 0) -> nn.Module:
    if MODELS[name].reads == "images":
        return build_model(name, channels=channels, classes=classes, width=width, seed=seed)
    return build_model(name, context=64, classes=classes, width=width, seed=seed)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_models_for_images_score_classes(name: str, channels: int) -> None:
    model = built(name, channels=channels, classes=7, width=0.25)
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_weights_come_from_the_seed_and_nothing_else(name: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (built(name, width=0.25, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key, tensor in first.items() if tensor.dim() > 1 and tensor.any()]
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


PUBLISHED = {
    "lenet5": (1, 61_706),  # with full connections between the convolutions
    "alexnet": (3, 2_264_906),
    "mlp": (1, 338_610),  # 1,024 inputs, 300, 100, 10
    "resnet18": (3, 11_173_962),  # "11.17M" of the usual CIFAR form
    "resnet20": (3, 269_722),  # "0.27M", He et al. (2015), table 6
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    channels, expected = PUBLISHED[name]
    assert parameters(built(name, channels=channels)) == expected


def test_without_normalisation_each_gain_and_shift_pair_is_one_bias() -> None:
    channels = sum(m.num_features for m in resnet18().modules() if isinstance(m, nn.BatchNorm2d))
    plain = built("resnet18_nobn")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert parameters(plain) == parameters(resnet18()) - channels


def test_gpt_has_the_size_of_gpt_2() -> None:
    with torch.device("meta"):
        small = gpt(classes=50257, context=1024, layers=12, heads=12, hidden=768)
        untied = gpt(classes=50257, context=1024, layers=12, heads=12, hidden=768, tied=False)
    assert parameters(small) == 124_439_808  # the released checkpoint's
    assert parameters(untied) == 124_439_808 + 50257 * 768


def test_channels_scale_with_the_width() -> None:
    model = built("alexnet", width=0.25)
    outputs = [p.shape[0] for name, p in model.named_parameters() if name.endswith("weight")]
    assert outputs == [16, 48, 96, 64, 64, 10]
    narrowest = built("alexnet", width=1e-6)
    assert [p.shape[0] for name, p in narrowest.named_parameters() if name.endswith("weight")] == [1] * 5 + [10]
    assert built("resnet18", width=0.5).get_parameter("layer4.1.conv2.weight").shape == (256, 256, 3, 3)
    assert built("gpt", width=0.3).get_parameter("token.weight").shape == (10, 40)  # 4 heads of 9.6


def test_weights_start_as_published() -> None:
    """Standard deviations, within 4 sigma of their estimate from n weights."""

    def close(weight: Tensor, std: float) -> bool:
        return float(weight.detach().std()) == pytest.approx(std, rel=4 / (2 * weight.numel()) ** 0.5)

    # He et al. (2015), eq. 10: sqrt(2 / fan_in).
    assert close(built("alexnet").get_parameter("conv3.weight"), (2 / (192 * 9)) ** 0.5)
    assert close(built("resnet18").get_parameter("layer2.1.conv1.weight"), (2 / (128 * 9)) ** 0.5)
    # Fixup: eight blocks, two layers in each.
    plain = built("resnet18_nobn")
    assert close(plain.get_parameter("layer2.1.conv1.weight"), (2 / (128 * 9) / 8) ** 0.5)
    assert not plain.get_parameter("layer2.1.conv2.weight").any()
    # GPT-2: 0.02, and on the way to the residual by 1 / sqrt(2 layers) less.
    model = built("gpt")
    assert close(model.get_parameter("blocks.3.qkv.weight"), 0.02)
    assert close(model.get_parameter("blocks.3.down.weight"), 0.02 / math.sqrt(8))


def test_a_model_is_told_of_its_own_kind_of_data() -> None:
    with pytest.raises(InvalidInput, match="model='gpt' reads tokens: give context, and nothing else about the data"):
        build_model("gpt", channels=3, classes=10)
    with pytest.raises(InvalidInput, match="model='mlp' reads images: give channels, and nothing else"):
        build_model("mlp", channels=3, context=64, classes=10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("width", [2e3, 1e9, 1e300])
def test_an_absurd_width_is_refused_before_memory_is_taken(name: str, width: float) -> None:
    with pytest.raises(InvalidInput, match=r"^width=.* makes .*; choose a smaller one$"):
        built(name, width=width)


@pytest.mark.parametrize("name", MODELS)
def test_without_memory_sizes_are_known_and_nothing_is_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, int] = {"classes": 10, **({"context": 64} if MODELS[name].reads == "tokens" else {"channels": 3})}
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # what a draw would load: it is refused
    model = without_memory(name, **sizes, width=0.1)
    assert all(parameter.is_meta for parameter in model.parameters())
    named = build_model(name, **sizes, width=0.1).named_parameters()
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in named}


def test_what_training_keeps_counts_too(few_digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with room for three and a half times the parameters of lenet5."""
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4, "SC_PHYS_PAGES": 61_706 * 7 // 2}.__getitem__)
    recipe = recipe_for("cluttered_digits", model="lenet5")
    Training(replace(recipe, optimizer="sgd"), few_digits)
    with pytest.raises(InvalidInput, match=r"width=1\.0 makes 61,706 parameters"):
        Training(replace(recipe, optimizer="adam"), few_digits)


def test_shortcuts_by_hand() -> None:
    """A block whose convolutions give zero passes on its shortcut: every second pixel, zeros for new channels."""
    block = resnet20().get_submodule("layer2.0").eval()
    for name in ("conv1", "conv2"):
        nn.init.zeros_(block.get_parameter(f"{name}.weight"))
    x = torch.rand(2, 16, 6, 6)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_models_learn_a_few_images_by_heart(name: str, few_digits: DataSet) -> None:
    few = replace(few_digits, train_images=few_digits.train_images[:16], train_labels=few_digits.train_labels[:16])
    recipe = recipe_for(
        "cluttered_digits",
        model=name,
        width={"alexnet": 0.125, "resnet18": 0.0625, "resnet18_nobn": 0.0625, "resnet20": 0.25}.get(name),
        lr=5e-3,
        schedule="constant",
        batch_size=16,
        steps=30,
    )
    training = Training(recipe, few)
    losses = []
    for _ in range(recipe.steps):
        loss, _ = training.gradients()
        training.update()
        losses.append(float(loss))
    assert losses[0] > 1.5  # chance: log(10) = 2.3
    assert losses[-1] < 0.3


def test_the_trained_resnet_is_as_good_as_its_source_says(cifar10_data: DataSet, development_data: Path) -> None:
    """91.73 % on all 10,000 test images, which was measured too; here on the first 1,000 of them: 91.0 %."""
    model = trained_resnet20(development_data)
    few = replace(
        cifar10_data,
        validation_images=cifar10_data.validation_images[:1_000],
        validation_labels=cifar10_data.validation_labels[:1_000],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    assert not model.training
    assert accuracy(model, few) == pytest.approx(0.910, abs=0.003)  # ties may fall otherwise on other processors


def test_a_trained_resnet_that_is_not_there_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=r"does not hold resnet_cifar10/resnet20.th; download https://"):
        trained_resnet20(tmp_path)
    path = tmp_path / "resnet_cifar10" / "resnet20.th"
    path.parent.mkdir()
    for content in (b"", b"no weights", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"does not hold a ResNet-20 \(.*\); remove it or name another"):
            trained_resnet20(tmp_path)
    torch.save({"state_dict": {f"module.{n}": t for n, t in resnet20(width=0.5).state_dict().items()}}, path)
    with pytest.raises(InvalidInput, match="does not hold a ResNet-20"):
        trained_resnet20(tmp_path)
    original = resnet20()
    torch.save({"state_dict": {f"module.{n}": t for n, t in original.state_dict().items()}}, path)
    monkeypatch.setenv("MISCOMPUTE_DATA", str(tmp_path))
    loaded = trained_resnet20().state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in original.state_dict().items())


def small_gpt(*, tied: bool = True, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return gpt(classes=11, context=16, layers=2, heads=2, hidden=8, tied=tied).double()


def test_gpt_is_causal() -> None:
    """A token changes no score before it, and all from it on."""
    model = small_gpt()
    tokens = torch.randint(0, 11, (3, 16), generator=torch.Generator().manual_seed(0))
    before = model(tokens)
    for place in range(16):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % 11
        after = model(changed)
        assert torch.equal(after[:, :place], before[:, :place])
        assert (after[:, place:] != before[:, place:]).any(2).all()


def test_gpt_by_hand() -> None:
    """One layer, one head, attention and normalisation written out."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = gpt(classes=5, context=4, layers=1, heads=1, hidden=6).double()
    p = dict(model.named_parameters())
    for parameter in p.values():
        nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    tokens = torch.tensor([[3, 1, 4, 1]])

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / scale * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ p[f"blocks.0.{name}.weight"].T + p[f"blocks.0.{name}.bias"]

    x = p["token.weight"][tokens[0]] + p["position.weight"]
    q, k, v = torch.split(linear(norm(x, "blocks.0.norm1"), "qkv"), 6, 1)
    weights = torch.zeros(4, 4, dtype=torch.float64)
    for place in range(4):
        weights[place, : place + 1] = torch.softmax(q[place] @ k[: place + 1].T / math.sqrt(6), 0)
    x = x + linear(weights @ v, "projection")
    u = linear(norm(x, "blocks.0.norm2"), "up")
    gelu = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
    x = x + linear(gelu, "down")
    assert torch.allclose(model(tokens)[0], norm(x, "norm") @ p["token.weight"].T, rtol=1e-9)


def test_tied_embeddings_are_one_parameter() -> None:
    tied, untied = small_gpt(), small_gpt(tied=False)
    assert tied.get_parameter("head.weight") is tied.get_parameter("token.weight")
    assert untied.get_parameter("head.weight") is not untied.get_parameter("token.weight")
    assert parameters(untied) - parameters(tied) == 11 * 8
    # Both uses reach the one gradient: the tied model's is the sum of the untied one's two, where weights agree.
    untied.load_state_dict(tied.state_dict())
    tokens = torch.arange(11).view(1, 11)
    for model in (tied, untied):
        model(tokens).square().sum().backward()
    gradients = [untied.get_parameter(name).grad for name in ("token.weight", "head.weight")]
    expected = sum(gradient for gradient in gradients if gradient is not None)
    assert isinstance(expected, Tensor)
    found = tied.get_parameter("token.weight").grad
    assert found is not None
    assert torch.allclose(found, expected, rtol=1e-9)


def test_gpt_takes_windows_up_to_its_context() -> None:
    model = small_gpt()
    assert model(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 11)
    with pytest.raises(InvalidInput, match="a window of 17 is longer than the model's context of 16; cut it"):
        model(torch.zeros(1, 17, dtype=torch.int64))


def test_gpt_starts_with_all_tokens_alike() -> None:
    scores = built("gpt", classes=65)(torch.zeros(1, 64, dtype=torch.int64))
    loss = F.cross_entropy(scores[0], torch.arange(64))
    assert float(loss.detach()) == pytest.approx(math.log(65), abs=0.2)


def test_the_catalogue_names_every_model_once() -> None:
    assert all(a != b for a, b in pairwise(sorted(MODELS)))
    assert {model.reads for model in MODELS.values()} == {"images", "tokens"}
