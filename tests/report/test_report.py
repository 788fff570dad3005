"""Reports: what is drawn and tabulated of a small result made up by hand."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from miscompute import Layer, lower, nvdla_small, parse_fault
from miscompute.error import StoredError
from miscompute.experiment import Experiment, Result
from miscompute.outcome import Crash, Point, Trajectory, judge
from miscompute.report import curves_chart, lowering_table, outcome_table, write_chart
from miscompute.tasks import recipe_for


def trajectory(*accuracies: float, healthy: float = 0.0, changed: int | None = None) -> Trajectory:
    return Trajectory(
        points=tuple(
            Point(
                step=10 * (place + 1),
                train_loss=1.0,
                train_accuracy=a + 0.01,
                faulty_accuracy=a,
                healthy_accuracy=a - healthy,
            )
            for place, a in enumerate(accuracies)
        ),
        validation_images=1_000,
        changed=changed,
    )


@pytest.fixture
def result() -> Result:
    experiment = Experiment(
        recipe=recipe_for("cluttered_digits"),
        array=nvdla_small(),
        fault=parse_fault("weight[0,0] bit 28 stuck-at 0"),
        golden_seeds=4,
        swizzles=("step", "stripe"),
    )
    trajectories = {
        "golden-123": trajectory(0.5, 0.8),
        "faulty": trajectory(0.5, 0.799, healthy=0.321, changed=7),
        "swizzled-step": trajectory(0.5, 0.8, changed=7),
        "swizzled-stripe": Trajectory(
            points=(), validation_images=1_000, changed=7, crash=Crash(step=3, tensor="output of conv2")
        ),
        "golden-124": trajectory(0.51, 0.8),
        "golden-125": trajectory(0.5, 0.8),
        "golden-126": trajectory(0.51, 0.8),
    }
    golden = [t for name, t in trajectories.items() if name.startswith("golden")]
    outcomes = {name: judge(t, golden) for name, t in trajectories.items() if not name.startswith("golden")}
    return Result(experiment=experiment, trajectories=trajectories, outcomes=outcomes)


def cells(table: Table) -> list[list[str]]:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(table)
    lines = [line for line in capture.get().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_the_table_of_outcomes(result: Result) -> None:
    table = outcome_table(result)
    assert table.title == "accuracy at the end (mean of the last fifth), %; * below the limit"
    # Four golden runs that agree, 1,000 images: 80 - 4.5407 * sqrt(0.8 * 0.2 / 1,000) * sqrt(1.25) %, t of 3 at 99 %.
    assert cells(table) == [
        ["golden-123", "81.0", "-", "80.0", "golden", ""],
        ["faulty", "80.9", "79.9", "47.8 *", "silent corruption", "adapted"],
        [
            "swizzled-step",
            "81.0",
            "80.0",
            "80.0",
            "nothing (losses below 6.4 points are not resolved)",
            "within spread",
        ],
        ["swizzled-stripe", "-", "-", "-", "crash at step 3: output of conv2", "late INF/NaN"],
        *([name, "81.0", "-", "80.0", "golden", ""] for name in ("golden-124", "golden-125", "golden-126")),
        ["golden mean", "81.0", "80.0", "80.0", "", ""],
        ["limit", "74.7", "73.6", "73.6", "", ""],
    ]


def test_the_table_shows_the_last_fifth_as_the_judge_does(result: Result) -> None:
    """Of ten evaluations the last two, whose mean is 60.0, not the last, 80.0."""
    falling = trajectory(*[0.5] * 8, 0.4, 0.8)
    one = replace(result, trajectories={"golden-123": falling}, outcomes={})
    assert cells(outcome_table(one)) == [["golden-123", "61.0", "-", "60.0", "golden", ""]]


def test_the_table_of_a_lowering() -> None:
    """By hand, on 8 x 8 MACs: the fault's cell computes 1 and 9, its lane carries 0 and 8."""
    layer = Layer(name="conv", n=9, ic=10, oc=9, size=(4, 4), kernel=(3, 3))
    small = Layer(name="fc", n=4, ic=5, oc=6, index=1)
    fault = parse_fault("weight[0,1] bit 28 stuck-at 0")
    errors = lower(fault, nvdla_small(), [layer, small])
    assert cells(
        lowering_table(
            [layer, small], [error for error in errors if not isinstance(error, StoredError) and error.layer == "conv"]
        )
    ) == [
        # cell 1: filter 1 (9 is outside); lane 0: channels 0 and 8; 3 x 3
        ["conv", "forward", "weight", "18", "810", "2.22", "100", "[oc 1:9:8, ic 0:10:8, r 0:3, s 0:3]"],
        # cell 1: channels 1 and 9; lane 0: filters 0 and 8
        ["conv", "grad_input", "weight", "36", "810", "4.44", "100", "[oc 0:9:8, ic 1:10:8, r 0:3, s 0:3]"],
        # cell 1: filter 1; lane 0: images 0 and 8; 2 x 2
        ["conv", "grad_weight", "grad_output", "8", "324", "2.47", "100", "[n 0:9:8, oc 1:9:8, oh 0:2, ow 0:2]"],
        ["fc", "forward", "-", "0", "", "", "", "not reached"],
        ["fc", "grad_input", "-", "0", "", "", "", "not reached"],
        ["fc", "grad_weight", "-", "0", "", "", "", "not reached"],
    ]


