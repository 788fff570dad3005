"""Operands of a layer, laid out for an array: in steps that can be taken with the elements' numbers too."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..hardware import Layer, Operand
from ._words import CoreResult, Reading

Array64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Laid:
    """An operand of a layer, and the steps that make the array's operand of it; zeros fill what is new."""

    operand: Operand
    steps: Callable[[Array64], Array64]

    def numbers(self, shape: tuple[int, ...]) -> NDArray[np.intp]:
        """Say which element of the layer's operand each word of the array's is, counted from 1; 0 where it is none."""
        elements = int(np.prod(shape))
        return self.steps(np.arange(1.0, elements + 1).reshape(shape)).astype(np.intp)


@dataclass(frozen=True, kw_only=True, eq=False)
class Computed:
    """What an array computed for a pass, in the layer's own shape, and what it read for it, run by run."""

    result: Array64
    touched: NDArray[np.bool_]
    readings: Sequence[tuple[Laid, Reading]]
    cycles: int

    @staticmethod
    def of(core: CoreResult, held: Laid, passing: Laid, bring_back: Callable[[Array64], Array64]) -> "Computed":
        """Bring one run's result back into the layer's shape."""
        return Computed(
            result=bring_back(core.result),
            touched=bring_back(core.touched.astype(np.float64)) > 0,
            readings=((held, core.stationary), (passing, core.streaming)),
            cycles=core.cycles,
        )


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A layer's spatial numbers as plain tuples."""

    size: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @staticmethod
    def of(layer: Layer) -> "Shape":
        """Read them from a layer."""
        assert layer.stride is not None
        assert layer.padding is not None
        assert layer.dilation is not None
        return Shape(
            size=layer.size,
            out=layer.out_size,
            kernel=layer.kernel,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
        )


def dense(weight: Array64, layer: Layer) -> Array64:
    """Put a grouped weight on the diagonal of a dense one, (oc, ic / groups, *kernel) -> (oc, ic, *kernel)."""
    oc, ic = layer.oc // layer.groups, layer.ic // layer.groups
    dense = np.zeros((layer.oc, layer.ic, *layer.kernel))
    for g in range(layer.groups):
        dense[g * oc : (g + 1) * oc, g * ic : (g + 1) * ic] = weight[g * oc : (g + 1) * oc]
    return dense


def rotated(values: Array64) -> Array64:
    """Reverse all spatial dimensions."""
    return np.flip(values, axis=tuple(range(2, values.ndim)))


def widened(values: Array64, stride: tuple[int, ...]) -> Array64:
    """Insert zeros between neighbours: spatial position p moves to p * stride."""
    size = tuple((length - 1) * s + 1 for length, s in zip(values.shape[2:], stride, strict=True))
    wide = np.zeros((*values.shape[:2], *size))
    spread = tuple(slice(None, None, s) for s in stride)
    wide[(slice(None), slice(None), *spread)] = values
    return wide


def framed(values: Array64, before: tuple[int, ...], size: tuple[int, ...]) -> Array64:
    """Move spatial position p to p + before in a frame of this size; zeros around, and what is outside falls off."""
    frame = np.zeros((*values.shape[:2], *size))
    to: list[slice] = [slice(None), slice(None)]
    of: list[slice] = [slice(None), slice(None)]
    for length, b, total in zip(values.shape[2:], before, size, strict=True):
        first, last = max(b, 0), min(b + length, total)
        to.append(slice(first, max(first, last)))
        of.append(slice(first - b, max(first, last) - b))
    frame[tuple(to)] = values[tuple(of)]
    return frame
