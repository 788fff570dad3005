"""A GPU's matrix unit, of which only the statistics of its errors are known."""

from dataclasses import dataclass
from typing import ClassVar, final

from .._invalid import InvalidInput
from ..formats import Format, format_named
from ._array import Array, Mapping, Stage, mapping_of
from ._layer import Pass
from ._swizzle import NoSwizzle
from ._systolic import wide_word


@final
@dataclass(frozen=True, kw_only=True)
class MatrixUnit(Array):
    """A GPU's matrix unit: which results came out wrong, and how, but no place in it.

    Its registers and adders are not public, and gate-level studies publish what their faults do to results (arXiv
    2605.04213: fewer than 40 % of bit flips are of a single bit, about 1 % of corruptions are NaN or infinite, about
    half are zeros). So a fault here is of elements: ``result-elements[first,length]`` with an effect, which the error
    models gpu-nullification, gpu-non-finite, gpu-bit-flips and gpu-corruption draw (`miscompute.error.ERROR_MODELS`).
    They may be injected on any array; this one has no other, and says in what order its results are neighbours.

    All passes are matrix products (convolutions by im2col), with row-major results: those of neighbouring output
    channels of one position lie side by side forward, of neighbouring input channels in grad_input. An instruction
    computes a tile of ``rows`` x ``cols`` of them: 16 x 8 by default, in which thread t of 32 holds the two results at
    row t // 4, columns 2 * (t % 4) and the next, and the two that are 8 rows below (PTX, mma.m16n8k16). A fault in what
    one thread holds is thus of runs of 2, in one row of a tile of runs of up to 8, and no longer: longer runs cross
    into the next tile. The error models draw 1 to 16 in a row, anywhere.

    *Fidelity*: statistical, as the error models say; nothing is claimed of one given GPU. Sums are those of PyTorch.
    """

    im2col: ClassVar[bool] = True
    has_bus: ClassVar[bool] = False
    adds_in_a_chain: ClassVar[bool] = True
    no_places: ClassVar[str] = (
        "of a GPU's matrix unit only the statistics of wrong results are known, no register or adder; use "
        "result-elements[first,length], as the error models gpu-nullification, gpu-non-finite, gpu-bit-flips and "
        "gpu-corruption draw them"
    )

    rows: int = 16
    cols: int = 8
    zero_gate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.swizzle, NoSwizzle):
            raise InvalidInput(f"swizzle={self.swizzle} of a matrix unit: no lanes are known to move channels over")

    @property
    def depth(self) -> int:
        """How many products are added up in one cycle: as far as is known, one."""
        return 1

    def mapping(self, pass_: Pass) -> Mapping:
        """Say which operand has the columns of the result (stationary), and which its rows."""
        return mapping_of(pass_, "B")

    def stripes(self, pixels: int) -> tuple[range, ...]:
        """Give the rows of one tile after another.

        >>> matrix_unit().stripes(20)
        (range(0, 16), range(16, 20))
        """
        return tuple(range(first, min(first + self.rows, pixels)) for first in range(0, pixels, self.rows))

    def node(self, row: int, level: int) -> range:
        """Refuse: nothing is known of its adders."""
        raise InvalidInput(self.no_places)

    def word(self, stage: Stage, format: Format) -> Format:
        """Give the word of a result (`wide_word`)."""
        return wide_word(stage, format)

    def lanes(self, *, step: int, layer: int = 0, stripe: int = 0) -> tuple[int, ...]:
        """Give the one lane that is spoken of."""
        return (0,)


def matrix_unit(*, format: Format | str | None = None) -> MatrixUnit:
    """Build a GPU's matrix unit, by the tile of its most used instruction.

    >>> matrix_unit(format="bf16").cols
    8
    """
    return MatrixUnit(format=format_named(format) if isinstance(format, str) else format)
