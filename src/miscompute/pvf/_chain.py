"""Straight chains of products, rectifiers and pools, as products of rows of memory.

Where nothing else follows the faulty operator, the scores are a piecewise linear function of one number, the change of
the parameter, and a few computed changes decide many (`_secants`). Examples are columns here, so that operators on
features are operators on rows, and a convolution is a few products with the rows that it needs.
"""

import math
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.fx import Node

from ._bounds import Bounds, convolution_norm, largest_singular_value
from ._graph import Graph, arguments

aten = torch.ops.aten

_SKIPPED = (aten.clone.default, aten.dropout.default, aten.alias.default, aten.contiguous.default, aten.detach.default)
_MOST_ELEMENTS = 1 << 22  # of a convolution written as a matrix


class Step(NamedTuple):
    """What lies between two products: results of ``shape``, a pool, a rectifier, and the product that reads them.

    The last has no product: its results are the scores. Rows of results are in the order (row of windows, place in the
    window, channel, column of windows), those of operands in the order (row of windows, channel, column of windows).
    """

    shape: tuple[int, ...]
    kernel: tuple[int, int]
    rectifies: bool
    product: Node | None

    @property
    def windows(self) -> tuple[int, int]:
        return (self.shape[1] // self.kernel[0], self.shape[2] // self.kernel[1]) if len(self.shape) > 1 else (1, 1)

    def rows(self, channels: int) -> Tensor:
        """Give the place of each row in results of some channels, flattened."""
        if len(self.shape) == 1:
            return torch.arange(channels)
        (h, w), (kr, kc), (_, height, width) = self.windows, self.kernel, self.shape
        whole = torch.arange(channels * height * width).view(channels, height, width)[:, : h * kr, : w * kc]
        return whole.reshape(channels, h, kr, w, kc).permute(1, 2, 4, 0, 3).flatten()

    def operands(self, channels: int) -> Tensor:
        """Give the place of each row in operands of some channels, flattened."""
        h, w = self.windows
        return torch.arange(channels * h * w).view(channels, h, w).permute(1, 0, 2).flatten()

    def apply(self, z: Tensor) -> Tensor:
        """Pool and rectify rows of results: (rows, examples), into a new tensor."""
        if (places := self.kernel[0] * self.kernel[1]) > 1:
            parts = z.view(self.windows[0], places, -1, z.shape[1])
            z = torch.maximum(parts[:, 0], parts[:, 1])
            for place in range(2, places):
                torch.maximum(z, parts[:, place], out=z)
            z = z.flatten(0, 1)
            return z.clamp_(min=0) if self.rectifies else z
        return z.clamp(min=0) if self.rectifies else z.clone()


class Product(NamedTuple):
    """A product as blocks of rows: of each, the matrix, and which rows of the operand it needs."""

    blocks: tuple[tuple[Tensor, int, int], ...]
    bias: Tensor | None

    def __call__(self, operand: Tensor, onto: Tensor | None = None, into: Tensor | None = None) -> Tensor:
        """Multiply, and add: the bias, or ``onto``; several blocks may be written into a tensor that is there."""
        sizes = [len(matrix) for matrix, _, _ in self.blocks]
        base = onto if onto is not None else self.bias
        if len(sizes) == 1:
            matrix, low, high = self.blocks[0]
            chosen = operand[low:high]
            return matrix @ chosen if base is None else torch.addmm(base, matrix, chosen)
        result = operand.new_empty(sum(sizes), operand.shape[1]) if into is None else into
        first = 0
        for (matrix, low, high), size in zip(self.blocks, sizes, strict=True):
            rows = result[first : first + size]
            if base is None:
                torch.mm(matrix, operand[low:high], out=rows)
            else:
                torch.addmm(base[first : first + size], matrix, operand[low:high], out=rows)
            first += size
        return result

    def magnitude(self) -> "Product":
        """Give the product with absolute weights, without a bias."""
        return Product(tuple((matrix.abs(), low, high) for matrix, low, high in self.blocks), None)

    def signs(self, sign: int) -> "Product":
        """Give the product that counts the weights of a sign, 1 or -1."""
        counted = tuple(((matrix * sign > 0).float(), low, high) for matrix, low, high in self.blocks)
        return Product(counted, None)

    def sums(self, sign: int) -> Tensor:
        """Give how large each result of operands from 0 to 1 can be, in the direction of a sign, 1 or -1."""
        return torch.cat([(matrix * sign).clamp(min=0).sum(1) for matrix, _, _ in self.blocks])

    def largest(self) -> float:
        """Give how large the result of operands of at most one can be."""
        return max(float(matrix.abs().sum(1).max()) for matrix, _, _ in self.blocks)


@final
class Chain:
    """What follows an operator, if it is a chain. See `chain_of`."""

    def __init__(self, graph: Graph, steps: tuple[Step, ...], tables: tuple[Tensor, ...], bounds: Bounds) -> None:
        self.graph, self.steps, self.bounds = graph, steps, bounds
        self.tables = tables  # of each step: how much each score can come nearer (golden class, class, operand)
        self.later = tuple(
            self._product(before, after, None) for before, after in zip(self.steps[1:-1], self.steps[2:], strict=True)
        )

    def first(self, channel: int) -> Product | None:
        """Give the first product, of one channel of its operand; None: the channel is a score."""
        return self._product(self.steps[0], self.steps[1], channel) if len(self.steps) > 1 else None

    def gain(self, channel: int) -> float:
        """Bound how much the Euclidean norm of a change of one channel of the first operand grows: see `Bounds`.

        One channel alone grows less than all together may.
        """
        node = self.steps[0].product
        if node is None or node not in self.bounds.gain:
            return math.inf
        weight = self.graph.constants[arguments(node)[1]].double()
        if node.target is aten.linear.default:
            size = self.steps[0].windows[0] * self.steps[0].windows[1]
            norm = largest_singular_value(weight[None, :, channel * size : (channel + 1) * size])
        else:
            norm = convolution_norm(weight[:, channel : channel + 1])
        return norm * self.bounds.gain[node]

    def _product(self, before: Step, after: Step, channel: int | None) -> Product:
        node = before.product
        assert node is not None
        weight = self.graph.constants[arguments(node)[1]]
        bias = arguments(node)[2] if len(arguments(node)) > 2 else None
        bias = None if bias is None else self.graph.constants[bias]
        channels = 1 if channel is not None else before.shape[0]
        order = before.operands(channels)
        if node.target is aten.linear.default:
            each = before.windows[0] * before.windows[1]
            columns = order if channel is None else order + channel * each
            matrix = weight.index_select(1, columns)
            return Product(((matrix.contiguous(), 0, len(order)),), None if bias is None else bias[:, None])
        if channel is not None:
            weight = weight[:, channel : channel + 1]
        h, w = before.windows
        basis = torch.eye(channels * h * w)[order].view(-1, channels, h, w)
        made = torch.conv2d(basis, weight, None, *arguments(node)[3:]).flatten(1)  # -> (operands, results)
        rows = after.rows(after.shape[0])
        matrix = made.index_select(1, rows).t()
        blocks = []
        for part in matrix.chunk(after.windows[0]):
            used = part.ne(0).any(0).nonzero().flatten().tolist() or [0]
            blocks.append((part[:, used[0] : used[-1] + 1].contiguous(), used[0], used[-1] + 1))
        of_row = torch.div(rows, after.shape[1] * after.shape[2], rounding_mode="floor")
        return Product(tuple(blocks), None if bias is None else bias[of_row][:, None])

    def is_fatal(self, at: int, product: Product | None) -> bool:
        """Say whether an infinite operand of the product after step ``at`` makes a score NaN, whatever the others are.

        An operand that is infinite or NaN makes infinite or NaN what it is multiplied into; where the weight is
        positive, a rectifier and a pool leave it so. Where two of those meet with weights of opposite signs is a NaN.
        """
        if product is None or not all(step.rectifies for step in self.steps[: len(self.steps) - 1]):
            return False
        products = (product, *self.later[at:])
        size = max(high for _, _, high in product.blocks)
        surely, nan = torch.eye(size), torch.zeros(size, dtype=torch.bool)
        for one, step in zip(products, self.steps[at + 1 :], strict=True):
            positive, negative = (one.signs(sign)(surely) for sign in (1, -1))
            nan |= ((positive > 0) & (negative > 0)).any(0)
            surely = step.apply(((positive > 0) & (negative == 0)).float())
        # A NaN goes on through every product that is not a convolution.
        return bool(nan.all()) and all(
            step.product is None or step.product.target is aten.linear.default for step in self.steps[1:]
        )


def chain_of(graph: Graph, node: Node, shapes: dict[Node, tuple[int, ...]], bounds: Bounds) -> Chain | None:
    """Give what follows a node as a chain; None: it is none, or too large, or its changes have no bounds."""
    steps: list[Step] = []
    if len(shapes[node]) not in (2, 4):
        return None
    classes = shapes[graph.output][-1]
    tables: list[Tensor] = []
    start = node
    while True:
        shape = shapes[start][1:]
        kernel, rectifies = (1, 1), False
        while node is not graph.output:
            if len(node.users) != 1:
                return None
            node = next(iter(node.users))
            if node.target is aten.relu.default:
                rectifies = True
            elif node.target is aten.max_pool2d.default:
                if kernel != (1, 1) or not _is_plain_pool(node):
                    return None
                kernel = tuple(arguments(node)[1])
            elif node.target is aten.flatten.using_ints:
                if arguments(node)[1:] not in ((1,), (1, -1)):
                    return None
            elif node.target not in _SKIPPED:
                break
        if node is graph.output and start is node:
            steps.append(Step(shape, (1, 1), False, None))
            if len(steps) == 1:  # the operator gives the scores themselves
                same = torch.eye(classes)
                table = (same[None] + same[:, None]).clamp(max=1)  # -> (golden class, class, score)
                tables.append(table)
            return Chain(graph, tuple(steps), tuple(tables), bounds)
        source: Node = arguments(node)[0]
        if not _is_plain_product(node, graph) or source not in bounds.absolute:
            return None
        step = Step(shape, kernel, rectifies, node)
        if node.target is aten.conv2d.default:
            size = step.windows[0] * step.windows[1] * shape[0] if len(steps) else step.windows[0] * step.windows[1]
            if len(shape) != 3 or size * int(torch.Size(shapes[node][1:]).numel()) > _MOST_ELEMENTS:
                return None
        elif len(shapes[node]) != 2:
            return None
        steps.append(step)
        tables.append(bounds.absolute[source].transpose(1, 2))
        start = node


def _is_plain_pool(node: Node) -> bool:
    kernel, stride = arguments(node)[1], arguments(node)[2] if len(arguments(node)) > 2 else arguments(node)[1]
    return len(arguments(node)) <= 3 and not node.kwargs and kernel == stride and len(kernel) == 2


def _is_plain_product(node: Node, graph: Graph) -> bool:
    if node.target not in (aten.linear.default, aten.conv2d.default) or node.kwargs:
        return False
    if len(arguments(node)) > 6 and arguments(node)[6] != 1:
        return False
    return all(one in graph.constants for one in arguments(node)[1:3] if one is not None)
