"""Changes so large that sums may overflow: what the criteria say of them, without running the model where that is sure.

Values are scaled down by a power of two, so that nothing overflows that is computed here. Whether a sum of huge terms
is infinite may depend on the order in which it is taken. So a pair is decided where every order gives the same verdict
(`Overflow._quickly`): two infinities of opposite signs make a score NaN, which fails as well as another class does.
Elsewhere the operator itself is asked, in the order in which it sums (`Overflow._slowly`), or the pair is run again.

How far our operands are from the operator's is bounded as in Higham, "Accuracy and Stability of Numerical Algorithms",
2nd edition, 2002, section 3.1: a sum of n terms, in any order, is off by at most n * 2^-24 times the sum of magnitudes.
"""

from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.fx import Node

from ._chain import Chain, Product, Step
from ._columns import Held, Piece, Tally
from ._graph import arguments

_DOWN = 2.0**-64  # by which huge values are scaled to be computed safely
_MOST = torch.finfo(torch.float32).max * _DOWN
_SEVERAL = 4  # sums that overflow: that all of them are as near to not doing so as rounding, is not to be expected
_FURTHEST = 0.5  # relative: an operator that would have to be asked with operands further off has no say
_FLOATS = 1 << 20  # of a tensor of absolute sums, so that it stays in the cache


def rounding_of(addends: int) -> float:
    """Bound how far two float32 sums of the same terms, in any orders, are apart: a share of the sum of magnitudes.

    Each is off by at most n u / (1 - n u), with the unit roundoff u = 2^-24; n counts a product's own rounding too.
    """
    off = (addends + 1) * 2.0**-24
    return 2 * off / (1 - off)


class Operators(NamedTuple):
    """The products after a faulty channel, and how large their sums can be; one entry for each product.

    ``largest``: of results of operands of at most one. ``down``: of sums of the terms that are negative then.
    ``weight``: the largest. ``is_cheap``: whether the operator itself is. ``rounding``: see `rounding_of`; its first
    entry is of the faulty operator, so there is one more than there are products.
    """

    products: tuple[Product, ...]
    absolute: tuple[Product, ...]
    largest: tuple[float, ...]
    down: tuple[float, ...]
    weight: tuple[float, ...]
    fatal: tuple[bool, ...]
    is_cheap: tuple[bool, ...]
    rounding: tuple[float, ...]


def operators_of(chain: Chain, channel: int) -> Operators:
    """Prepare the products that follow a channel of an operator's result."""
    first = chain.first(channel)
    products = () if first is None else (first, *chain.later)
    absolute = tuple(product.magnitude() for product in products)
    nodes = [step.product for step in chain.steps if step.product is not None]
    addends = [chain.graph.constants[arguments(one)[1]][0].numel() + 2 for one in nodes]
    # Huge terms only: the faulty operator has one, a rounded change; what follows has those of the channel. The others
    # are so much smaller that all of them together do not count.
    if first is not None:
        addends[0] = max(int(matrix.ne(0).sum(1).max()) for matrix, _, _ in first.blocks)
    addends.insert(0, 2)
    down = []
    for at, product in enumerate(products):
        signs = (-1,) if chain.steps[at].rectifies else (-1, 1)  # operands of any sign: all terms may be negative
        down.append(float(sum((product.sums(sign) for sign in signs), start=torch.zeros(())).max()))
    return Operators(
        products,
        absolute,
        tuple(product.largest() for product in products),
        tuple(down),
        tuple(max(float(matrix.max()) for matrix, _, _ in product.blocks) for product in absolute),
        tuple(chain.is_fatal(at, product) for at, product in enumerate(products)),
        tuple(one.target is torch.ops.aten.linear.default for one in nodes),
        tuple(rounding_of(one) for one in addends),
    )


class _Verdict(NamedTuple):
    """What is sure of pairs: that they fail or stay by the class, the same of the five best; and all scores' numbers.

    ``is_infinite``: a score is not finite. ``is_finite``: all are.
    """

    fails: Tensor
    stays: Tensor
    fails_five: Tensor
    stays_five: Tensor
    is_infinite: Tensor
    is_finite: Tensor


class _Risks(NamedTuple):
    """What infinite results make of pairs.

    ``found``: a score is NaN, or the pair fails for another reason. ``open_``: not to be said here. ``maybe``: the
    same, or results are right.
    ``missing``: the sum of positive results that may be zero instead, after the rectifier.
    """

    found: Tensor
    open_: Tensor
    maybe: Tensor
    missing: Tensor


