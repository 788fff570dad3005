"""The fast engine against the definition: identical counts, whatever the model, format, kind and criterion."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miscompute._invalid import InvalidInput
from miscompute.formats import format_named
from miscompute.pvf import Engine, Faults, Limits, Work, brute_force, effects_of, rounded_to
from miscompute.tasks import DataSet, Training, recipe_for

from .conftest import Subject, random_faults

pytestmark = pytest.mark.usefixtures("one_thread")

BY_CLASS = ("top1", "label", "top5", "nonfinite")


def agree(subject: Subject, faults: list[Faults], *, format: str = "fp32", **options: Any) -> Work:
    model, inputs, labels = subject
    names = [name for name, _ in model.named_parameters()]
    formats = rounded_to(model, names, format_named(format))
    options = {"criteria": BY_CLASS, "batch_size": 20, **options}
    counted, work = Engine(model, inputs, labels, formats, **options).run(faults)
    expected = brute_force(model, inputs, labels, faults, formats, **options)
    wrong = [one for one, a, b in zip(faults, counted, expected, strict=True) if not torch.equal(a, b)]
    assert wrong == []
    assert work.pairs == len(inputs) * sum(map(len, faults))
    assert work.pairs == work.unchanged + work.certified + work.computed + work.repeated + work.whole
    return work


@pytest.mark.parametrize(
    ("name", "cases"), [("lenet5", 60), ("mlp", 60), ("resnet18", 20), ("resnet20", 12), ("gpt", 40)]
)
def test_random_faults_have_the_counts_of_brute_force(subject: Callable[[str], Subject], name: str, cases: int) -> None:
    found = subject(name)
    work = agree(found, random_faults(found[0], format_named("fp32"), cases, seed=1))
    assert work.computed > 0
    assert work.certified > 0
    assert set(work.fallbacks) <= {"token.weight", "position.weight"}  # tied, and added to all


@pytest.mark.parametrize("format", ["bf16", "fp16", "int8:max", "fp8_e4m3", "fp8_e5m2"])
def test_parameters_may_be_stored_in_any_format(subject: Callable[[str], Subject], format: str) -> None:
    found = subject("lenet5")
    agree(found, random_faults(found[0], format_named(format), 15, seed=2), format=format)


@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_criteria_that_measure_are_computed_not_proved(subject: Callable[[str], Subject], name: str) -> None:
    found = subject(name)
    faults = random_faults(found[0], format_named("fp32"), 15, seed=3)
    work = agree(found, faults, criteria=("top1", "output", "loss"), limits=Limits(output=0.02, loss=0.01))
    assert work.certified == 0


@pytest.fixture(scope="module")
def trained(digits: DataSet) -> Subject:
    training = Training(recipe_for("cluttered_digits", model="lenet5", width=0.5, steps=150), digits)
    while training.step < training.recipe.steps:
        training.gradients()
        training.update()
    images = digits.normalised(digits.validation_images[:100])
    return training.model.eval(), images, digits.validation_labels[:100]


@pytest.mark.parametrize("parameter", ["conv1.weight", "conv2.weight", "conv2.bias", "fc1.weight", "fc3.weight"])
def test_all_bits_of_a_trained_network(trained: Subject, parameter: str) -> None:
    largest = int(trained[0].get_parameter(parameter).detach().abs().argmax())  # whose top bit overflows most
    faults = Faults(parameter=parameter, elements=(largest, 0), effects=effects_of(["flip"], format_named("fp32")))
    work = agree(trained, [faults], batch_size=30)
    assert work.fallbacks == ()


def test_low_bits_of_a_trained_convolution_are_proved_for_each_image(trained: Subject) -> None:
    effects = effects_of(["flip"], format_named("fp32"))[:12]
    work = agree(trained, [Faults(parameter="conv2.weight", elements=tuple(range(0, 400, 57)), effects=effects)])
    assert work.computed + work.repeated <= 0.02 * work.pairs


class Odd(nn.Module):
    """Overlapping and padded pools, groups, dilation, strides, branches, writes in place, an unknown operator."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.tanh(self.first(x)), 3, stride=2, padding=1)
        y = self.norm(self.grouped(x)).relu_()
        y += x
        both = torch.cat([x, torch.cumsum(y, 1) * x], 1)
        return self.last(nn.functional.adaptive_avg_pool2d(both, (2, 2)).flatten(1))  # type: ignore[no-any-return]


def test_unknown_operators_are_computed_in_whole(digits: DataSet) -> None:
    torch.manual_seed(1)
    model = Odd().eval()
    inputs, labels = digits.normalised(digits.validation_images[:30]), digits.validation_labels[:30] % 5
    agree((model, inputs, labels), random_faults(model, format_named("fp32"), 40, seed=4))


def test_blocks_of_examples_add_up(subject: Callable[[str], Subject]) -> None:
    found = subject("mlp")
    faults = random_faults(found[0], format_named("fp32"), 10, seed=5)
    agree(found, faults, batch_size=20)
    model, inputs, labels = found
    formats = rounded_to(model, ["fc1.weight"], format_named("fp32")) | {
        name: format_named("fp32") for name, _ in model.named_parameters()
    }
    whole, _ = Engine(model, inputs, labels, formats, batch_size=20).run(faults)
    parts, _ = Engine(model, inputs, labels, formats, batch_size=20, block_bytes=1).run(faults)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_a_model_that_cannot_be_captured_is_refused() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight if float(x.sum()) > 0 else x

    with pytest.raises(InvalidInput, match=r"Branches cannot be captured by torch.export \(.*use engine='brute'"):
        Engine(Branches().eval(), torch.randn(4, 3), None, {})
