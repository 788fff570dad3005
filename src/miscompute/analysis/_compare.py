"""Two rates, or two groups of trainings, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import scipy  # loads stats and optimize when first used: a second that workers need not spend
from jaxtyping import Float
from scipy import special

from .._invalid import InvalidInput
from ._estimate import Estimate, check_confidence
from ._meld import Term, counts, meld

_CELLS = 4_096  # of equal probability, into which a confidence distribution is cut


@final
@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How much larger one rate is than another: first minus second, and first divided by second.

    Each interval holds by itself. The difference is in percentage points. A ratio without an upper limit has ``inf``;
    where neither rate had an event there is no ratio.
    """

    difference: Estimate
    ratio: Estimate | None

    @property
    def is_different(self) -> bool:
        """Whether the interval of the difference excludes 0."""
        return 0.0 not in self.difference


def compare_rates(first: Estimate, second: Estimate, *, confidence: float = 0.95) -> Comparison:
    """Compare two rates measured by independent trials, each an estimate that `rate` made.

    Intervals are melded from Clopper-Pearson's (Fay, Proschan and Brittain, Biometrics 71, 2015): a difference excludes
    0, and a ratio 1, just when Fisher's exact test of one side rejects at half the error. Their coverage was at least
    nominal wherever it was calculated (tests/analysis/test_compare.py); that of Newcombe's falls to 88 % there.

    Trials on the same faults, with and without a mitigation, are not independent; where both runs of a fault tend to
    agree, these intervals are too wide.

    Raises:
        InvalidInput: if an estimate has no events and trials.

    >>> from miscompute.analysis import rate
    >>> found = compare_rates(rate(24, 2_000), rate(8, 2_000))
    >>> print(found.difference)
    0.8 % (0.2..1.4 %, 95 %)
    >>> print(found.ratio)
    3 (1..8, 95 %)
    """
    check_confidence(confidence)
    a, b = counts(first), counts(second)
    difference = meld([Term(1.0, *a), Term(-1.0, *b)], confidence=confidence)
    if a[0] == b[0] == 0:
        return Comparison(difference=difference, ratio=None)
    tail = (1 - confidence) / 2
    ratio = Estimate(
        low=1 / _ratio_at_most(b, a, tail) if a[0] else 0.0,
        best=a[0] * b[1] / (a[1] * b[0]) if b[0] else np.inf,
        high=_ratio_at_most(a, b, tail),
        confidence=confidence,
        method=difference.method,
        unit="",
    )
    return Comparison(difference=difference, ratio=ratio)


def _ratio_at_most(above: tuple[int, int], below: tuple[int, int], tail: float) -> float:
    """Give the 1 - tail quantile of U / L: upper confidence distribution of one rate, lower of the other."""
    (x, n), (y, m) = above, below
    if y == 0:
        return np.inf
    # Each cell is represented by its least value, so that the quantile errs to the safe side.
    least = special.betaincinv(y, m - y + 1, np.arange(_CELLS) / _CELLS)[1:]
    low = np.log(x / n / (y / m)) if x else np.log(special.betaincinv(x + 1, n - x, tail))
    high = -np.log(least[0])  # there U / L is at most the ratio in all cells but the first
    root = scipy.optimize.brentq(
        lambda u: _reached(np.exp(u) * least, x, n) - (1 - tail), min(low, 0) - 1, high, xtol=1e-9
    )
    return float(np.exp(root)) * (1 + 1e-8)


def _reached(values: Float[np.ndarray, " cells"], x: int, n: int) -> float:
    """Give the mean probability that the upper confidence variable of x of n is at most these values."""
    reached = special.betainc(x + 1, n - x, np.minimum(values, 1)) if x < n else values >= 1
    return float(reached.sum()) / _CELLS


def mean_difference(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """Estimate how much larger the mean of one group is than that of another, for example accuracies of several seeds.

    Welch's interval (Biometrika 34, 1947) with Satterthwaite's degrees of freedom: variances may differ; the values of
    a group are taken to be normal. Rates are not: use `compare_rates` for those.

    Raises:
        InvalidInput: if a group has fewer than two values, or both have no spread.

    >>> print(mean_difference([0.716, 0.721, 0.709], [0.574, 0.590, 0.561]))
    0.14 (0.11..0.17, 95 %)
    """
    check_confidence(confidence)
    for name, group in (("first", first), ("second", second)):
        if len(group) < 2:
            raise InvalidInput(f"{name} has {len(group)} values; a mean with an interval needs at least 2")
    if len(set(first)) == len(set(second)) == 1:
        raise InvalidInput("first and second have no spread: all values of each are equal, so no interval follows")
    parts = [float(np.var(group, ddof=1)) / len(group) for group in (first, second)]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(g) - 1) for part, g in zip(parts, (first, second), strict=True))
    half = float(special.stdtrit(freedom, (1 + confidence) / 2)) * sum(parts) ** 0.5
    best = float(np.mean(first) - np.mean(second))
    return Estimate(low=best - half, best=best, high=best + half, confidence=confidence, method="welch", unit="")


def permutation_p(first: Sequence[float], second: Sequence[float], *, resamples: int = 9_999, seed: int = 0) -> float:
    """Test whether two groups could be one: how often a random division of all values has means as far apart.

    Assumes only that without an effect every division is equally likely. All divisions are tried where there are at
    most ``resamples``, else so many random ones, and then ``(extreme + 1) / (resamples + 1)`` keeps the error at most
    nominal (Phipson and Smyth, 2010). With 3 values against 3 the result cannot be below 0.1; with 4 against 4, 0.029.

    Raises:
        InvalidInput: if a group is empty.
    """
    for name, group in (("first", first), ("second", second)):
        if not len(group):
            raise InvalidInput(f"{name} is empty; a test needs at least 1 value in each group")

    def distance(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(np.abs(a.mean(axis) - b.mean(axis)))

    found = scipy.stats.permutation_test(
        (first, second),
        distance,
        n_resamples=resamples,
        alternative="greater",
        rng=np.random.default_rng(seed),
        vectorized=True,
    )
    return float(found.pvalue)
