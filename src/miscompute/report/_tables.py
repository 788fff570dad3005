"""Tables for the terminal."""

import math
from collections.abc import Iterable, Sequence

from rich.table import Table

from ..error import AnyError, Error, Region, StoredError, SumError
from ..experiment import Result
from ..hardware import PASSES, Layer
from ..validation import Agreement


def outcome_table(result: Result) -> Table:
    """Tabulate where each run ended, in per cent, and what its outcome is."""
    table = Table(title="accuracy at the end, %")
    table.add_column("run")
    for heading in ("training", "validation, faulty machine", "validation, healthy machine"):
        table.add_column(heading, justify="right")
    table.add_column("outcome")
    for name, trajectory in result.trajectories.items():
        outcome = result.outcomes.get(name)
        said = str(outcome) if outcome else "golden"
        if not trajectory.points:
            table.add_row(name, "-", "-", "-", said)
            continue
        last = trajectory.points[-1]
        faulty = f"{100 * last.faulty_accuracy:.1f}" if outcome else "-"
        table.add_row(name, f"{100 * last.train_accuracy:.1f}", faulty, f"{100 * last.healthy_accuracy:.1f}", said)
    return table


def lowering_table(layers: Iterable[Layer], errors: Sequence[AnyError]) -> Table:
    """Tabulate the errors of a fault, by layer and pass: the elements touched and what part of the whole they are.

    What is touched is an operand, results (of sums that go wrong), or memory.
    """
    table = Table()
    for heading in ("layer", "pass", "what"):
        table.add_column(heading)
    for heading in ("elements", "of", "%"):
        table.add_column(heading, justify="right")
    table.add_column("region")
    for error in errors:
        if isinstance(error, StoredError):
            state = f" {error.state}" if error.state else ""
            elements = f"element {error.elements}".replace("[", r"\[")
            table.add_row(error.name, "-", f"{error.store}{state}", f"{len(error.elements):,}", "", "", elements)
    in_passes = [error for error in errors if not isinstance(error, StoredError)]
    if errors and not in_passes:
        return table
    for layer in layers:
        for pass_ in PASSES:
            of_pass = [error for error in in_passes if error.layer == layer.name and error.pass_ == pass_]
            if not of_pass:
                table.add_row(layer.name, pass_, "-", "0", "", "", "not reached")
                continue
            what, total = _whole(layer, of_pass[0])
            regions = list(dict.fromkeys(_region(error) for error in of_pass))
            touched = sum(region.elements for region in regions)
            more = f" and {len(regions) - 1} more" if len(regions) > 1 else ""
            table.add_row(
                layer.name,
                pass_,
                what,
                f"{touched:,}",
                f"{total:,}",
                f"{100 * touched / total:.2f}",
                f"{regions[0]}{more}".replace("[", r"\["),
            )
    return table


def _region(error: Error | SumError) -> Region:
    return error.results if isinstance(error, SumError) else error.region


def _whole(layer: Layer, error: Error | SumError) -> tuple[str, int]:
    """Name what an error is in, and count its elements."""
    if isinstance(error, SumError):
        return f"results, by {error.stage.replace('_', ' ')}", math.prod(layer.result(error.pass_).values())
    if error.operand == "result":
        return "result", math.prod(layer.result(error.pass_).values())
    return error.operand, layer.elements(error.operand)


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """Tabulate how many cases agree in every bit, by source and kind."""
    table = Table()
    for heading in ("source", "kind"):
        table.add_column(heading)
    for heading in ("agree", "of", "%"):
        table.add_column(heading, justify="right")
    rows = [(a.source, a.kind, a.agreeing, a.cases) for a in agreements]
    rows.append(("all", "", sum(a.agreeing for a in agreements), sum(a.cases for a in agreements)))
    for source, kind, agreeing, cases in rows:
        share = f"{100 * agreeing / cases:.2f}" if agreeing < cases else "100"
        table.add_row(source, kind, f"{agreeing:,}", f"{cases:,}", share)
    return table
