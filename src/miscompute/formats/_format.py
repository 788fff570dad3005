"""IEEE-like floating-point formats, two's-complement integers, and integers with a scale."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Format:
    """A number format: how a word of bits spells a value.

    Bit 0 is the least significant bit of the word. A floating-point word is, from the top, one sign bit,
    ``exponent_bits`` of biased exponent and ``mantissa_bits`` of fraction (IEEE 754-2019, 3.4), subnormals, infinities
    and NaN included. A format without exponent bits is a two's-complement integer.

    Args:
        name: the word for it, which `format_named` understands if the format is in `FORMATS`.
        bits: width of the word.
        exponent_bits: width of the exponent field; 0 for an integer.
        mantissa_bits: width of the fraction, or of an integer without its sign.
        has_infinities: whether the top exponent spells infinities and NaN, as in IEEE 754. If not, it spells numbers
            like any other, only a magnitude of all ones is NaN, and nothing is infinite: the "fn" of OCP's e4m3.
        scale: what one unit of an integer is worth, for quantised tensors: a word w spells w * scale, one scale for a
            tensor. ``"max"``: to be taken from the tensor, by `fitted`. None: an integer spells itself.

    >>> FORMATS["fp32"].field(28), FORMATS["bf16"].field(15), FORMATS["int8"].field(3)
    ('exponent', 'sign', 'magnitude')
    """

    name: str
    bits: int
    exponent_bits: int
    mantissa_bits: int
    has_infinities: bool = True
    scale: float | Literal["max"] | None = None

    def __post_init__(self) -> None:
        # float64, in which encode and decode compute, holds all such words and values exactly.
        if self.exponent_bits not in (0, *range(2, 11)) or self.bits not in range(2, 33 if self.exponent_bits else 54):
            raise InvalidInput(
                f"format {self.name!r} needs exponent_bits 0 and bits in 2..53 (an integer), or exponent_bits in 2..10 "
                f"and bits up to 32, not bits={self.bits}, exponent_bits={self.exponent_bits}"
            )
        if 1 + self.exponent_bits + self.mantissa_bits != self.bits:
            raise InvalidInput(
                f"bits={self.bits} of format {self.name!r} must be 1 + exponent_bits + mantissa_bits = "
                f"{1 + self.exponent_bits + self.mantissa_bits}"
            )
        if self.scale is None:
            return
        if self.is_float:
            raise InvalidInput(f"scale={self.scale} of format {self.name!r} is for integers, exponent_bits=0")
        if self.scale != "max" and not (isinstance(self.scale, float | int) and 0 < self.scale < np.inf):
            raise InvalidInput(f"scale={self.scale!r} of format {self.name!r} must be a positive number or 'max'")

    @property
    def is_float(self) -> bool:
        """Whether words spell floating-point values (integers, perhaps with a scale, otherwise)."""
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

        Floating-point overflow goes to infinity. A format without infinities saturates: what is too large, infinite
        values included, becomes the largest number. The tests compare this with PyTorch's conversions; those to e4m3
        saturate as of PyTorch 2.13, where older releases gave NaN (PyTorch pull request 178817).

        An integer with a scale takes the nearest multiple of its scale and saturates, infinite values included. One
        without takes only values that it holds exactly, it neither rounds, nor saturates, nor wraps: what a tensor
        means by its integers is for the caller to say (`saturate`, `wrap`, a scale), not for the word.

        Raises:
            InvalidInput: if integers cannot spell the values: NaN; without a scale, whatever is not one of them; or if
                the scale is ``"max"``, which is yet to be fitted.

        >>> hex(FORMATS["fp32"].encode(np.array(0.1))), hex(FORMATS["int8"].encode(np.array(-2.0)))
        ('0x3dcccccd', '0xfe')
        >>> format_named("int8:0.5").encode(np.array([0.25, 0.75, 1.0, 100.0])).tolist()
        [0, 2, 2, 127]
        """
        values = np.asarray(values, dtype=np.float64)
        return self._encode_float(values) if self.is_float else self._encode_integer(values)

    def _encode_float(self, values: NDArray[np.float64]) -> NDArray[np.uint64]:
        magnitude = np.abs(values)
        _, binary_exponent = np.frexp(np.where(np.isfinite(magnitude), magnitude, 1.0))
        lowest = 1 - self.bias  # the exponent of zero and of all subnormals; frexp gives zero the exponent 0
        exponent = np.where(magnitude > 0, np.maximum(binary_exponent - 1, lowest), lowest)
        infinity = ((1 << self.exponent_bits) - 1) << self.mantissa_bits
        overflow, nan = infinity, infinity | (1 << (self.mantissa_bits - 1))
        if not self.has_infinities:
            nan = (1 << (self.bits - 1)) - 1  # a magnitude of all ones
            overflow = nan - 1
        with np.errstate(invalid="ignore", over="ignore"):
            significand = np.rint(np.ldexp(magnitude, self.mantissa_bits - exponent))
            # A significand of 2**(mantissa_bits + 1) carries into the exponent field by itself; so does a subnormal
            # that rounds up to the smallest normal number.
            words = np.ldexp(exponent + self.bias - 1.0, self.mantissa_bits) + significand
            words = np.where(np.isinf(magnitude) | (words >= overflow), overflow, words)
            words = np.where(np.isnan(magnitude), nan, words)
        sign = np.signbit(values).astype(np.uint64) << np.uint64(self.bits - 1)
        return np.asarray(words.astype(np.uint64) | sign)

    def _encode_integer(self, values: NDArray[np.float64]) -> NDArray[np.uint64]:
        low, high = self._integers
        if self.scale is None:
            if not np.all((values == np.rint(values)) & (values >= low) & (values <= high)):
                raise InvalidInput(f"values must be integers in {low}..{high} to be {self.name}; quantise them first")
        else:
            if np.any(np.isnan(values)):
                raise InvalidInput(f"values hold NaN, which no word of {self.name} spells; look for its cause")
            with np.errstate(over="ignore"):  # what is beyond float64 is beyond the format, and saturates
                values = np.clip(np.rint(values / self._unit), low, high)
        return np.asarray(values.astype(np.int64).view(np.uint64) & np.uint64((1 << self.bits) - 1))

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
            integers = np.where(signed >> (self.bits - 1), signed - (1 << self.bits), signed)
            return np.asarray(integers * self._unit)
        field = ((words >> np.uint64(self.mantissa_bits)) & np.uint64((1 << self.exponent_bits) - 1)).astype(np.int64)
        fraction = (words & np.uint64((1 << self.mantissa_bits) - 1)).astype(np.float64)
        significand = np.where(field > 0, fraction + (1 << self.mantissa_bits), fraction)
        magnitude = np.ldexp(significand, np.maximum(field, 1) - self.bias - self.mantissa_bits)
        top = field == (1 << self.exponent_bits) - 1
        if self.has_infinities:
            magnitude = np.where(top, np.where(fraction == 0, np.inf, np.nan), magnitude)
        else:
            magnitude = np.where(top & (fraction == (1 << self.mantissa_bits) - 1), np.nan, magnitude)
        return np.where(words >> np.uint64(self.bits - 1), -magnitude, magnitude)

    def fitted(self, values: NDArray[np.float64]) -> "Format":
        """Settle the scale ``"max"`` for a tensor: its largest magnitude becomes the largest positive integer.

        For int8 the scale is max|values| / 127, so -128 spells nothing unless a bit is wrong. A tensor of zeros, which
        has no scale of its own, gets 1. Every other format is returned as it is.

        Raises:
            InvalidInput: if values are not finite, which leaves no scale.

        >>> weight = np.array([0.75, -31.75, 10.0])
        >>> int8 = format_named("int8:max").fitted(weight)
        >>> int8.name, int8.encode(weight).tolist()
        ('int8:0.25', [3, 129, 40])
        >>> int8.decode(int8.encode(weight) | np.uint64(1 << 6)).tolist()  # bit 6 stuck at 1
        [16.75, -15.75, 26.0]
        """
        if self.scale != "max":
            return self
        largest = float(np.max(np.abs(values), initial=0.0))
        if not np.isfinite(largest):
            raise InvalidInput(f"values of a tensor in {self.name} must be finite: there is no scale for {largest}")
        unit = largest / self._integers[1] or 1.0
        return replace(self, name=f"{self.name.partition(':')[0]}:{unit!r}", scale=unit)

    def wrap(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give what a register of this width keeps of integers: the low bits, read as two's complement.

        Args:
            values: integers, of a magnitude up to 2**53; any shape.

        >>> integer(19).wrap(np.array([2.0**18 - 1, 2.0**18, -(2.0**18) - 1])).tolist()
        [262143.0, -262144.0, 262143.0]
        """
        half = 1 << (self.bits - 1)
        return np.asarray(((self._whole(values) + half) & (2 * half - 1)) - half, dtype=np.float64)

    def saturate(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give what a saturating register of this width keeps of integers: the nearest that it holds.

        Args:
            values: integers, of a magnitude up to 2**53; any shape.

        >>> integer(34).saturate(np.array([5.0, 2.0**40])).tolist()
        [5.0, 8589934591.0]
        """
        return np.asarray(np.clip(self._whole(values), *self._integers), dtype=np.float64)

    def _whole(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        if self.is_float or self.scale is not None:
            raise InvalidInput(f"format {self.name} is no register of integers; take one of integer(bits)")
        if not np.all((values == np.rint(values)) & (np.abs(values) <= 1 << 53)):
            raise InvalidInput("values must be integers of a magnitude up to 2**53, which float64 holds exactly")
        return np.asarray(values, dtype=np.int64)

    @property
    def _integers(self) -> tuple[int, int]:
        """The smallest and the largest integer that words spell, without the scale."""
        return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1

    @property
    def _unit(self) -> float:
        if self.scale == "max":
            raise InvalidInput(f"format {self.name} has no scale before it has met a tensor; use format.fitted(values)")
        return 1.0 if self.scale is None else self.scale


def integer(bits: int, *, scale: float | Literal["max"] | None = None) -> Format:
    """Build a two's-complement integer format of 2..53 bits: products, partial sums and accumulators have many widths.

    >>> integer(8) == FORMATS["int8"], integer(18).name, integer(8, scale=0.05).name
    (True, 'int18', 'int8:0.05')
    """
    if scale not in (None, "max"):
        scale = float(scale)  # 2, 2.0 and a number of numpy's are one scale, with one name
    name = f"int{bits}" if scale is None else f"int{bits}:{scale}"
    return Format(name=name, bits=bits, exponent_bits=0, mantissa_bits=bits - 1, scale=scale)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        row.name: row
        for row in (
            Format(name="fp32", bits=32, exponent_bits=8, mantissa_bits=23),
            Format(name="tf32", bits=19, exponent_bits=8, mantissa_bits=10),
            Format(name="bf16", bits=16, exponent_bits=8, mantissa_bits=7),
            Format(name="fp16", bits=16, exponent_bits=5, mantissa_bits=10),
            Format(name="fp8_e4m3", bits=8, exponent_bits=4, mantissa_bits=3, has_infinities=False),
            Format(name="fp8_e5m2", bits=8, exponent_bits=5, mantissa_bits=2),
            integer(16),
            integer(8),
        )
    }
)
"""Every number format, by the name used in specs, on the command line and in Python.

fp32 and fp16 are binary32 and binary16 of IEEE 754-2019, bf16 the upper half of binary32. tf32 is the word that an
operand register holds, 19 bits, not the 32 in memory; that it is rounded to nearest even is a choice, some hardware
drops bits or rounds ties away from zero. The fp8 formats are those of the OCP 8-bit floating point specification
(1.0, 2023): e4m3 has no infinities, ends at 448 and has one NaN of each sign; e5m2 is like IEEE's.
"""


def format_named(name: str) -> Format:
    """Look a format up by name; an integer may be given a scale after a colon.

    ``int8:0.05`` counts in units of 0.05; ``int8:max`` in units that each tensor's largest magnitude sets
    (`Format.fitted`). The name of the format that is returned gives an equal one back.

    >>> format_named("bf16").bits, format_named("int8:0.05").scale, format_named("int8:max").name
    (16, 0.05, 'int8:max')
    """
    base, colon, scale = name.partition(":")
    if base not in FORMATS:
        raise InvalidInput(f"format={name!r} is unknown; choose one of {', '.join(FORMATS)}")
    if not colon:
        return FORMATS[base]
    if FORMATS[base].is_float:
        raise InvalidInput(f"format={name!r} has a scale, but {base} is no integer; leave {colon + scale!r} out")
    try:
        return integer(FORMATS[base].bits, scale="max" if scale == "max" else float(scale))
    except (ValueError, InvalidInput) as error:
        raise InvalidInput(
            f"format={name!r} has the scale {scale!r}; it must be a positive number or max, as in {base}:0.05"
        ) from error
