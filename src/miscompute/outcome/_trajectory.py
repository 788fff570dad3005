"""What is recorded of a run: its evaluations, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Point:
    """One evaluation, after ``step`` optimizer steps. Accuracies are 0..1.

    ``train_accuracy`` and ``train_loss`` are means over the training batches since the last evaluation, as the training
    machine saw them. ``faulty_accuracy`` is on the validation images on the machine that trains; ``healthy_accuracy``
    is of the same model on a healthy machine. A fault that comes and goes (any timing but permanent) belongs to steps
    of the training, not to an evaluation between them: its faulty machine is evaluated while the fault is absent, and
    the two are equal.
    """

    step: int
    train_loss: float
    train_accuracy: float
    faulty_accuracy: float
    healthy_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Crash:
    """The first INF or NaN: in the step that follows ``step`` completed ones, in ``tensor``.

    Loss, gradients and updated parameters are watched in every step. Once one of the first two is INF or NaN the step
    is repeated with all outputs and their gradients watched, and ``tensor`` is the first of all of them.
    """

    step: int
    tensor: str


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A run from its first step to its end, or as far as it is.

    ``changed`` counts the values that the fault changed in training, evaluations left out; None for a golden run.
    ``validation_images`` is how many images, or tokens, each validation accuracy was measured on, ``training_labels``
    on how many each training accuracy was, None if that is not known. ``activated_at`` is the first step in which the
    fault changed a value, None if it changed none so far. ``rejoined``: after so many steps the whole training state
    was found equal, bit for bit, to the fault-free run's of the same seed, and the fault was over, so the rest of the
    run is that run's; None if not, or if nobody looked.
    """

    points: tuple[Point, ...]
    validation_images: int
    training_labels: int | None = None
    changed: int | None = None
    crash: Crash | None = None
    activated_at: int | None = None
    rejoined: int | None = None


def trajectory_of(words: Mapping[str, Any]) -> Trajectory:
    """Give back the trajectory that `dataclasses.asdict` took apart."""
    points = tuple(Point(**point) for point in words["points"])
    crash = Crash(**words["crash"]) if words["crash"] else None
    return Trajectory(**{**words, "points": points, "crash": crash})
