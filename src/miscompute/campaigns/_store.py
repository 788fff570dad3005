"""The store: one SQLite file, a row a trial, keyed by the content of what decides the trial."""

import json
import os
import re
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .._invalid import InvalidInput, difference
from ..outcome import Crash, Point, Trajectory, end_of, trajectory_of
from ._plan import FAILED

SCHEMA = 1
"""The version of the tables, kept as SQLite's ``user_version``. docs/campaigns.md describes them."""

STORE_FILE = "store.sqlite"
"""The store of a campaign, in its folder."""

_APPLICATION = int.from_bytes(b"misc")
_BUSY_SECONDS = 30.0
_CACHE_KIB = 1 << 18  # keys come in no order, so all of their index is in use
_POINT = attrgetter(*(field.name for field in fields(Point)))

_COLUMNS = {
    "key": "TEXT PRIMARY KEY",
    "place": "INTEGER NOT NULL",
    "fault": "TEXT NOT NULL",
    "outcome": "TEXT NOT NULL",
    "family": "TEXT NOT NULL",
    "changed": "INTEGER",
    "activated_at": "INTEGER",
    "rejoined": "INTEGER",
    "crash_step": "INTEGER",
    "crash_tensor": "TEXT",
    "train_accuracy": "REAL",
    "faulty_accuracy": "REAL",
    "healthy_accuracy": "REAL",
    "validation_labels": "INTEGER",
    "training_labels": "INTEGER",
    "failure": "TEXT",
    "attempts": "INTEGER NOT NULL",
    "seconds": "REAL NOT NULL",
}
_UNDECIDED = ("attempts", "seconds")  # by what identifies a trial
_AXIS = "axis_"

