"""How many faults to try, when that is fixed beforehand."""

import math

from scipy import special

from .._invalid import InvalidInput
from ._binomial import rate
from ._estimate import check_confidence
from ._sequential import fewest


def leveugle(population: int, *, margin: float, confidence: float = 0.95, rate: float = 0.5) -> int:
    """Give the sample size that fault-injection papers state: for an expected rate, to within ``margin`` on both sides.

    ``n = N / (1 + e^2 (N - 1) / (t^2 p (1 - p)))`` (Leveugle et al., DATE 2009), with t the normal quantile to three
    decimals as tables print it (1.960, 2.576), rounded up, since fewer would miss the margin. Published numbers are
    sometimes rounded down. It is Wald's interval solved for n, so it promises too much where events are rare: with p
    far from 0.5 use `trials_for`.

    Raises:
        InvalidInput: for numbers that cannot be.

    >>> leveugle(4_063_170, margin=0.05), leveugle(4_063_170, margin=0.01)
    (385, 9582)
    """
    check_confidence(confidence)
    if population < 1:
        raise InvalidInput(f"population={population} must be at least 1 fault")
    if not 0 < margin < 1:
        raise InvalidInput(f"margin={margin} must be between 0 and 1, for example 0.01 for one percent")
    if not 0 < rate < 1:
        raise InvalidInput(f"rate={rate} must be between 0 and 1; 0.5 needs the most trials and is safe")
    t = round(float(special.ndtri((1 + confidence) / 2)), 3)
    return math.ceil(population / (1 + margin**2 * (population - 1) / (t**2 * rate * (1 - rate))))


def trials_for(
    width: float,
    *,
    at_rate: float,
    confidence: float = 0.95,
    method: str = "clopper-pearson",
    population: int | None = None,
) -> int:
    """Find how many trials make the interval of `rate` at most ``width`` wide, if the expected events happen.

    The expected number of events is rounded, so a few trials more or less make no difference.

    Raises:
        InvalidInput: for numbers that cannot be.

    >>> trials_for(0.02, at_rate=0.5), trials_for(0.01, at_rate=0.012), trials_for(0.001, at_rate=0.0)
    (9701, 2059, 3688)
    """
    if not 0 < width < 1:
        raise InvalidInput(f"width={width} must be between 0 and 1: it is a difference of two rates")
    if not 0 <= at_rate <= 1:
        raise InvalidInput(f"at_rate={at_rate} must be from 0 to 1")

    def enough(trials: int) -> bool:
        if trials == population:
            return True
        found = rate(round(at_rate * trials), trials, confidence=confidence, method=method, population=population)
        return found.width <= width

    return fewest(enough)
