"""When a fault is active, in optimizer steps."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ..hardware import PASSES, Pass


class Timing(ABC):
    """When a fault is active. Steps count completed optimizer steps, from 0."""

    redraws: ClassVar[bool] = False  # whether what is hit of a pass changes from step to step

    @abstractmethod
    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Say whether the fault is there in this pass of this layer at this step."""

    def may_act(self, *, step: int) -> bool:
        """Say whether the fault may be there in any pass of any layer at this step; False is certain.

        What shares a fault-free run asks this: a False for a step in which the fault acts would lose it, a True for
        one in which it does not costs time only. A timing that can tell says it exactly.
        """
        return True

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


_DRAWS = int.from_bytes(b"when")


def _generator(seed: int, *key: int) -> np.random.Generator:
    """Draw apart from effects: with the same seed, being hit must not tell which word comes out."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_DRAWS, *key)))


PERMANENT = Permanent()
"""The fault is there for ever; the one `Permanent` value anyone needs."""


@final
@dataclass(frozen=True, kw_only=True)
class Transient(Timing):
    """During one optimizer step, optionally in one pass and in one layer only, and there in one cycle only.

    A weight gradient of step 7 is computed while 7 steps are completed: ``step=7``. Cycles count the atomic operations
    of one execution of the pass, from 0 (`Array.schedule`): at a site inside the array, one cycle touches one product,
    partial sum or result a cell. ``until="reload"`` is the upset of a register, which keeps the wrong word from that
    cycle on until it is loaded anew.

    >>> str(Transient(step=7, pass_="grad_input", layer="features.0", cycle=12))
    'transient step 7 pass grad_input layer features.0 cycle 12'
    """

    step: int
    pass_: Pass | None = None
    layer: str | None = None
    cycle: int | None = None
    until: Literal["cycle", "reload"] = "cycle"

    def __post_init__(self) -> None:
        if self.cycle is not None and (self.pass_ is None or self.layer is None):
            raise InvalidInput(
                f"cycle={self.cycle} of Transient needs a pass and a layer: cycles count within one pass"
            )
        if self.cycle is not None and self.cycle < 0:
            raise InvalidInput(f"cycle={self.cycle} of Transient must not be negative; the first cycle is 0")
        if self.until not in ("cycle", "reload"):
            raise InvalidInput(f"until={self.until!r} of Transient is unknown; choose one of cycle, reload")
        if self.until == "reload" and self.cycle is None:
            raise InvalidInput("until='reload' of Transient needs the cycle in which the register is upset")
        if self.step < 0:
            raise InvalidInput(f"step={self.step} of Transient must not be negative; the first step is 0")
        if self.pass_ is not None and self.pass_ not in PASSES:
            raise InvalidInput(f"pass_={self.pass_!r} of Transient is unknown; choose one of {', '.join(PASSES)}")
        if self.layer is not None and self.layer.split() != [self.layer]:
            raise InvalidInput(f"layer={self.layer!r} of Transient must be a name without blanks")

    def may_act(self, *, step: int) -> bool:
        """Hold at that step only."""
        return step == self.step

    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Hold at that step, in that pass and layer if given."""
        return step == self.step and self.pass_ in (None, pass_) and self.layer in (None, layer)

    def __str__(self) -> str:
        pass_ = f" pass {self.pass_}" if self.pass_ else ""
        layer = f" layer {self.layer}" if self.layer else ""
        cycle = f" cycle {self.cycle}" if self.cycle is not None else ""
        until = " until reload" if self.until == "reload" else ""
        return f"transient step {self.step}{pass_}{layer}{cycle}{until}"


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

    def may_act(self, *, step: int) -> bool:
        """Hold in the first ``on`` steps of each cycle."""
        return step >= self.start and (step - self.start) % (self.on + self.off) < self.on

    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Hold in the first ``on`` steps of each cycle, in all that they compute."""
        return self.may_act(step=step)

    def __str__(self) -> str:
        return f"intermittent on {self.on} off {self.off}" + (f" start {self.start}" if self.start else "")


@final
@dataclass(frozen=True, kw_only=True)
class Bursts(Timing):
    """A two-state intermittent fault: present for ``mean_on`` steps on average, absent for ``mean_off``, and so on.

    The lengths are geometric: in each step the state changes with probability 1 / mean. It starts absent. Source: the
    two-state (Gilbert) model of intermittent faults.

    >>> burst = Bursts(mean_on=2.0, mean_off=3.0, seed=2)
    >>> [burst.active(step=s, pass_="forward", layer="fc") for s in range(8)]
    [False, False, False, False, True, False, True, True]
    """

    mean_on: float
    mean_off: float
    seed: int

    def __post_init__(self) -> None:
        _check_bursts(self, "steps")

    def may_act(self, *, step: int) -> bool:
        """Hold in the bursts."""
        return _changes_until(self, step) % 2 == 1

    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Hold in the bursts, in all that their steps compute."""
        return self.may_act(step=step)

    def __str__(self) -> str:
        return f"bursts mean_on {float(self.mean_on)!r} mean_off {float(self.mean_off)!r} seed {self.seed}"


