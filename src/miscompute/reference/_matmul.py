"""The three passes of a layer as products of matrices, as systolic arrays and vector units compute them.

Every output position of a convolution becomes a row of the words that it is computed from (im2col), ordered by input
channel and then kernel position, padding included. The input's gradient comes back as such rows, and is added up where
they overlap outside the array (col2im). A grouped layer is one product a group, one after another.
"""

from collections.abc import Iterator

import numpy as np

from ..fault import Fault
from ..hardware import Layer, Operand, OutputStationary, Pass, Simd, WeightStationary
from ._laid import Array64, Computed, Laid, Shape, framed
from ._simd import vector_product
from ._systolic import output_stationary, weight_stationary
from ._words import CoreResult

MatrixArray = WeightStationary | OutputStationary | Simd
"""An array that computes products of matrices."""


def by_products(
    array: MatrixArray,
    fault: Fault | None,
    layer: Layer,
    pass_: Pass,
    operands: dict[Operand, Array64],
    *,
    step: int,
    active: bool,
    first: int,
) -> Computed:
    """Compute a pass of a layer by products of matrices. Cycles count through the groups."""
    holds_input = isinstance(array, Simd)
    groups: list[Computed] = []
    for group in range(layer.groups):
        held, passing = _laid(layer, pass_, group, holds_input=holds_input)
        core = _multiply(
            array,
            fault,
            held.steps(operands[held.operand]),
            passing.steps(operands[passing.operand]),
            step=step,
            layer_index=layer.index,
            active=active,
            first=first + sum(computed.cycles for computed in groups),
        )
        groups.append(
            Computed.of(core, held, passing, lambda product: _back(product, layer, pass_, holds_input=holds_input))
        )
    axis = 0 if pass_ == "grad_weight" else 1  # of the channels that are split by group
    return Computed(
        result=np.concatenate([computed.result for computed in groups], axis=axis),
        touched=np.concatenate([computed.touched for computed in groups], axis=axis),
        readings=[reading for computed in groups for reading in computed.readings],
        cycles=sum(computed.cycles for computed in groups),
    )


def _multiply(
    array: MatrixArray,
    fault: Fault | None,
    stationary: Array64,
    streaming: Array64,
    *,
    step: int,
    layer_index: int,
    active: bool,
    first: int,
) -> CoreResult:
    match array:
        case WeightStationary():
            return weight_stationary(
                array,
                fault,
                stationary,
                streaming,
                step=step,
                layer_index=layer_index,
                active=active,
                first=first,
            )
        case OutputStationary():
            return output_stationary(array, fault, stationary, streaming, active=active, first=first)
        case Simd():
            return vector_product(array, fault, stationary, streaming, active=active, first=first)


def _laid(layer: Layer, pass_: Pass, group: int, *, holds_input: bool) -> tuple[Laid, Laid]:
    """Say what one group's product is made of: the stationary matrix, (k, n), and the streaming one, (m, k)."""
    oc, ic = layer.oc // layer.groups, layer.ic // layer.groups
    own_oc, own_ic = slice(group * oc, (group + 1) * oc), slice(group * ic, (group + 1) * ic)

    def weight(w: Array64) -> Array64:
        return w[own_oc].reshape(oc, -1)  # (oc, ic * taps)

    def columns(x: Array64) -> Array64:
        return im2col(x[:, own_ic], layer)  # (n * positions, ic * taps)

    def rows(dy: Array64) -> Array64:
        return np.moveaxis(dy[:, own_oc], 1, -1).reshape(-1, oc)  # (n * positions, oc)

    match pass_:
        case "forward":
            return Laid(operand="weight", steps=lambda w: weight(w).T), Laid(operand="input", steps=columns)
        case "grad_input":
            return Laid(operand="weight", steps=weight), Laid(operand="grad_output", steps=rows)
        case "grad_weight" if holds_input:
            return Laid(operand="input", steps=columns), Laid(operand="grad_output", steps=lambda dy: rows(dy).T)
        case _:
            return Laid(operand="grad_output", steps=rows), Laid(operand="input", steps=lambda x: columns(x).T)


def _back(product: Array64, layer: Layer, pass_: Pass, *, holds_input: bool) -> Array64:
    """Bring one group's product into the shape of that group's part of the result."""
    oc, ic = layer.oc // layer.groups, layer.ic // layer.groups
    match pass_:
        case "forward":
            return np.moveaxis(product.reshape(layer.n, *layer.out_size, oc), -1, 1)
        case "grad_input":
            return col2im(product, layer)
        case "grad_weight":
            return (product if holds_input else product.T).reshape(oc, ic, *layer.kernel)


def _places(layer: Layer) -> Iterator[tuple[int, int, tuple[slice | int, ...]]]:
    """Give the number of each output position, of each kernel position, and where they meet in the padded input."""
    shape = Shape.of(layer)
    for p, position in enumerate(np.ndindex(*shape.out)):
        for t, tap in enumerate(np.ndindex(*shape.kernel)):
            place = (o * s + r * d for o, s, r, d in zip(position, shape.stride, tap, shape.dilation, strict=True))
            yield p, t, (slice(None), slice(None), *place)


def _padded(layer: Layer) -> tuple[int, ...]:
    shape = Shape.of(layer)
    return tuple(size + 2 * p for size, p in zip(shape.size, shape.padding, strict=True))


def im2col(x: Array64, layer: Layer) -> Array64:
    """Copy an input, (n, c, *size), to a row for each output position, (n * positions, c * taps)."""
    n, c = x.shape[:2]
    padded = framed(x, Shape.of(layer).padding, _padded(layer))
    columns = np.zeros((n, int(np.prod(layer.out_size)), c, int(np.prod(layer.kernel))))
    for p, t, place in _places(layer):
        columns[:, p, :, t] = padded[place]
    return columns.reshape(-1, c * columns.shape[3])


def col2im(columns: Array64, layer: Layer) -> Array64:
    """Add rows up to where they were copied from: the transpose of `im2col`."""
    shape = Shape.of(layer)
    columns = columns.reshape(layer.n, int(np.prod(shape.out)), -1, int(np.prod(shape.kernel)))
    padded = np.zeros((layer.n, columns.shape[2], *_padded(layer)))
    for p, t, place in _places(layer):
        padded[place] += columns[:, p, :, t]
    return framed(padded, tuple(-pad for pad in shape.padding), shape.size)
