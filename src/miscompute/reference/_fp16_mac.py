"""NVDLA's floating-point MAC cell, bit for bit: block floating point, aligned in steps of 16 and truncated."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ..fault import Effect
from ..formats import BlockWords, integer

_REGISTERS = {"mantissa": 16, "exponent": 3}
"""The registers of one number in a MAC cell, and their widths in bits."""

_OFFSET = 0x5555_0000
"""What the rows of a product add up to beyond the product: 2**16 for each of the eight Booth digits, 4**digit apart."""

_LANES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockSum:
    """What a floating-point MAC cell puts out: ``sum * 2**(exponent - 50)``.

    Args:
        exponent: the shared exponent, 6 bits, a multiple of 4: the largest of all products'.
        sum: the signed sum of the aligned products, 38 bits, which it cannot leave.
    """

    exponent: NDArray[np.int64]
    sum: NDArray[np.int64]

    @property
    def values(self) -> NDArray[np.float64]:
        """The sums as numbers, exactly."""
        return np.asarray(np.ldexp(self.sum.astype(np.float64), self.exponent - 50))


def misread_register(
    numbers: BlockWords, *, lane: int, register: Literal["mantissa", "exponent"], effect: Effect
) -> BlockWords:
    """Give the numbers, (..., lane), as a MAC cell sees them with a fault in one of its operand registers.

    Bits count from the register's lowest: of ``mantissa`` bit 15 is the sign and 14..0 the shifted magnitude, of
    ``exponent`` bit 2 is worth a factor of 2**16. A bit of the *IEEE word* is another matter: corrupt it before
    `to_block`.

    Raises:
        InvalidInput: if the lane or a bit is not there.

    >>> from miscompute.fault import StuckAt
    >>> from miscompute.formats import FORMATS, to_block
    >>> weights = to_block(FORMATS["fp16"].encode(np.array([1.0, 1.0, 0.0])))
    >>> misread_register(weights, lane=1, register="exponent", effect=StuckAt(bit=2, value=1)).values.tolist()
    [1.0, 65536.0, 0.0]
    """
    words = getattr(numbers, register)
    if not 0 <= lane < words.shape[-1]:
        raise InvalidInput(f"lane={lane} is outside the numbers' lanes (0..{words.shape[-1] - 1})")
    try:
        effect.check(integer(_REGISTERS[register]))
    except InvalidInput:
        top = _REGISTERS[register] - 1
        raise InvalidInput(f"effect={str(effect)!r} is outside the {register} register (bits 0..{top})") from None
    words = words.copy()
    words[..., lane] = effect.read(words[..., lane], integer(_REGISTERS[register]))
    return replace(numbers, mantissa=words) if register == "mantissa" else replace(numbers, exponent=words)


def fp16_mac(weights: BlockWords, activations: BlockWords) -> BlockSum:
    """Multiply and add as one cell of NVDLA's floating-point core does: one atomic operation a pixel.

    The exponents of a lane's two numbers add up; the largest sum is shared. Every product is shifted right by its
    distance to it, a multiple of 4 bits, and truncated; from 8 steps on it is lost. The multiplier hands a product on
    as two words, sum and carry, and each is truncated by itself, so a shifted product comes out too low by less than 2
    units of the last place, or, beyond 4 steps, too high by less than 1. The units are those of the largest product:
    an error in one exponent erases low bits of every other lane.

    How a product is split into the two words decides those bits. The weight is recoded in eight radix-4 Booth digits.
    The rows of its lower and those of its upper four digits are each reduced to two by 3:2 adders of 24 bits, and these
    four rows to two of 32 bits.

    *Fidelity*: exponent and sum agree bit for bit on all 4,400 outputs of RTL simulation, fault-free and with bits of
    the mantissa and exponent registers and of the IEEE weight stuck (`tests/reference/test_fp16_mac.py`). The order of
    reduction is that of the generic adder tree that comes with the design; a tree from a vendor's library may split
    products otherwise. Infinities and NaN are left out (`to_block`).

    Args:
        weights: (n, lane), 64 lanes at most; lanes that are left out are idle.
        activations: (n, pixel, lane).

    Returns:
        exponents and sums, (n, pixel); both 0 where no product takes part.

    Raises:
        InvalidInput: if the shapes do not fit.

    >>> from miscompute.formats import FORMATS, to_block
    >>> def fp16(*numbers): return to_block(FORMATS["fp16"].encode(np.array(numbers)))
    >>> result = fp16_mac(fp16([1.0, 2.0**-10, 0.0]), fp16([[1.5, -3.0, 7.0]]))
    >>> result.exponent.tolist(), result.sum.tolist(), result.values.tolist()
    ([[24]], [[100466688]], [[1.4970703125]])

    Source: the open NVDLA core, release nvdlav1, vmod/nvdla/cmac (modules CORE_MAC_exp and CORE_MAC_mul).
    """
    shape, other = weights.mantissa.shape, activations.mantissa.shape
    if len(shape) != 2 or len(other) != 3 or (other[0], other[2]) != shape or shape[1] > _LANES:
        raise InvalidInput(
            f"weights {shape} and activations {other} must be (n, lane) and (n, pixel, lane), of {_LANES} lanes at most"
        )
    active = weights.nonzero[:, None] & activations.nonzero
    exponents = (weights.exponent[:, None] + activations.exponent).astype(np.int64)
    exponents = np.where(active, exponents, 0)
    shared = exponents.max(axis=-1, initial=0)  # (n, pixel, lane) -> (n, pixel)
    bits = 4 * np.minimum(shared[..., None] - exponents, 8)  # 32 bits are a whole word

    carry, sum_ = _product(weights.mantissa[:, None], activations.mantissa)
    aligned = (carry >> bits) + (sum_ >> bits) - (_OFFSET >> bits)
    return BlockSum(exponent=4 * shared, sum=np.where(active, aligned, 0).sum(axis=-1))


def _product(weight: NDArray[np.uint64], activation: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Multiply sign-magnitude numbers into two words that add up to the product plus `_OFFSET`; shapes broadcast.

    A Booth digit d gives the row d * activation + 2**16, which is never negative; -x is written as ~x, and the 1 that
    it lacks is put into the low bits of the next row, which are free.
    """
    magnitude = np.int64((1 << 15) - 1)
    w, x = weight.astype(np.int64), activation.astype(np.int64)
    negative = (w ^ x) >> 15
    w, x = w & magnitude, x & magnitude
    rows: list[NDArray[np.int64]] = []  # of both halves: four digits each, and the last digit's missing 1
    for half in range(2):
        missing: NDArray[np.int64] | int = 0
        for i in range(4):
            code = ((w << 1) >> (8 * half + 2 * i)) & 7
            digit = np.where(negative, -_BOOTH[code], _BOOTH[code])
            ones = (digit < 0).astype(np.int64)
            row = digit * x - ones + (1 << 16)
            rows.append((row << 2 * i) | (missing << 2 * (i - 1) if i else missing))
            missing = ones
        rows.append(np.asarray(missing << 6))
    lower, upper = _reduced(rows[:5], width=24), _reduced(rows[5:], width=24)
    sum_, carry = _reduced([*lower, *(row << 8 for row in upper)], width=32)
    return carry, sum_


_BOOTH = np.array([0, 1, 1, 2, -2, -1, -1, 0])
"""The digit of three neighbouring bits, the lowest of which belongs to the digit below."""


def _reduced(rows: list[NDArray[np.int64]], *, width: int) -> list[NDArray[np.int64]]:
    """Add rows up to two by layers of 3:2 adders, which take them in threes and pass the rest on."""
    while len(rows) > 2:
        threes = len(rows) // 3 * 3
        layer = []
        for a, b, c in zip(rows[0:threes:3], rows[1:threes:3], rows[2:threes:3], strict=True):
            layer += [a ^ b ^ c, ((a & b | b & c | a & c) << 1) & ((1 << width) - 1)]
        rows = layer + rows[threes:]
    return rows
