"""Software errors: wrong values in tensors, and in what is between tensors."""

from dataclasses import dataclass
from typing import Literal

from ..fault import Effect, Store, Timing
from ..hardware import Operand, Pass, Stage
from ._region import Range, Region


@dataclass(frozen=True, kw_only=True)
class Error:
    """A wrong value in a tensor: in one pass of one layer, elements of an operand are read with some bits changed.

    Args:
        layer: name of the layer.
        pass_: the computation that reads the wrong value. The tensor itself stays as it is for all others.
        operand: the tensor that is misread; ``result``: what the pass computes comes out wrong.
        region: which of its elements (`Layer.dims` of the operand), or ``element``, counted in the order of memory.
        effect: what happens to the bits of each.
        spares_zeros: whether an element that is exactly zero (of either sign) is read right, as the array gates it.
        results: which results of the pass are computed from the misread elements (`Layer.result`); None: all.
        timing: when.
    """

    layer: str
    pass_: Pass
    operand: Operand | Literal["result"]
    region: Region
    effect: Effect
    spares_zeros: bool
    results: Region | None
    timing: Timing

    def __str__(self) -> str:
        seen = f", seen by {self.results}" if self.results else ""
        zeros = ", zeros spared" if self.spares_zeros else ""
        return f"{self.layer} {self.pass_}: {self.operand}{self.region} {self.effect}{zeros}{seen}, {self.timing}"


@dataclass(frozen=True, kw_only=True)
class SumError:
    """A wrong word on the way to a result: in one pass of one layer, while certain results are summed up.

    A result is the sum of atomic operations, one a block of channels and kernel position, in this order; each adds up
    the products of the block's channels on the array's lanes (docs/architecture.md, "Sums").

    Args:
        layer: name of the layer.
        pass_: the computation.
        stage: what is wrong.
        results: which results are summed up there (`Layer.result`).
        rows: the lanes whose products meet in a ``product`` or ``node``; None: all.
        lanes: the lane of each channel of a block.
        operations: in which atomic operations of a result, a range or one after another; None: in all. The ``output``
            has none.
        effect: what happens to the word.
        timing: when.
    """

    layer: str
    pass_: Pass
    stage: Stage
    results: Region
    rows: range | None
    lanes: tuple[int, ...]
    operations: Range | tuple[int, ...] | None
    effect: Effect
    timing: Timing

    def __str__(self) -> str:
        rows = f" of lanes {self.rows.start}..{self.rows.stop - 1}" if self.rows else ""
        some = ",".join(map(str, self.operations)) if isinstance(self.operations, tuple) else self.operations
        when = f" in operations {some}" if self.operations else ""
        stage = self.stage.replace("_", " ")
        return f"{self.layer} {self.pass_}: {stage}{rows} of {self.results}{when} {self.effect}, {self.timing}"


@dataclass(frozen=True, kw_only=True)
class StoredError:
    """A wrong word in memory: elements of a stored tensor, in the order of memory.

    Args:
        store: what the tensor is (`Memory`).
        name: of the parameter or buffer.
        state: which of the optimizer's states; empty for the other stores.
        elements: which elements.
        effect: what happens to the bits of each.
        timing: when; a transient at the beginning of its step.
    """

    store: Store
    name: str
    state: str
    elements: Range
    effect: Effect
    timing: Timing

    def __str__(self) -> str:
        state = f" {self.state}" if self.state else ""
        return f"{self.store} {self.name}{state}[element {self.elements}] {self.effect}, {self.timing}"


AnyError = Error | SumError | StoredError
"""What a fault can be lowered to."""
