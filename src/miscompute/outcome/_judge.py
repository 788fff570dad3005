"""The rule that decides an outcome."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from scipy import special

from .._invalid import InvalidInput
from ._trajectory import Crash, Trajectory

METRICS = ("faulty_accuracy", "healthy_accuracy")
"""What decides, each at a run's end: validation on the faulty machine and on a healthy one."""

TRAINING_METRIC = "train_accuracy"
"""What whoever trains looks at, at the run's end. It decides nothing: it says whether training would have shown it."""

CONFIDENCE = 0.99
"""How sure it must be, for each metric, that a fault-free run would have ended higher."""

TAIL = 0.2
"""The part of the evaluations, the last ones, that are averaged into where a run ended."""

_FINE = 0.03  # a judge that resolves smaller losses need not say which


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

    @property
    def resolved(self) -> float:
        """The smallest loss of accuracy, from the golden mean, that would have been noticed."""
        return self.golden - self.limit


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a fault did to a training.

    ``kind`` is ``nothing``, ``crash`` (the loss, a gradient or an updated parameter was INF or NaN; activations are not
    watched) or ``silent corruption`` (the training went on, and the model is worse). ``activated``: whether the fault
    changed any value in training. ``verdicts``: of `METRICS`, which decide; ``training``: of training accuracy, which
    does not. A crash has neither.
    """

    kind: Literal["nothing", "crash", "silent corruption"]
    activated: bool
    verdicts: tuple[Verdict, ...] = ()
    training: Verdict | None = None
    crash: Crash | None = None

    @property
    def visible_in_training(self) -> bool:
        """Whether training itself would have shown it: by a crash, or by training accuracy below its limit."""
        return self.crash is not None or (self.training is not None and self.training.is_below)

    @property
    def resolved(self) -> float | None:
        """The smallest loss of validation accuracy that both metrics notice; None for a crash."""
        return max((verdict.resolved for verdict in self.verdicts), default=None)

    def __str__(self) -> str:
        if self.crash:
            return f"crash at step {self.crash.step}: {self.crash.tensor}"
        if self.kind != "nothing":
            return self.kind
        if not self.activated:
            return "nothing (not activated)"
        if self.resolved is not None and self.resolved > _FINE:
            return f"nothing (losses below {100 * self.resolved:.1f} points are not resolved)"
        return "nothing"


def judge(run: Trajectory, golden: Sequence[Trajectory]) -> Outcome:
    """Decide what a faulty run meant, against golden runs that differ in their seeds only.

    A run is a crash if its loss, a gradient or a parameter was INF or NaN. Otherwise it is judged by two metrics,
    validation accuracy on the faulty and on a healthy machine, each averaged over the last fifth of the evaluations.
    The limit of a metric is the one-sided 99 % prediction limit of the golden runs,
    ``mean - t(0.99, n - 1) * s * sqrt(1 + 1 / n)``, and a run below either limit is silent corruption. One fault-free
    run in a hundred ends below one limit, so at most two in a hundred are called corrupt.

    ``s`` is the golden runs' standard deviation, but at least the binomial one, ``sqrt(p * (1 - p) / m)`` with
    ``p = (mean * m + 1) / (m + 2)`` for ``m`` labels, so that golden runs that happen to agree, at 100 % even, do not
    make a strict judge. The golden runs' own accuracy stands for both machines. Training accuracy gets a verdict in the
    same way, over the labels it was measured on where the run says how many; it decides nothing.

    Raises:
        InvalidInput: with fewer than two golden runs, which have no spread (a crash needs none), or with one that
            crashed, which says nothing of a fault.
    """
    for place, one in enumerate(golden):
        if one.crash is not None:
            raise InvalidInput(
                f"golden[{place}] has no fault and crashed in step {one.crash.step} ({one.crash.tensor}); judge by "
                "runs that train, with a lower learning rate say"
            )
    activated = run.changed is None or run.changed > 0
    if run.crash is not None:
        return Outcome(kind="crash", activated=activated, crash=run.crash)
    if len(golden) < 2:
        raise InvalidInput(f"golden={len(golden)} runs have no spread to judge by; run at least 2 seeds")
    verdicts = tuple(_verdict(metric, run, golden, labels=run.validation_images) for metric in METRICS)
    return Outcome(
        kind="silent corruption" if any(verdict.is_below for verdict in verdicts) else "nothing",
        activated=activated,
        verdicts=verdicts,
        training=_verdict(TRAINING_METRIC, run, golden, labels=run.training_labels or run.validation_images),
    )


def end_of(run: Trajectory, metric: str) -> float:
    """Give where a run ended, as the judge sees it: the mean of a metric over the last fifth of the evaluations.

    Raises:
        InvalidInput: if the run has no evaluations.
    """
    if not run.points:
        raise InvalidInput("run: it has no evaluations, and so no end")
    tail = run.points[-max(1, round(TAIL * len(run.points))) :]
    return float(sum(getattr(point, metric) for point in tail) / len(tail))


def prediction_limit(values: Sequence[float], *, labels: int, confidence: float = CONFIDENCE) -> float:
    """Give the least accuracy that passes for one more of the golden runs' (the rule of `judge`).

    Args:
        values: what each of the golden runs, two at least, had.
        labels: how many images, or tokens, an accuracy was measured on.
        confidence: how sure it must be that a fault-free run would have been higher.
    """
    n, mean = len(values), sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    smoothed = (mean * labels + 1) / (labels + 2)
    sigma = math.sqrt(max(variance, smoothed * (1 - smoothed) / labels))
    return mean - _quantile(confidence, n - 1) * sigma * math.sqrt(1 + 1 / n)


@cache
def _quantile(confidence: float, degrees: int) -> float:
    return float(special.stdtrit(degrees, confidence))


def _verdict(metric: str, run: Trajectory, golden: Sequence[Trajectory], *, labels: int) -> Verdict:
    ends = [end_of(trajectory, metric) for trajectory in golden]
    limit = prediction_limit(ends, labels=labels)
    return Verdict(metric=metric, value=end_of(run, metric), golden=sum(ends) / len(ends), limit=limit)
