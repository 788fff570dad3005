"""What a faulty place feeds, in the terms of any array: what sites say and lowering reads."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..hardware import Operand, Stage


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """An operand's word that is faulty, and what it feeds, in the terms of any array.

    A word of the ``stationary`` operand belongs to lane ``row`` and cells ``cols``; a word of the ``streaming`` operand
    belongs to lane ``row`` and is read by cells ``cols`` only. ``behind_zero_detector`` words have already been found
    zero or not: where the array gates zeros, a zero cannot be corrupted there. ``of_one_load`` words cross the place
    once, on their way to be held in one cell. Words that a cell ``passes_on`` are wrong in the cells behind it too.
    """

    operand: Literal["stationary", "streaming"]
    row: int
    cols: range
    behind_zero_detector: bool
    of_one_load: bool = False
    passes_on: bool = True


@dataclass(frozen=True, kw_only=True)
class SumExposure:
    """A word on the way to a result that is faulty: which stage, of which cell.

    ``row`` and ``level`` say which multiplier or adder node; ``address`` which entry of the accumulator's memory, one
    for each position of a stripe (None: all).
    """

    stage: Stage
    col: int
    row: int = 0
    level: int = 0
    address: int | None = None


Store = Literal["weight", "gradient", "optimizer", "statistics", "activation"]
"""What a training keeps in memory between computations."""

STORES: tuple[Store, ...] = get_args(Store)


@dataclass(frozen=True, kw_only=True)
class MemoryExposure:
    """Words in memory: ``length`` elements of a stored tensor, in the order of memory, from ``first`` on."""

    store: Store
    name: str
    state: str
    first: int
    length: int


@dataclass(frozen=True, kw_only=True)
class ElementExposure:
    """Elements of an operand or of the result of a pass, in the order of memory, from ``first`` on."""

    of: Operand | Literal["result"]
    first: int
    length: int


AnyExposure = Exposure | SumExposure | MemoryExposure | ElementExposure
