"""The three passes of a layer, brought to an array as a compiler does, and what it computed brought back.

Everything a layer has beyond the plain operation that an array knows (groups, strides and padding) is turned into zeros
in its operands, and into copies where it knows products of matrices only. To tell which element of the layer's own
operand a word of the array's is, the same steps are taken with the elements' numbers in place of their values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ..fault import CycleBursts, Fault, Transient
from ..hardware import Array, Layer, Nvdla, Operand, OutputStationary, Pass, Simd, WeightStationary
from ._direct import directly
from ._laid import Laid
from ._matmul import by_products
from ._words import Drawn, Reading


@dataclass(frozen=True, kw_only=True, eq=False)
class OperandReading:
    """How the array read an operand of a layer, in the operand's own shape.

    Args:
        values: as read wrong where ``reached``, as the array's format holds them elsewhere.
        reached: `Reading.reached`, of one of the element's copies at least.
        read: `Reading.read`, likewise.
    """

    values: NDArray[np.float64]
    reached: NDArray[np.bool_]
    read: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerResult:
    """What one pass of a layer computed, without bias, and how it read its two operands.

    Args:
        result: in the layer's own shape.
        touched: `CoreResult.touched`, of the result.
        operands: the two.
        cycles: how many cycles the pass took.
    """

    result: NDArray[np.float64]
    touched: NDArray[np.bool_]
    operands: dict[Operand, OperandReading]
    cycles: int


def layer_result(
    array: Array,
    fault: Fault | None,
    layer: Layer,
    pass_: Pass,
    operands: Mapping[Operand, NDArray[np.float64]],
    step: int,
) -> LayerResult:
    """Compute a pass of a layer on any array of the catalogue, with a fault anywhere in its arithmetic.

    NVDLA's core computes convolutions (`convolve`); systolic arrays (`weight_stationary`, `output_stationary`) and
    vector units (`vector_product`) compute products of matrices, by im2col and col2im.

    Args:
        array: the array; its format must be given.
        fault: what is broken; None for a healthy array.
        layer: the layer.
        pass_: the computation.
        operands: those that the pass reads, at least, in the shapes of `Layer.shape`; but a grouped weight as PyTorch
            has it, (oc, ic / groups, *kernel).
        step: the optimizer step, by which the fault may come and go, and some swizzles go.

    Raises:
        InvalidInput: if an operand does not have the layer's shape; if the array, the site or the effect is not known
            here; if a transient's cycle is beyond the pass.

    >>> from miscompute.fault import parse_fault
    >>> from miscompute.hardware import systolic
    >>> layer, ones = Layer(name="fc", n=2, ic=2, oc=3), np.ones((3, 2))
    >>> array, fault = systolic(rows=2, cols=3, format="int8"), parse_fault("activation[0,1] bit 3 flip")
    >>> layer_result(array, fault, layer, "forward", {"input": ones[:2], "weight": ones}, 0).result.tolist()
    [[2.0, 10.0, 10.0], [2.0, 10.0, 10.0]]
    """
    given = {operand: operands[operand] for operand in _OPERANDS[pass_]}
    for operand, values in given.items():
        wanted = layer.tensor_shape(_TWINS[operand] if layer.transposed else operand)
        if values.shape != wanted:
            raise InvalidInput(f"{operand} {values.shape} of layer {layer.name!r} must be {wanted}")
    if array.format is not None and array.format.scale == "max" and (layer.batch, layer.groups) != (1, 1):
        raise InvalidInput(
            f"format={array.format.name} of layer {layer.name!r}, which is computed in parts: say a scale"
        )
    active = fault is not None and fault.timing.active(step=step, pass_=pass_, layer=layer.name)
    if fault is not None and isinstance(fault.timing, CycleBursts):
        fault = replace(fault, timing=Drawn(fault.timing, step=step, pass_=pass_, layer=layer.name))
    found = _results(array, fault, layer, pass_, given, step=step, active=active)
    if active and fault is not None and isinstance(fault.timing, Transient):
        cycle = fault.timing.cycle
        if cycle is not None and cycle >= found.cycles:
            raise InvalidInput(f"cycle={cycle} is outside the pass, which takes {found.cycles:,} cycles (from 0)")
    return found


_OPERANDS: Mapping[Pass, tuple[Operand, Operand]] = {
    "forward": ("weight", "input"),
    "grad_input": ("weight", "grad_output"),
    "grad_weight": ("input", "grad_output"),
}

_TWINS: Mapping[Operand, Operand] = {"input": "grad_output", "grad_output": "input", "weight": "weight"}
"""What a transposed convolution's operands are to the convolution that it is the gradient of."""


