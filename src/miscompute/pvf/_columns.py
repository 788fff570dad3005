"""Examples as columns: the golden values that a chain needs, whole and in pieces that fit into the cache."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.fx import Node


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


class Piece(NamedTuple):
    """Some consecutive examples; tensors are (features, examples)."""

    first: int
    results: tuple[Tensor, ...]  # of each product, without a fault
    operands: tuple[Tensor, ...]  # of each product but the first
    magnitudes: tuple[Tensor, ...]  # of each product's operand
    margins: Tensor
    inverse: Tensor
    classes: Tensor
    right: Tensor

    def part(self, first: int, last: int) -> "Piece":
        """Give some of the examples."""

        def of(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(one[..., first:last].contiguous() for one in tensors)

        held = of((self.margins, self.inverse, self.classes, self.right))
        return Piece(first, of(self.results), of(self.operands), of(self.magnitudes), *held)

    def some(self, index: Tensor) -> "Piece":
        """Give some of the examples, that are not next to each other; all that is computed from ``results`` only."""

        def of(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(one.index_select(-1, index) for one in tensors)

        held = of((self.margins, self.inverse, self.classes, self.right))
        return Piece(0, of(self.results[:1]), (), of(self.magnitudes), *held)