Label = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of a trial.

    ``key`` identifies it by content. ``place`` is its index in the campaign's population, ``labels`` what was chosen
    for it there, by axis. ``trajectory`` is None where the trial could not be carried out, and ``failure`` says why
    then. ``attempts`` and ``seconds`` tell how it went, and are no part of the result.
    """

    key: str
    place: int
    fault: str
    outcome: str
    family: str
    labels: Mapping[str, Label] = field(default_factory=dict)
    trajectory: Trajectory | None = None
    failure: str | None = None
    attempts: int = 1
    seconds: float = 0.0


class Store:
    """An open store; a context manager that closes it.

    Many may read while one writes; writers wait for each other. Whatever is added in one call is there whole or not at
    all, also after a kill or a full disk.

    Args:
        path: the file; made if it is not there, unless it is only read.
        axes: of the labels; needed where the file is made.
        read_only: write nothing.

    Raises:
        InvalidInput: if the file cannot be opened or written, is no store, or one of a newer miscompute.
    """

    def __init__(self, path: Path, *, axes: Sequence[str] = (), read_only: bool = False) -> None:
        self.path = path
        if read_only and not path.is_file():
            raise InvalidInput(f"store {str(path)!r} is not there; name the folder of a campaign, or its store")
        wrong = [name for name in axes if not re.fullmatch(r"[a-z][a-z_]*", name)]
        if wrong:
            raise InvalidInput(f"axes={wrong} of a store must be words of small letters and underscores")
        with self._explained():
            # A kill amid a transaction leaves a journal, which even a reader must be able to roll back.
            mode = "rwc" if not read_only else "rw" if os.access(path, os.W_OK) else "ro"
            self._db = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None
            )
            try:
                self._db.execute(f"PRAGMA query_only = {int(read_only)}")
                self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                self._prepare(axes, read_only=read_only)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, axes: Sequence[str], *, read_only: bool) -> None:
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION:
            raise InvalidInput(f"store {str(self.path)!r} is a database of something else; name another")
        if version > SCHEMA:
            raise InvalidInput(
                f"store {str(self.path)!r} has schema {version}, written by a newer miscompute; this one reads up to "
                f"{SCHEMA}: install the newer one"
            )
        if not tables:
            if read_only:
                raise InvalidInput(f"store {str(self.path)!r} is empty; name the folder of a campaign, or its store")
            with self._transaction():
                self._create(axes)
        names = [name for _, name, *_ in self._db.execute("PRAGMA table_info(trials)")]
        self.axes = tuple(name.removeprefix(_AXIS) for name in names if name.startswith(_AXIS))

    def _create(self, axes: Sequence[str]) -> None:
        if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
            return  # another was quicker
        columns = [f"{name} {kind}" for name, kind in _COLUMNS.items()] + [f'"{_AXIS}{name}"' for name in axes]
        self._db.execute(f"CREATE TABLE trials ({', '.join(columns)})")
        self._db.execute("CREATE INDEX trials_by_place ON trials (place, outcome)")
        for name in axes:
            self._db.execute(f'CREATE INDEX "trials_by_{name}" ON trials ("{_AXIS}{name}", outcome)')
        self._db.execute("CREATE TABLE curves (key TEXT PRIMARY KEY REFERENCES trials, points BLOB NOT NULL)")
        self._db.execute("CREATE TABLE golden (key TEXT PRIMARY KEY, run TEXT NOT NULL, trajectory TEXT NOT NULL)")
        self._db.execute("CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in one line what SQLite could not do, or that what it gave is damaged, and what to do about it."""
        try:
            yield
        except (sqlite3.Error, zlib.error, json.JSONDecodeError) as error:
            found = str(error)
            ways = {
                "full": "the disk is full; free space and go on: what is in it is safe",
                "I/O": "the disk is full, a size limit is reached, or the disk is failing; what is in it is safe",
                "readonly": "it is read-only; make it writable or work on a copy",
                "unable to open": "its folder is not there or may not be written; name another",
                "locked": "another process has been writing to it for long; wait for that to end",
            }
            way = next((way for part, way in ways.items() if part in found), "it is damaged; restore a copy")
            raise InvalidInput(f"store {str(self.path)!r} cannot be used ({found}): {way}") from error

    def about(self, name: str) -> Any:
        """Give what `describe` kept under a name; None if nothing."""
        with self._explained():
            row = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
            return None if row is None else json.loads(row[0])

    def note(self, name: str, value: Any) -> None:
        """Keep how a campaign was begun, as JSON; what is there already stays."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", (name, json.dumps(value, sort_keys=True)))

    def describe(self, name: str, value: Any) -> None:
        """Keep something about the campaign, as JSON; what is there already must be equal.

        Raises:
            InvalidInput: if it is not, naming the first field that differs.
        """
        text = json.dumps(value, sort_keys=True)
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", (name, text))
            (held,) = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        if held != text:
            raise InvalidInput(f"store {str(self.path)!r} holds another {name}: {difference(json.loads(held), value)}")

    def add_golden(self, key: str, run: Mapping[str, Any], trajectory: Trajectory) -> None:
        """Add a fault-free run's identity and trajectory, by its key; one that is there must be equal.

        Raises:
            InvalidInput: if it is not, naming the first field that differs.
        """
        words = json.loads(json.dumps(asdict(trajectory)))
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO golden VALUES (?, ?, ?)",
                (key, json.dumps(run, sort_keys=True), json.dumps(words)),
            )
            (held,) = self._db.execute("SELECT trajectory FROM golden WHERE key = ?", (key,)).fetchone()
        if json.loads(held) != words:
            raise InvalidInput(
                f"golden run {key[:12]} is in store {str(self.path)!r} with another result: "
                f"{difference(json.loads(held), words)}; was it made by other software, or on another machine?"
            )

    def golden(self) -> dict[str, Trajectory]:
        """Give the fault-free runs, by key."""
        with self._explained():
            rows = self._db.execute("SELECT key, trajectory FROM golden ORDER BY key").fetchall()
            return {key: trajectory_of(json.loads(text)) for key, text in rows}

    def golden_runs(self) -> dict[str, Any]:
        """Give what decided the fault-free runs (`Run.identity`), by key."""
        with self._explained():
            return {key: json.loads(text) for key, text in self._db.execute("SELECT key, run FROM golden ORDER BY key")}

    def add(self, records: Iterable[Record]) -> None:
        """Add trials, all or none. A trial that is there already must have the same result; a failed one is replaced.

        Raises:
            InvalidInput: if it has another result, naming the field; or if they cannot be written.
        """
        names = [*_COLUMNS, *(f'"{_AXIS}{name}"' for name in self.axes)]
        insert = f"INSERT OR IGNORE INTO trials ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        with self._transaction():
            for record in records:
                row = self._row(record)
                if self._db.execute(insert, row).rowcount == 0:
                    if self._is_same(record, row):
                        continue
                    self._db.execute(insert.replace("IGNORE", "REPLACE"), row)
                if record.trajectory is not None:
                    self._db.execute(
                        "INSERT OR REPLACE INTO curves VALUES (?, ?)", (record.key, _packed(record.trajectory.points))
                    )

    def _row(self, record: Record) -> list[Label]:
        unknown = set(record.labels) - set(self.axes)
        if unknown:
            raise InvalidInput(f"labels={sorted(unknown)} are no axes of the store, which has {', '.join(self.axes)}")
        run = record.trajectory
        crash = run.crash if run else None
        values: dict[str, Label] = {
            "key": record.key,
            "place": record.place,
            "fault": record.fault,
            "outcome": record.outcome,
            "family": record.family,
            "failure": record.failure,
            "attempts": record.attempts,
            "seconds": record.seconds,
            "crash_step": crash.step if crash else None,
            "crash_tensor": crash.tensor if crash else None,
        }
        if run is not None:
            values |= {
                "changed": run.changed,
                "activated_at": run.activated_at,
                "rejoined": run.rejoined,
                "validation_labels": run.validation_images,
                "training_labels": run.training_labels,
            }
            if run.points and crash is None:
                values |= {
                    name: end_of(run, name) for name in ("train_accuracy", "faulty_accuracy", "healthy_accuracy")
                }
        return [*(values.get(name) for name in _COLUMNS), *(record.labels.get(name) for name in self.axes)]

    def _is_same(self, record: Record, row: list[Label]) -> bool:
        """Whether a trial that is there has the same result; False: it had failed, and is replaced."""
        held = self._db.execute("SELECT * FROM trials WHERE key = ?", (record.key,)).fetchone()
        names = [*_COLUMNS, *self.axes]
        old, new = dict(zip(names, held, strict=True)), dict(zip(names, row, strict=True))
        if old["outcome"] == FAILED or new["outcome"] == FAILED:
            return bool(new["outcome"] == FAILED)  # what succeeded is better
        for name in names:
            if name not in _UNDECIDED and old[name] != new[name]:
                raise InvalidInput(
                    f"trial {record.key[:12]} ({record.fault}) is in store {str(self.path)!r} with another result: "
                    f"{name} is {old[name]!r}, not {new[name]!r}; was it made by other software, or on another machine?"
                )
        (points,) = self._db.execute("SELECT points FROM curves WHERE key = ?", (record.key,)).fetchone()
        assert record.trajectory is not None
        if _unpacked(points) != record.trajectory.points:
            raise InvalidInput(
                f"trial {record.key[:12]} ({record.fault}) is in store {str(self.path)!r} with another curve; was it "
                "made by other software, or on another machine?"
            )
        return True

    def outcomes(self) -> dict[int, str]:
        """Give the outcome of each trial, by its place in the population."""
        with self._explained():
            return dict(self._db.execute("SELECT place, outcome FROM trials ORDER BY place"))

    def tally(self, axis: str | None = None) -> dict[Label, Counter[str]]:
        """Count the trials by outcome, for each value of an axis; without one, all under None.

        Raises:
            InvalidInput: if there is no such axis.
        """
        if axis is not None and axis not in self.axes:
            raise InvalidInput(f"axis={axis!r} is none of the store's; choose one of {', '.join(self.axes)}")
        # An index of an axis holds the outcomes in its order; all of them are soonest counted by way of one, too.
        column = f'"{_AXIS}{axis or self.axes[0]}"' if self.axes else "NULL"
        by_value = f"SELECT {column} AS value, outcome, count(*) AS trials FROM trials GROUP BY 1, 2 ORDER BY 1, 2"
        query = by_value if axis else f"SELECT NULL, outcome, sum(trials) FROM ({by_value}) GROUP BY 2 ORDER BY 2"
        found: dict[Label, Counter[str]] = {}
        with self._explained():
            for value, outcome, trials in self._db.execute(query):
                found.setdefault(value, Counter())[outcome] = trials
        return found

    def trials(self) -> int:
        """Say how many there are."""
        with self._explained():
            (trials,) = self._db.execute("SELECT count(*) FROM trials").fetchone()
        return int(trials)

    def records(self) -> Iterator[Record]:
        """Give all trials in the order of the population."""
        with self._explained():
            for row in self._db.execute(
                "SELECT trials.*, points FROM trials LEFT JOIN curves USING (key) ORDER BY place"
            ):
                yield self._record(row)

    def find(self, trial: str) -> Record:
        """Give one trial, named by its place in the population, its key or the key's beginning.

        Raises:
            InvalidInput: if there is none, or more than one.
        """
        by_place = trial.isdecimal() and len(trial) < 12
        condition, value = ("place = ?", int(trial)) if by_place else ("key GLOB ?", trial + "*")
        with self._explained():
            rows = self._db.execute(
                f"SELECT trials.*, points FROM trials LEFT JOIN curves USING (key) WHERE {condition} LIMIT 2", (value,)
            ).fetchall()
        if not rows or not re.fullmatch("[0-9a-f]+", trial):
            raise InvalidInput(f"trial={trial!r} is not in store {str(self.path)!r}; name a place or a key of `export`")
        if len(rows) > 1:
            raise InvalidInput(f"trial={trial!r} begins several keys of store {str(self.path)!r}; give more of it")
        with self._explained():
            return self._record(rows[0])

    def _record(self, row: Sequence[Any]) -> Record:
        held = dict(zip([*_COLUMNS, *self.axes], row[:-1], strict=True))
        trajectory = None
        if row[-1] is not None:
            crash = held["crash_step"] is not None
            trajectory = Trajectory(
                points=_unpacked(row[-1]),
                validation_images=held["validation_labels"],
                training_labels=held["training_labels"],
                changed=held["changed"],
                crash=Crash(step=held["crash_step"], tensor=held["crash_tensor"]) if crash else None,
                activated_at=held["activated_at"],
                rejoined=held["rejoined"],
            )
        return Record(
            key=held["key"],
            place=held["place"],
            fault=held["fault"],
            outcome=held["outcome"],
            family=held["family"],
            labels={name: held[name] for name in self.axes},
            trajectory=trajectory,
            failure=held["failure"],
            attempts=held["attempts"],
            seconds=held["seconds"],
        )

    def table(self) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
        """Give the columns' names, and the rows without curves, in the order of the population."""
        return (*_COLUMNS, *self.axes), self._db.execute("SELECT * FROM trials ORDER BY place")


def merge(into: Store, parts: Sequence[Store]) -> int:
    """Add to a store the trials of others of the same campaign, made on other machines say; say how many are new.

    Raises:
        InvalidInput: if one is of another campaign, or has another result for the same trial, naming the field.
    """
    before = into.trials()
    for part in parts:
        into.describe("campaign", part.about("campaign"))
        for key, run, text in part._db.execute("SELECT key, run, trajectory FROM golden"):
            into.add_golden(key, json.loads(run), trajectory_of(json.loads(text)))
        into.add(part.records())
    return into.trials() - before


def _packed(points: Sequence[Point]) -> bytes:
    """Pack a curve: the fields of each point in their order, little-endian doubles, deflated."""
    return zlib.compress(np.array([*map(_POINT, points)], dtype="<f8").tobytes(), level=1)


def _unpacked(packed: bytes) -> tuple[Point, ...]:
    values = np.frombuffer(zlib.decompress(packed), dtype="<f8").reshape(-1, 5).tolist()
    return tuple(
        Point(
            step=int(step),
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            faulty_accuracy=faulty_accuracy,
            healthy_accuracy=healthy_accuracy,
        )
        for step, train_loss, train_accuracy, faulty_accuracy, healthy_accuracy in values
    )
