"""Events in time, or in any other exposure."""

import math

from scipy import special

from .._invalid import InvalidInput
from ._estimate import Estimate, check_confidence


def poisson_rate(events: int, exposure: float, *, confidence: float = 0.95, unit: str = "") -> Estimate:
    """Estimate how often something happens in one unit of exposure, from the events in all of it.

    The limits are the alpha / 2 quantile of a gamma distribution with shape x and the 1 - alpha / 2 quantile of one
    with shape x + 1, that is half the quantiles of chi^2 with 2x and 2x + 2 degrees of freedom, divided by the exposure
    (Garwood, Biometrika 28, 1936). Their coverage is at least nominal.

    Raises:
        InvalidInput: for numbers that cannot be.
    """
    check_confidence(confidence)
    if events < 0:
        raise InvalidInput(f"events={events} must not be negative")
    if not 0 < exposure < math.inf:
        raise InvalidInput(f"exposure={exposure} must be more than 0 and finite")
    tail = (1 - confidence) / 2
    return Estimate(
        low=float(special.gammaincinv(events, tail)) / exposure if events else 0.0,
        best=events / exposure,
        high=float(special.gammainccinv(events + 1, tail)) / exposure,
        events=events,
        confidence=confidence,
        method="garwood",
        unit=unit,
    )
