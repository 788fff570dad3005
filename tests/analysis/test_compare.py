"""Two rates and two groups side by side: exact coverage, Fisher's test, published examples."""

import math
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from miscompute import InvalidInput
from miscompute.analysis import Comparison, compare_rates, confidence_sequence, mean_difference, permutation_p, rate

RATES = np.concatenate([np.geomspace(1e-4, 0.5, 25), 1 - np.geomspace(1e-4, 0.45, 20)])


@cache
def compared(x: int, n: int, y: int, m: int) -> Comparison:
    return compare_rates(rate(x, n), rate(y, m))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (9, 9), (4, 12), (12, 4)])
def test_exact_coverage_is_at_least_nominal(n: int, m: int) -> None:
    limits = np.full((n + 1, m + 1, 4), [0, 0, 0, np.inf])
    for x, y in product(range(n + 1), range(m + 1)):
        found = compared(x, n, y, m)
        limits[x, y, :2] = found.difference.low, found.difference.high
        if found.ratio:
            limits[x, y, 2:] = found.ratio.low, found.ratio.high
    for p, q in product(RATES, RATES):
        probability = np.multiply.outer(
            stats.binom.pmf(np.arange(n + 1), n, p), stats.binom.pmf(np.arange(m + 1), m, q)
        )
        for low, high, truth in ((0, 1, p - q), (2, 3, p / q)):
            # Each limit by itself errs at most half as often as both.
            assert probability[limits[..., low] > truth + 1e-9].sum() <= 0.025
            assert probability[limits[..., high] < truth - 1e-9].sum() <= 0.025


def test_coverage_of_rare_events_by_simulation() -> None:
    random, campaigns = np.random.default_rng(0), 1_000
    for p, q in ((0.001, 0.001), (0.004, 0.001)):
        missed = np.zeros(2)
        for x, y in random.binomial(1_000, (p, q), (campaigns, 2)):
            found = compared(int(x), 1_000, int(y), 1_000)
            missed += p - q not in found.difference, found.ratio is not None and p / q not in found.ratio
        assert missed.max() <= 0.05 * campaigns + 3 * math.sqrt(0.05 * 0.95 * campaigns)  # three sigma


def test_newcombes_interval_is_not_as_safe() -> None:
    # Why it is not offered: Statistics in Medicine 17, 1998, method 10, from Wilson's limits.
    n, p, q = 20, 0.98, 0.02
    z = float(stats.norm.isf(0.025))

    def wilson(x: int) -> tuple[float, float]:
        half = z * math.sqrt(x * (n - x) / n + z**2 / 4)
        return (x + z**2 / 2 - half) / (n + z**2), (x + z**2 / 2 + half) / (n + z**2)

    covered = 0.0
    for x, y in product(range(n + 1), repeat=2):
        d, (l1, u1), (l2, u2) = (x - y) / n, wilson(x), wilson(y)
        low = d - math.hypot(x / n - l1, u2 - y / n)
        high = d + math.hypot(u1 - x / n, y / n - l2)
        if low <= p - q <= high:
            covered += float(stats.binom.pmf(x, n, p) * stats.binom.pmf(y, n, q))
    assert covered == pytest.approx(0.880, abs=1e-3)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
@settings(max_examples=60)
def test_no_difference_is_fishers_test(n: int, m: int, data: st.DataObject) -> None:
    x, y = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    found = compared(x, n, y, m)
    table = [[x, n - x], [y, m - y]]
    p = min(stats.fisher_exact(table, alternative=side).pvalue for side in ("less", "greater"))
    if abs(p - 0.025) > 5e-4:  # the grid's error
        assert found.is_different == (p < 0.025)
        assert found.ratio is None or (1.0 not in found.ratio) == (p < 0.025)


