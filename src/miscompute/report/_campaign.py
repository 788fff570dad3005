"""Tables of a campaign: the rates of outcomes with their intervals, in all and by what was chosen."""

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from ..analysis import Estimate
from ..campaigns import FAILED, CampaignResult, Record


def rates_table(result: CampaignResult) -> Table:
    """Tabulate the rate of every outcome over the population, in per cent, with its 95 % interval."""
    tried = len(result.outcomes) - result.failed
    table = Table(title=f"{result.campaign.spec.name}: {tried:,} trials of {result.campaign.space.size:,} faults")
    table.add_column("outcome")
    for heading in ("trials", "rate, %", "95 % interval"):
        table.add_column(heading, justify="right")
    for outcome, found in sorted(result.rates.items(), key=lambda item: -item[1].best):
        interval = f"{_percent(found.low)} .. {_percent(found.high)}"
        table.add_row(outcome, f"{found.events or 0:,}", _percent(found.best), interval)
    if result.failed:
        table.add_row(FAILED, f"{result.failed:,}", "-", "left out")
    return table


def rates_by_table(result: CampaignResult, axis: str) -> Table:
    """Tabulate the rates of outcomes for each value of an axis of the population, in per cent, with 95 % intervals."""
    rates = result.rates_by(axis)
    outcomes = sorted({name for found in rates.values() for name in found}, key=lambda name: -_events(rates, name))
    table = Table(title=f"rate by {axis}, % (95 % interval)")
    table.add_column(axis)
    table.add_column("trials", justify="right")
    for name in outcomes:
        table.add_column(name, justify="right")
    for label, found in rates.items():
        trials = max((one.trials or 0 for one in found.values()), default=0)
        cells = [_cell(found[name]) if name in found else "-" for name in outcomes]
        table.add_row("-" if label is None else str(label), f"{trials:,}", *cells)
    return table


def record_table(record: Record) -> tuple[Table, Table]:
    """Tabulate all that is recorded of a trial: its facts, and its curve."""
    facts, curve = Table(show_header=False), Table()
    run = record.trajectory
    rows: dict[str, object] = {"place": record.place, "key": record.key, "fault": record.fault}
    rows |= {name: value for name, value in record.labels.items() if value is not None}
    rows |= {"outcome": record.outcome, "family": record.family, "failure": record.failure}
    if run is not None:
        rows |= {"values changed": run.changed, "first in step": run.activated_at, "golden again after": run.rejoined}
        if run.crash is not None:
            rows |= {"crash in step": run.crash.step, "first INF or NaN": run.crash.tensor}
    rows |= {"attempts": record.attempts, "seconds": round(record.seconds, 2)}
    for name, value in rows.items():
        if value is not None:
            facts.add_row(name, escape(str(value)))
    for heading in ("step", "loss", "training, %", "faulty machine, %", "healthy machine, %"):
        curve.add_column(heading, justify="right")
    for point in run.points if run else ():
        accuracies = (point.train_accuracy, point.faulty_accuracy, point.healthy_accuracy)
        curve.add_row(f"{point.step:,}", f"{point.train_loss:.4f}", *map(_percent, accuracies))
    return facts, curve


def _events(rates: Mapping[object, Mapping[str, Estimate]], outcome: str) -> int:
    return sum(found[outcome].events or 0 for found in rates.values() if outcome in found)


def _cell(found: Estimate) -> str:
    return f"{_percent(found.best)} ({_percent(found.low)}..{_percent(found.high)})"


def _percent(part: float) -> str:
    return f"{100 * part:.1f}"
