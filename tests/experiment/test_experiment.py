"""Experiments: their files, and what happens when they are interrupted or killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.experiment.made_up import made_up

from miscompute import InvalidInput, nvdla_small, parse_fault
from miscompute.experiment import Experiment, execute, train
from miscompute.outcome import judge
from miscompute.tasks import recipe_for

pytestmark = pytest.mark.usefixtures("one_thread")

EXPERIMENT = Experiment(
    recipe=recipe_for("cluttered_digits", width=0.05, steps=160, evaluate_every=20),
    array=nvdla_small(),
    fault=parse_fault("weight[0,0] bit 28 stuck-at 0"),
    golden_seeds=2,
    swizzles=(),
)


def test_an_experiment_names_its_runs() -> None:
    runs = replace(EXPERIMENT, swizzles=("step", "random:3")).runs()
    assert [run.name for run in runs] == ["golden-123", "faulty", "swizzled-step", "swizzled-random-3", "golden-124"]
    assert [run.recipe.seed for run in runs] == [123, 123, 123, 123, 124]


def test_what_cannot_be_is_refused_before_any_run() -> None:
    with pytest.raises(InvalidInput, match=r"bit=40 is outside fp32 \(0..31; 31 is the sign\)"):
        replace(EXPERIMENT, fault=parse_fault("weight[0,0] bit 40 stuck-at 0"))
    with pytest.raises(InvalidInput, match=r"bit=28 is outside int8 \(0..7; 7 is the sign\)"):
        replace(EXPERIMENT, array=nvdla_small(format="int8"))
    with pytest.raises(InvalidInput, match=r"swizzles=\('step', 'step'\) must differ; name each once"):
        replace(EXPERIMENT, swizzles=("step", "step"))
    with pytest.raises(InvalidInput, match="workers=0 must be at least 1"):
        train(EXPERIMENT, Path("unused"), workers=0)


def test_interrupted_and_killed_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Ctrl-C, kill -9 of the command and kill -9 of a worker, each during another run of the experiment."""
    out = tmp_path / "run"
    small = "--width 0.05 --steps 160 --evaluate-every 20 --golden-seeds 2 --swizzle none --workers 1 --quiet"
    program = str(Path(__file__).with_name("made_up.py"))
    command = [sys.executable, program, "train", *small.split(), "--out", str(out)]

    def steps(name: str) -> int:
        """Say up to which step a run's curves go."""
        path = out / name / "trajectory.json"
        points = json.loads(path.read_text())["points"] if path.exists() else []
        return int(points[-1]["step"]) if points else 0

    def started(until: str, *more: str) -> subprocess.Popen[str]:
        # A group of its own, as a terminal gives: Ctrl-C reaches the worker too.
        process = subprocess.Popen(
            [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        while not steps(until):
            time.sleep(0.01)
            assert process.poll() is None, process.communicate()
        return process

    process = started("golden-123")
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "interrupted: writing checkpoints; continue with --resume\n")
    assert process.returncode == 130
    assert steps("golden-123") < 160

    process = started("faulty", "--resume")
    (worker,) = workers(process.pid)
    process.kill()
    process.communicate(timeout=60)  # returns when the worker, which has the pipe too, is gone
    assert not lives(worker)
    assert steps("faulty") < 160

    process = started("golden-124", "--resume")
    (worker,) = workers(process.pid)
    os.kill(worker, signal.SIGKILL)
    assert process.communicate(timeout=60)[1] == (
        "miscompute: a worker was killed, perhaps for want of memory; continue with --resume and fewer --workers\n"
    )
    assert process.returncode == 2
    assert steps("golden-124") < 160
    assert not (out / "outcome.json").exists()

    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    trajectories = {run.name: execute(run, made_up(), tmp_path / run.name) for run in EXPERIMENT.runs()}
    for name in trajectories:
        kept, expected = ((folder / name / "trajectory.json").read_text() for folder in (out, tmp_path))
        assert kept == expected
    outcome = judge(trajectories["faulty"], [trajectories["golden-123"], trajectories["golden-124"]])
    assert json.loads((out / "outcome.json").read_text()) == json.loads(
        json.dumps({"faulty": dataclasses.asdict(outcome)})
    )
    assert list(json.loads((out / "experiment.json").read_text())["runs"]) == ["golden-123", "faulty", "golden-124"]
    assert not list(out.rglob("*.partial"))


def workers(parent: int) -> list[int]:
    """Find the processes that compute; multiprocessing's resource tracker is one more."""
    children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def lives(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # ended, and nobody has asked how
