"""Straight chains of products, rectifiers and pools: a few computed changes of one element decide all of its words.

Where nothing else follows the faulty operator, the scores are a piecewise linear function of one number, the change of
the parameter. So a few computed changes decide many: see `Chained`. Examples are columns here, so that operators on
features are operators on rows of memory, and a convolution is a few products with the rows that it needs.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.fx import Node

from ._bounds import Bounds
from ._graph import Graph, arguments

aten = torch.ops.aten

_SKIPPED = (aten.clone.default, aten.dropout.default, aten.alias.default, aten.contiguous.default, aten.detach.default)
_MOST_ELEMENTS = 1 << 22  # of a convolution written as a matrix
_FLOATS = 1 << 20  # of the largest tensor of a piece of examples, so that it stays in the cache
_FAR = 1e30  # how far the golden class is ahead of itself: so far that it never decides
_DENSE = 0.4  # from this share of examples on, to compute all of them costs less than to gather some
_TRIED = 128  # examples on which a proof is tried before it is asked of all

_HUGE = 2.0**90  # beyond, a sum might overflow on its way
_DOWN = 2.0**-64  # by which huge values are scaled to be computed safely
_NEAR = 1e-4  # relative: this near to the largest number, whether a sum overflows depends on rounding
_OFF = 3e-6  # relative: how much operands may be off, with room
_SEVERAL = 4  # sums that overflow: that all of them are as near to not doing so as rounding, is not to be expected
_MOST = torch.finfo(torch.float32).max


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

    def largest(self) -> float:
        """Give how large the result of operands of at most one can be."""
        return max(float(matrix.abs().sum(1).max()) for matrix, _, _ in self.blocks)


@final
class Chain:
    """What follows an operator, if it is a chain. See `chain_of`."""

    def __init__(self, graph: Graph, steps: tuple[Step, ...], tables: tuple[Tensor, ...]) -> None:
        self.graph, self.steps = graph, steps
        self.tables = tables  # of each step: how much each score can come nearer (golden class, class, operand)
        self.later = tuple(
            self._product(before, after, None) for before, after in zip(self.steps[1:-1], self.steps[2:], strict=True)
        )

    def first(self, channel: int) -> Product | None:
        """Give the first product, of one channel of its operand; None: the channel is a score."""
        return self._product(self.steps[0], self.steps[1], channel) if len(self.steps) > 1 else None

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
            positive, negative = (
                Product(tuple((sign(matrix, 0).float(), low, high) for matrix, low, high in one.blocks), None)(surely)
                for sign in (torch.gt, torch.lt)
            )
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
            return Chain(graph, tuple(steps), tuple(tables))
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


class Held(NamedTuple):
    """What a block of examples gives, all features of an example after the other; in the block's order."""

    values: Callable[[Node], Tensor]
    magnitude: Callable[[Node], Tensor]
    classes: Tensor
    margins: Tensor  # (examples, classes): how far each class is behind, less what rounding may do
    right: Tensor  # whether the class is the label's
    order: Tensor  # which example each one is
    place: Tensor  # where each example is
    allowed: float
    batch_size: int


class Tally(NamedTuple):
    """What became of the pairs of one element: failed inferences and how many pairs were computed, by word.

    ``redo``: words, and the examples that must be run as brute force does. ``large``: those with huge values.
    """

    failed: Tensor
    computed: Tensor
    redo: list[tuple[int, Tensor]]
    large: list[tuple[int, Tensor]]