@given(st.integers(1, 200), st.integers(1, 200), st.data())
@settings(max_examples=25)
def test_laws(n: int, m: int, data: st.DataObject) -> None:
    x, y = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    found, exchanged = compared(x, n, y, m), compared(y, m, x, n)
    assert -1 <= found.difference.low <= found.difference.best <= found.difference.high <= 1
    assert (-exchanged.difference.high, -exchanged.difference.low) == pytest.approx(
        (found.difference.low, found.difference.high), abs=1e-3
    )
    assert (found.ratio is None) == (x == y == 0)
    if found.ratio and x and y:
        assert exchanged.ratio is not None
        assert (1 / exchanged.ratio.high, 1 / exchanged.ratio.low) == pytest.approx(
            (found.ratio.low, found.ratio.high), rel=1e-6
        )
    if found.ratio and not y:
        assert found.ratio.high == math.inf


def test_against_simulated_melding() -> None:
    # The definition, by a million draws of each confidence distribution.
    random, size = np.random.default_rng(0), 1_000_000
    (x, n), (y, m) = (24, 2_000), (8, 1_500)
    lower = [random.beta(x, n - x + 1, size), random.beta(y, m - y + 1, size)]
    upper = [random.beta(x + 1, n - x, size), random.beta(y + 1, m - y, size)]
    found = compared(x, n, y, m)
    assert found.difference.low == pytest.approx(np.quantile(lower[0] - upper[1], 0.025), abs=3e-5)
    assert found.difference.high == pytest.approx(np.quantile(upper[0] - lower[1], 0.975), abs=3e-5)
    assert found.ratio is not None
    assert found.ratio.low == pytest.approx(np.quantile(lower[0] / upper[1], 0.025), rel=5e-3)
    assert found.ratio.high == pytest.approx(np.quantile(upper[0] / lower[1], 0.975), rel=1e-2)


def test_rates_need_counts() -> None:
    with pytest.raises(InvalidInput, match="'beta-binomial confidence sequence' estimate has no events and trials"):
        compare_rates(rate(1, 10), confidence_sequence(1, 10))


# R's `sleep` data: extra hours of sleep of two groups of ten (Student, 1908).
SLEEP = ([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def test_welch_on_the_sleep_data() -> None:
    found = mean_difference(*SLEEP)
    # R's documentation: t.test(extra ~ group, data = sleep)
    assert (found.low, found.high) == pytest.approx((-3.3654832, 0.2054832), abs=1e-7)
    assert found.best == pytest.approx(0.75 - 2.33)


def test_welch_covers_unequal_groups_of_seeds() -> None:
    random, campaigns = np.random.default_rng(0), 2_000
    missed = sum(
        0.1 not in mean_difference(random.normal(0.8, 0.01, 5).tolist(), random.normal(0.7, 0.03, 5).tolist())
        for _ in range(campaigns)
    )
    assert abs(missed - 0.05 * campaigns) < 4 * math.sqrt(0.05 * 0.95 * campaigns)  # four sigma


def test_permutations_of_three_and_three() -> None:
    # All 20 divisions; the observed one and its mirror image are the farthest apart.
    assert permutation_p([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == pytest.approx(2 / 20)
    assert permutation_p([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]) == pytest.approx(2 / 70)
    assert permutation_p([1.0, 1.0], [1.0, 1.0]) == 1


def test_random_permutations_approach_all_of_them() -> None:
    a, b = SLEEP[0][:7], SLEEP[1][:7]
    exact = permutation_p(a, b)  # of 3,432
    assert permutation_p(a, b, resamples=2_000, seed=1) == pytest.approx(exact, abs=4 * math.sqrt(exact / 2_000))
    assert permutation_p(*SLEEP, resamples=99, seed=1) == permutation_p(*SLEEP, resamples=99, seed=1)


def test_groups_that_say_nothing_are_refused() -> None:
    with pytest.raises(InvalidInput, match="first has 1 values; a mean with an interval needs at least 2"):
        mean_difference([1.0], [1.0, 2.0])
    with pytest.raises(InvalidInput, match="first and second have no spread"):
        mean_difference([1.0, 1.0], [2.0, 2.0])
    with pytest.raises(InvalidInput, match="second is empty"):
        permutation_p([1.0], [])
