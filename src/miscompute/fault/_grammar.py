"""The fault string: one line that says site, effect and timing.

::

    fault  = SITE "[" index { "," index } "]"  effect  [ timing ]
    effect = "bit" N "stuck-at" ( "0" | "1" )  |  ( "bit" | "bits" ) N { "," N } "flip"
    timing = "permanent"
           | "transient" "step" N [ "pass" PASS ] [ "layer" NAME ]
           | "intermittent" "on" N "off" N [ "start" N ]

SITE is a key of `SITES`. Words are separated by blanks, which may also stand around a site's brackets and indices;
``str(fault)`` parses back to an equal fault.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import NoReturn

from .._invalid import InvalidInput
from ..hardware import PASSES
from ._effect import EFFECTS, Effect
from ._fault import Fault
from ._site import SITES, Site
from ._timing import PERMANENT, TIMINGS, Timing


class _Words:
    """The words of a fault string, read one by one, with errors that point at the word."""

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        # Blanks may stand around the brackets and indices of the first word, the site, and nowhere else: a layer's name
        # may have brackets of its own.
        self._matches = list(re.finditer(r"^[^\s\[]+\s*\[[^\]]*\]?|\S+", self._text))
        self._next = 0

    def left(self) -> bool:
        return self._next < len(self._matches)

    def read(self, wanted: str) -> str:
        if not self.left():
            self.fail(f"{wanted} is missing at the end")
        self._next += 1
        return self._matches[self._next - 1].group()

    def fail(self, problem: str) -> NoReturn:
        """Raise, with the last word read (or the end of the string) between arrows."""
        if problem.endswith("at the end"):
            marked = f"{self._text} >> <<"
        else:
            match = self._matches[self._next - 1]
            marked = f"{self._text[: match.start()]}>>{match.group()}<<{self._text[match.end() :]}"
        raise InvalidInput(f"fault: {problem}: {marked.strip()}")

    def number(self, wanted: str) -> int:
        word = self.read(wanted)
        if not re.fullmatch(r"[0-9]+", word):
            self.fail(f"expected {wanted}, a number")
        return int(word)


def parse_fault(text: str) -> Fault:
    """Parse a fault string.

    Raises:
        InvalidInput: with the offending word between ``>>`` and ``<<``.

    >>> parse_fault("weight[0,0] bit 28 stuck-at 0").effect
    StuckAt(bit=28, value=0)
    >>> parse_fault("weight[0,0] bit 28 stack-at 0")
    Traceback (most recent call last):
    miscompute._invalid.InvalidInput: fault: expected stuck-at or flip: weight[0,0] bit 28 >>stack-at<< 0
    """
    words = _Words(text)
    site, effect, timing = _site(words), _effect(words), _timing(words)
    if words.left():
        words.read("")
        words.fail("unexpected word")
    return Fault(site=site, effect=effect, timing=timing)


def _site(words: _Words) -> Site:
    word = words.read("a site such as weight[0,0]")
    match = re.fullmatch(r"([a-z-]+)\s*\[([^\]]*)\]", word)
    if not match or match[1] not in SITES:
        words.fail(f"expected a site with its place in brackets, one of {', '.join(SITES)}")
    spelling = SITES[match[1]]
    indices = [index.strip() for index in match[2].split(",")]
    if len(indices) != len(spelling.indices) or not all(re.fullmatch(r"[0-9]+", index) for index in indices):
        words.fail(f"expected {match[1]}[{','.join(spelling.indices)}] with numbers")
    return spelling.build(**dict(zip(spelling.indices, map(int, indices), strict=True)))


def _effect(words: _Words) -> Effect:
    if words.read("'bit'") not in ("bit", "bits"):
        words.fail("expected 'bit' or 'bits'")
    bits = words.read("a bit")
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", bits):
        words.fail("expected a bit number, or several with commas between")
    verb = words.read("stuck-at or flip")
    if verb not in EFFECTS:
        words.fail(f"expected {' or '.join(EFFECTS)}")
    value = words.number("the value of stuck-at, 0 or 1") if verb == "stuck-at" else None
    with _pointing(words):
        return EFFECTS[verb](tuple(map(int, bits.split(","))), value)


def _timing(words: _Words) -> Timing:
    if not words.left():
        return PERMANENT
    kind = words.read("")
    if kind not in TIMINGS:
        words.fail(f"expected {', '.join(TIMINGS)} or the end")
    timing = TIMINGS[kind]
    fields = {field.name.rstrip("_"): field for field in _fields(timing)}
    values: dict[str, int | str] = {}
    while words.left():
        name = words.read("")
        left = [word for word, field in fields.items() if field.name not in values]
        if name not in left:
            words.fail(f"expected {' or '.join(left) or 'the end'}")
        is_number = fields[name].type is int
        values[fields[name].name] = words.number(name) if is_number else words.read(name)
        if name == "pass" and values["pass_"] not in PASSES:
            words.fail(f"expected a pass, one of {', '.join(PASSES)}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and field.name not in values:
            words.fail(f"{kind} needs '{name} N', missing at the end")
    with _pointing(words):
        return timing(**values)


def _fields(timing: type[Timing]) -> Iterator[dataclasses.Field[object]]:
    assert dataclasses.is_dataclass(timing)
    yield from dataclasses.fields(timing)


class _pointing:  # noqa: N801
    """Turn an error of a value's own checks into one that points at the last word read."""

    def __init__(self, words: _Words) -> None:
        self._words = words

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, InvalidInput):
            self._words.fail(str(error))
