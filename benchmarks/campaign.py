"""What a campaign's trials share, what an engine costs, and what a store holds.

    python benchmarks/campaign.py [--spec FILE] [--trials N] [--workers-trials N] [--empty-trials N] [--rows N]

Four tables:

1. The spec's campaign, of the first so many of its trials, against the same trials each carried out from its first step
   (``--no-shortcuts``): processor seconds of all processes, golden runs and start-up included, and whether all rows are
   equal, curves included. The part of all steps that had to be made says what no way of sharing can go below.
2. Two workers against one: seconds on the clock of the same campaign, golden runs already there, in turn. Beside them
   what the machine gives: two processes that only train, against one of them.
3. The engine's and the store's cost of a trial that does nothing, with one worker.
4. A store of many rows: rows a second, and the seconds of the table of outcomes, in all and by bit.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from shutil import copytree
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import miscompute as mc
from miscompute.campaigns import Done, Fixed, Job, Pool, Record, Store, campaign_of, carry_out, load_spec
from miscompute.fault import Extent, FaultSpace
from miscompute.formats import FORMATS
from miscompute.outcome import OUTCOMES, Point, Trajectory
from miscompute.tasks import Training, load_data, recipe_for

CONSOLE = Console()
_BATCH = 50_000  # rows written at once; a merge of stores writes all at once


def processor_seconds() -> float:
    """Give what this process and all its ended children have used."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def rows(folder: Path) -> list[Record]:
    """Read all that decides a campaign's result: every row, but for how it went."""
    with Store(folder / "store.sqlite", read_only=True) as store:
        return [replace(record, seconds=0.0, attempts=1) for record in store.records()]


def of_first_trials(path: Path, trials: int) -> dict[str, Any]:
    """Give a spec's words with a sample of so many."""
    return {**load_spec(path).words(), "plan": {"kind": "fixed", "trials": trials}}


def sharing(spec: Path, trials: int, folder: Path, workers: int) -> None:
    words = of_first_trials(spec, trials)
    used = {}
    for name, shortcuts in (("shared", True), ("each from step 0", False)):
        before = processor_seconds()
        mc.campaign(words, folder / name, workers=workers, shortcuts=shortcuts)
        used[name] = processor_seconds() - before
    found = rows(folder / "shared")
    equal = found == rows(folder / "each from step 0")
    steps = campaign_of(words).settings[0].recipe.steps
    made = {name: steps_made(found, steps, shared=name == "shared") for name in used}
    table = Table(title=f"{spec.stem}, {trials:,} trials: processor seconds, golden runs and start-up included")
    for heading in ("trials", "processor, s", "a trial, s", "ratio", "target", "rows equal", "steps made"):
        table.add_column(heading, justify="right")
    whole = used["each from step 0"]
    for name, seconds in used.items():
        is_shared = name == "shared"
        cells = (f"{whole / seconds:.2f}", ">= 3", "yes" if equal else "NO") if is_shared else ("1", "", "")
        table.add_row(name, f"{seconds:.1f}", f"{seconds / trials:.3f}", *cells, f"{made[name]:,}")
    CONSOLE.print(table)


def steps_made(records: list[Record], steps: int, *, shared: bool) -> int:
    """Count the steps of trials: to their end; of shared ones, from a transient's step until all is as golden."""
    total = 0
    for record in records:
        assert record.trajectory is not None
        crash, rejoined = record.trajectory.crash, record.trajectory.rejoined
        end = crash.step + 1 if crash else steps
        begin = min(int(record.labels.get("step") or 0), end) if shared else 0
        total += (end if rejoined is None or not shared else rejoined) - begin
    return total


