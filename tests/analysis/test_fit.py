"""FIT and Poisson rates: published numbers, conversions there and back, exact coverage."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from miscompute import InvalidInput
from miscompute.analysis import (
    Component,
    Estimate,
    confidence_sequence,
    faults_per_hour,
    fit,
    fit_from_faults_per_hour,
    fit_from_probability_per_step,
    observed_fit,
    poisson_rate,
    probability_per_step,
    rate,
)

# FIdelity's example for a ResNet, raw FIT 600 (He, Balaprakash and Li, MICRO 2020).
FIDELITY = {
    name: Component(name=name, raw_share=share, activeness=activeness, unmasked=unmasked)
    for name, share, activeness, unmasked in [
        ("input", 0.018, 0.31, 0.0039),
        ("weight", 0.035, 0.42, 0.0057),
        ("input16", 0.117, 0.27, 0.0026),
        ("weight16", 0.156, 0.27, 0.0114),
        ("neuron", 0.272, 0.27, 0.0201),
        ("local control", 0.041, 0.27, 0.0120),
        ("global control", 0.081, 0.32, 0.0728),
    ]
}


@pytest.mark.parametrize(
    ("names", "published"),
    [
        (["input", "weight", "input16", "weight16", "neuron"], 1.286),
        (["local control"], 0.080),
        (["global control"], 1.132),
        (list(FIDELITY), 2.498),
    ],
)
def test_fidelitys_example(names: list[str], published: float) -> None:
    found = fit(600.0, [FIDELITY[name] for name in names])
    # The published factors have two or three digits.
    assert found.best == pytest.approx(published, abs=1e-3)
    assert (found.low, found.high, found.unit) == (found.best, found.best, "FIT")


def test_measured_probabilities_give_an_interval() -> None:
    measured = Component(name="a", raw_share=0.5, activeness=0.5, unmasked=rate(24, 2_000))
    found = fit(400.0, [measured])
    expected = rate(24, 2_000)
    assert (found.low, found.best, found.high) == pytest.approx(
        (100 * expected.low, 1.2, 100 * expected.high), rel=2e-3
    )
    # What is known adds no width; two measured ones add as independent ones do, to less than the sum of their widths.
    known = Component(name="b", raw_share=0.1, activeness=1.0, unmasked=0.5)
    both = fit(400.0, [measured, known])
    assert (both.best, both.width) == pytest.approx((found.best + 20, found.width))
    two = fit(400.0, [measured, Component(name="c", raw_share=0.5, activeness=0.5, unmasked=rate(25, 2_000))])
    assert 1.3 * found.width < two.width < 1.6 * found.width


def test_llama_3s_silent_corruptions() -> None:
    # 6 in 54 days on 16,384 GPUs: 283 FIT a GPU, 104..615.
    found = observed_fit(6, 16_384 * 54 * 24.0)
    assert (round(found.low), round(found.best), round(found.high)) == (104, 283, 615)
    assert str(found) == "283 FIT (104..615 FIT, 95 %, 6 events)"


@pytest.mark.parametrize(
    ("events", "low", "high"), [(0, 0.0, 3.689), (1, 0.02532, 5.572), (10, 4.795, 18.39), (100, 81.36, 121.6)]
)
def test_garwoods_table(events: int, low: float, high: float) -> None:
    # 95 % limits of a Poisson mean, in any table.
    found = poisson_rate(events, 1.0)
    assert (found.low, found.high) == pytest.approx((low, high), rel=5e-4)
    half = poisson_rate(events, 2.0)
    assert (half.low, half.high) == pytest.approx((found.low / 2, found.high / 2))


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_exact_coverage_of_poisson_rates(confidence: float) -> None:
    events = np.arange(150)
    limits = np.array([(e.low, e.high) for e in (poisson_rate(int(x), 1.0, confidence=confidence) for x in events)])
    beside = np.unique(limits[limits < 60])
    for mean in np.concatenate([beside * (1 - 1e-9), beside * (1 + 1e-9), np.geomspace(1e-3, 60, 200)]):
        contained = (limits[:, 0] <= mean) & (mean <= limits[:, 1])
        assert stats.poisson.pmf(events, mean)[contained].sum() >= confidence - 1e-9


@given(st.floats(1e-3, 1e6), st.floats(0.01, 1e4), st.integers(1, 100_000))
def test_conversions_return(fit_: float, seconds: float, devices: int) -> None:
    assert fit_from_faults_per_hour(faults_per_hour(fit_, devices=devices), devices=devices) == pytest.approx(fit_)
    p = probability_per_step(fit_, seconds_per_step=seconds, devices=devices)
    if p < 0.999:
        back = fit_from_probability_per_step(p, seconds_per_step=seconds, devices=devices)
        assert back == pytest.approx(fit_, rel=1e-6)


def test_conversions_by_hand() -> None:
    # 1,000 FIT on 1,000 devices: one failure in 1,000 hours.
    assert faults_per_hour(1_000.0, devices=1_000) == pytest.approx(1e-3)
    assert probability_per_step(1_000.0, seconds_per_step=3.6, devices=1_000) == pytest.approx(1e-6, rel=1e-5)
    # In 1,000 hours: 1 - 1 / e.
    assert probability_per_step(1_000.0, seconds_per_step=3.6e6, devices=1_000) == pytest.approx(1 - math.exp(-1))
    # A day of steps fails as often as its steps do.
    step = probability_per_step(283.0, seconds_per_step=4.0, devices=16_384)
    assert probability_per_step(283.0, seconds_per_step=86_400.0, devices=16_384) == pytest.approx(
        1 - (1 - step) ** 21_600
    )
    chances = [probability_per_step(f, seconds_per_step=4.0) for f in (0.0, 1.0, 10.0, 1e15)]
    assert chances[0] == 0
    assert all(a < b for a, b in pairwise(chances))


def _component(**fields: object) -> Component:
    return Component(**{"name": "x", "raw_share": 0.5, "activeness": 0.5, "unmasked": 0.5, **fields})  # type: ignore[arg-type]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"raw_share=1.5 of component 'x' must be from 0 to 1"):
        _component(raw_share=1.5)
    with pytest.raises(InvalidInput, match=r"unmasked=-0.5 of component 'x'"):
        _component(unmasked=-0.5)
    with pytest.raises(InvalidInput, match="'beta-binomial confidence sequence' estimate has no events and trials to"):
        _component(unmasked=confidence_sequence(1, 10))
    with pytest.raises(InvalidInput, match="'any' estimate has no events"):
        _component(unmasked=Estimate(low=0.1, best=0.2, high=0.3, confidence=0.9, method="any"))
    with pytest.raises(InvalidInput, match="raw_share of all components must not exceed 1"):
        fit(600.0, [_component()] * 3)
    with pytest.raises(InvalidInput, match=r"raw_fit=-1.0 must be finite and not negative"):
        fit(-1.0, [_component()])
    with pytest.raises(InvalidInput, match="components must not be empty"):
        fit(600.0, [])
    with pytest.raises(InvalidInput, match=r"exposure=0.0 must be more than 0"):
        poisson_rate(1, 0.0)
    with pytest.raises(InvalidInput, match="events=-1 must not be negative"):
        poisson_rate(-1, 1.0)
    with pytest.raises(InvalidInput, match=r"seconds_per_step=0.0 must be more than 0"):
        probability_per_step(1.0, seconds_per_step=0.0)
    with pytest.raises(InvalidInput, match="devices=0 must be at least 1"):
        probability_per_step(1.0, seconds_per_step=1.0, devices=0)
    with pytest.raises(InvalidInput, match=r"probability=1.0 must be at least 0 and below 1"):
        fit_from_probability_per_step(1.0, seconds_per_step=1.0)
