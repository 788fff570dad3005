"""What a place in an array is: which words it holds, and what they feed."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TypeGuard

from .._invalid import InvalidInput
from ..formats import Format
from ..hardware import Array
from ._effect import Effect, Flip, StuckAt
from ._exposure import AnyExposure, Exposure, SumExposure


class Site(ABC):
    """A place in the hardware that holds or carries a word."""

    @abstractmethod
    def exposure(self, *, rows: int, cols: int) -> AnyExposure:
        """Say what the word feeds on an array of this size.

        Raises:
            InvalidInput: if the site is not on the array.
        """

    def bits(self, array: Array, format: Format) -> int:
        """Say how wide one kernel's word is at the place, where operands have a format."""
        exposure = self.exposure(rows=array.rows, cols=array.cols)
        return array.word(exposure.stage, format).bits if isinstance(exposure, SumExposure) else format.bits

    def feeds(self, effect: Effect, array: Array) -> tuple[tuple[AnyExposure, Effect], ...]:
        """Say what the word feeds on an array, and what becomes of it there: kernel by kernel, if it holds several.

        Exposures then count kernels where they say cells (`Array.kernels_in_flight`). What nothing becomes of is left
        out.

        Raises:
            InvalidInput: if the site is not on the array, or the effect is none on a word of several kernels.
        """
        exposure, many = self.exposure(rows=array.rows, cols=array.cols), array.kernels
        found: list[tuple[AnyExposure, Effect | None]]
        if _is_of_several(exposure, array):
            assert array.format is not None
            parts = self._parts(effect, array, array.format)
            cols = range(exposure.col, exposure.col + 1) if isinstance(exposure, SumExposure) else exposure.cols
            found = [
                (_of_kernel(exposure, col * many + kernel), self.acts(part))
                for col in cols
                for kernel, part in enumerate(parts)
                if part is not None
            ]
        else:
            if many > 1 and isinstance(exposure, Exposure):  # all kernels of the cells read the one word
                exposure = replace(exposure, cols=range(exposure.cols.start * many, exposure.cols.stop * many))
            found = [(exposure, self.acts(effect))]
        return tuple((exposure, effect) for exposure, effect in found if effect is not None)

    def _parts(self, effect: Effect, array: Array, format: Format) -> list[Effect | None]:
        """Say what an effect on a word does to each kernel's; None: nothing. Most words are one kernel's."""
        if not _is_of_several(self.exposure(rows=array.rows, cols=array.cols), array):
            return [effect]
        many, width = array.kernels, self.bits(array, format)
        if not isinstance(effect, StuckAt | Flip):
            raise InvalidInput(
                f"effect '{effect}' of {self}: the word holds those of {many} kernels; use stuck-at or flip on its bits"
            )
        bits = (effect.bit,) if isinstance(effect, StuckAt) else effect.bits
        if max(bits) >= many * width:
            raise InvalidInput(
                f"bit={max(bits)} is outside the {many} words of {width} bits at {self} (0..{many * width - 1}; "
                f"{width} is bit 0 of the second kernel)"
            )
        own = [tuple(bit % width for bit in bits if bit // width == kernel) for kernel in range(many)]
        if isinstance(effect, StuckAt):
            return [replace(effect, bit=some[0]) if some else None for some in own]
        return [Flip(bits=some) if some else None for some in own]

    def acts(self, effect: Effect) -> Effect | None:
        """Say what an effect on the place does to the word it feeds; None: nothing."""
        return effect

    def check_array(self, array: Array) -> None:
        """Raise `InvalidInput` unless the array has such a place."""
        somewhere = self.exposure(rows=1 << 62, cols=1 << 62)
        if array.no_places and isinstance(somewhere, Exposure | SumExposure):
            raise InvalidInput(f"site {self}: {array.no_places}")
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
        parts = self._parts(effect, array, format)
        if isinstance(exposure, SumExposure):
            format = array.word(exposure.stage, format)
        for part in parts:
            if part is not None:
                part.check(format)

    @abstractmethod
    def __str__(self) -> str: ...


def _is_of_several(exposure: AnyExposure, array: Array) -> TypeGuard[Exposure | SumExposure]:
    """Whether a word holds several kernels' side by side; a streaming operand's is one that all of them read."""
    is_own = isinstance(exposure, SumExposure) or (isinstance(exposure, Exposure) and exposure.operand == "stationary")
    return array.kernels > 1 and is_own


def _of_kernel(exposure: Exposure | SumExposure, kernel: int) -> Exposure | SumExposure:
    if isinstance(exposure, SumExposure):
        return replace(exposure, col=kernel)
    return replace(exposure, cols=range(kernel, kernel + 1))


def check_place(*, row: int, rows: int, col: int, cols: int) -> None:
    """Raise `InvalidInput` unless there is such a row and such a column."""
    for name, index, size in (("row", row, rows), ("col", col, cols)):
        if not 0 <= index < size:
            raise InvalidInput(f"{name}={index} is outside the {rows} x {cols} array ({name}s 0..{size - 1})")
