"""MAC arrays: geometry, schedule, and which operand each pass holds in the cells."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, final, get_args

from .._invalid import InvalidInput
from ..formats import FORMATS, Format, format_named
from ._layer import Layer, Operand, Pass
from ._schedule import Schedule, schedule_of
from ._swizzle import NoSwizzle, Swizzle, swizzle_named


Stage = Literal["product", "node", "partial_sum", "accumulator", "output"]
"""A word on the way from two operands to a result.

``product``: one multiplier's; ``node``: the sum of some of a cell's products; ``partial_sum``: of all of them, what a
cell puts out in a cycle; ``accumulator``: the running sum of partial sums; ``output``: the finished result.
"""

STAGES: tuple[Stage, ...] = get_args(Stage)


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
        cols: cells; cell ``k`` computes output channels with index k modulo cols.
        format: number format of the operand registers. None: that of the tensor's own dtype. A format that differs from
            the dtype rounds both operands of every pass.
        zero_gate: whether a product with an operand that is exactly 0 is masked, whatever the operand registers say.
        swizzle: how channels move over the lanes.
    """

    im2col: ClassVar[bool] = False  # whether a convolution is computed as the matrix product `Layer.as_matmul`
    adds_in_a_chain: ClassVar[bool] = False  # row after row; else in a binary tree of neighbours

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

    @property
    def depth(self) -> int:
        """How many products a cell adds up in one cycle."""
        return self.rows

    def schedule(self, layer: Layer, pass_: Pass) -> Schedule:
        """Lay a pass of a layer out in cycles."""
        mapping = self.mapping(pass_)
        return schedule_of(
            layer,
            pass_,
            stationary=mapping.stationary,
            cells=mapping.cell,
            lanes=mapping.lane,
            image=mapping.image,
            cols=self.cols,
            depth=self.depth,
            split=self.stripes,
        )

    @abstractmethod
    def node(self, row: int, level: int) -> range:
        """Give the lanes whose products an adder node sums up.

        Raises:
            InvalidInput: if there is no such node.
        """

    @abstractmethod
    def word(self, stage: Stage, format: Format) -> Format:
        """Give the word of a stage when the operands are words of a format.

        Raises:
            InvalidInput: if the array's arithmetic in this format is not known.
        """

    def readers(self, cols: range) -> range:
        """Give the cells that read the streaming registers of some cells."""
        return cols

    def lanes(self, *, step: int, layer: int = 0, stripe: int = 0) -> tuple[int, ...]:
        """Give the lane of each channel of a block of ``rows`` channels (`Swizzle.lanes`)."""
        return self.swizzle.lanes(self.rows, step=step, layer=layer, stripe=stripe)


_WEIGHT_PASSES: ReadOnlyDict[Pass, Mapping] = MappingProxyType(
    {
        "forward": Mapping(stationary="weight", streaming="input", lane="ic", cell="oc", image="n"),
        "grad_input": Mapping(stationary="weight", streaming="grad_output", lane="oc", cell="ic", image="n"),
    }
)
_GRAD_WEIGHT: ReadOnlyDict[str, Mapping] = MappingProxyType(
    {
        "A": Mapping(stationary="grad_output", streaming="input", lane="n", cell="oc", image="ic"),
        "B": Mapping(stationary="input", streaming="grad_output", lane="n", cell="ic", image="oc"),
    }
)


