"""Where a fault sits in a MAC array, and what the word there feeds."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple, final

from .._invalid import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What a faulty word feeds, in the terms of any array.

    A word of the ``stationary`` operand belongs to lane ``row`` and cells ``cols``; a word of the ``streaming`` operand
    belongs to lane ``row`` and is read by cells ``cols`` only. ``behind_zero_detector`` words have already been found
    zero or not: where the array gates zeros, a zero cannot be corrupted there.
    """

    operand: Literal["stationary", "streaming"]
    row: int
    cols: range
    behind_zero_detector: bool


class Site(ABC):
    """A place in a MAC array that holds or carries a word."""

    @abstractmethod
    def exposure(self, *, rows: int, cols: int) -> Exposure:
        """Say what the word feeds on an array of this size.

        Raises:
            InvalidInput: if the site is not on the array.
        """

    @abstractmethod
    def __str__(self) -> str: ...


def _check_place(*, row: int, rows: int, col: int, cols: int) -> None:
    for name, index, size in (("row", row, rows), ("col", col, cols)):
        if not 0 <= index < size:
            raise InvalidInput(f"{name}={index} is outside the {rows} x {cols} array ({name}s 0..{size - 1})")


def _half(col: int, cols: int) -> range:
    if cols % 2:
        raise InvalidInput(f"reach='half' needs an array with an even number of columns, not {cols}")
    first = col // (cols // 2) * (cols // 2)
    return range(first, first + cols // 2)


@final
@dataclass(frozen=True, kw_only=True)
class WeightRegister(Site):
    """The stationary-operand register of one multiplier, lane ``row`` of cell ``col``.

    ``stage`` is the shadow register, where a word waits for its stripe, or the active one. A permanent fault does the
    same in both.

    *Fidelity*: exact for the operand (every element held in that multiplier, zeros gated). If the corrupted word is
    infinite or NaN, a product with a zero is NaN here where the gated multiplier gives 0. Source: cycle-accurate
    simulation of NVDLA's core; ``tests/error/test_rtl.py`` compares.
    """

    row: int
    col: int
    stage: Literal["active", "shadow"] = "active"

    def __post_init__(self) -> None:
        if self.stage not in ("active", "shadow"):
            raise InvalidInput(f"stage={self.stage!r} of WeightRegister is unknown; choose one of active, shadow")

    def exposure(self, *, rows: int, cols: int) -> Exposure:
        """Expose one cell's words on one lane."""
        _check_place(row=self.row, rows=rows, col=self.col, cols=cols)
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
        _check_place(row=self.row, rows=rows, col=self.col, cols=cols)
        match self.reach:
            case "cell":
                read_by = range(self.col, self.col + 1)
            case "half":
                read_by = _half(self.col, cols)
            case "all":
                read_by = range(cols)
        return Exposure(operand="streaming", row=self.row, cols=read_by, behind_zero_detector=True)

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

    *Fidelity*: as `WeightRegister`.
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
        _check_place(row=self.row, rows=rows, col=self.col, cols=cols)
        served = range(cols) if self.reach == "all" else _half(self.col, cols)
        return Exposure(
            operand="stationary", row=self.row, cols=served, behind_zero_detector=not self.before_zero_detector
        )

    def __str__(self) -> str:
        if self.reach == "half":
            return f"weight-bus-half[{self.row},{self.col}]"
        return f"weight-bus{'-before-detector' if self.before_zero_detector else ''}[{self.row}]"


class Spelling(NamedTuple):
    """How a fault string spells a site: ``word[index,...]``, the indices being the named fields of the site."""

    build: Callable[..., Site]
    indices: tuple[str, ...]


SITES: Mapping[str, Spelling] = MappingProxyType(
    {
        "weight": Spelling(WeightRegister, ("row", "col")),
        "weight-shadow": Spelling(partial(WeightRegister, stage="shadow"), ("row", "col")),
        "weight-bus": Spelling(WeightBus, ("row",)),
        "weight-bus-half": Spelling(partial(WeightBus, reach="half"), ("row", "col")),
        "weight-bus-before-detector": Spelling(partial(WeightBus, before_zero_detector=True), ("row",)),
        "activation": Spelling(ActivationRegister, ("row", "col")),
        "activation-half": Spelling(partial(ActivationRegister, reach="half"), ("row", "col")),
        "activation-all": Spelling(partial(ActivationRegister, reach="all"), ("row",)),
    }
)
"""Every site, by its word in fault strings."""
