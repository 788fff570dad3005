"""Advice: which stored bits to protect so that little PVF is left, for as few protected bits as possible."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ._faults import Protection
from ._result import Division, Vulnerability, bit_of, by_channel, by_word

Items = tuple[list[str], Int64[np.ndarray, "elements bits"]]


class _Unit(NamedTuple):
    """``items``: from a parameter's name, shape and bits a word, names of items, and which one each bit is of."""

    items: Callable[[str, tuple[int, ...], int], Items]
    of_words: bool
    """Whether an item is made of whole words, so that faults of several bits are kept off as well."""


def _by_bit(name: str, shape: tuple[int, ...], bits: int) -> Items:
    return [f"{name} bit {bit}" for bit in range(bits)], np.tile(np.arange(bits), (math.prod(shape), 1))


def _of_words(division: Division) -> _Unit:
    def items(name: str, shape: tuple[int, ...], bits: int) -> Items:
        labels, keys = division(name, shape)
        return labels, np.repeat(keys[:, None], bits, 1)

    return _Unit(items, of_words=True)


def _by_cell(name: str, shape: tuple[int, ...], bits: int) -> Items:
    words, _ = by_word(name, shape)
    return [f"{word} bit {bit}" for word in words for bit in range(bits)], np.arange(len(words) * bits).reshape(
        -1, bits
    )


UNITS: Mapping[str, _Unit] = MappingProxyType(
    {
        "bit": _Unit(_by_bit, of_words=False),
        "channel": _of_words(by_channel),
        "word": _of_words(by_word),
        "cell": _Unit(_by_cell, of_words=False),
    }
)
"""What may be protected as one, by name.

``bit``: a bit of all words of a parameter, in hardened cells. ``channel``: all words of an output channel, kept twice
with parity, which says which copy is right. ``word`` and ``cell``: one word, one stored bit; what no memory offers, for
comparison: nothing is cheaper than cells.
"""


class Step(NamedTuple):
    """One thing more to protect: its name, what it costs in bits, and the PVF that is left then."""

    name: str
    bits: int
    remaining: float


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Advice:
    """What to protect for a target PVF.

    Args:
        by: of `UNITS`.
        target: the PVF that should be left at most.
        pvf: without protection.
        stored_bits: of all parameters that were measured.
        steps: what to protect, the most useful for its bits first, up to the target.
        curve: the same beyond the target, until all failures that were found are prevented: bits, and PVF left.
        at_least: bits that no choice of these items can do with, since parts of items would not be enough.
        protection: of the steps, for `vulnerability`, which measures what is really left.
    """

    by: str
    target: float
    pvf: float
    stored_bits: int
    steps: tuple[Step, ...]
    curve: tuple[tuple[int, float], ...]
    at_least: float
    protection: Protection

    @property
    def bits(self) -> int:
        """What the steps cost: bits that are hardened, or kept a second time."""
        return sum(step.bits for step in self.steps)

    @property
    def remaining(self) -> float:
        """The PVF that is left after the steps, as far as the faults that were tried say."""
        return self.steps[-1].remaining if self.steps else self.pvf


def units_for(result: Vulnerability) -> tuple[str, ...]:
    """Name the units of `UNITS` by which what was measured can be protected: all, but for faults of several bits."""
    one_bit = all(bit_of(result, effect) is not None for effect in result.effects)
    return tuple(name for name, unit in UNITS.items() if unit.of_words or one_bit)


def advise(result: Vulnerability, target: float, *, by: str = "bit", criterion: str | None = None) -> Advice:
    """Choose what to protect so that the PVF falls to a target, at least cost in bits.

    A fault of a protected bit does nothing. Items are taken by failures prevented for each bit. No fault is in two
    items, so what they prevent adds up, and taking them so is optimal if the last one may be taken in part; whole
    items cost at most the last one's bits more than the best choice (`Advice.at_least` is the bound from below).

    Of faults that were drawn, items are chosen by what happened to be seen, which flatters them: the PVF that is left
    is found only by measuring again, with other faults: ``vulnerability(..., protection=advice.protection, seed=...)``.

    Args:
        result: what was measured.
        target: the PVF to reach, as a share of 1.
        by: of `UNITS`; ``bit`` and ``cell`` are for faults of one bit.
        criterion: without one, the first.

    Raises:
        InvalidInput: for a target outside 0..1, an unknown unit or criterion, or faults of several bits by bits.
    """
    if not 0 <= target <= 1:
        raise InvalidInput(f"target={target} must be a share from 0 to 1: the PVF that may be left")
    if by not in UNITS:
        raise InvalidInput(f"by={by!r} is unknown; choose from {', '.join(UNITS)}")
    unit, bits = UNITS[by], result.format.bits
    columns = [bit_of(result, effect) for effect in result.effects]
    if by not in units_for(result):
        raise InvalidInput(f"by={by!r} is for faults of one bit, and these have others; choose channel or word")
    names: list[str] = []
    prevented: list[NDArray[np.float64]] = []
    costs: list[NDArray[np.int64]] = []
    keys: dict[str, NDArray[np.int64]] = {}
    pairs = len(columns) * sum(math.prod(shape) for shape in result.shapes.values()) * result.inferences
    for name, table in result.failures(criterion).items():
        labels, found = unit.items(name, result.shapes[name], bits)
        keys[name] = found + len(names)
        numbers = table.clamp(min=0).numpy() * (result.stands_for(name) / pairs)  # what they add to the PVF
        at = found[:, :1].repeat(len(columns), 1) if unit.of_words else found[:, [one or 0 for one in columns]]
        gain = np.bincount(at.ravel(), weights=numbers.ravel(), minlength=len(labels))
        prevented.append(gain.astype(np.float64))
        costs.append(np.bincount(found.ravel(), minlength=len(labels)).astype(np.int64))
        names += labels
    gains, prices = np.concatenate(prevented), np.concatenate(costs)
    whole = float(gains.sum())
    order = np.argsort(-gains / prices, kind="stable")
    order = order[gains[order] > 0]
    left = np.maximum(whole - np.cumsum(gains[order]), 0.0)
    spent = np.cumsum(prices[order])
    wanted = 0 if whole <= target else int(np.searchsorted(-left, -(target + 1e-12 * whole))) + 1
    wanted = min(wanted, len(order))
    chosen = set(order[:wanted].tolist())
    at_least = 0.0
    if wanted:
        last = order[wanted - 1]
        before = float(left[wanted - 2]) if wanted > 1 else whole
        share = min(1.0, (before - target) / float(gains[last]))
        at_least = float(spent[wanted - 1] - prices[last]) + share * float(prices[last])
    return Advice(
        by=by,
        target=target,
        pvf=whole,
        stored_bits=bits * sum(math.prod(shape) for shape in result.shapes.values()),
        steps=tuple(Step(names[at], int(prices[at]), float(left[place])) for place, at in enumerate(order[:wanted])),
        curve=((0, whole), *((int(cost), float(rest)) for cost, rest in zip(spent, left, strict=True))),
        at_least=at_least,
        protection=Protection(masks={name: _mask(found, chosen) for name, found in keys.items()}),
    )


def _mask(items: NDArray[np.int64], chosen: set[int]) -> tuple[int, ...]:
    protected = np.isin(items, list(chosen))
    places = np.uint64(1) << np.arange(items.shape[1], dtype=np.uint64)
    return tuple((protected * places).sum(1, dtype=np.uint64).tolist())
