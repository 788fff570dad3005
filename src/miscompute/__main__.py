"""The command line: runs a command, and says in one line what was wrong with its arguments."""

import sys
from typing import Any, NoReturn

import typer

from ._invalid import InvalidInput
from .commands import app

# What click raises for arguments it cannot use. Where typer has click has changed between its versions.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def main() -> None:
    """Run the command line: exit status 2 and one line for bad input, 130 after Ctrl-C."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))  # None at a command's end, 130 after Ctrl-C
    except InvalidInput as error:
        _refuse(str(error))
    except _UsageError as error:
        _refuse(_usage(error))


def _usage(error: Any) -> str:
    """Say what click found wrong with the arguments, the value included, and where to read on."""
    problem: str = error.format_message()
    reasons: list[Any] = getattr(error.__cause__, "errors", list)()  # pydantic's, which checks the values
    if reasons and getattr(error, "param", None) is not None:
        problem = f"{error.param.opts[0]}={reasons[0]['input']!r}: {error.message}"
    command = error.ctx.command_path if error.ctx else "miscompute"
    return f"{problem[:1].lower()}{problem[1:].rstrip('.')}; see '{command} --help'"


def _refuse(message: str) -> NoReturn:
    print(f"miscompute: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
