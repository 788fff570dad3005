"""Bit operations on tensors: a region of an operand is misread."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._invalid import InvalidInput
from ..error import Range
from ..fault import BitOperation, Effect
from ..formats import FORMATS, Format
from ..hardware import Operand

_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "int16": torch.int16,
    "int8": torch.int8,
}
"""The PyTorch dtype whose elements hold the words of a format; tf32 in the upper bits of fp32."""

_FORMATS = {dtype: FORMATS[name] for name, dtype in reversed(_DTYPES.items())}  # float32 is fp32
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32}

Index = tuple[slice | Tensor, ...]

FLAT = (-1,)
"""The view of a tensor's elements in the order of memory."""


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


class Rounded(NamedTuple):
    """An operand in words of a format; the scale of an integer format settled."""

    words: Tensor
    format: Format

    @property
    def unit(self) -> float:
        """What one unit of an integer is worth."""
        return self.format.scale if isinstance(self.format.scale, float) else 1.0

    def values(self, dtype: torch.dtype) -> Tensor:
        """Give what the words spell, in another dtype."""
        values = self.words.to(dtype)
        return values if self.unit == 1 else values * self.unit


def to_format(operand: Tensor, format: Format) -> Rounded:
    """Round an operand to words of a format, to nearest even; any shape.

    Raises:
        InvalidInput: if an integer format without a scale does not hold the values.
    """
    base = format.name.partition(":")[0]
    dtype = _DTYPES[base]
    if format.is_float:
        if format.name == "tf32":
            return Rounded(_round_to_tf32(operand.to(dtype)), format)
        return Rounded(operand if operand.dtype == dtype else operand.to(dtype), format)
    if format.scale is None:
        if operand.dtype == dtype:
            return Rounded(operand, format)
        words = operand.to(dtype)
        if not torch.equal(words.to(operand.dtype), operand):
            raise InvalidInput(
                f"format={format.name} of the array needs operands that are integers it holds; quantise the model "
                f"first, or give the format a scale: {base}:max"
            )
        return Rounded(words, format)
    largest = operand.detach().abs().max().double().cpu().numpy() if operand.numel() else np.zeros(())
    settled = Rounded(operand, format.fitted(largest))
    half = 1 << (format.bits - 1)
    return settled._replace(words=(operand.double() / settled.unit).round().clamp(-half, half - 1).to(dtype))


def _round_to_tf32(operand: Tensor) -> Tensor:
    """Round fp32 to 10 bits of fraction, ties to even. Infinities stay, and NaN keeps the bits a tf32 has."""
    words = operand.view(torch.int32)
    up = ((words >> _TF32_SHIFT) & 1) + ((1 << (_TF32_SHIFT - 1)) - 1)
    rounded = (torch.where(operand.isfinite(), words + up, words) >> _TF32_SHIFT) << _TF32_SHIFT
    return torch.where(operand.isnan(), operand, rounded.view(torch.float32))


_TF32_SHIFT = FORMATS["fp32"].bits - FORMATS["tf32"].bits


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
        "_word",
        "_words_of",
        "is_logged",
        "operand",
    )

    def __init__(
        self,
        *,
        operand: Operand | Literal["result"],
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
        self._word = torch.int32
        self._bits: _Bits | None = None  # the effect's, for that dtype
        self._words_of: Tensor | None = None  # room that is used again
        self._region: Tensor | None = None  # the words of its region
        self._place: _Place | None = None

    def __call__(self, tensor: Tensor, format: Format | None = None, *, key: tuple[int, ...] = ()) -> "Change":
        """Change the words of the region, in place.

        Args:
            tensor: whose elements hold words.
            format: of the words; None: the tensor's dtype says it.
            key: what distinguishes this reading from others; random effects draw by it.
        """
        if self._dtype is None or tensor.dtype is not self._dtype:
            if format is None:
                format_of(tensor.dtype)  # says so if there is none
            self._dtype = tensor.dtype
            self._word = _WORDS[tensor.element_size()]
            if isinstance(self._effect, BitOperation):
                self._bits = _bits(tensor.dtype, format, self._effect, self._spares_zeros)
        words, region, is_view = tensor, self._region, self._is_view
        if region is None or tensor is not self._words_of or not is_view:
            words = tensor.view(self._word)
            if self._view == FLAT:
                words = words.as_strided((words.numel(),), (1,))
            elif self._view is not None:
                words = words.view(self._view)
            region = self._region_of(words)
            if self.operand == "weight" and not region.is_inference():  # else it could not be written to after
                self._words_of, self._region = tensor, region
        if self._bits is not None:
            depends, inverts, magnitude = self._bits
            bits = torch.bitwise_and(region, depends)
            if inverts is not None:
                bits.bitwise_xor_(inverts)
            if magnitude is not None:
                bits.masked_fill_(torch.bitwise_and(region, magnitude) == 0, 0)
        else:
            bits = _drawn_bits(region, format or format_of(tensor.dtype), self._effect, self._spares_zeros, key)
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


_Bits = tuple[Tensor, Tensor | None, Tensor | None]


@lru_cache
def _bits(dtype: torch.dtype, format: Format | None, effect: BitOperation, spares_zeros: bool) -> _Bits:
    """Give an effect as the bits it changes: ``(word & depends) ^ inverts``, none where ``word & magnitude`` is 0.

    ``((word & keep) | set) ^ flip`` differs from ``word`` in these bits: where a bit is kept, in those of ``flip``;
    where it is forced to 0 or to 1, wherever it is not that. None: nothing to invert, no zero to spare.
    """
    format = format or format_of(dtype)
    keep, set_, flip = effect.masks(format)
    full, sign = (1 << format.bits) - 1, 1 << (format.bits - 1)
    depends, inverts = (full & ~keep) | set_, set_ ^ flip
    magnitude = sign - 1 if format.is_float else full
    changes_zeros = inverts or depends & ~magnitude  # else zeros stay as they are by themselves
    width = 8 * dtype.itemsize

    def constant(word: int) -> Tensor:
        word <<= width - format.bits  # tf32
        return torch.tensor(word - (1 << width) if word >> (width - 1) else word, dtype=_WORDS[dtype.itemsize])

    return (
        constant(depends),
        constant(inverts) if inverts else None,
        constant(magnitude) if spares_zeros and changes_zeros else None,
    )


def _drawn_bits(region: Tensor, format: Format, effect: Effect, spares_zeros: bool, key: tuple[int, ...]) -> Tensor:
    """Give the bits that an effect changes which is not one bit operation for all words."""
    width = 8 * region.element_size()
    shift = np.uint64(width - format.bits)
    signed = region.cpu().numpy()
    words = signed.view(f"u{region.element_size()}").astype(np.uint64) >> shift
    bits = effect.read(words, format, key=key) ^ words
    if spares_zeros:
        magnitude = (1 << (format.bits - 1)) - 1 if format.is_float else (1 << format.bits) - 1
        bits = np.where(words & np.uint64(magnitude) == 0, np.uint64(0), bits)
    narrow = (bits << shift).astype(f"u{region.element_size()}").view(signed.dtype)
    return torch.from_numpy(narrow).to(region.device)
