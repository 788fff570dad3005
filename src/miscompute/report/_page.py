"""The page of a run directory or a campaign: one file that needs nothing else, with its figures beside it."""

import base64
import json
import math
import shlex
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import vl_convert

from .._invalid import InvalidInput
from ..campaigns import STORE_FILE, CampaignResult, Record, Setting, Store, campaign_of, result_of, words_of
from ..experiment import Recorded, environment, recorded, usable
from ..outcome import (
    CONFIDENCE,
    FAMILIES,
    METRICS,
    OUTCOMES,
    TAIL,
    TRAINING_METRIC,
    Classified,
    Outcome,
    Trajectory,
    end_of,
)
from ..tasks import Recipe
from ._campaign import in_families, rates_rows, with_limits
from ._curves import SERIES, recorded_chart, trial_chart, write_png
from ._rates import family_of, rates_by_chart, rates_chart
from ._tables import ends_of, limits_of

MOST_LABELS = 128
"""Values of an axis that rates are given for; where there are more, each has few trials."""

_MAIN = ("bit", "pass", "layer")  # axes that come first, and whose figures are files too, with those of the settings
_EXPERIMENT = "experiment.json"

Cell = str | int | float | None
_Chart = dict[str, Any]  # a specification, which is slow to check, so it is made once


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A table of the page: headings, rows of texts, and a remark under it."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class _By:
    """An axis: its chart, and the numbers in it; or why there are none."""

    axis: str
    table: _Table | None = None
    chart: _Chart | None = None
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class _Page:
    """What is on the page. ``columns`` are those of the table of trials, by heading."""

    kind: str
    title: str
    about: str
    status: Sequence[str]
    is_complete: bool
    outcomes: _Table | None
    outcomes_chart: _Chart | None = None
    by: Sequence[_By] = ()
    columns: Mapping[str, Sequence[Cell]] = field(default_factory=dict)
    filters: Sequence[str] = ()  # columns to choose rows by
    names: Sequence[str] = ()  # what the command names each trial by
    curves: Sequence[Trajectory | None] = ()
    golden: Sequence[Mapping[str, Trajectory]] = ()  # of each setting
    settings: Sequence[int] = ()  # of each trial
    replay: str = ""
    commands: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    spec: str = ""


def write_report(folder: Path, out: Path | None = None) -> tuple[Path, ...]:
    """Write the page of what a run directory of `train` or the folder of a campaign holds, be it complete or not.

    ``index.html`` needs no other file and no network: it has the rates of outcomes with their intervals, in all and by
    each axis, a table of the trials, the curves of any of them before the golden runs', and how all was made. The main
    figures are beside it as PNG and SVG; for a campaign, the spec too.

    Args:
        folder: the run directory or campaign folder; nothing in it is changed.
        out: where the page goes; None: ``report`` in it.

    Returns:
        The paths written, the page first.

    Raises:
        InvalidInput: if the folder is not there, holds neither, or holds damaged files; if ``out`` cannot be written.
    """
    if not folder.is_dir():
        raise InvalidInput(f"folder={str(folder)!r} is not there; name one that `train` or `campaign` wrote with --out")
    out = folder / "report" if out is None else out
    if (folder / STORE_FILE).is_file():
        page, figures = _of_campaign(folder, out / "spec.toml")
    elif (folder / _EXPERIMENT).is_file():
        page, figures = _of_run(folder)
    else:
        within = sorted(str(path.parent) for name in (STORE_FILE, _EXPERIMENT) for path in folder.glob(f"*/{name}"))
        others = f", but {', '.join(within[:3])}{' and others' if len(within) > 3 else ''} do" if within else ""
        raise InvalidInput(
            f"folder={str(folder)!r} holds neither {_EXPERIMENT} of a run nor {STORE_FILE} of a campaign{others}; name "
            "one that `train` or `campaign` wrote with --out"
        )
    written = [out / "index.html"]
    with usable(out):
        written[0].write_text(_html(page), encoding="utf-8")
        for name, chart in figures.items():
            specification = json.dumps(chart)
            png, svg = out / f"{name}.png", out / f"{name}.svg"
            write_png(specification, png)
            svg.write_text(vl_convert.vegalite_to_svg(specification), encoding="utf-8")
            written += [png, svg]
        if page.spec:
            written.append(out / "spec.toml")
            written[-1].write_text(page.spec, encoding="utf-8")
    return tuple(written)


