"""One buggy chip in a fleet: train with 1 faulty of 1, 2, 4 and 8 chips, and print the table of docs/fleet.md.

python examples/fleet.py --out runs/fleet
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import miscompute as mc
from miscompute.experiment import FleetExperiment, train_fleet
from miscompute.outcome import Trajectory, judge
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
    print("| fleet | training loss | training | validation, faulty chip | validation, healthy chip | outcomes |")
    print("|---|---|---|---|---|---|")
    for replicas in experiment.replicas:
        healthy, faulty = result.healthy[replicas], result.faulty[replicas]
        print(row(f"{replicas}, healthy", healthy, ""))
        outcomes = [str(judge(run, healthy)) for run in faulty] if len(healthy) > 1 else []
        print(row(f"1 faulty of {replicas}", faulty, ", ".join(f"{outcomes.count(o)} x {o}" for o in set(outcomes))))


def row(name: str, runs: Sequence[Trajectory], outcomes: str) -> str:
    """Give a row of the table: the mean over the seeds of the last fifth of the evaluations, and the seeds' range."""
    ends = [end for run in runs if (end := run.points[-max(1, len(run.points) // 5) :]) and run.crash is None]
    if not ends:
        return f"| {name} | | | | | {outcomes} |"

    def cell(field: str, scale: float, digits: int) -> str:
        values = [scale * statistics.mean(getattr(point, field) for point in end) for end in ends]
        return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    cells = [cell("train_loss", 1, 3), *(cell(f"{of}_accuracy", 100, 1) for of in ("train", "faulty", "healthy"))]
    return f"| {name} | {' | '.join(cells)} | {outcomes} |"


if __name__ == "__main__":
    main()
