"""The one exception for bad input, and how it names a difference; all else that is raised is a mistake of ours."""

from typing import Any


class InvalidInput(ValueError):
    """Input that cannot be used, said in one line: the argument, its value, what is allowed.

    Library calls raise it; the command line prints its message and exits with status 2.
    """


def difference(held: Any, asked: Any, of: str = "") -> str:
    """Name the first thing in which what is held differs from what is asked; empty: in nothing."""
    if not (isinstance(held, dict) and isinstance(asked, dict)):
        return "" if held == asked else f"{of} is {held!r}, not {asked!r}"
    for key in {**asked, **held}:
        if key not in held or key not in asked:
            return f"{key}{of and ' of '}{of} is {'only asked for' if key in asked else 'not asked for'}"
        found = difference(held[key], asked[key], key if key == "recipe" or not of else f"{key} of {of}")
        if found:
            return found
    return ""
