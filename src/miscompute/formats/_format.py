"""IEEE-like floating-point and two's-complement integer formats."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Format:
    """A number format: how a word of bits spells a value.

    Bit 0 is the least significant bit of the word. A floating-point word is, from the top, one sign bit,
    ``exponent_bits`` of biased exponent and ``mantissa_bits`` of fraction (IEEE 754-2019, 3.4), subnormals, infinities
    and NaN included. A format without exponent bits is a two's-complement integer.

    >>> FORMATS["fp32"].field(28), FORMATS["bf16"].field(15), FORMATS["int8"].field(3)
    ('exponent', 'sign', 'magnitude')
    """

    name: str
    bits: int
    exponent_bits: int
    mantissa_bits: int

    def __post_init__(self) -> None:
        if self.bits not in range(2, 33) or self.exponent_bits not in (0, *range(2, 11)):
            # float64, in which encode and decode compute, holds all such words and values exactly.
            raise InvalidInput(
                f"format {self.name!r} needs bits in 2..32 and exponent_bits 0 (an integer) or in 2..10, not "
                f"bits={self.bits}, exponent_bits={self.exponent_bits}"
            )
        if 1 + self.exponent_bits + self.mantissa_bits != self.bits:
            raise InvalidInput(
                f"bits={self.bits} of format {self.name!r} must be 1 + exponent_bits + mantissa_bits = "
                f"{1 + self.exponent_bits + self.mantissa_bits}"
            )

    @property
    def is_float(self) -> bool:
        """Whether words spell floating-point values (integers otherwise)."""
        return self.exponent_bits > 0

    @property
    def bias(self) -> int:
        """What is subtracted from the exponent field: 127 for fp32."""
        return (1 << (self.exponent_bits - 1)) - 1

    def check_bit(self, bit: int) -> None:
        """Raise `InvalidInput` unless ``bit`` is a bit of this format's word."""
        if not 0 <= bit < self.bits:
            top = self.bits - 1
            raise InvalidInput(f"bit={bit} is outside {self.name} (0..{top}; {top} is the sign)")

    def field(self, bit: int) -> str:
        """Name the part of the word that ``bit`` belongs to: sign, exponent, mantissa or magnitude."""
        self.check_bit(bit)
        if bit == self.bits - 1:
            return "sign"
        if not self.is_float:
            return "magnitude"
        return "exponent" if bit >= self.mantissa_bits else "mantissa"

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.uint64]:
        """Round values to the nearest word, ties to even; any shape, words in the low bits of a uint64.

        Floating-point overflow goes to infinity. An integer format takes only values it holds exactly: what a
        quantised tensor means by its integers is for the caller to say, not for the word.

        >>> hex(FORMATS["fp32"].encode(np.array(0.1))), hex(FORMATS["int8"].encode(np.array(-2.0)))
        ('0x3dcccccd', '0xfe')
        """
        values = np.asarray(values, dtype=np.float64)
        if not self.is_float:
            low, high = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
            if not np.all((values == np.rint(values)) & (values >= low) & (values <= high)):
                raise InvalidInput(f"values must be integers in {low}..{high} to be {self.name}; quantise them first")
            return np.asarray(values.astype(np.int64).view(np.uint64) & np.uint64((1 << self.bits) - 1))
        magnitude = np.abs(values)
        _, binary_exponent = np.frexp(np.where(np.isfinite(magnitude), magnitude, 1.0))
        lowest = 1 - self.bias  # the exponent of zero and of all subnormals; frexp gives zero the exponent 0
        exponent = np.where(magnitude > 0, np.maximum(binary_exponent - 1, lowest), lowest)
        infinity = ((1 << self.exponent_bits) - 1) << self.mantissa_bits
        with np.errstate(invalid="ignore", over="ignore"):
            significand = np.rint(np.ldexp(magnitude, self.mantissa_bits - exponent))
            # A significand of 2**(mantissa_bits + 1) carries into the exponent field by itself; so does a subnormal
            # that rounds up to the smallest normal number.
            words = np.ldexp(exponent + self.bias - 1.0, self.mantissa_bits) + significand
            words = np.where(np.isinf(magnitude) | (words >= infinity), infinity, words)
            words = np.where(np.isnan(magnitude), infinity | (1 << (self.mantissa_bits - 1)), words)
        sign = np.signbit(values).astype(np.uint64) << np.uint64(self.bits - 1)
        return np.asarray(words.astype(np.uint64) | sign)

    def decode(self, words: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Give the values that words spell; any shape. The inverse of `encode` on every value a word can hold.

        >>> words = FORMATS["fp32"].encode(np.array([0.1])) & np.uint64(0xFFFFFFFF ^ 1 << 28)
        >>> float(FORMATS["fp32"].decode(words)[0]) == float(np.float32(0.1)) * 2.0**-32
        True
        """
        words = np.asarray(words, dtype=np.uint64)
        if np.any(words >> np.uint64(self.bits)):
            raise InvalidInput(f"words must be below 2**{self.bits} to be {self.name}")
        if not self.is_float:
            signed = words.astype(np.int64)
            return np.where(signed >> (self.bits - 1), signed - (1 << self.bits), signed).astype(np.float64)
        field = ((words >> np.uint64(self.mantissa_bits)) & np.uint64((1 << self.exponent_bits) - 1)).astype(np.int64)
        fraction = (words & np.uint64((1 << self.mantissa_bits) - 1)).astype(np.float64)
        significand = np.where(field > 0, fraction + (1 << self.mantissa_bits), fraction)
        magnitude = np.ldexp(significand, np.maximum(field, 1) - self.bias - self.mantissa_bits)
        special = np.where(fraction == 0, np.inf, np.nan)
        magnitude = np.where(field == (1 << self.exponent_bits) - 1, special, magnitude)
        return np.where(words >> np.uint64(self.bits - 1), -magnitude, magnitude)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        row.name: row
        for row in (
            Format(name="fp32", bits=32, exponent_bits=8, mantissa_bits=23),
            Format(name="bf16", bits=16, exponent_bits=8, mantissa_bits=7),
            Format(name="fp16", bits=16, exponent_bits=5, mantissa_bits=10),
            Format(name="int8", bits=8, exponent_bits=0, mantissa_bits=7),
        )
    }
)
"""Every number format, by the name used in specs, on the command line and in Python."""


def format_named(name: str) -> Format:
    """Look a format up by name.

    >>> format_named("bf16").bits
    16
    """
    if name not in FORMATS:
        raise InvalidInput(f"format={name!r} is unknown; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]
