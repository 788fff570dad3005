"""The loop of a campaign: killed at any moment, it loses nothing, tries nothing twice, and ends the same."""

import multiprocessing
import random
from pathlib import Path

from tests.campaigns.made_up import PLAN, SPACE, Here, Quiet, carry_out, carry_out_told, record, records

from miscompute.campaigns import Fixed, Job, Store
from miscompute.campaigns import carry_out as carry_out_rounds

KILLS = 50


def killed_until_done(path: Path, *, pooled: bool, seconds: float, most_seconds: float) -> int:
    """Carry a campaign out in a process that is killed again and again, at moments that nobody chose."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.campaigns.made_up"])
    moments, kills = random.Random(7), 0
    while True:
        begins, begun = context.Pipe(duplex=False)
        process = context.Process(target=carry_out_told, args=(begun, path, pooled, seconds))
        process.start()
        begins.recv()  # it has begun: starting takes long where the machine is busy
        process.join(moments.uniform(0, most_seconds))
        if process.exitcode is not None:
            assert process.exitcode == 0
            return kills
        process.kill()
        process.join()
        kills += 1
        if path.exists() and kills % 10 == 0:
            with Store(path) as store:  # whole at any time
                assert all(store.find(str(place)).outcome == outcome for place, outcome in store.outcomes().items())


def test_killed_fifty_times_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    carry_out(tmp_path / "whole")
    whole = records(tmp_path / "whole")
    assert len(whole) == len({one.place for one in whole}) == 400
    kills = runs = 0
    while kills < KILLS:
        runs += 1
        kills += killed_until_done(tmp_path / f"killed-{runs}", pooled=False, seconds=0.002, most_seconds=0.7)
        assert records(tmp_path / f"killed-{runs}") == whole


def test_a_pool_killed_with_its_parent_leaves_no_one_behind(tmp_path: Path) -> None:
    carry_out(tmp_path / "whole")
    assert killed_until_done(tmp_path / "killed", pooled=True, seconds=0.01, most_seconds=4) >= 0
    assert records(tmp_path / "killed") == records(tmp_path / "whole")


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
