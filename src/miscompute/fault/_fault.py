"""A hardware fault."""

from dataclasses import dataclass

from ._effect import Effect
from ._site import Site
from ._timing import PERMANENT, Timing


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A defect or disturbance in hardware: at a site, with an effect, at some time.

    >>> from miscompute.fault import StuckAt, WeightRegister
    >>> str(Fault(site=WeightRegister(row=0, col=0), effect=StuckAt(bit=28, value=0)))
    'weight[0,0] bit 28 stuck-at 0'
    """

    site: Site
    effect: Effect
    timing: Timing = PERMANENT

    def __str__(self) -> str:
        timing = "" if self.timing == PERMANENT else f" {self.timing}"
        return f"{self.site} {self.effect}{timing}"
