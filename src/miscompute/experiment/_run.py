"""One run: what is trained, on which machine, with which fault."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from ..fault import Fault
from ..hardware import Array
from ..tasks import Recipe
from ._fleet import Fleet


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training on one machine, or on a fleet of them one of which has the fault: healthy where ``fault`` is None."""

    name: str
    recipe: Recipe
    array: Array | None = None
    fault: Fault | None = None
    fleet: Fleet | None = None

    def __post_init__(self) -> None:
        if self.fleet is not None:
            self.fleet.check_fits(self.recipe)

    def identity(self) -> dict[str, Any]:
        """Everything that decides the run's result, as plain values that JSON holds."""
        return {
            "recipe": dataclasses.asdict(self.recipe),
            "array": None if self.array is None or self.fault is None else repr(self.array),
            "fault": None if self.fault is None else str(self.fault),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            **({} if self.fleet is None else {"fleet": self._words(self.fleet)}),
        }

    def _words(self, fleet: Fleet) -> str:
        return f"{fleet.replicas} replicas" + ("" if self.fault is None else f", rank {fleet.faulty} faulty")
