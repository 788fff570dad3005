"""The rule that decides an outcome: against its formula, and by simulation."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from miscompute import InvalidInput
from miscompute.outcome import METRICS, Crash, Point, Trajectory, end_of, judge


def ended_at(accuracy: float, *, images: int = 10_000, changed: int | None = 1) -> Trajectory:
    point = Point(step=10, train_loss=1.0, train_accuracy=accuracy, faulty_accuracy=accuracy, healthy_accuracy=accuracy)
    return Trajectory(points=(point,), validation_images=images, changed=changed)


def test_the_limit_is_the_prediction_limit() -> None:
    golden = [ended_at(a) for a in (0.80, 0.82, 0.84)]
    outcome = judge(ended_at(0.60), golden)
    # mean 0.82, s 0.02, t(0.99, 2) = 6.9646 (any table), sqrt(1 + 1/3) = 1.1547
    assert [verdict.limit for verdict in outcome.verdicts] == pytest.approx(
        [0.82 - 6.9646 * 0.02 * 1.1547] * 2, abs=1e-5
    )
    assert outcome.kind == "silent corruption"
    assert judge(ended_at(0.66), golden).kind == "nothing"


def test_golden_runs_that_agree_do_not_make_a_strict_judge() -> None:
    golden = [ended_at(0.8, images=100)] * 5
    limit = judge(ended_at(0.8, images=100), golden).verdicts[0].limit
    p = 81 / 102
    assert limit == pytest.approx(0.8 - stats.t.ppf(0.99, 4) * np.sqrt(p * (1 - p) / 100) * np.sqrt(1.2))


def test_golden_runs_at_100_per_cent_forgive_a_miss_in_a_thousand() -> None:
    golden = [ended_at(1.0, images=1_000)] * 5
    outcome = judge(ended_at(0.999, images=1_000), golden)
    assert (outcome.kind, outcome.visible_in_training) == ("nothing", False)
    assert outcome.verdicts[0].limit == pytest.approx(
        1 - stats.t.ppf(0.99, 4) * np.sqrt(1001 / 1002 / 1002 / 1_000) * np.sqrt(1.2)
    )
    assert judge(ended_at(0.99, images=1_000), golden).kind == "silent corruption"


def test_training_accuracy_is_measured_on_its_own_labels() -> None:
    few = replace(ended_at(0.8, images=10_000), training_labels=100)
    outcome, p = judge(few, [few] * 5), 81 / 102
    assert outcome.training is not None
    assert outcome.training.resolved == pytest.approx(stats.t.ppf(0.99, 4) * np.sqrt(p * (1 - p) / 100 * 1.2))
    assert outcome.verdicts[0].resolved < outcome.training.resolved / 9


def test_training_accuracy_does_not_decide_and_says_whether_it_would_have_shown() -> None:
    golden = [ended_at(0.8)] * 3

    def ended(*, train_accuracy: float = 0.8, healthy_accuracy: float = 0.8) -> Trajectory:
        point = replace(ended_at(0.8).points[0], train_accuracy=train_accuracy, healthy_accuracy=healthy_accuracy)
        return Trajectory(points=(point,), validation_images=10_000, changed=1)

    seen = judge(ended(train_accuracy=0.2), golden)
    assert (seen.kind, seen.visible_in_training) == ("nothing", True)
    hidden = judge(ended(healthy_accuracy=0.2), golden)
    assert (hidden.kind, hidden.visible_in_training) == ("silent corruption", False)


def test_what_was_not_resolved_is_said() -> None:
    """Golden runs of 0.80, 0.82, 0.84: 6.9646 * 0.02 * 1.1547 is 16.1 points."""
    golden = [ended_at(a) for a in (0.80, 0.82, 0.84)]
    outcome = judge(ended_at(0.82), golden)
    assert outcome.resolved == pytest.approx(0.16084, abs=1e-5)
    assert str(outcome) == "nothing (losses below 16.1 points are not resolved)"
    fine = judge(ended_at(0.8), [ended_at(0.8)] * 3)  # binomial: 6.9646 * 0.004 * 1.1547, 3.2 points
    assert str(fine) == "nothing (losses below 3.2 points are not resolved)"
    assert str(judge(ended_at(0.8, images=20_000), [ended_at(0.8, images=20_000)] * 3)) == "nothing"
    assert str(judge(ended_at(0.3, changed=0), golden)) == "silent corruption"


def test_a_golden_run_that_crashed_is_not_the_faults_doing() -> None:
    crashed = Trajectory(points=(), validation_images=10, crash=Crash(step=4, tensor="loss"))
    faulty_too = replace(crashed, changed=3)
    for run in (ended_at(0.8), faulty_too):
        with pytest.raises(InvalidInput, match=r"golden\[1\] has no fault and crashed in step 4 \(loss\)"):
            judge(run, [ended_at(0.8), crashed])


def test_a_run_without_evaluations_has_no_end() -> None:
    with pytest.raises(InvalidInput, match="it has no evaluations"):
        end_of(Trajectory(points=(), validation_images=10), "healthy_accuracy")


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


def test_each_validation_metric_alone_can_be_silent_corruption() -> None:
    golden = [ended_at(0.8)] * 3
    for metric in METRICS:
        accuracies = {**dict.fromkeys(METRICS, 0.8), metric: 0.5}
        point = Point(step=10, train_loss=1.0, train_accuracy=0.8, **accuracies)
        run = Trajectory(points=(point,), validation_images=10_000, changed=1)
        outcome = judge(run, golden)
        assert outcome.kind == "silent corruption"
        assert [verdict.metric for verdict in outcome.verdicts if verdict.is_below] == [metric]


def test_against_scipy_on_golden_runs_of_many_evaluations() -> None:
    random = np.random.default_rng(1)
    curves = random.uniform(0.5, 0.9, (4, 10))
    golden = [
        Trajectory(points=tuple(ended_at(float(a)).points[0] for a in curve), validation_images=10_000)
        for curve in curves
    ]
    ends = curves[:, -2:].mean(1)
    # The least of a prediction interval: a t distribution, moved to the mean, scaled by s * sqrt(1 + 1 / n).
    limit = stats.t(3, loc=ends.mean(), scale=ends.std(ddof=1) * np.sqrt(1 + 1 / 4)).ppf(0.01)
    assert judge(golden[0], golden).verdicts[1].limit == pytest.approx(limit)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_better_run_is_never_judged_worse(golden: list[float], a: float, b: float) -> None:
    worse, better = (judge(ended_at(end), [ended_at(g) for g in golden]) for end in sorted((a, b)))
    assert worse.kind == "silent corruption" or better.kind == "nothing"
    for verdict in better.verdicts:
        assert verdict.limit <= verdict.golden + 1e-12


@given(st.lists(st.floats(0.3, 0.7), min_size=2, max_size=6), st.integers(2, 10_000))
def test_more_validation_images_never_lower_the_limit(golden: list[float], images: int) -> None:
    few, many = (
        judge(ended_at(0.5, images=n), [ended_at(g) for g in golden]).verdicts[0].limit for n in (images - 1, images)
    )
    assert few <= many


def test_a_crash_outranks_curves_as_good_as_golden() -> None:
    run = replace(ended_at(0.8), crash=Crash(step=11, tensor="loss"))
    outcome = judge(run, [ended_at(0.8)] * 3)
    assert (outcome.kind, outcome.crash, outcome.verdicts) == ("crash", run.crash, ())


def test_a_fault_free_run_is_called_corrupt_once_in_a_hundred() -> None:
    random = np.random.default_rng(0)
    trials = 4_000
    alarms = sum(
        judge(ended_at(ends[0]), [ended_at(end) for end in ends[1:]]).kind != "nothing"
        for ends in random.normal(0.8, 0.05, (trials, 6))
    )
    # Both metrics are one here. Four sigma of a binomial with p = 0.01 about the expected 40.
    assert abs(alarms - 0.01 * trials) < 4 * np.sqrt(0.01 * 0.99 * trials)


def test_with_metrics_that_differ_a_fault_free_run_is_called_corrupt_at_most_twice_in_a_hundred() -> None:
    random = np.random.default_rng(0)
    trials, alarms = 2_000, 0
    for _ in range(trials):
        ends = random.normal(0.8, 0.05, 6)
        healthy = float(random.normal(0.8, 0.05))
        point = replace(ended_at(ends[0]).points[0], healthy_accuracy=healthy, train_accuracy=0.0)
        run = Trajectory(points=(point,), validation_images=10_000, changed=1)
        alarms += judge(run, [ended_at(end) for end in ends[1:]]).kind != "nothing"
    assert 0.01 * trials < alarms < 0.02 * trials + 4 * np.sqrt(0.02 * 0.98 * trials)
