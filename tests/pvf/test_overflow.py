"""Huge changes: bounds on rounding hold, and verdicts are brute force's on either side of the largest number."""

from functools import reduce

import pytest
import torch
from torch import Tensor, nn

from miscompute.formats import format_named
from miscompute.pvf import Faults, effects_of
from miscompute.pvf._overflow import _judged, rounding_of

from .test_engine import agree

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("addends", [25, 400])
def test_two_orders_of_a_sum_are_as_far_apart_as_its_length_allows(addends: int) -> None:
    terms = torch.ones(addends)
    terms[0] = 2.0**24  # swallows each one that follows
    forwards, backwards = (reduce(torch.add, one.unbind()) for one in (terms, terms.flip(0)))
    apart = float((forwards - backwards).abs() / terms.abs().sum())
    assert apart <= rounding_of(addends) < 3 * apart
    assert rounding_of(400) > 10 * rounding_of(25)


class Wide(nn.Module):
    """Every pixel of one channel, which one weight makes, into every hidden unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 1, bias=False)
        self.hidden = nn.Linear(100, 6)
        self.last = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(self.first(x).relu().flatten(1)).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("layer", ["hidden", "last"])
@pytest.mark.parametrize("steps", [1e-7, 1e-5])
def test_examples_around_the_largest_number_have_the_counts_of_brute_force(layer: str, steps: float) -> None:
    """With a top bit flipped, the sums of ``layer`` pass the largest number from example to example."""
    torch.manual_seed(5)
    model = Wide().eval()
    with torch.no_grad():
        model.first.weight.fill_(0.1)
        image = torch.rand(1, 1, 10, 10)
        hidden = model.hidden(model.first(image).flatten(1)).relu()
        top = float((hidden if layer == "hidden" else model.last(hidden)).max())
        scale = torch.finfo(torch.float32).max / 2.0**128 / top
        inputs = image * scale * (1 + steps * torch.arange(-30, 30).view(-1, 1, 1, 1))
    faults = [Faults(parameter="first.weight", elements=(0,), effects=effects_of(["flip"], format_named("fp32"))[29:])]
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    work = agree((model, inputs, labels), faults, batch_size=20)
    assert work.whole == 0


def test_a_verdict_holds_for_all_scores_between_bounds() -> None:
    """Drawn bounds: what is called failing or staying is so for the corners of the bounds, as torch.argmax decides."""
    torch.manual_seed(0)
    pairs = 400
    values = torch.tensor([-torch.inf, -2.0, -1.0, 0.0, 1.0, 2.0, torch.inf])
    ends = torch.randint(0, 7, (2, 7, pairs)).sort(0).values
    narrow = torch.rand(7, pairs) < 0.7
    low, high = values[ends[0]], values[ends[1].where(~narrow, ends[0])]
    classes = torch.randint(0, 7, (pairs,))
    none = torch.zeros(pairs, dtype=torch.bool)
    found = _judged(classes, low, high, none, none, none)
    mine = classes[None]
    for _ in range(30):
        scores = torch.where(torch.rand(7, pairs) < 0.5, low, high)
        fails = scores.argmax(0) != classes
        five = (scores > scores.gather(0, mine)).sum(0) >= 5
        assert not bool((found.fails & ~fails).any())
        assert not bool((found.stays & fails).any())
        assert not bool((found.fails_five & ~five).any())
        assert not bool((found.stays_five & five).any())
    assert all(int(one.sum()) > 10 for one in (found.fails, found.stays, found.stays_five))
