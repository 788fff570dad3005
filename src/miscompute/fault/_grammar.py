"""The fault string: one line that says site, effect and timing.

::

    fault  = SITE "[" index { "," index } "]"  effect { "when" MASK "is" PATTERN }  [ timing ]
    effect = "bit" N "stuck-at" ( "0" | "1" )  |  ( "bit" | "bits" ) N { "," N } "flip"
           | "set-to" VALUE | ( "random-word" | "random-finite" ) "seed" N
           | "random-flips" "seed" N [ "weights" W { "," W } ] | "moved" "by" N
    timing = "permanent"
           | "transient" "step" N [ "pass" PASS ] [ "layer" NAME ] [ "cycle" N ] [ "until" ( "cycle" | "reload" ) ]
           | "intermittent" "on" N "off" N [ "start" N ]
           | ( "bursts" | "cycle-bursts" ) "mean_on" X "mean_off" X "seed" N | "duty-cycle" "part" X "seed" N
           | "arrivals" "faults_per_step" X "seed" N

SITE is a key of `SITES`. Words are separated by blanks, which may also stand around a site's brackets and indices;
``str(fault)`` parses back to an equal fault.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn, TypeVar

from .._invalid import InvalidInput
from ..hardware import PASSES
from ._effect import EFFECTS, WORD_EFFECTS, Effect, When
from ._fault import Fault
from ._site import Site
from ._sites import SITES
from ._timing import PERMANENT, TIMINGS, Timing

_T = TypeVar("_T")


class Words:
    """The words of a fault string, read one by one, with errors that point at the word."""

    def __init__(self, text: str, *, argument: str = "fault") -> None:
        self._argument = argument
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

    @property
    def place(self) -> int:
        """How many words have been read."""
        return self._next

    def fail(self, problem: str, *, at: int | None = None) -> NoReturn:
        """Raise, with the last word read (or the end of the string) between arrows; or the one that was then the last.

        Args:
            problem: what is wrong.
            at: the `place` just after the word was read; None: now.
        """
        if problem.endswith("at the end"):
            marked = f"{self._text} >> <<"
        else:
            match = self._matches[(self._next if at is None else at) - 1]
            marked = f"{self._text[: match.start()]}>>{match.group()}<<{self._text[match.end() :]}"
        raise InvalidInput(f"{self._argument}: {problem}: {marked.strip()}")

    def next(self) -> str | None:
        """Look at the next word without reading it."""
        return self._matches[self._next].group() if self.left() else None

    def value(self, wanted: str, kind: Callable[[str], _T]) -> _T:
        word = self.read(wanted)
        try:
            return kind(word)
        except ValueError:
            self.fail(f"expected {wanted}, a number")

    def number(self, wanted: str) -> int:
        word = self.read(wanted)
        if not re.fullmatch(r"-?[0-9]{1,40}", word):
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
    words = Words(text)
    site, effect, timing = _site(words), _effect(words), _timing(words)
    if words.left():
        words.read("")
        words.fail("unexpected word")
    return Fault(site=site, effect=effect, timing=timing)


def _site(words: Words) -> Site:
    word = words.read("a site such as weight[0,0]")
    match = re.fullmatch(r"([a-z-]+)\s*\[([^\]]*)\]", word)
    if not match or match[1] not in SITES:
        words.fail(f"expected a site with its place in brackets, one of {', '.join(SITES)}")
    spelling = SITES[match[1]]
    given = [index.strip() for index in match[2].split(",")]
    fields = spelling.indices[: len(given)]
    if not len(spelling.indices) - spelling.optional <= len(given) <= len(spelling.indices) or not all(
        index if field in ("name", "state") else re.fullmatch(r"[0-9]{1,40}", index)
        for field, index in zip(fields, given, strict=True)
    ):
        words.fail(f"expected {match[1]}[{','.join(spelling.indices)}] with numbers")
    indices = {f: index if f in ("name", "state") else int(index) for f, index in zip(fields, given, strict=True)}
    with pointing(words):
        return spelling.build(**indices)


def _effect(words: Words) -> Effect:
    first = words.read("'bit'")
    effect = _bit_effect(words) if first in ("bit", "bits") else _word_effect(words, first)
    while words.next() == "when":
        words.read("when")
        mask = words.number("a mask")
        if words.read("'is'") != "is":
            words.fail("expected 'is'")
        pattern = words.number("a pattern")
        with pointing(words):
            effect = When(effect=effect, mask=mask, pattern=pattern)
    return effect


def _bit_effect(words: Words) -> Effect:
    bits = words.read("a bit")
    if not re.fullmatch(r"[0-9]{1,40}(,[0-9]{1,40})*", bits):
        words.fail("expected a bit number, or several with commas between")
    verb = words.read("stuck-at or flip")
    if verb not in EFFECTS:
        words.fail(f"expected {' or '.join(EFFECTS)}")
    value = words.number("the value of stuck-at, 0 or 1") if verb == "stuck-at" else None
    with pointing(words):
        return EFFECTS[verb](tuple(map(int, bits.split(","))), value)


def _word_effect(words: Words, verb: str) -> Effect:
    if verb not in WORD_EFFECTS:
        words.fail(f"expected 'bit', 'bits', {' or '.join(map(repr, WORD_EFFECTS))}")
    build = WORD_EFFECTS[verb]
    if verb == "set-to":
        value = words.value("a value", float)
        with pointing(words):
            return build(value=value)
    return _built(words, verb, build, fields_of(build))


def _timing(words: Words) -> Timing:
    if not words.left():
        return PERMANENT
    kind = words.read("")
    if kind not in TIMINGS:
        words.fail(f"expected {', '.join(TIMINGS)} or the end")
    return _built(words, kind, TIMINGS[kind], fields_of(TIMINGS[kind]))


def _built(words: Words, kind: str, build: Callable[..., _T], known: Iterator[dataclasses.Field[Any]]) -> _T:
    """Read the fields of a value, each by its name, in any order, until a word is none of them."""
    fields = {field.name.rstrip("_"): field for field in known}
    values: dict[str, Any] = {}
    while words.left():
        left = [word for word, field in fields.items() if field.name not in values]
        if words.next() not in left:
            if build in TIMINGS.values():
                words.read("")
                words.fail(f"expected {' or '.join(left) or 'the end'}")
            break
        name = words.read("")
        read = _READERS.get(fields[name].type, Words.read)
        values[fields[name].name] = read(words, name)
        if name == "pass" and values["pass_"] not in PASSES:
            words.fail(f"expected a pass, one of {', '.join(PASSES)}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and field.name not in values:
            words.fail(f"{kind} needs '{name} N', missing at the end")
    with pointing(words):
        return build(**values)


_READERS: Mapping[Any, Callable[[Words, str], Any]] = {
    int: Words.number,
    int | None: Words.number,
    float: lambda words, name: words.value(name, float),
    tuple[float, ...]: lambda words, name: words.value(name, lambda text: tuple(map(float, text.split(",")))),
}
"""How a field is read, by its type; as a word, where its type is not here."""


def fields_of(build: Any) -> Iterator[dataclasses.Field[Any]]:
    """Give the fields of a value that a fault string spells: those that its builder has not set."""
    kind: Any
    kind, fixed = (build.func, build.keywords) if isinstance(build, partial) else (build, {})
    return (field for field in dataclasses.fields(kind) if field.name not in fixed and field.type is not bool)


class pointing:  # noqa: N801
    """Turn an error of a value's own checks into one that points at the last word read, or at the one given."""

    def __init__(self, words: Words, *, at: int | None = None) -> None:
        self._words = words
        self._at = at

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, InvalidInput):
            self._words.fail(str(error), at=self._at)
