"""The three passes of a layer as an array walks them: dense convolutions, one atomic operation after another."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..hardware import Layer, Mapping, Operand, Pass


@dataclass(frozen=True, kw_only=True, eq=False)
class Laid:
    """A pass as a convolution of ``passing`` (image, lane, *size) with ``held`` (cell, lane, *kernel), no padding.

    Groups, padding and the strides of backward passes have become zeros in the operands, as on the array.
    """

    held: Tensor
    passing: Tensor
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    def patches(self, images: Tensor, pixels: Tensor) -> Tensor:
        """Give the words that meet each kernel position: (image, lane, tap, pixel) of some images and pixels."""
        kernel = self.held.shape[2:]
        size = self.passing.shape[2:]
        out = [
            (s - d * (k - 1) - 1) // st + 1
            for s, k, d, st in zip(size, kernel, self.dilation, self.stride, strict=True)
        ]
        some = self.passing[images].contiguous()
        steps = some.stride()[2:]
        shape = (*some.shape[:2], *kernel, *out)
        strides = (
            *some.stride()[:2],
            *(step * d for step, d in zip(steps, self.dilation, strict=True)),
            *(step * s for step, s in zip(steps, self.stride, strict=True)),
        )
        view = some.as_strided(shape, strides)
        at: tuple[Any, ...] = torch.unravel_index(pixels, out)
        return view[(..., *at)].flatten(2, -2)


def lay(layer: Layer, pass_: Pass, mapping: Mapping, operands: dict[Operand, Tensor], cells: Tensor) -> Laid:
    """Lay a pass out for some cells of the array.

    Args:
        layer: the layer.
        pass_: the computation.
        mapping: which operand is held, which passes by.
        operands: in the layer's own shapes.
        cells: the indices of ``mapping.cell`` that are wanted.
    """
    rank = len(layer.size)
    assert layer.stride is not None
    assert layer.padding is not None
    assert layer.dilation is not None
    ones = (1,) * rank
    if not rank:  # a 1 x 1 kernel; what would be images are the pixels of one
        held, passing = operands[mapping.stationary], operands[mapping.streaming]
        if (pass_, mapping.stationary) != ("forward", "weight"):
            held = held.t()  # (lane, cell) -> (cell, lane)
        if pass_ == "grad_weight":
            passing = passing.t()  # (n, channel) -> (image, n)
        return Laid(held=held[cells][:, :, None], passing=passing.t()[None], stride=(1,), dilation=(1,))
    reach = tuple(d * (k - 1) for d, k in zip(layer.dilation, layer.kernel, strict=True))
    if pass_ == "forward":
        padded = _framed(operands["input"], layer.padding, _added(layer.size, layer.padding, layer.padding))
        held = _dense_rows(operands["weight"], layer, cells)
        return Laid(held=held, passing=padded, stride=layer.stride, dilation=layer.dilation)
    if pass_ == "grad_input":
        held = _rotated(_dense_cols(operands["weight"], layer, cells)).transpose(0, 1)
        before = tuple(r - p for r, p in zip(reach, layer.padding, strict=True))
        passing = _framed(_widened(operands["grad_output"], layer.stride), before, _added(layer.size, reach))
        return Laid(held=held, passing=passing, stride=ones, dilation=layer.dilation)
    widened = tuple((o - 1) * s + 1 for o, s in zip(layer.out_size, layer.stride, strict=True))
    if mapping.stationary == "grad_output":
        held = operands["grad_output"][:, cells].transpose(0, 1)
        passing = _framed(operands["input"], layer.padding, _added(widened, reach)).transpose(0, 1)
        return Laid(held=held, passing=passing, stride=layer.dilation, dilation=layer.stride)
    held = _rotated(operands["input"][:, cells]).transpose(0, 1)
    before = tuple(i + p - j for i, p, j in zip(layer.size, layer.padding, widened, strict=True))
    wide = _rotated(_widened(operands["grad_output"], layer.stride))
    passing = _framed(wide, before, _added(layer.size, reach)).transpose(0, 1)
    return Laid(held=held, passing=passing, stride=layer.dilation, dilation=ones)


def _added(*sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*sizes, strict=True)))


def _rotated(values: Tensor) -> Tensor:
    return values.flip(tuple(range(2, values.dim())))


def _widened(values: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Insert zeros between neighbours: spatial position p moves to p * stride."""
    size = tuple((length - 1) * s + 1 for length, s in zip(values.shape[2:], stride, strict=True))
    wide = values.new_zeros((*values.shape[:2], *size))
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = values
    return wide


def _framed(values: Tensor, before: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """Move spatial position p to p + before in a frame of this size; zeros around, and what is outside falls off."""
    sides: list[int] = []
    for length, b, total in zip(reversed(values.shape[2:]), reversed(before), reversed(size), strict=True):
        sides += [b, total - b - length]
    return F.pad(values, sides)


def _dense_rows(weight: Tensor, layer: Layer, cells: Tensor) -> Tensor:
    """Give output channels of a weight, zeros between groups filled in: (oc, ic / groups, ...) -> (cell, ic, ...)."""
    if layer.groups == 1:
        return weight[cells]
    oc, ic = layer.oc // layer.groups, layer.ic // layer.groups
    dense = weight.new_zeros((len(cells), layer.ic, *layer.kernel))
    for row, cell in enumerate(cells.tolist()):
        group = cell // oc
        dense[row, group * ic : (group + 1) * ic] = weight[cell]
    return dense


def _dense_cols(weight: Tensor, layer: Layer, cells: Tensor) -> Tensor:
    """Give input channels of a weight, zeros between groups filled in: (oc, ic / groups, ...) -> (oc, cell, ...)."""
    if layer.groups == 1:
        return weight[:, cells]
    oc, ic = layer.oc // layer.groups, layer.ic // layer.groups
    dense = weight.new_zeros((layer.oc, len(cells), *layer.kernel))
    for col, cell in enumerate(cells.tolist()):
        rows = slice(cell // ic * oc, (cell // ic + 1) * oc)
        dense[rows, col] = weight[rows, cell % ic]
    return dense
