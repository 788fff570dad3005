"""When a fault is active, in optimizer steps."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from .._invalid import InvalidInput
from ..hardware import PASSES, Pass


class Timing(ABC):
    """When a fault is active. Steps count completed optimizer steps, from 0."""

    @abstractmethod
    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Say whether the fault is there in this pass of this layer at this step."""

    @abstractmethod
    def __str__(self) -> str: ...


@final
@dataclass(frozen=True, kw_only=True)
class Permanent(Timing):
    """For ever."""

    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Hold always."""
        return True

    def __str__(self) -> str:
        return "permanent"


PERMANENT = Permanent()
"""The fault is there for ever; the one `Permanent` value anyone needs."""


@final
@dataclass(frozen=True, kw_only=True)
class Transient(Timing):
    """During one optimizer step, optionally in one pass and in one layer only.

    A weight gradient of step 7 is computed while 7 steps are completed: ``step=7``.

    >>> str(Transient(step=7, pass_="grad_input", layer="features.0"))
    'transient step 7 pass grad_input layer features.0'
    """

    step: int
    pass_: Pass | None = None
    layer: str | None = None

    def __post_init__(self) -> None:
        if self.step < 0:
            raise InvalidInput(f"step={self.step} of Transient must not be negative; the first step is 0")
        if self.pass_ is not None and self.pass_ not in PASSES:
            raise InvalidInput(f"pass_={self.pass_!r} of Transient is unknown; choose one of {', '.join(PASSES)}")
        if self.layer is not None and self.layer.split() != [self.layer]:
            raise InvalidInput(f"layer={self.layer!r} of Transient must be a name without blanks")

    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Hold at that step, in that pass and layer if given."""
        return step == self.step and self.pass_ in (None, pass_) and self.layer in (None, layer)

    def __str__(self) -> str:
        pass_ = f" pass {self.pass_}" if self.pass_ else ""
        layer = f" layer {self.layer}" if self.layer else ""
        return f"transient step {self.step}{pass_}{layer}"


@final
@dataclass(frozen=True, kw_only=True)
class Intermittent(Timing):
    """On for ``on`` steps, off for ``off`` steps, and so on from step ``start``; off before it.

    >>> [Intermittent(on=1, off=2, start=1).active(step=s, pass_="forward", layer="fc") for s in range(5)]
    [False, True, False, False, True]
    """

    on: int
    off: int
    start: int = 0

    def __post_init__(self) -> None:
        if self.on < 1 or self.off < 1 or self.start < 0:
            raise InvalidInput(
                f"Intermittent needs on >= 1, off >= 1 and start >= 0 steps, not on={self.on}, off={self.off}, "
                f"start={self.start}"
            )

    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Hold in the first ``on`` steps of each cycle."""
        return step >= self.start and (step - self.start) % (self.on + self.off) < self.on

    def __str__(self) -> str:
        return f"intermittent on {self.on} off {self.off}" + (f" start {self.start}" if self.start else "")


TIMINGS: Mapping[str, type[Timing]] = MappingProxyType(
    {"permanent": Permanent, "transient": Transient, "intermittent": Intermittent}
)
"""Every timing, by its word in fault strings; the words after it are the names of its fields, each with a value."""
