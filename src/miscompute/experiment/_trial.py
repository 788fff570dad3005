"""A trial: one faulty run that shares with its fault-free twin all that is the same in both.

Before a fault acts, a faulty run is the golden run, and where its whole training state comes back to the golden run's
bits after that, it is the golden run again. A `GoldenRun` keeps what is needed to use both: its state now and then, and
a digest of its state after every step.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from .._invalid import InvalidInput
from ..fault import Fault, Memory
from ..outcome import Trajectory
from ..tasks import DataSet, Training
from ._course import Course
from ._execute import load_course, read_checkpoint, save_course
from ._run import Run

SNAPSHOT_BYTES = 1 << 30
"""How much a golden run's snapshots may take on disk, all together; they are spread evenly over its steps."""

_LOOKS = 3  # in so many steps after a fault is over a trial's state is compared with the golden one, then less often


@dataclass(frozen=True, kw_only=True)
class GoldenRun:
    """A fault-free run, recorded so that faulty runs of the same recipe can share it.

    ``digests[s]`` is of the whole training state (parameters, buffers, the optimizer's state) after ``s`` steps;
    ``losses[s]`` and ``rights[s]`` are of step ``s``; ``snapshots`` are files, by the steps after which they were made.
    """

    run: Run
    trajectory: Trajectory
    digests: tuple[str, ...]
    losses: tuple[float, ...]
    rights: tuple[int, ...]
    snapshots: dict[int, Path]


def record_golden(
    run: Run,
    data: DataSet,
    folder: Path,
    *,
    snapshot_bytes: int = SNAPSHOT_BYTES,
    report: Callable[[int], None] = lambda step: None,  # noqa: ARG005
) -> GoldenRun:
    """Carry a fault-free run out and keep it in a folder; go on from what the folder holds of it, all of it maybe.

    Args:
        run: without a fault.
        data: what to train on.
        folder: where ``after-N-steps.pt`` are kept; made if it is not there.
        snapshot_bytes: what they may take together; there are two at least, of the beginning and of the end.
        report: told of each completed step.

    Raises:
        InvalidInput: if the run has a fault or crashes, or the folder holds another run's or damaged files.
    """
    if run.fault is not None:
        raise InvalidInput(f"run={run.name!r} has the fault {str(run.fault)!r}; a golden run has none")
    folder.mkdir(parents=True, exist_ok=True)
    course = Course(run, Training(run.recipe, data))
    digests = _go_on(course, folder) or [_digest(course.training)]
    every = _snapshot_steps(course.training, run.recipe.steps, snapshot_bytes)
    while not course.is_over:
        step = course.training.step
        report(step)
        if step % every == 0:
            save_course(course, _snapshot(folder, step), digests=json.dumps(digests))
        course.advance()
        digests.append(_digest(course.training))
    if course.crash is not None:
        raise InvalidInput(
            f"run {run.name!r} has no fault and crashed in step {course.crash.step} ({course.crash.tensor}): there is "
            "nothing to judge faults by; choose a lower lr or another seed"
        )
    if not _snapshot(folder, course.training.step).exists():
        save_course(course, _snapshot(folder, course.training.step), digests=json.dumps(digests))
    report(course.training.step)
    return GoldenRun(
        run=run,
        trajectory=course.trajectory(),
        digests=tuple(digests),
        losses=tuple(course.losses),
        rights=tuple(course.rights),
        snapshots=dict(sorted(_snapshots(folder))),
    )


def _snapshot(folder: Path, steps: int) -> Path:
    return folder / f"after-{steps}-steps.pt"


def _snapshots(folder: Path) -> Iterator[tuple[int, Path]]:
    return ((int(path.stem.split("-")[1]), path) for path in folder.glob("after-*-steps.pt"))


def _go_on(course: Course, folder: Path) -> list[str]:
    """Load the last snapshot, if there is one, and give the digests so far."""
    last = max(_snapshots(folder), default=None)
    if last is None:
        return []
    digests: list[str] = json.loads(load_course(course, last[1])["digests"])
    _check(course, digests, last[1])
    return digests


