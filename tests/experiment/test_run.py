"""Runs: reproducible, resumable to the bit, and judged right at the extremes."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from miscompute import InvalidInput, nvdla_small, parse_fault
from miscompute.experiment import Run, execute
from miscompute.outcome import Trajectory, judge
from miscompute.tasks import DataSet, Recipe, Training

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(data="cluttered_digits", model="lenet5", batch_size=16, steps=7, evaluate_every=3, lr=1e-3, seed=5)


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


def finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())


def is_last(reached: list[int], step: int) -> bool:
    return reached[-1] == step


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("fault", [None, "weight[0,0] bit 28 stuck-at 0"])
def test_resumed_after_any_step_it_is_the_same_to_the_bit(
    few_digits: DataSet, tmp_path: Path, fault: str | None, optimizer: str
) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, steps=5, evaluate_every=2)
    run = run_with(fault, swizzle="step", recipe=recipe)
    whole = execute(run, few_digits, tmp_path / "whole")
    for stop_at in range(recipe.steps):
        folder = tmp_path / f"stopped-{stop_at}"
        reached: list[int] = []
        execute(run, few_digits, folder, report=reached.append, stop=partial(is_last, reached, stop_at))
        torch.rand(1)  # what else happens to the generators in between does not matter
        before = torch.get_rng_state()
        assert execute(run, few_digits, folder) == whole  # points, and how many values the fault changed
        assert torch.equal(torch.get_rng_state(), before)
        assert same(checkpoint(folder), checkpoint(tmp_path / "whole"))


def test_a_fault_out_of_reach_is_not_activated_and_changes_no_bit(few_digits: DataSet, tmp_path: Path) -> None:
    golden = execute(run_with(None), few_digits, tmp_path / "golden")
    faulty = execute(run_with("weight[0,0] bit 30 stuck-at 0"), few_digits, tmp_path / "faulty")
    assert faulty.changed == 0
    assert faulty.points == golden.points
    outcome = judge(faulty, [golden, golden])
    assert (outcome.kind, outcome.activated) == ("nothing", False)


def test_a_huge_weight_is_a_crash_in_the_first_step(few_digits: DataSet, tmp_path: Path) -> None:
    run = run_with("weight[0,0] bit 30 stuck-at 1")
    found = execute(run, few_digits, tmp_path)
    assert found.crash is not None
    assert found.crash.step == 0
    # Independently: the words set by hand, and the layers one after the other.
    training = Training(RECIPE, few_digits)
    value, _ = training.batch()
    outputs: dict[str, torch.Tensor] = {}
    for name, module in training.model.named_children():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.weight.data.view(torch.int32)[0::8, 0::8] |= 1 << 30
        outputs[name] = value = module(value)
    assert found.crash.tensor == next(f"output of {name}" for name, value in outputs.items() if not finite(value))
    assert found.points == ()
    assert judge(found, []).kind == "crash"


def test_a_transient_crash_has_its_own_step(few_digits: DataSet, tmp_path: Path) -> None:
    found = execute(run_with("weight[0,0] bit 30 stuck-at 1 transient step 4"), few_digits, tmp_path)
    assert found.crash is not None
    assert found.crash.step == 4
    assert [point.step for point in found.points] == [3]
    assert execute(run_with("weight[0,0] bit 30 stuck-at 1 transient step 4"), few_digits, tmp_path) == found


def test_a_crash_in_the_backward_pass_names_a_gradient(few_digits: DataSet, tmp_path: Path) -> None:
    fault = "weight[0,0] bit 30 stuck-at 1 transient step 2 pass grad_input"
    found = execute(run_with(fault), few_digits, tmp_path)
    assert found.crash is not None
    assert found.crash.step == 2
    assert found.crash.tensor.startswith("gradient of the output of ")


def test_values_whose_sum_overflows_are_no_crash_while_each_is_finite(few_digits: DataSet, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimizer="sgd", momentum=0.0, schedule="constant")
    last = recipe.steps - 1
    hit = run_with(f"gradient-memory[fc1.weight,0,4000] set-to 3e38 transient step {last}", recipe=recipe)
    found = execute(hit, few_digits, tmp_path)
    weights = checkpoint(tmp_path)["training"]["model"]["fc1.weight"].flatten()  # type: ignore[index]
    assert finite(weights)
    assert not finite(weights.sum())
    assert found.crash is None
    assert found.points[-1].step == recipe.steps


def test_changed_values_are_counted_once(few_digits: DataSet, tmp_path: Path) -> None:
    """A transient in one pass of one layer, all of whose reached words change: 5 x 5 weights of filter 0 of 6."""
    found = execute(run_with("weight[0,0] bit 0 flip transient step 1 pass forward layer conv1"), few_digits, tmp_path)
    assert found.changed == 25
    fault = "weight[0,0] bit 30 flip transient step 1 pass forward layer conv1"
    found = execute(run_with(fault), few_digits, tmp_path / "crash")
    assert found.crash is not None
    assert found.changed == 25  # the step is repeated to name the tensor, which does not count


@pytest.mark.parametrize("timing", ["transient step 3", "intermittent on 1 off 2", "duty-cycle part 0.9 seed 1"])
def test_evaluations_do_not_meet_a_fault_that_comes_and_goes(few_digits: DataSet, tmp_path: Path, timing: str) -> None:
    """It is active at the first evaluation, after 3 steps, if that were a step; the scrambled weights would show."""
    found = execute(run_with(f"weight-bus[0] bit 29 flip {timing}"), few_digits, tmp_path)
    assert found.points
    assert all(point.faulty_accuracy == point.healthy_accuracy for point in found.points)


def test_a_fault_is_not_activated_by_an_evaluation(few_digits: DataSet, tmp_path: Path) -> None:
    """An evaluation after the last step, and images that only an evaluation's larger batches have."""
    golden = execute(run_with(None), few_digits, tmp_path / "golden")
    late = execute(run_with(f"weight[0,0] bit 20 flip transient step {RECIPE.steps}"), few_digits, tmp_path / "late")
    assert (late.changed, late.points) == (0, golden.points)
    recipe = replace(RECIPE, batch_size=3)
    # Images 4 to 7 of the first layer's input, each of 1,024 pixels; later layers' inputs have fewer than 4,096.
    beyond = replace(run_with(f"input-elements[{4 * 1024},4096] bit 20 flip"), recipe=recipe)
    assert execute(beyond, few_digits, tmp_path / "beyond").changed == 0