def _html(page: _Page) -> str:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("miscompute.report", "page"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    source = {
        name: (resources.files(__package__) / "page" / name).read_text("utf-8") for name in ("page.css", "page.js")
    }
    classes = [(name, rule.family, rule.rule) for name, rule in OUTCOMES.items()]
    return templates.get_template("page.html").render(
        page=page,
        css=source["page.css"],
        js=source["page.js"],
        vega=_vega(),
        data=_packed(_data(page)),
        classes=classes,
        confidence=100 * CONFIDENCE,
        made_by=environment()["miscompute"],
    )


def _vega() -> str:
    """Give the source of the charts' library: Vega-Lite, Vega and vega-embed in one."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle


def _of_campaign(folder: Path, spec: Path) -> tuple[_Page, dict[str, _Chart]]:
    with Store(folder / STORE_FILE, read_only=True) as store:
        words, made = store.about("campaign"), store.about("made") or {}
        if words is None:
            raise InvalidInput(f"store {str(store.path)!r} holds no campaign; name one that `campaign` wrote")
        campaign = campaign_of(words)
        result = result_of(campaign, store)
        records = list(store.records())
        golden, golden_runs = store.golden(), store.golden_runs()
    seeds = campaign.spec.golden_seeds
    try:
        outcomes: _Table | None = _outcomes(result)
        chart: _Chart | None = rates_chart(result).to_dict()
        status = ""
    except InvalidInput as error:
        outcomes, chart, status = None, None, f"No rates yet: {error}."
    axes = sorted(campaign.space.axes, key=lambda axis: _MAIN.index(axis) if axis in _MAIN else len(_MAIN))
    found = [] if outcomes is None else [_by(result, axis, records) for axis in axes]
    by = [one for one in found if one is not None]
    settings = [campaign.space.setting(record.place) for record in records]
    labelled = {name for setting in campaign.settings for name in setting.labels}
    figures = {f"rates-by-{one.axis}": one.chart for one in by if one.chart and one.axis in (*_MAIN, *labelled)}
    several = [axis for axis in axes if len({record.labels.get(axis) for record in records}) > 1]
    page = _Page(
        kind="campaign",
        title=campaign.spec.name,
        about=campaign.spec.about,
        status=[*_status(result), *filter(None, [status])],
        is_complete=not result.left,
        outcomes=outcomes,
        outcomes_chart=chart,
        by=by,
        columns=_columns(records, several),
        filters=["family", "outcome", *several],
        names=[str(record.place) for record in records],
        curves=[record.trajectory for record in records],
        golden=[
            {run.name: golden[key] for run in setting.golden(seeds) for key in _keys_of(run.recipe, golden_runs)}
            for setting in campaign.settings
        ],
        settings=settings,
        replay=f"miscompute store replay {shlex.quote(str(folder))} ",
        commands={
            "the campaign": f"miscompute campaign {shlex.quote(str(spec))} --out NEW-FOLDER",
            "as it was started": _command(made.get("command", ())),
            "this page": shlex.join(["miscompute", "report", str(folder)]),
        },
        provenance={
            "faults": "; ".join(campaign.spec.faults) + f" ({campaign.space.size:,} in all)",
            "plan": ", ".join(f"{name} {value}" for name, value in words_of(campaign.plan).items()),
            "seed of the plan": str(campaign.spec.seed),
            "seeds of the golden runs": "; ".join(
                dict.fromkeys(", ".join(str(run.recipe.seed) for run in s.golden(seeds)) for s in campaign.settings)
            ),
            **_settings(campaign.settings),
            **_software(made.get("environment", {})),
            "store": str(store.path),
        },
        spec=campaign.spec.toml(),
    )
    return page, {} if chart is None else {"rates": chart, **figures}


def _of_run(folder: Path) -> tuple[_Page, dict[str, _Chart]]:
    held = recorded(folder)
    status = []
    try:
        judged = held.judged
    except InvalidInput as error:
        judged, status = {}, [f"Not judged: {error}."]
    over = sum(map(held.is_over, held.runs))
    seen = [name for name in held.runs if name in held.trajectories]
    if held.is_complete:
        status.insert(0, f"Complete: {over} runs, {len(held.golden)} of them without a fault.")
    else:
        status.insert(0, f"Unfinished: {over} of {len(held.runs)} runs have ended; the others are as far as they are.")
        if not judged:
            status.append("Runs are judged once all golden runs have ended.")
    fault = next((words["fault"] for words in held.runs.values() if words["fault"]), "no fault")
    recipe = next(iter(held.runs.values()))["recipe"]
    columns: dict[str, list[Cell]] = {
        "run": list(seen),
        "outcome": [judged[name][1].name if name in judged else _unjudged(held, name) for name in seen],
        "family": [judged[name][0].kind if name in judged else None for name in seen],
        **_ends([held.trajectories[name] for name in seen]),
        "why": [judged[name][1].reason if name in judged else None for name in seen],
        "fault": [held.runs[name]["fault"] for name in seen],
        "array": [held.runs[name]["array"] for name in seen],
        "seed": [held.runs[name]["recipe"]["seed"] for name in seen],
        **_happened([held.trajectories[name] for name in seen]),
    }
    page = _Page(
        kind="run",
        title=f"{recipe['model']} on {recipe['data']}: {fault}",
        about="A training with the fault, and the same without it.",
        status=status,
        is_complete=held.is_complete,
        outcomes=_verdicts(held, judged),
        columns=columns,
        names=seen,
        curves=[held.trajectories[name] for name in seen],
        golden=[{name: held.trajectories[name] for name in held.golden if name in held.trajectories}],
        settings=[0] * len(seen),
        commands={
            **({"the experiment": again} if (again := _again(held.command)) else {}),
            "as it was started": _command(held.command),
            "this page": shlex.join(["miscompute", "report", str(folder)]),
        },
        provenance={
            **{name: str(value) for name, value in recipe.items() if name != "seed"},
            "seeds of the golden runs": ", ".join(str(held.runs[name]["recipe"]["seed"]) for name in held.golden),
            **_software(held.environment),
            "run directory": str(folder),
        },
    )
    return page, {"curves": recorded_chart(held).to_dict()} if set(seen) - set(held.golden) else {}


def _keys_of(recipe: Recipe, runs: Mapping[str, Any]) -> list[str]:
    """Find the golden run of a recipe by its words: its key would tell software that made the store from this one."""
    words = asdict(recipe)
    return [
        key
        for key, run in runs.items()
        if all(run["recipe"].get(name, value) == value for name, value in words.items())
    ][:1]


def _status(result: CampaignResult) -> list[str]:
    trials, faults, plan = len(result.outcomes), result.campaign.space.size, words_of(result.campaign.plan)["kind"]
    failed = f" {result.failed:,} failed, and are left out of the rates of the others." if result.failed else ""
    if not result.left:
        return [f"Complete: {trials:,} trials of {faults:,} faults, chosen by the plan '{plan}'.{failed}"]
    said = (
        f"Unfinished: {trials:,} trials of {faults:,} faults so far; the plan '{plan}' asks for {result.left:,} more."
    )
    return [said + failed, "Rates are of the trials that come first in the plan's order; the table has all."]


def _outcomes(result: CampaignResult) -> _Table:
    confidence = 100 * result.campaign.plan.confidence
    first = next(iter(result.rates.values()))
    return _Table(
        headings=("outcome", "trials", "rate, %", f"{confidence:g} % interval"),
        rows=rates_rows(result, indent="\N{EM SPACE}"),
        remark=f"Of {first.trials or 0:,} trials, by {first.method}. Each interval holds by itself.",
    )


def _by(result: CampaignResult, axis: str, records: Sequence[Record]) -> _By | None:
    """Give an axis; None for one of a single value."""
    labels = {record.labels.get(axis) for record in records}
    if len(labels) < 2:
        return None
    if len(labels) > MOST_LABELS:
        return _By(
            axis=axis,
            why_not=f"{len(labels):,} values of {axis} were tried; rates are given for at most {MOST_LABELS}, since "
            "each of more has few trials. The table of trials has them all.",
        )
    try:
        rates = result.rates_by(axis)
    except InvalidInput as error:
        return _By(axis=axis, why_not=f"No rates by {axis}: {error}.")
    names = in_families(result.names)
    rows = []
    for label, found in rates.items():
        trials = max((one.trials or 0 for one in found.values()), default=0)
        cells = [with_limits(found[name]) if name in found else "-" for name in names]
        rows.append(("-" if label is None else str(label), f"{trials:,}", *cells))
    table = _Table(headings=(axis, "trials", *(f"{name}, %" for name in names)), rows=rows)
    return _By(axis=axis, table=table, chart=rates_by_chart(result, axis, rates, names).to_dict())


def _verdicts(held: Recorded, judged: Mapping[str, tuple[Outcome, Classified]]) -> _Table:
    """Tabulate where each run ended, as `outcome_table` does."""
    rows = []
    for name in held.runs:
        outcome, classified = judged.get(name, (None, None))
        said = (str(outcome), classified.name) if outcome and classified else (_unjudged(held, name), "")
        rows.append((name, *ends_of(held.trajectories.get(name), outcome), *said))
    limits = limits_of(outcome for outcome, _ in judged.values())
    return _Table(
        headings=(
            "run",
            "training, %",
            "validation, faulty machine, %",
            "validation, healthy machine, %",
            "outcome",
            "class",
        ),
        rows=[*rows, *((*row, "", "") for row in limits)],
        remark=f"Accuracy where each run ended, the mean of the last {TAIL:.0%} of its evaluations; * is below the "
        f"limit, the {CONFIDENCE:.0%} prediction limit of the golden runs.",
    )


def _unjudged(held: Recorded, name: str) -> str:
    if not held.is_over(name):
        return "under way" if name in held.trajectories else "not begun"
    return "golden" if name in held.golden else "not judged"


def _columns(records: Sequence[Record], axes: Sequence[str]) -> dict[str, Sequence[Cell]]:
    runs = [record.trajectory for record in records]
    return {
        "trial": [record.place for record in records],
        "outcome": [record.outcome for record in records],
        "family": [record.family for record in records],
        **_ends(runs),
        **{axis: [record.labels.get(axis) for record in records] for axis in axes},
        "fault": [record.fault for record in records],
        **_happened(runs),
        "failure": [record.failure for record in records],
        "seconds": [round(record.seconds, 2) for record in records],
    }


def _ends(runs: Iterable[Trajectory | None]) -> dict[str, list[Cell]]:
    """Say where runs ended, in per cent, as the judge sees it; nothing for those that crashed."""
    found: dict[str, list[Cell]] = {"healthy %": [], "faulty %": [], "training %": []}
    for run in runs:
        ended = run is not None and run.crash is None and run.points
        for cells, metric in zip(found.values(), (*reversed(METRICS), TRAINING_METRIC), strict=True):
            cells.append(round(100 * end_of(run, metric), 2) if run is not None and ended else None)
    return found


def _happened(runs: Sequence[Trajectory | None]) -> dict[str, list[Cell]]:
    return {
        "values changed": [run.changed if run else None for run in runs],
        "first in step": [run.activated_at if run else None for run in runs],
        "golden again after": [run.rejoined if run else None for run in runs],
        "crash in step": [run.crash.step if run and run.crash else None for run in runs],
        "first INF or NaN": [run.crash.tensor if run and run.crash else None for run in runs],
    }


def _settings(settings: Sequence[Setting]) -> dict[str, str]:
    """Say what is trained on what array, by what tells a setting from the others."""
    labels = [", ".join(f"{name} {value}" for name, value in setting.labels.items()) for setting in settings]
    return {
        f"setting: {label}" if label else "setting": f"{setting.recipe}, {setting.array}"
        for label, setting in zip(labels, settings, strict=True)
    }


def _software(found: Mapping[str, Any]) -> dict[str, str]:
    versions = [f"{name} {value}" for name, value in found.items() if name not in ("machine", "processor")]
    named = {
        "software": ", ".join(versions),
        "machine": found.get("machine"),
        "vector instructions": found.get("processor"),
    }
    return {name: str(value) for name, value in named.items() if value}


def _command(argv: Sequence[str]) -> str:
    """Spell the command that was recorded; our own is called by its name, wherever it was."""
    return shlex.join(["miscompute", *argv[1:]] if _is_ours(argv) else argv) or "not recorded"


def _again(argv: Sequence[str]) -> str:
    """Spell the command that does the same in another folder; empty if it was started from a program."""
    if not _is_ours(argv):
        return ""
    kept = [word for before, word in pairwise(argv) if "--out" not in (before, word)]
    others = [word for word in kept if word != "--resume" and not word.startswith("--out=")]
    return f"{shlex.join(['miscompute', *others])} --out NEW-FOLDER"


def _is_ours(argv: Sequence[str]) -> bool:
    return bool(argv) and Path(argv[0]).name in ("miscompute", "__main__.py")


def _data(page: _Page) -> dict[str, Any]:
    """Give what the page's script reads. Equal curves, and equal lists of steps, are there once."""
    steps: dict[tuple[int, ...], int] = {}
    curves: dict[tuple[Any, ...], int] = {}

    def curve(run: Trajectory | None) -> int | None:
        if run is None:
            return None
        at = tuple(point.step for point in run.points)
        columns = [  # in the order of `SERIES`
            tuple(_short(getattr(point, name)) for point in run.points)
            for name in (TRAINING_METRIC, *METRICS, "train_loss")
        ]
        return curves.setdefault((steps.setdefault(at, len(steps)), *columns), len(curves))

    trials = [curve(run) for run in page.curves]
    golden = [{name: curve(run) for name, run in runs.items()} for runs in page.golden]
    return {
        "columns": [
            {"name": name, **_column(name, cells)}
            for name, cells in page.columns.items()
            if any(cell is not None for cell in cells)
        ],
        "filters": page.filters,
        "names": page.names,
        "curve": trials,
        "setting": page.settings,
        "golden": golden,
        "steps": list(steps),
        "curves": list(curves),
        "series": list(SERIES),
        "replay": page.replay,
        "rules": {name: rule.rule for name, rule in OUTCOMES.items()},
        "order": {"outcome": [*OUTCOMES], "family": [*FAMILIES]},
        "families": {name: family_of(name) for name in OUTCOMES},
        "charts": {
            "outcomes": page.outcomes_chart,
            "by": {one.axis: one.chart for one in page.by if one.chart is not None},
            "trial": trial_chart().to_dict(),
        },
    }


_TEXTS = ("fault", "why", "failure", "run", "array")  # columns of words that mostly differ from row to row


def _column(name: str, cells: Sequence[Cell]) -> dict[str, Any]:
    """Pack a column: words as places in a list of them, which is in the order to sort by: outcomes, the worst first."""
    if name in _TEXTS or not any(isinstance(cell, str) for cell in cells):
        return {"kind": "text" if name in _TEXTS else "number", "cells": list(cells)}
    order = {word: place for place, word in enumerate([*OUTCOMES, *FAMILIES])}
    words = sorted(
        {str(cell) for cell in cells if cell is not None}, key=lambda word: (order.get(word, len(order)), word)
    )
    places = {word: place for place, word in enumerate(words)}
    return {"kind": "word", "words": words, "cells": [None if cell is None else places[str(cell)] for cell in cells]}


def _short(value: float) -> float | None:
    """Write a number of a curve to five digits, finer than any screen; JSON has no infinity."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _packed(data: Mapping[str, Any]) -> str:
    """Pack what the script reads: JSON, deflated, in base64, which no text in it can end or escape from."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), level=9)).decode()