@final
@dataclass(frozen=True, kw_only=True)
class Nvdla(Array):
    """The direct-convolution core of the open NVIDIA Deep Learning Accelerator (NVDLA), atomic-C by atomic-K.

    The hardware manual calls ``rows`` atomic-C and ``cols`` atomic-K. Loops run, outer to inner, over kernel groups
    (OC/K), stripes of output pixels, channel blocks (IC/C), kernel rows, kernel columns and the pixels of the stripe.

    ``grad_weight`` chooses how a weight gradient is laid on the core: ``"A"`` holds the output gradient in the cells
    and streams the input, ``"B"`` the other way round. The batch is dealt to the lanes in both.

    >>> nvdla(rows=8, cols=8).mapping("grad_weight")
    Mapping(stationary='grad_output', streaming='input', lane='n', cell='oc', image='ic')
    """

    grad_weight: Literal["A", "B"] = "A"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grad_weight not in _GRAD_WEIGHT:
            raise InvalidInput(f"grad_weight={self.grad_weight!r} is unknown; choose one of A, B")

    def mapping(self, pass_: Pass) -> Mapping:
        """Say which operand a pass holds in the cells and how its dimensions lie on rows and columns."""
        return _GRAD_WEIGHT[self.grad_weight] if pass_ == "grad_weight" else _WEIGHT_PASSES[pass_]

    def stripes(self, pixels: int) -> tuple[range, ...]:
        """Split an image's result positions into stripes of 2K pixels, with NVDLA's rule for the end.

        A stripe takes 2K pixels while at least 4K remain, else all that remain if those are at most 2K, else K.

        >>> [len(stripe) for stripe in nvdla(rows=8, cols=8).stripes(49)]
        [16, 16, 8, 9]
        """
        K = self.cols
        stripes, start = [], 0
        while start < pixels:
            left = pixels - start
            length = 2 * K if left >= 4 * K else left if left <= 2 * K else K
            stripes.append(range(start, start + length))
            start += length
        return tuple(stripes)

    def node(self, row: int, level: int) -> range:
        """Give the lanes that meet at the node of a level of the adder tree: 2 at level 1, all at the root.

        >>> nvdla_small().node(5, 1), nvdla_small().node(5, 2)
        (range(4, 6), range(4, 8))
        """
        width = 1 << level
        if level < 1 or width > 2 * self.rows - 1:
            top = (self.rows - 1).bit_length()
            raise InvalidInput(f"level={level} is outside the adder tree of {self.rows} lanes (1..{top}; {top} is the root)")
        first = row // width * width
        return range(first, min(first + width, self.rows))

    def word(self, stage: Stage, format: Format) -> Format:
        """Give the word of a stage.

        With int8 operands, as in the hardware: products of 18 bits, partial sums of 16 + log2(rows), an accumulator of
        34 bits that saturates, an output of 32. With floating-point operands all are fp32: NVDLA's own fp16 arithmetic
        is block floating point (`fp16_mac`), which a tensor's operands do not spell.
        """
        if format.is_float:
            return FORMATS["fp32"]
        if format.name.partition(":")[0] != "int8":
            raise InvalidInput(f"format={format.name}: the widths of NVDLA's sums are known for int8 and floating point")
        sums = 16 + (self.rows - 1).bit_length()
        return _integer({"product": 18, "node": sums, "partial_sum": sums, "accumulator": 34, "output": 32}[stage])


def nvdla(
    *,
    rows: int,
    cols: int,
    format: Format | str | None = None,
    zero_gate: bool = True,
    swizzle: Swizzle | str = "none",
    grad_weight: Literal["A", "B"] = "A",
) -> Nvdla:
    """Build an NVDLA core of any size; formats and swizzles may be given by name.

    >>> nvdla(rows=32, cols=16, format="int8", swizzle="step").cols
    16
    """
    return Nvdla(
        rows=rows,
        cols=cols,
        format=format_named(format) if isinstance(format, str) else format,
        zero_gate=zero_gate,
        swizzle=swizzle_named(swizzle) if isinstance(swizzle, str) else swizzle,
        grad_weight=grad_weight,
    )


def nvdla_small(
    *,
    format: Format | str | None = None,
    swizzle: Swizzle | str = "none",
    grad_weight: Literal["A", "B"] = "A",
) -> Nvdla:
    """Build nv_small, the "small configuration": 8 x 8 MACs."""
    return nvdla(rows=8, cols=8, format=format, swizzle=swizzle, grad_weight=grad_weight)


def nvdla_large(
    *,
    format: Format | str | None = None,
    swizzle: Swizzle | str = "none",
    grad_weight: Literal["A", "B"] = "A",
) -> Nvdla:
    """Build nv_large, the "large configuration": 64 x 32 MACs."""
    return nvdla(rows=64, cols=32, format=format, swizzle=swizzle, grad_weight=grad_weight)


ARRAYS: ReadOnlyDict[str, Callable[..., Array]] = MappingProxyType(
    {
        "nvdla-small": nvdla_small,
        "nvdla-large": nvdla_large,
    }
)
"""Every array that has a name, by the word used in specs and on the command line: from its options, as of `nvdla`."""


def array_named(name: str, **options: Any) -> Array:
    """Look an array up by name, or by size as ``nvdla-ROWSxCOLS``, and give it options.

    >>> array_named("nvdla-32x16", swizzle="step").rows
    32
    """
    if name in ARRAYS:
        return ARRAYS[name](**options)
    rows, x, cols = name.removeprefix("nvdla-").partition("x")
    if name.startswith("nvdla-") and x and rows.isdecimal() and cols.isdecimal():
        return nvdla(rows=int(rows), cols=int(cols), **options)
    raise InvalidInput(f"array={name!r} is unknown; choose one of {', '.join(ARRAYS)}, nvdla-ROWSxCOLS")


def _integer(bits: int) -> Format:
    return Format(name=f"int{bits}", bits=bits, exponent_bits=0, mantissa_bits=bits - 1)
