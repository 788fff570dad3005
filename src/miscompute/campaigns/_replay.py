"""One trial again, from its record, evaluated more often than it was."""

from dataclasses import dataclass, replace
from pathlib import Path

from .._invalid import InvalidInput
from ..experiment import Run, execute
from ..outcome import Trajectory
from ..tasks import load_data
from ._campaign import Campaign, key_of
from ._store import Record, Store


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A trial carried out again: its record, the run, and how its recorded part differs; empty if in nothing."""

    record: Record
    run: Run
    trajectory: Trajectory
    difference: str


def replay(
    campaign: Campaign, store: Store, trial: str, folder: Path, *, every: int = 1, data_folder: Path | None = None
) -> Replay:
    """Carry a trial out again from its first step, without anything shared, and compare it with its record.

    Args:
        campaign: the store's.
        store: where the trial is.
        trial: its place in the population, its key or the key's beginning.
        folder: for checkpoints and the trajectory; an interrupted replay goes on.
        every: steps between evaluations; what was evaluated in the campaign must be among them.
        data_folder: where the data set is, if not in the usual places.

    Raises:
        InvalidInput: if there is no such trial, it failed, or ``every`` leaves out what was evaluated; if software or
            settings are others than those that made the record.
    """
    record = store.find(trial)
    run = campaign.run(record.place)
    if record.trajectory is None:
        raise InvalidInput(f"trial={trial!r} failed ({record.failure}); there is nothing to compare a replay with")
    if key_of(run) != record.key:
        raise InvalidInput(
            f"trial={trial!r} was made by other software (its key is {record.key[:12]}, not {key_of(run)[:12]}); see "
            " what `about` in the store says of it"
        )
    if every < 1 or run.recipe.evaluate_every % every:
        raise InvalidInput(f"every={every} must divide the campaign's evaluate_every={run.recipe.evaluate_every}")
    again = replace(run, recipe=replace(run.recipe, evaluate_every=every))
    found = execute(again, load_data(run.recipe.data, folder=data_folder), folder)
    return Replay(record=record, run=again, trajectory=found, difference=_difference(record.trajectory, found))


def _difference(recorded: Trajectory, found: Trajectory) -> str:
    for name in ("changed", "activated_at", "crash"):
        if getattr(recorded, name) != getattr(found, name):
            return f"{name} is {getattr(found, name)!r}, not {getattr(recorded, name)!r}"
    points = {point.step: point for point in found.points}
    for point in recorded.points:
        for name in ("faulty_accuracy", "healthy_accuracy"):
            here = getattr(points[point.step], name)
            if here != getattr(point, name):
                return f"{name} after step {point.step} is {here!r}, not {getattr(point, name)!r}"
    return ""
