"""Trials: what they share with the golden run changes no bit of what they say."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from miscompute import InvalidInput, nvdla_small, parse_fault
from miscompute.experiment import GoldenRun, Run, execute, record_golden, run_trial
from miscompute.tasks import DataSet, Recipe, Training

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(data="cluttered_digits", model="lenet5", batch_size=8, steps=9, evaluate_every=4, lr=1e-3, seed=5)
SGD = replace(RECIPE, optimizer="sgd", lr=1e-2)
NORMALISED = replace(RECIPE, model="resnet20", width=0.25, steps=3, evaluate_every=2)


def trial(fault: str, recipe: Recipe = RECIPE) -> Run:
    return Run(name="trial", recipe=recipe, array=nvdla_small(), fault=parse_fault(fault))


@pytest.fixture(scope="module")
def goldens(few_digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> dict[Recipe, GoldenRun]:
    """Snapshots of some steps only, so that trials start before, at and after one."""
    size = 3 * sum(tensor.nbytes for tensor in Training(RECIPE, few_digits).model.state_dict().values())
    return {
        recipe: record_golden(
            Run(name="golden", recipe=recipe), few_digits, tmp_path_factory.mktemp("golden"), snapshot_bytes=3 * size
        )
        for recipe in (RECIPE, SGD, NORMALISED)
    }


@pytest.mark.parametrize(
    ("fault", "recipe", "rejoins"),
    [
        ("weight[0,0] bit 28 stuck-at 0", RECIPE, False),
        ("weight[0,0] bit 30 flip transient step 6", RECIPE, None),
        ("weight[0,0] bit 22 flip transient step 4 pass grad_weight", RECIPE, False),
        ("weight[0,0] bit 22 flip transient step 8 layer conv1", SGD, False),
        (
            "weight[7,0] bit 30 flip transient step 5 pass forward layer conv1",
            RECIPE,
            True,
        ),  # a lane that the first layer leaves idle
        ("product[0,0] bit 0 flip transient step 3 pass forward layer conv1 cycle 5", RECIPE, None),
        ("activation[0,0] bit 23 flip intermittent on 1 off 3 start 2", RECIPE, False),
        ("weight[0,0] bit 23 flip bursts mean_on 2 mean_off 3 seed 20", RECIPE, False),  # steps 3 and 5
        ("weight[7,0] bit 23 flip bursts mean_on 2 mean_off 3 seed 1", RECIPE, True),  # after the last step
        ("product[0,0] bit 20 flip arrivals faults_per_step 0.3 seed 0", RECIPE, False),  # steps 3 and 4
        ("weight-memory[conv2.weight,7] bit 28 flip arrivals faults_per_step 0.3 seed 2", RECIPE, False),  # step 6
        ("weight-memory[conv2.weight,7] bit 28 flip transient step 4", RECIPE, False),
        ("weight-memory[conv2.weight,7] bit 28 flip transient step 0", SGD, False),
        ("gradient-memory[conv2.weight,7] bit 29 flip transient step 6", RECIPE, False),
        ("optimizer-memory[conv1.weight,exp_avg,3] bit 27 flip transient step 5", RECIPE, False),
        ("statistics-memory[bn1.running_var,0] bit 20 flip transient step 2", NORMALISED, False),
        ("weight[0,0] bit 5 flip transient step 11", RECIPE, True),  # after the last step
    ],
)
def test_shortcuts_change_no_bit(
    few_digits: DataSet,
    goldens: dict[Recipe, GoldenRun],
    tmp_path: Path,
    fault: str,
    recipe: Recipe,
    rejoins: bool | None,
) -> None:
    run = trial(fault, recipe)
    quick = run_trial(run, few_digits, goldens[recipe])
    assert run_trial(run, few_digits, goldens[recipe], shortcuts=False) == quick
    assert replace(quick, rejoined=None) == execute(run, few_digits, tmp_path)
    assert rejoins is None or (quick.rejoined is not None) == rejoins


def test_what_rejoins_has_the_golden_curve_from_then_on(few_digits: DataSet, goldens: dict[Recipe, GoldenRun]) -> None:
    golden = goldens[RECIPE]
    found = run_trial(trial("weight[7,0] bit 30 flip transient step 5 pass forward layer conv1"), few_digits, golden)
    assert (found.changed, found.activated_at, found.rejoined) == (0, None, 6)
    assert found.points == golden.trajectory.points


def test_a_crash_ends_a_trial_at_once(few_digits: DataSet, goldens: dict[Recipe, GoldenRun]) -> None:
    found = run_trial(trial("weight[0,0] bit 30 stuck-at 1 transient step 6"), few_digits, goldens[RECIPE])
    assert found.crash is not None
    assert (found.crash.step, found.activated_at, found.rejoined) == (6, 6, None)
    assert [point.step for point in found.points] == [4]


def test_a_golden_run_goes_on_from_its_last_snapshot(few_digits: DataSet, tmp_path: Path) -> None:
    run = Run(name="golden", recipe=RECIPE)
    whole = record_golden(run, few_digits, tmp_path / "a")
    assert set(whole.snapshots) == set(range(RECIPE.steps + 1))
    assert len(whole.digests) == RECIPE.steps + 1 == len(set(whole.digests))
    for steps in range(5, RECIPE.steps + 1):
        whole.snapshots[steps].unlink()
    again = record_golden(run, few_digits, tmp_path / "a")
    assert again == whole
    assert record_golden(run, few_digits, tmp_path / "a") == whole  # nothing is left to do


def test_a_snapshot_with_other_values_is_refused(few_digits: DataSet, tmp_path: Path) -> None:
    golden = record_golden(Run(name="golden", recipe=RECIPE), few_digits, tmp_path)
    checkpoint = torch.load(golden.snapshots[4], weights_only=True)
    checkpoint["training"]["model"]["conv1.weight"][0, 0, 0, 0] += 1
    torch.save(checkpoint, golden.snapshots[4])
    with pytest.raises(InvalidInput, match=r"after-4-steps.pt' does not hold the state it should; remove it"):
        run_trial(trial("weight[0,0] bit 22 flip transient step 4"), few_digits, golden)


def test_what_is_no_trial_is_refused(few_digits: DataSet, goldens: dict[Recipe, GoldenRun], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="run='trial' has another recipe than the golden run 'golden'"):
        run_trial(trial("weight[0,0] bit 22 flip", replace(RECIPE, seed=6)), few_digits, goldens[RECIPE])
    with pytest.raises(InvalidInput, match="run='golden' has no fault; a trial has one"):
        run_trial(Run(name="golden", recipe=RECIPE), few_digits, goldens[RECIPE])
    with pytest.raises(InvalidInput, match=r"run='trial' has the fault 'weight\[0,0\] bit 22 flip'"):
        record_golden(trial("weight[0,0] bit 22 flip"), few_digits, tmp_path)
    unstable = replace(RECIPE, optimizer="sgd", lr=1e9)
    with pytest.raises(InvalidInput, match="run 'golden' has no fault and crashed in step"):
        record_golden(Run(name="golden", recipe=unstable), few_digits, tmp_path / "crashed")


def test_a_damaged_snapshot_is_said(few_digits: DataSet, tmp_path: Path) -> None:
    golden = record_golden(Run(name="golden", recipe=RECIPE), few_digits, tmp_path)
    snapshot = golden.snapshots[4]
    snapshot.write_bytes(snapshot.read_bytes()[:-200])
    with pytest.raises(InvalidInput, match=r"after-4-steps.pt' is damaged \(BadZipFile\); remove it"):
        run_trial(trial("weight[0,0] bit 22 flip transient step 4"), few_digits, golden)
