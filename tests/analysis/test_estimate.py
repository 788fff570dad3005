"""The value that every function of the package gives."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miscompute import InvalidInput
from miscompute.analysis import Estimate


def made(low: float, best: float, high: float, **fields: object) -> Estimate:
    return Estimate(low=low, best=best, high=high, **{"confidence": 0.95, "method": "any", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (made(0.0077, 0.012, 0.0178, events=24, trials=2_000), "1.2 % (0.8..1.8 %, 95 %, 24 of 2,000)"),
        (made(0.0, 0.0, 0.0037, events=0, trials=1_000, confidence=0.999), "0.00 % (0.00..0.37 %, 99.9 %, 0 of 1,000)"),
        (made(103.7, 282.6, 615.0, events=6, unit="FIT"), "283 FIT (104..615 FIT, 95 %, 6 events)"),
        (made(12_000.0, 15_000.0, 19_000.0, unit=""), "15,000 (12,000..19,000, 95 %)"),
        (made(0.25, 0.25, 0.25, events=1, trials=4), "25 % (25..25 %, 95 %, 1 of 4)"),
        (made(2e-10, 5e-10, 1.1e-9, unit=""), "5e-10 (2e-10..1.1e-09, 95 %)"),
        (made(2.0, 5.0, math.inf, unit=""), "5.0 (2.0..inf, 95 %)"),
        (made(-0.013, 0.0, 0.013), "0.0 % (-1.3..1.3 %, 95 %)"),
    ],
)
def test_it_prints_as_many_places_as_it_knows(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_it_reads_back(a: float, b: float, c: float) -> None:
    low, best, high = sorted((a, b, c))
    estimate = made(low, best, high, events=1, trials=2)
    assert eval(repr(estimate)) == estimate
    assert (best in estimate, estimate.width) == (True, high - low)
    assert str(estimate)


def test_an_increasing_function_moves_the_limits() -> None:
    mapped = made(1.0, 2.0, 3.0, events=2, unit="FIT").map(lambda x: x**2, unit="")
    assert mapped == made(1.0, 4.0, 9.0, events=2, unit="")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": 0.3}, "low=0.3, best=0.2, high=0.4 of Estimate must not decrease"),
        ({"best": math.nan}, "must not decrease"),
        ({"confidence": 95.0}, "confidence=95.0 must be between 0 and 1, for example 0.95"),
        ({"events": 5, "trials": 4}, "events=5 must be from 0 to trials=4"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message.replace("(", r"\(")):
        made(**{"low": 0.1, "best": 0.2, "high": 0.4, **fields})