def test_a_run_says_on_how_many_labels_training_accuracy_is_measured(few_digits: DataSet, tmp_path: Path) -> None:
    found = execute(run_with(None), few_digits, tmp_path)
    assert (found.training_labels, found.validation_images) == (3 * 16, 50)


def test_afterwards_the_injection_is_off(few_digits: DataSet, tmp_path: Path) -> None:
    execute(run_with("weight[0,0] bit 30 stuck-at 1"), few_digits, tmp_path)
    training = Training(RECIPE, few_digits)
    loss, _ = training.gradients()
    assert finite(loss)
    golden = Training(RECIPE, few_digits)
    images, labels = golden.batch()
    assert torch.equal(loss, F.cross_entropy(golden.model(images), labels))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "one bit": lambda whole: (
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 64]) + whole[len(whole) // 2 + 1 :]
    ),
    "empty": lambda whole: whole[:0],
    "random": lambda whole: np.random.default_rng(0).bytes(len(whole)),
    "another pickle": lambda whole: pickle.dumps(whole),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused(few_digits: DataSet, tmp_path: Path, damage: str) -> None:
    execute(run_with(None), few_digits, tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(InvalidInput, match=r"checkpoint.pt' is damaged .*; remove it to start this run again"):
        execute(run_with(None), few_digits, tmp_path)


def test_another_runs_checkpoint_is_refused(few_digits: DataSet, tmp_path: Path) -> None:
    execute(run_with(None), few_digits, tmp_path)
    with pytest.raises(InvalidInput, match=r"belongs to another run: its array is None.*choose another --out"):
        execute(run_with("weight[0,0] bit 28 stuck-at 0"), few_digits, tmp_path)


def test_the_judgement_of_a_training_that_learns(tmp_path: Path) -> None:
    """On whole digits, which are learnt within seconds: what does not matter is nothing, what does is not."""
    from sklearn.datasets import load_digits

    source = load_digits()
    enlarged = np.kron(np.minimum(source.images * 16, 255).astype(np.uint8), np.ones((1, 4, 4), np.uint8))
    images, labels = torch.from_numpy(enlarged[:, None]), torch.from_numpy(source.target.astype(np.int64))
    data = DataSet(
        name="digits",
        train_images=images[:1297],
        train_labels=labels[:1297],
        validation_images=images[1297:],
        validation_labels=labels[1297:],
        classes=tuple("0123456789"),
        mean=(0.306,),
        std=(0.377,),
        augment=False,
    )
    recipe = replace(RECIPE, lr=2e-3, schedule="one-cycle", steps=100, evaluate_every=20)

    def trained(fault: str | None, seed: int = 5) -> Trajectory:
        run = run_with(fault, recipe=replace(recipe, seed=seed))
        return execute(run, data, tmp_path / f"{fault}-{seed}")

    golden = [trained(None, seed) for seed in (5, 6, 7)]
    kinds = {
        "weight[0,0] bit 0 stuck-at 0": "nothing",
        "weight[0,0] bit 28 stuck-at 1": "nothing",  # set already where 2**-31 <= |w| < 2
        "weight-bus[0] bit 28 stuck-at 0": "silent corruption",
    }
    for fault, kind in kinds.items():
        outcome = judge(trained(fault), golden)
        assert (outcome.kind, outcome.activated) == (kind, True)
        assert all(verdict.limit > 0.7 for verdict in outcome.verdicts)  # chance is 0.1
