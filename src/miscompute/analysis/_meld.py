"""Weighted sums of independent rates.

A rate measured as x of n has two confidence distributions, beta(x, n - x + 1) for its lower limits and
beta(x + 1, n - x) for its upper ones: their quantiles are Clopper-Pearson's limits. The limits of a sum are quantiles
of the sum of independent variables with those distributions, with upper and lower exchanged where a weight is negative.
For one rate that is Clopper-Pearson's interval; for a difference it agrees with Fisher's exact test (Fay, Proschan and
Brittain, Biometrics 71, 2015).

That its coverage is at least nominal is proved for one rate only. For sums it has never been seen to be less: exact
coverage in tests/analysis/test_meld.py.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import fft, special

from .._invalid import InvalidInput
from ._binomial import METHODS
from ._estimate import Estimate

_GRID = 8192  # cells for one term; their number grows with the root of the terms', as the sum's relative spread shrinks
_TAIL = 1e-12  # probability beyond each end of a term's grid


class Term(NamedTuple):
    """A weight, of either sign, and the counts of the rate that it weighs."""

    weight: float
    events: int
    trials: int


def counts(estimate: Estimate) -> tuple[int, int]:
    """Give events and trials of an estimate that is a `rate` of independent trials.

    Raises:
        InvalidInput: for any other estimate.
    """
    if estimate.method not in METHODS or estimate.events is None or estimate.trials is None:
        raise InvalidInput(
            f"{estimate.method!r} estimate has no events and trials to combine; give one that rate() made"
        )
    return estimate.events, estimate.trials


def meld(terms: Sequence[Term], *, confidence: float, unit: str = "%") -> Estimate:
    """Estimate the weighted sum of independent rates."""
    positive = [t if t.weight >= 0 else Term(-t.weight, t.trials - t.events, t.trials) for t in terms if t.weight]
    tail = (1 - confidence) / 2
    # A negative weight's rate is one less the rate of its non-events; a lower limit is an upper one of non-events.
    offset = math.fsum(t.weight for t in terms if t.weight < 0)
    total = math.fsum(t.weight for t in positive)
    best = math.fsum(t.weight * t.events / t.trials for t in terms)
    high = offset + _upper(positive, tail)
    low = offset + total - _upper([Term(t.weight, t.trials - t.events, t.trials) for t in positive], tail)
    plain = len(terms) == 1
    return Estimate(
        low=min(low, best),
        best=best,
        high=max(high, best),
        events=terms[0].events if plain else None,
        trials=terms[0].trials if plain else None,
        confidence=confidence,
        method="melded clopper-pearson",
        unit=unit,
    )


def _upper(terms: Sequence[Term], tail: float) -> float:
    """Give the 1 - tail quantile of the sum of weight x beta(x + 1, n - x), all weights positive."""
    certain = math.fsum(t.weight for t in terms if t.events == t.trials)
    terms = [t for t in terms if t.events < t.trials]
    if not terms:
        return certain
    starts = [t.weight * float(special.betaincinv(t.events + 1, t.trials - t.events, _TAIL)) for t in terms]
    ends = [t.weight * float(special.betainccinv(t.events + 1, t.trials - t.events, _TAIL)) for t in terms]
    step = (sum(ends) - sum(starts)) / (_GRID * math.isqrt(len(terms)))
    cells = [math.ceil((end - start) / step) + 1 for start, end in zip(starts, ends, strict=True)]
    size = fft.next_fast_len(sum(cells), real=True)
    spectrum = np.ones(size // 2 + 1, complex)
    for term, start, many in zip(terms, starts, cells, strict=True):
        spectrum *= fft.rfft(_masses(term, start, step, many), size)
    cumulative = np.cumsum(fft.irfft(spectrum, size))
    # One step more than the quantile makes up for masses moved to the nearest point of the grid.
    place = int(np.searchsorted(cumulative, 1 - tail)) + 1
    return min(certain + sum(starts) + place * step, certain + sum(t.weight for t in terms))


def _masses(term: Term, start: float, step: float, cells: int) -> Float[np.ndarray, " cells"]:
    edges = (start + step * (np.arange(cells + 1) - 0.5)) / term.weight
    below = special.betainc(term.events + 1, term.trials - term.events, np.clip(edges, 0, 1))
    return np.asarray(np.diff(below))
