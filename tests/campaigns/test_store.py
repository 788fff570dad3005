"""The store: whole after anything, and nothing in it twice or changed."""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from miscompute import InvalidInput
from miscompute.campaigns import FAILED, SCHEMA, Record, Store, merge
from miscompute.outcome import Crash, Point, Trajectory

OLD = Path(__file__).with_name("store-1.sqlite")  # as the first version with this schema wrote it


def point(step: int, accuracy: float) -> Point:
    return Point(
        step=step, train_loss=1 / 3, train_accuracy=0.1, faulty_accuracy=accuracy, healthy_accuracy=accuracy / 7
    )


def record(place: int, *, accuracy: float = 0.3, outcome: str = "masked", crash: Crash | None = None) -> Record:
    return Record(
        key=f"{place:064x}",
        place=place,
        fault=f"weight[0,0] bit {place % 32} flip",
        outcome=outcome,
        family="nothing",
        labels={"bit": place % 32, "layer": f"conv{place % 2}"},
        trajectory=Trajectory(
            points=(point(5, accuracy), point(10, accuracy)),
            validation_images=2_000,
            training_labels=160,
            changed=17,
            crash=crash,
            activated_at=3,
        ),
        seconds=0.25,
    )


FAILURE = replace(record(3), trajectory=None, failure="the worker ended", outcome=FAILED, family=FAILED)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite", axes=("bit", "layer")) as opened:
        yield opened


def test_what_goes_in_comes_out(store: Store) -> None:
    records = [record(0), record(1, crash=Crash(step=4, tensor="output of conv1")), record(2), FAILURE]
    store.add(records)
    assert list(store.records()) == records
    with Store(store.path, read_only=True) as again:
        assert list(again.records()) == records
        assert again.axes == ("bit", "layer")
        assert again.outcomes() == {0: "masked", 1: "masked", 2: "masked", 3: FAILED}
        assert again.tally() == {None: {"masked": 3, FAILED: 1}}
        assert again.tally("layer") == {"conv0": {"masked": 2}, "conv1": {"masked": 1, FAILED: 1}}
        assert again.find("1") == again.find(record(1).key) == records[1]


def test_the_same_trial_twice_is_one_row_and_a_failed_one_is_replaced(store: Store) -> None:
    store.add([record(0), FAILURE])
    store.add([replace(record(0), seconds=9.0, attempts=2), record(3)])
    assert store.trials() == 2
    assert store.find("3") == record(3)
    store.add([FAILURE])  # does not undo what succeeded
    assert store.find("3") == record(3)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (record(0, outcome="SlowDegrade"), "outcome is 'masked', not 'SlowDegrade'"),
        (record(0, accuracy=0.4), "faulty_accuracy is 0.3, not 0.4"),
        (replace(record(0), labels={"bit": 1}), "bit is 0, not 1"),
    ],
)
def test_unequal_results_of_one_trial_are_refused_and_none_of_the_call_is_kept(
    store: Store, other: Record, message: str
) -> None:
    store.add([record(0)])
    with pytest.raises(InvalidInput, match=f"with another result: {message}"):
        store.add([record(1), other])
    assert list(store.records()) == [record(0)]


def test_a_different_curve_is_refused(store: Store) -> None:
    store.add([record(0)])
    run = record(0).trajectory
    assert run is not None
    curve = replace(run, points=(replace(run.points[0], train_loss=0.5), run.points[1]))
    with pytest.raises(InvalidInput, match="with another curve"):
        store.add([replace(record(0), trajectory=curve)])


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    with pytest.raises(InvalidInput, match="is a database of something else; name another"):
        Store(other)
    text = tmp_path / "text"
    text.write_text("no database at all, but long enough to be taken for one" * 20)
    with pytest.raises(InvalidInput, match=r"cannot be used \(file is not a database\): it is damaged"):
        Store(text)
    with pytest.raises(InvalidInput, match="is not there; name the folder of a campaign"):
        Store(tmp_path / "absent", read_only=True)
    with pytest.raises(InvalidInput, match="its folder is not there or may not be written"):
        Store(tmp_path / "no" / "store.sqlite")
    with pytest.raises(InvalidInput, match=r"axes=\['a; DROP'\] of a store must be words"):
        Store(tmp_path / "named", axes=["a; DROP"])


