"""What a place in an array is: which words it holds, and what they feed."""

from abc import ABC, abstractmethod

from .._invalid import InvalidInput
from ..formats import Format
from ..hardware import Array
from ._effect import Effect
from ._exposure import AnyExposure, SumExposure


class Site(ABC):
    """A place in the hardware that holds or carries a word."""

    @abstractmethod
    def exposure(self, *, rows: int, cols: int) -> AnyExposure:
        """Say what the word feeds on an array of this size.

        Raises:
            InvalidInput: if the site is not on the array.
        """

    def acts(self, effect: Effect) -> Effect | None:
        """Say what an effect on the place does to the word it feeds; None: nothing."""
        return effect

    def check_array(self, array: Array) -> None:
        """Raise `InvalidInput` unless the array has such a place."""
        exposure = self.exposure(rows=array.rows, cols=array.cols)
        if isinstance(exposure, SumExposure):
            array.check_stage(exposure.stage, row=exposure.row, level=exposure.level, address=exposure.address)

    def check(self, effect: Effect, array: Array, format: Format) -> None:
        """Raise `InvalidInput` unless the site is on the array and the effect fits its words.

        Args:
            effect: what happens there.
            array: the array.
            format: the number format of its operands.
        """
        exposure = self.exposure(rows=array.rows, cols=array.cols)
        if isinstance(exposure, SumExposure):
            format = array.word(exposure.stage, format)
        effect.check(format)

    @abstractmethod
    def __str__(self) -> str: ...


def check_place(*, row: int, rows: int, col: int, cols: int) -> None:
    """Raise `InvalidInput` unless there is such a row and such a column."""
    for name, index, size in (("row", row, rows), ("col", col, cols)):
        if not 0 <= index < size:
            raise InvalidInput(f"{name}={index} is outside the {rows} x {cols} array ({name}s 0..{size - 1})")
