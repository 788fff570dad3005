"""The picture of the taxonomy: a made-up run of each class of outcomes, with the golden runs it is named by."""

from typing import Any

import altair as alt

from ..outcome import OUTCOMES, classify, examples
from ._curves import CURVE_COLOR, CURVE_DASH, SERIES


def taxonomy_chart() -> alt.FacetChart:
    """Draw `miscompute.outcome.examples`, a panel for each row of the table of outcomes, in its order.

    Curves as in `curves_chart`; the golden runs' validation accuracy is drawn for each of them. A grey rule stands
    where the fault first changes a value, a dashed black one at a crash.
    """
    rows: list[dict[str, Any]] = []
    panels: list[str] = []
    training, on_faulty, on_healthy, fault_free = SERIES
    for name, (golden, run) in examples().items():
        panels.append(panel := f"{name} ({classify(run, golden).family})")
        for seed, one in enumerate(golden):
            rows += [
                _row(panel, fault_free, f"golden {seed}", point.step, point.healthy_accuracy) for point in one.points
            ]
        for point in run.points:
            values = {
                on_healthy: point.healthy_accuracy,
                on_faulty: point.faulty_accuracy,
                training: point.train_accuracy,
            }
            rows += [_row(panel, curve, curve, point.step, value) for curve, value in values.items()]
        if run.activated_at is not None:
            rows.append({"panel": panel, "acted": run.activated_at})
        if run.crash is not None:
            rows.append({"panel": panel, "crash": run.crash.step})
    acted = (
        alt.Chart()
        .transform_filter("isValid(datum.acted)")
        .mark_rule(color="#bbbbbb")
        .encode(x="acted:Q", tooltip=[alt.Tooltip("acted:Q", title="the fault first changes a value in step")])
    )
    lines = (
        alt.Chart()
        .transform_filter("isValid(datum.accuracy)")
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("step:Q", title="optimizer step"),
            y=alt.Y("accuracy:Q", title="accuracy", axis=alt.Axis(format=".0%")),
            color=CURVE_COLOR,
            strokeDash=CURVE_DASH,
            detail="line:N",
            tooltip=["curve:N", "step:Q", alt.Tooltip("accuracy:Q", format=".1%")],
        )
    )
    crashes = (
        alt.Chart()
        .transform_filter("isValid(datum.crash)")
        .mark_rule(color="#000000", strokeDash=[4, 4])
        .encode(x="crash:Q", tooltip=[alt.Tooltip("crash:Q", title="crash in step")])
    )
    drawn = alt.layer(acted, lines, crashes, data=alt.InlineData(values=rows)).properties(width=210, height=130)
    chart: alt.FacetChart = drawn.facet(facet=alt.Facet("panel:N", title=None, sort=panels), columns=4).properties(
        title=alt.Title(
            f"The {len(OUTCOMES)} classes of outcomes: runs made up to show them",
            subtitle="grey rule: the fault first changes a value; dashed rule: INF or NaN",
            anchor="start",
            offset=14,
        )
    )
    return chart


def _row(panel: str, curve: str, line: str, step: int, accuracy: float) -> dict[str, Any]:
    return {"panel": panel, "curve": curve, "line": line, "step": step, "accuracy": accuracy}
