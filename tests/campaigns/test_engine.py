"""Every engine keeps one contract: the same rows, and a worker's end costs its job only, tried again, then given up."""

import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.campaigns.made_up import Here, results

from miscompute import InvalidInput, campaigns
from miscompute.campaigns import ENGINES, Done, Engine, Job, engine_named, spec_of

HANGS = 0.5

# Workers import this module for its jobs, so it names `campaigns.campaign` only where that is called: it loads PyTorch.
TEXT: dict[str, Any] = {
    "name": "text",
    "faults": "weight[0..7,0..7] bit 20..30 flip transient step * pass * layer *",
    "plan": {"kind": "fixed", "trials": 6},
    "golden_seeds": 2,
    "task": {"data": "tiny_shakespeare", "model": "gpt", "width": 0.25, "steps": 3, "batch_size": 2},
}


def doubled(value: int) -> int:
    return 2 * value


def ends(path: Path, times: int) -> str:
    """End the process without a word, as often as is said; then work."""
    with path.open("a") as file:
        file.write("x")
    if path.stat().st_size <= times:
        os._exit(3)
    return "at last"


def hangs() -> None:
    time.sleep(60)


def raises(error: Exception) -> None:
    raise error


def carried_out(engine: Engine, jobs: list[Job]) -> dict[object, Done]:
    return {done.job.name: done for done in engine.run(jobs) if done is not None}


@pytest.fixture(scope="module", params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "ray":
        pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Ray says of itself when it starts
        with engine_named(request.param, workers=2) as started:
            yield started


def test_jobs_are_carried_out_each_once(engine: Engine) -> None:
    found = carried_out(engine, [Job(name=place, work=doubled, args=(place,)) for place in range(23)])
    assert {name: done.value for name, done in found.items()} == {place: 2 * place for place in range(23)}
    assert all(done.failure is None and done.attempts == 1 for done in found.values())


def test_a_worker_that_ends_costs_its_job_only(engine: Engine, tmp_path: Path) -> None:
    jobs = [Job(name=place, work=doubled, args=(place,)) for place in range(6)]
    jobs.insert(2, Job(name="once", work=ends, args=(tmp_path / "once", 1)))
    jobs.insert(4, Job(name="always", work=ends, args=(tmp_path / "always", 9)))
    found = carried_out(engine, jobs)
    assert [found[place].value for place in range(6)] == [0, 2, 4, 6, 8, 10]
    assert (found["once"].value, found["once"].failure, found["once"].attempts) == ("at last", None, 2)
    assert found["always"].attempts == 2
    assert "the worker ended" in str(found["always"].failure)


def test_what_a_job_raises_is_its_failure_at_once(engine: Engine) -> None:
    jobs = [Job(name="bad", work=raises, args=(ValueError("two\nlines"),)), Job(name="good", work=doubled, args=(1,))]
    found = carried_out(engine, jobs)
    assert (found["bad"].failure, found["bad"].attempts) == ("ValueError: two", 1)
    assert found["good"].value == 2


def test_bad_input_goes_through(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match="bit=99 is outside"):
        carried_out(engine, [Job(name=0, work=raises, args=(InvalidInput("bit=99 is outside"),))])


def test_a_job_that_hangs_is_given_up() -> None:
    jobs = [Job(name="hangs", work=hangs, timeout_seconds=HANGS), Job(name="good", work=doubled, args=(1,))]
    with engine_named("pool", workers=1) as engine:
        found = carried_out(engine, jobs)
    assert (found["hangs"].failure, found["hangs"].attempts) == ("no end within 0.5 seconds", 2)
    assert found["good"].value == 2


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, and in ``alone`` what a campaign on it gives in this process."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "tinyshakespeare.txt").write_text("To be, or not to be, that is the question:\n" * 200)
    campaigns.campaign(spec_of(TEXT), folder / "alone", engine=Here(), shortcuts=False, data_folder=folder, quiet=True)
    return folder


def test_every_engine_gives_the_same_rows(engine: Engine, text: Path, tmp_path: Path) -> None:
    """In two workers, which find the text of their own in its folder."""
    campaigns.campaign(spec_of(TEXT), tmp_path, engine=engine, data_folder=text, quiet=True)
    alone = results(text / "alone")
    assert len(alone) == 6
    assert results(tmp_path) == alone


@pytest.mark.parametrize(
    ("name", "workers", "message"),
    [("slurm", 1, "engine='slurm' is unknown; choose one of pool, ray"), ("pool", -1, "workers=-1 must be at least 1")],
)
def test_what_is_no_engine_is_refused(name: str, workers: int, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        engine_named(name, workers=workers)


def test_a_limit_that_nothing_can_meet_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"timeout_seconds=0.0 must be positive, or left out for none"):
        Job(name=0, work=hangs, timeout_seconds=0.0)
