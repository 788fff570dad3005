"""FIT: how often a chip fails, from a campaign or from the field, and what follows for a training run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from .._invalid import InvalidInput
from ._estimate import Estimate, check_confidence
from ._meld import Term, counts, meld
from ._poisson import poisson_rate

HOURS_PER_FIT = 1e9
"""One FIT is one failure in so many device-hours."""


def observed_fit(events: int, device_hours: float, *, confidence: float = 0.95) -> Estimate:
    """Estimate a device's FIT from the failures seen in so many device-hours (devices times hours).

    Llama 3's silent corruptions, 6 in 54 days on 16,384 GPUs:

    >>> print(observed_fit(6, 16_384 * 54 * 24.0))
    283 FIT (104..615 FIT, 95 %, 6 events)
    """
    return poisson_rate(events, device_hours / HOURS_PER_FIT, confidence=confidence, unit="FIT")


def faults_per_hour(fit: float, *, devices: int = 1) -> float:
    """Give the failures to be expected in an hour on all devices together."""
    return fit * devices / HOURS_PER_FIT


def fit_from_faults_per_hour(faults_per_hour: float, *, devices: int = 1) -> float:
    """Give a device's FIT from the failures in an hour on all devices together."""
    return faults_per_hour * HOURS_PER_FIT / devices


def probability_per_step(fit: float, *, seconds_per_step: float, devices: int = 1) -> float:
    """Give the probability that an optimizer step meets a failure on any device: ``1 - exp(-expected failures)``.

    Failures are taken to be independent and equally likely at all times (a Poisson process). For an `Estimate` of FIT,
    pass this to `Estimate.map`:

    >>> fit = observed_fit(6, 16_384 * 54 * 24.0)
    >>> print(fit.map(lambda f: probability_per_step(f, seconds_per_step=4.0, devices=16_384), unit="%"))
    0.0005 % (0.0002..0.0011 %, 95 %, 6 events)
    """
    _check_step(seconds_per_step, devices)
    return -math.expm1(-faults_per_hour(fit, devices=devices) * seconds_per_step / 3600)


def fit_from_probability_per_step(probability: float, *, seconds_per_step: float, devices: int = 1) -> float:
    """Give the FIT of a device with which a step meets a failure with this probability; undoes `probability_per_step`.

    Raises:
        InvalidInput: for a probability outside 0..1, or of 1, which no rate reaches.
    """
    _check_step(seconds_per_step, devices)
    if not 0 <= probability < 1:
        raise InvalidInput(f"probability={probability} must be at least 0 and below 1, which no finite rate reaches")
    return fit_from_faults_per_hour(-math.log1p(-probability) * 3600 / seconds_per_step, devices=devices)


def _check_step(seconds_per_step: float, devices: int) -> None:
    if not 0 < seconds_per_step < math.inf:
        raise InvalidInput(f"seconds_per_step={seconds_per_step} must be more than 0 and finite")
    if devices < 1:
        raise InvalidInput(f"devices={devices} must be at least 1")


@final
@dataclass(frozen=True, kw_only=True)
class Component:
    """A part of a chip whose failures are alike.

    ``raw_share`` is its share of the chip's storage cells, so of the raw FIT; ``activeness`` is the share of the
    time in which its contents matter; ``unmasked`` is the probability that an error there is not masked, a number or
    the `rate` that a campaign measured. All are fractions of 1.
    """

    name: str
    raw_share: float
    activeness: float
    unmasked: float | Estimate

    def __post_init__(self) -> None:
        best = self.unmasked.best if isinstance(self.unmasked, Estimate) else self.unmasked
        for field, value in (("raw_share", self.raw_share), ("activeness", self.activeness), ("unmasked", best)):
            if not 0 <= value <= 1:
                raise InvalidInput(f"{field}={value} of component {self.name!r} must be from 0 to 1")
        if isinstance(self.unmasked, Estimate):
            counts(self.unmasked)  # refuses what has none


def fit(raw_fit: float, components: Sequence[Component], *, confidence: float = 0.95) -> Estimate:
    """Give the FIT of components together: the sum of ``raw FIT x share x activeness x P(not masked)``.

    That is FIdelity's formula (He, Balaprakash and Li, MICRO 2020). Probabilities given as numbers are taken as exact;
    the others, from independent campaigns, give the sum a melded interval as in `stratified_rate`.

    Raises:
        InvalidInput: if the shares add up to more than 1, or ``raw_fit`` is negative.

    >>> from miscompute.analysis import rate
    >>> control = Component(name="global control", raw_share=0.081, activeness=0.32, unmasked=rate(182, 2_500))
    >>> print(fit(600.0, [control]))
    1.13 FIT (0.98..1.30 FIT, 95 %, 182 of 2,500)
    """
    check_confidence(confidence)
    if not 0 <= raw_fit < math.inf:
        raise InvalidInput(f"raw_fit={raw_fit} must be finite and not negative")
    if not components:
        raise InvalidInput("components must not be empty")
    if sum(component.raw_share for component in components) > 1 + 1e-9:
        raise InvalidInput("the raw_share of all components must not exceed 1 together")
    known, terms = 0.0, []
    for component in components:
        scale = raw_fit * component.raw_share * component.activeness
        if isinstance(component.unmasked, Estimate):
            terms.append(Term(scale, *counts(component.unmasked)))
        else:
            known += scale * component.unmasked
    return meld(terms, confidence=confidence, unit="FIT").map(lambda measured: known + measured)