def test_a_place_that_few_see_differs_from_one_that_all_see() -> None:
    """By hand: an activation register of cell 1 feeds 1 of 8 results; the bus feeds all."""
    layer = Layer(name="fc", n=8, ic=8, oc=8)

    def seen_by(fault: str) -> dict[str, str]:
        errors = lower(parse_fault(fault), nvdla_small(), [layer])
        return {row[1]: row[6] for row in cells(lowering_table([layer], errors))}

    passes = ("forward", "grad_input", "grad_weight")
    assert seen_by("activation[3,1] bit 3 flip") == dict.fromkeys(passes, "12.50")
    assert seen_by("activation-all[3] bit 3 flip") == dict.fromkeys(passes, "100")
    assert seen_by("result-elements[0,1] bit 3 flip") == dict.fromkeys(passes, "")


def test_passes_in_which_a_transient_is_not_active_say_so() -> None:
    layers = [Layer(name="a", n=8, ic=8, oc=8), Layer(name="b", n=8, ic=8, oc=8, index=1)]
    fault = parse_fault("weight[0,0] bit 3 flip transient step 5 pass grad_input layer b")
    errors = lower(fault, nvdla_small(), layers, step=5)
    at, after = (
        {(row[0], row[1]): row[-1] for row in cells(lowering_table(layers, errors, timing=fault.timing, step=step))}
        for step in (5, 6)
    )
    assert at.pop(("b", "grad_input")) == "[oc 0:8:8, ic 0:8:8]"
    assert set(at.values()) == {"not active"}
    assert len(at) == 5
    assert set(after.values()) == {"not active"}
    stored = parse_fault("weight-memory[a.weight,0] bit 3 flip transient step 5")
    errors = lower(stored, nvdla_small(), layers)
    assert cells(lowering_table(layers, errors, timing=stored.timing, step=6))[0][-1] == "not active"
    assert cells(lowering_table(layers, errors, timing=stored.timing, step=5))[0][-1] == "element 0:1"


def test_the_chart_draws_what_the_result_says(result: Result) -> None:
    chart: dict[str, Any] = curves_chart(result).to_dict()
    (rows,) = chart["datasets"].values()
    last = {(row["panel"], row["curve"]): row["accuracy"] for row in rows if row.get("step") == 20}
    assert last["no swizzling", "training, on the faulty machine"] == pytest.approx(0.809)
    assert last["no swizzling", "validation, on the faulty machine"] == pytest.approx(0.799)
    assert last["no swizzling", "validation, on a healthy machine"] == pytest.approx(0.478)
    assert last["swizzle step", "golden: validation"] == pytest.approx(0.8)
    assert "weight[0,0] bit 28 stuck-at 0" in chart["title"]["text"]


def test_panels_stand_in_the_order_of_the_runs_and_a_crash_has_a_rule(result: Result) -> None:
    chart: dict[str, Any] = curves_chart(result).to_dict()
    assert chart["facet"]["column"]["sort"] == ["no swizzling", "swizzle step", "swizzle stripe"]
    (rows,) = chart["datasets"].values()
    assert [row for row in rows if "crash" in row] == [
        {"panel": "swizzle stripe", "crash": 3, "tensor": "output of conv2"}
    ]
    lines, rule = chart["spec"]["layer"]
    assert (rule["mark"]["type"], rule["encoding"]["x"]["field"]) == ("rule", "crash")
    assert lines["encoding"]["y"]["axis"]["format"] == ".0%"
    seeded = replace(result, experiment=replace(result.experiment, swizzles=("random:3",)))
    outcomes = {"swizzled-random-3": result.outcomes["swizzled-step"]}
    seeded = replace(
        seeded,
        trajectories={**result.trajectories, "swizzled-random-3": result.trajectories["swizzled-step"]},
        outcomes=outcomes,
    )
    assert curves_chart(seeded).to_dict()["facet"]["column"]["sort"] == ["swizzle random:3"]


def test_curves_close_together_are_labelled_finely(result: Result) -> None:
    close = {name: trajectory(0.97, 0.99, changed=1) for name in result.trajectories}
    chart: dict[str, Any] = curves_chart(replace(result, trajectories=close)).to_dict()
    assert chart["spec"]["layer"][0]["encoding"]["y"]["axis"]["format"] == ".1%"


def test_the_figure_is_a_png_and_a_page_that_needs_no_network(result: Result, tmp_path: Path) -> None:
    png, html = write_chart(curves_chart(result), tmp_path / "curves")
    assert (png.name, html.name) == ("curves.png", "curves.html")
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    page = html.read_text()
    assert "no swizzling" in page
    assert not re.search(r"<(script|link|iframe)\b[^>]*\b(src|href)=", page)
