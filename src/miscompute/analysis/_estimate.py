"""A number with its uncertainty."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

from .._invalid import InvalidInput


@final
@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What was measured, between the limits of its confidence interval.

    ``events`` of ``trials`` is what it was measured from, where that is one pair of numbers. ``method`` names the
    interval. ``unit`` is how it is printed: ``"%"`` for a fraction of 1 (all fields stay fractions), ``""`` for a plain
    number, anything else is put behind the numbers.

    >>> print(Estimate(low=0.0077, best=0.012, high=0.0178, events=24, trials=2000, confidence=0.95, method="any"))
    1.2 % (0.8..1.8 %, 95 %, 24 of 2,000)
    >>> print(Estimate(low=103.7, best=282.6, high=615.0, events=6, confidence=0.95, method="any", unit="FIT"))
    283 FIT (104..615 FIT, 95 %, 6 events)
    """

    low: float
    best: float
    high: float
    confidence: float
    method: str
    events: int | None = None
    trials: int | None = None
    unit: str = "%"

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if not self.low <= self.best <= self.high:  # so written that NaN is refused too
            raise InvalidInput(f"low={self.low}, best={self.best}, high={self.high} of Estimate must not decrease")
        if self.events is not None and self.trials is not None:
            check_events(self.events, self.trials)

    @property
    def width(self) -> float:
        """From the lower to the upper limit."""
        return self.high - self.low

    def __contains__(self, value: float) -> bool:
        return bool(self.low <= value <= self.high)

    def map(self, increasing: Callable[[float], float], *, unit: str | None = None) -> "Estimate":
        """Give the estimate of an increasing function of what was estimated; its limits are the limits' images.

        >>> estimate = Estimate(low=1.0, best=2.0, high=4.0, confidence=0.95, method="any", unit="FIT")
        >>> print(estimate.map(lambda fit: 16_384 * fit))
        32,768 FIT (16,384..65,536 FIT, 95 %)
        """
        return replace(
            self,
            low=increasing(self.low),
            best=increasing(self.best),
            high=increasing(self.high),
            unit=self.unit if unit is None else unit,
        )

    def __str__(self) -> str:
        scale, unit = (100, " %") if self.unit == "%" else (1, f" {self.unit}" if self.unit else "")
        numbers = [scale * value for value in (self.low, self.best, self.high)]
        low, best, high = (_text(number, numbers) for number in numbers)
        text = f"{best}{unit} ({low}..{high}{unit}, {100 * self.confidence:.4g} %"
        if self.events is not None:
            text += f", {self.events:,} " + ("events" if self.trials is None else f"of {self.trials:,}")
        return text + ")"


def _text(number: float, numbers: list[float]) -> str:
    """Write a number with as many places as the spread of all deserves: 5 to 50 units of the last across."""
    finite = [n for n in numbers if math.isfinite(n)]
    spread = max(finite) - min(finite) if len(finite) > 1 else 0.0
    if not math.isfinite(number) or spread <= 1e-12 * max(map(abs, finite)):
        return f"{number:.12g}"
    places = -math.floor(math.log10(spread / 5))
    if places > 6:
        digits = max(1, places + math.floor(math.log10(max(map(abs, finite)))) + 1)
        return f"{number:.{digits}g}"
    return f"{number:,.{max(0, places)}f}"


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that is not between 0 and 1."""
    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence={confidence} must be between 0 and 1, for example 0.95")


def check_events(events: int, trials: int) -> None:
    """Refuse numbers of events and trials that cannot be."""
    if trials < 1:
        raise InvalidInput(f"trials={trials} must be at least 1: nothing is known before the first")
    if not 0 <= events <= trials:
        raise InvalidInput(f"events={events} must be from 0 to trials={trials}")
