"""Places on the way from products to a result."""

from dataclasses import dataclass
from typing import final

from .._invalid import InvalidInput
from ._exposure import SumExposure
from ._site import Site, check_place


@final
@dataclass(frozen=True, kw_only=True)
class Product(Site):
    """What the multiplier in lane ``row`` of cell ``col`` puts out: 18 bits with int8 operands.

    Every product passes there, those of zeros, of padding and of unused lanes included.

    *Fidelity*: exact in integer formats, bit for bit with cycle-accurate simulation of NVDLA's core. In floating point,
    exact under the order in which `Array` says that sums are formed, in fp32.
    """

    row: int
    col: int

    def exposure(self, *, rows: int, cols: int) -> SumExposure:
        """Expose one multiplier's products."""
        check_place(row=self.row, rows=rows, col=self.col, cols=cols)
        return SumExposure(stage="product", row=self.row, col=self.col)

    def __str__(self) -> str:
        return f"product[{self.row},{self.col}]"


@final
@dataclass(frozen=True, kw_only=True)
class AdderNode(Site):
    """A node of the adders of cell ``col``: where the products of lane ``row`` and of others are summed up.

    In a tree, ``level`` 1 adds two lanes, level 2 four, and so on (`Array.node`); in a chain there is one adder a row.

    *Fidelity*: as `Product`.
    """

    row: int
    col: int
    level: int = 1

    def exposure(self, *, rows: int, cols: int) -> SumExposure:
        """Expose one node's sums."""
        check_place(row=self.row, rows=rows, col=self.col, cols=cols)
        return SumExposure(stage="node", row=self.row, col=self.col, level=self.level)

    def __str__(self) -> str:
        return f"adder[{self.row},{self.col}]" if self.level == 1 else f"adder[{self.row},{self.col},{self.level}]"


@final
@dataclass(frozen=True, kw_only=True)
class CellOutput(Site):
    """The partial sum that cell ``col`` puts out each cycle: the root of its adders.

    *Fidelity*: as `Product`.
    """

    col: int

    def exposure(self, *, rows: int, cols: int) -> SumExposure:
        """Expose one cell's partial sums."""
        check_place(row=0, rows=rows, col=self.col, cols=cols)
        return SumExposure(stage="partial_sum", col=self.col)

    def __str__(self) -> str:
        return f"cell[{self.col}]"


@final
@dataclass(frozen=True, kw_only=True)
class Accumulator(Site):
    """The adder that sums up the partial sums of cell ``col``: 34 bits with int8 operands.

    It corrupts the running sum after each partial sum but the last, whose sum leaves as the result. With ``address``
    only one entry of the accumulator's memory is faulty: the pixels with that index in their stripe. In an
    output-stationary array, whose accumulators are all over the array, ``row`` says which.

    *Fidelity*: as `Product`.
    """

    col: int
    row: int = 0
    address: int | None = None

    def __post_init__(self) -> None:
        if self.address is not None and self.address < 0:
            raise InvalidInput(f"address={self.address} of Accumulator must not be negative")
        if self.address is not None and self.row:
            raise InvalidInput(f"row={self.row} of Accumulator has no meaning with an address; leave one of them out")

    def exposure(self, *, rows: int, cols: int) -> SumExposure:
        """Expose one cell's running sums."""
        check_place(row=self.row, rows=rows, col=self.col, cols=cols)
        return SumExposure(stage="accumulator", row=self.row, col=self.col, address=self.address)

    def __str__(self) -> str:
        if self.address is not None:
            return f"accumulator-entry[{self.address},{self.col}]"
        return f"accumulator[{self.col}]" if not self.row else f"accumulator-pe[{self.row},{self.col}]"


@final
@dataclass(frozen=True, kw_only=True)
class FinalOutput(Site):
    """A finished result of cell ``col`` as it leaves the array, before the bias: 32 bits with int8 operands.

    *Fidelity*: as `Product`; in floating point exact, since nothing is summed up after it.
    """

    col: int

    def exposure(self, *, rows: int, cols: int) -> SumExposure:
        """Expose one cell's results."""
        check_place(row=0, rows=rows, col=self.col, cols=cols)
        return SumExposure(stage="output", col=self.col)

    def __str__(self) -> str:
        return f"output[{self.col}]"
