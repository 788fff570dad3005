"""Tables for the terminal."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from ..error import Error
from ..experiment import Result
from ..hardware import PASSES, Layer


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


def lowering_table(layers: Iterable[Layer], errors: Sequence[Error]) -> Table:
    """Tabulate the errors of a fault, by layer and pass: the elements touched and what part of the operand they are."""
    table = Table()
    for heading in ("layer", "pass", "operand"):
        table.add_column(heading)
    for heading in ("elements", "of", "%"):
        table.add_column(heading, justify="right")
    table.add_column("region")
    for layer in layers:
        for pass_ in PASSES:
            of_pass = [error for error in errors if error.layer == layer.name and error.pass_ == pass_]
            if not of_pass:
                table.add_row(layer.name, pass_, "-", "0", "", "", "not reached")
                continue
            regions = list(dict.fromkeys(error.region for error in of_pass))
            touched, total = sum(region.elements for region in regions), layer.elements(of_pass[0].operand)
            more = f" and {len(regions) - 1} more" if len(regions) > 1 else ""
            table.add_row(
                layer.name,
                pass_,
                of_pass[0].operand,
                f"{touched:,}",
                f"{total:,}",
                f"{100 * touched / total:.2f}",
                f"{regions[0]}{more}".replace("[", r"\["),
            )
    return table
