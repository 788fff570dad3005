"""The three passes of a layer, laid on the core as a compiler does: dense operands, plain convolutions.

Everything a layer has beyond a dense stride-and-dilation convolution (groups, strides and padding in the backward
passes) is turned into zeros in the operands, which the core gates. To tell which element of the layer's own operand a
word of the core's is, the same steps are taken with the elements' numbers in place of their values.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ..fault import Fault
from ..formats import Format
from ..hardware import Array, Layer, Operand, Pass
from ._nvdla import Reading, convolve


@dataclass(frozen=True, kw_only=True, eq=False)
class OperandReading:
    """How the array read an operand of a layer, in the operand's own shape.

    Args:
        values: as read wrong where ``reached``, as the array's format holds them elsewhere.
        reached: `Reading.reached`.
        read: `Reading.read`.
    """

    values: NDArray[np.float64]
    reached: NDArray[np.bool_]
    read: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerResult:
    """What one pass of a layer computed, without bias, and how it read its two operands."""

    result: NDArray[np.float64]
    operands: dict[Operand, OperandReading]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Laid:
    """An operand of a layer, and the steps that make the core's operand of it; zeros fill what is new."""

    operand: Operand
    values: NDArray[np.float64]
    steps: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    def on_core(self) -> NDArray[np.float64]:
        return self.steps(self.values)

    def read_back(self, reading: Reading, format: Format) -> OperandReading:
        """Bring what the core recorded into the shape of the layer's operand."""
        numbers = np.arange(1.0, self.values.size + 1).reshape(self.values.shape)
        number = self.steps(numbers).astype(np.intp)  # of the element that each word is; 0 where it is none
        element, at = number > 0, number[number > 0] - 1
        words = format.encode(self.values.reshape(-1))
        reached, read = np.zeros(words.shape, dtype=np.bool_), np.zeros(words.shape, dtype=np.bool_)
        words[at], reached[at], read[at] = (
            reading.words[element],
            reading.reached[element],
            reading.read[element],
        )
        shape = self.values.shape
        return OperandReading(
            values=format.decode(words).reshape(shape),
            reached=reached.reshape(shape),
            read=read.reshape(shape),
        )


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """A layer's spatial numbers as plain tuples."""

    size: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def forward(
    array: Array,
    fault: Fault | None,
    layer: Layer,
    input: NDArray[np.float64],
    weight: NDArray[np.float64],
    step: int,
) -> LayerResult:
    """Compute a layer's output, (n, oc, *out_size), without bias, on an array with a fault.

    The weight, (oc, ic / groups, *kernel), is held in the cells; the input, (n, ic, *size), passes by.

    Raises:
        InvalidInput: if an operand does not have the layer's shape, and as `convolve` does.
    """
    shape = _shape(layer)
    return _run(
        array,
        fault,
        layer,
        "forward",
        _Laid(operand="weight", values=weight, steps=lambda w: _dense(w, layer)),
        _Laid(operand="input", values=input, steps=lambda x: x),
        stride=shape.stride,
        padding=shape.padding,
        dilation=shape.dilation,
        step=step,
    )


def grad_input(
    array: Array,
    fault: Fault | None,
    layer: Layer,
    grad_output: NDArray[np.float64],
    weight: NDArray[np.float64],
    step: int,
) -> LayerResult:
    """Compute the gradient of a layer's input, (n, ic, *size), on an array with a fault.

    The weight, transposed and rotated by half a turn, is held in the cells; the output gradient, (n, oc, *out_size),
    passes by with zeros between its elements in place of the layer's stride.

    Raises:
        InvalidInput: if an operand does not have the layer's shape, and as `convolve` does.
    """
    shape = _shape(layer)
    # Input position h meets kernel position r at the widened output position h + padding - r * dilation; rotated,
    # kernel position u = kernel - 1 - r at h + u * dilation - before.
    reach = tuple(d * (k - 1) for d, k in zip(shape.dilation, shape.kernel, strict=True))
    before = tuple(r - p for r, p in zip(reach, shape.padding, strict=True))
    framed = tuple(i + r for i, r in zip(shape.size, reach, strict=True))
    return _run(
        array,
        fault,
        layer,
        "grad_input",
        _Laid(operand="weight", values=weight, steps=lambda w: _rotated(_dense(w, layer)).swapaxes(0, 1)),
        _Laid(
            operand="grad_output",
            values=grad_output,
            steps=lambda dy: _framed(_widened(dy, shape.stride), before, framed),
        ),
        stride=tuple(1 for _ in shape.size),
        padding=tuple(0 for _ in shape.size),
        dilation=shape.dilation,
        step=step,
    )


