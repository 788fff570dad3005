"""Places that hold or carry an operand's word."""

from dataclasses import dataclass
from typing import Literal, final

from .._invalid import InvalidInput
from ..formats import Format
from ..hardware import Array
from ._effect import ZERO, Effect, Flip, StuckAt
from ._exposure import Exposure
from ._site import Site, check_place


def _half(col: int, cols: int) -> range:
    if cols % 2:
        raise InvalidInput(f"reach='half' needs an array with an even number of columns, not {cols}")
    first = col // (cols // 2) * (cols // 2)
    return range(first, first + cols // 2)


def _check_halves(reach: str, array: Array) -> None:
    if reach == "half" and not array.has_halves:
        raise InvalidInput(f"reach='half' is a place of NVDLA's core, not of {type(array).__name__}; use another")


@final
@dataclass(frozen=True, kw_only=True)
class WeightRegister(Site):
    """The stationary-operand register of one multiplier, lane ``row`` of cell ``col``.

    ``stage`` is the shadow register, where a word waits for its stripe, or the active one. A permanent fault does the
    same in both.

    *Fidelity*: exact for the operand (every element held in that multiplier, zeros gated). If the corrupted word is
    infinite or NaN, a product with a zero is NaN here where the gated multiplier gives 0. Source: cycle-accurate
    simulation of NVDLA's core; ``tests/validation/test_vectors.py`` compares.
    """

    row: int
    col: int
    stage: Literal["active", "shadow"] = "active"

    def __post_init__(self) -> None:
        if self.stage not in ("active", "shadow"):
            raise InvalidInput(f"stage={self.stage!r} of WeightRegister is unknown; choose one of active, shadow")

    def exposure(self, *, rows: int, cols: int) -> Exposure:
        """Expose one cell's words on one lane."""
        check_place(row=self.row, rows=rows, col=self.col, cols=cols)
        return Exposure(
            operand="stationary", row=self.row, cols=range(self.col, self.col + 1), behind_zero_detector=True
        )

    def __str__(self) -> str:
        return f"weight{'-shadow' if self.stage == 'shadow' else ''}[{self.row},{self.col}]"


@final
@dataclass(frozen=True, kw_only=True)
class ActivationRegister(Site):
    """The streaming-operand register of lane ``row``, as read by one cell, by the half of the cells that holds ``col``, or by all.

    *Fidelity*: as `WeightRegister`.
    """  # noqa: E501

    row: int
    col: int = 0
    reach: Literal["cell", "half", "all"] = "cell"

    def __post_init__(self) -> None:
        if self.reach not in ("cell", "half", "all"):
            raise InvalidInput(f"reach={self.reach!r} of ActivationRegister is unknown; choose one of cell, half, all")
        if self.reach == "all" and self.col:
            raise InvalidInput(f"col={self.col} of ActivationRegister has no meaning with reach='all'; leave it out")

    def exposure(self, *, rows: int, cols: int) -> Exposure:
        """Expose one lane's words to the cells within reach."""
        check_place(row=self.row, rows=rows, col=self.col, cols=cols)
        match self.reach:
            case "cell":
                read_by = range(self.col, self.col + 1)
            case "half":
                read_by = _half(self.col, cols)
            case "all":
                read_by = range(cols)
        return Exposure(operand="streaming", row=self.row, cols=read_by, behind_zero_detector=True)

    def check_array(self, array: Array) -> None:
        """Raise `InvalidInput` unless the array has such a place."""
        super().check_array(array)
        _check_halves(self.reach, array)

    def __str__(self) -> str:
        if self.reach == "all":
            return f"activation-all[{self.row}]"
        return f"activation{'-half' if self.reach == 'half' else ''}[{self.row},{self.col}]"


@final
@dataclass(frozen=True, kw_only=True)
class WeightBus(Site):
    """The bus that takes stationary words of lane ``row`` to all cells, or to the half of the cells that holds ``col``.

    ``before_zero_detector``: the fault sits where words are not yet known to be zero, so zeros are corrupted too. That
    stretch of the bus serves all cells.

    *Fidelity*: as `WeightRegister`. In one cycle, that a bus loads the word of one cell a cycle is an assumption.
    """

    row: int
    col: int = 0
    reach: Literal["half", "all"] = "all"
    before_zero_detector: bool = False

    def __post_init__(self) -> None:
        if self.reach not in ("half", "all"):
            raise InvalidInput(f"reach={self.reach!r} of WeightBus is unknown; choose one of half, all")
        if self.reach == "all" and self.col:
            raise InvalidInput(f"col={self.col} of WeightBus has no meaning with reach='all'; leave it out")
        if self.reach == "half" and self.before_zero_detector:
            raise InvalidInput("before_zero_detector of WeightBus needs reach='all': it splits behind the detector")

    def exposure(self, *, rows: int, cols: int) -> Exposure:
        """Expose one lane's words in the cells the bus serves."""
        check_place(row=self.row, rows=rows, col=self.col, cols=cols)
        served = range(cols) if self.reach == "all" else _half(self.col, cols)
        return Exposure(
            operand="stationary",
            row=self.row,
            cols=served,
            behind_zero_detector=not self.before_zero_detector,
            of_one_load=True,
        )

    def check_array(self, array: Array) -> None:
        """Raise `InvalidInput` unless the array has such a place."""
        super().check_array(array)
        if not array.has_bus:
            raise InvalidInput(
                f"site {self}: {type(array).__name__} passes words on from cell to cell; use weight[row,col]"
            )
        _check_halves(self.reach, array)

    def __str__(self) -> str:
        if self.reach == "half":
            return f"weight-bus-half[{self.row},{self.col}]"
        return f"weight-bus{'-before-detector' if self.before_zero_detector else ''}[{self.row}]"


@final
@dataclass(frozen=True, kw_only=True)
class OperandValid(Site):
    """The bit beside an operand register that says whether the multiplier in lane ``row`` of cell ``col`` takes part.

    Stuck at 0, or inverted, the lane adds nothing to that cell; stuck at 1, it adds a zero that it would have skipped,
    which changes nothing.

    *Fidelity*: exact, but for a partner that is infinite or NaN, whose product with 0 is NaN here.
    """

    row: int
    col: int

    def exposure(self, *, rows: int, cols: int) -> Exposure:
        """Expose one cell's words on one lane."""
        check_place(row=self.row, rows=rows, col=self.col, cols=cols)
        return Exposure(
            operand="stationary",
            row=self.row,
            cols=range(self.col, self.col + 1),
            behind_zero_detector=True,
            passes_on=False,
        )

    def bits(self, array: Array, format: Format) -> int:
        """Give 1: one bit for each kernel of the cell."""
        return 1

    def acts(self, effect: Effect) -> Effect | None:
        """Take the word for zero, where the bit comes out 0."""
        return None if effect == StuckAt(bit=0, value=1) else ZERO

    def check(self, effect: Effect, array: Array, format: Format) -> None:
        """Raise `InvalidInput` unless the effect is on the one bit that is here."""
        on_bit = (None, StuckAt(bit=0, value=0), StuckAt(bit=0, value=1), Flip(bits=(0,)))
        if any(part not in on_bit for part in self._parts(effect, array, format)):
            raise InvalidInput(f"effect '{effect}' of {self}: the place holds one bit; use bit 0, stuck-at or flip")

    def __str__(self) -> str:
        return f"valid[{self.row},{self.col}]"
