"""Experiments: their files, and what happens when they are interrupted or killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from queue import Queue

import pytest
from rich.progress import Progress
from tests.experiment.made_up import made_up

from miscompute import InvalidInput, nvdla_small, parse_fault
from miscompute.experiment import Experiment, Run, _experiment, execute, train
from miscompute.outcome import Crash, Point, Trajectory, judge
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
    with pytest.raises(InvalidInput, match=r"step=160 of Transient is after the training, which has steps 0\.\.159"):
        replace(EXPERIMENT, fault=parse_fault("weight[0,0] bit 28 flip transient step 160"))
    with pytest.raises(InvalidInput, match="start=200 of Intermittent is after the training"):
        replace(EXPERIMENT, fault=parse_fault("weight[0,0] bit 28 flip intermittent on 1 off 1 start 200"))
    replace(EXPERIMENT, fault=parse_fault("weight[0,0] bit 28 flip transient step 159"))


NAMES = {
    "weight[0,0] bit 3 flip transient step 1 layer conv9": r"layer='conv9' of Transient.*choose one of conv1, conv2, ",
    "weight-memory[conv9.weight,0] bit 3 flip": r"name='conv9.weight' of weight-memory is no parameter.*conv1.weight",
    "weight-memory[conv1.weight,999999] bit 3 flip": r"index=999999 of weight-memory",
    "activation-memory[conv9,0] bit 3 flip": r"name='conv9' of activation-memory.*choose one of conv1, conv2, ",
    "weight-memory[conv1.weight,0] bit 3 flip transient step 1 layer conv1": "layer='conv1'.*one of conv1.weight$",
    "optimizer-memory[conv1.weight,momentum,0] bit 3 flip": (
        "^state='momentum' of optimizer-memory is none that optimizer='adam' keeps; choose one of exp_avg, exp_avg_sq$"
    ),
}


@pytest.mark.parametrize("fault", NAMES)
def test_what_the_model_has_not_is_refused_before_any_run(tmp_path: Path, fault: str) -> None:
    with pytest.raises(InvalidInput, match=NAMES[fault]):
        train(replace(EXPERIMENT, fault=parse_fault(fault)), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fault", ["weight-memory[conv1.weight,0] bit 3 flip", "activation-memory[conv2,0] bit 3 flip"])
def test_what_the_model_has_is_taken(fault: str) -> None:
    replace(EXPERIMENT, fault=parse_fault(fault)).check_names()
    replace(EXPERIMENT, fault=parse_fault("weight[0,0] bit 3 flip transient step 1 layer conv1")).check_names()
    kept = parse_fault("optimizer-memory[conv1.weight,momentum_buffer,0] bit 3 flip")
    sgd = replace(EXPERIMENT.recipe, optimizer="sgd")
    replace(EXPERIMENT, fault=kept, recipe=sgd).check_names()
    with pytest.raises(InvalidInput, match=r"optimizer='sgd' keeps; it keeps none without a momentum$"):
        replace(EXPERIMENT, fault=kept, recipe=replace(sgd, momentum=0.0)).check_names()


def point(step: int, accuracy: float) -> Point:
    return Point(
        step=step, train_loss=1.0, train_accuracy=accuracy, faulty_accuracy=accuracy, healthy_accuracy=accuracy
    )


def test_a_golden_run_that_crashed_is_named_and_judges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = Trajectory(points=(point(160, 0.8),), validation_images=100)
    ends = {run.name: good for run in EXPERIMENT.runs()}
    ends["golden-124"] = replace(good, points=(), crash=Crash(step=7, tensor="loss"))
    monkeypatch.setattr(_experiment, "load_data", made_up)
    monkeypatch.setattr(_experiment, "_execute_all", lambda *_, **__: ends)
    with pytest.raises(InvalidInput, match=r"run 'golden-124' has no fault and crashed in step 7 \(loss\)"):
        train(EXPERIMENT, tmp_path, quiet=True)
    assert not (tmp_path / "outcome.json").exists()


@pytest.mark.parametrize("says_ends", [True, False])
def test_without_a_terminal_each_run_that_ends_is_a_line(capsys: pytest.CaptureFixture[str], says_ends: bool) -> None:
    golden, faulty, _ = EXPERIMENT.runs()
    ends = {
        golden: Trajectory(points=(point(160, 0.815),), validation_images=100),
        faulty: Trajectory(points=(), validation_images=100, crash=Crash(step=3, tensor="loss")),
    }
    waiting: dict[Future[Trajectory], Run] = {}
    for run, end in ends.items():
        future: Future[Trajectory] = Future()
        future.set_result(end)
        waiting[future] = run
    with Progress(disable=True) as progress:
        _experiment._collect(waiting, Queue(), progress, {}, says_ends=says_ends)
    printed = capsys.readouterr()
    expected = (
        "1 of 2 runs: golden-123, step 160, validation 81.5 % on the healthy machine\n"
        "2 of 2 runs: faulty, crash at step 3\n"
    )
    assert (printed.out, printed.err) == ("", expected if says_ends else "")


def test_interrupted_and_killed_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Ctrl-C, kill -9 of the command and kill -9 of a worker, each during another run of the experiment."""
    out = tmp_path / "run"
    experiment = replace(EXPERIMENT, recipe=replace(EXPERIMENT.recipe, steps=40, evaluate_every=5, batch_size=16))
    small = "--width 0.05 --steps 40 --evaluate-every 5 --batch-size 16 --golden-seeds 2 --swizzle none --workers 1"
    program = str(Path(__file__).with_name("made_up.py"))
    command = [sys.executable, program, "train", *small.split(), "--quiet", "--out", str(out)]

    def steps(name: str) -> int:
        """Say up to which step a run's curves go."""
        path = out / name / "trajectory.json"
        points = json.loads(path.read_text())["points"] if path.exists() else []
        return int(points[-1]["step"]) if points else 0

    def started(until: str, *more: str) -> subprocess.Popen[str]:
        # A group of its own, as a terminal gives: Ctrl-C reaches the worker too.
        process = subprocess.Popen(
            [*command, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "DAWDLES": until},
        )
        while not steps(until):
            time.sleep(0.01)
            assert process.poll() is None, process.communicate()
        return process

    process = started("golden-123")
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "interrupted: writing checkpoints; continue with --resume\n")
    assert process.returncode == 130
    assert steps("golden-123") < 40

    process = started("faulty", "--resume")
    (worker,) = workers(process.pid)
    process.kill()
    process.communicate(timeout=60)  # returns when the worker, which has the pipe too, is gone
    assert not lives(worker)
    assert steps("faulty") < 40

    process = started("golden-124", "--resume")
    (worker,) = workers(process.pid)
    os.kill(worker, signal.SIGKILL)
    assert process.communicate(timeout=60)[1] == (
        "miscompute: a worker was killed, perhaps for want of memory; continue with --resume and fewer --workers\n"
    )
    assert process.returncode == 2
    assert steps("golden-124") < 40
    assert not (out / "outcome.json").exists()

    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    trajectories = {run.name: execute(run, made_up(), tmp_path / run.name) for run in experiment.runs()}
    for name in trajectories:
        kept, expected = ((folder / name / "trajectory.json").read_text() for folder in (out, tmp_path))
        assert kept == expected
    outcome = judge(trajectories["faulty"], [trajectories["golden-123"], trajectories["golden-124"]])
    recorded = json.loads((out / "outcome.json").read_text())
    assert recorded["rule"] == {
        "metrics": ["faulty_accuracy", "healthy_accuracy"],
        "confidence": 0.99,
        "tail": 0.2,
        "golden_runs": 2,
        "miscompute": version("miscompute"),
    }
    assert recorded["outcomes"]["faulty"].pop("visible_in_training") == outcome.visible_in_training
    assert recorded["outcomes"]["faulty"].pop("resolved") == outcome.resolved
    assert recorded["outcomes"]["faulty"].pop("class") == "within spread"
    assert recorded["outcomes"]["faulty"].pop("reason").startswith("the fault changed values")
    assert recorded["outcomes"] == json.loads(json.dumps({"faulty": dataclasses.asdict(outcome)}))
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
