"""A campaign without training: its trials take no time, and what comes of them is known. Imports no torch."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from miscompute import InvalidInput, nvdla_small
from miscompute.campaigns import Done, Engine, Job, Pool, Record, Sequential, Store
from miscompute.campaigns import carry_out as carry_out_rounds
from miscompute.fault import Extent, FaultSpace
from miscompute.outcome import Point, Trajectory

SPACE = FaultSpace.parse("weight[*,*] bit 0..15 flip", Extent(array=nvdla_small()))
PLAN = Sequential(outcome="hit", width=0.0501, most=400, batch_trials=100)


class Here(Engine):
    """Works in this process."""

    def __init__(self) -> None:
        super().__init__(workers=1)

    def _submit(self, job: Job) -> Any:
        return _Call(job.work, job.args)

    def _ended(self, flying: Mapping[Any, Job]) -> list[Any]:
        return list(flying)[-1:]  # the last first: no order may matter

    def _result(self, handle: Any, job: Job) -> tuple[Any, str | None, bool]:
        try:
            return handle.work(*handle.args), None, True
        except InvalidInput:
            raise
        except Exception as error:
            return None, f"{type(error).__name__}: {error}", True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Call:
    def __init__(self, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.work, self.args = work, args


class Quiet:
    """Watches nothing."""

    def begin(self, what: str, total: int, *, done: int = 0) -> None: ...

    def advance(self, outcome: str | None = None) -> None: ...


def worked(place: int, seconds: float, pids: Path | None) -> int:
    if pids is not None:
        (pids / str(os.getpid())).touch()
    time.sleep(seconds)
    return place * 7919 % 1000


def job(seconds: float, pids: Path | None) -> Callable[[int], Job]:
    return lambda place: Job(name=place, work=worked, args=(place, seconds, pids))


def record(done: Done) -> Record:
    place: int = done.job.name
    accuracy = done.value / 1000
    point = Point(step=1, train_loss=accuracy, train_accuracy=0.0, faulty_accuracy=accuracy, healthy_accuracy=accuracy)
    return Record(
        key=f"{place:064x}",
        place=place,
        fault=str(SPACE.fault(place)),
        outcome="hit" if done.value < 400 else "miss",
        family="nothing",
        labels={"bit": place % 16},
        trajectory=Trajectory(points=(point,), validation_images=10, changed=1, activated_at=0),
    )


def carry_out(path: Path, *, pooled: bool = False, seconds: float = 0.0, pids: Path | None = None) -> None:
    engine: Engine = Pool(workers=2) if pooled else Here()
    with Store(path, axes=("bit",)) as store, engine:
        carry_out_rounds(PLAN, SPACE, 0, store, engine, job=job(seconds, pids), record=record, watch=Quiet())


def carry_out_told(begun: Any, path: Path, pooled: bool, seconds: float, pids: Path | None) -> None:
    begun.send(None)
    carry_out(path, pooled=pooled, seconds=seconds, pids=pids)


def results(folder: Path) -> list[Record]:
    """What a campaign's folder holds, without how long it took."""
    return [replace(record, seconds=0.0) for record in records(folder / "store.sqlite")]


def records(path: Path) -> list[Record]:
    with Store(path, read_only=True) as store:
        return list(store.records())
