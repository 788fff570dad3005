"""Runs: reproducible, resumable to the bit, and judged right at the extremes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from miscompute import nvdla_small, parse_fault
from miscompute.experiment import Experiment, Run, execute
from miscompute.outcome import judge
from miscompute.tasks import DataSet, Recipe, Training, load_data

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(data="cluttered_digits", model="lenet5", batch_size=16, steps=7, evaluate_every=3, lr=1e-3, seed=5)


@pytest.fixture(scope="module")
def data() -> DataSet:
    """A hundred of the embedded images to train on, fifty to validate."""
    whole = load_data("cluttered_digits")
    return replace(
        whole,
        train_images=whole.train_images[:100],
        train_labels=whole.train_labels[:100],
        validation_images=whole.validation_images[:50],
        validation_labels=whole.validation_labels[:50],
    )


def run_with(fault: str | None, *, swizzle: str = "none", recipe: Recipe = RECIPE) -> Run:
    if fault is None:
        return Run(name="golden", recipe=recipe)
    return Run(name="faulty", recipe=recipe, array=nvdla_small(swizzle=swizzle), fault=parse_fault(fault))


def checkpoint(folder: Path) -> object:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return bool(a == b)


def is_last(reached: list[int], step: int) -> bool:
    return reached[-1] == step


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("fault", [None, "weight[0,0] bit 28 stuck-at 0"])
def test_resumed_after_any_step_it_is_the_same_to_the_bit(
    data: DataSet, tmp_path: Path, fault: str | None, optimizer: str
) -> None:
    run = run_with(fault, swizzle="step", recipe=replace(RECIPE, optimizer=optimizer))
    whole = execute(run, data, tmp_path / "whole")
    for stop_at in range(RECIPE.steps):
        folder = tmp_path / f"stopped-{stop_at}"
        reached: list[int] = []
        execute(run, data, folder, report=reached.append, stop=partial(is_last, reached, stop_at))
        torch.rand(1)  # what else happens to the generators in between does not matter
        assert execute(run, data, folder) == whole
        assert same(checkpoint(folder), checkpoint(tmp_path / "whole"))


def test_a_fault_out_of_reach_is_not_activated_and_changes_no_bit(data: DataSet, tmp_path: Path) -> None:
    golden = execute(run_with(None), data, tmp_path / "golden")
    faulty = execute(run_with("weight[0,0] bit 30 stuck-at 0"), data, tmp_path / "faulty")
    assert faulty.changed == 0
    assert faulty.points == golden.points
    outcome = judge(faulty, [golden, golden])
    assert (outcome.kind, outcome.activated) == ("nothing", False)


def test_a_huge_weight_is_a_crash_in_the_first_step(data: DataSet, tmp_path: Path) -> None:
    run = run_with("weight[0,0] bit 30 stuck-at 1")
    found = execute(run, data, tmp_path)
    assert found.crash is not None
    assert found.crash.step == 0
    # Independently: the outputs of the first layers, with the words set by hand.
    training = Training(RECIPE, data)
    images, _ = training.batch()
    state = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    for name in ("conv1.weight", "conv2.weight"):
        state[name].view(torch.int32)[0::8, 0::8] |= 1 << 30
    first = F.conv2d(images, state["conv1.weight"], state["conv1.bias"])
    second = F.conv2d(F.max_pool2d(first.relu(), 2), state["conv2.weight"], state["conv2.bias"])
    expected = "output of conv2" if first.isfinite().all() else "output of conv1"
    assert not second.isfinite().all()
    assert found.crash.tensor == expected
    assert judge(found, []).kind == "crash"


def test_a_transient_crash_has_its_own_step(data: DataSet, tmp_path: Path) -> None:
    found = execute(run_with("weight[0,0] bit 30 stuck-at 1 transient step 4"), data, tmp_path)
    assert found.crash is not None
    assert found.crash.step == 4
    assert [point.step for point in found.points] == [3]
    assert execute(run_with("weight[0,0] bit 30 stuck-at 1 transient step 4"), data, tmp_path) == found


def test_the_lowest_bit_is_nothing(tmp_path: Path) -> None:
    data = load_data("cluttered_digits")
    recipe = replace(RECIPE, batch_size=32, steps=120, evaluate_every=12)
    golden = [
        execute(run_with(None, recipe=replace(recipe, seed=seed)), data, tmp_path / f"golden-{seed}") for seed in (5, 6)
    ]
    faulty = execute(run_with("weight[0,0] bit 0 stuck-at 0", recipe=recipe), data, tmp_path / "faulty")
    outcome = judge(faulty, golden)
    assert outcome.activated
    assert outcome.kind == "nothing"


def test_an_experiment_names_its_runs() -> None:
    experiment = Experiment(
        recipe=RECIPE,
        array=nvdla_small(),
        fault=parse_fault("weight[0,0] bit 28 stuck-at 0"),
        golden_seeds=2,
        swizzles=("step", "random:3"),
    )
    assert [run.name for run in experiment.runs()] == [
        "golden-5",
        "faulty",
        "swizzled-step",
        "swizzled-random-3",
        "golden-6",
    ]


def command(out: Path, *more: str) -> list[str]:
    small = ["--width", "0.05", "--steps", "60", "--evaluate-every", "5", "--golden-seeds", "2", "--workers", "2"]
    return [sys.executable, "-m", "miscompute", "train", *small, "--quiet", "--out", str(out), *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that was never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(out), check=True, stdout=subprocess.DEVNULL, timeout=300)
    return out


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_it_resumes_to_the_same_curves(
    tmp_path: Path, whole: Path, signum: signal.Signals
) -> None:
    out = tmp_path / "run"
    # A group of its own, as a terminal gives: Ctrl-C reaches the workers too.
    process = subprocess.Popen(
        command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not (out / "faulty" / "trajectory.json").exists():
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, signum)
    status = process.wait(timeout=60)
    assert status == (130 if signum == signal.SIGINT else -signal.SIGKILL)
    subprocess.run(command(out, "--resume"), check=True, stdout=subprocess.DEVNULL, timeout=300)
    for name in ("golden-123", "faulty", "swizzled-step", "golden-124"):
        kept, expected = (folder / name / "trajectory.json" for folder in (out, whole))
        assert kept.read_text() == expected.read_text()