def _results(
    array: Array,
    fault: Fault | None,
    layer: Layer,
    pass_: Pass,
    operands: dict[Operand, NDArray[np.float64]],
    *,
    step: int,
    active: bool,
    first: int = 0,
) -> LayerResult:
    """Compute a pass; of a batched layer, one product after another, of a transposed one, its convolution's pass."""
    if layer.batch > 1:
        products: list[LayerResult] = []
        for number in range(layer.batch):
            own = {operand: values[number] for operand, values in operands.items()}
            done = sum(product.cycles for product in products)
            one = replace(layer, batch=1)
            products.append(_results(array, fault, one, pass_, own, step=step, active=active, first=done))
        return _stacked(products)
    if layer.transposed:  # the gradient of a convolution: what comes in is that convolution's output's gradient
        passes: dict[Pass, Pass] = {"forward": "grad_input", "grad_input": "forward", "grad_weight": "grad_weight"}
        own = {_TWINS[operand]: values for operand, values in operands.items()}
        twin = replace(layer, transposed=False)
        if isinstance(array, Nvdla):  # what it reads is a gradient, and no image
            array = replace(array, image_mode="none")
        found = _results(array, fault, twin, passes[pass_], own, step=step, active=active, first=first)
        return replace(found, operands={_TWINS[operand]: reading for operand, reading in found.operands.items()})
    match array:
        case Nvdla():
            computed = directly(array, fault, layer, pass_, operands, step=step, active=active, first=first)
        case WeightStationary() | OutputStationary() | Simd():
            computed = by_products(array, fault, layer, pass_, operands, step=step, active=active, first=first)
        case _:
            raise InvalidInput(f"array={array} is none that is known here: Nvdla, a systolic array, Simd")
    return LayerResult(
        result=computed.result,
        touched=computed.touched,
        operands={
            operand: _read_back(values, [(laid, r) for laid, r in computed.readings if laid.operand == operand])
            for operand, values in operands.items()
        },
        cycles=computed.cycles,
    )


def _stacked(products: Sequence[LayerResult]) -> LayerResult:
    return LayerResult(
        result=np.stack([product.result for product in products]),
        touched=np.stack([product.touched for product in products]),
        operands={
            operand: OperandReading(
                values=np.stack([product.operands[operand].values for product in products]),
                reached=np.stack([product.operands[operand].reached for product in products]),
                read=np.stack([product.operands[operand].read for product in products]),
            )
            for operand in products[0].operands
        },
        cycles=sum(product.cycles for product in products),
    )


def _read_back(values: NDArray[np.float64], readings: Sequence[tuple[Laid, Reading]]) -> OperandReading:
    """Bring what the array recorded into the shape of the layer's operand."""
    format = readings[0][1].format
    words = format.encode(values.reshape(-1))
    reached, read = np.zeros(words.shape, dtype=np.bool_), np.zeros(words.shape, dtype=np.bool_)
    for laid, reading in readings:
        number = laid.numbers(values.shape)
        for recorded, marks in ((reading.reached, reached), (reading.read, read)):
            marks[number[recorded & (number > 0)] - 1] = True
        wrong = reading.reached & (number > 0)
        words[number[wrong] - 1] = reading.words[wrong]
    shape = values.shape
    return OperandReading(
        values=format.decode(words).reshape(shape), reached=reached.reshape(shape), read=read.reshape(shape)
    )


def forward(
    array: Array,
    fault: Fault | None,
    layer: Layer,
    input: NDArray[np.float64],
    weight: NDArray[np.float64],
    step: int,
) -> LayerResult:
    """Compute a layer's output, (n, oc, *out_size), without bias (`layer_result`)."""
    return layer_result(array, fault, layer, "forward", {"input": input, "weight": weight}, step)


def grad_input(
    array: Array,
    fault: Fault | None,
    layer: Layer,
    grad_output: NDArray[np.float64],
    weight: NDArray[np.float64],
    step: int,
) -> LayerResult:
    """Compute the gradient of a layer's input, (n, ic, *size) (`layer_result`)."""
    return layer_result(array, fault, layer, "grad_input", {"grad_output": grad_output, "weight": weight}, step)


def grad_weight(
    array: Array,
    fault: Fault | None,
    layer: Layer,
    input: NDArray[np.float64],
    grad_output: NDArray[np.float64],
    step: int,
) -> LayerResult:
    """Compute the gradient of a layer's weight, (oc, ic / groups, *kernel) (`layer_result`)."""
    return layer_result(array, fault, layer, "grad_weight", {"input": input, "grad_output": grad_output}, step)