def _check(course: Course, digests: list[str] | tuple[str, ...], path: Path) -> None:
    if digests[course.training.step] != _digest(course.training):
        raise InvalidInput(f"run file {str(path)!r} does not hold the state it should; remove it to start again")


def run_trial(run: Run, data: DataSet, golden: GoldenRun, *, shortcuts: bool = True) -> Trajectory:
    """Carry a faulty run out, from its first step to its end, and say how it went.

    With ``shortcuts`` it starts from the last snapshot before the fault can act, and once the fault is over and the
    training state equals the golden run's, the rest is the golden run's. The trajectory is the same without, bit for
    bit; it only takes longer.

    Args:
        run: with a fault; its recipe is the golden run's.
        data: what to train on.
        golden: the fault-free run to share.
        shortcuts: whether to share it.

    Raises:
        InvalidInput: if the recipe is another, or a snapshot is damaged.
    """
    if run.fault is None or run.array is None:
        raise InvalidInput(f"run={run.name!r} has no fault; a trial has one")
    if (run.recipe, run.fleet) != (golden.run.recipe, golden.run.fleet):
        raise InvalidInput(f"run={run.name!r} has another recipe than the golden run {golden.run.name!r}")
    begin, end = _span(run.fault, run.recipe.steps)
    course = Course(run, Training(run.recipe, data))
    if shortcuts:
        _start(course, golden, before=begin)
    while course.training.step < begin:
        course.advance()
    if begin < end:
        with course.on_machine():
            while not course.is_over and course.training.step < end:
                course.advance()
    rejoined: int | None = None
    while course.crash is None:
        step = course.training.step
        if rejoined is None and (step - end < _LOOKS or course.evaluates_at(step)):
            rejoined = step if _digest(course.training) == golden.digests[step] else None
            if rejoined is not None and shortcuts:
                _rejoin(course, golden)
                break
        if course.is_over:
            break
        course.advance()
    return replace(course.trajectory(), rejoined=rejoined)


def _span(fault: Fault, steps: int) -> tuple[int, int]:
    """Give the steps, from one up to another, in which a fault's machine differs from a healthy one; maybe none.

    What is stored for a step is corrupted when the step before it ends: at the end of the training, for a step that is
    not made.
    """
    lead = isinstance(fault.site, Memory) and fault.site.store in ("weight", "statistics")
    acting = [step for step in range(steps + lead) if fault.timing.may_act(step=step)]
    if not acting:
        return steps, steps
    return max(0, acting[0] - lead), acting[-1] + 1


def _start(course: Course, golden: GoldenRun, *, before: int) -> None:
    """Load the last snapshot that is not after a step."""
    at = max(takewhile(lambda steps: steps <= before, golden.snapshots))
    course.training.load_state(read_checkpoint(golden.snapshots[at])["training"])
    _check(course, golden.digests, golden.snapshots[at])
    points = tuple(point for point in golden.trajectory.points if point.step <= at)
    so_far = replace(course.trajectory(), points=points)
    course.resume(so_far, losses=list(golden.losses[:at]), rights=list(golden.rights[:at]))


def _rejoin(course: Course, golden: GoldenRun) -> None:
    """Let the rest of a run be the golden run's."""
    done = len(course.losses)
    for loss, right in zip(golden.losses[done:], golden.rights[done:], strict=True):
        course.losses.append(loss)
        course.rights.append(right)
        if course.evaluates_at(len(course.losses)):
            point = next(point for point in golden.trajectory.points if point.step == len(course.losses))
            course.note_point(faulty=point.faulty_accuracy, healthy=point.healthy_accuracy)


def _snapshot_steps(training: Training, steps: int, most_bytes: int) -> int:
    """Say every how many steps a snapshot is made, so that all fit: an optimizer keeps two words of each parameter."""
    size: int = 3 * sum(tensor.nbytes for tensor in training.model.state_dict().values())
    return max(1, -(-steps * size // max(1, most_bytes)))


def _digest(training: Training) -> str:
    """Digest all that a training carries from step to step."""
    digest = blake2b(digest_size=16)
    for value in _leaves(training.state()):
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def _leaves(value: object) -> Iterator[object]:
    """Give what is not a container, in order."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
