"""From PVF to FIT: how often upsets of a memory make a model's inferences wrong."""

import math
from functools import partial
from operator import mul
from typing import NamedTuple

from .._invalid import InvalidInput
from ..analysis import Estimate
from ..fault import Flip
from ._result import Vulnerability

MEGABIT = 1 << 20
"""Bits of a megabit, as memories are sized; some publications mean 1,000,000, which is 5 % less."""


class FitRow(NamedTuple):
    """Stored bits taken together, and how often their upsets matter.

    ``raw``: upsets of the bits while they matter, in FIT. ``inference``: those after which a random inference is wrong.
    ``any``: those after which at least one of the inferences measured is.
    """

    name: str
    bits: int
    raw: float
    inference: Estimate
    any: Estimate


def model_fit(
    result: Vulnerability,
    fit_per_megabit: float,
    *,
    exposure: float = 1.0,
    by: str = "model",
    criterion: str | None = None,
    confidence: float = 0.95,
) -> tuple[FitRow, ...]:
    """Compose PVF, raw FIT and exposure: ``FIT = bits x FIT per bit x exposure x PVF``.

    That is the derating of architectural vulnerability factors (Mukherjee et al., MICRO 2003) with the PVF for the part
    that the model masks. Upsets are taken to be rare, so that no two meet. Intervals are the PVF's, for every row by
    itself: the raw FIT and the exposure are taken as exact.

    Args:
        result: of flips of one bit, all bits of a word.
        fit_per_megabit: raw upsets of 2**20 bits in a billion hours.
        exposure: the share of upsets that are read before they are overwritten, corrected or scrubbed; 0 to 1.
        by: as of `Vulnerability.rows`.
        criterion: without one, the first.
        confidence: of the intervals.

    Raises:
        InvalidInput: if other faults were measured, or a number cannot be.

    >>> import torch
    >>> from miscompute.pvf import vulnerability
    >>> result = vulnerability(torch.nn.Linear(4, 2), torch.ones(3, 4), engine="brute")
    >>> (row,) = model_fit(result, 600.0, exposure=0.5)
    >>> row.bits, round(row.raw, 4)
    (320, 0.0916)
    """
    if not 0 <= fit_per_megabit < math.inf:
        raise InvalidInput(f"fit_per_megabit={fit_per_megabit} must be finite and not negative")
    if not 0 <= exposure <= 1:
        raise InvalidInput(f"exposure={exposure} must be from 0 to 1: a share of the upsets")
    flips = {effect.bits for effect in result.effects if isinstance(effect, Flip)}
    if flips != {(bit,) for bit in range(result.format.bits)} or len(flips) != len(result.effects):
        raise InvalidInput("FIT is of upsets of single bits, and these are other faults; measure kinds=('flip',)")
    found = []
    for row in result.rows(by, criterion, confidence=confidence):
        raw = row.population * fit_per_megabit / MEGABIT * exposure
        inference, any_ = (one.map(partial(mul, raw), unit="FIT") for one in (row.pvf, row.critical))
        found.append(FitRow(row.name, row.population, raw, inference, any_))
    return tuple(found)
