"""A training under way on one machine: step by step, evaluated now and then, watched for INF and NaN."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..fault import PERMANENT, Memory
from ..injection import Injection, inject
from ..outcome import Crash, Point, Trajectory
from ..tasks import Training, accuracy
from ._fleet import fleet_gradients
from ._run import Run

_Gradients = Callable[[], tuple[Tensor, int]]


class Course:
    """A run under way: its training, what has been noted of it, and the machine it is on while `on_machine` is held.

    ``losses`` and ``rights`` are of all steps so far: each step's mean loss, and how many labels it predicted.
    """

    def __init__(self, run: Run, training: Training) -> None:
        self.run = run
        self.training = training
        self.points: list[Point] = []
        self.losses: list[float] = []
        self.rights: list[int] = []
        self.crash: Crash | None = None
        self.activated_at: int | None = None
        site = None if run.fault is None else run.fault.site
        # What else an update corrupts, parameters and statistics, it corrupts for the step that follows.
        self._is_hit_in_update = isinstance(site, Memory) and site.store in ("gradient", "optimizer")
        self._changed = 0  # on the machines before this one, less what training did not meet
        self._injection: Injection | None = None
        self._gradients: _Gradients = self._gradients_on(None)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: all steps are made, or the run crashed."""
        return self.crash is not None or self.training.step >= self.run.recipe.steps

    @contextmanager
    def on_machine(self) -> Iterator[None]:
        """Be on the run's machine inside, faulty where the run has a fault; outside, the machine is healthy."""
        if self.run.fault is None:
            yield
            return
        assert self.run.array is not None
        with inject(self.training.model, self.run.fault, array=self.run.array, step=self.training.step) as injection:
            self._injection, self._gradients = injection, self._gradients_on(injection)
            try:
                yield
            finally:
                self._changed += injection.log.changed
                self._injection, self._gradients = None, self._gradients_on(None)

    def _gradients_on(self, injection: Injection | None) -> _Gradients:
        if self.run.fleet is None:
            return self.training.gradients
        return partial(fleet_gradients, self.training, self.run.fleet, injection)

    @property
    def changed(self) -> int:
        """How many values the fault has changed in training."""
        return self._changed + (self._injection.log.changed if self._injection else 0)

    def advance(self) -> bool:
        """Make one step; return whether an evaluation followed it."""
        training, step = self.training, self.training.step
        loss, right = self._gradients()
        self._note_activation(step)
        found = [p.grad for p in training.model.parameters() if p.grad is not None]
        if not torch.isfinite(loss) or not _finite(found):
            self._crash_in_gradients()
            return False
        training.update()
        if self._is_hit_in_update:
            self._note_activation(step)
        self.losses.append(float(loss))
        self.rights.append(right)
        if not _finite(list(training.model.parameters())):
            self.crash = Crash(step=step, tensor=_nonfinite_parameter(training.model))
            return False
        if not self.evaluates_at(training.step):
            return False
        self._evaluate()
        return True

    def evaluates_at(self, step: int) -> bool:
        """Say whether an evaluation follows the step that completes so many."""
        return step % self.run.recipe.evaluate_every == 0 or step == self.run.recipe.steps

    def _note_activation(self, step: int) -> None:
        if self.activated_at is None and self._injection is not None and self.changed:
            self.activated_at = step

    def _evaluate(self) -> None:
        training, injection = self.training, self._injection
        with self._uncounted():
            with injection.paused() if injection else nullcontext():
                healthy = accuracy(training.model, training.data)
            faulty = healthy
            # The others are absent between steps.
            if self.run.fault is not None and self.run.fault.timing == PERMANENT:
                faulty = accuracy(training.model, training.data)
        self.note_point(faulty=faulty, healthy=healthy)

    def note_point(self, *, faulty: float, healthy: float) -> None:
        """Note an evaluation after the steps of which losses are noted."""
        labels = self.run.recipe.batch_size * self.training.data.labels_per_example
        since = self.points[-1].step if self.points else 0
        losses, rights = self.losses[since:], self.rights[since:]
        self.points.append(
            Point(
                step=len(self.losses),
                train_loss=sum(losses) / len(losses),
                train_accuracy=sum(rights) / len(rights) / labels,
                faulty_accuracy=faulty,
                healthy_accuracy=healthy,
            )
        )

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        """Leave out of `changed` what the fault changes inside: training did not meet it."""
        before = self.changed
        yield
        self._changed -= self.changed - before

    def _crash_in_gradients(self) -> None:
        """Repeat the step to name the first tensor that is not finite."""
        with self._uncounted():
            tensor = _first_nonfinite(self.training.model, self._gradients)
        self.crash = Crash(step=self.training.step, tensor=tensor)

    def trajectory(self) -> Trajectory:
        """Give what is known of the run so far."""
        recipe, data = self.run.recipe, self.training.data
        return Trajectory(
            points=tuple(self.points),
            validation_images=data.validation_labels.numel(),
            training_labels=min(recipe.evaluate_every, recipe.steps) * recipe.batch_size * data.labels_per_example,
            changed=None if self.run.fault is None else self.changed,
            crash=self.crash,
            activated_at=self.activated_at,
        )

    def resume(self, trajectory: Trajectory, *, losses: list[float], rights: list[int]) -> None:
        """Go on from where a run was, whose training's state is loaded already."""
        self.points = list(trajectory.points)
        self.losses, self.rights = list(losses), list(rights)
        self.crash = trajectory.crash
        self.activated_at = trajectory.activated_at
        self._changed = trajectory.changed or 0


def _finite(tensors: list[Tensor]) -> bool:
    # Sums are soonest computed, and not finite where an addend is not; where all are finite, a sum may still overflow.
    sums = torch.stack([tensor.detach().sum() for tensor in tensors])
    return bool(torch.isfinite(sums).all()) or all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


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
