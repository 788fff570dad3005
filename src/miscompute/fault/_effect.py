"""What a fault does to the words of a place, the same for every number format."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ..formats import Format

Words = NDArray[np.uint64]


class Masks(NamedTuple):
    """A bit operation: ``((word & keep) | set) ^ flip``, each a non-negative integer as wide as the word."""

    keep: int
    set: int
    flip: int


class Effect(ABC):
    """What is read instead of the words at a place. Bits count from 0, the least significant."""

    @abstractmethod
    def check(self, format: Format) -> None:
        """Raise `InvalidInput` unless words of a format can suffer this."""

    @abstractmethod
    def read(self, words: Words, format: Format, *, key: tuple[int, ...] = ()) -> Words:
        """Give what is read instead of words; any shape.

        Args:
            words: in the low bits of a uint64.
            format: their format.
            key: what distinguishes this reading from others of the same fault; random effects draw by it.
        """

    @abstractmethod
    def __str__(self) -> str: ...


class BitOperation(Effect):
    """An effect that is the same bit operation on every word."""

    @abstractmethod
    def masks(self, format: Format) -> Masks:
        """Give the bit operation on words of a format.

        Raises:
            InvalidInput: if a bit is outside the format.
        """

    def check(self, format: Format) -> None:
        """Raise `InvalidInput` if a bit is outside the format."""
        self.masks(format)

    def read(self, words: Words, format: Format, *, key: tuple[int, ...] = ()) -> Words:
        """Apply the bit operation."""
        keep, set_, flip = (np.uint64(mask) for mask in self.masks(format))
        return np.asarray((words & keep | set_) ^ flip)


@final
@dataclass(frozen=True, kw_only=True)
class StuckAt(BitOperation):
    """One bit always reads ``value``, whatever was written.

    >>> from miscompute.formats import FORMATS
    >>> str(StuckAt(bit=3, value=1)), StuckAt(bit=3, value=1).masks(FORMATS["int8"])
    ('bit 3 stuck-at 1', Masks(keep=255, set=8, flip=0))
    """

    bit: int
    value: int

    def __post_init__(self) -> None:
        if self.bit < 0:
            raise InvalidInput(f"bit={self.bit} must not be negative; bit 0 is the least significant")
        if self.value not in (0, 1):
            raise InvalidInput(f"value={self.value} of StuckAt must be 0 or 1")

    def masks(self, format: Format) -> Masks:
        """Clear or set the bit."""
        format.check_bit(self.bit)
        full, bit = (1 << format.bits) - 1, 1 << self.bit
        return Masks(keep=full, set=bit, flip=0) if self.value else Masks(keep=full & ~bit, set=0, flip=0)

    def __str__(self) -> str:
        return f"bit {self.bit} stuck-at {self.value}"


@final
@dataclass(frozen=True, kw_only=True)
class Flip(BitOperation):
    """One or several bits read inverted.

    >>> str(Flip(bits=(30,))), str(Flip(bits=(3, 4)))
    ('bit 30 flip', 'bits 3,4 flip')
    """

    bits: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.bits or min(self.bits) < 0 or len(set(self.bits)) != len(self.bits):
            raise InvalidInput(f"bits={self.bits} of Flip must be one or more different bits, none negative")
        object.__setattr__(self, "bits", tuple(sorted(self.bits)))

    def masks(self, format: Format) -> Masks:
        """Invert the bits."""
        for bit in self.bits:
            format.check_bit(bit)
        return Masks(keep=(1 << format.bits) - 1, set=0, flip=sum(1 << bit for bit in self.bits))

    def __str__(self) -> str:
        return f"bit{'s' if len(self.bits) > 1 else ''} {','.join(map(str, self.bits))} flip"


def burst(bit: int, length: int) -> Flip:
    """Flip ``length`` adjacent bits, ``bit`` being the lowest.

    >>> str(burst(23, 3))
    'bits 23,24,25 flip'
    """
    if length < 1:
        raise InvalidInput(f"length={length} of burst must be at least 1")
    return Flip(bits=tuple(range(bit, bit + length)))


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SetTo(BitOperation):
    """The word spells one value, whatever was written, rounded to the word's format.

    Equal are those that spell the same word in every format: NaN is NaN, and 0 is not -0.

    >>> str(SetTo(value=8.98e17)), str(ZERO)
    ('set-to 8.98e+17', 'set-to 0.0')
    >>> SetTo(value=math.nan) == SetTo(value=-math.nan), SetTo(value=-0.0) == ZERO
    (True, False)
    """

    value: float

    def __post_init__(self) -> None:
        if math.isnan(self.value):  # of either sign: its string does not say which
            object.__setattr__(self, "value", math.nan)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SetTo) and float(self.value).hex() == float(other.value).hex()

    def __hash__(self) -> int:
        return hash((SetTo, float(self.value).hex()))

    def __repr__(self) -> str:
        value = float(self.value)
        return f"SetTo(value={value!r})" if math.isfinite(value) else f"SetTo(value=float({str(value)!r}))"

    def masks(self, format: Format) -> Masks:
        """Replace all bits."""
        return Masks(keep=0, set=int(format.encode(np.array(self.value))), flip=0)

    def __str__(self) -> str:
        return f"set-to {float(self.value)!r}"


ZERO = SetTo(value=0.0)
"""Nullification: the word is read as zero."""


class _Drawn(Effect):
    """An effect that is drawn anew for every word and every reading, from a seed and the reading's key."""

    seed: int

    def _generator(self, key: tuple[int, ...]) -> np.random.Generator:
        return np.random.default_rng((self.seed, *key))

    def check(self, format: Format) -> None:
        """Fit every format."""


