"""Figures of a campaign: rates of outcomes with their intervals, over the population and by what was chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from ..analysis import Estimate
from ..campaigns import CampaignResult
from ..outcome import OUTCOMES
from ._campaign import in_families, limits, percent

FAMILY_COLORS = {"crash": "#1a1a1a", "silent corruption": "#c22a2a", "nothing": "#2b6cb0"}
_OTHER = "other"
_COLOR = alt.Color(
    "family:N",
    scale=alt.Scale(domain=[*FAMILY_COLORS, _OTHER], range=[*FAMILY_COLORS.values(), "#7f7f7f"]),
    legend=None,
)
_FILL = alt.condition("datum.events > 0", _COLOR, alt.value("white"))
_LEVEL = 100  # letters that fit beside each other under a chart
_MOST_WORDS = 48  # labels of an axis that are written out; more are numbers along a line
_TOOLTIP = [
    alt.Tooltip("outcome:N"),
    alt.Tooltip("said:N", title="rate"),
    alt.Tooltip("events:Q", format=",", title="trials with it"),
    alt.Tooltip("trials:Q", format=",", title="of"),
]

Rates = Mapping[str, Estimate]


def rates_chart(result: CampaignResult) -> alt.LayerChart:
    """Draw the rate of each outcome with its interval: families, and under each its classes."""
    names = in_families(result.rates)
    rows = [_row(name, result.rates[name]) for name in names]
    chart = alt.Chart(alt.InlineData(values=rows))
    weight: Any = alt.condition(f"indexof({[*FAMILY_COLORS]}, datum.value) >= 0", alt.value(700), alt.value(400))
    axis = alt.Axis(labelLimit=200, labelPadding=10, labelFontWeight=weight, domain=False, ticks=False)
    y = alt.Y("outcome:N", sort=names, title=None, axis=axis)
    x = alt.X("low:Q", title="rate", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    rule = chart.mark_rule(strokeWidth=3, opacity=0.45).encode(x=x, x2="high:Q", y=y, color=_COLOR, tooltip=_TOOLTIP)
    point = chart.mark_point(size=50, opacity=1, strokeWidth=1.5).encode(
        x="best:Q", y=y, color=_COLOR, fill=_FILL, tooltip=_TOOLTIP
    )
    text = chart.mark_text(align="left", dx=10, fontSize=11).encode(
        x=alt.datum(1, type="quantitative"), y=y, text="said:N"
    )
    drawn: alt.LayerChart = (
        alt.layer(rule, point, text)
        .properties(width=420, height=22 * len(rows), title=_title(result, "rate of each outcome"))
        .configure_view(stroke=None)
    )
    return drawn


def rates_by_chart(
    result: CampaignResult, axis: str, rates: Mapping[object, Rates], names: Sequence[str]
) -> alt.FacetChart:
    """Draw the rates of outcomes for each value of an axis, with their intervals: a panel an outcome.

    An outcome that a value never had is drawn hollow, with its upper limit.

    Args:
        result: what they are of.
        axis: its name.
        rates: what ``result.rates_by(axis)`` gave.
        names: the outcomes to draw.
    """
    rows = [
        {"label": "-" if label is None else label, **_row(name, found[name])}
        for label, found in rates.items()
        for name in names
        if name in found
    ]
    labels = [row["label"] for row in rows]
    as_numbers = len(rates) > _MOST_WORDS and all(isinstance(label, int | float) for label in labels)
    x: Any = (
        alt.X("label:Q", title=axis, scale=alt.Scale(zero=False, nice=False, padding=8), axis=alt.Axis(format="d"))
        if as_numbers
        else alt.X(
            "label:O",
            title=axis,
            sort=list(dict.fromkeys(labels)),
            axis=alt.Axis(labelAngle=_angle(labels), labelOverlap="greedy"),
        )
    )
    y_axis = alt.Axis(format=".2~%", tickCount=4)
    base = alt.Chart()
    rule = base.mark_rule(strokeWidth=3, opacity=0.4).encode(
        x=x, y=alt.Y("low:Q", title=None, axis=y_axis), y2="high:Q", color=_COLOR, tooltip=["label:N", *_TOOLTIP]
    )
    point = base.mark_point(size=38, opacity=1, strokeWidth=1.5).encode(
        x=x,
        y=alt.Y("best:Q", title=None),
        color=_COLOR,
        fill=_FILL,
        tooltip=["label:N", *_TOOLTIP],
    )
    chart: alt.FacetChart = (
        alt.layer(rule, point, data=alt.InlineData(values=rows))
        .properties(width=640, height=84)
        .facet(
            facet=alt.Facet(
                "outcome:N",
                sort=list(names),
                title=None,
                header=alt.Header(labelAnchor="start", labelFontSize=12, labelFontWeight=600, labelPadding=3),
            ),
            columns=1,
            spacing=10,
        )
        .resolve_scale(y="independent")
        .properties(title=_title(result, f"rate of outcomes by {axis}"))
    )
    return chart


def family_of(name: str) -> str:
    """Give an outcome's family; of a family, itself."""
    return OUTCOMES[name].family if name in OUTCOMES else name if name in FAMILY_COLORS else _OTHER


def _row(name: str, found: Estimate) -> dict[str, Any]:
    said = f"{percent(found.best)} % ({limits(found)})"
    words = {"outcome": name, "family": family_of(name), "said": said, "events": found.events, "trials": found.trials}
    return {**words, "low": found.low, "best": found.best, "high": found.high}


def _angle(labels: Sequence[object]) -> int:
    words = {str(label) for label in labels}
    return -40 if len(words) * max(map(len, words), default=0) > _LEVEL else 0


def _title(result: CampaignResult, what: str) -> alt.Title:
    spec, plan = result.campaign.spec, result.campaign.plan
    said = f"{len(result.outcomes):,} trials of {result.campaign.space.size:,} faults"
    so_far = f", {result.left:,} to come" if result.left else ""
    return alt.Title(
        f"{spec.name}: {what}",
        subtitle=f"{said}{so_far}; {100 * plan.confidence:g} % intervals; hollow: never seen",
        anchor="start",
        offset=12,
    )
