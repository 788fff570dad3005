"""The application that every command belongs to."""

from importlib.metadata import version
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What a hardware fault in an AI accelerator does to training and to the trained model.",
)


def _say_version(wanted: bool) -> bool:
    if wanted:
        print(f"miscompute {version('miscompute')}")
        raise typer.Exit
    return wanted


@app.callback()
def _main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which, and end.")
    ] = False,
) -> None:
    """Take the options that come before a command."""