@final
class Overflow:
    """Decides pairs with huge values, of faults in one channel.

    Args:
        chain: what follows.
        held: of the block of examples.
        whole: its golden values.
        criteria: by class.
        channel: of the faulty operator's result.
        operators: what follows it.
        start: the channel's golden result, (rows, examples); ``old``: the operand that becomes of it.
    """

    def __init__(
        self,
        chain: Chain,
        held: Held,
        whole: Piece,
        criteria: tuple[str, ...],
        channel: int,
        operators: Operators,
        start: Tensor,
        old: Tensor,
    ) -> None:
        self.chain, self.held, self.whole, self.criteria = chain, held, whole, criteria
        self.channel, self.operators, self.start, self.old = channel, operators, start, old
        self.by_first = set(criteria) <= {"top1", "label"}  # no score but the best matters, nor whether it is finite

    def decide(self, pieces: list[Piece], x: Tensor, word: int, change: float, tally: Tally) -> None:
        """Decide all examples for one change.

        Args:
            pieces: of all examples.
            x: what a unit of change adds to the channel, (rows, examples).
            word: which one it is.
            change: of the parameter.
            tally: what became of pairs, added to.
        """
        if not self.operators.products:
            self._slowly(x, None, word, change, tally)
            return
        left = []
        for piece in pieces:
            places = slice(piece.first, piece.first + len(piece.classes))
            sure = self._count(
                piece, x[:, places], self.start[:, places], self.old[:, places], None, change, word, tally
            )
            left.append(piece.first + (~sure).nonzero().flatten())
        self.decide_some(torch.cat(left), x, word, change, tally)

    def decide_some(self, index: Tensor, x: Tensor, word: int, change: float, tally: Tally) -> None:
        """Decide some examples for one change, each as far as it takes."""
        if len(index) and self.operators.products:
            piece = self.whole.some(index)
            mine, start, old = (one.index_select(1, index) for one in (x, self.start, self.old))
            index = index[~self._count(piece, mine, start, old, index, change, word, tally)]
        if len(index):
            self._slowly(x, index, word, change, tally)

    def _count(
        self,
        piece: Piece,
        x: Tensor,
        start: Tensor,
        old: Tensor,
        asked: Tensor | None,
        change: float,
        word: int,
        tally: Tally,
    ) -> Tensor:
        """Count the pairs of which the verdict is sure; say which ones are."""
        found = self._quickly(piece, x, start, old, asked, change)
        return self._added(found, piece.right, word, tally)

    def _added(self, found: _Verdict, right: Tensor, word: int, tally: Tally) -> Tensor:
        """Count pairs of which the verdict is sure for all criteria; say which ones are."""
        sure = found.fails | found.stays
        if "top5" in self.criteria:
            sure &= found.fails_five | found.stays_five
        if "nonfinite" in self.criteria:
            sure &= found.is_infinite | found.is_finite
        failing = {
            "top1": found.fails,
            "label": found.fails & right,
            "top5": found.fails_five,
            "nonfinite": found.is_infinite,
        }
        for at, name in enumerate(self.criteria):
            tally.failed[at, word] += int((failing[name] & sure).sum())
        tally.computed[word] += int(sure.sum())
        return sure

    # -- what every order of summation agrees on

    def _quickly(
        self, piece: Piece, x: Tensor, start: Tensor, old: Tensor, asked: Tensor | None, change: float
    ) -> _Verdict:
        """Carry changes on as if nothing overflowed, and say what an overflow could make of it at most.

        ``asked``: which examples they are, if operators may be asked whether they give several infinities.
        """
        steps, operators = self.chain.steps, self.operators
        z = torch.add(start * _DOWN, x, alpha=change * _DOWN)
        pairs = z.shape[1]
        lost, unknown, maybe = (torch.zeros(pairs, dtype=torch.bool) for _ in range(3))
        grown = torch.ones(pairs)
        size = torch.maximum(z.amax(0), -z.amin(0))
        error, gone = size * operators.rounding[0], torch.zeros(pairs)
        may = ~(size + error < _MOST)
        operand = z
        for at, product in enumerate(operators.products):
            missing = torch.zeros(pairs)
            if bool(may.any()):
                few = may.nonzero().flatten()
                part: Any = few if 2 * len(few) < pairs else slice(None)  # to gather some costs more than to take all
                places = None if asked is None else asked[part]
                risks = self._risks(
                    at, z[:, part], operand[:, part], size[part], error[part], piece.classes[part], places
                )
                lost[part] |= risks.found & may[part] & ~unknown[part]
                unknown[part] |= risks.open_ & may[part] & ~lost[part]
                maybe[part] |= risks.maybe & may[part]
                missing[part] = risks.missing
            operand = steps[at].apply(z)
            size = largest_of(operand, steps[at])
            grown = torch.maximum(grown, size / _DOWN / piece.magnitudes[at])
            if at == 0:
                z = product(operand.sub(old, alpha=_DOWN), piece.results[0] * _DOWN)
            else:
                z = product._replace(bias=None if product.bias is None else product.bias * _DOWN)(operand)
            # Ours against the operator's: what its operands are off, enlarged, and the rounding of both sums.
            gone = operators.largest[at] * gone + operators.weight[at] * missing
            error = operators.largest[at] * (error + size * operators.rounding[at + 1]) + operators.weight[at] * missing
            may = ~(size * operators.largest[at] + error < _MOST) & ~lost
        up, down = z.clamp(min=0), (-z).clamp(min=0)
        if bool(may.any()):
            sums = operators.absolute[-1](operand.abs())
            up, down = (sums + z) / 2, (sums - z) / 2
        room = self.held.allowed * grown * _DOWN + gone
        rises, falls = up + error >= _MOST, down + error >= _MOST
        surely = (z > _MOST + error) & ~falls
        high = (z + room).masked_fill(rises, torch.inf)
        low = (z - room).masked_fill(surely, torch.inf).masked_fill(falls, -torch.inf)
        found = _judged(piece.classes, low, high, lost, unknown, maybe | (rises & falls).any(0))
        return found._replace(is_finite=found.is_finite & ~may)

    def _risks(
        self,
        at: int,
        z: Tensor,
        operand: Tensor,
        size: Tensor,
        error: Tensor,
        classes: Tensor,
        places: Tensor | None,
    ) -> _Risks:
        """Say what infinite results before product ``at`` make of pairs.

        Where an infinite operand makes a score NaN, sums that perhaps overflow upwards are taken as finite, for the
        pair fails if they do. One that is positive but perhaps overflows downwards may be zero after the rectifier.
        """
        operators, step = self.operators, self.chain.steps[at]
        none = torch.zeros_like(error, dtype=torch.bool)
        if step.rectifies and operators.fatal[at]:
            top = z.amax(0)
            found, missing = top > _MOST + error, torch.zeros_like(error)
            maybe = ~(top + error < _MOST) if at == 0 else ~none  # the faulty operator's sums are of one huge term
            risky = ~(operators.down[at - 1] * size + error < _MOST) if at else none
            if bool(risky.any()):
                some: Any = risky.nonzero().flatten() if not bool(risky.all()) else slice(None)
                mine, off = z[:, some], error[some]
                low = operators.absolute[at - 1](operand[:, some].abs()).sub_(mine) < 2 * (_MOST - off)
                found[some] = (low & (mine > _MOST + off)).any(0)
                missing[some] = (mine + off).masked_fill_(low, 0).clamp_(min=0).sum(0)
                doubt = ~found & (missing > 0)
                if places is not None and self.operators.is_cheap[at - 1] and bool(doubt.any()):
                    found[doubt] = self._is_told(at - 1, operand[:, doubt], places[doubt], error[doubt])
            return _Risks(found, none, maybe & ~found, missing)
        sums = z.abs() if at == 0 else operators.absolute[at - 1](operand.abs())
        if self.by_first and step.rectifies and at + 1 == len(operators.products):
            return self._of_hidden(z, sums, error, classes)
        above, below, open_rows = _settled(z, sums, error)
        if step.rectifies:
            open_rows &= ~(((sums + z) / 2 + error < _MOST) & (z + error < 0))  # zero afterwards, infinite or not
        infinite = ~step.apply(z.masked_fill(above, torch.inf).masked_fill_(below, -torch.inf)).isfinite()
        found = none
        if step.rectifies and at + 1 == len(operators.products):
            found = self._cancels(infinite)
        return _Risks(found, (open_rows.any(0) | infinite.any(0)) & ~found, none, torch.zeros_like(error))

    def _of_hidden(self, z: Tensor, sums: Tensor, error: Tensor, classes: Tensor) -> _Risks:
        """Say what infinite results make that become operands of the scores, where only the best class matters.

        One alone makes its weight's sign of each score infinite, so the first class with a positive weight is the best.
        Several do the same, or make a NaN where their weights' signs differ. So unless the golden class is what one
        makes alone, the pair fails however many of them are infinite.
        """
        step, weights = self.chain.steps[-2], self.operators.products[-1].blocks[0][0]
        perhaps = step.apply((sums + z + 2 * error >= 2 * _MOST).float()) > 0
        surely = step.apply(((z > _MOST + error) & (sums - z + 2 * error < 2 * _MOST)).float()) > 0
        alone = torch.nn.functional.one_hot(
            (weights > 0).float().argmax(0), len(weights)
        ).float()  # -> (operands, classes)
        golden = (alone.t() @ perhaps.float()).gather(0, classes[None])[0] > 0
        cancels = self._cancels(surely)
        found = cancels | (surely.any(0) & ~golden)
        falls = (sums - z + 2 * error >= 2 * _MOST) & (z + error > 0)  # may be zero instead
        missing = (z + error).where(falls, 0).sum(0)
        return _Risks(found, golden & ~found, perhaps.any(0) & ~golden & ~found, missing)

    def _cancels(self, infinite: Tensor) -> Tensor:
        """Say where infinite operands of the last product, all positive, meet with weights of both signs in a score."""
        positive, negative = (self.operators.products[-1].signs(sign)(infinite.float()) > 0 for sign in (1, -1))
        return (positive & negative).any(0)

    # -- what the operators themselves say

    def _slowly(self, x: Tensor, index: Tensor | None, word: int, change: float, tally: Tally) -> None:
        """Settle each sum of pairs that may overflow: it must be the same whatever the order, or the operator's."""
        steps, operators, piece = self.chain.steps, self.operators, self.whole

        def golden(tensor: Tensor) -> Tensor:
            return tensor if index is None else tensor.index_select(-1, index)

        z = torch.add(golden(self.start) * _DOWN, golden(x), alpha=change * _DOWN)
        pairs = z.shape[1]
        is_nan, doubt = torch.zeros(pairs, dtype=torch.bool), torch.zeros(pairs, dtype=torch.bool)
        grown = torch.ones(pairs)
        off = z.abs().mul_(operators.rounding[0])  # of each result, ours against the operator's
        error = off.amax(0)
        if float(error.amax()) * (1 + 1 / operators.rounding[0]) >= _MOST:
            above, below, open_ = _settled(z, z.abs(), error)
            z = z.masked_fill(above, torch.inf).masked_fill_(below, -torch.inf)
            is_nan, stuck = self._infinite(0, z)
            doubt = open_.any(0) | stuck
        unsure = torch.zeros(self.held.margins.shape[1], pairs, dtype=torch.bool)  # which scores are not known
        for at, product in enumerate(operators.products):
            new = steps[at].apply(z)
            new[:, is_nan | doubt] = 0
            finite = new if bool(new.isfinite().all()) else new.where(new.isfinite(), 0.0)
            size = largest_of(finite, steps[at])
            grown = torch.maximum(grown, size / _DOWN / golden(piece.magnitudes[at]))
            if at == 0:
                z = product(new.sub(golden(self.old), alpha=_DOWN), golden(piece.results[0]) * _DOWN)
            else:
                z = product._replace(bias=None if product.bias is None else product.bias * _DOWN)(new)
            off = steps[at]._replace(rectifies=False).apply(off).add_(finite.abs(), alpha=operators.rounding[at + 1])
            off = operators.absolute[at](off)
            error = off.amax(0)
            may = ~(size * operators.largest[at] + error < _MOST)
            if finite is not new:
                may |= (finite != new).any(0)
            if bool(may.any()):
                self._settle(index, at, may.nonzero().flatten(), new, z, error, unsure, is_nan, doubt)
        scores = z
        if not operators.products:
            golden_scores = self.held.values(self.chain.graph.output).t()
            scores = golden(golden_scores) * _DOWN
            scores[self.channel] = z[0]
        self._tell(index, word, scores, unsure, is_nan, doubt, grown, tally)

    def _infinite(self, at: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """Say what becomes of infinite results before product ``at``: where a score is NaN, and where we cannot say."""
        none = torch.zeros(z.shape[1], dtype=torch.bool)
        if at == len(self.operators.products):
            return none, none
        operand = self.chain.steps[at].apply(z)
        infinite = ~operand.isfinite().all(0)
        if self.operators.fatal[at]:
            return infinite, none
        node = self.chain.steps[at].product
        assert node is not None  # a convolution as a matrix has zeros that are not there
        return operand.isnan().any(0), none if node.target is torch.ops.aten.linear.default else infinite

    def _settle(
        self,
        index: Tensor | None,
        at: int,
        few: Tensor,
        new: Tensor,
        z: Tensor,
        error: Tensor,
        unsure: Tensor,
        is_nan: Tensor,
        doubt: Tensor,
    ) -> None:
        """Say which sums of a product overflow, of the pairs ``few``; write it into ``z``, or note the pairs."""
        every, fatal = len(few) == z.shape[1], self.operators.fatal
        operand, result = (new, z) if every else (new.index_select(1, few), z.index_select(1, few))
        error = error[few]
        left, dead = torch.zeros(len(few), dtype=torch.bool), torch.zeros(len(few), dtype=torch.bool)
        step = max(1, _FLOATS // len(result))
        for first in range(0, len(few), step):
            part, some = operand[:, first : first + step], result[:, first : first + step]
            finite = part.where(part.isfinite(), 0.0)
            sums = self.operators.absolute[at](finite.abs())
            whole = bool(part.isfinite().all())
            signed = some.clone() if whole else self.operators.products[at]._replace(bias=None)(finite)
            above, below, open_ = _settled(signed, sums, error[first : first + step])
            settled = some.isfinite()
            open_ |= (above | below) & ~settled
            some.masked_fill_(above & settled, torch.inf).masked_fill_(below & settled, -torch.inf)
            left[first : first + step] = open_.any(0)
            if at + 1 < len(fatal) and fatal[at + 1]:  # one that is infinite for certain is enough
                dead[first : first + step] = (above & ~open_).any(0)
        left &= ~dead
        if bool(left.any()):
            asked = left.nonzero().flatten()
            places = few[asked] if index is None else index[few[asked]]
            lost, answers, agreed = self._asked(at, operand.index_select(1, asked), places, error[asked])
            dead[asked], left[asked] = lost, False
            asked = asked[~lost]
            mine = result.index_select(1, asked)
            agreed &= ~(answers.isfinite() & (mine.abs() > _MOST + error[asked]))
            result[:, asked] = torch.where(answers.isfinite(), mine, answers)
            if at + 1 == len(fatal):
                unsure[:, few[asked]] = ~agreed
            else:
                left[asked] = ~agreed.all(0)
                if at + 2 == len(fatal) and self.chain.steps[at + 1].rectifies:
                    dead[asked] = self._cancels(self.chain.steps[at + 1].apply(answers.where(agreed, 0)) == torch.inf)
                    left &= ~dead
        known, stuck = self._infinite(at + 1, result)
        if not every:
            z[:, few] = result
        is_nan[few] |= dead | (known & ~left)
        doubt[few] |= (left | stuck) & ~dead

    def _asked(self, at: int, operand: Tensor, places: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ask the operator itself what it gives, in the order in which it sums in the example's batch.

        It is asked twice, with operands larger and smaller, so that a sum as large as the largest number moves by all
        that ours may be off (``error``): what both agree on holds. Where several results become infinite operands, each
        of which makes a score NaN, once is enough.

        Returns which pairs are lost so; and of the others, in their order, the answers and which of them agree.
        """
        off = (error / _MOST).clamp(max=_FURTHEST)
        low = self._answers(at, operand * (1 - off), places)
        lost = self._is_lost(at + 1, low) & (off < _FURTHEST)
        rest = (~lost).nonzero().flatten()
        low = low.index_select(1, rest)
        high = self._answers(at, operand.index_select(1, rest) * (1 + off[rest]), places[rest])
        same = (low == high) | (low.isfinite() & high.isfinite()) | (low.isnan() & high.isnan())
        return lost, low, same & (off[rest] < _FURTHEST)

    def _is_told(self, at: int, operand: Tensor, places: Tensor, error: Tensor) -> Tensor:
        """Ask the operator itself where it gives several infinite results, each of which makes a score NaN."""
        off = (error / _MOST).clamp(max=_FURTHEST)
        return self._is_lost(at + 1, self._answers(at, operand * (1 - off), places)) & (off < _FURTHEST)

    def _answers(self, at: int, operand: Tensor, places: Tensor) -> Tensor:
        """Give what the operator of product ``at`` makes of operands, each in its example's batch: (rows, pairs)."""
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
        found = operand.new_empty(len(rows), len(places))
        for batch in torch.unique(batches).tolist():
            mine = (batches == batch).nonzero().flatten()
            operands = golden.index_select(0, held.place[batch * held.batch_size : (batch + 1) * held.batch_size])
            where = original[mine] - batch * held.batch_size
            operands.flatten(1)[where[:, None], columns] = operand.index_select(1, mine).t() / _DOWN
            found[:, mine] = call(operands, weight, *others)[where].flatten(1).index_select(1, rows).t()
        return found

    def _is_lost(self, at: int, z: Tensor) -> Tensor:
        """Say where several results before product ``at`` are infinite operands, each of which makes a score NaN."""
        if at == len(self.operators.products) or not self.operators.fatal[at]:
            return torch.zeros(z.shape[1], dtype=torch.bool)
        return (~self.chain.steps[at].apply(z).isfinite()).sum(0) >= _SEVERAL

    def _tell(
        self,
        index: Tensor | None,
        word: int,
        scores: Tensor,
        unsure: Tensor,
        is_nan: Tensor,
        doubt: Tensor,
        grown: Tensor,
        tally: Tally,
    ) -> None:
        """Count pairs of which all is known that matters; the others are run again."""
        places = torch.arange(scores.shape[1]) if index is None else index
        room = (self.held.allowed * grown * _DOWN).where(scores.isfinite(), 0)
        low = (scores - room).masked_fill(unsure, -torch.inf)
        high = (scores + room).masked_fill(unsure, torch.inf)
        lost = is_nan | (scores.isnan() & ~unsure).any(0)
        found = _judged(self.whole.classes[places], low, high, lost, doubt & ~is_nan, unsure.any(0))
        infinite = (scores.isinf() & ~unsure).any(0)
        found = found._replace(is_infinite=lost | (infinite & ~doubt), is_finite=found.is_finite & ~infinite)
        sure = self._added(found, self.whole.right[places], word, tally)
        if not bool(sure.all()):
            tally.redo.append((word, places[~sure]))


def _judged(classes: Tensor, low: Tensor, high: Tensor, lost: Tensor, unknown: Tensor, maybe: Tensor) -> _Verdict:
    """Compare what scores can be at least and at most; torch.argmax takes the first of several largest.

    Args:
        classes: the golden ones, of pairs.
        low: (classes, pairs).
        high: the same.
        lost: where a score is NaN.
        unknown: where bounds do not hold.
        maybe: where a score may be NaN.
    """
    mine = classes[None]
    index = torch.arange(len(low))[:, None]
    own, before = index == mine, index < mine
    my_low, my_high = low.gather(0, mine), high.gather(0, mine)
    beats = ((low > my_high) | ((low == torch.inf) & before)) & ~own
    trails = (high < my_low) | ((my_low == torch.inf) & ~before) | own
    certain = ~unknown & ~lost
    fine = certain & ~maybe
    return _Verdict(
        fails=lost | (certain & beats.any(0)),
        stays=fine & trails.all(0),
        fails_five=lost | (certain & ((low > my_high).sum(0) >= 5)),
        stays_five=fine & (((high > my_low) & ~own).sum(0) < 5),
        is_infinite=lost,
        is_finite=fine,
    )


def _settled(signed: Tensor, sums: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Say of sums of values scaled down which are infinite whatever the order, up and down, and which may be.

    Args:
        signed: the sums, (rows, pairs).
        sums: of absolute values.
        error: how much both may be off.
    """
    up, down = (sums + signed) / 2 + error, (sums - signed) / 2 + error
    fits = (up < _MOST) & (down < _MOST)
    above = (down < _MOST) & (signed > _MOST + error)
    below = (up < _MOST) & (signed < -_MOST - error)
    return above, below, ~(fits | above | below)


def largest_of(operand: Tensor, step: Step) -> Tensor:
    """Give the largest magnitude of each example's operand."""
    return operand.amax(0) if step.rectifies else torch.maximum(operand.amax(0), -operand.amin(0))