def grad_weight(
    array: Array,
    fault: Fault | None,
    layer: Layer,
    input: NDArray[np.float64],
    grad_output: NDArray[np.float64],
    step: int,
) -> LayerResult:
    """Compute the gradient of a layer's weight, (oc, ic / groups, *kernel), on an array with a fault.

    The batch is summed over, on the lanes. As the array's mapping says, the output gradient is held in the cells as a
    kernel that the layer's stride spreads and the input passes by, one input channel an image; or the input is held and
    the output gradient passes by. Of a grouped layer the core computes the dense gradient, and the blocks that are
    weights are kept.

    Raises:
        InvalidInput: if an operand does not have the layer's shape, and as `convolve` does.
    """
    shape = _shape(layer)
    # Kernel position r meets the widened output position j at input position j + r * dilation - padding.
    widened = tuple((o - 1) * s + 1 for o, s in zip(shape.out, shape.stride, strict=True))
    reach = tuple(d * (k - 1) for d, k in zip(shape.dilation, shape.kernel, strict=True))
    if array.mapping("grad_weight").stationary == "grad_output":
        framed = tuple(j + r for j, r in zip(widened, reach, strict=True))  # input beyond it is not used
        held = _Laid(operand="grad_output", values=grad_output, steps=lambda dy: dy.swapaxes(0, 1))
        passing = _Laid(operand="input", values=input, steps=lambda x: _framed(x, shape.padding, framed).swapaxes(0, 1))
        spread = shape.stride
    else:
        # Both operands are rotated, so that results come in the order of kernel positions: input position
        # h' = size - 1 - h meets j' = widened - 1 - j at h' + r * dilation - before.
        before = tuple(i + p - j for i, p, j in zip(shape.size, shape.padding, widened, strict=True))
        framed = tuple(i + r for i, r in zip(shape.size, reach, strict=True))
        held = _Laid(operand="input", values=input, steps=lambda x: _rotated(x).swapaxes(0, 1))
        passing = _Laid(
            operand="grad_output",
            values=grad_output,
            steps=lambda dy: _framed(_rotated(_widened(dy, shape.stride)), before, framed).swapaxes(0, 1),
        )
        spread = tuple(1 for _ in shape.size)
    dense = _run(
        array,
        fault,
        layer,
        "grad_weight",
        held,
        passing,
        stride=shape.dilation,
        padding=tuple(0 for _ in shape.size),
        dilation=spread,
        step=step,
    )
    gradient = dense.result  # (image, cell, *kernel)
    if array.mapping("grad_weight").image == "ic":
        gradient = gradient.swapaxes(0, 1)
    oc, ic = layer.oc // layer.groups, layer.ic // layer.groups
    kept = [gradient[g * oc : (g + 1) * oc, g * ic : (g + 1) * ic] for g in range(layer.groups)]
    return LayerResult(result=np.concatenate(kept), operands=dense.operands)


def _run(
    array: Array,
    fault: Fault | None,
    layer: Layer,
    pass_: Pass,
    held: _Laid,
    passing: _Laid,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    step: int,
) -> LayerResult:
    """Run one convolution for a pass and bring back what it did, (image, cell, *position) and the two operands."""
    for laid in (held, passing):
        wanted = layer.shape(laid.operand)
        if laid.operand == "weight" and layer.groups > 1:
            wanted = (layer.oc, *wanted[2:])  # a layer's weight tensor does not split its output channels
        if laid.values.shape != wanted:
            raise InvalidInput(f"{laid.operand} {laid.values.shape} of layer {layer.name!r} must be {wanted}")
    active = fault is not None and fault.timing.active(step=step, pass_=pass_, layer=layer.name)
    if not layer.size:  # A linear layer: a 1x1 kernel, and what would be images are the pixels of one.
        held, passing = _as_pixels(held, passing)
        stride, padding, dilation = (1,), (0,), (1,)
    core = convolve(
        array,
        fault,
        held.on_core(),
        passing.on_core(),
        stride=stride,
        padding=padding,
        dilation=dilation,
        step=step,
        layer_index=layer.index,
        active=active,
    )
    assert array.format is not None
    return LayerResult(
        result=core.result if layer.size else core.result[0].T,
        operands={
            held.operand: held.read_back(core.stationary, array.format),
            passing.operand: passing.read_back(core.streaming, array.format),
        },
    )


def _as_pixels(held: _Laid, passing: _Laid) -> tuple[_Laid, _Laid]:
    """Give operands without spatial dimensions one."""
    return (
        replace(held, steps=lambda values: held.steps(values)[:, :, None]),  # (cell, lane) -> (cell, lane, 1)
        replace(passing, steps=lambda values: passing.steps(values).T[None]),  # (image, lane) -> (1, lane, pixel)
    )


def _shape(layer: Layer) -> _Shape:
    assert layer.stride is not None
    assert layer.padding is not None
    assert layer.dilation is not None
    return _Shape(
        size=layer.size,
        out=layer.out_size,
        kernel=layer.kernel,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
    )


def _dense(weight: NDArray[np.float64], layer: Layer) -> NDArray[np.float64]:
    """Put a grouped weight on the diagonal of a dense one, (oc, ic / groups, *kernel) -> (oc, ic, *kernel)."""
    oc, ic = layer.oc // layer.groups, layer.ic // layer.groups
    dense = np.zeros((layer.oc, layer.ic, *layer.kernel))
    for g in range(layer.groups):
        dense[g * oc : (g + 1) * oc, g * ic : (g + 1) * ic] = weight[g * oc : (g + 1) * oc]
    return dense


def _rotated(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reverse all spatial dimensions."""
    return np.flip(values, axis=tuple(range(2, values.ndim)))


def _widened(values: NDArray[np.float64], stride: tuple[int, ...]) -> NDArray[np.float64]:
    """Insert zeros between neighbours: spatial position p moves to p * stride."""
    size = tuple((length - 1) * s + 1 for length, s in zip(values.shape[2:], stride, strict=True))
    wide = np.zeros((*values.shape[:2], *size))
    spread = tuple(slice(None, None, s) for s in stride)
    wide[(slice(None), slice(None), *spread)] = values
    return wide


def _framed(values: NDArray[np.float64], before: tuple[int, ...], size: tuple[int, ...]) -> NDArray[np.float64]:
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
