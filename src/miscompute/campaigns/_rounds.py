"""The loop of a campaign: what the plan asks for goes to the engine, what comes of it to the store."""

import time
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from ..fault import FaultSpace
from ._engine import Done, Engine, Job
from ._plan import FAILED, Plan
from ._store import Record, Store

_COMMIT_SECONDS = 0.5


@runtime_checkable
class Watcher(Protocol):
    """Is told how far a campaign is."""

    def begin(self, what: str, total: int, *, done: int = 0) -> None:
        """Expect so many of something, some of which are done."""

    def advance(self, outcome: str | None = None) -> None:
        """Note that one is done, a trial with its outcome."""


def carry_out(
    plan: Plan,
    space: FaultSpace,
    seed: int,
    store: Store,
    engine: Engine,
    *,
    job: Callable[[int], Job],
    record: Callable[[Done], Record],
    watch: Watcher,
    retry_failed: bool = False,
) -> None:
    """Try batch after batch of a plan's faults, leaving out what the store has, until the plan wants no more.

    Records are written twice a second, all that have come since. Whatever ends this, what is written stays, and calling
    it again goes on.

    Args:
        plan: which faults, given what came of those before.
        space: the population.
        seed: of what the plan draws.
        store: where records go.
        engine: who does the work.
        job: makes the work of a trial, named by its place in the population.
        record: makes what is kept of what came of it.
        watch: is told.
        retry_failed: try again what is in the store as failed.
    """
    retried: set[int] = set()

    def known() -> dict[int, str]:
        found = store.outcomes()
        return {p: o for p, o in found.items() if o != FAILED or not retry_failed or p in retried}

    while batch := dict.fromkeys(plan.batch(space, seed, outcomes := known())):
        missing = [place for place in batch if place not in outcomes]
        watch.begin("trials", len(batch), done=len(batch) - len(missing))
        _carry_out(map(job, missing), store, engine, record, watch)
        retried.update(missing)


def _carry_out(
    jobs: Iterable[Job], store: Store, engine: Engine, record: Callable[[Done], Record], watch: Watcher
) -> None:
    found: list[Record] = []
    since = time.monotonic()
    try:
        for done in engine.run(jobs):
            if done is not None:
                found.append(record(done))
                watch.advance(found[-1].outcome)
            if found and time.monotonic() - since > _COMMIT_SECONDS:
                store.add(found)
                found, since = [], time.monotonic()
    finally:
        if found:
            store.add(found)