def _check_bursts(timing: "Bursts | CycleBursts", unit: str) -> None:
    on, off, seed = timing.mean_on, timing.mean_off, timing.seed
    if not (1 <= on < math.inf and 1 <= off < math.inf) or seed < 0:
        raise InvalidInput(
            f"{type(timing).__name__} needs finite mean_on >= 1 and mean_off >= 1 {unit} and seed >= 0, not "
            f"mean_on={on}, mean_off={off}, seed={seed}"
        )


@lru_cache(maxsize=64)
def _bursts(timing: Bursts) -> tuple[np.random.Generator, list[int]]:
    return _generator(timing.seed), [0]


def _changes_until(timing: Bursts, step: int) -> int:
    """Count the changes of state up to a step; their steps are drawn in order and kept."""
    generator, changes = _bursts(timing)
    while changes[-1] <= step:
        mean = timing.mean_on if len(changes) % 2 == 0 else timing.mean_off
        changes.append(changes[-1] + int(generator.geometric(1 / mean)))
    return bisect_right(changes, step) - 1


@final
@dataclass(frozen=True, kw_only=True)
class CycleBursts(Timing):
    """A two-state intermittent fault by cycles: present for ``mean_on`` cycles on average, absent for ``mean_off``.

    Cycles are those of one execution of a pass, one pass of one layer in one step, as `Transient` counts them. Each is
    drawn by itself: a burst has begun before its first cycle with the probability that one is under way at any time.
    Lengths are geometric, as those of `Bursts`. Only a place in the array is in one cycle or another.

    >>> burst = CycleBursts(mean_on=2.0, mean_off=8.0, seed=1)
    >>> burst.cycles(30, step=0, pass_="forward", layer="fc").tolist()
    [0, 8, 9, 15, 19, 20, 21, 22, 23, 24, 25, 26]
    """

    redraws: ClassVar[bool] = True

    mean_on: float
    mean_off: float
    seed: int

    def __post_init__(self) -> None:
        _check_bursts(self, "cycles")

    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Hold always: in some cycles of each pass that has enough of them (`cycles`)."""
        return True

    def cycles(self, total: int, *, step: int, pass_: Pass, layer: str) -> NDArray[np.intp]:
        """Give the cycles of an execution in which the fault is there, of the first ``total``."""
        generator = _generator(self.seed, step, PASSES.index(pass_), *layer.encode())
        is_on = bool(generator.random() < self.mean_on / (self.mean_on + self.mean_off))
        runs, first = [np.empty(0, dtype=np.intp)], 0
        while first < total:
            length = int(generator.geometric(1 / (self.mean_on if is_on else self.mean_off)))
            if is_on:
                runs.append(np.arange(first, min(first + length, total)))
            first, is_on = first + length, not is_on
        return np.concatenate(runs)

    def __str__(self) -> str:
        return f"cycle-bursts mean_on {float(self.mean_on)!r} mean_off {float(self.mean_off)!r} seed {self.seed}"


@final
@dataclass(frozen=True, kw_only=True)
class DutyCycle(Timing):
    """An intermittent fault that is present in a given part of the executions, each drawn by itself.

    An execution is one pass of one layer in one step; ``part`` is the probability that it is hit. Which layers there
    are is the model's affair, so the fault may act in any step (`may_act`).
    """

    part: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.part <= 1 or self.seed < 0:
            raise InvalidInput(f"DutyCycle needs 0 < part <= 1 and seed >= 0, not part={self.part}, seed={self.seed}")

    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Hold in that part of the executions."""
        generator = _generator(self.seed, step, PASSES.index(pass_), *layer.encode())
        return bool(generator.random() < self.part)

    def __str__(self) -> str:
        return f"duty-cycle part {float(self.part)!r} seed {self.seed}"


@final
@dataclass(frozen=True, kw_only=True)
class Arrivals(Timing):
    """Transients that arrive at random, at a rate: each step is hit with probability 1 - exp(-faults_per_step).

    `miscompute.analysis` converts FIT and device-hours to faults a step.
    """

    faults_per_step: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.faults_per_step < math.inf or self.seed < 0:
            raise InvalidInput(
                f"Arrivals needs finite faults_per_step > 0 and seed >= 0, not faults_per_step={self.faults_per_step}, "
                f"seed={self.seed}"
            )

    def may_act(self, *, step: int) -> bool:
        """Hold in the steps that are hit."""
        return bool(_generator(self.seed, step).random() < -math.expm1(-self.faults_per_step))

    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Hold in the steps that are hit, in all that they compute."""
        return self.may_act(step=step)

    def __str__(self) -> str:
        return f"arrivals faults_per_step {float(self.faults_per_step)!r} seed {self.seed}"


TIMINGS: Mapping[str, type[Timing]] = MappingProxyType(
    {
        "permanent": Permanent,
        "transient": Transient,
        "intermittent": Intermittent,
        "bursts": Bursts,
        "cycle-bursts": CycleBursts,
        "duty-cycle": DutyCycle,
        "arrivals": Arrivals,
    }
)
"""Every timing, by its word in fault strings; the words after it are the names of its fields, each with a value."""