class _Piece(NamedTuple):
    """Some consecutive examples; tensors are (features, examples)."""

    first: int
    results: tuple[Tensor, ...]  # of each product, without a fault
    operands: tuple[Tensor, ...]  # of each product but the first
    magnitudes: tuple[Tensor, ...]  # of each product's operand
    margins: Tensor
    inverse: Tensor
    classes: Tensor
    right: Tensor

    def part(self, first: int, last: int) -> "_Piece":
        """Give some of the examples."""

        def of(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(one[..., first:last].contiguous() for one in tensors)

        held = of((self.margins, self.inverse, self.classes, self.right))
        return _Piece(first, of(self.results), of(self.operands), of(self.magnitudes), *held)


class _Scored(NamedTuple):
    """Computed pairs: how far each class is behind, what rounding may do, and the chord's error, if asked for."""

    behind: Tensor
    allowed: Tensor
    huge: Tensor
    error: Tensor | None


@final
class Chained:
    """Counts failures of all words of an element, of which a chain follows.

    *Secants.* A pooled and rectified channel is convex in the change, so its slope, seen from the golden value, lies
    between those seen at the ends of a range. That and absolute weights bound the scores for all changes in the range.

    *Chords.* Of a computed change, every operator's result lies on the straight line from the golden one to the
    computed one, but for what rectifiers and pools add: convex again, at most twice the distance of the line's middle.
    Absolute weights bound what that makes of the scores; so all changes between are decided that still leave a margin.

    *Neighbours.* What a change so much smaller than the remaining margin can do, by absolute weights.
    """

    def __init__(self, chain: Chain, held: Held, criteria: tuple[str, ...]) -> None:
        self.chain, self.held, self.criteria = chain, held, criteria
        steps = chain.steps
        self.n = len(held.classes)
        self.results = []
        for before, after in pairwise(steps):
            assert before.product is not None
            golden = held.values(before.product).flatten(1).t().contiguous()
            self.results.append(golden if len(after.shape) == 1 else golden[after.rows(after.shape[0])])
        operands = [step.apply(z) for step, z in zip(steps[1:-1], self.results, strict=False)]
        magnitudes = [held.magnitude(arguments(step.product)[0]) for step in steps if step.product is not None]
        margins = held.margins.t().contiguous()
        largest = max([*(len(z) for z in self.results), int(torch.Size(steps[0].shape[1:]).numel())])
        size = max(256, min(8192, _FLOATS // largest))
        size = -(-self.n // -(-self.n // size))
        self.whole = _Piece(
            0,
            tuple(self.results),
            tuple(operands),
            tuple(magnitudes),
            margins.clamp(max=_FAR),
            1 / margins,
            held.classes,
            held.right,
        )
        self.pieces = [self.whole.part(first, min(first + size, self.n)) for first in range(0, self.n, size)]
        self.channel = -1
        self.room: dict[str, Tensor] = {}

    def _space(self, name: str, rows: int, columns: int) -> Tensor:
        """Give a tensor to write into: fresh memory takes longer to come by than what is done in it."""
        held = self.room.get(name)
        if held is None or held.numel() < rows * columns:
            held = self.room[name] = torch.empty(rows * columns)
        return held[: rows * columns].view(rows, columns)

    def _choose(self, node: Node, channel: int) -> None:
        """Prepare for faults of a channel of the operator's result."""
        if channel == self.channel:
            return
        self.channel = channel
        chain, step = self.chain, self.chain.steps[0]
        golden = self.held.values(node).select(1, channel).reshape(self.n, -1).t()[step.rows(1)]
        self.start = golden.contiguous()
        self.old = step.apply(self.start)
        self.first = {
            piece.first: tuple(
                one[:, piece.first : piece.first + len(piece.classes)].contiguous() for one in (self.start, self.old)
            )
            for piece in self.pieces
        }
        self.product = chain.first(channel)
        self.products = () if self.product is None else (self.product, *chain.later)
        size = len(self.old)
        mine = torch.arange(channel * size, (channel + 1) * size)
        tables = [chain.tables[0][:, :, mine]]
        tables += [
            table[:, :, one.operands(one.shape[0])]
            for table, one in zip(chain.tables[1:], chain.steps[1:-1], strict=True)
        ]
        self.tables = torch.cat(tables, 2).contiguous()
        self.first_table = tables[0].contiguous()
        self.absolute = tuple(product.magnitude() for product in self.products)
        self.largest = tuple(product.largest() for product in self.products)
        self.fatal = tuple(chain.is_fatal(at, product) for at, product in enumerate(self.products))

    def count(self, node: Node, channel: int, factor: Tensor | None, changes: Tensor, stored: float) -> Tally:
        """Count the failures of all changes of an element.

        Args:
            node: the operator that reads the parameter.
            channel: of its result, that the element changes.
            factor: what a unit of change adds to it, (examples, 1, ...); None: one.
            changes: of the words, finite, all different.
            stored: the element.
        """
        self._choose(node, channel)
        words = len(changes)
        tally = Tally(
            torch.zeros(len(self.criteria), words, dtype=torch.int64), torch.zeros(words, dtype=torch.int64), [], []
        )
        sizes = changes.abs().tolist()
        huge = [word for word in range(words) if sizes[word] > 2.0**60]
        rest = [word for word in range(words) if sizes[word] <= 2.0**60]
        rows = self._arranged(factor)
        for piece in self.pieces if rest else []:
            x = rows[:, piece.first : piece.first + len(piece.classes)].contiguous()
            self._rest(piece, x, rest, changes, stored, tally)
        for word in range(words):
            if word in huge:
                self._huge(rows, None, word, float(changes[word]), tally)
            elif found := [places for one, places in tally.large if one == word]:
                self._huge(rows, torch.cat(found), word, float(changes[word]), tally)
        return tally

    def _arranged(self, factor: Tensor | None) -> Tensor:
        """Give the factor's rows in the order of results, (rows, examples)."""
        step = self.chain.steps[0]
        if factor is None:
            return torch.ones(1, 1).expand(len(self.start), self.n)
        whole = factor.movedim(0, -1).squeeze(0)
        if len(step.shape) == 1:
            return whole.reshape(1, -1)
        (h, w), (kr, kc) = step.windows, step.kernel
        whole = whole[: h * kr, : w * kc].reshape(h, kr, w, kc, -1).transpose(2, 3)
        return whole.reshape(len(self.start), -1)

    # -- proofs

    def _against(self, table: Tensor, changes: Tensor, classes: Tensor) -> Tensor:
        """Bound how much nearer each class comes: (classes, pairs), the pairs in the order of golden classes."""
        ends = torch.searchsorted(classes.contiguous(), torch.arange(len(table) + 1)).tolist()
        result = changes.new_empty(len(table), changes.shape[1])
        for g, (begin, end) in enumerate(pairwise(ends)):
            if end > begin:
                torch.mm(table[g], changes[:, begin:end], out=result[:, begin:end])
        return result

    def _share(self, piece: _Piece, moved: Tensor) -> Tensor:
        """Bound what share of the margins changes of the first operand take, for all examples of a piece."""
        return self._against(self.first_table, moved, piece.classes).mul_(piece.inverse).amax(0)

    def _reach(self, piece: _Piece, x: Tensor, low: float, high: float) -> Tensor:
        """Bound what share of the margins a change of one takes, for changes from ``low`` to ``high``."""
        step, (start, old) = self.chain.steps[0], self.first[piece.first]
        up = (step.apply(torch.add(start, x, alpha=high)) - old).mul_(1 / high).abs_()
        down = (step.apply(torch.add(start, x, alpha=low)) - old).mul_(1 / low).abs_()
        return self._share(piece, torch.maximum(up, down, out=up)).mul_(1 + 1e-3)

    # -- pairs

    def _rest(
        self, piece: _Piece, x: Tensor, words: Sequence[int], changes: Tensor, stored: float, tally: Tally
    ) -> None:
        """Decide all pairs with values that are not huge."""
        sizes = changes.tolist()
        limit = 2 * abs(stored) * (1 + 1e-6)
        near = [word for word in words if abs(sizes[word]) <= limit]
        undecided = torch.zeros(len(changes), len(piece.classes), dtype=torch.bool)
        undecided[torch.tensor(words)] = True
        if near:
            least = 1e-2 * max(abs(sizes[word]) for word in near)
            low = min([-least, *(sizes[word] for word in near)])
            high = max([least, *(sizes[word] for word in near)])
            reach = self._reach(piece, x, low, high)
            index = torch.tensor(near)
            undecided[index] = ~(changes[index].abs()[:, None] * reach[None] < 1)
        left = dict(zip(range(len(changes)), undecided.sum(1).tolist(), strict=True))
        self.slopes: Tensor | None = None
        for word in sorted(words, key=lambda word: -abs(sizes[word])):
            if left[word] >= _DENSE * len(piece.classes):
                self._dense(piece, x, word, changes, undecided, tally, near=word in near)
                left = dict(zip(range(len(changes)), undecided.sum(1).tolist(), strict=True))
        while total := sum(left[word] for word in words):
            self._gathered(piece, x, changes, undecided, tally, last=total < 0.3 * len(piece.classes))
            left = dict(zip(range(len(changes)), undecided.sum(1).tolist(), strict=True))

    def _dense(
        self, piece: _Piece, x: Tensor, word: int, changes: Tensor, undecided: Tensor, tally: Tally, *, near: bool
    ) -> None:
        """Compute one word for all examples of a piece, undecided or not."""
        step, size = self.chain.steps[0], len(piece.classes)
        change = float(changes[word])
        start, old = self.first[piece.first]
        z = torch.add(start, x, alpha=change, out=self._space("changed", *start.shape))
        new = step.apply(z)
        moved = new - old
        some = slice(None, None, max(1, size // _TRIED))
        if not near:
            tried = self._against(self.first_table, moved[:, some].abs(), piece.classes[some]) * piece.inverse[:, some]
            if float((tried.amax(0) < 1 - 1e-3).float().mean()) > 0.3:
                undecided[word] &= ~(self._share(piece, moved.abs()) < 1 - 1e-3)
                if int(undecided[word].sum()) < _DENSE * size:
                    return
        ratios = changes / change
        between = (ratios > 0) & (ratios < 1) & undecided.any(1)
        error = None
        if bool((between & (ratios > 1 / 32)).any()):
            error = (old + new).sub_(step.apply(torch.add(start, z, out=z).mul_(0.5)), alpha=2)
            tried = self._against(self.first_table, error[:, some], piece.classes[some])
            if float((tried < piece.margins[:, some]).all(0).float().mean()) < 0.15:
                error = None
        found = self._scores(piece, None, new, moved, error)
        chosen = undecided[word].clone()
        undecided[word] = False
        self._tell(piece, None, torch.full((size,), word), found, chosen, tally)
        if found.error is not None:
            until = self._until(piece.margins, found)
            for other in between.nonzero().flatten().tolist():
                undecided[other] &= ~(ratios[other] < until)
        others = (((changes - change).abs() < 0.02 * abs(change)) & undecided.any(1)).nonzero().flatten().tolist()
        if others:
            self._neighbours(piece, x, change, others, changes, found, undecided, tally)

    def _neighbours(
        self,
        piece: _Piece,
        x: Tensor,
        change: float,
        others: list[int],
        changes: Tensor,
        found: _Scored,
        undecided: Tensor,
        tally: Tally,
    ) -> None:
        """Decide words whose change is so near to a computed one's that the same must come of them."""
        if self.slopes is None:
            parts = x.abs()
            self.slopes = self._share(piece, self.chain.steps[0]._replace(rectifies=False).apply(parts)) * (1 + 1e-3)
        shares = found.behind * piece.inverse
        slack = found.allowed * piece.inverse
        stays, fails = (shares - slack).amin(0), (-shares - slack)
        fails = fails.masked_fill(piece.margins >= _FAR, -torch.inf).amax(0)
        sure = ~found.huge
        for other in others:
            apart = abs(float(changes[other]) - change) * self.slopes
            same = apart < stays * (1 - 1e-3)
            same |= (apart < fails * (1 - 1e-3)) if "top5" not in self.criteria else False
            same &= sure & undecided[other]
            undecided[other] &= ~same
            failing = same & (fails > 0)
            self._add(other, failing, failing & piece.right, tally)

    def _add(self, word: int, failing: Tensor, wrong: Tensor, tally: Tally) -> None:
        """Count failing pairs of a word whose scores are finite."""
        counted = {"top1": failing, "top5": None, "label": wrong, "nonfinite": None}
        for at, name in enumerate(self.criteria):
            if (one := counted[name]) is not None:
                tally.failed[at, word] += int(one.sum())

    def _gathered(
        self, piece: _Piece, x: Tensor, changes: Tensor, undecided: Tensor, tally: Tally, *, last: bool
    ) -> None:
        """Compute some pairs: of each example the largest undecided change of each sign; or all that are left."""
        if last:
            index, word = undecided.t().nonzero(as_tuple=True)
        else:
            index, word = self._largest(changes, undecided)
        change = changes[word]
        step = self.chain.steps[0]
        start, old = (one.index_select(1, index) for one in self.first[piece.first])
        z = torch.addcmul(start, x.index_select(1, index), change[None])
        new = step.apply(z)
        error = None if last else old + new - 2 * step.apply((start + z).mul_(0.5))
        found = self._scores(piece, index, new, new - old, error)
        undecided[word, index] = False
        self._tell(piece, index, word, found, torch.ones(len(index), dtype=torch.bool), tally)
        if found.error is None:
            return
        until = self._until(piece.margins.index_select(1, index), found)
        for side in (change > 0, change < 0):
            if bool(side.any()):
                mine = index[side]
                ratios = changes[:, None] / change[side][None]
                undecided[:, mine] = undecided[:, mine] & ~((ratios > 0) & (ratios < until[side]))

    def _largest(self, changes: Tensor, undecided: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for sign in (1, -1):
            mine = (changes * sign > 0).nonzero().flatten()
            mine = mine[torch.argsort(changes[mine].abs(), descending=True)]
            if len(mine):
                rows = undecided.index_select(0, mine)
                index = rows.any(0).nonzero().flatten()
                found.append((index, mine[rows.index_select(1, index).to(torch.uint8).argmax(0)]))
        index, word = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = torch.argsort(index)
        return index[order], word[order]

    def _scores(self, piece: _Piece, index: Tensor | None, new: Tensor, moved: Tensor, error: Tensor | None) -> _Scored:
        """Carry a changed operand on to the scores."""

        def golden(tensor: Tensor) -> Tensor:
            return tensor if index is None else tensor.index_select(-1, index)

        classes = golden(piece.classes)
        steps = self.chain.steps
        grown = torch.ones(len(classes))
        errors = [] if error is None else [error.clamp_(min=0)]
        z = new
        for at, product in enumerate(self.products):
            grown = torch.maximum(grown, _largest(new, steps[at]) / golden(piece.magnitudes[at]))
            before = golden(piece.results[at]) if at == 0 or (errors and at + 1 < len(self.products)) else None
            space = self._space("result", len(self.results[0]), len(classes)) if at == 0 else None
            z = product(moved, before, space) if at == 0 else product(new)
            if at + 1 < len(self.products):
                new = steps[at + 1].apply(z)
                if errors:
                    assert before is not None
                    middle = steps[at + 1].apply(torch.add(before, z, out=z).mul_(0.5))
                    errors.append((golden(piece.operands[at]) + new).sub_(middle, alpha=2).clamp_(min=0))
        if not self.products:  # the operator's results are the scores
            z = golden(self._scores_without(piece)).clone()
            z[self.channel] = new[0]
            grown = torch.maximum(grown, new[0].abs() / z.abs().amax(0).clamp_min(1e-30))
        behind = z.gather(0, classes[None]) - z
        behind.scatter_(0, classes[None], _FAR)
        taken = self._against(self.tables, torch.cat(errors), classes) if errors else None
        return _Scored(behind, self.held.allowed * grown, ~(grown < _HUGE), taken)

    def _scores_without(self, piece: _Piece) -> Tensor:
        node = self.chain.graph.output
        return self.held.values(node)[piece.first : piece.first + len(piece.classes)].t()

    def _until(self, margins: Tensor, found: _Scored) -> Tensor:
        """Give, of each computed change, up to which share of it all changes leave the class as it is."""
        assert found.error is not None
        left = margins - found.error.mul_(1 + 1e-3)
        lost = (margins - found.behind).add_(found.allowed)
        until = left.div_(lost.clamp_(min=1e-30)).amin(0)
        return until.masked_fill_(found.huge, 0).mul_(1 - 1e-3)

    def _tell(
        self,
        piece: _Piece,
        index: Tensor | None,
        word: Tensor,
        found: _Scored,
        chosen: Tensor,
        tally: Tally,
    ) -> None:
        """Count what became of computed pairs; note those that rounding may decide."""
        least = found.behind.amin(0)
        near = ~(least.abs() > found.allowed)
        failing = least < 0
        counted = {"top1": failing}
        if "label" in self.criteria:
            counted["label"] = failing & (piece.right if index is None else piece.right[index])
        if "nonfinite" in self.criteria:
            counted["nonfinite"] = torch.zeros_like(failing)
        if "top5" in self.criteria:
            ahead = (found.behind < -found.allowed).sum(0) >= 5
            near |= ((found.behind < found.allowed).sum(0) >= 5) != ahead
            counted["top5"] = ahead
        sure = chosen & ~near & ~found.huge
        one = int(word[0]) if index is None else None
        for at, name in enumerate(self.criteria):
            if one is not None:
                tally.failed[at, one] += int((counted[name] & sure).sum())
            else:
                tally.failed[at] += torch.bincount(word[counted[name] & sure], minlength=len(tally.computed))
        if one is not None:
            tally.computed[one] += int(sure.sum())
        else:
            tally.computed.add_(torch.bincount(word[sure], minlength=len(tally.computed)))
        places = torch.arange(len(word)) if index is None else index
        for into, pairs in ((tally.redo, chosen & near & ~found.huge), (tally.large, chosen & found.huge)):
            for which in torch.unique(word[pairs]).tolist():
                into.append((which, piece.first + places[pairs & (word == which)]))

    # -- what may overflow

    def _huge(self, x: Tensor, index: Tensor | None, word: int, change: float, tally: Tally) -> None:
        """Decide pairs with values so large that sums may overflow, scaled down.

        Whether a sum of huge terms is infinite may depend on its order. So it is settled where every order gives the
        same, and by asking the operator itself, or else the pair is run again.
        """
        steps, piece = self.chain.steps, self.whole

        def golden(tensor: Tensor) -> Tensor:
            return tensor if index is None else tensor.index_select(-1, index)

        z = torch.add(golden(self.start) * _DOWN, golden(x), alpha=change * _DOWN)
        pairs = z.shape[1]
        is_nan, doubt = torch.zeros(pairs, dtype=torch.bool), torch.zeros(pairs, dtype=torch.bool)
        grown = torch.ones(pairs)
        if float(z.abs().amax()) >= _LOW:
            above, below, open_ = _settled(z, z.abs())
            z = z.masked_fill(above, torch.inf).masked_fill_(below, -torch.inf)
            is_nan, stuck = self._infinite(0, z)
            doubt = open_.any(0) | stuck
        for at, product in enumerate(self.products):
            new = steps[at].apply(z)
            new[:, is_nan | doubt] = 0
            finite = new if bool(new.isfinite().all()) else new.where(new.isfinite(), 0.0)
            size = _largest(finite, steps[at])
            grown = torch.maximum(grown, size / _DOWN / golden(piece.magnitudes[at]))
            if at == 0:
                z = product(new.sub(golden(self.old), alpha=_DOWN), golden(piece.results[0]) * _DOWN)
            else:
                z = product._replace(bias=None if product.bias is None else product.bias * _DOWN)(new)
            may = size * self.largest[at] >= _LOW
            if finite is not new:
                may |= (finite != new).any(0)
            if bool(may.any()):
                self._settle(index, at, may.nonzero().flatten(), new, z, is_nan, doubt)
        scores = z
        if not self.products:
            scores = golden(self._scores_without(piece)) * _DOWN
            scores[self.channel] = z[0]
        self._tell_huge(index, word, scores, is_nan, doubt, grown, tally)

    def _infinite(self, at: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """Say what becomes of infinite results before product ``at``: where a score is NaN, and where we cannot say."""
        none = torch.zeros(z.shape[1], dtype=torch.bool)
        if at == len(self.products):
            return none, none
        operand = self.chain.steps[at].apply(z)
        infinite = ~operand.isfinite().all(0)
        if self.fatal[at]:
            return infinite, none
        node = self.chain.steps[at].product
        assert node is not None  # a convolution as a matrix has zeros that are not there
        return operand.isnan().any(0), none if node.target is aten.linear.default else infinite

    def _settle(
        self,
        index: Tensor | None,
        at: int,
        few: Tensor,
        new: Tensor,
        z: Tensor,
        is_nan: Tensor,
        doubt: Tensor,
    ) -> None:
        """Say which sums of a product overflow, of the pairs ``few``; write it into ``z``, or note the pairs."""
        every = len(few) == z.shape[1]
        operand, result = (new, z) if every else (new.index_select(1, few), z.index_select(1, few))
        left, dead = torch.zeros(len(few), dtype=torch.bool), torch.zeros(len(few), dtype=torch.bool)
        step = max(1, _FLOATS // len(result))
        for first in range(0, len(few), step):
            part, some = operand[:, first : first + step], result[:, first : first + step]
            finite = part.where(part.isfinite(), 0.0)
            sums, signed = self.absolute[at](finite.abs()), self.products[at]._replace(bias=None)(finite)
            above, below, open_ = _settled(signed, sums)
            settled = some.isfinite()
            open_ |= (above | below) & ~settled
            some.masked_fill_(above & settled, torch.inf).masked_fill_(below & settled, -torch.inf)
            left[first : first + step] = open_.any(0)
            if at + 1 < len(self.fatal) and self.fatal[at + 1]:  # one that is infinite for certain is enough
                dead[first : first + step] = (above & ~open_).any(0)
        left &= ~dead
        if bool(left.any()):
            asked = left.nonzero().flatten()
            places = few[asked] if index is None else index[few[asked]]
            lost, answers, agreed = self._asked(at, operand.index_select(1, asked), places)
            dead[asked], left[asked] = lost, False
            asked = asked[~lost]
            mine = result.index_select(1, asked)
            agreed &= ~(answers.isfinite() & (mine.abs() > _MOST * _DOWN * (1 + _NEAR))).any(0)
            result[:, asked] = torch.where(answers.isfinite(), mine, answers)
            left[asked] = ~agreed
        known, stuck = self._infinite(at + 1, result)
        if not every:
            z[:, few] = result
        is_nan[few] |= dead | (known & ~left)
        doubt[few] |= (left | stuck) & ~dead

    def _asked(self, at: int, operand: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ask the operator itself what it gives, in the order in which it sums in the example's batch.

        It is asked twice, with operands larger and smaller by more than they may be off: what both agree on holds.
        Where several results become infinite operands, each of which makes a score NaN, once is enough.

        Returns which pairs are lost so; and of the others, in their order, the answers and whether they agree.
        """
        held, step = self.held, self.chain.steps[at]
        node = step.product
        assert node is not None
        golden = held.values(arguments(node)[0])
        _, weight, *others = arguments(node)
        constants = self.chain.graph.constants
        weight, others = constants[weight], [constants[one] if isinstance(one, Node) else one for one in others]
        order = step.operands(1 if at == 0 else step.shape[0])
        columns = order + (self.channel * len(order) if at == 0 else 0)
        rows = self.chain.steps[at + 1].rows(self.chain.steps[at + 1].shape[0])
        original = held.order[places]
        batches = torch.div(original, held.batch_size, rounding_mode="floor")
        call: Any = node.target
        answers: list[Tensor] = []
        others_at: list[Tensor] = []
        agreed, lost = torch.zeros(len(places), dtype=torch.bool), torch.zeros(len(places), dtype=torch.bool)
        for batch in torch.unique(batches).tolist():
            mine = (batches == batch).nonzero().flatten()
            operands = golden.index_select(0, held.place[batch * held.batch_size : (batch + 1) * held.batch_size])
            where = original[mine] - batch * held.batch_size
            changed = operands.flatten(1)
            new = operand.index_select(1, mine).t() / _DOWN
            changed[where[:, None], columns] = new * (1 - _OFF)
            low = call(operands, weight, *others)[where].flatten(1).index_select(1, rows).t()
            surely = self._is_lost(at + 1, low)
            lost[mine] = surely
            if not bool(surely.all()):
                rest = (~surely).nonzero().flatten()
                changed[where[:, None], columns] = new * (1 + _OFF)
                high = call(operands, weight, *others)[where[rest]].flatten(1).index_select(1, rows).t()
                low = low.index_select(1, rest)
                same = (low == high) | (low.isfinite() & high.isfinite()) | (low.isnan() & high.isnan())
                agreed[mine[rest]] = same.all(0)
                answers.append(low)
                others_at.append(mine[rest])
        if not answers:
            return lost, torch.empty(len(rows), 0), agreed[~lost]
        order = torch.argsort(torch.cat(others_at))
        return lost, torch.cat(answers, 1).index_select(1, order), agreed[~lost]

    def _is_lost(self, at: int, z: Tensor) -> Tensor:
        """Say where several results before product ``at`` are infinite operands, each of which makes a score NaN."""
        if at == len(self.products) or not self.fatal[at]:
            return torch.zeros(z.shape[1], dtype=torch.bool)
        return (~self.chain.steps[at].apply(z).isfinite()).sum(0) >= _SEVERAL

    def _tell_huge(
        self,
        index: Tensor | None,
        word: int,
        scores: Tensor,
        is_nan: Tensor,
        doubt: Tensor,
        grown: Tensor,
        tally: Tally,
    ) -> None:
        places = torch.arange(scores.shape[1]) if index is None else index
        classes, right = self.whole.classes[places], self.whole.right[places]
        doubt &= ~is_nan
        finite = scores.isfinite().all(0) & ~is_nan
        mine = scores.gather(0, classes[None])
        others = scores.scatter(0, classes[None], -torch.inf)
        least = (mine - others).amin(0)
        allowed = self.held.allowed * grown * _DOWN
        # Infinite scores decide as torch.argmax does: the first largest is the class; a NaN predicts nothing.
        failing = is_nan | scores.isnan().any(0) | (scores.argmax(0) != classes)
        ahead = (others > mine).sum(0) >= 5
        near = finite & ~(least.abs() > allowed)
        if "top5" in self.criteria:
            sure = (others > mine + allowed).sum(0) >= 5
            near |= finite & (((others > mine - allowed).sum(0) >= 5) != sure)
        counted = {
            "top1": failing,
            "label": failing & right,
            "top5": ahead | is_nan | scores.isnan().any(0),
            "nonfinite": ~finite,
        }
        again = doubt | (near & ~is_nan)
        for at, name in enumerate(self.criteria):
            tally.failed[at, word] += int((counted[name] & ~again).sum())
        tally.computed[word] += int((~again).sum())
        if bool(again.any()):
            tally.redo.append((word, places[again]))


_LOW = _MOST * _DOWN * (1 - _NEAR)


def _settled(signed: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Say of sums of values scaled down which are infinite whatever the order, up and down, and which may be.

    Args:
        signed: the sums.
        sums: of absolute values.
    """
    up, down = (sums + signed) / 2, (sums - signed) / 2
    top = _MOST * _DOWN * (1 + _NEAR)
    fits = (up < _LOW) & (down < _LOW)
    above = (down < _LOW) & (signed > top)
    below = (up < _LOW) & (signed < -top)
    return above, below, ~(fits | above | below)


def _largest(operand: Tensor, step: Step) -> Tensor:
    """Give the largest magnitude of each example's operand."""
    return operand.amax(0) if step.rectifies else torch.maximum(operand.amax(0), -operand.amin(0))
