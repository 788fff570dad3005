"""What each operator makes of a change that only some channels have: the table from operator to delta rule."""

# ruff: noqa: ARG001 (all functions of a table take the same)

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F  # noqa: N812

from ._graph import arguments

aten = torch.ops.aten


class Part(NamedTuple):
    """Values of a tensor that differ from the golden ones only in some channels, for pairs of a fault and an example.

    ``new`` is (pairs, ..., channels, ...), the places ``channels`` of dimension ``dim`` of the whole tensor.
    """

    dim: int
    channels: Tensor
    new: Tensor


class Context(NamedTuple):
    """What a rule may ask for: golden values of the examples at hand, constants, and the shape without a fault."""

    golden: Callable[[Node], Tensor]
    golden_part: Callable[[Node, int, Tensor], Tensor]
    constant: Callable[[Any], Any]
    shape: Callable[[Node], tuple[int, ...]]


Rule = Callable[[Node, dict[Node, Any], Context], Any]
"""From an operator and the changed values that it reads, its changed value: a `Part` or a whole tensor.

``NotImplemented`` stands for no delta rule in this case.
"""


def _argument(node: Node, place: int, name: str, default: Any) -> Any:
    return arguments(node)[place] if len(arguments(node)) > place else node.kwargs.get(name, default)


def _changed(node: Node, values: dict[Node, Any]) -> Any:
    return values.get(arguments(node)[0]) if isinstance(arguments(node)[0], Node) else None


def _elementwise(node: Node, values: dict[Node, Any], context: Context) -> Any:
    """Apply a function of each element to the changed channels alone."""
    part = _changed(node, values)
    if not isinstance(part, Part):
        return NotImplemented
    return part._replace(new=_called(node, part.new))


def _called(node: Node, first: Tensor) -> Tensor:
    assert callable(node.target)
    result: Tensor = node.target(first, *arguments(node)[1:], **node.kwargs)
    return result


def _spatial(node: Node, values: dict[Node, Any], context: Context) -> Any:
    """Apply a pool: a function of each channel by itself, channels in dimension 1 and pixels in those after."""
    part = _changed(node, values)
    if not isinstance(part, Part) or part.dim != 1:
        return NotImplemented
    return part._replace(new=_called(node, part.new))


def _max_pool(node: Node, values: dict[Node, Any], context: Context) -> Any:
    """Pool the changed channels, or all of them."""
    changed = _changed(node, values)
    if isinstance(changed, Part) and changed.dim == 1:
        return changed._replace(new=pooled(node, changed.new))
    return pooled(node, changed) if isinstance(changed, Tensor) else NotImplemented


def pooled(node: Node, x: Tensor) -> Tensor:
    """Carry a maximum pool out, (n, channels, h, w): where windows do not overlap, seven times as fast as PyTorch's."""
    kernel, stride = arguments(node)[1], arguments(node)[2] if len(arguments(node)) > 2 else arguments(node)[1]
    if len(arguments(node)) > 3 or node.kwargs or kernel != stride or len(kernel) != 2:
        return _called(node, x)
    (rows, cols), (height, width) = kernel, x.shape[2:]
    whole = x[:, :, : height // rows * rows, : width // cols * cols]
    found = None
    for row in range(rows):
        for col in range(cols):
            one = whole[:, :, row::rows, col::cols]
            found = one if found is None else torch.maximum(found, one)
    assert found is not None
    return found


def _mean(node: Node, values: dict[Node, Any], context: Context) -> Any:
    part = _changed(node, values)
    dims = _argument(node, 1, "dim", None)
    if not isinstance(part, Part) or not dims or _argument(node, 2, "keepdim", False):
        return NotImplemented
    rank = part.new.dim()
    dims = [dim % rank for dim in dims]
    if 0 in dims or part.dim in dims or part.dim > min(dims):
        return NotImplemented
    return part._replace(new=_called(node, part.new))


def _batch_norm(node: Node, values: dict[Node, Any], context: Context) -> Any:
    part = _changed(node, values)
    if not isinstance(part, Part) or part.dim != 1 or arguments(node)[5]:
        return NotImplemented
    weight, bias, mean, variance = (
        None if one is None else context.constant(one)[part.channels] for one in arguments(node)[1:5]
    )
    new = F.batch_norm(part.new, mean, variance, weight, bias, False, 0.0, arguments(node)[7])
    return part._replace(new=new)


def _add(node: Node, values: dict[Node, Any], context: Context) -> Any:
    first, second = arguments(node)[:2]
    if not isinstance(first, Node) or not isinstance(second, Node) or node.kwargs.get("alpha", 1) != 1:
        return NotImplemented
    if first in values and second in values:
        a, b = values[first], values[second]
        if (
            not (isinstance(a, Part) and isinstance(b, Part))
            or a.dim != b.dim
            or not torch.equal(a.channels, b.channels)
        ):
            return NotImplemented
        return a._replace(new=a.new + b.new)
    part, other = (values[first], second) if first in values else (values[second], first)
    if not isinstance(part, Part) or context.shape(other) != context.shape(node):
        return NotImplemented
    clean = context.golden_part(other, part.dim, part.channels)
    return part._replace(new=part.new + clean if first in values else clean + part.new)


def _flatten(node: Node, values: dict[Node, Any], context: Context) -> Any:
    """Join all dimensions from the channels on: a channel becomes a run of features."""
    part = _changed(node, values)
    start, end = _argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1)
    if not isinstance(part, Part) or start != 1 or end != -1:
        return NotImplemented
    shape = context.shape(arguments(node)[0])
    if part.dim != 1:
        return NotImplemented
    each = 1
    for size in shape[2:]:
        each *= size
    index = (part.channels[:, None] * each + torch.arange(each)).flatten()
    return Part(1, index, part.new.flatten(1))


