"""One run: a training on one machine, evaluated on that machine and on a healthy one."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._invalid import InvalidInput
from ..fault import PERMANENT, Fault
from ..hardware import Array
from ..injection import Injection, inject
from ..outcome import Crash, Point, Trajectory
from ..tasks import DataSet, Recipe, Training, accuracy
from ._fleet import Fleet, fleet_gradients

_Gradients = Callable[[], tuple[Tensor, int]]


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


def execute(
    run: Run,
    data: DataSet,
    folder: Path,
    *,
    report: Callable[[int], None] = lambda step: None,  # noqa: ARG005
    stop: Callable[[], bool] = lambda: False,
) -> Trajectory:
    """Carry a run out, or continue it from the checkpoint in its folder, bit for bit.

    A checkpoint is written at each evaluation, and when ``stop`` says so; the trajectory so far is then returned.

    Args:
        run: what to do.
        data: what to train on.
        folder: where ``checkpoint.pt`` and ``trajectory.json`` are kept; made if it is not there.
        report: told of each completed step.
        stop: asked after each step whether to stop for now.

    Raises:
        InvalidInput: if the folder holds another run's checkpoint, or a damaged one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    progress = _Progress(run, Training(run.recipe, data), folder)
    progress.load()
    training = progress.training
    with _machine(run, training) as injection:
        gradients = _gradients_of(run, training, injection)
        while training.step < run.recipe.steps and progress.crash is None:
            report(training.step)
            if stop():
                break
            loss, right = gradients()
            # The largest magnitude, since a norm of large but finite values may itself overflow.
            found = [p.grad for p in training.model.parameters() if p.grad is not None]
            if not torch.isfinite(loss) or not _finite(found):
                progress.crash_in_gradients(injection, gradients)
                break
            training.update()
            progress.note(loss, right)
            if not _finite(list(training.model.parameters())):
                tensor = _nonfinite_parameter(training.model)
                progress.crash = Crash(step=training.step - 1, tensor=tensor)
                break
            if training.step % run.recipe.evaluate_every == 0 or training.step == run.recipe.steps:
                progress.evaluate(injection)
                progress.save(injection)
        progress.save(injection)
    report(training.step if progress.crash is None else run.recipe.steps)
    return progress.trajectory(injection)


def _machine(run: Run, training: Training) -> AbstractContextManager[Injection | None]:
    if run.fault is None:
        return nullcontext()
    assert run.array is not None
    return inject(training.model, run.fault, array=run.array, step=training.step)


def _gradients_of(run: Run, training: Training, injection: Injection | None) -> _Gradients:
    if run.fleet is None:
        return training.gradients
    return partial(fleet_gradients, training, run.fleet, injection)