def test_a_newer_schema_is_refused_and_an_old_file_is_read(store: Store) -> None:
    store._db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(InvalidInput, match=f"has schema {SCHEMA + 1}, written by a newer miscompute"):
        Store(store.path, read_only=True)
    with Store(OLD, read_only=True) as old:
        assert list(old.records()) == [record(0), record(1), FAILURE]
        assert old.about("campaign") == {"name": "old"}


def test_a_read_only_store_says_so(store: Store) -> None:
    with Store(store.path, read_only=True) as again, pytest.raises(InvalidInput, match="it is read-only; make it writ"):
        again.add([record(0)])


def test_a_reader_rolls_back_what_a_kill_left_half_written(store: Store, tmp_path: Path) -> None:
    """Files as they are amid a transaction, pages of it written to the file already."""
    store.add(map(record, range(5)))
    killed = tmp_path / "killed"
    killed.mkdir()
    store._db.execute("PRAGMA cache_size = 5")
    store._db.execute("BEGIN IMMEDIATE")
    for place in range(5, 2_000):
        store._db.execute("INSERT INTO curves VALUES (?, ?)", (record(place).key, bytes(400)))
    for name in ("store.sqlite", "store.sqlite-journal"):
        shutil.copy(tmp_path / name, killed / name)
    store._db.execute("ROLLBACK")
    with Store(killed / "store.sqlite", read_only=True) as again:
        assert list(again.records()) == [record(place) for place in range(5)]


def test_a_disk_that_is_full_loses_nothing_that_was_added(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    code = f"""
import resource
from pathlib import Path
from tests.campaigns.test_store import record
from miscompute import InvalidInput
from miscompute.campaigns import Store
with Store(Path({str(tmp_path / "store.sqlite")!r}), axes=("bit", "layer")) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        for first in range(0, 100_000, 100):
            store.add(map(record, range(first, first + 100)))
            print(first + 100, flush=True)
    except InvalidInput as error:
        print(error)
"""
    assert hasattr(resource, "RLIMIT_FSIZE")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert run.stdout, run.stderr
    *added, message = run.stdout.splitlines()
    assert "what is in it is safe" in message
    with Store(tmp_path / "store.sqlite") as store:
        assert store.trials() == int(added[-1])
        store.add([record(200_000)])


def test_writers_wait_for_each_other(store: Store) -> None:
    """The second has the first's rows as well, in whatever order they come."""
    with Store(store.path) as other:
        for first in range(0, 100, 10):
            (store if first % 20 else other).add(map(record, range(first, first + 15)))
        assert store.trials() == other.trials() == 105


def test_stores_are_merged(store: Store, tmp_path: Path) -> None:
    store.describe("campaign", {"name": "one", "faults": ["a"]})
    store.add(map(record, range(5)))
    with Store(tmp_path / "part.sqlite", axes=("bit", "layer")) as part:
        part.describe("campaign", {"name": "one", "faults": ["a"]})
        part.add(map(record, range(3, 9)))
        run = record(0).trajectory
        assert run is not None
        part.add_golden("ab", {"seed": 1}, run)
        assert merge(store, [part]) == 4
        assert list(store.records()) == [record(place) for place in range(9)]
        assert store.golden() == {"ab": run}
        with pytest.raises(InvalidInput, match="with another result: changed is 17, not 18"):
            store.add_golden("ab", {"seed": 1}, replace(run, changed=18))
    with Store(tmp_path / "other.sqlite", axes=("bit", "layer")) as other:
        other.describe("campaign", {"name": "one", "faults": ["b"]})
        with pytest.raises(InvalidInput, match=r"holds another campaign: faults is \['a'\], not \['b'\]"):
            merge(store, [other])


@pytest.mark.parametrize("trial", ["7", "f" * 8, "zz"])
def test_an_unknown_trial_is_said(store: Store, trial: str) -> None:
    store.add([record(0)])
    with pytest.raises(InvalidInput, match=f"trial='{trial}' is not in store"):
        store.find(trial)


def test_an_ambiguous_key_is_said(store: Store) -> None:
    store.add([record(10), record(11)])
    with pytest.raises(InvalidInput, match="begins several keys"):
        store.find("0" * 40)
    with pytest.raises(InvalidInput, match="axis='col' is none of the store's; choose one of bit, layer"):
        store.tally("col")
    with pytest.raises(InvalidInput, match=r"labels=\['col'\] are no axes"):
        store.add([replace(record(1), labels={"col": 0})])
