"""Healthy and faulty fleets of several sizes, side by side."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .._invalid import InvalidInput
from ..fault import Fault
from ..hardware import Array
from ..outcome import Trajectory
from ..tasks import MODEL_FORMAT, Recipe, check_fits, load_data
from ._execute import replacing
from ._experiment import _execute_all, check_is_there, identity_of, usable
from ._fleet import Fleet
from ._run import Run


@dataclass(frozen=True, kw_only=True)
class FleetExperiment:
    """One faulty chip among ``replicas``, for each number of them, and the same fleets without a fault.

    All fleets train on the same batches, dealt to their chips in equal parts, from the same weights: for each of
    ``seeds`` seeds, the recipe's and those after it. ``faulty`` is the rank of the faulty chip, which matters only to
    models with buffers: those of rank 0 are the model's.
    """

    recipe: Recipe
    array: Array
    fault: Fault
    replicas: tuple[int, ...] = (1, 2, 4, 8)
    faulty: int = 0
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InvalidInput(f"seeds={self.seeds} must be at least 1")
        if not self.replicas or len(set(self.replicas)) < len(self.replicas):
            raise InvalidInput(f"replicas={self.replicas} must differ; name at least one, and each once")
        self.fault.check(self.array, MODEL_FORMAT)  # says so if a bit is outside
        for replicas in self.replicas:
            Fleet(replicas=replicas, faulty=self.faulty).check_fits(self.recipe)

    def check_names(self) -> None:
        """Raise `InvalidInput` unless there is the layer, parameter, buffer or state that the fault names."""
        check_is_there(self.fault, self.recipe, self.array)

    def run(self, *, replicas: int, seed: int, faulty: bool) -> Run:
        """Give one fleet's run."""
        recipe, fleet = replace(self.recipe, seed=seed), Fleet(replicas=replicas, faulty=self.faulty)
        if not faulty:
            return Run(name=f"healthy-{replicas}-seed-{seed}", recipe=recipe, fleet=fleet)
        name = f"faulty-1-of-{replicas}-seed-{seed}"
        return Run(name=name, recipe=recipe, array=self.array, fault=self.fault, fleet=fleet)

    def runs(self) -> tuple[Run, ...]:
        """Give all runs, by names that are their folders' too."""
        return tuple(
            self.run(replicas=replicas, seed=seed, faulty=faulty)
            for seed in range(self.recipe.seed, self.recipe.seed + self.seeds)
            for replicas in self.replicas
            for faulty in (False, True)
        )


@dataclass(frozen=True, kw_only=True)
class FleetResult:
    """The curves of an experiment, by the number of replicas, in the order of the seeds."""

    experiment: FleetExperiment
    healthy: Mapping[int, tuple[Trajectory, ...]]
    faulty: Mapping[int, tuple[Trajectory, ...]]


def train_fleet(
    experiment: FleetExperiment,
    out: Path,
    *,
    resume: bool = False,
    data_folder: Path | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> FleetResult:
    """Carry out a fleet experiment.

    Each run is a process with one thread that computes the replicas one after the other, to the bits that
    `execute_distributed` would reach. ``fleet.json`` in the run directory says what was asked. Interrupted by Ctrl-C,
    the runs write a checkpoint and end; with ``resume`` they continue to the bits they would have reached.

    Args:
        experiment: what to run.
        out: the run directory.
        resume: continue what is in the directory; without it, a directory with runs in it is refused.
        data_folder: where the data set is, if not in the usual places.
        workers: how many runs at once; None: one a processor.
        quiet: no progress bars.

    Raises:
        InvalidInput: if the fault names what the model has not, the directory cannot be used or holds another
            experiment, or the data set cannot be had.
        KeyboardInterrupt: after Ctrl-C, once all runs have written their checkpoints.
    """
    if workers is not None and workers < 1:
        raise InvalidInput(f"workers={workers} must be at least 1")
    experiment.check_names()
    _claim(experiment, out, resume=resume)
    # Downloads once, and says what is wrong before any run.
    check_fits(experiment.recipe, load_data(experiment.recipe.data, folder=data_folder))
    found = _execute_all(experiment.runs(), out, data_folder, workers or os.cpu_count() or 1, quiet=quiet)

    def of(replicas: int, *, faulty: bool) -> tuple[Trajectory, ...]:
        seeds = range(experiment.recipe.seed, experiment.recipe.seed + experiment.seeds)
        return tuple(found[experiment.run(replicas=replicas, seed=seed, faulty=faulty).name] for seed in seeds)

    return FleetResult(
        experiment=experiment,
        healthy={replicas: of(replicas, faulty=False) for replicas in experiment.replicas},
        faulty={replicas: of(replicas, faulty=True) for replicas in experiment.replicas},
    )


def _claim(experiment: FleetExperiment, out: Path, *, resume: bool) -> None:
    """Write what is asked into the run directory, or compare it with what is there."""
    asked = identity_of(experiment.runs())
    path = out / "fleet.json"
    with usable(out):
        if not path.exists():
            with replacing(path) as partial:
                partial.write_text(json.dumps(asked, indent=1))
            return
        held = path.read_bytes()
    if not resume:
        raise InvalidInput(f"out={str(out)!r} already holds an experiment; resume it or name another")
    try:
        same = json.loads(held) == json.loads(json.dumps(asked))
    except ValueError as error:
        raise InvalidInput(f"run file {str(path)!r} is damaged; name another directory") from error
    if not same:
        raise InvalidInput(f"out={str(out)!r} holds an experiment with other settings; name another, or repeat them")
