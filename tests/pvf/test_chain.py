"""Straight chains: written as products of rows they give what the model gives, and their proofs hold."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from miscompute.formats import format_named
from miscompute.pvf import Engine, Faults, brute_force, effects_of, rounded_to
from miscompute.pvf._chain import Chain
from miscompute.tasks import DataSet

from .conftest import Subject
from .test_engine import agree

pytestmark = pytest.mark.usefixtures("one_thread")


class Deep(nn.Module):
    """Two convolutions after the first, with padding, strides, pixels that no window covers, and no last rectifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, stride=2)  # 32 -> 15
        self.second = nn.Conv2d(3, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 2, (3, 2), dilation=(1, 2), bias=False)
        self.last = nn.Linear(2 * 5 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.first(x), 2).relu()  # 15 -> 7, the last row and column left out
        x = torch.relu(self.second(x))
        x = nn.functional.max_pool2d(self.third(x), (1, 2))  # (5, 5) -> (5, 2)
        return self.last(x.flatten(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def deep(digits: DataSet) -> Subject:
    torch.manual_seed(3)
    return Deep().eval(), digits.normalised(digits.validation_images[:24]), digits.validation_labels[:24] % 5


def chain_after(engine: Engine, place: int) -> Chain:
    node = [one for one in engine.graph.nodes if "conv" in str(one.target) or "linear" in str(one.target)][place]
    found = engine.chain(node)
    assert found is not None
    return found


def test_products_of_rows_give_the_scores(deep: Subject) -> None:
    model, inputs, _ = deep
    engine = Engine(model, inputs, None, {}, batch_size=8)
    chain = chain_after(engine, 0)
    assert [len(step.shape) for step in chain.steps] == [3, 3, 3, 1]
    with torch.no_grad():
        assert isinstance(model, Deep)
        z = model.first(inputs).flatten(1).t()[chain.steps[0].rows(3)]
        operand = chain.steps[0].apply(z)
        # The first product is of one channel; all channels together, and the bias once, are the whole.
        order = chain.steps[0].operands(3)
        channels = torch.div(order, 49, rounding_mode="floor")
        products = [chain.first(channel) for channel in range(3)]
        total = sum(
            product._replace(bias=None)(operand[channels == k]) for k, product in enumerate(products) if product
        )
        assert products[0] is not None
        assert products[0].bias is not None
        z = total + products[0].bias
        for product, step in zip(chain.later, chain.steps[1:], strict=False):
            z = product(step.apply(z))
        assert torch.allclose(z.t(), model(inputs), atol=1e-5)


def test_a_deep_chain_has_the_counts_of_brute_force(deep: Subject) -> None:
    model = deep[0]
    faults = [
        Faults(parameter=name, elements=(0, parameter.numel() - 1), effects=effects_of(["flip"], format_named("fp32")))
        for name, parameter in model.named_parameters()
    ]
    work = agree(deep, faults, batch_size=8)
    assert work.certified > work.computed > 0
    assert work.whole == 0


def test_a_chain_ends_where_anything_else_follows(subject: Callable[[str], Subject]) -> None:
    model, inputs, _ = subject("resnet18")
    engine = Engine(model, inputs, None, {}, batch_size=20)
    convolutions = [one for one in engine.graph.nodes if "conv" in str(one.target)]
    assert engine.chain(convolutions[0]) is None
    assert engine.chain(engine.graph.output) is not None


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_said_to_make_a_score_nan_does(subject: Callable[[str], Subject], value: float) -> None:
    model, inputs, _ = subject("lenet5")
    engine = Engine(model, inputs, None, {}, batch_size=50)
    chain = chain_after(engine, 1)  # the second convolution
    product = chain.first(5)
    assert chain.is_fatal(0, product)
    assert not chain.is_fatal(2, chain.later[1])  # one alone, before the last product: infinite scores, no NaN
    with torch.no_grad():
        operand = torch.rand(400, 25)
        operand[5 * 25 + torch.arange(25), torch.arange(25)] = value
        first, second, third = (model.get_submodule(name) for name in ("fc1", "fc2", "fc3"))
        hidden = first(operand.t()).relu()
        assert bool(third(second(hidden).relu()).isnan().any(1).all())


def test_a_change_of_one_channel_moves_scores_by_no_more_than_its_gain_says(deep: Subject) -> None:
    model, inputs, _ = deep
    chain = chain_after(Engine(model, inputs, None, {}, batch_size=8), 0)
    distance = chain.bounds.distance
    assert isinstance(model, Deep)
    assert distance is not None
    with torch.no_grad():
        x = nn.functional.max_pool2d(model.first(inputs), 2).relu()
        for channel in range(3):
            moved = torch.zeros_like(x)
            moved[:, channel] = torch.randn(24, 7, 7) * torch.logspace(-3, 3, 24)[:, None, None]
            found = [
                model.last(nn.functional.max_pool2d(model.third(torch.relu(model.second(one))), (1, 2)).flatten(1))
                for one in (x, x + moved)
            ]
            taken = found[1] - found[0]
            nearer = (taken[:, None] - taken[:, :, None]).abs()  # -> (examples, golden class, class)
            allowed = chain.gain(channel) * moved.flatten(1).norm(dim=1)[:, None, None] * distance
            assert bool((nearer <= allowed + 1e-4).all())
            assert float((nearer / allowed.clamp_min(1e-9)).max()) > 0.02


def test_words_between_a_computed_change_and_none_are_proved(subject: Callable[[str], Subject]) -> None:
    model, inputs, labels = subject("lenet5")
    formats = rounded_to(model, ["conv2.weight"], format_named("fp32"))
    effects = effects_of(["flip", "stuck-at-0"], format_named("fp32"))
    faults = [Faults(parameter="conv2.weight", elements=(7, 2007), effects=effects)]
    counted, work = Engine(model, inputs, labels, formats, batch_size=50).run(faults)
    assert torch.equal(counted[0], brute_force(model, inputs, labels, faults, formats, batch_size=50)[0])
    assert work.computed < 0.2 * work.pairs
