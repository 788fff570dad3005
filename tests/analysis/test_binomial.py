"""Intervals of a rate: exact coverage, golden values, laws."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from miscompute import InvalidInput
from miscompute.analysis import METHODS, rate

LEAST, MOST = 1e-4, 0.5  # the rates over which coverage is promised; above 0.5 it mirrors


def worst_coverage(limits: np.ndarray, trials: int) -> float:
    """Calculate the least coverage over all rates from LEAST to MOST.

    Between two limits coverage is the probability of a run of counts, which has no minimum inside: so its least values
    are beside the limits.
    """
    beside = np.unique(limits)
    rates = np.concatenate([beside * (1 - 1e-9), beside * (1 + 1e-9), np.geomspace(LEAST, MOST, 200)])
    rates = rates[(rates >= LEAST) & (rates <= MOST)]
    contained = (limits[:, :1] <= rates) & (rates <= limits[:, 1:])
    return float((stats.binom.pmf(np.arange(trials + 1)[:, None], trials, rates) * contained).sum(0).min())


@pytest.mark.parametrize("trials", [1, 2, 10, 37, 100, 1_000])
@pytest.mark.parametrize("method", METHODS)
def test_exact_coverage_is_at_least_nominal(method: str, trials: int) -> None:
    for confidence in (0.95, 0.99) if trials < 1_000 else (0.95,):
        found = [METHODS[method](events, trials, confidence) for events in range(trials + 1)]
        assert worst_coverage(np.array(found), trials) >= confidence - 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_coverage_by_simulation(method: str) -> None:
    random = np.random.default_rng(0)
    for p in (1e-4, 1e-3, 0.01, 0.1, 0.5):
        drawn, often = np.unique(random.binomial(2_000, p, 20_000), return_counts=True)
        missed = sum(int(n) for x, n in zip(drawn, often, strict=True) if p not in rate(int(x), 2_000, method=method))
        # At most the nominal error, to four sigma of the binomial.
        assert missed <= 20_000 * 0.05 + 4 * math.sqrt(20_000 * 0.05 * 0.95)


def _wald(x: float, n: int, z: float) -> tuple[float, float]:
    half = z * math.sqrt(x / n * (1 - x / n) / n)
    return x / n - half, x / n + half


def _wilson(x: float, n: int, z: float) -> tuple[float, float]:
    half = z * math.sqrt(x * (n - x) / n + z**2 / 4)
    return (x + z**2 / 2 - half) / (n + z**2), (x + z**2 / 2 + half) / (n + z**2)


def _jeffreys(x: float, n: int, z: float) -> tuple[float, float]:
    tail, beta = stats.norm.sf(z), stats.beta(x + 0.5, n - x + 0.5)
    return beta.ppf(tail) if x else 0.0, beta.isf(tail) if x < n else 1.0


def _agresti_coull(x: float, n: int, z: float) -> tuple[float, float]:
    p = (x + z**2 / 2) / (n + z**2)
    half = z * math.sqrt(p * (1 - p) / (n + z**2))
    return p - half, p + half


@pytest.mark.parametrize(
    ("limits", "worst"), [(_wald, 0.0010), (_wilson, 0.835), (_jeffreys, 0.868), (_agresti_coull, 0.924)]
)
def test_why_the_usual_intervals_are_not_offered(
    limits: Callable[[float, int, float], tuple[float, float]], worst: float
) -> None:
    z = float(stats.norm.isf(0.025))
    found = [
        worst_coverage(np.array([limits(x, trials, z) for x in range(trials + 1)], float), trials)
        for trials in (10, 100)
    ]
    assert min(found) == pytest.approx(worst, abs=5e-4)


@pytest.mark.parametrize(
    ("method", "events", "trials", "low", "high"),
    [
        # R: binom.test(682, 925), from its documentation
        ("clopper-pearson", 682, 925, 0.7076683, 0.7654066),
        # R: BlakerCI::binom.blaker.limits(3, 10), from its documentation
        ("blaker", 3, 10, 0.08726443, 0.6194107),
        ("blaker", 0, 1, 0.0, 0.95),  # P(X = 0) = 0.05
    ],
)
def test_golden_limits(method: str, events: int, trials: int, low: float, high: float) -> None:
    found = rate(events, trials, method=method)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-7)
    assert (found.best, found.events, found.trials, found.method) == (events / trials, events, trials, method)


@settings(max_examples=40)
@given(st.integers(1, 400), st.data())
def test_against_scipy(trials: int, data: st.DataObject) -> None:
    events = data.draw(st.integers(0, trials))
    for method, alternative in {"clopper-pearson": "two-sided", "at-most": "less", "at-least": "greater"}.items():
        found = rate(events, trials, confidence=0.9, method=method)
        reference = stats.binomtest(events, trials, alternative=alternative).proportion_ci(0.9, "exact")
        assert (found.low, found.high) == pytest.approx((reference.low, reference.high), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("events", "high"), [(0, 2.996), (1, 4.744), (2, 6.296)])
def test_rule_of_three(events: int, high: float) -> None:
    # The one-sided 95 % limits of a Poisson mean, in any table; the first is -log(0.05).
    assert rate(events, 1_000_000, method="at-most").high * 1_000_000 == pytest.approx(high, abs=1e-3)
    assert rate(0, 1_000, method="at-most").high == pytest.approx(1 - 0.05**0.001, rel=1e-12)


def acceptability(events: int, trials: int, p: float) -> float:
    """Blaker's definition, word for word: this tail, and as much of the other as is no more probable."""
    counts = np.arange(trials + 1)
    at_most, at_least = stats.binom.cdf(counts, trials, p), stats.binom.sf(counts - 1, trials, p)
    tails = np.minimum(at_most, at_least)
    return float(stats.binom.pmf(counts[tails <= tails[events] * (1 + 1e-9)], trials, p).sum())


