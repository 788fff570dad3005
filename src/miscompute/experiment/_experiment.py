"""An experiment: golden, faulty and swizzled runs in a run directory."""

import dataclasses
import json
import multiprocessing
import os
import platform
import queue
import signal
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
from threading import Thread
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .._invalid import InvalidInput
from ..fault import Fault
from ..hardware import Array, swizzle_named
from ..outcome import Outcome, Trajectory, judge
from ..tasks import MODEL_FORMAT, DataSet, Recipe, check_fits, load_data
from ._run import Run, execute, replacing


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
        for swizzle in self.swizzles:
            swizzle_named(swizzle)
        if len(set(self.swizzles)) < len(self.swizzles):
            raise InvalidInput(f"swizzles={self.swizzles} must differ; name each once")

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


@dataclass(frozen=True, kw_only=True)
class Result:
    """An experiment's trajectories and outcomes, by the name of the run."""

    experiment: Experiment
    trajectories: dict[str, Trajectory]
    outcomes: dict[str, Outcome]


def train(
    experiment: Experiment,
    out: Path,
    *,
    resume: bool = False,
    data_folder: Path | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Result:
    """Carry an experiment out and judge it.

    Each run is a process with one thread. The run directory holds ``experiment.json`` (what was asked, and on what
    machine), a folder for each run with its curves and checkpoint, and ``outcome.json``. Interrupted by Ctrl-C, the
    runs write a checkpoint and end; with ``resume`` they continue to the bits they would have reached.

    Args:
        experiment: what to run.
        out: the run directory.
        resume: continue what is in the directory; without it, a directory with runs in it is refused.
        data_folder: where the data set is, if not in the usual places.
        workers: how many runs at once; None: one a processor.
        quiet: no progress bars.

    Raises:
        InvalidInput: if the directory cannot be used, holds another experiment, or the data set cannot be had.
        KeyboardInterrupt: after Ctrl-C, once all runs have written their checkpoints.
    """
    if workers is not None and workers < 1:
        raise InvalidInput(f"workers={workers} must be at least 1")
    _check_directory(experiment, out, resume=resume)
    # Downloads once, and says what is wrong before any run.
    check_fits(experiment.recipe, load_data(experiment.recipe.data, folder=data_folder))
    _record(experiment, out)
    runs = experiment.runs()
    trajectories = _execute_all(runs, out, data_folder, workers or os.cpu_count() or 1, quiet=quiet)
    golden = [trajectories[run.name] for run in runs if run.fault is None]
    outcomes = {run.name: judge(trajectories[run.name], golden) for run in runs if run.fault is not None}
    result = Result(experiment=experiment, trajectories=trajectories, outcomes=outcomes)
    with replacing(out / "outcome.json") as path:
        path.write_text(json.dumps({name: dataclasses.asdict(outcome) for name, outcome in outcomes.items()}, indent=1))
    return result


def _identity(experiment: Experiment) -> dict[str, Any]:
    return {run.name: {**run.identity(), "threads": 1} for run in experiment.runs()}


def _check_directory(experiment: Experiment, out: Path, *, resume: bool) -> None:
    path = out / "experiment.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else None
    except OSError as error:
        raise InvalidInput(f"out={str(out)!r} cannot be used ({error.strerror}); name another") from error
    except UnicodeDecodeError:
        text = ""
    if text is None:
        return
    if not resume:
        raise InvalidInput(f"out={str(out)!r} already holds an experiment; add --resume or name another")
    try:
        held = json.loads(text)["runs"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"run file {str(path)!r} is damaged; name another --out") from error
    if held != json.loads(json.dumps(_identity(experiment))):
        raise InvalidInput(f"out={str(out)!r} holds an experiment with other settings; name another, or repeat them")


def _record(experiment: Experiment, out: Path) -> None:
    path = out / "experiment.json"
    if not path.exists():
        record = {"command": sys.argv, "runs": _identity(experiment), "environment": _environment()}
        with replacing(path) as partial:
            partial.write_text(json.dumps(record, indent=1))


def _environment() -> dict[str, Any]:
    packages = ("miscompute", "torch", "numpy", "scipy", "scikit-learn")
    return {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        **{package: version(package) for package in packages},
    }


def _execute_all(
    runs: Sequence[Run], out: Path, data_folder: Path | None, workers: int, *, quiet: bool
) -> dict[str, Trajectory]:
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
    with (
        Progress(*columns, console=Console(stderr=True), disable=quiet) as progress,
        ProcessPoolExecutor(
            min(workers, len(runs)), context, initializer=_start_worker, initargs=(messages, stop)
        ) as pool,
    ):
        bars = {run.name: progress.add_task(run.name, total=run.recipe.steps, start=False) for run in runs}
        with _sigint_blocked():  # and in the workers, which inherit it: the parent decides when they stop
            waiting = {pool.submit(_work, run, out / run.name, data_folder): run for run in runs}
        try:
            return _collect(waiting, messages, progress, bars)
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


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _collect(
    waiting: dict[Future[Trajectory], Run], messages: Any, progress: Progress, bars: dict[str, Any]
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
    return {run.name: trajectories[run.name] for run in waiting.values()}


_messages: Any = None
_stop: Any = None


def _start_worker(messages: Any, stop: Any) -> None:
    global _messages, _stop
    _messages, _stop = messages, stop
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """End this worker once its parent is gone: nobody would, and a resumed experiment writes the same files."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


_data = cache(load_data)  # a worker carries out several runs


def _work(run: Run, folder: Path, data_folder: Path | None) -> Trajectory:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parent has loaded it too, and said what there is to say
        data: DataSet = _data(run.recipe.data, folder=data_folder)
    every = max(1, run.recipe.steps // 500)

    def report(step: int) -> None:
        if step % every == 0 or step == run.recipe.steps:
            _messages.put((run.name, step))

    return execute(run, data, folder, report=report, stop=_stop.is_set)