def workers_table(spec: Path, trials: int, folder: Path, repeats: int) -> None:
    words = of_first_trials(spec, trials)
    first = folder / "first"
    mc.campaign({**words, "plan": {"kind": "fixed", "trials": 1}}, first, workers=1)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    bare: list[float] = []
    for repeat in range(repeats):
        for workers in (1, 2) if repeat % 2 == 0 else (2, 1):
            out = folder / f"{repeat}-{workers}"
            copytree(first / "golden", out / "golden")  # the runs that all trials share
            began = time.monotonic()
            mc.campaign(words, out, workers=workers)
            seconds[workers].append(time.monotonic() - began)
        bare.append(capacity())
    ratios = sorted(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    table = Table(title=f"{spec.stem}, {trials:,} trials: seconds on the clock, starting the workers included")
    for heading in ("workers", "seconds", "times one worker", "lowest..highest", "target"):
        table.add_column(heading, justify="right")
    table.add_row("1", f"{min(seconds[1]):.1f}", "1", "", "")
    table.add_row(
        "2", f"{min(seconds[2]):.1f}", f"{ratios[len(ratios) // 2]:.2f}", f"{ratios[0]:.2f}..{ratios[-1]:.2f}", ">= 1.8"
    )
    bare.sort()
    table.add_row("two bare processes", "", f"{bare[len(bare) // 2]:.2f}", f"{bare[0]:.2f}..{bare[-1]:.2f}", "")
    CONSOLE.print(table)


def capacity() -> float:
    """Say how many times the work of one process two do that share nothing."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=together, initargs=(context.Barrier(2),)) as pool:
        list(pool.map(train_alone, [1, 1]))  # they load the data
        one = train_alone_seconds(pool, 1)
        return 2 * one / train_alone_seconds(pool, 2)


def together(barrier: Any) -> None:
    """Wait until both processes are there, so that none has done the other's part."""
    barrier.wait()


def train_alone_seconds(pool: ProcessPoolExecutor, processes: int) -> float:
    began = time.monotonic()
    list(pool.map(train_alone, [300] * processes))
    return time.monotonic() - began


def train_alone(steps: int) -> None:
    torch.set_num_threads(1)
    training = Training(recipe_for("cluttered_digits", model="lenet5", batch_size=32), load_data("cluttered_digits"))
    for _ in range(steps):
        training.gradients()
        training.update()


SPACE = FaultSpace.parse(
    "weight[*,*] bit * flip transient step *", Extent(array=mc.nvdla_small(), format=FORMATS["fp32"], steps=10**6)
)
POINTS = tuple(
    Point(step=step, train_loss=0.1, train_accuracy=0.9, faulty_accuracy=0.9, healthy_accuracy=0.9)
    for step in range(1, 6)
)


def nothing() -> None: ...


def record_of(place: int, outcome: str = "masked") -> Record:
    return Record(
        key=sha256(str(place).encode()).hexdigest(),
        place=place,
        fault=str(SPACE.fault(place)),
        outcome=outcome,
        family="nothing",
        labels={axis: str(value) for axis, value in SPACE.labels(place).items()},
        trajectory=Trajectory(points=POINTS, validation_images=2000, changed=1, activated_at=0),
    )


class _Quiet:
    def begin(self, what: str, total: int, *, done: int = 0) -> None: ...

    def advance(self, outcome: str | None = None) -> None: ...


def overhead(trials: int, folder: Path) -> None:
    def job(place: int) -> Job:
        return Job(name=place, work=nothing)

    def record(done: Done) -> Record:
        return record_of(done.job.name)

    plan = Fixed(trials=trials)
    with Store(folder / "overhead.sqlite", axes=SPACE.axes) as store, Pool(workers=1) as engine:
        for _ in engine.run([Job(name=0, work=nothing)]):  # the worker starts
            ...
        began = time.monotonic()
        carry_out(plan, SPACE, 0, store, engine, job=job, record=record, watch=_Quiet())
        seconds = time.monotonic() - began
        stored = store.trials()
    table = Table(title=f"{stored:,} trials that do nothing, one worker: what engine, plan and store cost")
    for heading in ("a trial, ms", "target"):
        table.add_column(heading, justify="right")
    table.add_row(f"{1000 * seconds / trials:.2f}", "< 10")
    CONSOLE.print(table)


def store_table(rows: int, folder: Path) -> None:
    names = list(OUTCOMES)
    records = [record_of(place, names[place % len(names)]) for place in range(rows)]
    with Store(folder / "rows.sqlite", axes=SPACE.axes) as store:
        began = time.monotonic()
        for first in range(0, rows, _BATCH):
            store.add(records[first : first + _BATCH])
        seconds = time.monotonic() - began
        tables = {"outcomes": timed(store.tally), "outcomes by bit": timed(lambda: store.tally("bit"))}
        held = store.trials()
    size = (folder / "rows.sqlite").stat().st_size
    table = Table(title=f"a store of {held:,} rows with curves of {len(POINTS)} points, {size / 2**20:.0f} MiB")
    for heading in ("what", "found", "target"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    table.add_row("rows inserted a second", f"{rows / seconds:,.0f}", ">= 10,000")
    for name, took in tables.items():
        table.add_row(f"table of {name}, s", f"{took:.2f}", "< 1")
    CONSOLE.print(table)


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, default=Path(__file__).parents[1] / "campaigns" / "lenet5-transients.toml")
    parser.add_argument("--trials", type=int, default=200, help="of the first table; 0 leaves it out")
    parser.add_argument("--workers", type=int, default=1, help="of the first table")
    parser.add_argument("--workers-trials", type=int, default=100, help="of the second table; 0 leaves it out")
    parser.add_argument("--repeats", type=int, default=3, help="of the second table")
    parser.add_argument("--empty-trials", type=int, default=2_000, help="of the third table; 0 leaves it out")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the fourth table; 0 leaves it out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.trials:
            sharing(given.spec, given.trials, Path(folder), given.workers)
        if given.workers_trials:
            workers_table(given.spec, given.workers_trials, Path(folder), given.repeats)
        if given.empty_trials:
            overhead(given.empty_trials, Path(folder))
        if given.rows:
            store_table(given.rows, Path(folder))


if __name__ == "__main__":
    main()
