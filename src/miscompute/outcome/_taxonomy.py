"""The names of outcomes: one table from a name to its rule, for trainings and for single inferences."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ._judge import CONFIDENCE, METRICS, TRAINING_METRIC, Outcome, Verdict, judge, prediction_limit
from ._trajectory import Crash, Point, Trajectory

Family: TypeAlias = Literal["nothing", "crash", "silent corruption"]

SHORT_TERM = 2
"""So many steps after the fault first changed a value an INF or NaN still counts as short-term."""

SHARP = 3.0
"""A fall is sharp if it is more than so many times the loss that the golden runs' spread lets pass."""

TOLERANCE = 0.1
"""By how much the probability of an inference's decision may move before its confidence has changed."""

_CURVES = (TRAINING_METRIC, *METRICS)
_WORDS = {
    "train_accuracy": "training accuracy",
    "faulty_accuracy": "accuracy on the faulty machine",
    "healthy_accuracy": "accuracy on a healthy machine",
}


@dataclass(frozen=True, kw_only=True)
class Classified:
    """The name of an outcome, a key of `OUTCOMES`, with its family and, in a sentence, why."""

    name: str
    family: Family
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.family}): {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the rules look at: the run, its judged outcome, and where its curves left the golden runs'.

    ``excursions`` are the evaluations after the fault first changed a value at which a curve was below its limit, with
    the step of each. The limit is `prediction_limit` at that evaluation. Its confidence is raised so that all
    evaluations of the three curves together alarm for one fault-free run in a hundred at most: ``0.99`` becomes
    ``1 - 0.01 / (3 * evaluations)``.

    ``first`` is training accuracy at the first evaluation that averages over no step from before the fault, which would
    make a sharp fall look slow. Its limit is the plain one, since it is one evaluation, chosen beforehand. None if the
    run ended before.
    """

    run: Trajectory
    outcome: Outcome
    excursions: tuple[tuple[int, Verdict], ...] = ()
    first: Verdict | None = None

    @property
    def below(self) -> tuple[Verdict, ...]:
        """The verdicts at the end that decide, of those metrics that are below their limits."""
        return tuple(verdict for verdict in self.outcome.verdicts if verdict.is_below)

    @property
    def trained_badly(self) -> bool:
        """Whether training accuracy was below its limit at the end, or at any evaluation after the fault."""
        ended_low = self.outcome.training is not None and self.outcome.training.is_below
        return ended_low or any(verdict.metric == TRAINING_METRIC for _, verdict in self.excursions)

    @property
    def is_sharp(self) -> bool:
        """Whether training accuracy had fallen by more than `SHARP` times what passes, at ``first``."""
        return self.first is not None and _loss(self.first) > SHARP * self.first.resolved

    @property
    def is_slow(self) -> bool:
        """Whether training accuracy lost more after ``first``, until the end, than what passes there."""
        end = self.outcome.training
        return self.first is not None and end is not None and _loss(end) - _loss(self.first) > end.resolved


@dataclass(frozen=True, kw_only=True)
class OutcomeRule:
    """A class of outcomes. ``rule`` says when it holds; ``reason`` decides it, and is None where it does not hold."""

    family: Family
    rule: str
    reason: Callable[[Evidence], str | None]


def _loss(verdict: Verdict) -> float:
    return verdict.golden - verdict.value


def _said(verdict: Verdict) -> str:
    return f"{_WORDS[verdict.metric]} is {100 * verdict.value:.1f} % (limit {100 * verdict.limit:.1f} %)"


def _steps_to_crash(evidence: Evidence) -> int | None:
    """Count the steps from the one in which the fault first changed a value to the crash; None if not known."""
    crash, acted = evidence.run.crash, evidence.run.activated_at
    return None if crash is None or acted is None else crash.step - acted


def _immediate(evidence: Evidence) -> str | None:
    crash = evidence.run.crash
    if crash is None or _steps_to_crash(evidence) != 0:
        return None
    return f"{crash.tensor} was INF or NaN in step {crash.step}, the one in which the fault first changed a value"


def _short_term(evidence: Evidence) -> str | None:
    crash, steps = evidence.run.crash, _steps_to_crash(evidence)
    if crash is None or steps is None or not 0 < steps <= SHORT_TERM:
        return None
    return f"{crash.tensor} was INF or NaN in step {crash.step}, {_steps(steps)} after the fault first changed a value"


def _late(evidence: Evidence) -> str | None:
    crash, steps = evidence.run.crash, _steps_to_crash(evidence)
    if crash is None or (steps is not None and steps <= SHORT_TERM):
        return None
    when = (
        "and when the fault first changed a value is not known"
        if steps is None
        else f"{_steps(steps)} after the fault first changed a value"
    )
    return f"{crash.tensor} was INF or NaN in step {crash.step}, {when}"


def _steps(steps: int) -> str:
    return f"{steps} step{'s' if steps > 1 else ''}"


def _adapted(evidence: Evidence) -> str | None:
    if [verdict.metric for verdict in evidence.below] != ["healthy_accuracy"]:
        return None
    faulty, healthy = evidence.outcome.verdicts
    return f"{_said(healthy)} at the end, while {_said(faulty)}"


def _low_test_accuracy(evidence: Evidence) -> str | None:
    """Our formalisation of ISCA 2023's *LowTestAccuracy*, which we know from memory and secondary texts only."""
    if not evidence.below or evidence.trained_badly:
        return None
    return f"{_said(evidence.below[-1])} at the end, while training accuracy was never below"


def _degraded(evidence: Evidence, *, sharp: bool, slow: bool | None, how: str) -> str | None:
    if not evidence.below or (evidence.is_sharp, True if slow is None else evidence.is_slow == slow) != (sharp, True):
        return None
    return f"{_said(evidence.below[-1])} at the end; training accuracy {how}"


def _sharp_slow_degrade(evidence: Evidence) -> str | None:
    """Our formalisation of ISCA 2023's *SharpSlowDegrade*, which we know from memory and secondary texts only."""
    return _degraded(evidence, sharp=True, slow=True, how="fell at once, and went on falling")


def _sharp_degrade(evidence: Evidence) -> str | None:
    """Our formalisation of ISCA 2023's *SharpDegrade*, which we know from memory and secondary texts only."""
    return _degraded(evidence, sharp=True, slow=False, how="fell at once, and fell no further")


def _slow_degrade(evidence: Evidence) -> str | None:
    """Our formalisation of ISCA 2023's *SlowDegrade*: accuracy drops, over several evaluations here, and stays low."""
    return _degraded(evidence, sharp=False, slow=None, how="was below without a sharp fall")


def _not_activated(evidence: Evidence) -> str | None:
    return None if evidence.outcome.activated else "the fault changed no value in training"


def _masked(evidence: Evidence) -> str | None:
    if evidence.run.rejoined is None:
        return None
    return f"after {evidence.run.rejoined} steps the whole training state was the fault-free run's, bit for bit"


def _recovered(evidence: Evidence) -> str | None:
    if not evidence.excursions and not evidence.trained_badly:
        return None
    if not evidence.excursions:
        assert evidence.outcome.training is not None
        return f"{_said(evidence.outcome.training)} at the end, but validation accuracy is not below"
    step, verdict = max(evidence.excursions, key=lambda excursion: _loss(excursion[1]))
    return f"{_said(verdict)} at step {step}, but validation accuracy at the end is not below"


def _within_spread(_: Evidence) -> str | None:
    return "the fault changed values, but no accuracy left the golden runs' spread"


OUTCOMES: Mapping[str, OutcomeRule] = MappingProxyType(
    {
        "immediate INF/NaN": OutcomeRule(
            family="crash",
            rule="loss, a gradient or a parameter is INF or NaN in the step in which the fault first changed a value",
            reason=_immediate,
        ),
        "short-term INF/NaN": OutcomeRule(
            family="crash", rule=f"the same, within {SHORT_TERM} steps after that one", reason=_short_term
        ),
        "late INF/NaN": OutcomeRule(
            family="crash",
            rule="any other INF or NaN: later, or the step in which the fault first changed a value is not known",
            reason=_late,
        ),
        "adapted": OutcomeRule(
            family="silent corruption",
            rule="at the end, accuracy on a healthy machine is below its limit and on the faulty machine it is not",
            reason=_adapted,
        ),
        "LowTestAccuracy": OutcomeRule(
            family="silent corruption",
            rule="validation accuracy ends below its limit; training accuracy does not, and has no excursion",
            reason=_low_test_accuracy,
        ),
        "SharpSlowDegrade": OutcomeRule(
            family="silent corruption",
            rule="validation accuracy ends below its limit; training accuracy fell sharply, by more than "
            f"{SHARP:g} times what passes, and until the end by more than what passes again",
            reason=_sharp_slow_degrade,
        ),
        "SharpDegrade": OutcomeRule(
            family="silent corruption",
            rule="validation accuracy ends below its limit; training accuracy fell sharply, and no further",
            reason=_sharp_degrade,
        ),
        "SlowDegrade": OutcomeRule(
            family="silent corruption",
            rule="validation accuracy ends below its limit; training accuracy was below its own without a sharp fall",
            reason=_slow_degrade,
        ),
        "not activated": OutcomeRule(
            family="nothing", rule="the fault changed no value in training", reason=_not_activated
        ),
        "masked": OutcomeRule(
            family="nothing",
            rule="values changed, and the whole training state was the fault-free run's again, bit for bit",
            reason=_masked,
        ),
        "recovered": OutcomeRule(
            family="nothing",
            rule="a curve has an excursion, or training accuracy ends below its limit; validation accuracy does not",
            reason=_recovered,
        ),
        "within spread": OutcomeRule(
            family="nothing", rule="values changed, and no curve left the golden runs' spread", reason=_within_spread
        ),
    }
)
"""Each class of outcomes with its rule, in order: the first rule of the run's family that holds names it."""

FAMILIES: tuple[Family, ...] = tuple(dict.fromkeys(rule.family for rule in OUTCOMES.values()))
"""What `judge` tells apart, in the order of `OUTCOMES`."""


def classify(run: Trajectory, golden: Sequence[Trajectory]) -> Classified:
    """Name what a faulty run's outcome looked like, within the family that `judge` gives it.

    The rules are those of `OUTCOMES`. The last of each family holds for whatever the ones before it do not, so every
    run has one name. *SlowDegrade*, *SharpDegrade*, *SharpSlowDegrade* and *LowTestAccuracy* are names of He et al.,
    ISCA 2023 (doi 10.1145/3579371.3589105). Their formal rules are ours, with no threshold of the
    paper's; what SlowDegrade is we have from its text, what the others are from memory and secondary texts.

    A run is named by its family first: if the judge, twice in a hundred fault-free runs, calls one corrupt, its name is
    one of silent corruption, even if the fault changed nothing.

    Raises:
        InvalidInput: where `judge` does; if the runs are evaluated at different steps (a crash needs no golden runs);
            or if the run crashed before its fault changed a value.
    """
    outcome = judge(run, golden)
    if run.crash is not None:
        if run.activated_at is not None and run.crash.step < run.activated_at:
            raise InvalidInput(
                f"run: it crashed in step {run.crash.step}, before its fault first changed a value in step "
                f"{run.activated_at}; a fault's crash comes with it or after it, look for another cause"
            )
        evidence = Evidence(run=run, outcome=outcome)
    else:
        evidence = _evidence(run, golden, outcome)
    for name, rule in OUTCOMES.items():
        if rule.family == outcome.kind and (reason := rule.reason(evidence)) is not None:
            return Classified(name=name, family=rule.family, reason=reason)
    raise AssertionError(f"no rule for {outcome}")


def _evidence(run: Trajectory, golden: Sequence[Trajectory], outcome: Outcome) -> Evidence:
    steps = [point.step for point in run.points]
    for place, one in enumerate(golden):
        if [point.step for point in one.points] != steps:
            raise InvalidInput(
                f"golden[{place}] is evaluated {_at(one)}, the run {_at(run)}; evaluate all after the same steps"
            )
    acted = run.activated_at or 0
    after = [place for place, step in enumerate(steps) if step > acted]
    whole = [place for place in after if (steps[place - 1] if place else 0) >= acted]
    confidence = 1 - (1 - CONFIDENCE) / (len(_CURVES) * max(1, len(after)))
    points = [
        (steps[place], _at_point(metric, place, run, golden, confidence)) for metric in _CURVES for place in after
    ]
    return Evidence(
        run=run,
        outcome=outcome,
        excursions=tuple((step, verdict) for step, verdict in points if verdict.is_below),
        first=_at_point(TRAINING_METRIC, whole[0], run, golden, CONFIDENCE) if whole else None,
    )


def _at(run: Trajectory) -> str:
    return f"{len(run.points)} times, last after step {run.points[-1].step}"


def _at_point(metric: str, place: int, run: Trajectory, golden: Sequence[Trajectory], confidence: float) -> Verdict:
    """Judge one evaluation of a curve as `judge` does a run's end."""
    values: list[float] = [getattr(one.points[place], metric) for one in golden]
    labels = (run.training_labels or run.validation_images) if metric == TRAINING_METRIC else run.validation_images
    return Verdict(
        metric=metric,
        value=getattr(run.points[place], metric),
        golden=sum(values) / len(values),
        limit=prediction_limit(values, labels=labels, confidence=confidence),
    )


def examples() -> dict[str, tuple[tuple[Trajectory, ...], Trajectory]]:
    """Give, for each name in `OUTCOMES`, five golden runs and a run of that class: made up, not measured.

    Transient faults act in step 400 of 1,000; that of *adapted* is permanent.
    """
    every, last, acts = 50, 1_000, 400
    steps = range(every, last + 1, every)

    def learnt(step: int, seed: int) -> float:
        return 0.9 - 0.7 * math.exp(-step / 150) + 0.004 * math.sin(step / 70 + 2.1 * seed)

    def trajectory(seed: int, bend: Callable[[int], tuple[float, float, float]] = lambda _: (0, 0, 0)) -> Trajectory:
        """Lower the golden accuracies, training, faulty and healthy, by what ``bend`` says for each step."""
        points = []
        for step in steps:
            train, faulty, healthy = (max(0.1, learnt(step, seed) - lost) for lost in bend(step))
            points.append(
                Point(
                    step=step,
                    train_loss=-math.log(train),
                    train_accuracy=train,
                    faulty_accuracy=faulty,
                    healthy_accuracy=healthy,
                )
            )
        return Trajectory(points=tuple(points), validation_images=1_000, training_labels=1_600)

    def faulty(bend: Callable[[int], float]) -> Trajectory:
        """Lower all three alike, by what ``bend`` says so many steps after the fault."""
        bent = trajectory(5, lambda step: (bend(step - acts),) * 3 if step > acts else (0, 0, 0))
        return replace(bent, changed=1, activated_at=acts)

    def crashed(after: int) -> Trajectory:
        whole = faulty(lambda _: 0.02)
        kept = tuple(point for point in whole.points if point.step <= acts + after)
        return replace(whole, points=kept, crash=Crash(step=acts + after, tensor="loss"))

    golden = tuple(trajectory(seed) for seed in range(5))
    fine = faulty(lambda _: 0.005)
    low_test = replace(
        trajectory(5, lambda step: (0, 0.4, 0.4) if step > acts else (0, 0, 0)), changed=1, activated_at=acts
    )
    adapted = replace(
        trajectory(5, lambda step: (0.01, 0.01, 0.5 * (1 - math.exp(-step / 200)))), changed=9_000, activated_at=0
    )
    runs = {
        "immediate INF/NaN": crashed(0),
        "short-term INF/NaN": crashed(2),
        "late INF/NaN": crashed(250),
        "adapted": adapted,
        "LowTestAccuracy": low_test,
        "SharpSlowDegrade": faulty(lambda since: 0.3 + 0.4 * since / (last - acts)),
        "SharpDegrade": faulty(lambda _: 0.5),
        "SlowDegrade": faulty(lambda since: 0.6 * max(0, since - every) / (last - acts)),
        "not activated": replace(trajectory(3), changed=0),
        "masked": replace(trajectory(3), changed=1, activated_at=acts, rejoined=acts + 1),
        "recovered": faulty(lambda since: 0.7 * math.exp(-since / 70)),
        "within spread": fine,
    }
    return {name: (golden, runs[name]) for name in OUTCOMES}


INFERENCE_OUTCOMES: Mapping[str, str] = MappingProxyType(
    {
        "INF/NaN": "a logit is INF or NaN",
        "masked": "all logits are the fault-free ones, bit for bit",
        "top-5 changed": "the fault-free decision is not among the five largest logits",
        "top-1 changed": "the decision, the first of the largest logits, is another; the old one is among the five",
        "confidence changed": "the decision is kept, and its probability (softmax) moved by more than the tolerance",
        "within tolerance": "logits changed, but neither the decision nor, beyond the tolerance, its probability",
    }
)
"""What a fault did to the classification of an image, in order: the first that holds names it."""


def classify_inference(
    golden: NDArray[np.floating[Any]], faulty: NDArray[np.floating[Any]], *, tolerance: float = TOLERANCE
) -> NDArray[Any]:
    """Name, for each image, what a fault did to its classification: strings of `INFERENCE_OUTCOMES`, (images).

    It is measured by the fault-free decision, right or wrong. To ask for misclassifications, pass the images that the
    fault-free model gets right, ``golden[right]`` and ``faulty[right]``. For counts, ``collections.Counter(names)``.

    >>> golden = np.array([[2.0, 1.0, 0.0]] * 3)
    >>> faulty = np.array([[2.0, 1.0, 0.0], [2.0, 8.0, 0.0], [np.inf, 1.0, 0.0]])
    >>> classify_inference(golden, faulty).tolist()
    ['masked', 'top-1 changed', 'INF/NaN']

    Args:
        golden: logits without the fault, (images, classes).
        faulty: with it, of the same shape and type.
        tolerance: in probability, 0..1.

    Raises:
        InvalidInput: if the shapes or types differ or are no logits, a fault-free logit is INF or NaN, or ``tolerance``
            is outside 0..1.
    """
    if golden.ndim != 2 or 0 in golden.shape or golden.dtype.kind != "f":
        raise InvalidInput(f"golden={golden.dtype} {golden.shape} are no logits; give floats of (images, classes)")
    if (golden.shape, golden.dtype) != (faulty.shape, faulty.dtype):
        raise InvalidInput(
            f"faulty={faulty.dtype} {faulty.shape} is not like golden={golden.dtype} {golden.shape}; "
            "give logits of the same images in the same type"
        )
    if not np.isfinite(golden).all():
        raise InvalidInput("golden: a logit is INF or NaN without any fault; leave such images out")
    if not 0 <= tolerance <= 1:
        raise InvalidInput(f"tolerance={tolerance} is outside 0..1; it is a difference of probabilities")
    finite = np.isfinite(faulty).all(axis=1)
    seen = np.where(finite[:, None], faulty, golden)  # what follows need not meet INF and NaN
    decision = golden.argmax(axis=1)
    of_decision = np.take_along_axis(seen, decision[:, None], axis=1)  # (images, 1)
    moved = abs(_probability(seen, decision) - _probability(golden, decision))
    holds = {
        "INF/NaN": ~finite,
        "masked": (_bytes(golden) == _bytes(faulty)).all(axis=1),
        "top-5 changed": (seen > of_decision).sum(axis=1) >= 5,
        "top-1 changed": seen.argmax(axis=1) != decision,
        "confidence changed": moved > tolerance,
        "within tolerance": np.ones(len(golden), bool),
    }
    names = list(INFERENCE_OUTCOMES)
    found: NDArray[Any] = np.array(names)[np.argmax([holds[name] for name in names], axis=0)]
    return found


def _bytes(logits: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """See the bits, by which 0 and -0 differ: (images, bytes)."""
    return np.ascontiguousarray(logits).view(np.uint8)


def _probability(logits: NDArray[np.floating[Any]], decision: NDArray[np.intp]) -> NDArray[np.float64]:
    """Give the softmax probability of one class an image, (images)."""
    wide = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # the difference of two huge logits, whose exponential is 0 all the same
        powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    probability: NDArray[np.float64] = np.take_along_axis(powers, decision[:, None], axis=1)[:, 0] / powers.sum(axis=1)
    return probability
