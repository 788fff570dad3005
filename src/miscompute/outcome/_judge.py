"""The rule that decides an outcome."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from .._invalid import InvalidInput
from ._trajectory import Crash, Trajectory

METRICS = ("train_accuracy", "faulty_accuracy", "healthy_accuracy")
"""What a run is judged by, each at its end."""

CONFIDENCE = 0.99
"""How sure it must be, for each metric, that a fault-free run would have ended higher."""

_TAIL = 0.2  # of the evaluations are averaged into where a run ended


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One metric: where the run ended, the mean of the golden runs, and the least that passes for fault-free."""

    metric: str
    value: float
    golden: float
    limit: float

    @property
    def is_below(self) -> bool:
        """Whether the run ended lower than a fault-free run would."""
        return self.value < self.limit


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a fault did to a training.

    ``kind`` is ``nothing``, ``crash`` (the training met INF or NaN) or ``silent corruption`` (it went on, and ended
    worse). ``activated``: whether the fault changed any value at all.
    """

    kind: Literal["nothing", "crash", "silent corruption"]
    activated: bool
    verdicts: tuple[Verdict, ...] = ()
    crash: Crash | None = None

    def __str__(self) -> str:
        if self.crash:
            return f"crash at step {self.crash.step}: {self.crash.tensor}"
        if not self.activated:
            return "nothing (not activated)"
        return self.kind


def judge(run: Trajectory, golden: Sequence[Trajectory]) -> Outcome:
    """Decide what a faulty run meant, against golden runs that differ in their seeds only.

    A run that met INF or NaN is a crash. Otherwise it is judged by three metrics, each averaged over the last fifth of
    the evaluations. The limit of a metric is the one-sided 99 % prediction limit of the golden runs,
    ``mean - t(0.99, n - 1) * s * sqrt(1 + 1 / n)``: one fault-free run in a hundred would end below it.
    ``s`` is the golden runs' standard deviation, but at least the binomial one of the validation images, so that golden
    runs that happen to agree do not make a strict judge. A run below any limit is silent corruption; the golden runs'
    own accuracy stands for both machines.

    Raises:
        InvalidInput: with fewer than two golden runs, which have no spread.
    """
    activated = run.changed is None or run.changed > 0
    if run.crash is not None:
        return Outcome(kind="crash", activated=activated, crash=run.crash)
    if len(golden) < 2:
        raise InvalidInput(f"golden={len(golden)} runs have no spread to judge by; run at least 2 seeds")
    verdicts = tuple(_verdict(metric, run, golden) for metric in METRICS)
    kind: Literal["nothing", "silent corruption"] = (
        "silent corruption" if any(verdict.is_below for verdict in verdicts) else "nothing"
    )
    return Outcome(kind=kind, activated=activated, verdicts=verdicts)


def _verdict(metric: str, run: Trajectory, golden: Sequence[Trajectory]) -> Verdict:
    ends = [_end(trajectory, metric) for trajectory in golden]
    n, mean = len(ends), sum(ends) / len(ends)
    variance = sum((end - mean) ** 2 for end in ends) / (n - 1)
    sigma = math.sqrt(max(variance, mean * (1 - mean) / run.validation_images))
    limit = mean - float(stats.t.ppf(CONFIDENCE, n - 1)) * sigma * math.sqrt(1 + 1 / n)
    return Verdict(metric=metric, value=_end(run, metric), golden=mean, limit=limit)


def _end(trajectory: Trajectory, metric: str) -> float:
    tail = trajectory.points[-max(1, round(_TAIL * len(trajectory.points))) :]
    return float(sum(getattr(point, metric) for point in tail) / len(tail))
