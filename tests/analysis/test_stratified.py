"""Strata: exact coverage, agreement with the plain rate, and the best allocation."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from miscompute import InvalidInput
from miscompute.analysis import Stratum, deal, neyman, rate, stratified_rate

MANY = 10**9  # faults in a stratum that few trials do not exhaust
RATES = np.concatenate([[0.0], np.geomspace(1e-4, 0.5, 12), 1 - np.geomspace(1e-3, 0.3, 6), [1.0]])


def sampled(weights: tuple[float, ...], events: tuple[int, ...], trials: tuple[int, ...]) -> list[Stratum]:
    return [Stratum(size=round(w * MANY), events=x, trials=n) for w, x, n in zip(weights, events, trials, strict=True)]


@pytest.mark.parametrize("method", ["melded", "betting"])
@pytest.mark.parametrize(
    ("weights", "trials"),
    [
        ((0.5, 0.5), (8, 8)),
        ((0.9, 0.1), (4, 16)),
        ((0.1, 0.9), (4, 16)),
        ((0.99, 0.01), (2, 12)),
        ((0.5, 0.5), (1, 1)),
        ((0.2, 0.3, 0.5), (3, 3, 3)),
    ],
)
def test_exact_coverage_is_at_least_nominal(method: str, weights: tuple[float, ...], trials: tuple[int, ...]) -> None:
    outcomes = list(product(*(range(n + 1) for n in trials)))
    found = [stratified_rate(sampled(weights, events, trials), method=method) for events in outcomes]  # type: ignore[arg-type]
    low, high = np.array([(e.low, e.high) for e in found]).T
    masses = [stats.binom.pmf(np.arange(n + 1)[:, None], n, RATES) for n in trials]  # (events, rates)
    for place in product(range(len(RATES)), repeat=len(trials)):
        truth = sum(w * RATES[i] for w, i in zip(weights, place, strict=True))
        probability = np.ones(1)
        for mass, i in zip(masses, place, strict=True):
            probability = np.multiply.outer(probability, mass[:, i])
        # Each limit by itself too errs at most half as often.
        assert probability.ravel()[low > truth + 1e-12].sum() <= 0.025
        assert probability.ravel()[high < truth - 1e-12].sum() <= 0.025


@pytest.mark.parametrize(("strata", "method"), [(6, "melded clopper-pearson"), (30, "betting")])
def test_coverage_of_many_strata_by_simulation(strata: int, method: str) -> None:
    random, campaigns = np.random.default_rng(0), 60
    weights = random.dirichlet(np.ones(strata))
    missed = 0
    for p in (random.beta(0.2, 20, strata), random.beta(1, 2, strata)):
        truth = float(weights @ p)
        for _ in range(campaigns):
            events = random.binomial(40, p)
            found = stratified_rate(sampled(tuple(weights), tuple(map(int, events)), (40,) * strata))
            assert found.method == f"stratified, {method}"
            missed += truth not in found
    assert missed <= 0.05 * 2 * campaigns + 3 * math.sqrt(0.05 * 0.95 * 2 * campaigns)  # three sigma


@given(st.integers(1, 300), st.data())
@settings(max_examples=40)
def test_one_stratum_is_a_rate(trials: int, data: st.DataObject) -> None:
    events = data.draw(st.integers(0, trials))
    found, expected = stratified_rate([Stratum(size=MANY, events=events, trials=trials)]), rate(events, trials)
    slack = 2e-3 * expected.width
    assert expected.low - slack <= found.low <= expected.low + 1e-9
    assert expected.high - 1e-9 <= found.high <= expected.high + slack
    assert (found.best, found.events, found.trials) == (events / trials, events, trials)


def test_exhausted_strata_are_known() -> None:
    census = [Stratum(size=100, events=40, trials=100), Stratum(size=300, events=1, trials=300)]
    found = stratified_rate(census)
    assert (found.low, found.high) == (found.best, found.best)
    assert found.best == pytest.approx(41 / 400)
    sample = Stratum(size=100_000, events=3, trials=500)
    alone, both = stratified_rate([sample]), stratified_rate([*census, sample])
    assert both.width == pytest.approx(alone.width * 100_000 / 100_400)
    betting = stratified_rate(census, method="betting")
    assert betting.width == 0


def test_narrower_than_the_sum_of_the_strata() -> None:
    strata = sampled((0.25,) * 4, (10, 12, 9, 11), (500,) * 4)
    # Intervals of the same joint confidence, each at 1 - 0.05 / 4, added.
    added = sum(rate(s.events, s.trials, confidence=1 - 0.05 / 4).width / 4 for s in strata)
    assert stratified_rate(strata).width < 0.65 * added


def test_when_to_bet() -> None:
    # The figures of the docstring: two strata without and with many events, 64 without any.
    for events, factor in ((0, 1.0), (150, 1.7)):
        two = sampled((0.5, 0.5), (events, events), (500, 500))
        ratio = stratified_rate(two, method="betting").width / stratified_rate(two, method="melded").width
        assert ratio == pytest.approx(factor, abs=0.1)
    many = sampled((1 / 64,) * 64, (0,) * 64, (15,) * 64)
    ratio = stratified_rate(many, method="melded").width / stratified_rate(many, method="betting").width
    assert ratio == pytest.approx(14, abs=1)


@given(
    st.lists(st.tuples(st.integers(1, 12), st.floats(0, 1)), min_size=2, max_size=3),
    st.data(),
)
@settings(max_examples=40)
def test_neyman_deals_the_best_of_all_allocations(strata: list[tuple[int, float]], data: st.DataObject) -> None:
    sizes, rates = [size for size, _ in strata], [rate for _, rate in strata]
    trials = data.draw(st.integers(len(sizes), sum(sizes)))

    dealt = neyman(sizes, rates, trials=trials)

    squares = [size**2 * rate * (1 - rate) for size, rate in strata]
    every = product(*(range(1, size + 1) for size in sizes))
    best = min(
        sum(s / n for s, n in zip(squares, allocation, strict=True))
        for allocation in every
        if sum(allocation) == trials
    )
    assert sum(dealt) == trials
    assert all(1 <= n <= size for n, size in zip(dealt, sizes, strict=True))
    assert sum(s / n for s, n in zip(squares, dealt, strict=True)) == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_neyman_is_proportional_to_size_and_spread() -> None:
    assert neyman([1_000, 1_000], [0.5, 0.5], trials=100) == (50, 50)
    # sqrt(p (1 - p)) is 0.5 and 0.1: five to one.
    assert neyman([10**6, 10**6], [0.5, 0.010102], trials=600) == (500, 100)
    assert neyman([10**6, 3], [0.01, 0.5], trials=100, least=5) == (97, 3)
    assert neyman([10, 10], [0.0, 0.0], trials=7) in ((3, 4), (4, 3))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match="trials=9 of Stratum exceed size=8"):
        Stratum(size=8, events=0, trials=9)
    with pytest.raises(InvalidInput, match="trials=0 must be at least 1"):
        Stratum(size=8, events=0, trials=0)
    with pytest.raises(InvalidInput, match="strata must not be empty"):
        stratified_rate([])
    with pytest.raises(InvalidInput, match="as many, and some: 1 and 2"):
        neyman([5], [0.1, 0.2], trials=3)
    with pytest.raises(InvalidInput, match=r"trials=3 must be from 4 \(2 a stratum\) to 10 \(all faults\)"):
        neyman([5, 5], [0.1, 0.2], trials=3, least=2)
    with pytest.raises(InvalidInput, match="rates from 0 to 1"):
        neyman([5, 5], [0.1, 1.2], trials=3)
    with pytest.raises(InvalidInput, match=r"trials=11 must be from 2 \(1 a stratum\) to 10 \(all faults\)"):
        deal([5, 5], [0.5, 0.5], 11)
    with pytest.raises(InvalidInput, match=r"trials=3 must be from 4 \(2 a stratum\)"):
        deal([5, 5], [0.5, 0.5], 3, 2)
    for shares in ([0.5], [0.5, -0.1], [0.5, math.nan]):
        with pytest.raises(InvalidInput, match="shares must be one for each of 2 strata, none negative"):
            deal([5, 5], shares, 4)
