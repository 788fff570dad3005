"""Which stuck bits degrade a training? The table and the figure of docs/which_bits.md, from finished campaigns.

miscompute campaign campaigns/alexnet-bits-adam.toml --out runs/adam
miscompute campaign campaigns/alexnet-bits-sgd.toml --out runs/sgd
python examples/which_bits.py runs/adam runs/sgd --out docs/figures/which_bits.png
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import altair as alt
from rich.console import Console
from rich.table import Table

from miscompute import InvalidInput
from miscompute.analysis import compare_rates, rate
from miscompute.campaigns import Record, Store
from miscompute.outcome import end_of, prediction_limit
from miscompute.report import write_png

_COLORS = {"nothing": "#e8edf2", "silent corruption": "#e07b39", "crash": "#444444"}


def read(folder: Path) -> tuple[str, list[Record], float, float]:
    """Give a campaign's optimizer, its trials, and the golden runs' mean accuracy and the limit that passes."""
    with Store(folder / "store.sqlite", read_only=True) as store:
        golden = list(store.golden().values())
        records = list(store.records())
        (optimizer,) = store.about("campaign")["task"]["optimizer"]
    ends = [end_of(run, "healthy_accuracy") for run in golden]
    return optimizer, records, sum(ends) / len(ends), prediction_limit(ends, labels=golden[0].validation_images)


def condition(optimizer: str, record: Record) -> str:
    """Name what a trial has besides the bit."""
    return f"{optimizer}, {record.labels['array']}, stuck at {record.labels['value']}"


def healthy(record: Record) -> float | None:
    """Give a trial's accuracy on a healthy machine at the end; None if it crashed."""
    run = record.trajectory
    return None if run is None or run.crash is not None or not run.points else end_of(run, "healthy_accuracy")


def outcome_table(rows: dict[str, list[Record]]) -> Table:
    """Tabulate the bits of each outcome, condition by condition."""
    table = Table(title="bits by what came of a training with the bit stuck (healthy machine's accuracy, %)")
    for heading in ("condition", "outcome", "bits"):
        table.add_column(heading)
    for name, records in rows.items():
        found: dict[str, list[Record]] = {}
        for record in sorted(records, key=lambda record: -int(record.labels["bit"] or 0)):
            found.setdefault(record.outcome, []).append(record)
        for outcome, those in sorted(found.items(), key=lambda item: (item[1][0].family, item[0])):
            table.add_row(name, outcome, _bits(those))
            name = ""
    return table


def _bits(records: Iterable[Record]) -> str:
    """List bits with accuracies; of those without harm, only the bits, consecutive ones as ranges."""
    records = list(records)
    if records[0].family == "silent corruption":
        return ", ".join(f"{r.labels['bit']} ({100 * (healthy(r) or 0):.0f})" for r in records)
    bits = [int(r.labels["bit"] or 0) for r in records]
    parts: list[list[int]] = []
    for bit in bits:
        if parts and parts[-1][-1] == bit + 1:
            parts[-1].append(bit)
        else:
            parts.append([bit])
    return ", ".join(f"{part[0]}..{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def comparison_table(rows: dict[str, list[Record]]) -> Table:
    """Compare how often training suffers, silently or by a crash, between halves of all trainings."""
    table = Table(title="part of the trainings that suffer, %, as if bits were drawn at random (95 % interval)")
    for heading in ("first", "second", "first", "second", "difference", "resolved"):
        table.add_column(
            heading, justify="left" if heading in ("first", "second") and len(table.columns) < 2 else "right"
        )
    parts = [part for name in rows for part in name.split(", ")]
    for first, second in (("stuck at 1", "stuck at 0"), ("nvdla-small", "nvdla-large"), ("adam", "sgd")):
        if not {first, second} <= set(parts):
            continue
        found = []
        for part in (first, second):
            trials = [record for name, records in rows.items() if part in name.split(", ") for record in records]
            suffer = sum(record.family in ("silent corruption", "crash") for record in trials)
            found.append(rate(suffer, len(trials)))
        compared = compare_rates(*found)
        difference = compared.difference
        table.add_row(
            first,
            second,
            *(f"{100 * one.best:.1f}" for one in found),
            f"{100 * difference.best:.1f} ({100 * difference.low:.1f}..{100 * difference.high:.1f})",
            "yes" if compared.is_different else "no",
        )
    return table


def chart(rows: dict[str, list[Record]], subtitle: str) -> alt.LayerChart:
    """Draw a cell for each training: the colour is the outcome's family, the number the healthy machine's accuracy."""
    cells: list[dict[str, Any]] = []
    for name, records in rows.items():
        for record in records:
            accuracy = healthy(record)
            cells.append(
                {
                    "condition": name,
                    "bit": record.labels["bit"],
                    "family": record.family,
                    "outcome": record.outcome,
                    "text": "" if accuracy is None else f"{100 * accuracy:.0f}",
                }
            )
    base = alt.Chart(alt.InlineData(values=cells)).encode(
        x=alt.X("bit:O", sort="descending", title="stuck bit (31 sign, 30..23 exponent, 22..0 fraction)"),
        y=alt.Y("condition:N", sort=list(rows), title=None, axis=alt.Axis(labelLimit=300)),
    )
    boxes = base.mark_rect(stroke="#ffffff").encode(
        color=alt.Color(
            "family:N",
            title=None,
            scale=alt.Scale(domain=list(_COLORS), range=list(_COLORS.values())),
            legend=alt.Legend(orient="bottom"),
        ),
        tooltip=["condition:N", "bit:O", "outcome:N", "text:N"],
    )
    drawn: alt.LayerChart = (boxes + base.mark_text(fontSize=9).encode(text="text:N")).properties(
        width=alt.Step(22),
        height=alt.Step(22),
        title=alt.Title("Which stuck bits degrade a training?", subtitle=subtitle, anchor="start"),
    )
    return drawn


def main() -> None:
    """Print the tables, and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of campaigns over bits and stuck values")
    parser.add_argument("--out", type=Path, default=Path("which_bits.png"), help="a .png file")
    given = parser.parse_args()
    if given.out.suffix != ".png" or not given.out.parent.is_dir():
        sys.exit(f"which_bits: --out {given.out} is no picture in a folder that is there; name a .png file")
    rows: dict[str, list[Record]] = {}
    passes = []
    console = Console(width=160)
    try:
        for folder in given.folders:
            optimizer, records, mean, limit = read(folder)
            for record in records:
                rows.setdefault(condition(optimizer, record), []).append(record)
            passes.append(f"{optimizer}: fault-free {100 * mean:.1f} %, {100 * limit:.1f} % or more passes")
    except InvalidInput as error:
        sys.exit(f"which_bits: {error}")
    console.print(outcome_table(dict(sorted(rows.items()))))
    counts = Table(title="trainings by outcome")
    for heading in ("condition", "trainings", "nothing", "silent corruption", "of these adapted", "crash"):
        counts.add_column(heading, justify="left" if heading == "condition" else "right")
    for name, records in sorted(rows.items()):
        families = Counter(record.family for record in records)
        adapted = sum(record.outcome == "adapted" for record in records)
        numbers = families["nothing"], families["silent corruption"], adapted, families["crash"]
        counts.add_row(name, str(len(records)), *map(str, numbers))
    console.print(counts)
    console.print(comparison_table(rows))
    for line in passes:
        console.print(line)
    write_png(chart(dict(sorted(rows.items())), "; ".join(passes)).to_json(), given.out)
    console.print(given.out)


if __name__ == "__main__":
    main()
