"""Rates: events among independent trials, or among trials drawn without replacement from a finite population.

Only intervals that keep their promise are here: whatever the true rate, the interval contains it with at least the
stated confidence. Others do not. Their exact coverage at a nominal 95 %, at its worst over 1e-4 <= p <= 0.5 and 10 or
100 trials (tests/analysis/test_binomial.py): Wald 0.1 %, Wilson 83.5 %, Jeffreys 86.8 %, Agresti-Coull 92.4 %.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import scipy  # loads stats and optimize when first used: a second that workers need not spend
from scipy import special

from .._invalid import InvalidInput
from ._estimate import Estimate, check_confidence, check_events

Limits = tuple[float, float]


def tail_limits(events: int, trials: int, below: float, above: float) -> Limits:
    """Give the rates under which so many events, or more, have probability ``below``; or fewer, ``above``.

    They are the ``below`` quantile of beta(x, n - x + 1) and the ``1 - above`` quantile of beta(x + 1, n - x) (Clopper
    and Pearson, Biometrika 26, 1934; in this form Brown, Cai and DasGupta, Statistical Science 16, 2001).
    """
    low = float(special.betaincinv(events, trials - events + 1, below)) if events else 0.0
    high = float(special.betainccinv(events + 1, trials - events, above)) if events < trials else 1.0
    return low, high


def _clopper_pearson(events: int, trials: int, confidence: float) -> Limits:
    return tail_limits(events, trials, (1 - confidence) / 2, (1 - confidence) / 2)


def _blaker(events: int, trials: int, confidence: float) -> Limits:
    alpha = 1 - confidence
    return _blaker_low(events, trials, alpha), 1 - _blaker_low(trials - events, trials, alpha)


def _blaker_low(events: int, trials: int, alpha: float) -> float:
    """Find the least rate whose acceptability exceeds alpha.

    The acceptability of a rate below events / trials is P(X >= x) + P(X <= q), where q is the most that keeps the
    second probability at most as large as the first (Blaker, Canadian Journal of Statistics 28, 2000). For a given q it
    first falls, then rises with the rate; where q grows it jumps up. So the limit is either the beginning of a piece or
    the one crossing in it, as in Klaschka's BlakerCI, and the first piece begins at Clopper-Pearson's limit.
    Limits are moved outwards by more than the roots' error: 60 of 100 accept p = 0.5 only at the very point of a jump.
    """
    if events == 0:
        return 0.0

    x, n, reaches, at_most = events, trials, special.betainc, special.betaincc
    begin, _ = _clopper_pearson(events, trials, 1 - alpha)
    q = int(scipy.stats.binom.ppf(alpha / 2, trials, begin)) - 1
    while q < x - 1:  # then all counts are in one tail or the other, and the acceptability is 1
        if _acceptability(begin, x, n, q) > alpha:
            break
        # q grows where the tail of q + 1 has become as improbable as the one from x
        end = _root(lambda p, q: at_most(q + 2, n - q - 1, p) - reaches(x, n - x + 1, p), begin, 1.0, q)
        if _acceptability(end, x, n, q) > alpha:
            begin = _root(lambda p, q: _acceptability(p, x, n, q) - alpha, begin, end, q)
            break
        begin, q = end, q + 1
    return begin * (1 - 1e-12)


def _acceptability(p: float, x: int, n: int, q: int) -> float:
    """Give P(X >= x) + P(X <= q)."""
    return float(special.betainc(x, n - x + 1, p) + (special.betaincc(q + 1, n - q, p) if q >= 0 else 0))


def _root(function: Callable[[float, int], float], low: float, high: float, q: int) -> float:
    return float(scipy.optimize.brentq(function, low, high, args=(q,), xtol=1e-300, rtol=1e-14))


METHODS: Mapping[str, Callable[[int, int, float], Limits]] = MappingProxyType(
    {
        "clopper-pearson": _clopper_pearson,
        "blaker": _blaker,
        "at-most": lambda events, trials, confidence: (0.0, tail_limits(events, trials, 0.0, 1 - confidence)[1]),
        "at-least": lambda events, trials, confidence: (tail_limits(events, trials, 1 - confidence, 0.0)[0], 1.0),
    }
)
"""Every interval of a rate, by name: limits from events, trials and confidence."""


def rate(
    events: int,
    trials: int,
    *,
    confidence: float = 0.95,
    method: str = "clopper-pearson",
    population: int | None = None,
) -> Estimate:
    """Estimate the probability of an event from trials whose number was fixed beforehand.

    If the number of trials depends on what they gave, use `confidence_sequence`.

    Args:
        events: in how many trials it happened.
        trials: how many there were, independent of each other; with ``population``, different from each other.
        confidence: the probability with which, at least, such an interval contains the true rate.
        method: one of `METHODS`. Of ``clopper-pearson``, the default, each limit by itself is exceeded with probability
            ``(1 - confidence) / 2`` at most. ``blaker`` is never wider and as safe as a whole, 1 % narrower at 24 of
            2,000 and 9 % at 3 of 10, but its limits by themselves are not. ``at-most`` and ``at-least`` are limits on
            one side: with no event, the most at 95 % is about 3 / trials.
        population: from how many faults the trials were drawn without replacement, if they were; then what is estimated
            is the share of that population, and the interval shrinks to a point when all were tried. Not for
            ``blaker``.

    Raises:
        InvalidInput: for an unknown method, or numbers that cannot be.

    >>> print(rate(24, 2_000))
    1.2 % (0.8..1.8 %, 95 %, 24 of 2,000)
    >>> print(rate(0, 30, method="at-most"))
    0 % (0..10 %, 95 %, 0 of 30)
    >>> print(rate(24, 2_000, population=2_400))
    1.20 % (1.04..1.42 %, 95 %, 24 of 2,000)
    """
    check_confidence(confidence)
    check_events(events, trials)
    if method not in METHODS:
        raise InvalidInput(f"method={method!r} is not known; choose from {', '.join(METHODS)}")
    if population is None:
        low, high = METHODS[method](events, trials, confidence)
    else:
        low, high = _finite_limits(events, trials, confidence, method, population)
    return Estimate(
        low=low, best=events / trials, high=high, events=events, trials=trials, confidence=confidence, method=method
    )


_TAILS = MappingProxyType({"clopper-pearson": (0.5, 0.5), "at-most": (0.0, 1.0), "at-least": (1.0, 0.0)})
# What share of the error each limit may take.

_SLACK = 1e-6  # relative; the hypergeometric distribution is computed to about 1e-8 for millions of faults


def _finite_limits(events: int, trials: int, confidence: float, method: str, population: int) -> Limits:
    """Invert the hypergeometric tails, as Clopper-Pearson does the binomial ones."""
    if method not in _TAILS:
        raise InvalidInput(f"method={method!r} is not for a finite population; choose from {', '.join(_TAILS)}")
    if trials > population:
        raise InvalidInput(f"trials={trials} drawn without replacement exceed population={population}")
    below, above = (share * (1 - confidence) for share in _TAILS[method])
    least = _least_affected(events, trials, population, below)
    # As many faults are unaffected as the others leave.
    most = population - _least_affected(trials - events, trials, population, above)
    return least / population, most / population


def _least_affected(events: int, trials: int, population: int, tail: float) -> int:
    """Find the least number of affected faults with which so many events, or more, have more probability than tail."""
    if tail == 0:
        return events  # what was seen is certain
    impossible, possible = events - 1, population - trials + events  # with the latter, all that were not tried
    while possible - impossible > 1:
        middle = (impossible + possible) // 2
        if scipy.stats.hypergeom.sf(events - 1, population, middle, trials) > tail * (1 - _SLACK):
            possible = middle
        else:
            impossible = middle
    return possible
