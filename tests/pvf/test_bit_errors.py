"""Bit errors in many words at once: the flips that were drawn, and the counts they give."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from miscompute._invalid import InvalidInput
from miscompute.formats import FORMATS
from miscompute.pvf import bit_errors
from miscompute.pvf._bit_errors import _different, flipped

from .conftest import Subject

pytestmark = pytest.mark.usefixtures("one_thread")


def test_flips_are_at_their_places() -> None:
    stored = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    found = flipped(stored, FORMATS["fp32"], np.array([32 + 31, 96 + 22, 96 + 31]))
    assert found.tolist() == [[1.0, 2.0], [0.5, -2.0]]
    again = flipped(found, FORMATS["fp32"], np.array([32 + 31, 96 + 22, 96 + 31]))
    assert torch.equal(again, stored)


@pytest.mark.parametrize("many", [0, 3, 40, 100])
def test_places_are_different_and_all_alike(many: int) -> None:
    counts = np.zeros(100, int)
    for seed in range(200):
        found = _different(np.random.default_rng(seed), 100, many)
        assert len(set(found.tolist())) == many
        counts[found] += 1
    spread = np.sqrt(200 * many / 100 * (1 - many / 100))
    assert (np.abs(counts - 2 * many) <= 4.5 * spread + 1e-9).all()


def test_failures_grow_with_the_rate_and_trials_are_what_they_are(subject: Callable[[str], Subject]) -> None:
    model, inputs, labels = subject("mlp")
    before = [parameter.clone() for parameter in model.parameters()]

    def count(rate: float, **options: Any) -> Any:
        return bit_errors(model, inputs, labels, rate=rate, trials=6, parameters=["fc3"], **options)

    few, many = count(1e-4), count(0.03)
    assert few.pvf().best < many.pvf().best
    assert few.pvf().low <= few.pvf().best <= few.pvf().high
    assert many.critical("label").trials == 6
    expected = many.stored_bits * 0.03
    assert abs(float(many.flips.double().mean()) - expected) < 5 * (expected / 6) ** 0.5
    two = bit_errors(model, inputs, labels, rate=0.03, trials=2, parameters=["fc3"])
    assert torch.equal(two.failures, many.failures[:, :2])
    assert count(1e-4, format="int8:max").stored_bits * 4 == few.stored_bits
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_what_cannot_be(subject: Callable[[str], Subject]) -> None:
    model, inputs, _ = subject("mlp")
    with pytest.raises(InvalidInput, match=r"rate=0.0 must be above 0 and at most 1"):
        bit_errors(model, inputs, rate=0.0, trials=1)
    with pytest.raises(InvalidInput, match="trials=0 must be at least 1"):
        bit_errors(model, inputs, rate=0.1, trials=0)
    with pytest.raises(InvalidInput, match="parameter 'fc9' is not there"):
        bit_errors(model, inputs, rate=0.1, trials=1, parameters=["fc9"])
    with pytest.raises(InvalidInput, match="batch_size=0 must be at least 1"):
        bit_errors(model, inputs, rate=0.1, trials=1, batch_size=0)
    with pytest.raises(InvalidInput, match="inputs must hold at least one example"):
        bit_errors(model, inputs[:0], rate=0.1, trials=1)
    with pytest.raises(InvalidInput, match="labels are 3, but there are 2 inferences; give one for each"):
        bit_errors(model, inputs[:2], torch.zeros(3, dtype=torch.int64), rate=0.1, trials=1)
    with pytest.raises(InvalidInput, match="scores without any fault are not finite in format=fp32"):
        bit_errors(model, inputs[:2] * torch.inf, rate=0.1, trials=1)
    with pytest.raises(InvalidInput, match="criterion='top5' was not asked for"):
        bit_errors(model, inputs[:5], rate=0.1, trials=1).pvf("top5")
