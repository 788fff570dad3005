"""The commands: each reads arguments, calls the library and prints. Heavy imports wait until a command needs them.

To add a command, write a function with typer's annotations, and add it to `COMMANDS`.
"""

from ._app import app as app
from ._campaigns import campaign, report, store
from ._lowering import lower, validate
from ._train import train
from ._vulnerability import damage, fit, vulnerability

COMMANDS = (train, lower, validate, campaign, report, vulnerability, damage, fit)
"""Every command, in the order in which --help lists them; beside them are those of ``store``."""

for _command in COMMANDS:
    app.command()(_command)
app.add_typer(store, name="store")
