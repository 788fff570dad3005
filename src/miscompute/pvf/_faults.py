"""Which faults of stored parameters there are: elements times effects, in a number format."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from .._invalid import InvalidInput
from ..fault import BitOperation, Effect, Flip, RandomFlips, StuckAt, burst
from ..formats import Format


def _flips(format: Format) -> tuple[Effect, ...]:
    return tuple(Flip(bits=(bit,)) for bit in range(format.bits))


def _stuck(format: Format, value: int) -> tuple[Effect, ...]:
    return tuple(StuckAt(bit=bit, value=value) for bit in range(format.bits))


def _number(word: str, text: str, highest: int) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= highest:
        raise InvalidInput(f"kind={word!r} needs a number of bits from 1 to {highest}, as in {word.split(':')[0]}:2")
    return int(text)


def _bursts(format: Format, text: str) -> tuple[Effect, ...]:
    length = _number(f"burst:{text}", text, format.bits)
    return tuple(burst(bit, length) for bit in range(format.bits - length + 1))


def _random_bits(format: Format, text: str) -> tuple[Effect, ...]:
    flips = _number(f"random-bits:{text}", text, format.bits)
    return (RandomFlips(seed=0, weights=(0.0,) * (flips - 1) + (1.0,)),)


KINDS: Mapping[str, Callable[[Format, str], tuple[Effect, ...]]] = MappingProxyType(
    {
        "flip": lambda format, text: _flips(format),  # noqa: ARG005
        "stuck-at-0": lambda format, text: _stuck(format, 0),  # noqa: ARG005
        "stuck-at-1": lambda format, text: _stuck(format, 1),  # noqa: ARG005
        "burst": _bursts,
        "random-bits": _random_bits,
    }
)
"""Every kind of fault of one word: from its format, and what follows a colon, the effects of that kind.

``flip``, ``stuck-at-0`` and ``stuck-at-1`` are one effect a bit; ``burst:3`` flips three adjacent bits, one effect a
place; ``random-bits:2`` flips two random bits, drawn for each word from its address.
"""


def effects_of(kinds: Sequence[str], format: Format) -> tuple[Effect, ...]:
    """Give the effects of kinds on words of a format, in order, each once: ``burst:1`` is ``flip``.

    >>> from miscompute.formats import FORMATS
    >>> [str(effect) for effect in effects_of(["burst:7", "stuck-at-1"], FORMATS["fp8_e5m2"])][:3]
    ['bits 0,1,2,3,4,5,6 flip', 'bits 1,2,3,4,5,6,7 flip', 'bit 0 stuck-at 1']

    Raises:
        InvalidInput: if a kind is not known, or none is named.
    """
    if not kinds:
        raise InvalidInput(f"kinds=() must name at least one of {', '.join(KINDS)}")
    found: list[Effect] = []
    for kind in kinds:
        word, colon, text = kind.partition(":")
        takes_number = word in ("burst", "random-bits")
        if word not in KINDS or (colon and not takes_number):
            raise InvalidInput(
                f"kind={kind!r} is unknown; choose from flip, stuck-at-0, stuck-at-1, burst:3, random-bits:2"
            )
        found += KINDS[word](format, text)
    return tuple(dict.fromkeys(found))


@final
@dataclass(frozen=True, kw_only=True)
class Protection:
    """Stored bits that no fault changes: hardened cells, or words of which a good copy is kept.

    ``masks``: of each parameter, a word for each element with ones at protected bits; of others, nothing is protected.
    """

    masks: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        wrong = next((name for name, masks in self.masks.items() if min(masks, default=0) < 0), None)
        if wrong is not None:
            raise InvalidInput(f"masks of {wrong!r} of Protection must not be negative")

    def of(self, parameter: str, elements: Sequence[int]) -> tuple[int, ...]:
        """Give the masks of some elements; nothing at all if none of their bits is protected.

        Raises:
            InvalidInput: if the parameter has more elements than masks.
        """
        masks = self.masks.get(parameter, ())
        if masks and max(elements) >= len(masks):
            raise InvalidInput(
                f"masks of {parameter!r} of Protection are {len(masks)}, but element {max(elements)} is asked for"
            )
        found = tuple(masks[at] for at in elements) if masks else ()
        return found if any(found) else ()


@final
@dataclass(frozen=True, kw_only=True)
class Faults:
    """Faults of one parameter: each effect on each of some elements, which count in the order of memory.

    ``protected``: of each element, the bits that stay what they are whatever the effect; none: of no element any.
    """

    parameter: str
    elements: tuple[int, ...]
    effects: tuple[Effect, ...]
    protected: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.protected and len(self.protected) != len(self.elements):
            raise InvalidInput(
                f"protected of {self.parameter!r} must be a mask for each of {len(self.elements)} elements, or none"
            )
        if not self.elements or not self.effects:
            raise InvalidInput(f"faults of {self.parameter!r} need elements and effects; leave the parameter out")
        if min(self.elements) < 0 or len(set(self.elements)) != len(self.elements):
            raise InvalidInput(f"elements of {self.parameter!r} must be different places, none negative")

    def __len__(self) -> int:
        return len(self.elements) * len(self.effects)

    def values(self, parameter: Tensor, format: Format) -> Float[Tensor, "elements effects"]:
        """Give what the elements are read as under each effect, as float32.

        Args:
            parameter: holds values of the format.
            format: the words'; an integer's scale settled.
        """
        chosen = parameter.detach().reshape(-1)[torch.tensor(self.elements)].double().numpy()
        words = format.encode(chosen)
        read = [words_read(effect, words, format, self.parameter, self.elements) for effect in self.effects]
        if self.protected:
            kept = np.array(self.protected, np.uint64)
            read = [(words & kept) | (one & ~kept) for one in read]
        return torch.from_numpy(np.stack([format.decode(one) for one in read], axis=1)).float()


def words_read(
    effect: Effect, words: NDArray[np.uint64], format: Format, owner: str, elements: Iterable[int]
) -> NDArray[np.uint64]:
    """Give what words are read as; ``elements``: of which element of their owner, a parameter say, each word is.

    What is drawn belongs to that address, whichever other words are asked for.
    """
    if isinstance(effect, BitOperation):
        return effect.read(words, format)
    name = crc32(owner.encode())
    read = [effect.read(words[at : at + 1], format, key=(name, one)) for at, one in enumerate(elements)]
    return np.concatenate(read)


def rounded_to(model: nn.Module, names: Sequence[str], format: Format) -> dict[str, Format]:
    """Round parameters of a model, in place, to values of a format; give each one's format, its scale settled.

    Raises:
        InvalidInput: if a parameter is not of float32, holds what the format does not, or the format has no scale.
    """
    if not format.is_float and format.scale is None:
        raise InvalidInput(f"format={format.name} counts in whole numbers; give it a scale, as in {format.name}:max")
    settled = {}
    for name in names:
        parameter = model.get_parameter(name)
        if parameter.dtype != torch.float32:
            raise InvalidInput(
                f"parameter {name!r} is {str(parameter.dtype).removeprefix('torch.')}; use model.float(), and format= "
                "for the words that are stored"
            )
        if not bool(torch.isfinite(parameter).all()):
            raise InvalidInput(f"parameter {name!r} is not finite without any fault; load or train another model")
        values = parameter.detach().double().numpy()
        settled[name] = format.fitted(values)
        if format.name != "fp32":
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(settled[name].decode(settled[name].encode(values))))
    return settled
