"""Systolic arrays: grids of processing elements (PEs) that pass operands and sums on to their neighbours."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

from .._invalid import InvalidInput
from ..formats import FORMATS, Format, format_named, integer
from ._array import Array, Conditions, Every, Mapping, Stage, mapping_of
from ._layer import Layer, Pass
from ._schedule import Moment, Schedule
from ._swizzle import NoSwizzle, Swizzle, swizzle_named


def wide_word(stage: Stage, format: Format) -> Format:
    """Give the word of a stage where sums are formed in 32 bits: int32 of int8 operands, fp32 of floating-point ones.

    A product of int8 operands has 16 bits.
    """
    if format.is_float:
        return FORMATS["fp32"]
    if format.bits != 8:
        raise InvalidInput(f"format={format.name}: sums are known for int8 and floating-point operands")
    return integer(16 if stage == "product" else 32)


@final
@dataclass(frozen=True, kw_only=True)
class WeightStationary(Array):
    """A weight-stationary systolic array, as in the first TPU (Jouppi et al., ISCA 2017).

    A product of matrices, (m, k) by (k, n), is cut into tiles: PE (row, col) holds B[k % rows == row, n % cols == col]
    while all m pass. Words of A enter on the left and are passed on to the right, from cell to cell; partial sums are
    passed down a column, each PE adding its product, and leave at the bottom, where an accumulator sums up the tiles of
    k. Elements beyond the ends of a ragged tile hold zeros and pass partial sums on like others, so a fault in an idle
    PE's adder corrupts its column. Zeros are not gated.

    A convolution runs as the matrix product that im2col makes of it (`Layer.as_matmul`); the input's gradient is
    brought back by col2im outside the array. Skew between rows is not modelled: a cycle is one row of A in one tile.
    """

    im2col: ClassVar[bool] = True
    adds_in_a_chain: ClassVar[bool] = True

    zero_gate: bool = False

    def mapping(self, pass_: Pass) -> Mapping:
        """Say which operand a pass holds in the PEs and how its dimensions lie on rows and columns."""
        return mapping_of(pass_, "A")

    def stripes(self, pixels: int) -> tuple[range, ...]:
        """Hold a tile for all rows of A.

        >>> WeightStationary(rows=4, cols=4).stripes(100)
        (range(0, 100),)
        """
        return (range(pixels),)

    def node(self, row: int, level: int) -> range:
        """Give the rows whose products the adder of a row has summed up: itself and those above."""
        if level != 1:
            raise InvalidInput(
                f"level={level} of an adder: a systolic column is a chain, one adder a row; leave it out"
            )
        return range(row + 1)

    def word(self, stage: Stage, format: Format) -> Format:
        """Give the word of a stage (`wide_word`)."""
        return wide_word(stage, format)

    def reach(
        self,
        mapping: Mapping,
        operand: Literal["stationary", "streaming"],
        *,
        lane: Every,
        row: int,
        cols: range,
        passes_on: bool = True,
    ) -> tuple[Conditions, Conditions]:
        """Say as `Array.reach`, a streaming word being passed on to all cells to the right."""
        onward = range(cols.start, self.cols) if operand == "streaming" and passes_on else cols
        return super().reach(mapping, operand, lane=lane, row=row, cols=onward)

    def touched(
        self,
        word: Literal["stationary", "streaming", "result"],
        moment: Moment,
        stripe: range,
        *,
        row: int,
        cols: range,
    ) -> tuple[range, range]:
        """Say as `Array.touched`, a streaming word being passed on to all cells to the right."""
        onward = range(cols.start, self.cols) if word == "streaming" else cols
        return super().touched(word, moment, stripe, row=row, cols=onward)


@final
@dataclass(frozen=True, kw_only=True)
class OutputStationary(Array):
    """An output-stationary systolic array: PE (row, col) owns C[m % rows == row, n % cols == col] for all k.

    Words of A enter on the left and are passed on to the right, words of B enter at the top and are passed down, so a
    faulty operand register corrupts what its PE and all PEs behind it read. The accumulator of a PE corrupts its own
    results only. Zeros are not gated; convolutions run as with `WeightStationary`. ``row`` of a site is the PE's row,
    also where it says "lane"; the stationary operand of a pass is the one that is passed down here.
    """

    im2col: ClassVar[bool] = True
    has_bus: ClassVar[bool] = False
    adds_in_a_chain: ClassVar[bool] = True

    zero_gate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.swizzle, NoSwizzle):
            raise InvalidInput(
                f"swizzle={self.swizzle} of an output-stationary array: it has no lanes to move channels over"
            )

    @property
    def depth(self) -> int:
        """How many products a PE adds up in one cycle: one."""
        return 1

    def mapping(self, pass_: Pass) -> Mapping:
        """Say which operand of a pass is passed down (stationary) and which to the right (streaming)."""
        return mapping_of(pass_, "A")

    def stripes(self, pixels: int) -> tuple[range, ...]:
        """Compute the results of ``rows`` rows of A at once: the cycles of a stripe are those of its tile.

        >>> OutputStationary(rows=4, cols=4).stripes(10)
        (range(0, 4), range(4, 8), range(8, 10))
        """
        return tuple(range(first, min(first + self.rows, pixels)) for first in range(0, pixels, self.rows))

    def node(self, row: int, level: int) -> range:
        """Refuse: the only adder of a PE is its accumulator."""
        raise InvalidInput("an output-stationary PE has no adder but its accumulator; use accumulator-pe[row,col]")

    def check_stage(self, stage: Stage, *, row: int = 0, level: int = 0, address: int | None = None) -> None:
        """Raise `InvalidInput` unless a PE has the word: its product and its running sum."""
        if stage == "node":
            self.node(row, level)
        if stage in ("partial_sum", "output") or address is not None:
            raise InvalidInput(
                f"an output-stationary array has no {stage.replace('_', ' ')} of a column"
                f"{'' if address is None else ' with addresses'}; use product[row,col] or accumulator-pe[row,col]"
            )

    def word(self, stage: Stage, format: Format) -> Format:
        """Give the word of a stage (`wide_word`)."""
        return wide_word(stage, format)

    def lanes(self, *, step: int, layer: int = 0, stripe: int = 0) -> tuple[int, ...]:
        """Give the one lane there is: every PE multiplies all channels, one after another."""
        return (0,)

    def reach(
        self,
        mapping: Mapping,
        operand: Literal["stationary", "streaming"],
        *,
        lane: Every,
        row: int,
        cols: range,
        passes_on: bool = True,
    ) -> tuple[Conditions, Conditions]:
        """Say as `Array.reach`: a word is passed on down its column, or to the right along its row."""
        below = range(row, self.rows if passes_on else row + 1)
        right = range(cols.start, self.cols if passes_on else cols.stop)
        rows = {} if len(below) == self.rows else {mapping.image: Every(row, self.rows, len(below))}
        onward = {} if len(right) == self.cols else {mapping.cell: Every(right.start, self.cols, len(right))}
        own_row, own_cols = (
            {mapping.image: Every(row, self.rows)},
            {mapping.cell: Every(cols.start, self.cols, len(cols))},
        )
        return (own_cols, rows) if operand == "stationary" else (own_row, onward)

    def schedule(self, layer: Layer, pass_: Pass) -> Schedule:
        """Lay a pass out in cycles: in each, all PEs multiply for one k. A position is a tile of ``rows`` rows."""
        fine = super().schedule(layer, pass_)
        return replace(fine, stripes=tuple(range(tile, tile + 1) for tile in range(len(fine.stripes))))

    def touched(
        self,
        word: Literal["stationary", "streaming", "result"],
        moment: Moment,
        stripe: range,
        *,
        row: int,
        cols: range,
    ) -> tuple[range, range]:
        """Say which results of a tile a word reaches: its own PE's, or those of all PEs it is passed on to."""
        top, left = moment.pixel * self.rows, moment.group * self.cols
        down = self.rows if word == "stationary" else row + 1
        right = self.cols if word == "streaming" else cols.stop
        return range(top + row, top + down), range(left + cols.start, left + right)

    def cells(self, mapping: Mapping, row: int, cols: range) -> dict[str, Every]:
        """Say which results a PE owns."""
        return {mapping.image: Every(row, self.rows), mapping.cell: Every(cols.start, self.cols, len(cols))}


def systolic(
    *,
    rows: int,
    cols: int,
    dataflow: Literal["weight-stationary", "output-stationary"] = "weight-stationary",
    format: Format | str | None = None,
    swizzle: Swizzle | str = "none",
) -> WeightStationary | OutputStationary:
    """Build a systolic array of rows x cols processing elements; formats and swizzles may be given by name.

    >>> systolic(rows=128, cols=128, format="bf16").zero_gate
    False
    """
    kinds: dict[str, type[WeightStationary | OutputStationary]] = {
        "weight-stationary": WeightStationary,
        "output-stationary": OutputStationary,
    }
    if dataflow not in kinds:
        raise InvalidInput(f"dataflow={dataflow!r} is unknown; choose one of {', '.join(kinds)}")
    return kinds[dataflow](
        rows=rows,
        cols=cols,
        format=format_named(format) if isinstance(format, str) else format,
        swizzle=swizzle_named(swizzle) if isinstance(swizzle, str) else swizzle,
    )
