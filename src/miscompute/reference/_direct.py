"""The three passes of a layer as dense direct convolutions, as NVDLA's core computes them."""

import numpy as np
from numpy.typing import NDArray

from ..fault import Fault
from ..hardware import Layer, Nvdla, Operand, Pass
from ._image import convolve_lines
from ._laid import Array64, Computed, Laid, Shape, dense, framed, rotated, widened
from ._nvdla import convolve

_Convolution = tuple[Laid, Laid, tuple[int, ...], tuple[int, ...]]
"""What is held, what passes by, and the distances of result positions and of kernel positions."""


def directly(
    array: Nvdla,
    fault: Fault | None,
    layer: Layer,
    pass_: Pass,
    operands: dict[Operand, Array64],
    *,
    step: int,
    active: bool,
    first: int,
) -> Computed:
    """Compute a pass of a layer on NVDLA's core. Of a grouped layer the core computes the dense one."""
    shape = Shape.of(layer)
    if array.seen(layer, pass_).packed:
        return _of_images(array, fault, layer, shape, operands, step=step, active=active, first=first)
    match pass_:
        case "forward":
            held, passing, stride, dilation = _forward(layer, shape)
        case "grad_input":
            held, passing, stride, dilation = _grad_input(layer, shape)
        case "grad_weight" if array.grad_weight == "A":
            held, passing, stride, dilation = _grad_weight_a(shape)
        case _:
            held, passing, stride, dilation = _grad_weight_b(shape)
    if not layer.size:  # a linear layer: a 1 x 1 kernel, and what would be images are the pixels of one
        cells, images = held.steps, passing.steps
        held = Laid(operand=held.operand, steps=lambda values: cells(values)[:, :, None])
        passing = Laid(operand=passing.operand, steps=lambda values: images(values).T[None])  # (1, lane, pixel)
        stride, dilation = (1,), (1,)
    core = convolve(
        array,
        fault,
        held.steps(operands[held.operand]),
        passing.steps(operands[passing.operand]),
        stride=stride,
        padding=(0,) * len(stride),
        dilation=dilation,
        step=step,
        layer_index=layer.index,
        active=active,
        first=first,
    )

    def bring_back(result: Array64) -> Array64:
        if not layer.size:
            result = result[0].T  # (1, cell, pixel) -> (pixel, cell)
        if pass_ != "grad_weight":
            return result
        if array.grad_weight == "A":
            result = result.swapaxes(0, 1)
        oc, ic = layer.oc // layer.groups, layer.ic // layer.groups  # of the dense gradient, some blocks are weights
        kept = [result[g * oc : (g + 1) * oc, g * ic : (g + 1) * ic] for g in range(layer.groups)]
        return np.concatenate(kept)

    return Computed.of(core, held, passing, bring_back)


def _of_images(
    array: Nvdla,
    fault: Fault | None,
    layer: Layer,
    shape: Shape,
    operands: dict[Operand, Array64],
    *,
    step: int,
    active: bool,
    first: int,
) -> Computed:
    """Compute the forward pass in image mode: pixels lie side by side in lines, the channels of each together."""

    def in_lines(values: Array64) -> Array64:
        lines = np.moveaxis(values, 1, -1)  # (., ic, line, column) -> (., line, column, ic)
        return lines.reshape(*lines.shape[:2], -1)

    around = tuple(size + 2 * p for size, p in zip(shape.size, shape.padding, strict=True))
    down, across = shape.stride
    out_lines, out_pixels = shape.out
    held = Laid(operand="weight", steps=in_lines)
    passing = Laid(operand="input", steps=lambda x: in_lines(framed(x, shape.padding, around)))
    core = convolve_lines(
        array,
        fault,
        held.steps(operands["weight"]),
        passing.steps(operands["input"]),
        out=(out_lines, out_pixels),
        stride=(down, across * layer.ic),
        step=step,
        layer_index=layer.index,
        active=active,
        first=first,
    )
    return Computed.of(core, held, passing, lambda result: result)


def _forward(layer: Layer, shape: Shape) -> _Convolution:
    """Hold the weight; the input passes by."""
    around = tuple(size + 2 * p for size, p in zip(shape.size, shape.padding, strict=True))
    return (
        Laid(operand="weight", steps=lambda w: dense(w, layer)),
        Laid(operand="input", steps=lambda x: framed(x, shape.padding, around)),
        shape.stride,
        shape.dilation,
    )


def _grad_input(layer: Layer, shape: Shape) -> _Convolution:
    """Hold the weight, transposed and rotated by half a turn; the output's gradient passes by.

    Zeros stand between the gradient's elements in place of the layer's stride.
    """
    # Input position h meets kernel position r at the widened output position h + padding - r * dilation; rotated,
    # kernel position u = kernel - 1 - r at h + u * dilation - before.
    reach = _reach(shape)
    before = tuple(r - p for r, p in zip(reach, shape.padding, strict=True))
    around = tuple(i + r for i, r in zip(shape.size, reach, strict=True))
    return (
        Laid(operand="weight", steps=lambda w: rotated(dense(w, layer)).swapaxes(0, 1)),
        Laid(operand="grad_output", steps=lambda dy: framed(widened(dy, shape.stride), before, around)),
        (1,) * len(shape.size),
        shape.dilation,
    )


def _grad_weight_a(shape: Shape) -> _Convolution:
    """Hold the output's gradient as a kernel that the layer's stride spreads; the input passes by.

    One input channel is an image; the batch is summed over, on the lanes.
    """
    # Kernel position r meets the widened output position j at input position j + r * dilation - padding.
    around = tuple(j + r for j, r in zip(_widened_size(shape), _reach(shape), strict=True))  # input beyond is not used
    return (
        Laid(operand="grad_output", steps=lambda dy: dy.swapaxes(0, 1)),
        Laid(operand="input", steps=lambda x: framed(x, shape.padding, around).swapaxes(0, 1)),
        shape.dilation,
        shape.stride,
    )


def _grad_weight_b(shape: Shape) -> _Convolution:
    """Hold the input; the output's gradient passes by, one output channel an image."""
    # Both operands are rotated, so that results come in the order of kernel positions: input position
    # h' = size - 1 - h meets j' = widened - 1 - j at h' + r * dilation - before.
    wide = _widened_size(shape)
    before = tuple(i + p - j for i, p, j in zip(shape.size, shape.padding, wide, strict=True))
    around = tuple(i + r for i, r in zip(shape.size, _reach(shape), strict=True))

    def passing(dy: Array64) -> NDArray[np.float64]:
        return framed(rotated(widened(dy, shape.stride)), before, around).swapaxes(0, 1)

    return (
        Laid(operand="input", steps=lambda x: rotated(x).swapaxes(0, 1)),
        Laid(operand="grad_output", steps=passing),
        shape.dilation,
        (1,) * len(shape.size),
    )


def _reach(shape: Shape) -> tuple[int, ...]:
    return tuple(d * (k - 1) for d, k in zip(shape.dilation, shape.kernel, strict=True))


def _widened_size(shape: Shape) -> tuple[int, ...]:
    return tuple((o - 1) * s + 1 for o, s in zip(shape.out, shape.stride, strict=True))
