"""One buggy chip in a fleet: train with 1 faulty of 1, 2, 4 and 8 chips, and print the table of docs/fleet.md.

python examples/fleet.py --out runs/fleet
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import miscompute as mc
from miscompute.experiment import FleetExperiment, FleetResult, train_fleet
from miscompute.outcome import Trajectory
from miscompute.tasks import recipe_for


def main() -> None:
    """Read the arguments, train, print."""
    arguments = argparse.ArgumentParser(description="One buggy chip in a fleet.")
    arguments.add_argument("--data", default="cluttered_digits")
    arguments.add_argument("--steps", type=int, default=600)
    arguments.add_argument("--evaluate-every", type=int, default=30)
    arguments.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8], help="sizes of the fleet")
    arguments.add_argument("--faulty", type=int, default=0, help="rank of the faulty chip")
    arguments.add_argument("--fault", default="weight[0,0] bit 28 stuck-at 0")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--workers", type=int)
    arguments.add_argument("--out", type=Path, default=Path("runs/fleet"))
    arguments.add_argument("--resume", action="store_true")
    asked = arguments.parse_args()
    try:
        experiment = FleetExperiment(
            recipe=recipe_for(
                asked.data,
                width=0.25,
                lr=2e-3,
                schedule="one-cycle",
                steps=asked.steps,
                evaluate_every=asked.evaluate_every,
            ),
            array=mc.nvdla_small(),
            fault=mc.parse_fault(asked.fault),
            replicas=tuple(asked.replicas),
            faulty=asked.faulty,
            seeds=asked.seeds,
        )
        result = train_fleet(experiment, asked.out, resume=asked.resume, workers=asked.workers)
    except mc.InvalidInput as error:
        sys.exit(f"fleet: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(table(result))


def table(result: FleetResult) -> str:
    """Give the table: means over the seeds of the last fifth of the evaluations, and the seeds' range."""
    lines = [
        "| fleet | training loss | training | validation, faulty chip | validation, healthy chip |",
        "|---|---|---|---|---|",
    ]
    for replicas in result.experiment.replicas:
        lines.append(row(f"{replicas}, all healthy", result.healthy[replicas]))
        lines.append(row(f"1 faulty of {replicas}", result.faulty[replicas]))
    lines += [
        "",
        "| 1 faulty of | faulty chip, against healthy fleet | healthy chip, against healthy fleet |",
        "|---|---|---|",
    ]
    for replicas in result.experiment.replicas:
        pairs = list(zip(result.faulty[replicas], result.healthy[replicas], strict=True))
        lines.append(f"| {replicas} | {harm(pairs, 'faulty_accuracy')} | {harm(pairs, 'healthy_accuracy')} |")
    return "\n".join(lines)


def row(name: str, runs: Sequence[Trajectory]) -> str:
    """Give one fleet's row; a run that met INF or NaN is left out of the means, and said."""
    whole = [run for run in runs if run.crash is None]
    if len(whole) < len(runs):
        name += f" ({len(runs) - len(whole)} crashed)"
    cells = []
    for field, scale, digits in (
        ("train_loss", 1, 3),
        ("train_accuracy", 100, 1),
        ("faulty_accuracy", 100, 1),
        ("healthy_accuracy", 100, 1),
    ):
        values = [scale * end(run, field) for run in whole]
        low, high = (f"{bound:.{digits}f}" for bound in (min(values, default=0), max(values, default=0)))
        cells.append(f"{statistics.mean(values):.{digits}f} ({low} to {high})" if values else "-")
    return f"| {name} | {' | '.join(cells)} |"


def harm(pairs: Sequence[tuple[Trajectory, Trajectory]], field: str) -> str:
    """Give the mean over the seeds of what the fault changes, in points, and each seed's."""
    changes = [100 * (end(faulty, field) - end(healthy, field)) for faulty, healthy in pairs if faulty.crash is None]
    if not changes:
        return "-"
    return f"{statistics.mean(changes):+.1f} ({', '.join(f'{change:+.1f}' for change in changes)})"


def end(run: Trajectory, field: str) -> float:
    """Give where a run ended: the mean of the last fifth of its evaluations."""
    values: list[float] = [getattr(point, field) for point in run.points[-max(1, len(run.points) // 5) :]]
    return statistics.mean(values)


if __name__ == "__main__":
    main()
