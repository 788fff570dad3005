"""Campaigns: carry one out, see, move and repeat what it found."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .._invalid import InvalidInput
from ._options import DataFolder, Quiet, TensorBoard, print_table


def campaign(
    spec: Annotated[Path | None, typer.Argument(help="A TOML file; see campaigns/ and docs/campaigns.md.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of store and golden runs; goes on if it is there.")] = None,
    engine: Annotated[str, typer.Option(help="pool (processes here) or ray.")] = "pool",
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at once; default: one a processor.")] = None,
    by: Annotated[list[str] | None, typer.Option(help="Axes to tabulate by; default: bit and pass.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which a trial counts as hung.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed trials again.")] = False,
    shortcuts: Annotated[bool, typer.Option(help="Share with the golden run what is the same in both.")] = True,
    data_folder: DataFolder = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of specs, for editors.")] = False,
    tensorboard: TensorBoard = False,
    quiet: Quiet = False,
) -> None:
    """Try many faults of a population, each in a training of its own, and tabulate the rates of outcomes.

    Ctrl-C is safe: the same command goes on.
    """
    from ..campaigns import schema as schema_of_specs

    if schema:
        print(json.dumps(schema_of_specs(), indent=1))
        return
    if spec is None or out is None:
        raise InvalidInput("name a spec and a folder: miscompute campaign SPEC.toml --out DIR")
    from ..campaigns import campaign as carry_out
    from ..campaigns import campaign_of
    from ..report import rates_by_table, rates_table

    wanted = campaign_of(spec)
    axes = by if by is not None else [axis for axis in ("bit", "pass") if axis in wanted.space.axes]
    for axis in axes:
        if axis not in wanted.space.axes:
            raise InvalidInput(
                f"by={axis!r} is no axis of the population; choose one of {', '.join(wanted.space.axes)}"
            )
    try:
        result = carry_out(
            wanted,
            out,
            engine=engine,
            workers=workers,
            timeout_seconds=timeout,
            data_folder=data_folder,
            shortcuts=shortcuts,
            retry_failed=retry_failed,
            tensorboard=tensorboard,
            quiet=quiet,
        )
    except KeyboardInterrupt:
        print(f"interrupted: what is done is in {out}; the same command goes on", file=sys.stderr)
        raise
    print_table(rates_table(result))
    for axis in axes:
        print_table(rates_by_table(result, axis))
    print(f"store: {result.store}")


def report(
    folder: Annotated[Path, typer.Argument(help="What `train` or `campaign` wrote with --out.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page and its figures; default: `report` in it.")
    ] = None,
) -> None:
    """Write one page of a run directory or a campaign, complete or not: rates, curves of any trial, how it was made.

    It needs no network and no other file; the main figures are beside it as PNG and SVG.
    """
    from ..report import write_report

    page, *figures = write_report(folder, out)
    print(f"page: {page}")
    for path in figures:
        print(f"beside it: {path}")


store = typer.Typer(help="What campaigns have found: merge, export, show and replay trials.")
Folder = Annotated[Path, typer.Argument(help="A campaign's folder.")]
Trial = Annotated[str, typer.Argument(help="Its place in the population, its key, or the key's beginning.")]


@store.command()
def merge(
    into: Annotated[Path, typer.Argument(help="The folder of the campaign to add to; made if it is not there.")],
    parts: Annotated[list[Path], typer.Argument(help="Folders of the same campaign, from other machines say.")],
) -> None:
    """Add trials of other folders of the same campaign."""
    from contextlib import ExitStack

    from ..campaigns import STORE_FILE, Store
    from ..campaigns import merge as merge_stores
    from ..experiment import usable

    with ExitStack() as stack:
        sources = [stack.enter_context(Store(part / STORE_FILE, read_only=True)) for part in parts]
        stack.enter_context(usable(into))
        target = stack.enter_context(Store(into / STORE_FILE, axes=sources[0].axes))
        new = merge_stores(target, sources)
        print(f"{new:,} new trials, {target.trials():,} in all: {target.path}")


@store.command()
def export(folder: Folder, file: Annotated[Path, typer.Argument(help="To write; ends in .parquet or .csv.")]) -> None:
    """Write the trials as a table, without curves."""
    from ..campaigns import STORE_FILE, Store
    from ..campaigns import export as export_store

    with Store(folder / STORE_FILE, read_only=True) as opened:
        print(f"{export_store(opened, file):,} trials: {file}")


@store.command()
def show(folder: Folder, trial: Trial) -> None:
    """Print all that is recorded of a trial."""
    from ..campaigns import STORE_FILE, Store
    from ..report import record_table

    with Store(folder / STORE_FILE, read_only=True) as opened:
        for table in record_table(opened.find(trial)):
            print_table(table)


@store.command()
def replay(
    folder: Folder,
    trial: Trial,
    every: Annotated[int, typer.Option(min=1, help="Steps between evaluations.")] = 1,
    data_folder: DataFolder = None,
) -> None:
    """Carry a trial out again, from its record alone, with a finer curve; exit status 1 if it comes out otherwise."""
    import torch

    from ..campaigns import STORE_FILE, Store, campaign_of
    from ..campaigns import replay as replay_trial

    torch.set_num_threads(1)  # as in the campaign
    with Store(folder / STORE_FILE, read_only=True) as opened:
        campaign = campaign_of(opened.about("campaign"))
        place = opened.find(trial).place
        into = folder / "replays" / f"{place}-every-{every}"
        found = replay_trial(campaign, opened, trial, into, every=every, data_folder=data_folder)
    print(f"{found.record.fault}: {found.record.outcome}\ncurve: {into / 'trajectory.json'}")
    if found.difference:
        print(f"not as recorded: {found.difference}")
        raise typer.Exit(1)
    print("equal to the record, bit for bit")
