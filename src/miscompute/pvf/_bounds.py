"""How much a change can grow on its way to the scores: bounds that hold for every change, whatever its size.

Two kinds. *Absolute*: a rectifier, a pool and a product with a weight never enlarge absolute changes by more than the
same graph with absolute weights does, so its gradient bounds each score's change by a weighted sum of the absolute
changes of a tensor. *Euclidean*: the same with norms of operators, coarser near the scores and finer far from them.
"""

# ruff: noqa: ARG001 (all functions of a table take the same)

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F  # noqa: N812

from ._graph import Graph, arguments

aten = torch.ops.aten

_SLACK = 1 + 1e-3  # of the bounds' own rounding: a float32 sum of n terms that are not negative is off by n * 6e-8
_MOST_PRODUCTS = 5  # absolute weights grow a bound about fivefold a layer, so beyond it says nothing
_MOST_ELEMENTS = 2e7

LIPSCHITZ: Mapping[Any, float] = MappingProxyType(
    {
        aten.relu.default: 1.0,
        aten.gelu.default: 1.13,  # its slope is at most 1.1290, of the form with tanh 1.1290
        aten.silu.default: 1.1,  # 1.0998
        aten.tanh.default: 1.0,
        aten.sigmoid.default: 0.25,
        aten.hardtanh.default: 1.0,
        aten.clone.default: 1.0,
        aten.contiguous.default: 1.0,
        aten.dropout.default: 1.0,
        aten.alias.default: 1.0,
        aten.detach.default: 1.0,
    }
)
"""The steepest slope of each function of single elements."""


class Bounds(NamedTuple):
    """What is known of some nodes. C is the number of classes.

    ``absolute``: of a node's tensor, (C, features, C) weights: if the golden class is g, the score of class c comes
    nearer to that of g by at most the changes' absolute sum with weights [g, :, c]. ``gain``: by at most gain times the
    Euclidean norm of the change times ``distance[g, c]``.
    """

    absolute: dict[Node, Tensor]
    gain: dict[Node, float]
    distance: Tensor | None


def bounds_of(graph: Graph, shapes: Mapping[Node, tuple[int, ...]]) -> Bounds:
    """Compute the bounds of all nodes near enough to the scores.

    Args:
        graph: the model.
        shapes: of each node's tensor, of one example.
    """
    last = graph.output
    if last.target is not aten.linear.default:
        return Bounds({}, {}, None)
    weight = graph.constants[arguments(last)[1]].double()
    between = weight[None] - weight[:, None]  # -> (golden class, class, features)
    hidden = last.args[0]
    assert isinstance(hidden, Node)
    classes = len(weight)
    absolute: dict[Node, Tensor] = {}
    if len(shapes[last]) == 2 and classes**2 * weight.shape[1] <= _MOST_ELEMENTS:
        _spread_absolute(graph, shapes, hidden, between.abs().flatten(0, 1), absolute)
    arranged = {
        node: rows.reshape(classes, classes, -1).transpose(1, 2).mul(_SLACK).float().contiguous()
        for node, rows in absolute.items()
    }
    gain: dict[Node, float] = {}
    _spread_gain(graph, shapes, hidden, gain)
    return Bounds(arranged, gain, between.norm(dim=2).mul(_SLACK).float())


def _spread_absolute(
    graph: Graph, shapes: Mapping[Node, tuple[int, ...]], hidden: Node, rows: Tensor, found: dict[Node, Tensor]
) -> None:
    """Carry weights of changes from the last layer's input back, as far as all ways are known."""
    products = {hidden: 1}
    partial: dict[Node, Tensor] = {hidden: rows.view(len(rows), *shapes[hidden][1:])}
    blocked: set[Node] = set()
    for node in reversed(graph.nodes):
        if node is graph.output:
            continue
        sources = [one for one in node.all_input_nodes if one in graph.batch]
        rule = MAJORANTS.get(node.target)
        known = node in partial and node not in blocked
        if known:
            found[node] = partial[node]
        depth = products.get(node, 0) + (node.target in (aten.linear.default, aten.conv2d.default))
        too_large = any(len(rows) * math.prod(shapes[one][1:]) > _MOST_ELEMENTS for one in sources if one in shapes)
        if not known or rule is None or depth > _MOST_PRODUCTS or too_large or hidden in sources:
            blocked.update(sources)
            continue
        zeros = {
            one: torch.zeros(len(rows), *shapes[one][1:], dtype=torch.float64, requires_grad=True) for one in sources
        }
        with torch.enable_grad():
            result = rule(node, zeros, graph)
        if result is None:
            blocked.update(sources)
            continue
        for one, gradient in zip(zeros, torch.autograd.grad(result, list(zeros.values()), partial[node]), strict=True):
            partial[one] = partial[one] + gradient if one in partial else gradient
            products[one] = max(products.get(one, 0), depth)


