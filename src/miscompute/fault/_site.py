"""What a place in an array is: which words it holds, and what they feed."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from .._invalid import InvalidInput
from ..formats import Format
from ..hardware import Array, Stage
from ._effect import Effect


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """An operand's word that is faulty, and what it feeds, in the terms of any array.

    A word of the ``stationary`` operand belongs to lane ``row`` and cells ``cols``; a word of the ``streaming`` operand
    belongs to lane ``row`` and is read by cells ``cols`` only. ``behind_zero_detector`` words have already been found
    zero or not: where the array gates zeros, a zero cannot be corrupted there. ``of_one_load`` words cross the place
    once, on their way to be held in one cell.
    """

    operand: Literal["stationary", "streaming"]
    row: int
    cols: range
    behind_zero_detector: bool
    of_one_load: bool = False


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


class Site(ABC):
    """A place in the hardware that holds or carries a word."""

    @abstractmethod
    def exposure(self, *, rows: int, cols: int) -> Exposure | SumExposure:
        """Say what the word feeds on an array of this size.

        Raises:
            InvalidInput: if the site is not on the array.
        """

    def acts(self, effect: Effect) -> Effect | None:
        """Say what an effect on the place does to the word it feeds; None: nothing."""
        return effect

    def check(self, effect: Effect, array: Array, format: Format) -> None:
        """Raise `InvalidInput` unless the site is on the array and the effect fits its words.

        Args:
            effect: what happens there.
            array: the array.
            format: the number format of its operands.
        """
        exposure = self.exposure(rows=array.rows, cols=array.cols)
        effect.check(array.word(exposure.stage, format) if isinstance(exposure, SumExposure) else format)

    @abstractmethod
    def __str__(self) -> str: ...


def check_place(*, row: int, rows: int, col: int, cols: int) -> None:
    """Raise `InvalidInput` unless there is such a row and such a column."""
    for name, index, size in (("row", row, rows), ("col", col, cols)):
        if not 0 <= index < size:
            raise InvalidInput(f"{name}={index} is outside the {rows} x {cols} array ({name}s 0..{size - 1})")
