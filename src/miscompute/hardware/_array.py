"""MAC arrays: geometry, schedule, and which operand each pass holds in the cells."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, final

from .._invalid import InvalidInput
from ..formats import Format, format_named
from ._layer import Operand, Pass
from ._swizzle import NoSwizzle, Swizzle, swizzle_named


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
