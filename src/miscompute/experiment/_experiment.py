"""An experiment: golden, faulty and swizzled runs in a run directory."""

import dataclasses
import json
import multiprocessing
import os
import platform
import queue
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .._invalid import InvalidInput, difference
from .._workers import end_with_parent, sigint_blocked
from ..fault import Fault, Intermittent, Memory, Transient
from ..hardware import Array, Layer, swizzle_named
from ..injection import inject, trace
from ..outcome import CONFIDENCE, METRICS, TAIL, Classified, Outcome, Trajectory, classify, judge
from ..tasks import DATA_SETS, MODEL_FORMAT, DataSet, Recipe, build_model, check_fits, load_data, states_kept
from ._execute import execute, replacing
from ._run import Run
from ._scalars import check_tensorboard


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Golden runs of several seeds, the faulty run, and a run with the same fault for each swizzle.

    The faulty run has the recipe's seed, the golden runs that seed and those after it.
    """

    recipe: Recipe
    array: Array
    fault: Fault
    golden_seeds: int = 5
    swizzles: tuple[str, ...] = ("step",)

    def __post_init__(self) -> None:
        if self.golden_seeds < 2:
            raise InvalidInput(f"golden_seeds={self.golden_seeds} must be at least 2: one run has no spread")
        self.fault.check(self.array, MODEL_FORMAT)  # says so if a bit is outside
        timing, steps = self.fault.timing, self.recipe.steps
        for name, first in (
            ("step", timing.step if isinstance(timing, Transient) else 0),
            ("start", timing.start if isinstance(timing, Intermittent) else 0),
        ):
            if first >= steps:
                raise InvalidInput(
                    f"{name}={first} of {type(timing).__name__} is after the training, which has steps 0..{steps - 1}"
                )
        for swizzle in self.swizzles:
            swizzle_named(swizzle)
        if len(set(self.swizzles)) < len(self.swizzles):
            raise InvalidInput(f"swizzles={self.swizzles} must differ; name each once")

    def check_names(self) -> None:
        """Raise `InvalidInput` unless there is the layer, parameter, buffer or state that the fault names."""
        check_is_there(self.fault, self.recipe, self.array)

    def runs(self) -> tuple[Run, ...]:
        """Give the runs, by names that are their folders' too."""
        seeds = range(self.recipe.seed, self.recipe.seed + self.golden_seeds)
        golden = [Run(name=f"golden-{seed}", recipe=replace(self.recipe, seed=seed)) for seed in seeds]
        faulty = [Run(name="faulty", recipe=self.recipe, array=self.array, fault=self.fault)]
        swizzled = [
            Run(
                name=f"swizzled-{swizzle.replace(':', '-')}",
                recipe=self.recipe,
                array=replace(self.array, swizzle=swizzle_named(swizzle)),
                fault=self.fault,
            )
            for swizzle in self.swizzles
        ]
        return (golden[0], *faulty, *swizzled, *golden[1:])


def check_is_there(fault: Fault, recipe: Recipe, array: Array) -> None:
    """Raise `InvalidInput` unless a training has the layer, parameter, buffer or state that a fault names."""
    if recipe.data not in DATA_SETS:
        return  # `load_data` says so
    source = DATA_SETS[recipe.data]
    model = build_model(recipe.model, **source.sizes, width=recipe.width)
    check_layers(fault, trace(model, source.zeros(1)))
    inject(model, fault, array=array)  # looks a memory's tensor up; nothing is injected
    site = fault.site
    if not (isinstance(site, Memory) and site.store == "optimizer"):
        return  # to ask an optimizer what it keeps loads PyTorch's compiler, which takes seconds
    states = states_kept(recipe)
    if site.state not in states:
        known = f"choose one of {', '.join(states)}" if states else "it keeps none without a momentum"
        raise InvalidInput(
            f"state={site.state!r} of optimizer-memory is none that optimizer={recipe.optimizer!r} keeps; {known}"
        )


def check_layers(fault: Fault, layers: Sequence[Layer]) -> None:
    """Raise `InvalidInput` unless the layers that a fault names are among a model's.

    Of a fault in stored parameters, gradients, optimizer's state or statistics, the layer in its timing is the stored
    tensor's name.
    """
    site, timing = fault.site, fault.timing
    names = [layer.name for layer in layers]
    if isinstance(site, Memory) and site.store == "activation":
        _check_layer("name", site.name, f"{site.store}-memory", names)
    if isinstance(timing, Transient) and timing.layer is not None:
        is_stored = isinstance(site, Memory) and site.store != "activation"
        _check_layer("layer", timing.layer, "Transient", [site.name] if is_stored else names)  # type: ignore[attr-defined]


