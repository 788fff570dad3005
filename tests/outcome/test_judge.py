"""The rule that decides an outcome: against its formula, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from miscompute import InvalidInput
from miscompute.outcome import Crash, Point, Trajectory, judge


def ended_at(accuracy: float, *, images: int = 10_000, changed: int | None = 1) -> Trajectory:
    point = Point(step=10, train_loss=1.0, train_accuracy=accuracy, faulty_accuracy=accuracy, healthy_accuracy=accuracy)
    return Trajectory(points=(point,), validation_images=images, changed=changed)


def test_the_limit_is_the_prediction_limit() -> None:
    golden = [ended_at(a) for a in (0.80, 0.82, 0.84)]
    outcome = judge(ended_at(0.60), golden)
    # mean 0.82, s 0.02, t(0.99, 2) = 6.9646 (any table), sqrt(1 + 1/3) = 1.1547
    assert [verdict.limit for verdict in outcome.verdicts] == pytest.approx(
        [0.82 - 6.9646 * 0.02 * 1.1547] * 3, abs=1e-5
    )
    assert outcome.kind == "silent corruption"
    assert judge(ended_at(0.66), golden).kind == "nothing"


def test_golden_runs_that_agree_do_not_make_a_strict_judge() -> None:
    golden = [ended_at(0.8, images=100)] * 5
    limit = judge(ended_at(0.8, images=100), golden).verdicts[0].limit
    assert limit == pytest.approx(0.8 - stats.t.ppf(0.99, 4) * np.sqrt(0.8 * 0.2 / 100) * np.sqrt(1.2))


def test_only_the_last_fifth_counts() -> None:
    points = tuple(
        Point(step=s, train_loss=1.0, train_accuracy=a, faulty_accuracy=a, healthy_accuracy=a)
        for s, a in enumerate([0.1] * 8 + [0.8, 0.9])
    )
    found = judge(Trajectory(points=points, validation_images=100), [ended_at(0.8), ended_at(0.9)])
    assert found.verdicts[0].value == pytest.approx(0.85)


def test_a_crash_needs_no_golden_runs_and_comes_first() -> None:
    run = Trajectory(points=(), validation_images=10, changed=3, crash=Crash(step=4, tensor="loss"))
    assert str(judge(run, [])) == "crash at step 4: loss"


def test_a_fault_that_changed_nothing_says_so() -> None:
    assert str(judge(ended_at(0.8, changed=0), [ended_at(0.8)] * 2)) == "nothing (not activated)"


def test_one_golden_run_has_no_spread() -> None:
    with pytest.raises(InvalidInput, match="golden=1 runs have no spread"):
        judge(ended_at(0.8), [ended_at(0.8)])


def test_a_fault_free_run_is_called_corrupt_once_in_a_hundred() -> None:
    random = np.random.default_rng(0)
    trials = 4_000
    alarms = sum(
        judge(ended_at(ends[0]), [ended_at(end) for end in ends[1:]]).kind != "nothing"
        for ends in random.normal(0.8, 0.05, (trials, 6))
    )
    # The three metrics are one here. Four sigma of a binomial with p = 0.01 about the expected 40.
    assert abs(alarms - 0.01 * trials) < 4 * np.sqrt(0.01 * 0.99 * trials)
