"""Tables of a campaign: the rates of outcomes with their intervals, in all and by what was chosen."""

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from ..analysis import Estimate
from ..campaigns import FAILED, CampaignResult, Record
from ..outcome import FAMILIES, OUTCOMES


def rates_table(result: CampaignResult) -> Table:
    """Tabulate the rates of outcomes over the population, in per cent, with their intervals.

    Each family has a row, seen or not, and under it the classes that were seen or asked for.
    """
    tried = len(result.outcomes) - result.failed
    table = Table(title=f"{result.campaign.spec.name}: {tried:,} trials of {result.campaign.space.size:,} faults")
    table.add_column("outcome")
    for heading in ("trials", "rate, %", _interval(result)):
        table.add_column(heading, justify="right")
    for row in rates_rows(result, indent="  "):
        table.add_row(*row)
    return table


def rates_rows(result: CampaignResult, *, indent: str) -> list[tuple[str, str, str, str]]:
    """List for each outcome with a rate its name, a class's indented, its trials, its rate and the limits."""
    rows = []
    for name in in_families(result.rates):
        found = result.rates[name]
        shown = name if name in (*FAMILIES, FAILED) else indent + name
        rows.append((shown, f"{found.events or 0:,}", percent(found.best), limits(found)))
    return rows


def rates_by_table(result: CampaignResult, axis: str) -> Table:
    """Tabulate the rates of outcomes for each value of an axis of the population, in per cent, with their intervals.

    There is a column for each class, and for each family none of which was seen.
    """
    rates = result.rates_by(axis)
    shown = [name for name in in_families(result.names) if name not in FAMILIES or not _has_classes(result, name)]
    table = Table(title=f"rate by {axis}, % ({_interval(result)})")
    table.add_column(axis)
    table.add_column("trials", justify="right")
    for name in shown:
        table.add_column(name, justify="right")
    for label, found in rates.items():
        trials = max((one.trials or 0 for one in found.values()), default=0)
        cells = [with_limits(found[name]) if name in found else "-" for name in shown]
        table.add_row("-" if label is None else str(label), f"{trials:,}", *cells)
    return table


def in_families(names: Iterable[str]) -> list[str]:
    """Sort names of outcomes: each family before its classes, what is in none last."""
    places = {name: FAMILIES.index(rule.family) for name, rule in OUTCOMES.items()}
    places |= {family: place for place, family in enumerate(FAMILIES)}
    return sorted(names, key=lambda name: (places.get(name, len(FAMILIES)), name not in FAMILIES))


def _has_classes(result: CampaignResult, family: str) -> bool:
    return any(name in OUTCOMES and OUTCOMES[name].family == family for name in result.names)


def _interval(result: CampaignResult) -> str:
    return f"{100 * result.campaign.plan.confidence:g} % interval"


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
        curve.add_row(f"{point.step:,}", f"{point.train_loss:.4f}", *map(percent, accuracies))
    return facts, curve


def with_limits(found: Estimate) -> str:
    """Write a rate in per cent, and its limits behind it."""
    return f"{percent(found.best)} ({limits(found)})"


def limits(found: Estimate) -> str:
    """Write a rate's limits in per cent."""
    return f"{percent(found.low)}..{percent(found.high)}"


def percent(part: float) -> str:
    """Write a part of 1 in per cent."""
    return f"{100 * part:.1f}"
