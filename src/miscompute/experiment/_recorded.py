"""What a run directory holds: read from its files alone, be the experiment complete or not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .._invalid import InvalidInput
from ..outcome import Classified, Outcome, Trajectory, classify, judge, trajectory_of


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A run directory of `train`, as it is.

    ``runs`` are the words that decide each run (`Run.identity`), by its name; ``trajectories`` those of the runs that
    have been evaluated or have crashed, as far as they are. ``command`` and ``environment`` say how it was made.
    """

    runs: Mapping[str, Mapping[str, Any]]
    trajectories: Mapping[str, Trajectory]
    command: tuple[str, ...]
    environment: Mapping[str, Any]

    def is_over(self, run: str) -> bool:
        """Whether a run made all its steps, or crashed."""
        trajectory = self.trajectories.get(run)
        if trajectory is None or trajectory.crash is not None:
            return trajectory is not None
        return bool(trajectory.points[-1].step >= self.runs[run]["recipe"]["steps"])

    @property
    def is_complete(self) -> bool:
        """Whether all runs are over."""
        return all(map(self.is_over, self.runs))

    @cached_property
    def golden(self) -> tuple[str, ...]:
        """Name the runs without a fault, the one that the faulty ones share their seed with first."""
        return tuple(name for name, words in self.runs.items() if words["fault"] is None)

    @cached_property
    def judged(self) -> Mapping[str, tuple[Outcome, Classified]]:
        """The outcome and its class of each run with the fault that is over: none before all golden runs are."""
        if not all(map(self.is_over, self.golden)):
            return {}
        golden = [self.trajectories[name] for name in self.golden]
        over = [name for name in self.runs if name not in self.golden and self.is_over(name)]
        runs = {name: self.trajectories[name] for name in over}
        return {name: (judge(run, golden), classify(run, golden)) for name, run in runs.items()}


def recorded(folder: Path) -> Recorded:
    """Read a run directory of `train`.

    Raises:
        InvalidInput: if a file is not there or damaged, or a golden run crashed.
    """
    words = _read(folder / "experiment.json")
    try:
        runs, command, environment = dict(words["runs"]), tuple(words["command"]), dict(words["environment"])
        if not [run for run in runs.values() if run["recipe"]["steps"] > 0 and run["fault"] is None]:
            raise ValueError("no golden run")
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / "experiment.json") from error
    trajectories = {}
    for name in runs:
        path = folder / name / "trajectory.json"
        if path.exists():
            try:
                trajectory = trajectory_of(_read(path))
            except (KeyError, TypeError) as error:
                raise _damaged(path) from error
            if trajectory.points or trajectory.crash:
                trajectories[name] = trajectory
    return Recorded(runs=runs, trajectories=trajectories, command=command, environment=environment)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"run file {str(path)!r} cannot be read ({error.strerror}); name another folder") from error
    except ValueError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> InvalidInput:
    return InvalidInput(f"run file {str(path)!r} is damaged; restore a copy, or run the experiment again")
