"""A software error."""

from dataclasses import dataclass

from ..fault import Effect, Timing
from ..hardware import Operand, Pass
from ._region import Region


@dataclass(frozen=True, kw_only=True)
class Error:
    """A wrong value in a tensor: in one pass of one layer, elements of an operand are read with some bits changed.

    Args:
        layer: name of the layer.
        pass_: the computation that reads the wrong value. The tensor itself stays as it is for all others.
        operand: the tensor that is misread.
        region: which of its elements (`Layer.dims` of the operand).
        effect: what happens to the bits of each.
        spares_zeros: whether an element that is exactly zero (of either sign) is read right, as the array gates it.
        results: which results of the pass are computed from the misread elements (`Layer.result`); None: all.
        timing: when.
    """

    layer: str
    pass_: Pass
    operand: Operand
    region: Region
    effect: Effect
    spares_zeros: bool
    results: Region | None
    timing: Timing

    def __str__(self) -> str:
        seen = f", seen by {self.results}" if self.results else ""
        zeros = ", zeros spared" if self.spares_zeros else ""
        return f"{self.layer} {self.pass_}: {self.operand}{self.region} {self.effect}{zeros}{seen}, {self.timing}"
