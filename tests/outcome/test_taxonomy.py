"""The names of outcomes: each by its example, at its thresholds, and never of another family than the judge's."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miscompute import InvalidInput
from miscompute.outcome import (
    INFERENCE_OUTCOMES,
    OUTCOMES,
    SHARP,
    SHORT_TERM,
    TOLERANCE,
    Crash,
    Point,
    Trajectory,
    classify,
    classify_inference,
    examples,
    judge,
    prediction_limit,
)


def curves(
    train: list[float],
    faulty: list[float] | None = None,
    healthy: list[float] | None = None,
    *,
    changed: int | None = None,
    activated_at: int | None = None,
) -> Trajectory:
    """Make a run, evaluated every ten steps on 1,000 labels."""
    rows = zip(train, faulty or train, healthy or faulty or train, strict=True)
    return Trajectory(
        points=tuple(
            Point(step=10 * (place + 1), train_loss=1.0, train_accuracy=t, faulty_accuracy=f, healthy_accuracy=h)
            for place, (t, f, h) in enumerate(rows)
        ),
        validation_images=1_000,
        training_labels=1_000,
        changed=changed,
        activated_at=activated_at,
    )


GOLDEN = (curves([0.8] * 10),) * 5
LOSS = 0.8 - prediction_limit([0.8] * 5, labels=1_000)  # what passes, 5.2 points


@pytest.mark.parametrize("name", OUTCOMES)
def test_each_class_has_an_example(name: str) -> None:
    golden, run = examples()[name]
    found = classify(run, golden)
    assert (found.name, found.family) == (name, OUTCOMES[name].family)
    assert found.family == judge(run, golden).kind
    assert found.reason
    assert "\n" not in found.reason
    assert str(found) == f"{name} ({found.family}): {found.reason}"


def test_the_page_has_the_tables() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "outcomes.md").read_text()
    rows = [f"| `{name}` | {row.family} | {row.rule} |" for name, row in OUTCOMES.items()]
    assert "\n".join(rows) in page
    assert "\n".join(f"| `{name}` | {rule} |" for name, rule in INFERENCE_OUTCOMES.items()) in page


accuracies = st.lists(st.floats(0, 1), min_size=5, max_size=5)


@st.composite
def runs(draw: st.DrawFn) -> Trajectory:
    near = [0.8 + draw(st.floats(-0.02, 0.02)) for _ in range(5)]  # most curves of free numbers are corrupt
    train, faulty, healthy = (draw(st.one_of(accuracies, st.just(near))) for _ in range(3))
    acted = draw(st.one_of(st.none(), st.integers(0, 60)))
    changed = draw(st.sampled_from([None, 0, 3]))
    crash = draw(st.one_of(st.none(), st.integers(acted or 0, 70).map(lambda step: Crash(step=step, tensor="loss"))))
    rejoined = draw(st.one_of(st.none(), st.integers(1, 70)))
    run = curves(train, faulty, healthy, changed=changed, activated_at=acted)
    return replace(run, crash=crash, rejoined=rejoined)


@given(runs(), st.lists(accuracies, min_size=2, max_size=4))
@settings(max_examples=60, deadline=None)
def test_every_run_has_a_name_of_the_family_that_the_judge_gives(run: Trajectory, golden: list[list[float]]) -> None:
    for fault_free in ([curves(one) for one in golden], [curves([0.8] * 5)] * 3):
        found = classify(run, fault_free)
        assert found.family == OUTCOMES[found.name].family == judge(run, fault_free).kind


@pytest.mark.parametrize(
    ("after", "name"),
    [(0, "immediate INF/NaN"), (1, "short-term INF/NaN"), (2, "short-term INF/NaN"), (3, "late INF/NaN")],
)
def test_a_crash_is_named_by_its_distance_and_needs_no_golden_runs(after: int, name: str) -> None:
    assert SHORT_TERM == 2
    run = replace(curves([0.8], activated_at=7, changed=1), crash=Crash(step=7 + after, tensor="gradient of fc"))
    found = classify(run, [])
    assert (found.name, found.family) == (name, "crash")
    assert "gradient of fc" in found.reason
    assert f"step {7 + after}" in found.reason


def test_a_crash_that_nobody_can_date_is_not_called_immediate() -> None:
    run = replace(curves([0.8], changed=1), crash=Crash(step=0, tensor="loss"))
    found = classify(run, [])
    assert (found.name, found.reason[-12:]) == ("late INF/NaN", "is not known")


def test_a_crash_before_the_fault_is_not_the_faults() -> None:
    run = replace(curves([0.8], activated_at=7, changed=1), crash=Crash(step=6, tensor="loss"))
    with pytest.raises(InvalidInput, match="crashed in step 6, before its fault first changed a value in step 7"):
        classify(run, [])


@pytest.mark.parametrize(
    ("first", "rest", "name"),
    [
        (SHARP + 0.01, SHARP + 0.01, "SharpDegrade"),
        (SHARP - 0.01, SHARP - 0.01, "SlowDegrade"),
        (SHARP + 0.01, SHARP + 1.0, "SharpDegrade"),
        (SHARP + 0.01, SHARP + 1.1, "SharpSlowDegrade"),
        (0, SHARP + 1.1, "SlowDegrade"),
    ],
)
def test_sharp_and_slow_at_their_thresholds(first: float, rest: float, name: str) -> None:
    """In units of what passes. The golden curves are flat, so the end passes as much as one evaluation."""
    run = curves([0.8] * 4 + [0.8 - first * LOSS] + [0.8 - rest * LOSS] * 5, changed=1, activated_at=40)
    assert classify(run, GOLDEN).name == name


def test_a_sharp_fall_within_a_window_is_not_called_slow() -> None:
    """The fault acts in step 45: training accuracy to step 50 is half of before, half of after."""
    run = curves([0.8] * 4 + [0.5] + [0.2] * 5, changed=1, activated_at=45)
    assert classify(run, GOLDEN).name == "SharpDegrade"


def test_training_accuracy_decides_between_low_test_accuracy_and_degraded_training() -> None:
    low = [0.8] * 4 + [0.3] * 6
    assert classify(curves([0.8] * 10, low, changed=1, activated_at=40), GOLDEN).name == "LowTestAccuracy"
    assert classify(curves(low, low, changed=1, activated_at=40), GOLDEN).name == "SharpDegrade"
    fell_and_rose = [0.8] * 4 + [0.3] + [0.8] * 5
    assert classify(curves(fell_and_rose, low, changed=1, activated_at=40), GOLDEN).name == "SharpDegrade"


def test_adapted_is_low_on_the_healthy_machine_only() -> None:
    low, fine = [0.3] * 10, [0.8] * 10
    assert classify(curves(fine, fine, low, changed=1, activated_at=0), GOLDEN).name == "adapted"
    assert classify(curves(fine, low, fine, changed=1, activated_at=0), GOLDEN).name == "LowTestAccuracy"
    assert classify(curves(fine, low, low, changed=1, activated_at=0), GOLDEN).name == "LowTestAccuracy"


@pytest.mark.parametrize("curve", range(3))
def test_an_excursion_in_any_curve_is_recovered_from(curve: int) -> None:
    accuracies = [[0.8] * 10 for _ in range(3)]
    accuracies[curve][5] = 0.5
    found = classify(curves(*accuracies, changed=1, activated_at=40), GOLDEN)
    assert (found.name, found.family) == ("recovered", "nothing")
    assert "50.0 %" in found.reason
    assert "step 60" in found.reason
    # The same dip before the fault acts is not of its doing.
    assert classify(curves(*accuracies, changed=1, activated_at=60), GOLDEN).name == "within spread"


def test_training_accuracy_alone_low_at_the_end_is_said() -> None:
    run = curves([0.8] * 8 + [0.8 - 1.05 * LOSS] * 2, [0.8] * 10, changed=1, activated_at=0)
    found = classify(run, GOLDEN)
    assert found.name == "recovered"
    assert "training accuracy" in found.reason
    assert "at the end" in found.reason


def test_a_fault_free_run_is_said_to_have_left_the_spread_once_in_a_hundred_at_most() -> None:
    random = np.random.default_rng(0)
    trials, names = 250, Counter[str]()
    for _ in range(trials):
        drawn = random.normal(0.5, 0.05, (6, 3, 10))
        golden = [curves(*one.tolist()) for one in drawn[1:]]
        names[classify(curves(*drawn[0].tolist(), changed=1, activated_at=0), golden).name] += 1
    # The ends of training accuracy alarm too, once in a hundred: two in all. Four sigma above.
    assert names["recovered"] < 0.02 * trials + 4 * np.sqrt(0.02 * 0.98 * trials)
    assert names["within spread"] > 0.9 * trials


def test_evaluations_at_other_steps_are_refused() -> None:
    run = curves([0.8] * 9, changed=1)
    with pytest.raises(
        InvalidInput,
        match=r"golden\[0\] is evaluated 10 times, last after step 100, the run 9 times, last after step 90",
    ):
        classify(run, GOLDEN)


def test_inference_by_hand() -> None:
    golden = np.tile(np.arange(8.0)[::-1], (7, 1)).astype(np.float32)  # decision 0, then 1, 2, ...
    faulty = golden.copy()
    faulty[1, 1] = 9  # 1 overtakes 0
    faulty[2, 1:6] = 9  # five do
    faulty[3, 1:5] = 9  # four do: 0 is the fifth
    faulty[4, 1] = 6.9  # close behind
    faulty[5, 7] = -0.0
    faulty[6, 3] = np.nan
    assert classify_inference(golden, faulty).tolist() == [
        "masked",
        "top-1 changed",
        "top-5 changed",
        "top-1 changed",
        "confidence changed",
        "within tolerance",
        "INF/NaN",
    ]
    assert set(classify_inference(golden, faulty)) == set(INFERENCE_OUTCOMES)


def test_the_tolerance_is_of_the_decisions_probability() -> None:
    golden = np.log([[0.7, 0.3]])
    for probability, name in (
        (0.7 - TOLERANCE + 0.001, "within tolerance"),
        (0.7 - TOLERANCE - 0.001, "confidence changed"),
    ):
        assert classify_inference(golden, np.log([[probability, 1 - probability]])).tolist() == [name]
    assert classify_inference(golden, np.log([[0.55, 0.45]]), tolerance=0.2).tolist() == ["within tolerance"]


def test_huge_logits_have_probabilities() -> None:
    golden = np.array([[1e308, -1e308]])
    assert classify_inference(golden, np.array([[1e308, -1.1e308]])).tolist() == ["within tolerance"]


@pytest.mark.parametrize(
    ("golden", "faulty", "tolerance", "message"),
    [
        (np.zeros(3), np.zeros(3), 0.1, r"golden=float64 \(3,\) are no logits"),
        (np.zeros((2, 3)), np.zeros((2, 4)), 0.1, r"faulty=float64 \(2, 4\) is not like golden=float64 \(2, 3\)"),
        (np.zeros((2, 3)), np.zeros((2, 3), np.float32), 0.1, r"faulty=float32 \(2, 3\) is not like"),
        (np.full((1, 2), np.inf), np.zeros((1, 2)), 0.1, "golden: a logit is INF or NaN without any fault"),
        (np.zeros((1, 2)), np.zeros((1, 2)), 1.5, r"tolerance=1.5 is outside 0..1"),
    ],
)
def test_bad_logits_are_refused(golden: np.ndarray, faulty: np.ndarray, tolerance: float, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        classify_inference(golden, faulty, tolerance=tolerance)
