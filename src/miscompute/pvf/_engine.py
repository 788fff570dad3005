"""The fast exact engine: computes only what a fault changes, and only where it could matter.

A fault of one element of a parameter changes one channel of one operator's result. For every pair of a fault and an
example the engine either proves that the predicted class stays (`_bounds`), or carries the changed channel on
(`_rules`) until it is proved or the scores are there. Where the scores are too near to a tie for the rounding of either
computation, or a sum may overflow, the example's batch is run again as brute force runs it, from the operator on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.fx import Node

from .._invalid import InvalidInput
from ..formats import Format
from ._bounds import Bounds, bounds_of
from ._brute import golden_of, scores_of
from ._chain import Chain, chain_of
from ._columns import Held
from ._criteria import CRITERIA, Golden, Limits, failures
from ._faults import Faults
from ._graph import arguments, capture, golden_values, run_node
from ._rules import RULES, Context, Part, pooled
from ._secants import Chained
from ._seeds import Seed, seed_of

aten = torch.ops.aten

_PRODUCTS = (aten.linear.default, aten.conv2d.default, aten.scaled_dot_product_attention.default, aten.matmul.default)
_SAFETY = 8.0
"""How many times the largest rounding error found in the golden scores is allowed for in faulty ones."""

_HUGE = 2.0**90  # beyond, a sum might overflow on its way
_MOST = torch.finfo(torch.float32).max


@final
@dataclass(frozen=True, kw_only=True)
class Work:
    """How pairs of a fault and an example were decided.

    ``unchanged``: the word stays what it is, or nothing of the example meets the change. ``certified``: the class is
    proved to stay. ``computed``: the scores, from what changes. ``repeated``: as brute force does; ``batches`` were run
    for them. ``whole``: all pairs of faults that have no faster way (`fallbacks` names the parameters).
    """

    pairs: int = 0
    unchanged: int = 0
    certified: int = 0
    computed: int = 0
    repeated: int = 0
    whole: int = 0
    batches: int = 0
    fallbacks: tuple[str, ...] = ()

    def __add__(self, other: "Work") -> "Work":
        return Work(
            pairs=self.pairs + other.pairs,
            unchanged=self.unchanged + other.unchanged,
            certified=self.certified + other.certified,
            computed=self.computed + other.computed,
            repeated=self.repeated + other.repeated,
            whole=self.whole + other.whole,
            batches=self.batches + other.batches,
            fallbacks=tuple(dict.fromkeys((*self.fallbacks, *other.fallbacks))),
        )


class _Tail(NamedTuple):
    """What follows an operator: nodes in order; before each, the one tensor that all changes pass, if there is one."""

    nodes: tuple[Node, ...]
    cuts: tuple[Node | None, ...]
    frees: tuple[tuple[Node, ...], ...]


class _Outcome(NamedTuple):
    """What became of pairs: ``reach`` is how much of the golden margins the change takes at most, as a share."""

    reach: Tensor
    failed: Tensor | None
    alive: Tensor
    unsure: Tensor


@final
class Engine:
    """Counts the failures of faults of a model's parameters on examples. See `Engine.run`.

    Args:
        model: in eval mode, its parameters values of their formats; not changed.
        inputs: examples, what the model takes.
        labels: one for each inference, if a criterion needs them.
        formats: of each parameter that faults will be in.
        criteria: of `CRITERIA`.
        limits: of the criteria that have one.
        batch_size: of the brute force that this stands for.
        block_bytes: how much of golden values is held at a time.

    Raises:
        InvalidInput: if the model cannot be captured.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor | None,
        formats: dict[str, Format],
        *,
        criteria: tuple[str, ...] = ("top1",),
        limits: Limits | None = None,
        batch_size: int = 250,
        block_bytes: int = 1 << 30,
    ) -> None:
        self.model, self.inputs, self.labels, self.formats = model, inputs, labels, formats
        self.criteria, self.limits, self.batch_size = criteria, limits or Limits(), batch_size
        self.graph = capture(model, inputs)
        self.certifies = all(CRITERIA[name].by_class for name in criteria)
        self._tails: dict[Node, _Tail] = {}
        self._chains: dict[Node, Chain | None] = {}
        self._block: _Block | None = None
        self._check()
        shapes, self.allowed = self._calibrate()
        self.shapes = shapes
        self.bounds = bounds_of(self.graph, shapes) if self.certifies else Bounds({}, {}, None)
        each = 4 * sum(int(torch.Size(shape[1:]).numel()) for node, shape in shapes.items() if node in self.graph.batch)
        self.block_size = max(1, block_bytes // each // batch_size) * batch_size

    def _check(self) -> None:
        """Refuse a graph that does not give the model's own scores, bit for bit."""
        batch = self.inputs[: self.batch_size]
        output = self.graph.output
        found = golden_values(self.graph, batch, lambda node: node is output)[output]
        if not torch.equal(found.flatten(0, -2), scores_of(self.model, batch, self.batch_size)):
            raise InvalidInput(
                f"model {type(self.model).__name__} gives other scores than its captured graph, so it is not the same "
                "each time; use engine='brute'"
            )

    def _calibrate(self) -> tuple[dict[Node, tuple[int, ...]], float]:
        """Find each tensor's shape, and how far the scores are from those in double precision."""
        some = self.inputs[: min(len(self.inputs), 64)]
        values = golden_values(self.graph, some, lambda node: node in self.graph.batch)
        shapes = {node: tuple(value.shape) for node, value in values.items() if isinstance(value, Tensor)}
        doubled = {
            node: held.double() if held.is_floating_point() else held for node, held in self.graph.constants.items()
        }
        exact = golden_values(
            replace(self.graph, constants=doubled),
            some.double() if some.is_floating_point() else some,
            lambda node: node is self.graph.output,
        )[self.graph.output]
        error = float((values[self.graph.output].double() - exact).abs().max())
        scale = float(exact.abs().max())
        return shapes, _SAFETY * max(error, 2.0**-24 * scale)

    def run(self, faults: Sequence[Faults]) -> tuple[list[Tensor], Work]:
        """Count failed inferences: (criteria, elements, effects) int64 for each of the faults, and the work done."""
        counted = [
            torch.zeros(len(self.criteria), len(one.elements), len(one.effects), dtype=torch.int64) for one in faults
        ]
        work = Work()
        with torch.no_grad():
            for first in range(0, len(self.inputs), self.block_size):
                block = self._block
                if block is None:
                    block = _Block(self, first, min(first + self.block_size, len(self.inputs)))
                if self.block_size >= len(self.inputs):
                    self._block = block  # the only one is kept
                for one, into in zip(faults, counted, strict=True):
                    work += block.count(one, into)
        return counted, work

    def tail(self, node: Node) -> _Tail:
        """Give what follows a node, and where changes pass one tensor."""
        if node not in self._tails:
            nodes = self.graph.after({node})
            inside = {node, *nodes}
            pending = {one: sum(user in inside for user in one.users) for one in inside}
            live, cuts, frees = {node}, [], []
            for one in nodes:
                cuts.append(next(iter(live)) if len(live) == 1 else None)
                gone = []
                for before in one.all_input_nodes:
                    if before in inside:
                        pending[before] -= 1
                        if not pending[before]:
                            gone.append(before)
                            live.discard(before)
                live.add(one)
                frees.append(tuple(gone))
            self._tails[node] = _Tail(nodes, tuple(cuts), tuple(frees))
        return self._tails[node]

    def chain(self, node: Node) -> Chain | None:
        """Give what follows a node as a straight chain, if it is one and classes alone decide."""
        if node not in self._chains:
            found = chain_of(self.graph, node, self.shapes, self.bounds) if self.certifies else None
            self._chains[node] = found
        return self._chains[node]


class _Block:
    """Some consecutive examples, whole batches of them, with all golden values; sorted by golden class."""

    def __init__(self, engine: Engine, first: int, last: int) -> None:
        self.engine, self.graph = engine, engine.graph
        self.n = last - first
        inputs = engine.inputs[first:last]
        size = engine.batch_size
        parts = [
            golden_values(self.graph, inputs[at : at + size], lambda node: node in self.graph.batch)
            for at in range(0, self.n, size)
        ]
        output = torch.cat([part[self.graph.output] for part in parts])
        self.is_rows = output.dim() > 2  # a text: several inferences an example
        self.each = output[0].numel() // output.shape[-1]
        classes = output.argmax(-1)
        self.order = torch.arange(self.n) if self.is_rows else torch.argsort(classes, stable=True)
        self.place = torch.argsort(self.order)  # where each example is held
        self.values: dict[Node, Tensor] = {}
        for node in tuple(parts[0]):
            dim = self.graph.batch[node]
            joined = torch.cat([part.pop(node) for part in parts], dim)
            self.values[node] = joined if self.is_rows else joined.index_select(dim, self.order)
        labels = None
        if engine.labels is not None:
            labels = engine.labels[first:last].reshape(self.n, -1)[self.order]
        self.scores = self.values[self.graph.output]
        self.golden = golden_of(self.scores.flatten(0, -2), labels)
        self.magnitudes: dict[Node, Tensor] = {}
        self._margins()
        self._seed_key: Any = None
        self.chained: dict[Node, Chained] = {}
        self.columns: dict[Node, Tensor] = {}

    def _margins(self) -> None:
        """How far each other class is behind the golden one, less what rounding may do to both."""
        scores, classes = self.golden.scores, self.golden.classes
        margins = scores.gather(1, classes[:, None]) - scores
        margins.scatter_(1, classes[:, None], torch.inf)
        self.margins = (margins * (1 - 1e-4) - 2 * self.engine.allowed).clamp_min(0)
        if self.engine.bounds.distance is not None:
            radius = (self.margins / self.engine.bounds.distance[classes]).nan_to_num(nan=torch.inf).amin(1)
            self.radius = radius.view(self.n, -1).amin(1)
        self.ends = torch.searchsorted(classes, torch.arange(scores.shape[1] + 1)).tolist()

    # -- golden values

    def constant(self, node: Any) -> Any:
        return self.graph.constants[node] if isinstance(node, Node) else node

    def value(self, node: Node) -> Any:
        """Give what a node without a batch gives, computed from constants."""
        if node in self.graph.constants:
            return self.graph.constants[node]
        if node not in self.values:
            self.values[node] = run_node(node, self.value)
        return self.values[node]

    def magnitude(self, node: Node) -> Tensor:
        """Give the largest magnitude of each example's golden tensor."""
        if node not in self.magnitudes:
            found = _largest(self.values[node], self.graph.batch[node])
            self.magnitudes[node] = found.clamp_min(1e-30)
        return self.magnitudes[node]

    # -- one parameter

    def count(self, faults: Faults, into: Tensor) -> Work:
        engine, graph = self.engine, self.graph
        parameter = engine.model.get_parameter(faults.parameter).detach()
        read = faults.values(parameter, engine.formats[faults.parameter])
        stored = parameter.reshape(-1)[torch.tensor(faults.elements)]
        nodes = graph.parameters[faults.parameter]
        users = graph.users(faults.parameter)
        total = Work()
        user = users[0] if len(users) == 1 and users[0] in graph.batch else None
        chain = None if user is None else engine.chain(user)
        # In the order of memory, in which those of one channel follow each other: what they share is prepared once.
        for row, element in sorted(enumerate(faults.elements), key=lambda one: one[1]):
            values = read[row]
            seed = None
            if user is not None:
                read_node = next(node for node in nodes if node in user.all_input_nodes)
                golden = self.values.__getitem__ if chain is None else lambda one: self._columns(user, one)
                seed = seed_of(user, read_node, element, golden, self.constant)
            same = values == stored[row]
            # Equal words are one fault.
            distinct, which = torch.unique(values[~same].view(torch.int32), return_inverse=True)
            words = distinct.view(torch.float32)
            counts = torch.zeros(len(engine.criteria), len(words), dtype=torch.int64)
            work = Work(pairs=self.n * len(values), unchanged=self.n * int(same.sum()))
            if len(words):
                each = torch.bincount(which, minlength=len(words))
                if user is None or seed is None or self._unpaired(user):
                    work += self._whole(faults.parameter, element, words, counts)
                    work = replace(work, whole=int(each.sum()) * self.n, fallbacks=(faults.parameter,))
                elif chain is not None and seed.dim == 1:
                    work += self._linked(faults.parameter, element, user, seed, words, float(stored[row]), each, counts)
                else:
                    work += self._element(faults.parameter, element, user, seed, words, float(stored[row]), counts)
                into[:, row, ~same] += counts[:, which]
            total += work
        return total

    def _linked(
        self,
        name: str,
        element: int,
        node: Node,
        seed: Seed,
        words: Tensor,
        stored: float,
        each: Tensor,
        counts: Tensor,
    ) -> Work:
        """Count the failures of all words of an element that a chain follows; ``each``: how often a word is meant."""
        changes = words.double() - stored
        finite = changes.isfinite() & (changes.abs() < _MOST)
        columns = finite.nonzero().flatten()
        different, which = torch.unique(changes[columns].float(), return_inverse=True)
        computed = torch.zeros(len(words), dtype=torch.int64)
        repeated = torch.where(finite, 0, self.n)
        redo = [(column, torch.arange(self.n)) for column in (~finite).nonzero().flatten().tolist()]
        if len(different):
            tally = self._chained(node).count(node, seed.channel, seed.factor, different, stored)
            counts[:, columns] = tally.failed[:, which]
            computed[columns] = tally.computed[which]
            again = [[places for one, places in tally.redo if one == word] for word in range(len(different))]
            for column, word in zip(columns.tolist(), which.tolist(), strict=True):
                if again[word]:
                    redo.append((column, torch.cat(again[word])))
                    repeated[column] += len(redo[-1][1])
        batches = self._redo(name, element, words, redo, counts).batches
        certified = int(((self.n - computed - repeated) * each).sum())
        return Work(
            certified=certified,
            computed=int((computed * each).sum()),
            repeated=int((repeated * each).sum()),
            batches=batches,
        )

    def _chained(self, node: Node) -> Chained:
        if node not in self.chained:
            engine, golden = self.engine, self.golden
            chain = engine.chain(node)
            assert chain is not None
            right = golden.classes >= 0 if golden.labels is None else golden.classes == golden.labels
            held = Held(
                self.values.__getitem__,
                self.magnitude,
                golden.classes,
                self.margins,
                right,
                self.order,
                self.place,
                engine.allowed,
                engine.batch_size,
            )
            self.chained[node] = Chained(chain, held, engine.criteria)
        return self.chained[node]

    def _columns(self, faulty: Node, node: Node) -> Tensor:
        """Give a golden tensor; of an operand of the faulty operator with the examples next to each other in memory."""
        if node is faulty:
            return self.values[node]
        if node not in self.columns:
            self.columns[node] = self.values[node].movedim(0, -1).contiguous().movedim(-1, 0)
        return self.columns[node]

    def _unpaired(self, node: Node) -> bool:
        """Whether something that follows cannot be computed for pairs: it has no dimension for examples."""
        return any(
            one not in self.graph.batch and not isinstance(one.meta.get("val"), tuple | list | torch.SymInt)
            for one in self.engine.tail(node).nodes
        )

    # -- as brute force does

    def _repeat(self, name: str, element: int, value: Tensor, batch: int) -> Tensor:
        """Run one batch with a faulty parameter, from the operator that reads it on; scores in the batch's order."""
        graph, size = self.graph, self.engine.batch_size
        parameter = self.engine.model.get_parameter(name).detach().clone()
        parameter.view(-1)[element] = value
        nodes = graph.parameters[name]
        held = self.place[batch * size : (batch + 1) * size]
        new: dict[Node, Any] = dict.fromkeys(nodes, parameter)

        def of(node: Node) -> Any:
            if node in new:
                return new[node]
            if node in graph.constants:
                return graph.constants[node]
            if node in graph.batch:
                new[node] = self.values[node].index_select(graph.batch[node], held)
            else:
                new[node] = run_node(node, of)
            return new[node]

        for node in graph.after(set(nodes)):
            is_pool = node.target is aten.max_pool2d.default  # a maximum is the same however it is found
            new[node] = pooled(node, of(arguments(node)[0])) if is_pool else run_node(node, of)
        scores: Tensor = new[graph.output]
        return scores

    def _judged(self, scores: Tensor, held: Tensor) -> Tensor:
        """Judge scores of the examples at some places: failed inferences, (criteria, pairs)."""
        engine, golden = self.engine, self._golden_at(held)
        found = failures(scores.flatten(0, -2), golden, engine.criteria, engine.limits)
        return found.view(len(engine.criteria), len(held), -1).sum(2)

    def _golden_at(self, held: Tensor) -> Golden:
        rows = held if self.each == 1 else (held[:, None] * self.each + torch.arange(self.each)).flatten()
        scores, classes, labels = self.golden
        return Golden(scores[rows], classes[rows], None if labels is None else labels[rows])

    def _whole(self, name: str, element: int, words: Tensor, counts: Tensor) -> Work:
        size = self.engine.batch_size
        batches = range((self.n + size - 1) // size)
        for column, word in enumerate(words):
            for batch in batches:
                scores = self._repeat(name, element, word, batch)
                held = self.place[batch * size : (batch + 1) * size]
                counts[:, column] += self._judged(scores, held).sum(1)
        return Work(batches=len(words) * len(batches))

    # -- what changes

    def _element(
        self, name: str, element: int, node: Node, seed: Seed, words: Tensor, stored: float, counts: Tensor
    ) -> Work:
        """Count the failures of all words that one element may be read as."""
        changes = words.double() - stored
        finite = changes.isfinite() & (changes.abs() < _MOST)
        work = Work()
        redo: list[tuple[int, Tensor]] = []  # (word, places) to be run as brute force does
        redo += [(column, torch.arange(self.n)) for column in (~finite).nonzero().flatten().tolist()]
        columns = finite.nonzero().flatten()
        changes = changes[columns].float()
        reach = self._unit_reach(node, seed)  # of a change of one, as a share of the margins
        undecided = ~(changes.abs()[None] * reach[:, None] < 1)  # -> (examples, words)
        if seed.factor is not None:
            meets = seed.factor.flatten(1).ne(0).any(1)
            work += Work(unchanged=int((~meets).sum()) * len(columns))
            undecided &= meets[:, None]
            work += Work(certified=int((~undecided & meets[:, None]).sum()))
        else:
            work += Work(certified=int((~undecided).sum()))
        step = self._pairs_at_once(node)
        for chosen in _rounds(changes):
            places, which = undecided[:, chosen].nonzero(as_tuple=True)
            for begin in range(0, len(places), step):
                held = places[begin : begin + step]
                word = chosen[which[begin : begin + step]]
                work += self._pairs(node, seed, held, word, changes, columns, undecided, reach, counts, redo)
        return work + self._redo(name, element, words, redo, counts)

    def _pairs_at_once(self, node: Node) -> int:
        products = [one for one in self.engine.tail(node).nodes if one.target in _PRODUCTS] or [node]
        each = max(int(torch.Size(self.engine.shapes[one][1:]).numel()) for one in products)
        return max(16, min(4096, (1 << 22) // each))

    def _pairs(
        self,
        node: Node,
        seed: Seed,
        held: Tensor,
        word: Tensor,
        changes: Tensor,
        columns: Tensor,
        undecided: Tensor,
        reach: Tensor,
        counts: Tensor,
        redo: list[tuple[int, Tensor]],
    ) -> Work:
        """Decide pairs; and with them, of the words still undecided, those near enough to theirs."""
        part = self._seeded(node, seed, held, changes[word])
        found = self._carry(node, part, held)
        fails = torch.zeros(len(self.engine.criteria), len(held), dtype=torch.int64)
        repeat = torch.zeros(len(held), dtype=torch.bool)
        if found.failed is not None:
            fails[:, found.alive] = found.failed
            repeat[found.alive] = found.unsure
        dropped = len(held) - len(found.alive)
        work = Work(certified=dropped, computed=int((~repeat).sum()) - dropped)
        redo += [(int(columns[column]), held[repeat & (word == column)]) for column in _distinct(word[repeat])]
        undecided[held, word] = False
        counts.index_add_(1, columns[word[~repeat]], fails[:, ~repeat])
        if not self.is_rows and bool(undecided.any()):
            work += Work(
                certified=self._shared(
                    held, word, found.reach.where(~repeat, torch.nan), fails, changes, columns, undecided, reach, counts
                )
            )
        return work

    def _shared(
        self,
        held: Tensor,
        word: Tensor,
        left: Tensor,
        fails: Tensor,
        changes: Tensor,
        columns: Tensor,
        undecided: Tensor,
        reach: Tensor,
        counts: Tensor,
    ) -> int:
        """Decide words whose change is so near to a computed one's that the class must be the same; say how many."""
        apart = (changes[None] - changes[word][:, None]).abs() * reach[held][:, None]
        pairs, which = (undecided[held] & (apart < left[:, None])).nonzero(as_tuple=True)
        if not len(pairs):
            return 0
        by = torch.full((self.n * len(changes),), -1)
        by[held[pairs] * len(changes) + which] = pairs  # of several that decide it, any
        decided = (by >= 0).nonzero().flatten()
        counts.index_add_(1, columns[decided % len(changes)], fails[:, by[decided]])
        undecided.view(-1)[decided] = False
        return len(decided)

    def _redo(self, name: str, element: int, words: Tensor, redo: list[tuple[int, Tensor]], counts: Tensor) -> Work:
        work, size = Work(), self.engine.batch_size
        for column, places in redo:
            original = self.order[places]
            for batch in _distinct(original // size):
                mine = original // size == batch
                scores = self._repeat(name, element, words[column], batch)[original[mine] - batch * size]
                counts[:, column] += self._judged(scores, places[mine]).sum(1)
                work += Work(batches=1)
            work += Work(repeated=len(places))
        return work

    def _seeded(self, node: Node, seed: Seed, held: Tensor, change: Tensor) -> Part:
        index = torch.tensor([seed.channel])
        golden = self.values[node].select(seed.dim, seed.channel).unsqueeze(seed.dim).index_select(0, held)
        sizes = (-1, *[1] * (golden.dim() - 1))
        if seed.factor is None:
            return Part(seed.dim, index, golden + change.view(sizes))
        return Part(seed.dim, index, torch.addcmul(golden, seed.factor.index_select(0, held), change.view(sizes)))

    def _unit_reach(self, node: Node, seed: Seed) -> Tensor:
        """Bound, for each example, what share of its margins a change of one of the parameter takes."""
        bounds = self.engine.bounds
        if not self.engine.certifies or (node not in bounds.gain and node not in bounds.absolute):
            return torch.full((self.n,), torch.inf)
        shape = (1, *self.engine.shapes[node][1:])
        if seed.factor is None:
            size = [*shape]
            size[seed.dim] = 1
            moved = torch.ones(1, *size[1:]).expand(self.n, *size[1:])
        else:
            moved = seed.factor.abs()
        part: Part = Part(seed.dim, torch.tensor([seed.channel]), moved)
        return self._reach(node, part, torch.arange(self.n), moves=True) * (1 + 1e-3)

    def _reach(self, node: Node, changed: Part | Tensor, held: Tensor, *, moves: bool = False) -> Tensor:
        """Bound what share of the golden margins a change of a node's tensor takes; NaN or infinite: unknown."""
        bounds = self.engine.bounds
        found = torch.full((len(held),), torch.inf)
        if node not in bounds.gain and node not in bounds.absolute:
            return found
        moved = self._moved(node, changed, held, moves=moves)
        if node in bounds.gain:
            norms = torch.linalg.vector_norm(moved, dim=1)
            found = norms * bounds.gain[node] / self.radius[held]
        if node in bounds.absolute and len(held):
            weights = self._weights(node, changed)
            shares = torch.empty(len(held))
            begins = torch.searchsorted(held, torch.tensor(self.ends)).tolist()
            moved = moved.abs()
            for g, (begin, end) in enumerate(pairwise(begins)):
                if end > begin:
                    taken = moved[begin:end] @ weights[g]  # -> (pairs, classes)
                    shares[begin:end] = (taken / self.margins[held[begin:end]]).nan_to_num_(nan=torch.inf).amax(1)
            found = torch.minimum(found.nan_to_num_(nan=torch.inf), shares)
        return found

    def _weights(self, node: Node, changed: Part | Tensor) -> Tensor:
        weights = self.engine.bounds.absolute[node]
        if isinstance(changed, Tensor):
            return weights
        first = int(changed.channels[0])
        key = (node, first, len(changed.channels))
        if self._seed_key is None or self._seed_key[0] != key:
            shape = self.engine.shapes[node][1:]
            picked = weights.view(len(weights), *shape, -1).index_select(changed.dim, changed.channels)
            self._seed_key = key, picked.flatten(1, -2).contiguous()
        found: Tensor = self._seed_key[1]
        return found

    def _moved(self, node: Node, changed: Part | Tensor, held: Tensor, *, moves: bool) -> Tensor:
        """Give the change of a node's tensor, flat."""
        if moves:
            return (changed.new if isinstance(changed, Part) else changed).flatten(1)
        if isinstance(changed, Part):
            return (changed.new - self._golden_part(node, changed.dim, changed.channels, held)).flatten(1)
        return (changed - self.values[node].index_select(0, held)).flatten(1)

    def _golden_part(self, node: Node, dim: int, index: Tensor, held: Tensor) -> Tensor:
        first, count = int(index[0]), len(index)  # channels are consecutive
        return self.values[node].narrow(dim, first, count).index_select(0, held)

    def _context(self, held: Tensor) -> Context:
        return Context(
            golden=lambda node: self.values[node].index_select(self.graph.batch[node], held),
            golden_part=lambda node, dim, index: self._golden_part(node, dim, index, held),
            constant=self.constant,
            shape=self.engine.shapes.__getitem__,
        )

    def _carry(self, seeded: Node, part: Part, held: Tensor) -> _Outcome:
        """Carry changed channels of pairs on to the scores; drop pairs whose class is proved to stay."""
        engine, graph = self.engine, self.graph
        tail = engine.tail(seeded)
        pairs = len(held)
        alive = torch.arange(pairs)
        reach = torch.full((pairs,), torch.nan)
        values: dict[Node, Any] = {seeded: part}
        grown = torch.zeros(pairs)
        context = self._context(held)
        for node, cut, frees in zip(tail.nodes, tail.cuts, tail.frees, strict=True):
            if engine.certifies and cut is not None and node.target in _PRODUCTS and node is not graph.output:
                taken = self._reach(cut, values[cut], held)
                kept = ~(taken < 1)
                if (dropped := len(kept) - int(kept.sum())) and dropped * 8 >= len(kept):
                    reach[alive[~kept]] = 1 - taken[~kept]
                    alive, held, grown = alive[kept], held[kept], grown[kept]
                    values[cut] = _selected(values[cut], kept, graph.batch[cut])
                    context = self._context(held)
                    if not len(alive):
                        break
            if node.target in _PRODUCTS:
                for source in node.all_input_nodes:
                    if source in values:
                        grown = torch.maximum(grown, self._growth(source, values[source], held))
            values[node] = self._next(node, values, context, held)
            for gone in frees:
                del values[gone]
        if not len(alive):
            return _Outcome(reach, None, alive, torch.zeros(0, dtype=torch.bool))
        scores = self._dense(graph.output, values[graph.output], held)
        allowed = engine.allowed * grown.clamp_min(1.0)
        golden = self._golden_at(held)
        unsure = self._near(scores, golden, allowed) | ~(grown < _HUGE) | ~scores.flatten(1).isfinite().all(1)
        if not self.is_rows and engine.certifies:
            reach[alive] = self._distance(scores, golden, held, allowed)
        return _Outcome(reach, self._judged(scores, held), alive, unsure)

    def _distance(self, scores: Tensor, golden: Golden, held: Tensor, allowed: Tensor) -> Tensor:
        """How much of the golden margins may still be taken before the class changes once more, as a share."""
        behind = scores.gather(1, golden.classes[:, None]) - scores
        behind.scatter_(1, golden.classes[:, None], torch.inf)
        margins = self.margins[held]
        mine = golden.classes[:, None]
        stays = ((behind - allowed[:, None]) / margins).scatter_(1, mine, torch.inf).amin(1)
        fails = ((-behind - allowed[:, None]) / margins).scatter_(1, mine, -torch.inf).amax(1)
        if "top5" in self.engine.criteria:  # another class is not yet four others
            fails = torch.full_like(fails, -torch.inf)
        return torch.maximum(stays, fails) - 1e-3 * (1 + stays.abs())

    def _growth(self, node: Node, value: Any, held: Tensor) -> Tensor:
        """How many times larger a pair's tensor has become, by its largest magnitude."""
        new, dim = (value.new, 0) if isinstance(value, Part) else (value, self.graph.batch[node])
        return _largest(new, dim) / self.magnitude(node)[held]

    def _near(self, scores: Tensor, golden: Golden, allowed: Tensor) -> Tensor:
        """Whether rounding may decide a criterion for a pair."""
        rows, limits = scores.flatten(0, -2), self.engine.limits
        margin = allowed if self.each == 1 else allowed.repeat_interleave(self.each)
        found = torch.zeros(len(rows), dtype=torch.bool)
        mine = rows.gather(1, golden.classes[:, None])
        if {"top1", "label", "top5"} & set(self.engine.criteria):
            others = rows.scatter(1, golden.classes[:, None], -torch.inf)
            found |= (mine[:, 0] - others.amax(1)).abs() <= margin
            if "top5" in self.engine.criteria and rows.shape[1] > 5:
                found |= (mine[:, 0] - others.topk(5, dim=1).values[:, 4]).abs() <= margin
        if "output" in self.engine.criteria:
            off = (rows - golden.scores).abs().amax(1)
            found |= (off - limits.output).abs() <= margin
        if "loss" in self.engine.criteria:
            assert golden.labels is not None
            before = torch.nn.functional.cross_entropy(golden.scores, golden.labels, reduction="none")
            after = torch.nn.functional.cross_entropy(rows, golden.labels, reduction="none")
            found |= ~((after - before - limits.loss).abs() > 2 * margin)
        return found.view(-1, self.each).any(1)

    def _dense(self, node: Node, value: Any, held: Tensor) -> Any:
        """Give the whole tensor of pairs."""
        if not isinstance(value, Part):
            return value
        whole = self.values[node].index_select(0, held)
        whole.narrow(value.dim, int(value.channels[0]), len(value.channels)).copy_(value.new)
        return whole

    def _next(self, node: Node, values: dict[Node, Any], context: Context, held: Tensor) -> Any:
        """Compute an operator's changed value, by its rule if it has one that applies."""
        rule = RULES.get(node.target)
        result = NotImplemented if rule is None else rule(node, values, context)
        return self._computed(node, values, held) if result is NotImplemented else result

    def _computed(self, node: Node, values: dict[Node, Any], held: Tensor) -> Any:
        """Carry an operator out in whole on the pairs."""

        def of(one: Node) -> Any:
            if one in values:
                return self._dense(one, values[one], held)
            if one in self.graph.constants:
                return self.graph.constants[one]
            if one in self.graph.batch:
                return self.values[one].index_select(self.graph.batch[one], held)
            if one.target is aten.sym_size.int:
                of_node, dim = arguments(one)
                return len(held) if self.graph.batch.get(of_node) == dim else self.value(one)
            return self.value(one)

        return run_node(node, of)


def _rounds(changes: Tensor) -> list[Tensor]:
    """Deal changes into two rounds: one of each group of similar ones, then the others, which it may decide."""
    sizes = changes.tolist()
    first: list[int] = []
    second: list[int] = []
    for place in sorted(range(len(sizes)), key=lambda place: -abs(sizes[place])):
        change = sizes[place]
        near = any(abs(change - sizes[one]) <= 0.3 * abs(sizes[one]) for one in first)
        (second if near else first).append(place)
    return [torch.tensor(chosen) for chosen in (first, second) if chosen]


def _distinct(numbers: Tensor) -> list[int]:
    found: list[int] = torch.unique(numbers).tolist()
    return found


def _largest(tensor: Tensor, dim: int) -> Tensor:
    moved = tensor if dim == 0 else tensor.transpose(0, dim)
    flat = moved.flatten(1)
    return torch.maximum(flat.amax(1), -flat.amin(1))  # a norm takes ten times as long


def _selected(value: Any, kept: Tensor, dim: int) -> Any:
    if isinstance(value, Part):
        return value._replace(new=value.new[kept])
    return value.index_select(dim, kept.nonzero().flatten())
