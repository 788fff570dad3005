"""A hardware fault."""

from dataclasses import dataclass

from .._invalid import InvalidInput
from ..formats import Format
from ..hardware import Array
from ._effect import Effect
from ._exposure import Exposure, MemoryExposure, SumExposure
from ._site import Site
from ._timing import PERMANENT, CycleBursts, Timing


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

    def check(self, array: Array, format: Format | None = None) -> None:
        """Raise `InvalidInput` unless the site is on the array and the effect fits the words there.

        Args:
            array: the array.
            format: the model's number format, which operands have if the array does not say another. None: unknown, and
                bits are not checked.
        """
        self.site.check_array(array)
        exposure = self.site.exposure(rows=array.rows, cols=array.cols)
        if isinstance(self.timing, CycleBursts) and not isinstance(exposure, Exposure | SumExposure):
            raise InvalidInput(
                f"timing '{self.timing}' of {self.site}: memory and elements are in no cycle of an array; use bursts, "
                "which are of steps"
            )
        # Memory holds the model's own words, whatever the array rounds operands to.
        known = format if isinstance(exposure, MemoryExposure) else array.format or format
        if known is not None:
            self.site.check(self.effect, array, known)

    def __str__(self) -> str:
        timing = "" if self.timing == PERMANENT else f" {self.timing}"
        return f"{self.site} {self.effect}{timing}"
