"""Bit operations on tensors: a region of an operand is misread."""

from collections.abc import Sequence
from dataclasses import dataclass

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


def format_of(operand: Tensor) -> Format:
    """Give the number format of a tensor's elements.

    Raises:
        InvalidInput: if the dtype has none.
    """
    if operand.dtype not in _FORMATS:
        raise InvalidInput(
            f"operand dtype {str(operand.dtype).removeprefix('torch.')} has no fault model; give the array a format= "
            f"({', '.join(_DTYPES)}) or convert the model"
        )
    return _FORMATS[operand.dtype]


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


@dataclass(frozen=True, kw_only=True)
class Misread:
    """An error of one operand, ready to be applied again and again.

    ``index`` gives its elements in the operand as ``view`` shapes it (None: as it is). ``is_logged``: whether this is
    the one of several readings of the same elements that counts.
    """

    operand: Operand
    index: Index
    view: tuple[int, ...] | None
    effect: Effect
    spares_zeros: bool
    is_logged: bool

    def __call__(self, operand: Tensor) -> Tensor:
        """Change the words of the region in place; return how many words changed, as a tensor of one element."""
        format_ = format_of(operand)
        keep, set_, flip = self.effect.masks(format_)
        words = operand.view(_WORDS[format_.bits])
        if self.view is not None:
            words = words.view(self.view)
        old = new = words[self.index]
        sign = 1 << (format_.bits - 1)
        if keep != (sign << 1) - 1:
            new = new & _signed(keep, format_)
        if set_:
            new = new | _signed(set_, format_)
        if flip:
            new = new ^ _signed(flip, format_)
        if self.spares_zeros and (set_ or flip or not keep & sign):  # otherwise zeros stay as they are
            magnitude = old & _signed(sign - 1, format_) if format_.is_float else old
            new = torch.where(magnitude == 0, old, new)
        changed = torch.count_nonzero(new != old)
        words[self.index] = new
        return changed


def _signed(word: int, format_: Format) -> int:
    return word - (1 << format_.bits) if word >> (format_.bits - 1) else word
