"""Why Adam stalls after one huge gradient, derived and measured.

Adam with b1 = 0.9 and b2 = 0.999, long after its first step (no bias correction left), gets one gradient g that is far
larger than all others, which are about c. What it keeps becomes

    m = (1 - b1) g,    v = (1 - b2) g^2

and k steps later, b1^k of that m and b2^k of that v. So the weight moves, whatever the size of g,

- at once by lr (1 - b1) / sqrt(1 - b2) = 3.16 lr;
- k steps later by r^k times that, r = b1 / sqrt(b2) = 0.90045; in total by 3.16 lr / (1 - r) = 31.8 lr.

Then m is forgotten, after some hundred steps, but v is not: an ordinary step is lr c / sqrt(v), and is back at about
lr / sqrt(2) when b2^k (1 - b2) g^2 = c^2, that is after

    k = ln((1 - b2) g^2 / c^2) / -ln(b2)

steps: 85,150 for g = 1e17 and c = 1e-3. Until some ten thousand steps before that, the weight stands still.

The square of g overflows in fp32 above sqrt(3.40e38) = 1.84e19, where it is taken first. PyTorch takes
((1 - b2) g) g, which overflows above sqrt(3.40e38 / (1 - b2)) = 5.83e20. Then v is Inf for ever: lr m / Inf = 0, and
the weight is frozen without a NaN, from the step with g on.
"""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import miscompute as mc

pytestmark = pytest.mark.usefixtures("one_thread")

LR, B1, B2 = 2.0**-10, 0.9, 0.999
ORDINARY = 1e-3
LATE = 100_000  # steps after which the bias correction is gone: b2 ** LATE = 3e-44
AT_ONCE = (1 - B1) / math.sqrt(1 - B2)
IN_TOTAL = AT_ONCE / (1 - B1 / math.sqrt(B2))


class Weights(nn.Module):
    """Two weights; the gradient of each is what it is multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, gradient: Tensor) -> Tensor:
        return (self.w * gradient).sum()


def late() -> tuple[Weights, torch.optim.Adam]:
    """Give a training whose gradients have been ordinary for long."""
    model = Weights()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, betas=(B1, B2), eps=1e-30)
    step(model, optimizer)
    state = optimizer.state[model.w]
    state["step"].fill_(LATE)
    state["exp_avg"].fill_(ORDINARY)
    state["exp_avg_sq"].fill_(ORDINARY**2)
    with torch.no_grad():
        model.w.zero_()
    return model, optimizer


def step(model: Weights, optimizer: torch.optim.Adam) -> None:
    optimizer.zero_grad()
    model(torch.full((2,), ORDINARY)).backward()
    optimizer.step()


def moves(
    model: Weights, optimizer: torch.optim.Adam, *, gradient: float, steps: int
) -> tuple[list[float], list[float]]:
    """Train with the first weight's gradient wrong in the first step; give how far each weight is after each step."""
    fault = mc.parse_fault(f"gradient-memory[w,0] set-to {gradient} transient step 0")
    places: Sequence[list[float]] = []
    with mc.inject(model, fault, array=mc.nvdla_small()) as injection:
        places = [_stepped(model, optimizer) for _ in range(steps)]
    assert [(row.layer, row.pass_, row.changed) for row in injection.log] == [("w", "gradient", 1)]
    faulty, healthy = zip(*places, strict=True)
    return [place / -LR for place in faulty], [place / -LR for place in healthy]


def _stepped(model: Weights, optimizer: torch.optim.Adam) -> list[float]:
    step(model, optimizer)
    places: list[float] = model.w.tolist()
    return places


@pytest.mark.parametrize("gradient", [1e3, -1e6, 1e10, 8.98e17, 5.8e20])
def test_a_weight_moves_as_far_whatever_the_gradient_is(gradient: float) -> None:
    model, optimizer = late()
    faulty, healthy = moves(model, optimizer, gradient=gradient, steps=120)
    sign = math.copysign(1, gradient)
    assert sign * faulty[0] == pytest.approx(AT_ONCE, rel=1e-4) == pytest.approx(3.16, abs=0.01)
    assert sign * faulty[-1] == pytest.approx(IN_TOTAL, rel=1e-3) == pytest.approx(31.8, abs=0.05)
    assert healthy == pytest.approx(range(1, 121), rel=1e-3)


def test_then_it_stands_still_for_85_000_steps() -> None:
    """Of those, all but the first 120 and one at each place of interest go by in the recursions' closed forms."""
    model, optimizer = late()
    faulty, _ = moves(model, optimizer, gradient=1e17, steps=120)
    assert faulty[-1] - faulty[-2] < 1e-3
    state = optimizer.state[model.w]
    stall = math.log((1 - B2) * 1e34 / ORDINARY**2) / -math.log(B2)
    assert stall == pytest.approx(85_150, abs=10)
    passed, speeds = 120, {}
    for at in (1_000, 40_000, 75_000, 80_000, round(stall), 90_000, 95_000):
        kept = B2 ** (at - passed)
        state["exp_avg"].fill_(ORDINARY)  # 0.9 to the power of hundreds is nothing
        v = state["exp_avg_sq"].double()
        state["exp_avg_sq"].copy_(v * kept + ORDINARY**2 * (1 - kept))
        passed = at
        before = model.w.tolist()
        step(model, optimizer)
        passed += 1
        faulty_move, healthy_move = ((place - then) / -LR for place, then in zip(model.w.tolist(), before, strict=True))
        assert healthy_move == pytest.approx(1, rel=1e-2)
        speeds[at] = faulty_move
    assert speeds[1_000] == 0  # not even the last bit of the weight
    assert speeds[40_000] < 1e-8
    assert speeds[75_000] < 0.01
    assert speeds[80_000] == pytest.approx(1 / math.sqrt(1 + B2 ** (80_000 - stall)), rel=0.05)
    assert speeds[80_000] < 0.1
    assert speeds[round(stall)] == pytest.approx(math.sqrt(0.5), rel=0.02)
    assert speeds[95_000] > 0.999


@pytest.mark.parametrize("gradient", [5.9e20, 1e25])
def test_an_infinite_v_freezes_the_weight_without_a_nan(gradient: float) -> None:
    model, optimizer = late()
    faulty, healthy = moves(model, optimizer, gradient=gradient, steps=50)
    assert faulty == [0] * 50
    assert healthy[-1] == pytest.approx(50, rel=1e-3)
    assert optimizer.state[model.w]["exp_avg_sq"][0] == math.inf
    assert optimizer.state[model.w]["exp_avg"].isfinite().all()


def test_where_squares_overflow() -> None:
    largest = torch.finfo(torch.float32).max
    assert math.sqrt(largest) == pytest.approx(1.84e19, rel=0.005)
    assert math.sqrt(largest / (1 - B2)) == pytest.approx(5.83e20, rel=0.005)
    assert torch.tensor(1.85e19).square() == math.inf
    for gradient, is_finite in ((1.85e19, True), (5.8e20, True), (5.9e20, False)):
        model, optimizer = late()
        moves(model, optimizer, gradient=gradient, steps=1)
        assert bool(optimizer.state[model.w]["exp_avg_sq"].isfinite().all()) == is_finite
