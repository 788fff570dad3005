"""A processor's vector unit."""

from dataclasses import dataclass
from typing import ClassVar, final

from .._invalid import InvalidInput
from ..formats import Format, format_named
from ._array import Array, Mapping, Stage, mapping_of
from ._layer import Pass
from ._systolic import wide_word


@final
@dataclass(frozen=True, kw_only=True)
class Simd(Array):
    """A vector unit of ``cols`` lanes, each a multiplier and an adder that own every cols-th result.

    The blocking assumed: all passes are matrix products (convolutions by im2col) with row-major results, and a vector
    register holds ``cols`` neighbours along the result's last dimension: output channels forward, input channels in
    both gradients. A lane adds up one product a cycle, over the summed dimension in order. Real libraries block
    otherwise for speed, and change the dimension, the order and how often a result passes a lane; the lane of a result
    is then another, its fate much the same. Zeros are not gated.

    Sites: a lane is ``col``; there is one row.
    """

    im2col: ClassVar[bool] = True
    adds_in_a_chain: ClassVar[bool] = True

    zero_gate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows != 1:
            raise InvalidInput(f"rows={self.rows} of a vector unit must be 1; its lanes are columns")

    def mapping(self, pass_: Pass) -> Mapping:
        """Say which operand is loaded as a vector (stationary) and which is broadcast to all lanes (streaming)."""
        return mapping_of(pass_, "B")

    def stripes(self, pixels: int) -> tuple[range, ...]:
        """Reload the vector for each row of the result.

        >>> simd(lanes=8).stripes(3)
        (range(0, 1), range(1, 2), range(2, 3))
        """
        return tuple(range(pixel, pixel + 1) for pixel in range(pixels))

    def node(self, row: int, level: int) -> range:
        """Refuse: a lane has no adder but its accumulator."""
        raise InvalidInput("a vector lane has no adder but its accumulator; use accumulator[lane]")

    def check_stage(self, stage: Stage, *, row: int = 0, level: int = 0, address: int | None = None) -> None:
        """Raise `InvalidInput` unless a lane has the word: its product, its running sum and its result."""
        super().check_stage(stage, row=row, level=level)
        if stage == "partial_sum" or address is not None:
            raise InvalidInput(
                f"a vector lane has no {'addresses' if stage == 'accumulator' else 'partial sum'}; use "
                "product[0,lane], accumulator[lane] or output[lane]"
            )

    def word(self, stage: Stage, format: Format) -> Format:
        """Give the word of a stage (`wide_word`)."""
        return wide_word(stage, format)


def simd(*, lanes: int, format: Format | str | None = None) -> Simd:
    """Build a vector unit.

    >>> simd(lanes=16, format="fp32").cols
    16
    """
    return Simd(rows=1, cols=lanes, format=format_named(format) if isinstance(format, str) else format)
