"""The figure of the talk: accuracy over training, with the fault and without."""

from io import BytesIO
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from PIL import Image

from ..experiment import Result, Run, usable

SERIES = {
    "training, on the faulty machine": ("#7f7f7f", [2, 2]),
    "validation, on the faulty machine": ("#e6862e", [1, 0]),
    "validation, on a healthy machine": ("#c22a2a", [1, 0]),
    "golden: validation": ("#2b6cb0", [1, 0]),
}

CURVE_COLOR = alt.Color(
    "curve:N",
    title=None,
    scale=alt.Scale(domain=list(SERIES), range=[color for color, _ in SERIES.values()]),
    legend=alt.Legend(orient="bottom", columns=2, labelLimit=400, symbolType="stroke"),
)
CURVE_DASH = alt.StrokeDash(
    "curve:N", scale=alt.Scale(domain=list(SERIES), range=[dash for _, dash in SERIES.values()]), legend=None
)

_NARROW = 0.05  # accuracies within so little of each other are labelled to a tenth of a per cent


def curves_chart(result: Result) -> alt.FacetChart:
    """Draw the runs with the fault, one panel each, against the golden run of the same seed.

    Four curves over the optimizer steps: training accuracy as the faulty machine sees it, validation accuracy of the
    same model on the faulty and on a healthy machine, and the fault-free run's. A dashed rule stands at a crash. Panels
    are in the order of the runs.
    """
    rows: list[dict[str, Any]] = []
    golden = next(iter(result.trajectories.values()))
    panels: list[str] = []
    for run in result.experiment.runs():
        if run.name not in result.outcomes:
            continue
        trajectory = result.trajectories[run.name]
        panels.append(panel := _panel(run))
        for point in trajectory.points:
            values = (point.train_accuracy, point.faulty_accuracy, point.healthy_accuracy)
            for series, value in zip(list(SERIES)[:3], values, strict=True):
                rows.append({"panel": panel, "step": point.step, "curve": series, "accuracy": value})
        rows += [
            {"panel": panel, "step": point.step, "curve": list(SERIES)[3], "accuracy": point.healthy_accuracy}
            for point in golden.points
        ]
        if trajectory.crash is not None:
            rows.append({"panel": panel, "crash": trajectory.crash.step, "tensor": trajectory.crash.tensor})
    accuracies = [row["accuracy"] for row in rows if "accuracy" in row]
    labels = ".1%" if max(accuracies, default=1) - min(accuracies, default=0) < _NARROW else ".0%"
    recipe = result.experiment.recipe
    lines = (
        alt.Chart()
        .transform_filter("isValid(datum.accuracy)")
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("step:Q", title="optimizer step"),
            y=alt.Y("accuracy:Q", title="accuracy", axis=alt.Axis(format=labels), scale=alt.Scale(zero=False)),
            color=CURVE_COLOR,
            strokeDash=CURVE_DASH,
            tooltip=["curve:N", "step:Q", alt.Tooltip("accuracy:Q", format=".1%")],
        )
    )
    crashes = (
        alt.Chart()
        .transform_filter("isValid(datum.crash)")
        .mark_rule(color="#000000", strokeDash=[4, 4])
        .encode(x="crash:Q", tooltip=[alt.Tooltip("crash:Q", title="crash at step"), "tensor:N"])
    )
    drawn = alt.layer(lines, crashes, data=alt.InlineData(values=rows)).properties(width=360, height=260)
    array = result.experiment.array
    chart: alt.FacetChart = drawn.facet(column=alt.Column("panel:N", title=None, sort=panels)).properties(
        title=alt.Title(
            f"{recipe.model} on {recipe.data}, {array.rows} x {array.cols} MACs, {result.experiment.fault}",
            subtitle=f"{recipe.optimizer}, seed {recipe.seed}",
            anchor="start",
        )
    )
    return chart


def _panel(run: Run) -> str:
    """Entitle a run's panel by its swizzle."""
    assert run.array is not None
    swizzle = str(run.array.swizzle)
    return "no swizzling" if swizzle == "none" else f"swizzle {swizzle}"


def write_chart(chart: alt.TopLevelMixin, stem: Path, *, scale: float = 2.0) -> tuple[Path, Path]:
    """Write a chart as ``stem.png`` and, interactive and readable offline, as ``stem.html``; return both paths.

    ``scale``: pixels of the PNG for one of the page.
    """
    specification = chart.to_json()
    png, html = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "html"))
    with usable(stem.parent):
        drawn = Image.open(BytesIO(vl_convert.vegalite_to_png(specification, scale=scale)))
        # With a palette it is a tenth as large, and looks the same.
        drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(png, optimize=True)
        html.write_text(vl_convert.vegalite_to_html(specification, bundle=True))
    return png, html
