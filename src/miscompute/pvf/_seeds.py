"""What one element of a parameter changes first: the table from operator to the channel that it reaches."""

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


class Seed(NamedTuple):
    """A channel of an operator's result, and what a unit of change of the parameter's element adds to it.

    ``factor`` is (examples, ..., 1, ...), the channel in dimension ``dim``; None: one everywhere.
    """

    channel: int
    dim: int
    factor: Tensor | None


_Golden = Callable[[Node], Tensor]
_Rule = Callable[[Node, int, int, _Golden, _Golden], Seed | None]


def seed_of(node: Node, parameter: Node, element: int, golden: _Golden, constant: _Golden) -> Seed | None:
    """Say what one element of a parameter changes at the operator that reads it; None: more than one channel.

    Args:
        node: the operator.
        parameter: what it reads.
        element: counted in the order of memory.
        golden: gives golden values of an operator.
        constant: gives a parameter or buffer.
    """
    places = [place for place, argument in enumerate(arguments(node)) if argument is parameter]
    if node.target not in SEEDS or len(places) != 1:
        return None
    return SEEDS[node.target](node, places[0], element, golden, constant)


def _option(node: Node, place: int, default: Any) -> Any:
    return arguments(node)[place] if len(arguments(node)) > place else default


def _conv2d(node: Node, place: int, element: int, golden: _Golden, constant: _Golden) -> Seed | None:
    if place == 2:
        return Seed(element, 1, None)
    if place != 1:
        return None
    oc, ic, height, width = constant(arguments(node)[1]).shape
    k, rest = divmod(element, ic * height * width)
    c, rest = divmod(rest, height * width)
    r, s = divmod(rest, width)
    stride, padding, dilation = (_option(node, at, default) for at, default in ((3, [1, 1]), (4, [0, 0]), (5, [1, 1])))
    groups = _option(node, 6, 1)
    c += k // (oc // groups) * ic
    x = golden(arguments(node)[0])[:, c : c + 1]
    if any(padding):
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    oh, ow = golden(node).shape[2:]
    top, left = r * dilation[0], s * dilation[1]
    rows = slice(top, top + (oh - 1) * stride[0] + 1, stride[0])
    cols = slice(left, left + (ow - 1) * stride[1] + 1, stride[1])
    return Seed(k, 1, x[:, :, rows, cols])


def _linear(node: Node, place: int, element: int, golden: _Golden, constant: _Golden) -> Seed | None:
    last = golden(node).dim() - 1
    if place == 2:
        return Seed(element, last, None)
    if place != 1:
        return None
    k, c = divmod(element, constant(arguments(node)[1]).shape[1])
    return Seed(k, last, golden(arguments(node)[0])[..., c : c + 1])


def _batch_norm(node: Node, place: int, element: int, golden: _Golden, constant: _Golden) -> Seed | None:
    if place not in (1, 2) or arguments(node)[5]:
        return None
    if place == 2:
        return Seed(element, 1, None)
    mean, variance = (constant(arguments(node)[at])[element] for at in (3, 4))
    x = golden(arguments(node)[0])[:, element : element + 1]
    return Seed(element, 1, (x - mean) * torch.rsqrt(variance + arguments(node)[7]))


def _layer_norm(node: Node, place: int, element: int, golden: _Golden, constant: _Golden) -> Seed | None:
    if place not in (2, 3) or len(arguments(node)[1]) != 1:
        return None
    last = golden(node).dim() - 1
    if place == 3:
        return Seed(element, last, None)
    x = golden(arguments(node)[0])
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return Seed(element, last, (x[..., element : element + 1] - mean) * torch.rsqrt(variance + _option(node, 4, 1e-5)))


def _embedding(node: Node, place: int, element: int, golden: _Golden, constant: _Golden) -> Seed | None:
    if place != 0 or len(arguments(node)) > 2:
        return None
    row, feature = divmod(element, constant(arguments(node)[0]).shape[1])
    result = golden(node)
    tokens = golden(arguments(node)[1])
    return Seed(feature, result.dim() - 1, (tokens == row).unsqueeze(-1).to(result.dtype))


SEEDS: Mapping[Any, _Rule] = MappingProxyType(
    {
        aten.conv2d.default: _conv2d,
        aten.linear.default: _linear,
        aten.batch_norm.default: _batch_norm,
        aten.layer_norm.default: _layer_norm,
        aten.embedding.default: _embedding,
    }
)
"""Every operator of which one element of a parameter reaches one channel, by operator."""