class _Progress:
    """How far a run is: what a checkpoint holds."""

    def __init__(self, run: Run, training: Training, folder: Path) -> None:
        self.training = training
        self.crash: Crash | None = None
        self._run = run
        self._folder = folder
        self._points: list[Point] = []
        self._changed = 0  # before this process
        self._loss = self._right = self._steps = 0.0  # since the last evaluation

    def note(self, loss: Tensor, right: int) -> None:
        self._loss += float(loss)
        self._right += right
        self._steps += 1

    def evaluate(self, injection: Injection | None) -> None:
        training = self.training
        labels = training.recipe.batch_size * training.data.labels_per_example
        before = injection.log.changed if injection else 0
        with injection.paused() if injection else nullcontext():
            healthy = accuracy(training.model, training.data)
        faulty = healthy
        if self._run.fault is not None and self._run.fault.timing == PERMANENT:  # the others are absent between steps
            faulty = accuracy(training.model, training.data)
        self._changed -= injection.log.changed - before if injection else 0  # what training did not meet
        self._points.append(
            Point(
                step=training.step,
                train_loss=self._loss / self._steps,
                train_accuracy=self._right / self._steps / labels,
                faulty_accuracy=faulty,
                healthy_accuracy=healthy,
            )
        )
        self._loss = self._right = self._steps = 0.0

    def crash_in_gradients(self, injection: Injection | None, gradients: _Gradients) -> None:
        """Repeat the step to name the first tensor that is not finite; what the fault changes now is not counted."""
        before = injection.log.changed if injection else 0
        self.crash = Crash(step=self.training.step, tensor=_first_nonfinite(self.training.model, gradients))
        self._changed -= injection.log.changed - before if injection else 0

    def trajectory(self, injection: Injection | None) -> Trajectory:
        recipe = self.training.recipe
        return Trajectory(
            points=tuple(self._points),
            validation_images=self.training.data.validation_labels.numel(),
            training_labels=min(recipe.evaluate_every, recipe.steps)
            * recipe.batch_size
            * self.training.data.labels_per_example,
            changed=None if injection is None else self._changed + injection.log.changed,
            crash=self.crash,
        )

    def _identity(self) -> dict[str, Any]:
        """Give what decides the checkpoint; where data were not found and others stood in, their name says so."""
        return {**self._run.identity(), "data": self.training.data.name}

    def save(self, injection: Injection | None) -> None:
        trajectory = dataclasses.asdict(self.trajectory(injection))
        with replacing(self._folder / "checkpoint.pt") as path:
            torch.save(
                {
                    "identity": json.dumps(self._identity(), sort_keys=True),
                    "training": self.training.state(),
                    "trajectory": json.dumps(trajectory),
                    "since": [self._loss, self._right, self._steps],
                },
                path,
            )
        with replacing(self._folder / "trajectory.json") as path:
            path.write_text(json.dumps(trajectory, indent=1))

    def load(self) -> None:
        path = self._folder / "checkpoint.pt"
        if not path.exists():
            return
        try:
            with zipfile.ZipFile(path) as archive:  # PyTorch writes checksums and does not look at them
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile
            checkpoint = torch.load(path, weights_only=True)
            stored = json.loads(checkpoint["identity"])
            trajectory = json.loads(checkpoint["trajectory"])
            self._loss, self._right, self._steps = checkpoint["since"]
            state = checkpoint["training"]
        except Exception as error:  # whatever a damaged file makes the reader raise
            raise InvalidInput(
                f"run file {str(path)!r} is damaged ({type(error).__name__}); remove it to start this run again"
            ) from error
        identity = json.loads(json.dumps(self._identity()))
        if stored != identity:
            field = next(name for name in {**identity, **stored} if stored.get(name) != identity.get(name))
            raise InvalidInput(
                f"run file {str(path)!r} belongs to another run: its {field} is {stored.get(field)!r}, "
                f"not {identity.get(field)!r}; choose another --out"
            )
        self.training.load_state(state)
        self._points = [Point(**point) for point in trajectory["points"]]
        self._changed = trajectory["changed"] or 0
        self.crash = Crash(**trajectory["crash"]) if trajectory["crash"] else None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that a kill at any moment leaves the old one or the new one, whole."""
    partial = path.with_name(path.name + ".partial")
    yield partial
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _finite(tensors: list[Tensor]) -> bool:
    return bool(torch.isfinite(nn.utils.get_total_norm(tensors, norm_type=torch.inf)))


def _nonfinite_parameter(model: nn.Module) -> str:
    return next(
        f"parameter {name} after the update"
        for name, parameter in model.named_parameters()
        if not bool(torch.isfinite(parameter).all())
    )


def _first_nonfinite(model: nn.Module, gradients: _Gradients) -> str:
    """Repeat the current step and name the first tensor, in the order of computation, that is not finite."""
    found: list[str] = []

    def look(tensor: object, name: str) -> None:
        if not found and isinstance(tensor, Tensor) and not bool(torch.isfinite(tensor).all()):
            found.append(name)

    def watch(module: nn.Module, name: str) -> Any:
        def output(_: nn.Module, __: object, result: object) -> None:
            look(result, f"output of {name}")
            if isinstance(result, Tensor) and result.requires_grad:
                result.register_hook(  # type: ignore[no-untyped-call]
                    lambda gradient: look(gradient, f"gradient of the output of {name}")
                )

        return module.register_forward_hook(output)

    def watch_gradient(parameter: nn.Parameter, name: str) -> Any:
        return parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            lambda p: look(p.grad, f"gradient of {name}")
        )

    handles = [watch(module, name) for name, module in model.named_modules() if name]
    handles += [watch_gradient(parameter, name) for name, parameter in model.named_parameters()]
    try:
        loss, _ = gradients()
    finally:
        for handle in handles:
            handle.remove()
    look(loss, "loss")
    for name, parameter in model.named_parameters():
        look(parameter.grad, f"gradient of {name}")  # a fleet's mean
    return found[0]