@final
@dataclass(frozen=True, kw_only=True)
class RandomWord(_Drawn):
    """Every word is replaced by a random pattern of bits; with ``finite``, by one that is neither infinite nor NaN.

    Source: He et al., ISCA 2023 (doi 10.1145/3579371.3589105), "random finite 32-bit pattern".
    """

    seed: int
    finite: bool = False

    def __post_init__(self) -> None:
        _check_seed(self.seed)

    def read(self, words: Words, format: Format, *, key: tuple[int, ...] = ()) -> Words:
        """Draw as many words."""
        generator = self._generator(key)
        drawn = generator.integers(0, 1 << format.bits, size=words.shape, dtype=np.uint64)
        while self.finite and not (fine := np.isfinite(format.decode(drawn))).all():
            again = generator.integers(0, 1 << format.bits, size=words.shape, dtype=np.uint64)
            drawn = np.where(fine, drawn, again)
        return np.asarray(drawn)

    def __str__(self) -> str:
        return f"{'random-finite' if self.finite else 'random-word'} seed {self.seed}"


@final
@dataclass(frozen=True, kw_only=True)
class RandomFlips(_Drawn):
    """In every word, some random bits read inverted: k of them with probability ``weights[k - 1]`` (scaled to sum 1).

    Source: the distributions of multi-bit errors that gate-level studies of GPUs find.
    """

    seed: int
    weights: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        if not self.weights or min(self.weights) < 0 or not 0 < sum(self.weights) < np.inf:
            raise InvalidInput(f"weights={self.weights} of RandomFlips must not be negative, and must not all be 0")

    def check(self, format: Format) -> None:
        """Raise `InvalidInput` if there are fewer bits than may flip."""
        if len(self.weights) > format.bits:
            raise InvalidInput(
                f"weights={self.weights} of RandomFlips are more than the {format.bits} bits of {format.name}"
            )

    def read(self, words: Words, format: Format, *, key: tuple[int, ...] = ()) -> Words:
        """Draw how many bits, and which, for every word."""
        generator = self._generator(key)
        weights = np.array(self.weights) / sum(self.weights)
        flips = generator.choice(len(weights), size=(*words.shape, 1), p=weights) + 1
        rank = generator.random((*words.shape, format.bits)).argsort(axis=-1).argsort(axis=-1)
        bits = (rank < flips).astype(np.uint64) << np.arange(format.bits, dtype=np.uint64)
        return np.asarray(words ^ bits.sum(axis=-1, dtype=np.uint64))

    def __str__(self) -> str:
        weights = (
            "" if self.weights == (1.0,) else f" weights {','.join(repr(float(weight)) for weight in self.weights)}"
        )
        return f"random-flips seed {self.seed}{weights}"


