"""Bit operations on tensors: a region of an operand is misread."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .._invalid import InvalidInput
from ..error import Range
from ..fault import Effect
from ..formats import FORMATS, Format
from ..hardware import Operand

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
"""The PyTorch dtype whose elements are the words of a format."""

_FORMATS = {dtype: FORMATS[name] for name, dtype in _DTYPES.items()}
_WORDS = {8: torch.int8, 16: torch.int16, 32: torch.int32}

Index = tuple[slice | Tensor, ...]


def format_of(dtype: torch.dtype) -> Format:
    """Give the number format of a tensor's elements.

    Raises:
        InvalidInput: if the dtype has none.
    """
    if dtype not in _FORMATS:
        raise InvalidInput(
            f"operand dtype {str(dtype).removeprefix('torch.')} has no fault model; give the array a format= "
            f"({', '.join(_DTYPES)}) or convert the model"
        )
    return _FORMATS[dtype]


def to_format(operand: Tensor, format: Format | None) -> Tensor:
    """Round an operand to the array's format; any shape. None, or the operand's own format, leaves it as it is."""
    if format is None or operand.dtype == _DTYPES[format.name]:
        return operand
    rounded = operand.to(_DTYPES[format.name])
    if not format.is_float and not torch.equal(rounded.to(operand.dtype), operand):
        raise InvalidInput(
            f"format={format.name} of the array needs operands that are integers it holds; quantise the model first"
        )
    return rounded


def index_of(ranges: Sequence[Range]) -> Index:
    """Turn ranges into an index of their product: slices, which give a view, unless a range has runs."""
    if all(range_.width in (1, range_.step) for range_ in ranges):
        return tuple(slice(r.start, r.stop, 1 if r.step == r.width else r.step) for r in ranges)
    mesh = torch.meshgrid(*(torch.tensor(list(range_)) for range_ in ranges), indexing="ij")
    return tuple(mesh)


class Misread:
    """An error of one operand, ready to be applied again and again.

    Args:
        operand: which tensor is misread.
        index: its elements, in the operand as ``view`` shapes it (None: as it is).
        view: the operand's shape with its channels split by group, if the index counts so.
        effect: what happens to their words.
        spares_zeros: whether zeros are read right.
        is_logged: whether this is the one of several readings of the same elements that counts.
    """

    __slots__ = (
        "_bits",
        "_dtype",
        "_effect",
        "_index",
        "_is_view",
        "_place",
        "_region",
        "_spares_zeros",
        "_view",
        "_words_of",
        "is_logged",
        "operand",
    )

    def __init__(
        self,
        *,
        operand: Operand,
        index: Index,
        view: tuple[int, ...] | None,
        effect: Effect,
        spares_zeros: bool,
        is_logged: bool,
    ) -> None:
        self.operand = operand
        self.is_logged = is_logged
        self._index = index
        self._view = view
        self._effect = effect
        self._spares_zeros = spares_zeros
        self._is_view = isinstance(index[0], slice)
        # What the last tensors had in common, so that it is worked out once: operators are dear on a small layer.
        self._dtype: torch.dtype | None = None
        self._bits: _Bits | None = None  # the effect's, for that dtype
        self._words_of: Tensor | None = None  # room that is used again
        self._region: Tensor | None = None  # the words of its region
        self._place: _Place | None = None

    def __call__(self, tensor: Tensor) -> "Change":
        """Change the words of the region, in place."""
        if self._bits is None or tensor.dtype is not self._dtype:
            self._bits = _bits(tensor.dtype, self._effect, self._spares_zeros)
            self._dtype = tensor.dtype
        word_dtype, depends, inverts, magnitude = self._bits
        words, region, is_view = tensor, self._region, self._is_view
        if region is None or tensor is not self._words_of or not is_view:
            words = tensor.view(word_dtype)
            if self._view is not None:
                words = words.view(self._view)
            region = self._region_of(words)
            if self.operand == "weight" and not region.is_inference():  # else it could not be written to after
                self._words_of, self._region = tensor, region
        bits = torch.bitwise_and(region, depends)
        if inverts is not None:
            bits.bitwise_xor_(inverts)
        if magnitude is not None:
            bits.masked_fill_(torch.bitwise_and(region, magnitude) == 0, 0)
        change = Change(region if is_view else None, words, self._index, bits)
        change.toggle()
        return change

    def _region_of(self, words: Tensor) -> Tensor:
        """Give the words at the index: in contiguous tensors of one shape these lie at the same place."""
        if not (self._is_view and words.is_contiguous()):
            return words[self._index]
        shape, start = words.shape, words.storage_offset()
        if self._place is None or self._place.of != shape:
            region = words[self._index]
            self._place = _Place(shape, region.shape, region.stride(), int(region.storage_offset() - start))
            return region
        return words.as_strided(self._place.size, self._place.stride, start + self._place.offset)


class _Place(NamedTuple):
    """Where a view lies in a contiguous tensor of a shape: one operator makes it, an index takes one for each axis."""

    of: torch.Size
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class Change(NamedTuple):
    """Bits that were changed in place: ``bits`` of the words at ``index``. Changing them again restores."""

    region: Tensor | None  # a view of those words, where the index gives one
    words: Tensor
    where: Index
    bits: Tensor

    def toggle(self) -> None:
        """Invert the bits, in place."""
        if self.region is not None:
            self.region.bitwise_xor_(self.bits)
        else:
            self.words[self.where] = self.words[self.where] ^ self.bits


_Bits = tuple[torch.dtype, Tensor, Tensor | None, Tensor | None]


@lru_cache
def _bits(dtype: torch.dtype, effect: Effect, spares_zeros: bool) -> _Bits:
    """Give an effect as the bits it changes: ``(word & depends) ^ inverts``, none where ``word & magnitude`` is 0.

    ``((word & keep) | set) ^ flip`` differs from ``word`` in these bits: where a bit is kept, in those of ``flip``;
    where it is forced to 0 or to 1, wherever it is not that. None: nothing to invert, no zero to spare.
    """
    format_ = format_of(dtype)
    keep, set_, flip = effect.masks(format_)
    full, sign = (1 << format_.bits) - 1, 1 << (format_.bits - 1)
    depends, inverts = (full & ~keep) | set_, set_ ^ flip
    magnitude = sign - 1 if format_.is_float else full
    changes_zeros = inverts or depends & ~magnitude  # else zeros stay as they are by themselves

    def constant(word: int) -> Tensor:
        return torch.tensor(word - (1 << format_.bits) if word & sign else word, dtype=_WORDS[format_.bits])

    return (
        _WORDS[format_.bits],
        constant(depends),
        constant(inverts) if inverts else None,
        constant(magnitude) if spares_zeros and changes_zeros else None,
    )
