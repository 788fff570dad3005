"""The form that fp16 numbers have inside NVDLA's floating-point multipliers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockWords:
    """fp16 numbers as NVDLA's MAC cells hold them: exponents in steps of 16, the remaining steps of 2 shifted out.

    A number is (-1)**sign * magnitude * 16**exponent * 2**-25.

    Args:
        mantissa: the 16-bit registers: bit 15 is the sign, bits 14..0 the magnitude. It is a significand of 11 bits,
            shifted left by the two low bits of the IEEE exponent: bit 14 is 0 unless something is wrong.
        exponent: the 3-bit registers: the three high bits of the IEEE exponent.
        nonzero: what the zero detector, which sees the IEEE word, said. A lane with a zero takes no part, whatever its
            registers hold.
    """

    mantissa: NDArray[np.uint64]
    exponent: NDArray[np.uint64]
    nonzero: NDArray[np.bool_]

    @property
    def values(self) -> NDArray[np.float64]:
        """The numbers that the registers spell, in the same shape."""
        magnitude = (self.mantissa & np.uint64((1 << 15) - 1)).astype(np.float64)
        signed = np.where(self.mantissa >> np.uint64(15), -magnitude, magnitude)
        return np.where(self.nonzero, np.ldexp(signed, 4 * self.exponent.astype(np.int64) - 25), 0.0)


def to_block(words: NDArray[np.uint64]) -> BlockWords:
    """Convert fp16 words, any shape, as NVDLA does on the way into a MAC cell; nothing is rounded.

    *Fidelity*: exact on the words of the RTL vectors (`miscompute.reference.fp16_mac`), which hold subnormals and
    zeros. A negative zero is taken for a zero, which they do not hold.

    Raises:
        InvalidInput: for infinities and NaN, which NVDLA carries past the multipliers, where no vector has judged us.

    >>> from miscompute.formats import FORMATS
    >>> block = to_block(FORMATS["fp16"].encode(np.array([1.0, -0.375, 0.0])))
    >>> [hex(word) for word in block.mantissa], block.exponent.tolist(), block.values.tolist()
    (['0x2000', '0x8c00', '0x0'], [3, 3, 0], [1.0, -0.375, 0.0])
    """
    words = np.asarray(words, dtype=np.uint64)
    if np.any(words >> np.uint64(16)):
        raise InvalidInput("words must be below 2**16 to be fp16")
    field, fraction = words >> np.uint64(10) & np.uint64(31), words & np.uint64(1023)
    if np.any(field == 31):
        raise InvalidInput("words must be finite fp16 numbers: infinities and NaN have no block form")
    significand = np.where(field > 0, fraction | np.uint64(1024), fraction)
    field = np.maximum(field, np.uint64(1))  # subnormals have the exponent of the smallest normal numbers
    magnitude = significand << (field & np.uint64(3))
    return BlockWords(
        mantissa=np.asarray(magnitude | (words >> np.uint64(15) << np.uint64(15))),
        exponent=np.asarray(field >> np.uint64(2)),
        nonzero=np.asarray(significand != 0),
    )
