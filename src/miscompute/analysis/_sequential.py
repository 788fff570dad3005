"""Estimates that hold however often one looks, and the rule that stops a campaign by them.

Stopping when a fixed-n interval is narrow enough, or excludes what one hoped to exclude, is biased: its promise is for
one look. A confidence sequence contains the true rate at all looks at once with the stated confidence, so a campaign
may stop whenever it likes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import scipy  # loads optimize when first used
from scipy import special

from .._invalid import InvalidInput
from ._estimate import Estimate, check_confidence, check_events

_PRIOR = 0.5
# Both parameters of the beta mixture (Krichevsky and Trofimov's): as good for rates near 0 as for any.

_SLACK = 1e-6  # of a log likelihood ratio; those of millions of faults are computed to about 1e-8


def confidence_sequence(
    events: int, trials: int, *, confidence: float = 0.95, population: int | None = None
) -> Estimate:
    """Estimate a rate from a campaign that may be looked at after each trial and stopped at any.

    With x events in n trials, the likelihood ratio of a mixture of all rates, beta(1/2, 1/2), to the rate p is
    ``B(x + 1/2, n - x + 1/2) / B(1/2, 1/2) / (p^x (1 - p)^(n - x))``. If p is the true rate it is a martingale that
    starts at 1, so with probability ``confidence`` it never reaches ``1 / (1 - confidence)`` (Ville). The interval is
    where it is below (Robbins, Annals of Mathematical Statistics 41, 1970). Only the counts matter, not their order.
    With ``population``, trials are drawn from so many faults without replacement and the likelihood is that of the
    draws (Waudby-Smith and Ramdas, NeurIPS 2020, confidence sequences for sampling without replacement).

    The price of looking: with 20 events in 2,000 trials the interval is 1.83 times as wide as Clopper-Pearson's.

    Raises:
        InvalidInput: for numbers that cannot be.

    >>> print(confidence_sequence(24, 2_000))
    1.2 % (0.5..2.4 %, 95 %, 24 of 2,000)
    """
    check_confidence(confidence)
    check_events(events, trials)
    bar = -math.log(1 - confidence)
    if population is None:
        low, high = _least_rate(events, trials, bar), 1 - _least_rate(trials - events, trials, bar)
    else:
        if trials > population:
            raise InvalidInput(f"trials={trials} drawn without replacement exceed population={population}")
        low = _least_affected(events, trials, population, bar) / population
        high = (population - _least_affected(trials - events, trials, population, bar)) / population
    best = events / trials
    return Estimate(
        low=min(low, best),
        best=best,
        high=max(high, best),
        events=events,
        trials=trials,
        confidence=confidence,
        method="beta-binomial confidence sequence",
    )


def _log_mixture(events: int, trials: int) -> float:
    return float(special.betaln(events + _PRIOR, trials - events + _PRIOR) - special.betaln(_PRIOR, _PRIOR))


def _least_rate(events: int, trials: int, bar: float) -> float:
    """Find where, below events / trials, the log ratio comes down to the bar. It is convex in the rate."""
    if events == 0:
        return 0.0
    # At the observed rate the ratio is at most 1; at the other end, p^x alone outweighs mixture and bar.
    mixture, end = _log_mixture(events, trials), math.log(events / trials)
    begin = end - bar - abs(mixture) - 1
    return math.exp(
        scipy.optimize.brentq(lambda u: mixture - _log_likelihood(u, events, trials) - bar, begin, end, xtol=1e-12)
    )


def _log_likelihood(log_p: float, events: int, trials: int) -> float:
    return events * log_p + float(special.xlog1py(trials - events, -math.exp(log_p)))


def _least_affected(events: int, trials: int, population: int, bar: float) -> int:
    """Find the least number of affected faults whose log ratio is below the bar; up to the likeliest, it falls."""
    least_likely = _log_mixture(events, trials) - bar - _SLACK + _log_falling(population, trials)
    impossible, possible = events - 1, max(events, min(events * population // trials, population - trials + events))
    while possible - impossible > 1:
        middle = (impossible + possible) // 2
        if _log_falling(middle, events) + _log_falling(population - middle, trials - events) > least_likely:
            possible = middle
        else:
            impossible = middle
    return possible


def _log_falling(n: int, draws: int) -> float:
    """Give log(n (n - 1) ... (n - draws + 1))."""
    return math.lgamma(n + 1) - math.lgamma(n - draws + 1)


@final
@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """Stop when the confidence sequence is at most ``width`` wide, at ``most`` trials at the latest.

    It is chosen before the campaign and recorded with it. ``width`` is a fraction of 1, from limit to limit;
    ``population`` is how many faults the trials are drawn from without replacement, if they are. The estimate keeps its
    confidence wherever the rule stops, and wherever somebody else does.

    >>> rule = StoppingRule(width=0.05, most=10_000)
    >>> rule.is_met(24, 2_000), rule.is_met(3, 100)
    (True, False)
    >>> rule.trials_at(0.012)
    263
    """

    width: float
    confidence: float = 0.95
    most: int | None = None
    population: int | None = None

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if not 0 < self.width < 1:
            raise InvalidInput(f"width={self.width} must be between 0 and 1: it is a difference of two rates")
        for field in ("most", "population"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InvalidInput(f"{field}={value} of StoppingRule must be at least 1")

    def estimate(self, events: int, trials: int) -> Estimate:
        """Estimate the rate from the trials so far."""
        return confidence_sequence(events, trials, confidence=self.confidence, population=self.population)

    def is_met(self, events: int, trials: int) -> bool:
        """Whether to stop after so many trials; never before the first."""
        if trials == 0:
            return False
        if trials in (self.most, self.population):
            return True
        return (self.most is not None and trials > self.most) or self.estimate(events, trials).width <= self.width

    def trials_at(self, rate: float) -> int:
        """Foresee how many trials it will take at a rate: the fewest after which the expected events meet the rule.

        Raises:
            InvalidInput: for a rate outside 0..1.
        """
        if not 0 <= rate <= 1:
            raise InvalidInput(f"rate={rate} must be from 0 to 1")
        return fewest(lambda trials: self.is_met(round(rate * trials), trials))


def fewest(enough: Callable[[int], bool]) -> int:
    """Find the fewest trials that are enough, from 1, where more are enough too."""
    short, trials = 0, 1
    while not enough(trials):
        short, trials = trials, 2 * trials
    while trials - short > 1:
        middle = (short + trials) // 2
        if enough(middle):
            trials = middle
        else:
            short = middle
    return trials
