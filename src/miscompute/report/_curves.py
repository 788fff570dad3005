"""The figure of the talk: accuracy over training, with the fault and without."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from PIL import Image

from ..experiment import Recorded, Result, Run, usable
from ..outcome import Trajectory

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
    recipe, array = result.experiment.recipe, result.experiment.array
    return _faceted(
        {_panel(run): result.trajectories[run.name] for run in result.experiment.runs() if run.name in result.outcomes},
        next(iter(result.trajectories.values())),
        title=f"{recipe.model} on {recipe.data}, {array.rows} x {array.cols} MACs, {result.experiment.fault}",
        subtitle=f"{recipe.optimizer}, seed {recipe.seed}",
    )


def recorded_chart(recorded: Recorded) -> alt.FacetChart:
    """Draw the runs with the fault that a run directory holds, as far as they are, in the same way."""
    faulty = [name for name in recorded.trajectories if name not in recorded.golden]
    words = recorded.runs[recorded.golden[0]]["recipe"]
    fault = recorded.runs[faulty[0]]["fault"] if faulty else "no fault yet"
    golden = recorded.trajectories.get(recorded.golden[0], Trajectory(points=(), validation_images=0))
    return _faceted(
        {name: recorded.trajectories[name] for name in faulty},
        golden,
        title=f"{words['model']} on {words['data']}, {fault}",
        subtitle=f"{words['optimizer']}, seed {words['seed']}",
    )


def _faceted(runs: Mapping[str, Trajectory], golden: Trajectory, *, title: str, subtitle: str) -> alt.FacetChart:
    rows: list[dict[str, Any]] = []
    for panel, trajectory in runs.items():
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
    chart: alt.FacetChart = drawn.facet(column=alt.Column("panel:N", title=None, sort=list(runs))).properties(
        title=alt.Title(title, subtitle=subtitle, anchor="start")
    )
    return chart


def trial_chart() -> alt.VConcatChart:
    """Draw a run against the golden runs of its setting: accuracies, and the training loss under them.

    The data sets ``run``, ``golden`` and ``marks`` are for the page to fill in. The band is from the lowest to the
    highest golden run; each is a thin line in it. A grey rule stands where the fault first changes a value, a blue one
    where all is golden again, a dashed black one at a crash.
    """
    run, golden, marks = (alt.Chart(alt.NamedData(name)) for name in ("run", "golden", "marks"))
    step = alt.X("step:Q", title="optimizer step", scale=alt.Scale(nice=False))

    def panel(values: str, title: str, height: int, legend: alt.Legend | None, **y: Any) -> alt.LayerChart:
        blue = SERIES["golden: validation"][0]
        shown = f"datum.what == '{values}'"
        at, value = alt.Tooltip("step:Q"), alt.Tooltip("value:Q", format=".4~g")
        axis = alt.Y("value:Q", title=title, **y)
        scales = (alt.Scale(domain=list(SERIES), range=[styles[n] for styles in SERIES.values()]) for n in (0, 1))
        color, dash = (
            channel("curve:N", title=None, scale=scale, legend=legend)  # of one legend, or they contradict each other
            for channel, scale in zip((alt.Color, alt.StrokeDash), scales, strict=True)
        )
        band = golden.mark_area(color=blue, opacity=0.18).encode(
            x=step, y=alt.Y("min(value):Q", title=title, **y), y2="max(value):Q"
        )
        lines = golden.mark_line(color=blue, strokeWidth=0.8, opacity=0.7).encode(
            x=step, y=axis, detail="name:N", tooltip=["name:N", at, value]
        )
        dashes = alt.Scale(domain=["no", "yes"], range=[[1, 0], [4, 4]])
        rules = marks.mark_rule(strokeWidth=1.5).encode(
            x="step:Q",
            color=alt.Color("color:N", scale=None),
            strokeDash=alt.StrokeDash("dash:N", scale=dashes, legend=None),
            tooltip=[alt.Tooltip("said:N", title="what"), at],
        )
        dot = alt.OverlayMarkDef(size=22, filled=True, opacity=1)
        curves = run.mark_line(strokeWidth=2, point=dot).encode(
            x=step, y=axis, color=color, strokeDash=dash, tooltip=["curve:N", at, value]
        )
        of_panel = (layer.transform_filter(shown) for layer in (band, lines, curves))
        drawn: alt.LayerChart = (
            alt.layer(*of_panel, rules)
            .resolve_scale(color="independent", strokeDash="independent")
            .properties(width=440, height=height)
        )
        return drawn

    legend = alt.Legend(orient="bottom", columns=2, labelLimit=400, symbolType="stroke", symbolStrokeWidth=2)
    accuracy = panel("accuracy", "accuracy", 220, legend, axis=alt.Axis(format="~%"), scale=alt.Scale(zero=False))
    wide = alt.Scale(type="symlog", constant=0.1)  # losses may be 0, and after a fault enormous
    loss = panel("loss", "training loss", 90, None, scale=wide, axis=alt.Axis(tickCount=4))
    chart: alt.VConcatChart = alt.vconcat(accuracy, loss, spacing=14).resolve_scale(x="shared")
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
        write_png(specification, png, scale=scale)
        html.write_text(vl_convert.vegalite_to_html(specification, bundle=True))
    return png, html


def write_png(specification: str, path: Path, *, scale: float = 2.0) -> None:
    """Draw a chart's specification; with a palette the file is a tenth as large, and looks the same."""
    drawn = Image.open(BytesIO(vl_convert.vegalite_to_png(specification, scale=scale)))
    drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