def _check_layer(field: str, name: str, of: str, names: Sequence[str]) -> None:
    if name not in names:
        raise InvalidInput(
            f"{field}={name!r} of {of} is no layer that the fault can be in; choose one of {', '.join(names)}"
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """An experiment's trajectories and outcomes, by the name of the run."""

    experiment: Experiment
    trajectories: dict[str, Trajectory]
    outcomes: dict[str, Outcome]

    def classified(self, run: str) -> Classified:
        """Say which class of `miscompute.outcome.OUTCOMES` the outcome of a run with the fault is, and why."""
        names = [run.name for run in self.experiment.runs() if run.fault is None]
        return classify(self.trajectories[run], [self.trajectories[name] for name in names])


def train(
    experiment: Experiment,
    out: Path,
    *,
    resume: bool = False,
    data_folder: Path | None = None,
    workers: int | None = None,
    tensorboard: bool = False,
    quiet: bool = False,
) -> Result:
    """Carry an experiment out and judge it.

    Each run is a process with one thread. The run directory holds ``experiment.json`` (what was asked, and on what
    machine), a folder for each run with its curves and checkpoint, and ``outcome.json`` (the rule, and what it says of
    each run with the fault). Interrupted by Ctrl-C, the runs write a checkpoint and end; with ``resume`` they continue
    to the bits they would have reached.

    Args:
        experiment: what to run.
        out: the run directory.
        resume: continue what is in the directory; without it, a directory with runs in it is refused.
        data_folder: where the data set is, if not in the usual places.
        workers: how many runs at once; None: one a processor.
        tensorboard: write each evaluation as scalars too, into the directory's ``tensorboard``, a folder a run.
        quiet: no progress bars, and where there is no terminal to draw them on, no line for each run that ends.

    Raises:
        InvalidInput: if the fault names what the model has not, the directory cannot be used or holds another
            experiment, the data set cannot be had, or a golden run crashed.
        KeyboardInterrupt: after Ctrl-C, once all runs have written their checkpoints.
    """
    if workers is not None and workers < 1:
        raise InvalidInput(f"workers={workers} must be at least 1")
    if tensorboard:
        check_tensorboard()
    experiment.check_names()
    _check_directory(experiment, out, resume=resume)
    # Downloads once, and says what is wrong before any run.
    check_fits(experiment.recipe, load_data(experiment.recipe.data, folder=data_folder))
    _record(experiment, out)
    runs = experiment.runs()
    trajectories = _execute_all(
        runs, out, data_folder, workers or os.cpu_count() or 1, tensorboard=tensorboard, quiet=quiet
    )
    golden = [_fault_free(run, trajectories[run.name], out) for run in runs if run.fault is None]
    outcomes = {run.name: judge(trajectories[run.name], golden) for run in runs if run.fault is not None}
    result = Result(experiment=experiment, trajectories=trajectories, outcomes=outcomes)
    with replacing(out / "outcome.json") as path:
        path.write_text(json.dumps({"rule": _rule(len(golden)), "outcomes": _plain(result)}, indent=1))
    return result


def _fault_free(run: Run, trajectory: Trajectory, out: Path) -> Trajectory:
    if trajectory.crash is not None:
        raise InvalidInput(
            f"run {run.name!r} has no fault and crashed in step {trajectory.crash.step} ({trajectory.crash.tensor}): "
            f"there is nothing to judge the fault by; choose a lower --lr or another --seed (curves: {out / run.name})"
        )
    return trajectory


def _rule(golden: int) -> dict[str, Any]:
    return {
        "metrics": METRICS,
        "confidence": CONFIDENCE,
        "tail": TAIL,
        "golden_runs": golden,
        "miscompute": version("miscompute"),
    }


def _plain(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, outcome in result.outcomes.items():
        classified = result.classified(name)
        found[name] = {
            **dataclasses.asdict(outcome),
            "visible_in_training": outcome.visible_in_training,
            "resolved": outcome.resolved,
            "class": classified.name,
            "reason": classified.reason,
        }
    return found


def identity_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Give what decides the results of runs, by their names."""
    return {run.name: {**run.identity(), "threads": 1} for run in runs}


@contextmanager
def usable(out: Path) -> Iterator[None]:
    """Make a run directory; inside, what the system refuses becomes one line that names it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InvalidInput(f"out={str(out)!r} cannot be used ({error.strerror}); name another") from error


def _check_directory(experiment: Experiment, out: Path, *, resume: bool) -> None:
    path = out / "experiment.json"
    with usable(out):
        held_text = path.read_bytes() if path.exists() else None
    if held_text is None:
        return
    if not resume:
        raise InvalidInput(f"out={str(out)!r} already holds an experiment; add --resume or name another")
    try:
        held = dict(json.loads(held_text)["runs"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"run file {str(path)!r} is damaged; name another --out") from error
    found = difference(held, json.loads(json.dumps(identity_of(experiment.runs()))))
    if found:
        raise InvalidInput(
            f"out={str(out)!r} holds an experiment with other settings: {found}; name another, or repeat them"
        )


def _record(experiment: Experiment, out: Path) -> None:
    path = out / "experiment.json"
    if not path.exists():
        record = {"command": sys.argv, "runs": identity_of(experiment.runs()), "environment": environment()}
        with replacing(path) as partial:
            partial.write_text(json.dumps(record, indent=1))


def environment() -> dict[str, Any]:
    """Say with what software, on what machine, results are made."""
    packages = ("miscompute", "torch", "numpy", "scipy", "scikit-learn")
    return {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        **{package: version(package) for package in packages},
    }


def _execute_all(
    runs: Sequence[Run],
    out: Path,
    data_folder: Path | None,
    workers: int,
    *,
    tensorboard: bool = False,
    quiet: bool,
) -> dict[str, Trajectory]:
    boards = out / "tensorboard" if tensorboard else None
    context = multiprocessing.get_context("spawn")
    messages, stop = context.Queue(), context.Event()
    columns = (
        TextColumn("{task.description:16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    console = Console(stderr=True)
    with (
        Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress,
        ProcessPoolExecutor(
            min(workers, len(runs)), context, initializer=_start_worker, initargs=(messages, stop)
        ) as pool,
    ):
        bars = {run.name: progress.add_task(run.name, total=run.recipe.steps, start=False) for run in runs}
        with sigint_blocked():
            waiting = {
                pool.submit(_work, run, out / run.name, data_folder, boards and boards / run.name): run for run in runs
            }
        try:
            return _collect(waiting, messages, progress, bars, says_ends=not quiet and not console.is_terminal)
        except KeyboardInterrupt:
            stop.set()
            progress.console.print("interrupted: writing checkpoints; continue with --resume")
            raise
        except BaseException:
            stop.set()
            raise
        finally:
            for future in waiting:
                future.cancel()


def _collect(
    waiting: dict[Future[Trajectory], Run],
    messages: Any,
    progress: Progress,
    bars: dict[str, Any],
    *,
    says_ends: bool,
) -> dict[str, Trajectory]:
    trajectories: dict[str, Trajectory] = {}
    while len(trajectories) < len(waiting):
        with suppress(queue.Empty):
            name, step = messages.get(timeout=0.2)
            progress.start_task(bars[name])
            progress.update(bars[name], completed=step)
        for future, run in waiting.items():
            if future.done() and run.name not in trajectories:
                try:
                    trajectories[run.name] = future.result()
                except BrokenProcessPool as error:
                    raise InvalidInput(
                        "a worker was killed, perhaps for want of memory; continue with --resume and fewer --workers"
                    ) from error
                if says_ends:
                    print(
                        _end(run, trajectories[run.name], len(trajectories), len(waiting)), file=sys.stderr, flush=True
                    )
    return {run.name: trajectories[run.name] for run in waiting.values()}


def _end(run: Run, trajectory: Trajectory, done: int, runs: int) -> str:
    """Say in one line how a run ended."""
    if trajectory.crash is not None:
        how = f"crash at step {trajectory.crash.step}"
    else:
        last = trajectory.points[-1]
        how = f"step {last.step}, validation {100 * last.healthy_accuracy:.1f} % on the healthy machine"
    return f"{done} of {runs} runs: {run.name}, {how}"


_messages: Any = None
_stop: Any = None


def _start_worker(messages: Any, stop: Any) -> None:
    global _messages, _stop
    _messages, _stop = messages, stop
    end_with_parent()
    torch.set_num_threads(1)


_data = cache(load_data)  # a worker carries out several runs


def _work(run: Run, folder: Path, data_folder: Path | None, tensorboard: Path | None) -> Trajectory:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parent has loaded it too, and said what there is to say
        data: DataSet = _data(run.recipe.data, folder=data_folder)
    every = max(1, run.recipe.steps // 500)

    def report(step: int) -> None:
        if step % every == 0 or step == run.recipe.steps:
            _messages.put((run.name, step))

    return execute(run, data, folder, report=report, stop=_stop.is_set, tensorboard=tensorboard)
