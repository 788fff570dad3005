"""MAC arrays: geometry, schedule, and which operand each pass holds in the cells."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, get_args

from .._invalid import InvalidInput
from ..formats import Format, format_named
from ._layer import Layer, Operand, Pass
from ._schedule import Moment, Schedule, taps_of
from ._swizzle import NoSwizzle, Swizzle, swizzle_named

Stage = Literal["product", "node", "partial_sum", "accumulator", "output"]
"""A word on the way from two operands to a result.

``product``: one multiplier's; ``node``: the sum of some of a cell's products; ``partial_sum``: of all of them, what a
cell puts out in a cycle; ``accumulator``: the running sum of partial sums; ``output``: the finished result.
"""

STAGES: tuple[Stage, ...] = get_args(Stage)


class Every(NamedTuple):
    """A condition on an index: ``(index - first) mod step < width``."""

    first: int
    step: int
    width: int = 1


Conditions = ReadOnlyDict[str, Every]
"""Conditions on the indices of named dimensions; those that are not named are free."""


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """How one pass lies on an array.

    The ``stationary`` operand is held in the cells for a stripe, the ``streaming`` operand passes by. Dimension
    ``lane`` is summed over and dealt to the rows; dimension ``cell`` is dealt to the columns. ``image`` is the other
    dimension of the result: the array finishes one index of it after another.
    """

    stationary: Operand
    streaming: Operand
    lane: str
    cell: str
    image: str


@dataclass(frozen=True, kw_only=True)
class Array(ABC):
    """A MAC array: ``rows`` input-channel lanes by ``cols`` cells (output channels in flight).

    Args:
        rows: multipliers in a cell; lane ``c`` multiplies channels with index c modulo rows (before swizzling).
        cols: cells; cell ``k`` computes output channels with index k modulo cols, or several neighbours (`kernels`).
        format: number format of the operand registers. None: that of the tensor's own dtype. A format that differs from
            the dtype rounds both operands of every pass.
        zero_gate: whether a product with an operand that is exactly 0 is masked, whatever the operand registers say.
        swizzle: how channels move over the lanes.
    """

    im2col: ClassVar[bool] = False  # whether a convolution is computed as the matrix product `Layer.as_matmul`
    saturates: ClassVar[bool] = False  # whether integer sums stay at the largest number they hold; else they wrap
    has_bus: ClassVar[bool] = True  # whether stationary words come to all cells over one bus a lane
    has_halves: ClassVar[bool] = False  # whether operands come to the cells over two branches, one for each half
    loads_in_order: ClassVar[bool] = False  # whether the words of an operation are loaded cell by cell, one a cycle
    adds_in_a_chain: ClassVar[bool] = False  # row after row; else in a binary tree of neighbours
    no_places: ClassVar[str] = ""  # why registers and adders cannot be named, and what can; empty: they can

    rows: int
    cols: int
    format: Format | None = None
    zero_gate: bool = True
    swizzle: Swizzle = field(default_factory=NoSwizzle)

    def __post_init__(self) -> None:
        for name in ("rows", "cols"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name}={getattr(self, name)} of an array must be at least 1")
        if isinstance(self.format, str):
            object.__setattr__(self, "format", format_named(self.format))
        if isinstance(self.swizzle, str):
            object.__setattr__(self, "swizzle", swizzle_named(self.swizzle))

    @abstractmethod
    def mapping(self, pass_: Pass) -> Mapping:
        """Say which operand a pass holds in the cells and how its dimensions lie on rows and columns."""

    @abstractmethod
    def stripes(self, pixels: int) -> tuple[range, ...]:
        """Split an image's result positions, in linear order, into stripes: runs with the weights held in place."""

    def stripes_of(self, layer: Layer, pass_: Pass) -> tuple[range, ...]:
        """Give the stripes of an image of a layer as seen by the array; a linear layer's images are pixels of one."""
        if layer.size:
            return self.stripes(math.prod(layer.positions(pass_)))
        return self.stripes({"n": layer.n, "ic": layer.ic, "oc": layer.oc}[self.mapping(pass_).image])

    def seen(self, layer: Layer, pass_: Pass) -> Layer:
        """Give the layer as the array computes a pass of it: by im2col, as a matrix product. Seen again, it stays."""
        return layer.as_matmul() if self.im2col else layer

    @property
    def kernels(self) -> int:
        """How many kernels a cell computes at once, their words side by side in each of its own."""
        return 1

    @property
    def kernels_in_flight(self) -> int:
        """How many kernels all cells compute at once: kernel k is one of cell k // ``kernels``."""
        return self.cols * self.kernels

    @property
    def depth(self) -> int:
        """How many products a cell adds up in one cycle."""
        return self.rows

    def schedule(self, layer: Layer, pass_: Pass) -> Schedule:
        """Lay a pass of a layer out in cycles."""
        mapping, layer = self.mapping(pass_), self.seen(layer, pass_)
        sizes = {"n": layer.n, "ic": layer.ic, "oc": layer.oc}
        return Schedule(
            batch=layer.batch,
            groups=-(-sizes[mapping.cell] // self.kernels_in_flight),
            images=sizes[mapping.image] if layer.size else 1,  # the images of a linear layer are the pixels of one
            stripes=self.stripes_of(layer, pass_),
            blocks=-(-sizes[mapping.lane] // self.depth),
            taps=math.prod(taps_of(layer, mapping.stationary)),
        )

    @abstractmethod
    def node(self, row: int, level: int) -> range:
        """Give the lanes whose products an adder node sums up.

        Raises:
            InvalidInput: if there is no such node.
        """

    def check_stage(self, stage: Stage, *, row: int = 0, level: int = 0, address: int | None = None) -> None:
        """Raise `InvalidInput` unless a word of a stage is at a place of the array.

        Args:
            stage: which word.
            row: of the multiplier, of the adder node, of the accumulator where each row has one.
            level: of the adder node.
            address: of the accumulator's entry; None: all.
        """
        if stage == "node":
            self.node(row, level)
        if stage == "accumulator" and row:
            raise InvalidInput(
                f"row={row} of an accumulator: this array has one accumulator a column; use accumulator[col]"
            )

    @abstractmethod
    def word(self, stage: Stage, format: Format) -> Format:
        """Give the word of a stage when the operands are words of a format.

        Raises:
            InvalidInput: if the array's arithmetic in this format is not known.
        """

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
        """Say which elements of an operand pass a place, and which results are computed from them there.

        Args:
            mapping: how the pass lies on the array.
            operand: which of the two.
            lane: the channels on the lane of the place.
            row: the place's row.
            cols: the cells that the word is held in, or that read it; their kernels, where a cell has several.
            passes_on: whether the word goes on from there, where the array passes words on.
        """
        lanes, cells = {mapping.lane: lane}, self.cells(mapping, row, cols)
        return (lanes | cells, {}) if operand == "stationary" else (lanes, cells)

    def cells(self, mapping: Mapping, row: int, cols: range) -> dict[str, Every]:
        """Say which results some cells compute. ``row`` matters where results stay in place."""
        all_cells = self.kernels_in_flight
        return {} if len(cols) == all_cells else {mapping.cell: Every(cols.start, all_cells, len(cols))}

    def touched(
        self,
        word: Literal["stationary", "streaming", "result"],
        moment: Moment,
        stripe: range,
        *,
        row: int,
        cols: range,
    ) -> tuple[range, range]:
        """Say which results are computed in a cycle from a word at a place: of which positions, and of which cells.

        Args:
            word: an operand's word, or one on the way to a result.
            moment: the cycle.
            stripe: the positions of its stripe.
            row: the place's row.
            cols: the cells that the word is held in, or that read it; their kernels, where a cell has several.
        """
        first = moment.group * self.kernels_in_flight
        return range(moment.pixel, moment.pixel + 1), range(first + cols.start, first + cols.stop)

    def lanes(self, *, step: int, layer: int = 0, stripe: int = 0) -> tuple[int, ...]:
        """Give the lane of each channel of a block of ``rows`` channels (`Swizzle.lanes`)."""
        return self.swizzle.lanes(self.rows, step=step, layer=layer, stripe=stripe)


WEIGHT_PASSES: ReadOnlyDict[Pass, Mapping] = MappingProxyType(
    {
        "forward": Mapping(stationary="weight", streaming="input", lane="ic", cell="oc", image="n"),
        "grad_input": Mapping(stationary="weight", streaming="grad_output", lane="oc", cell="ic", image="n"),
    }
)
"""How the passes that read the weight lie on an array that holds it."""

GRAD_WEIGHT: ReadOnlyDict[str, Mapping] = MappingProxyType(
    {
        "A": Mapping(stationary="grad_output", streaming="input", lane="n", cell="oc", image="ic"),
        "B": Mapping(stationary="input", streaming="grad_output", lane="n", cell="ic", image="oc"),
    }
)
"""The two ways a weight gradient can lie on an array: which operand is held."""


def mapping_of(pass_: Pass, grad_weight: Literal["A", "B"]) -> Mapping:
    """Say how a pass lies on an array that holds the weight where it is read, else what ``grad_weight`` says."""
    return GRAD_WEIGHT[grad_weight] if pass_ == "grad_weight" else WEIGHT_PASSES[pass_]
