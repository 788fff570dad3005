"""What a faulty parameter does on its way: against hooks on the model with the value written by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import miscompute as mc
from miscompute._invalid import InvalidInput
from miscompute.pvf import damage
from miscompute.report import damage_chart, damage_table

from .conftest import Subject

pytestmark = pytest.mark.usefixtures("one_thread")


def inputs_of(model: nn.Module, kinds: tuple[type, ...], example: Tensor) -> list[Tensor]:
    """Run a model; give what its layers read, in order."""
    read: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, given: read.append(given[0][0].clone()))
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        model(example[None])
    for hook in hooks:
        hook.remove()
    return read


def test_feature_maps_are_what_the_layers_read(subject: Callable[[str], Subject]) -> None:
    model, inputs, _ = subject("lenet5")
    found = damage(model, inputs[3], mc.parse_fault("weight-memory[conv1.weight,30] bit 30 flip"))
    parameter = model.get_parameter("conv1.weight").detach()
    kinds = (nn.Conv2d, nn.Linear)
    golden = inputs_of(model, kinds, inputs[3])[1:]
    stored = parameter.view(-1)[30].clone()
    parameter.view(-1)[30] = found.read
    faulty = inputs_of(model, kinds, inputs[3])[1:]
    parameter.view(-1)[30] = stored
    assert [one.name for one in found.features] == ["conv1", "conv2", "fc1", "fc2"]
    for one, before, after in zip(found.features, golden, faulty, strict=True):
        assert torch.equal(one.golden, before)
        assert torch.equal(one.faulty, after)
        assert one.changed == float((before != after).double().mean()) > 0
        assert one.relative == pytest.approx(float((after - before).double().norm() / before.double().norm()))
    assert found.features[0].channels == (1, 6)
    assert (found.place, found.stored) == ((1, 0, 1, 0), float(stored))
    with torch.no_grad():
        assert torch.equal(found.golden, model(inputs[3:4])[0])
    assert not torch.equal(found.golden, found.faulty)


@pytest.mark.parametrize(("name", "first"), [("resnet18", "conv1"), ("gpt", "embedding")])
def test_blocks_have_their_names_and_the_model_is_left_as_it_was(
    subject: Callable[[str], Subject], name: str, first: str
) -> None:
    model, inputs, _ = subject(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    parameter = next(key for key, _ in model.named_parameters())
    found = damage(model, inputs[0], mc.parse_fault(f"weight-memory[{parameter},3] bit 21 flip"))
    names = [one.name for one in found.features]
    assert len(set(names)) == len(names) >= 17
    if name == "resnet18":
        assert names[:3] == [first, "layer1.0.conv1", "layer1.0"]
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert found.golden.shape == ((10,) if name == "resnet18" else (16, 65))


def test_what_is_not_finite_is_counted_and_the_word_is_of_its_format() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.tensor([[1.5, 1.0], [0.3, 1.0]]) if parameter.dim() == 2 else torch.zeros(2))
    one = damage(model, torch.ones(2), mc.parse_fault("weight-memory[0.weight,0] bit 30 flip"))
    assert math.isnan(one.read)
    assert (one.features[0].nonfinite, one.features[0].channels) == (1, (1, 2))
    assert math.isinf(one.features[0].relative)
    narrow = damage(model, torch.ones(2), mc.parse_fault("weight-memory[0.weight,2] bit 7 flip"), format="fp8_e4m3")
    assert (narrow.stored, narrow.read) == (0.3125, -0.3125)
    several = damage(model, torch.ones(2), mc.parse_fault("weight-memory[0.weight,2,2] bit 31 flip"))
    assert several.features[0].golden.tolist() == pytest.approx([2.5, 1.3])
    assert several.features[0].faulty.tolist() == [2.5, 0.0]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("weight[0,0] bit 30 flip", r"is not in a parameter; write it as 'weight-memory\[0.weight,0\] bit 30 flip'"),
        ("statistics-memory[0.weight,0] bit 30 flip", "is not in a parameter"),
        ("weight-memory[1.weight,0] bit 30 flip", "name='1.weight' of weight-memory is no parameter; choose from 0.w"),
        ("weight-memory[0.weight,6] bit 3 flip", r"'0.weight' has 6 elements \(0..5\), and 1 are wanted"),
        ("weight-memory[0.weight,1] bit 32 flip", "bit=32 is outside fp32"),
    ],
)
def test_faults_that_are_not_in_a_parameter(fault: str, said: str) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with pytest.raises(InvalidInput, match=said):
        damage(model, torch.ones(3), mc.parse_fault(fault))


def test_the_picture_has_a_panel_for_each_map_and_the_scores(subject: Callable[[str], Subject]) -> None:
    model, inputs, _ = subject("lenet5")
    found = damage(model, inputs[0], mc.parse_fault("weight-memory[conv1.weight,3] bit 30 flip"))
    classes = [f"class {number}" for number in range(10)]
    drawn: Any = damage_chart(found, classes=classes).to_dict()
    tables = {tuple(sorted(rows[0])): rows for rows in drawn["datasets"].values()}
    (panels,) = (rows for names, rows in tables.items() if "relative" in names)
    assert [one["layer"] for one in panels] == [one.name for one in found.features]
    assert panels[0]["channels"] == "1 of 6"
    assert panels[0]["share"] == found.features[0].changed
    assert all(one["url"].startswith("data:image/png;base64,") for one in panels)
    (pictures,) = (rows for names, rows in tables.items() if "of" in names)
    assert len(pictures) == 3 * len(found.features)
    texts = " ".join(drawn["title"]["subtitle"])
    assert "conv1.weight[0,0,0,3]" in texts
    assert f"class {int(found.golden.argmax())}" in texts
    (bars,) = (rows for names, rows in tables.items() if "probability" in names)
    assert sum(one["probability"] for one in bars if one["run"] == "without the fault") == pytest.approx(1)
    assert {one["class"] for one in bars} == set(classes)
    table = damage_table(found)
    assert list(table.columns[0].cells) == [*(one.name for one in found.features), "scores"]
    last = mc.parse_fault("weight-memory[fc3.weight,3] bit 30 flip")
    with pytest.raises(InvalidInput, match="has no feature map after it; choose a parameter of an earlier layer"):
        damage_chart(damage(model, inputs[0], last))
