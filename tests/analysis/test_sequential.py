"""Confidence sequences: they hold at all looks at once, and depend on nothing but the counts."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from miscompute import InvalidInput
from miscompute.analysis import StoppingRule, confidence_sequence, rate

LOOKS = 80


@pytest.fixture(scope="module")
def limits() -> np.ndarray:
    """Low and high limits at 90 % by trials and events, up to LOOKS trials; nowhere where there cannot be as many."""
    table = np.full((LOOKS + 1, LOOKS + 1, 2), np.nan)
    for n in range(1, LOOKS + 1):
        for x in range(n + 1):
            found = confidence_sequence(x, n, confidence=0.9)
            table[n, x] = found.low, found.high
    return table


@pytest.mark.parametrize("p", [0.0001, 0.001, 0.01, 0.03, 0.1, 0.2, 0.5, 0.9])
def test_looking_after_every_trial_errs_no_more_than_stated(limits: np.ndarray, p: float) -> None:
    # Exactly: the probability of all paths that never leave the intervals, summed trial by trial.
    inside = np.array([1.0])
    for n in range(1, LOOKS + 1):
        inside = np.convolve(inside, [1 - p, p]) * ((limits[n, : n + 1, 0] <= p) & (p <= limits[n, : n + 1, 1]))
    assert inside.sum() >= 0.9
    assert p != 0.5 or inside.sum() < 0.99  # at some rate the bound means something


def test_looking_by_simulation(limits: np.ndarray) -> None:
    walks = 20_000
    for p in (0.01, 0.5):
        events = np.cumsum(np.random.default_rng(1).random((walks, LOOKS)) < p, 1)
        low, high = np.moveaxis(limits[np.arange(1, LOOKS + 1), events], -1, 0)
        missed = ((p < low) | (high < p)).any(1).mean()
        assert missed <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / walks)  # three sigma


def test_a_fixed_interval_looked_at_so_does_err() -> None:
    events = np.cumsum(np.random.default_rng(1).random((500, 300)) < 0.5, 1)
    fixed = {(n, x): rate(x, n, confidence=0.9) for n in range(10, 301, 10) for x in range(n + 1)}
    missed = [any(0.5 not in fixed[n, int(walk[n - 1])] for n in range(10, 301, 10)) for walk in events]
    assert np.mean(missed) > 0.2  # of a stated 10 %


@settings(max_examples=40)
@given(st.integers(1, 500), st.data(), st.sampled_from([0.9, 0.99]))
def test_the_limits_are_where_the_mixture_wins(trials: int, data: st.DataObject, confidence: float) -> None:
    events = data.draw(st.integers(0, trials))
    found = confidence_sequence(events, trials, confidence=confidence)
    for limit in (found.low, found.high):
        if 0 < limit < 1:
            # With p = sin^2(t), beta(1/2, 1/2) is uniform in t: the mixture is the mean over t.
            p = np.sin((np.arange(20_000) + 0.5) / 20_000 * np.pi / 2) ** 2
            log_ratio = stats.binom.logpmf(events, trials, p) - stats.binom.logpmf(events, trials, limit)
            assert np.exp(log_ratio).mean() == pytest.approx(1 / (1 - confidence), rel=1e-5)


@given(st.integers(1, 60), st.data())
def test_laws(trials: int, data: st.DataObject) -> None:
    events = data.draw(st.integers(0, trials))
    population = data.draw(st.integers(trials, 200))
    found, mirrored = confidence_sequence(events, trials), confidence_sequence(trials - events, trials)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high), abs=1e-10)
    fixed = rate(events, trials)
    assert found.low <= fixed.low + 1e-12
    assert fixed.high <= found.high + 1e-12
    finite = confidence_sequence(events, trials, population=population)
    assert events / population <= finite.low <= finite.best <= finite.high
    assert finite.high <= 1 - (trials - events) / population + 1e-12
    assert confidence_sequence(events, trials, population=trials).width == 0


def test_drawing_without_replacement_exactly() -> None:
    # Over all orders in which 8 affected of 40 faults can be drawn, looking after each draw down to the last.
    population, affected = 40, 8
    inside = np.array([1.0])
    for n in range(1, population + 1):
        drawn = np.arange(n)  # events so far, before the draw
        left = np.clip((affected - drawn) / (population - n + 1), 0, 1)
        inside = np.append(inside * (1 - left), 0) + np.insert(inside * left, 0, 0)
        inside *= [affected / population in confidence_sequence(x, n, population=population) for x in range(n + 1)]
    assert 0.95 <= inside.sum() < 0.9999


def test_millions_of_faults_without_replacement() -> None:
    infinite, finite = confidence_sequence(24, 2_000), confidence_sequence(24, 2_000, population=400_000_000)
    assert (finite.low, finite.high) == pytest.approx((infinite.low, infinite.high), rel=1e-3)
    assert (
        confidence_sequence(24_000, 2_000_000, population=4_000_000).width
        < 0.75 * confidence_sequence(24_000, 2_000_000).width
    )


def test_the_price_of_looking() -> None:
    assert confidence_sequence(20, 2_000).width / rate(20, 2_000).width == pytest.approx(1.83, abs=0.005)


@pytest.mark.parametrize("p", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("population", [None, 3_000])
def test_the_rule_stops_where_it_foresees(p: float, population: int | None) -> None:
    rule = StoppingRule(width=0.1, population=population)
    trials = rule.trials_at(p)
    assert rule.is_met(round(p * trials), trials)
    assert rule.estimate(round(p * trials), trials).width <= 0.1
    assert not rule.is_met(round(p * (trials - 1)), trials - 1)


def test_campaigns_stopped_by_the_rule_err_no_more_than_stated() -> None:
    random, rule, p, missed, campaigns = (
        np.random.default_rng(2),
        StoppingRule(width=0.3, confidence=0.9),
        0.1,
        0,
        2_000,
    )
    is_met = cache(rule.is_met)
    for _ in range(campaigns):
        events = trials = 0
        while not is_met(events, trials):
            events, trials = events + int(random.random() < p), trials + 1
        missed += p not in rule.estimate(events, trials)
    assert missed <= 0.1 * campaigns + 3 * math.sqrt(campaigns * 0.1 * 0.9)  # three sigma


def test_the_rule_never_stops_before_the_first_trial_and_always_at_the_most() -> None:
    assert not StoppingRule(width=0.9).is_met(0, 0)
    rule = StoppingRule(width=0.001, most=10, population=100)
    assert [rule.is_met(0, n) for n in (9, 10, 11, 100)] == [False, True, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.0}, "width=0.0 must be between 0 and 1"),
        ({"width": 0.1, "most": 0}, "most=0 of StoppingRule must be at least 1"),
        ({"width": 0.1, "population": -1}, "population=-1 of StoppingRule must be at least 1"),
        ({"width": 0.1, "confidence": 0.0}, "confidence=0.0 must be between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        StoppingRule(**options)  # type: ignore[arg-type]


def test_more_draws_than_faults_are_refused() -> None:
    with pytest.raises(InvalidInput, match="trials=9 drawn without replacement exceed population=8"):
        confidence_sequence(0, 9, population=8)
    with pytest.raises(InvalidInput, match=r"rate=1.5 must be from 0 to 1"):
        StoppingRule(width=0.1).trials_at(1.5)