_Majorant = Callable[[Node, dict[Node, Tensor], Graph], Tensor | None]


def _slope(node: Node, of: dict[Node, Tensor], graph: Graph) -> Tensor | None:
    return of[arguments(node)[0]] * LIPSCHITZ[node.target]


def _itself(node: Node, of: dict[Node, Tensor], graph: Graph) -> Tensor | None:
    assert callable(node.target)
    result: Tensor = node.target(of[arguments(node)[0]], *arguments(node)[1:], **node.kwargs)
    return result


def _sum_pool(node: Node, of: dict[Node, Tensor], graph: Graph) -> Tensor | None:
    """Sum up: a maximum moves by no more than all that it is taken from together."""
    x, kernel, stride = arguments(node)[:3] if len(arguments(node)) > 2 else (*arguments(node), arguments(node)[1])
    padding = arguments(node)[3] if len(arguments(node)) > 3 else [0, 0]
    if len(arguments(node)) > 4 or node.kwargs or len(kernel) != 2:
        return None
    area = kernel[0] * kernel[1]
    result: Tensor = F.avg_pool2d(of[x], kernel, stride, padding) * area
    return result


def _scaling(node: Node, graph: Graph) -> Tensor | None:
    """Batch normalisation's factor of each channel."""
    if arguments(node)[5]:
        return None
    weight = arguments(node)[1]
    variance = graph.constants[arguments(node)[4]].double()
    factor = torch.rsqrt(variance + arguments(node)[7])
    return factor if weight is None else factor * graph.constants[weight].double().abs()


def _abs_norm(node: Node, of: dict[Node, Tensor], graph: Graph) -> Tensor | None:
    factor, x = _scaling(node, graph), of[arguments(node)[0]]
    return None if factor is None else x * factor.view(-1, *[1] * (x.dim() - 2))


def _abs_add(node: Node, of: dict[Node, Tensor], graph: Graph) -> Tensor | None:
    if node.kwargs.get("alpha", 1) != 1 or len({one.shape[1:] for one in of.values()}) > 1:
        return None
    return sum((of[one] for one in arguments(node) if one in of), start=torch.zeros(()))


def _abs_linear(node: Node, of: dict[Node, Tensor], graph: Graph) -> Tensor | None:
    if set(of) != {arguments(node)[0]}:
        return None
    return F.linear(of[arguments(node)[0]], graph.constants[arguments(node)[1]].double().abs())


def _abs_conv2d(node: Node, of: dict[Node, Tensor], graph: Graph) -> Tensor | None:
    if set(of) != {arguments(node)[0]}:
        return None
    weight = graph.constants[arguments(node)[1]].double().abs()
    return torch.conv2d(of[arguments(node)[0]], weight, None, *arguments(node)[3:])


MAJORANTS: Mapping[Any, _Majorant] = MappingProxyType(
    {
        **dict.fromkeys(LIPSCHITZ, _slope),
        aten.max_pool2d.default: _sum_pool,
        aten.avg_pool2d.default: _itself,
        aten.adaptive_avg_pool2d.default: _itself,
        aten.mean.dim: _itself,
        aten.flatten.using_ints: _itself,
        aten.slice.Tensor: _itself,
        aten.pad.default: _itself,
        aten.batch_norm.default: _abs_norm,
        aten.add.Tensor: _abs_add,
        aten.linear.default: _abs_linear,
        aten.conv2d.default: _abs_conv2d,
    }
)
"""Every operator that absolute changes are bounded through: a linear function that is never exceeded."""


def _spread_gain(graph: Graph, shapes: Mapping[Node, tuple[int, ...]], hidden: Node, found: dict[Node, float]) -> None:
    partial = {hidden: _SLACK}
    blocked: set[Node] = set()
    for node in reversed(graph.nodes):
        if node is graph.output:
            continue
        sources = [one for one in node.all_input_nodes if one in graph.batch]
        known = node in partial and node not in blocked
        if known:
            found[node] = partial[node]
        norm = _norm(node, graph, shapes) if known and hidden not in sources else None
        if norm is None or not partial[node] * norm < 1e30:
            blocked.update(sources)
            continue
        for argument in arguments(node):
            if argument in sources:
                partial[argument] = partial.get(argument, 0.0) + partial[node] * norm