@final
@dataclass(frozen=True, kw_only=True)
class Moved(Effect):
    """Every word is read from another place: that of the word ``by`` further on, in the order of memory, cyclically."""

    by: int

    def __post_init__(self) -> None:
        if self.by == 0:
            raise InvalidInput("by=0 of Moved moves nothing; choose another distance")

    def check(self, format: Format) -> None:
        """Fit every format."""

    def read(self, words: Words, format: Format, *, key: tuple[int, ...] = ()) -> Words:
        """Shift the words."""
        return np.roll(words.reshape(-1), -self.by).reshape(words.shape)

    def __str__(self) -> str:
        return f"moved by {self.by}"


@final
@dataclass(frozen=True, kw_only=True)
class When(Effect):
    """An effect that only words suffer in which certain bits have certain values: a data-dependent fault.

    A word suffers it where ``word & mask == pattern``: bridges between neighbouring wires, say.

    >>> str(When(effect=Flip(bits=(3,)), mask=0b110, pattern=0b010))
    'bit 3 flip when 6 is 2'
    """

    effect: Effect
    mask: int
    pattern: int

    def __post_init__(self) -> None:
        if self.mask < 1 or self.pattern < 0 or self.pattern & ~self.mask:
            raise InvalidInput(f"mask={self.mask} of When must be positive and hold all bits of pattern={self.pattern}")

    def check(self, format: Format) -> None:
        """Raise `InvalidInput` unless the effect fits, and the mask."""
        self.effect.check(format)
        if self.mask >> format.bits:
            raise InvalidInput(f"mask={self.mask} of When has bits outside {format.name} (0..{format.bits - 1})")

    def read(self, words: Words, format: Format, *, key: tuple[int, ...] = ()) -> Words:
        """Apply the effect to the words that meet the condition."""
        suffers = words & np.uint64(self.mask) == np.uint64(self.pattern)
        return np.where(suffers, self.effect.read(words, format, key=key), words)

    def __str__(self) -> str:
        return f"{self.effect} when {self.mask} is {self.pattern}"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ProductTable(Effect):
    """A defect inside an int8 multiplier, as the error it adds to the product of each pair of operands.

    Only for the site `Product`. ``errors[w + 128, x + 128]`` is what is added to w * x.
    """

    name: str
    errors: NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.errors.shape != (256, 256):
            raise InvalidInput(f"errors of ProductTable {self.name!r} must be (256, 256), not {self.errors.shape}")

    def check(self, format: Format) -> None:
        """Raise `InvalidInput` unless it is an integer product's."""
        if format.is_float or format.bits < 16:
            raise InvalidInput(f"effect '{self}' is an int8 multiplier's; it belongs to the site product[row,col]")

    def read(self, words: Words, format: Format, *, key: tuple[int, ...] = ()) -> Words:
        """Refuse: the word alone does not say the operands."""
        raise InvalidInput(f"effect '{self}' is an int8 multiplier's; it belongs to the site product[row,col]")

    def __str__(self) -> str:
        return f"table {self.name}"


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise InvalidInput(f"seed={seed} must not be negative")


def _stuck_at(bits: tuple[int, ...], value: int | None) -> Effect:
    if len(bits) != 1 or value is None:
        raise InvalidInput("stuck-at takes one bit and the value 0 or 1")
    return StuckAt(bit=bits[0], value=value)


def _flip(bits: tuple[int, ...], value: int | None) -> Effect:
    assert value is None
    return Flip(bits=bits)


EFFECTS: Mapping[str, Callable[[tuple[int, ...], int | None], Effect]] = MappingProxyType(
    {"stuck-at": _stuck_at, "flip": _flip}
)
"""Every effect on bits, by its word in fault strings: from the bits and the value that follows, if any."""

WORD_EFFECTS: Mapping[str, Callable[..., Effect]] = MappingProxyType(
    {
        "set-to": SetTo,
        "random-word": RandomWord,
        "random-finite": partial(RandomWord, finite=True),
        "random-flips": RandomFlips,
        "moved": Moved,
    }
)
"""Every effect on whole words, by its word in fault strings; ``set-to`` takes a value, the others named fields."""
