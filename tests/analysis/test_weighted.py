"""Importance sampling: unbiased, covered, and the plain rate where all weights are one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miscompute import InvalidInput
from miscompute.analysis import confidence_sequence, rate, weighted_mean, weighted_rate

# A population of two kinds of faults: a tenth of them, with most events, is half of what is drawn.
SHARE, DRAWN, RATE = np.array([0.1, 0.9]), np.array([0.5, 0.5]), np.array([0.3, 0.005])
TRUTH = float(SHARE @ RATE)
BOUND = float((SHARE / DRAWN).max())


def campaign(random: np.random.Generator, trials: int) -> tuple[np.ndarray, np.ndarray]:
    kind = (random.random(trials) >= DRAWN[0]).astype(int)
    return random.random(trials) < RATE[kind], (SHARE / DRAWN)[kind]


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("trials", [20, 400])
def test_coverage_by_simulation(normalised: bool, trials: int) -> None:
    random, campaigns, confidence = np.random.default_rng(3), 250, 0.8
    found = [
        weighted_rate(*campaign(random, trials), bound=BOUND, confidence=confidence, normalised=normalised)
        for _ in range(campaigns)
    ]
    missed = sum(TRUTH not in estimate for estimate in found)
    assert missed <= 0.2 * campaigns + 3 * math.sqrt(0.2 * 0.8 * campaigns)  # three sigma
    if not normalised:
        best = np.array([estimate.best for estimate in found])
        # Unbiased, to four standard errors.
        assert abs(best.mean() - TRUTH) < 4 * best.std() / math.sqrt(campaigns)


def test_exact_coverage_of_equal_weights() -> None:
    # With weights of one, only the number of events matters, so coverage is a sum of the binomial distribution.
    from scipy import stats

    trials = 40
    for normalised in (False, True):
        found = [
            weighted_rate(np.arange(trials) < x, np.ones(trials), bound=1.0, normalised=normalised)
            for x in range(trials + 1)
        ]
        for p in np.concatenate([np.geomspace(1e-4, 0.5, 60), 1 - np.geomspace(1e-4, 0.5, 60)]):
            contained = [float(p) in estimate for estimate in found]
            assert stats.binom.pmf(np.arange(trials + 1), trials, p)[contained].sum() >= 0.95


def test_sampling_where_the_events_are_pays() -> None:
    random = np.random.default_rng(0)
    widths = [weighted_rate(*campaign(random, 4_000), bound=BOUND).width for _ in range(20)]
    plain = [confidence_sequence(int(random.binomial(4_000, TRUTH)), 4_000).width for _ in range(20)]
    assert np.mean(widths) < 0.8 * np.mean(plain)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 2.0)), min_size=1, max_size=30), st.booleans())
@settings(max_examples=50)
def test_laws(trials: list[tuple[bool, float]], normalised: bool) -> None:
    events, weights = np.array([y for y, _ in trials]), np.array([w for _, w in trials])
    found = weighted_rate(events, weights, bound=2.0, normalised=normalised)
    shuffled = weighted_rate(events[::-1].copy(), weights[::-1].copy(), bound=2.0, normalised=normalised)
    assert (found.low, found.high) == pytest.approx((shuffled.low, shuffled.high), rel=1e-9)
    looser = weighted_rate(events, weights, bound=4.0, normalised=normalised)
    assert looser.width >= found.width - 1e-9
    if normalised:
        scaled = weighted_rate(events, 3 * weights, bound=6.0, normalised=True)
        assert (scaled.low, scaled.best, scaled.high) == pytest.approx((found.low, found.best, found.high), rel=1e-9)
        others = weighted_rate(~events, weights, bound=2.0, normalised=True)
        assert (1 - others.high, 1 - others.low) == pytest.approx((found.low, found.high), abs=1e-9)


@pytest.mark.parametrize("normalised", [False, True])
def test_at_the_limits_a_gambler_has_made_what_was_agreed(normalised: bool) -> None:
    # Trial by trial, with the capital of each constant bet in its own account.
    events, weights = campaign(np.random.default_rng(5), 300)
    found = weighted_rate(events, weights, bound=BOUND, normalised=normalised)
    bets = np.geomspace(1e-4, 0.99, 32)
    for limit, seen in ((found.low, events), (1 - found.high, ~events)):
        accounts = np.sqrt(bets) / np.sqrt(bets).sum()
        for happened, weight in zip(seen, weights, strict=True):
            if normalised:
                gain = weight / BOUND * (happened / limit - 1)
            elif seen is events:
                gain = weight * happened / limit - 1
            else:
                gain = (1 - weight * (not happened) / BOUND) / (1 - (1 - limit) / BOUND) - 1
            accounts *= 1 + bets * gain
        assert accounts.sum() == pytest.approx(2 / 0.05, rel=1e-6)


@pytest.mark.parametrize("normalised", [False, True])
def test_means_cover_too(normalised: bool) -> None:
    # Values of beta distributions with the rates as means, most of them near 0 or 1.
    random, campaigns, trials = np.random.default_rng(4), 250, 200
    missed = 0
    for _ in range(campaigns):
        kind = (random.random(trials) >= DRAWN[0]).astype(int)
        values = random.beta(0.2 * RATE[kind], 0.2 * (1 - RATE[kind]))
        found = weighted_mean(values, (SHARE / DRAWN)[kind], bound=BOUND, confidence=0.8, normalised=normalised)
        missed += TRUTH not in found
    assert missed <= 0.2 * campaigns + 3 * math.sqrt(0.2 * 0.8 * campaigns)


def test_equal_weights_cost_less_than_twice_the_width() -> None:
    found = weighted_rate(np.arange(2_000) < 24, np.ones(2_000), bound=1.0)
    assert found.best == pytest.approx(0.012)
    assert 1 < found.width / rate(24, 2_000).width < 2


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"weights=1..3 must be above 0 and at most bound=2"):
        weighted_rate(np.array([True, False]), np.array([1.0, 3.0]), bound=2.0)
    plain = getattr(weighted_mean, "__wrapped__")  # noqa: B009  # what users call: without the checks of types
    with pytest.raises(InvalidInput, match="values and weights must be as many, not 1 and 2"):
        plain(np.array([0.5]), np.array([1.0, 1.0]), bound=2.0)
    with pytest.raises(InvalidInput, match=r"weights=0..1 must be above 0"):
        weighted_rate(np.array([True, False]), np.array([0.0, 1.0]), bound=2.0)
    with pytest.raises(InvalidInput, match="weights must not be empty: nothing is known"):
        weighted_rate(np.array([], bool), np.array([]), bound=2.0)
    with pytest.raises(InvalidInput, match=r"values=0..3 must be from 0 to 1; divide by the largest there can be"):
        weighted_mean(np.array([0.0, 3.0]), np.ones(2), bound=1.0)
    with pytest.raises(InvalidInput, match=r"values=nan..nan must be from 0 to 1"):
        weighted_mean(np.array([0.5, np.nan]), np.ones(2), bound=1.0)
