"""Reports: what is drawn and tabulated of a small result made up by hand."""

import re
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
        golden_seeds=2,
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
    }
    golden = [trajectories["golden-123"], trajectories["golden-124"]]
    outcomes = {name: judge(t, golden * 2) for name, t in trajectories.items() if not name.startswith("golden")}
    return Result(experiment=experiment, trajectories=trajectories, outcomes=outcomes)


def cells(table: Table) -> list[list[str]]:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(table)
    lines = [line for line in capture.get().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_the_table_of_outcomes(result: Result) -> None:
    assert cells(outcome_table(result)) == [
        ["golden-123", "81.0", "-", "80.0", "golden"],
        ["faulty", "80.9", "79.9", "47.8", "silent corruption"],
        ["swizzled-step", "81.0", "80.0", "80.0", "nothing"],
        ["swizzled-stripe", "-", "-", "-", "crash at step 3: output of conv2"],
        ["golden-124", "81.0", "-", "80.0", "golden"],
    ]


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
        ["conv", "forward", "weight", "18", "810", "2.22", "[oc 1:9:8, ic 0:10:8, r 0:3, s 0:3]"],
        # cell 1: channels 1 and 9; lane 0: filters 0 and 8
        ["conv", "grad_input", "weight", "36", "810", "4.44", "[oc 0:9:8, ic 1:10:8, r 0:3, s 0:3]"],
        # cell 1: filter 1; lane 0: images 0 and 8; 2 x 2
        ["conv", "grad_weight", "grad_output", "8", "324", "2.47", "[n 0:9:8, oc 1:9:8, oh 0:2, ow 0:2]"],
        ["fc", "forward", "-", "0", "", "", "not reached"],
        ["fc", "grad_input", "-", "0", "", "", "not reached"],
        ["fc", "grad_weight", "-", "0", "", "", "not reached"],
    ]


def test_the_chart_draws_what_the_result_says(result: Result) -> None:
    chart: dict[str, Any] = curves_chart(result).to_dict()
    (rows,) = chart["datasets"].values()
    last = {(row["panel"], row["curve"]): row["accuracy"] for row in rows if row["step"] == 20}
    assert last["no swizzling", "training, on the faulty machine"] == pytest.approx(0.809)
    assert last["no swizzling", "validation, on the faulty machine"] == pytest.approx(0.799)
    assert last["no swizzling", "validation, on a healthy machine"] == pytest.approx(0.478)
    assert last["swizzled, rotating each step", "golden: validation"] == pytest.approx(0.8)
    assert "weight[0,0] bit 28 stuck-at 0" in chart["title"]["text"]


def test_the_figure_is_a_png_and_a_page_that_needs_no_network(result: Result, tmp_path: Path) -> None:
    png, html = write_chart(curves_chart(result), tmp_path / "curves")
    assert (png.name, html.name) == ("curves.png", "curves.html")
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    page = html.read_text()
    assert "no swizzling" in page
    assert not re.search(r"<(script|link|iframe)\b[^>]*\b(src|href)=", page)