def _norm(node: Node, graph: Graph, shapes: Mapping[Node, tuple[int, ...]]) -> float | None:
    """Give the most by which an operator enlarges the Euclidean norm of a change; None: not known."""
    target = node.target
    if target in LIPSCHITZ:
        return LIPSCHITZ[target]
    if target in (aten.flatten.using_ints, aten.slice.Tensor, aten.pad.default):
        return 1.0 if target is not aten.pad.default or len(arguments(node)) == 2 else None
    if target is aten.add.Tensor:
        same = all(isinstance(one, Node) and shapes.get(one) == shapes[node] for one in arguments(node))
        return 1.0 if same and node.kwargs.get("alpha", 1) == 1 else None
    if target is aten.mean.dim:
        before, after = math.prod(shapes[arguments(node)[0]][1:]), math.prod(shapes[node][1:])
        return math.sqrt(after / before)
    if target is aten.max_pool2d.default:
        kernel, stride = arguments(node)[1], arguments(node)[2] if len(arguments(node)) > 2 else arguments(node)[1]
        if len(arguments(node)) > 4:
            return None
        return math.sqrt(math.prod(math.ceil(k / s) for k, s in zip(kernel, stride, strict=True)))
    if target is aten.batch_norm.default:
        if _is_folded(node):
            return 1.0
        factor = _scaling(node, graph)
        return None if factor is None else float(factor.max())
    weight = graph.constants.get(arguments(node)[1]) if len(arguments(node)) > 1 else None
    if weight is None:
        return None
    weight = weight.double()
    if target is aten.linear.default:
        return largest_singular_value(weight[None])
    if target is aten.conv2d.default and (len(arguments(node)) < 7 or arguments(node)[6] == 1):
        user = next(iter(node.users))
        if len(node.users) == 1 and user.target is aten.batch_norm.default and _is_folded(user):
            factor = _scaling(user, graph)
            assert factor is not None
            weight = weight * factor.view(-1, 1, 1, 1)
        return convolution_norm(weight)
    return None


def _is_folded(node: Node) -> bool:
    """Whether a batch normalisation's factors are counted with the convolution before it, which is finer."""
    source = arguments(node)[0]
    is_conv = isinstance(source, Node) and source.target is aten.conv2d.default
    return is_conv and len(source.users) == 1 and not arguments(node)[5]


def convolution_norm(weight: Tensor, *, points: int = 16) -> float:
    """Bound the Euclidean norm of a convolution with zero padding, any size, stride and dilation.

    Cut off from the one on an endless plane, its norm is at most the largest singular value of the weight's Fourier
    transform over all frequencies. Between ``points`` frequencies a trigonometric polynomial of degree d exceeds its
    largest value at them by a factor of at most 1 / cos(pi d / points) (Ehlich and Zeller, Math. Z. 86, 1964), in each
    dimension.

    Args:
        weight: (oc, ic, height, width), float64.
        points: frequencies in each dimension.
    """
    factor, grid = 1.0, []
    for size in weight.shape[2:]:
        degree = size // 2
        count = max(points, 4 * degree) if degree else 1
        factor /= math.cos(math.pi * degree / count) if degree else 1.0
        grid.append(count)
    transformed = torch.fft.fft2(weight, s=grid).permute(2, 3, 0, 1).flatten(0, 1)  # -> (frequencies, oc, ic)
    return largest_singular_value(transformed) * factor


def largest_singular_value(matrices: Tensor) -> float:
    """Bound the largest singular value of all matrices (n, rows, columns) from above, tightly."""
    adjoint = matrices.mH
    gram = matrices @ adjoint if matrices.shape[1] <= matrices.shape[2] else adjoint @ matrices
    scale = float(gram.abs().amax()) or 1.0
    gram = gram / scale
    if gram.shape[-1] <= 128:
        largest = float(torch.linalg.eigvalsh(gram).amax())
    else:  # the 16th root of the trace of the 16th power, which is cheaper and at most 1.5 times as large
        power = gram
        for _ in range(3):
            power = power @ power
        largest = float(power.abs().square().sum((1, 2)).amax()) ** (1 / 16)
    return math.sqrt(max(largest, 0.0) * scale) * (1 + 1e-9)
