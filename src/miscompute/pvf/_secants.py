"""A few computed changes of one element decide all of its words, where a straight chain follows: see `Chained`."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.fx import Node

from ._chain import Chain
from ._columns import Held, Piece, Tally
from ._graph import arguments
from ._overflow import Overflow, largest_of, operators_of

_FLOATS = 1 << 21  # of the largest tensor of a piece of examples, so that it stays in the cache
_FAR = 1e30  # how far the golden class is ahead of itself: so far that it never decides
_DENSE = 0.4  # from this share of examples on, to compute all of them costs less than to gather some
_TRIED = 128  # examples on which a proof is tried before it is asked of all
_HUGE = 2.0**90  # beyond, a sum might overflow on its way


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
        self.whole = Piece(
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
        self.operators = operators_of(chain, channel)
        self.products = self.operators.products
        self.overflow = Overflow(
            chain, self.held, self.whole, self.criteria, channel, self.operators, self.start, self.old
        )
        size = len(self.old)
        mine = torch.arange(channel * size, (channel + 1) * size)
        tables = [chain.tables[0][:, :, mine]]
        tables += [
            table[:, :, one.operands(one.shape[0])]
            for table, one in zip(chain.tables[1:], chain.steps[1:-1], strict=True)
        ]
        self.first_table = tables[0].contiguous()
        self.later_tables = torch.cat(tables[1:], 2).contiguous() if len(tables) > 1 else None
        self.gain = chain.gain(channel)

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
                self.overflow.decide(self.pieces, rows, word, float(changes[word]), tally)
            elif found := [places for one, places in tally.large if one == word]:
                self.overflow.decide_some(torch.cat(found), rows, word, float(changes[word]), tally)
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

    def _nearer(self, changes: Tensor, classes: Tensor) -> Tensor:
        """Bound how much nearer each class comes by changes of the first operand: by absolute weights, or by norms."""
        found = self._against(self.first_table, changes, classes)
        if (distance := self.chain.bounds.distance) is not None and self.gain < torch.inf:
            norms = torch.einsum("ij,ij->j", changes, changes).sqrt_().mul_(self.gain)
            torch.minimum(found, distance.t().index_select(1, classes).mul_(norms), out=found)
        return found

    def _share(self, piece: Piece, moved: Tensor) -> Tensor:
        """Bound what share of the margins changes of the first operand take, for all examples of a piece."""
        return self._nearer(moved, piece.classes).mul_(piece.inverse).amax(0)

    def _reach(self, piece: Piece, x: Tensor, low: float, high: float) -> Tensor:
        """Bound what share of the margins a change of one takes, for changes from ``low`` to ``high``."""
        step, (start, old) = self.chain.steps[0], self.first[piece.first]
        up = (step.apply(torch.add(start, x, alpha=high)) - old).mul_(1 / high).abs_()
        down = (step.apply(torch.add(start, x, alpha=low)) - old).mul_(1 / low).abs_()
        return self._share(piece, torch.maximum(up, down, out=up)).mul_(1 + 1e-3)

    # -- pairs

    def _rest(
        self, piece: Piece, x: Tensor, words: Sequence[int], changes: Tensor, stored: float, tally: Tally
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
        self, piece: Piece, x: Tensor, word: int, changes: Tensor, undecided: Tensor, tally: Tally, *, near: bool
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
            tried = self._nearer(moved[:, some].abs(), piece.classes[some]) * piece.inverse[:, some]
            if float((tried.amax(0) < 1 - 1e-3).float().mean()) > 0.3:
                undecided[word] &= ~(self._share(piece, moved.abs()) < 1 - 1e-3)
                if int(undecided[word].sum()) < _DENSE * size:
                    return
        ratios = changes / change
        between = (ratios > 0) & (ratios < 1) & undecided.any(1)
        error = None
        if bool((between & (ratios > 1 / 32)).any()):
            error = (old + new).sub_(step.apply(torch.add(start, z, out=z).mul_(0.5)), alpha=2)
            tried = self._nearer(error[:, some], piece.classes[some])
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
        piece: Piece,
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
        own = piece.margins >= _FAR
        stays = (shares - slack).masked_fill(own, torch.inf).amin(0)
        fails = (-shares - slack).masked_fill(own, -torch.inf).amax(0)
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
        self, piece: Piece, x: Tensor, changes: Tensor, undecided: Tensor, tally: Tally, *, last: bool
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

    def _scores(self, piece: Piece, index: Tensor | None, new: Tensor, moved: Tensor, error: Tensor | None) -> _Scored:
        """Carry a changed operand on to the scores."""

        def golden(tensor: Tensor) -> Tensor:
            return tensor if index is None else tensor.index_select(-1, index)

        classes = golden(piece.classes)
        steps = self.chain.steps
        grown = torch.ones(len(classes))
        errors = [] if error is None else [error.clamp_(min=0)]
        z = new
        for at, product in enumerate(self.products):
            grown = torch.maximum(grown, largest_of(new, steps[at]) / golden(piece.magnitudes[at]))
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
        taken = None
        if errors:
            taken = self._nearer(errors[0], classes)
            if self.later_tables is not None:
                taken += self._against(self.later_tables, torch.cat(errors[1:]), classes)
        return _Scored(behind, self.held.allowed * grown, ~(grown < _HUGE), taken)

    def _scores_without(self, piece: Piece) -> Tensor:
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
        piece: Piece,
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
