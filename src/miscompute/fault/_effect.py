"""What a fault does to a word: a bit operation, the same for every number format."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, final

from .._invalid import InvalidInput
from ..formats import Format


class Masks(NamedTuple):
    """A bit operation: ``((word & keep) | set) ^ flip``, each a non-negative integer as wide as the word."""

    keep: int
    set: int
    flip: int


class Effect(ABC):
    """What happens to the word at a site. Bits count from 0, the least significant."""

    @abstractmethod
    def masks(self, format: Format) -> Masks:
        """Give the bit operation on words of a format.

        Raises:
            InvalidInput: if a bit is outside the format.
        """

    @abstractmethod
    def __str__(self) -> str: ...


@final
@dataclass(frozen=True, kw_only=True)
class StuckAt(Effect):
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
class Flip(Effect):
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
