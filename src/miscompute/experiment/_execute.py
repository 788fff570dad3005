"""Carry a run out: a training on one machine, evaluated on that machine and on a healthy one, with checkpoints."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .._invalid import InvalidInput
from ..outcome import Trajectory, trajectory_of
from ..tasks import DataSet, Training
from ._course import Course
from ._run import Run
from ._scalars import scalars


def execute(
    run: Run,
    data: DataSet,
    folder: Path,
    *,
    report: Callable[[int], None] = lambda step: None,  # noqa: ARG005
    stop: Callable[[], bool] = lambda: False,
    tensorboard: Path | None = None,
) -> Trajectory:
    """Carry a run out, or continue it from the checkpoint in its folder, bit for bit.

    A checkpoint is written at each evaluation, and when ``stop`` says so; the trajectory so far is then returned.

    Args:
        run: what to do.
        data: what to train on.
        folder: where ``checkpoint.pt`` and ``trajectory.json`` are kept; made if it is not there.
        report: told of each completed step.
        stop: asked after each step whether to stop for now.
        tensorboard: where each evaluation is written as scalars too; None: nowhere.

    Raises:
        InvalidInput: if the folder holds another run's checkpoint, or a damaged one; if TensorBoard is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    course = Course(run, Training(run.recipe, data))
    load_course(course, folder / "checkpoint.pt")
    with scalars(tensorboard, after=course.training.step) as write, course.on_machine():
        while not course.is_over:
            report(course.training.step)
            if stop():
                break
            if course.advance():
                write(course.training.step, _values(course))
                _save(course, folder)
        _save(course, folder)
    report(course.training.step if course.crash is None else run.recipe.steps)
    return course.trajectory()


def _values(course: Course) -> dict[str, float]:
    """Name what the last evaluation found as TensorBoard groups it."""
    point = course.points[-1]
    values = {
        "training/loss": point.train_loss,
        "training/accuracy": point.train_accuracy,
        "validation/healthy machine": point.healthy_accuracy,
    }
    if course.run.fault is None:
        return values
    return {**values, "validation/faulty machine": point.faulty_accuracy, "fault/values changed": course.changed}


def _save(course: Course, folder: Path) -> None:
    save_course(course, folder / "checkpoint.pt")
    with replacing(folder / "trajectory.json") as path:
        path.write_text(json.dumps(dataclasses.asdict(course.trajectory()), indent=1))


def _identity(course: Course) -> dict[str, Any]:
    """Give what decides a checkpoint; where data were not found and others stood in, their name says so."""
    return {**course.run.identity(), "data": course.training.data.name}


def save_course(course: Course, path: Path, **more: str) -> None:
    """Write how far a run is, and more strings by name, so that `load_course` can go on to the same bits."""
    with replacing(path) as partial:
        torch.save(
            {
                "identity": json.dumps(_identity(course), sort_keys=True),
                "training": course.training.state(),
                "trajectory": json.dumps(dataclasses.asdict(course.trajectory())),
                "steps": [course.losses, course.rights],
                **more,
            },
            partial,
        )


def load_course(course: Course, path: Path) -> dict[str, Any]:
    """Let a run go on from a checkpoint, if there is one; give all that it holds.

    Raises:
        InvalidInput: if the checkpoint is another run's, or damaged.
    """
    if not path.exists():
        return {}
    checkpoint = read_checkpoint(path)
    with _whole(path):
        stored = json.loads(checkpoint["identity"])
        trajectory = trajectory_of(json.loads(checkpoint["trajectory"]))
        losses, rights = checkpoint["steps"]
        state = checkpoint["training"]
    identity = json.loads(json.dumps(_identity(course)))
    if stored != identity:
        field = next(name for name in {**identity, **stored} if stored.get(name) != identity.get(name))
        raise InvalidInput(
            f"run file {str(path)!r} belongs to another run: its {field} is {stored.get(field)!r}, "
            f"not {identity.get(field)!r}; choose another --out"
        )
    course.training.load_state(state)
    course.resume(trajectory, losses=losses, rights=rights)
    return checkpoint


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_course` wrote.

    Raises:
        InvalidInput: if the file is damaged.
    """
    with _whole(path):
        with zipfile.ZipFile(path) as archive:  # PyTorch writes checksums and does not look at them
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
        return checkpoint


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say of a file that it is damaged, whatever that makes the reader inside raise."""
    try:
        yield
    except Exception as error:
        raise InvalidInput(
            f"run file {str(path)!r} is damaged ({type(error).__name__}); remove it to start this run again"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that a kill at any moment leaves the old one or the new one, whole."""
    partial = path.with_name(path.name + ".partial")
    yield partial
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
