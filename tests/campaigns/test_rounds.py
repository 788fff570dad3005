"""The loop of a campaign: killed at any moment, it loses nothing, tries nothing twice, and ends the same."""

import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

from tests.campaigns.made_up import PLAN, SPACE, Here, Quiet, carry_out, carry_out_told, record, records

from miscompute import InvalidInput
from miscompute.campaigns import Fixed, Job, Store
from miscompute.campaigns import carry_out as carry_out_rounds

KILLS = 50


def begun(path: Path, *, pooled: bool = False, seconds: float = 0.0, pids: Path | None = None) -> Any:
    """Begin to carry a campaign out in a process of its own; starting one takes long where the machine is busy."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.campaigns.made_up"])
    begins, begun = context.Pipe(duplex=False)
    process = context.Process(target=carry_out_told, args=(begun, path, pooled, seconds, pids))
    process.start()
    begins.recv()
    return process


def trials(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with Store(path, read_only=True) as store:
            return store.trials()
    except InvalidInput as error:
        if "is empty" not in str(error):  # it is being made
            raise
        return 0


def is_at_work(pid: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has waited for is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_fifty_times_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    carry_out(tmp_path / "whole")
    whole = records(tmp_path / "whole")
    assert len(whole) == len({one.place for one in whole}) == 400
    moments, kills, runs = random.Random(7), 0, 0
    while kills < KILLS:
        runs += 1
        path = tmp_path / f"killed-{runs}"
        while True:
            process = begun(path, seconds=0.0002)
            # Every other time only after a trial more is kept, so that it comes to an end on a busy machine too.
            least = trials(path) + 1 if kills % 2 else 0
            while process.is_alive() and trials(path) < least:
                process.join(0.005)
            process.join(moments.uniform(0, 0.1))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
            if kills % 10 == 0 and trials(path):
                with Store(path, read_only=True) as store:  # whole at any time
                    assert all(store.find(str(place)).outcome == outcome for place, outcome in store.outcomes().items())
        assert process.exitcode == 0
        assert records(path) == whole


def test_a_pool_whose_parent_is_killed_ends_too_and_the_next_goes_on(tmp_path: Path) -> None:
    path, pids = tmp_path / "killed", tmp_path / "pids"
    pids.mkdir()
    process = begun(path, pooled=True, seconds=0.05, pids=pids)
    while process.is_alive() and not trials(path):
        process.join(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = [int(one.name) for one in pids.iterdir()]
    assert left
    assert 0 < trials(path) < 400
    deadline = time.monotonic() + 60
    while any(map(is_at_work, left)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_at_work, left))
    carry_out(path)  # by another engine: that makes no difference
    carry_out(tmp_path / "whole")
    assert records(path) == records(tmp_path / "whole")


def test_what_failed_is_tried_again_only_if_asked(tmp_path: Path) -> None:
    plan, broken = Fixed(trials=30), True

    def fails(place: int) -> Job:
        return Job(name=place, work=divided, args=(place if place % 3 or not broken else None,))

    def kept(done):  # type: ignore[no-untyped-def]
        if done.failure is None:
            return record(done)
        from dataclasses import replace

        return replace(record(replace(done, value=0)), outcome="failed", trajectory=None, failure=done.failure)

    with Store(tmp_path / "store", axes=("bit",)) as store:

        def go_on(*, retry_failed: bool) -> int:
            carry_out_rounds(
                plan, SPACE, 0, store, Here(), job=fails, record=kept, watch=Quiet(), retry_failed=retry_failed
            )
            return sum(outcome == "failed" for outcome in store.outcomes().values())

        failed = go_on(retry_failed=False)
        assert failed > 0
        broken = False
        assert go_on(retry_failed=False) == failed
        assert go_on(retry_failed=True) == 0
        assert store.trials() == 30


def divided(place: int | None) -> int:
    if place is None:
        raise ZeroDivisionError("no place")
    return place % 1000


def test_batches_follow_each_other_until_the_plan_is_content(tmp_path: Path) -> None:
    carry_out(tmp_path / "store")
    outcomes = {one.place: one.outcome for one in records(tmp_path / "store")}
    assert PLAN.batch(SPACE, 0, outcomes) == ()
    assert set(outcomes) == {place for batch in PLAN.batches(SPACE, 0, outcomes) for place in batch}