@settings(max_examples=60)
@given(st.integers(1, 40), st.data(), st.sampled_from([0.9, 0.95, 0.99]))
def test_blaker_against_its_definition(trials: int, data: st.DataObject, confidence: float) -> None:
    events = data.draw(st.integers(0, trials))
    found = rate(events, trials, confidence=confidence, method="blaker")
    for p in np.linspace(0.001, 0.999, 60):
        if acceptability(events, trials, p) > 1 - confidence + 1e-9:
            assert p in found
    # The limits are where it begins: just inside it exceeds the error.
    for limit, inwards in ((found.low, 1e-7), (found.high, -1e-7)):
        if 0 < limit < 1:
            assert acceptability(events, trials, limit + inwards) > 1 - confidence - 1e-4


@given(st.integers(1, 300), st.data(), st.sampled_from(sorted(METHODS)))
def test_laws(trials: int, data: st.DataObject, method: str) -> None:
    events = data.draw(st.integers(0, trials))
    found = rate(events, trials, method=method)
    wider = rate(events, trials, method=method, confidence=0.99)
    assert wider.low <= found.low <= found.best <= found.high <= wider.high
    mirrored = rate(trials - events, trials, method={"at-most": "at-least", "at-least": "at-most"}.get(method, method))
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high), abs=1e-9)
    exact = rate(events, trials)
    blaker = rate(events, trials, method="blaker")
    assert exact.low <= blaker.low + 1e-12
    assert blaker.high <= exact.high + 1e-12


@pytest.mark.parametrize("method", ["clopper-pearson", "at-most", "at-least"])
@pytest.mark.parametrize(("population", "trials"), [(30, 10), (60, 45), (400, 100)])
def test_exact_coverage_in_a_finite_population(method: str, population: int, trials: int) -> None:
    found = [rate(events, trials, method=method, population=population) for events in range(trials + 1)]
    for affected in range(population + 1):
        probability = stats.hypergeom.pmf(np.arange(trials + 1), population, affected, trials)
        contained = [e.low <= affected / population <= e.high for e in found]
        assert probability[contained].sum() >= 0.95


def test_a_finite_population_of_millions() -> None:
    # The tails by recursion from the mode over the whole support, which needs no gamma function.
    population, trials, events = 4_063_170, 9_581, 30

    def at_least(affected: int) -> float:
        k = np.arange(min(trials, affected) + 1.0)
        steps = np.log((affected - k[:-1]) * (trials - k[:-1]) / (k[1:] * (population - affected - trials + k[1:])))
        weights = np.exp(np.concatenate([[0], np.cumsum(steps)]) - np.cumsum(steps).max())
        return float(weights[events:].sum() / weights.sum())

    low = round(rate(events, trials, population=population).low * population)
    assert at_least(low - 1) <= 0.025 < at_least(low + 1)


def test_a_census_leaves_no_doubt_and_a_small_sample_of_many_is_as_if_independent() -> None:
    assert rate(3, 400, population=400).width == 0
    infinite, finite = rate(24, 2_000), rate(24, 2_000, population=10**9)
    assert (finite.low, finite.high) == pytest.approx((infinite.low, infinite.high), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1, 0), {}, "trials=0 must be at least 1"),
        ((5, 4), {}, "events=5 must be from 0 to trials=4"),
        ((1, 4), {"method": "wald"}, "method='wald' is not known; choose from clopper-pearson, blaker, at-most"),
        ((1, 4), {"confidence": 1.0}, "confidence=1.0 must be between 0 and 1"),
        ((1, 4), {"population": 3}, "trials=4 drawn without replacement exceed population=3"),
        ((1, 4), {"population": 9, "method": "blaker"}, "method='blaker' is not for a finite population; choose from"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[int, int], options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        rate(*arguments, **options)  # type: ignore[arg-type]