def _slice(node: Node, values: dict[Node, Any], context: Context) -> Any:
    part = _changed(node, values)
    dim = _argument(node, 1, "dim", 0)
    start, end, step = (_argument(node, 2, "start", 0), _argument(node, 3, "end", None), _argument(node, 4, "step", 1))
    if not isinstance(part, Part) or dim == part.dim:
        return NotImplemented
    if dim == 0:  # of all examples
        return part if start in (0, None) and step == 1 and (end is None or end == 2**63 - 1) else NotImplemented
    return part._replace(new=_called(node, part.new))


def _pad(node: Node, values: dict[Node, Any], context: Context) -> Any:
    part = _changed(node, values)
    pad = list(arguments(node)[1])
    if not isinstance(part, Part) or _argument(node, 2, "mode", "constant") != "constant" or len(arguments(node)) > 3:
        return NotImplemented
    place = 2 * (part.new.dim() - 1 - part.dim)  # where the pad of the channels is written
    if len(pad) > place:
        before, after = pad[place : place + 2]
        if before < 0 or after < 0 or any(pad[place + 2 :]):
            return NotImplemented
        inner = [*pad[:place]]
        new = F.pad(part.new, inner) if any(inner) else part.new
        return Part(part.dim, part.channels + before, new)
    return part._replace(new=F.pad(part.new, pad))


def _linear(node: Node, values: dict[Node, Any], context: Context) -> Any:
    """Add to the golden result the product of the change and of the columns of the weight that it meets."""
    source, weight = arguments(node)[:2]
    if set(node.all_input_nodes) & values.keys() != {source}:
        return NotImplemented
    part = values[source]
    if not isinstance(part, Part) or part.dim != part.new.dim() - 1:
        return NotImplemented
    change = part.new - context.golden_part(source, part.dim, part.channels)
    columns = context.constant(weight)[:, part.channels]
    result = context.golden(node)
    if result.dim() == 2:
        return torch.addmm(result, change, columns.t())
    return result + change @ columns.t()


def _conv2d(node: Node, values: dict[Node, Any], context: Context) -> Any:
    source, weight = arguments(node)[:2]
    if set(node.all_input_nodes) & values.keys() != {source} or _argument(node, 6, "groups", 1) != 1:
        return NotImplemented
    part = values[source]
    if not isinstance(part, Part) or part.dim != 1:
        return NotImplemented
    change = part.new - context.golden_part(source, 1, part.channels)
    columns = context.constant(weight)[:, part.channels]
    stride, padding, dilation = (
        _argument(node, 3, "stride", [1, 1]),
        _argument(node, 4, "padding", [0, 0]),
        _argument(node, 5, "dilation", [1, 1]),
    )
    return context.golden(node).add_(torch.conv2d(change, columns, None, stride, padding, dilation))


ELEMENTWISE = (
    aten.relu.default,
    aten.gelu.default,
    aten.silu.default,
    aten.tanh.default,
    aten.sigmoid.default,
    aten.elu.default,
    aten.leaky_relu.default,
    aten.hardtanh.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.alias.default,
    aten.detach.default,
)

RULES: Mapping[Any, Rule] = MappingProxyType(
    {
        **dict.fromkeys(ELEMENTWISE, _elementwise),
        aten.max_pool2d.default: _max_pool,
        aten.avg_pool2d.default: _spatial,
        aten.adaptive_avg_pool2d.default: _spatial,
        aten.mean.dim: _mean,
        aten.batch_norm.default: _batch_norm,
        aten.add.Tensor: _add,
        aten.flatten.using_ints: _flatten,
        aten.slice.Tensor: _slice,
        aten.pad.default: _pad,
        aten.linear.default: _linear,
        aten.conv2d.default: _conv2d,
    }
)
"""Every delta rule, by operator. What has none is computed in whole from changed operands, which is never wrong."""
