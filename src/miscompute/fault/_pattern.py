"""Fault strings with choices: the blocks of faults that one pattern stands for.

A block is a plain product: a fault, and for some of its fields all values they may take. What a choice allows may
depend on other words, elements on the parameter they are in, say; such a pattern is several blocks.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, NoReturn

from .._invalid import InvalidInput
from ..formats import FORMATS, Format
from ..hardware import PASSES, TWIN_PASSES, Array, Layer, Operand, Pass
from ._effect import EFFECTS, WORD_EFFECTS, StuckAt
from ._exposure import ElementExposure, MemoryExposure, Store, SumExposure
from ._fault import Fault
from ._grammar import Words, fields_of, parse_fault, pointing
from ._site import Site
from ._sites import SITES, Spelling
from ._timing import TIMINGS, Transient

Values = range | tuple[Any, ...]

_MOST_LISTED = 1_000_000  # values of one choice that are not one range


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What ``*`` stands for in a pattern: the array, and what is trained on it. Pure values, taken from a model once.

    What is left empty is not known: ``*`` for it is refused, and numbers for it go unchecked.

    Args:
        array: which sites there are.
        format: the model's number format; operands have it if the array does not say another.
        layers: the model's, as the array sees them (`miscompute.trace`).
        steps: how many optimizer steps the training has.
        parameters: how many elements each parameter has, by name.
        buffers: the same of buffers, which statistics-memory holds.
        states: what the optimizer keeps of a parameter, such as exp_avg.
        setting: what tells this extent from others of the same space: labels of all faults in it.
    """

    array: Array
    format: Format = FORMATS["fp32"]
    layers: tuple[Layer, ...] = ()
    steps: int | None = None
    parameters: Mapping[str, int] = dataclasses.field(default_factory=dict)
    buffers: Mapping[str, int] = dataclasses.field(default_factory=dict)
    states: tuple[str, ...] = ()
    setting: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InvalidInput(f"steps={self.steps} of Extent must be at least 1")
        for field in ("parameters", "buffers"):
            sizes = dict(getattr(self, field))
            object.__setattr__(self, field, sizes)
            for name, size in sizes.items():
                if size < 1:
                    raise InvalidInput(f"{field} of Extent: {name!r} has {size} elements; leave it out")

    def layer(self, name: str) -> Layer | None:
        """Find a layer by its name."""
        return next((layer for layer in self.layers if layer.name == name), None)

    def stored(self, store: Store) -> Mapping[str, int]:
        """Give the sizes of what a kind of memory holds, by name; of activations, the inputs of layers."""
        match store:
            case "statistics":
                return self.buffers
            case "activation":
                return {layer.name: layer.words("input", "forward") for layer in self.layers}
            case _:
                return self.parameters

    def elements(self, of: Operand | Literal["result"], layer: Layer, pass_: Pass | None) -> int:
        """Count the elements of an operand or of a pass's result, as `Elements` counts them."""
        seen = layer.as_matmul() if self.array.im2col else layer
        assert pass_ is not None or of != "result"
        return seen.words(of, pass_ or "forward")

    def cycles(self, layer: Layer, pass_: Pass) -> int:
        """Count the cycles of a pass, as `Transient` counts them."""
        return self.array.schedule(layer, TWIN_PASSES[pass_] if layer.transposed else pass_).cycles


Path = tuple[str, ...]
"""The fields that lead from a fault to a value in it."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A choice of a block: its name, what it may be, and which field of the fault it sets.

    ``is_single``: the field is a tuple, the bits of a flip, and the value is its only member.
    """

    name: str
    values: Values
    path: Path
    is_single: bool = False

    @property
    def size(self) -> int:
        """How many values there are."""
        return size_of(self.values)

    def stored(self, value: object) -> object:
        """Give what the fault's field holds for a value."""
        return (value,) if self.is_single else value

    def position(self, fault: Fault) -> int | None:
        """Find the value that a fault has; None: none of these."""
        value: Any = fault
        for field in self.path:
            if not hasattr(value, field):
                return None
            value = getattr(value, field)
        if self.is_single:
            if len(value) != 1:
                return None
            value = value[0]
        return position_in(self.values, value)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A product of choices over one fault: ``first`` with every axis at its first value.

    ``labels`` are the words of all choices that are no axis here, and of site, effect and timing.
    """

    first: Fault
    axes: tuple[Axis, ...]
    labels: Mapping[str, object]
    pattern: int

    @property
    def size(self) -> int:
        """How many faults there are."""
        return math.prod(axis.size for axis in self.axes)

    def fault(self, positions: Sequence[int]) -> Fault:
        """Build the fault with every axis at a position."""
        changes = [
            (axis.path, axis.stored(axis.values[position]))
            for axis, position in zip(self.axes, positions, strict=True)
            if position
        ]
        fault: Fault = _changed(self.first, changes)
        return fault

    def positions(self, fault: Fault) -> tuple[int, ...] | None:
        """Find a fault; None: it is not in the block."""
        found = tuple(axis.position(fault) for axis in self.axes)
        if None in found:
            return None
        positions = tuple(position for position in found if position is not None)
        return positions if self.fault(positions) == fault else None

    def common(self, other: "Block") -> Fault | None:
        """Give the first fault that is in another block too; None: there is none."""
        mine, its = dict(_leaves(self.first)), dict(_leaves(other.first))
        if mine.keys() != its.keys():
            return None
        changes: list[tuple[Path, object]] = []
        for path in mine:
            shared = _first_common(self._at(path, mine[path]), other._at(path, its[path]))
            if shared is None:
                return None
            if isinstance(mine[path], type):
                continue
            changes.append((path, shared[0]))
        fault: Fault = _changed(self.first, changes)
        return fault

    def _at(self, path: Path, value: object) -> Values:
        """Say what a field may hold."""
        for axis in self.axes:
            if axis.path == path:
                return tuple(map(axis.stored, axis.values)) if axis.is_single else axis.values
        return (value,)


def size_of(values: Values) -> int:
    """Count values; ``len`` of a range stops at the largest machine word."""
    return max(0, values.stop - values.start) if isinstance(values, range) else len(values)


def position_in(values: Values, value: Any) -> int | None:
    """Find a value; None: it is not there."""
    if isinstance(values, range):
        return values.index(value) if isinstance(value, int) and value in values else None
    return next((place for place, one in enumerate(values) if repr(one) == repr(value)), None)


def _first_common(some: Values, others: Values) -> tuple[Any] | None:
    if isinstance(some, range) and isinstance(others, range):
        first = max(some.start, others.start)
        return (first,) if first < min(some.stop, others.stop) else None
    if isinstance(some, range):
        some, others = others, some
    return next(((one,) for one in some if position_in(others, one) is not None), None)


def _changed(value: Any, changes: Sequence[tuple[Path, object]]) -> Any:
    """Give a value with some fields changed, however deep, each object built once."""
    fields: dict[str, Any] = {path[0]: new for path, new in changes if len(path) == 1}
    for name in dict.fromkeys(path[0] for path, _ in changes if len(path) > 1):
        below = [(path[1:], new) for path, new in changes if path[0] == name and len(path) > 1]
        fields[name] = _changed(getattr(value, name), below)
    return dataclasses.replace(value, **fields) if fields else value


def _leaves(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Give every field below a fault, by its path; a value with fields gives its type too."""
    if not dataclasses.is_dataclass(value):
        yield path, value
        return
    yield (*path, "type"), type(value)
    for field in dataclasses.fields(value):
        yield from _leaves(getattr(value, field.name), (*path, field.name))


class _Choice(NamedTuple):
    """One word, or part of the first, that may be a choice."""

    name: str
    text: str
    read: Callable[[str], Any]
    path: Path
    at: int  # the place of its word, for messages
    is_single: bool = False


class _Form(NamedTuple):
    """A pattern, taken apart, for one of its sites: pieces to be written after one another."""

    site: str
    pieces: tuple[str | _Choice, ...]
    labels: Mapping[str, object]

    @property
    def choices(self) -> tuple[_Choice, ...]:
        return tuple(piece for piece in self.pieces if isinstance(piece, _Choice))

    def text(self, values: Mapping[str, object]) -> str:
        """Write the fault string with these values."""
        return "".join(piece if isinstance(piece, str) else _written(values[piece.name]) for piece in self.pieces)


def _written(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def blocks_of(text: str, extent: Extent, *, pattern: int = 0) -> tuple[Block, ...]:
    """Take a pattern apart into disjoint blocks.

    Raises:
        InvalidInput: with the offending word between ``>>`` and ``<<``.
    """
    words = Words(text, argument="faults")
    return tuple(block for form in _forms(words) for block in _blocks(form, words, extent, pattern))


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,40}", text):
        raise ValueError
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(_whole, text.split(","))))  # as a flip has them


def _pass(text: str) -> str:
    if text not in PASSES:
        raise ValueError
    return text


def _reals(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


_READERS: Mapping[Any, Callable[[str], Any]] = MappingProxyType(
    {int: _whole, int | None: _whole, float: float, tuple[float, ...]: _reals, Pass | None: _pass}
)
"""How one alternative of a choice is read, by the type of its field; as it is, where its type is not here."""


def _forms(words: Words) -> Iterator[_Form]:
    """Read a pattern's words; one form a site."""
    word = words.read("a site such as weight[*,*]")
    match = re.fullmatch(r"([a-z|-]+)\s*\[([^\]]*)\]", word)
    sites = match[1].split("|") if match else []
    if match is None or not all(site in SITES for site in sites) or len(set(sites)) < len(sites):
        words.fail(f"expected a site with its place in brackets, one of {', '.join(SITES)}, or several with | between")
    given = [index.strip() for index in match[2].split(",")]
    places = [_place(words, site, given) for site in sites]
    rest, labels = _effect(words)
    rest += _timing(words, labels, taken={piece.name for piece in rest if isinstance(piece, _Choice)})
    for site, place in zip(sites, places, strict=True):
        yield _Form(site, (*place, *rest), {"site": site, **labels})


def _place(words: Words, site: str, given: list[str]) -> list[str | _Choice]:
    spelling: Spelling = SITES[site]
    if not len(spelling.indices) - spelling.optional <= len(given) <= len(spelling.indices) or not all(given):
        words.fail(f"expected {site}[{','.join(spelling.indices)}]")
    pieces: list[str | _Choice] = [f"{site}["]
    for field, index in zip(spelling.indices, given, strict=False):
        read = str if field in ("name", "state") else _whole
        pieces += [_Choice(field, index, read, ("site", field), words.place), ","]
    pieces[-1] = "]"
    return pieces


def _effect(words: Words) -> tuple[list[str | _Choice], dict[str, object]]:
    verb = words.read("'bit'")
    pieces: list[str | _Choice] = []
    fields: list[tuple[str, str, Callable[[str], Any]]] = []
    if verb in ("bit", "bits"):
        text, at = words.read("a bit"), words.place
        is_list = verb == "bits"
        verb = words.read("stuck-at or flip")
        if verb not in EFFECTS:
            words.fail(f"expected {' or '.join(EFFECTS)}")
        bits = _Choice("bits" if is_list else "bit", text, _numbers if is_list else _whole, (), at)
        if verb == "flip":
            bits = bits._replace(path=("bits",), is_single=not is_list)
        elif is_list:
            words.fail("expected flip, the effect on several bits at once", at=at)
        else:
            bits = bits._replace(path=("bit",))
        pieces += [" bits " if is_list else " bit ", bits, f" {verb}"]
        if verb == "stuck-at":
            text = words.read("the value of stuck-at, 0 or 1")
            pieces += [" ", _Choice("value", text, _whole, ("value",), words.place)]
    elif verb not in WORD_EFFECTS:
        words.fail(f"expected 'bit', 'bits', {' or '.join(map(repr, WORD_EFFECTS))}")
    elif verb == "set-to":
        pieces += [" set-to ", _Choice("value", words.read("a value"), float, ("value",), words.place)]
    else:
        pieces.append(f" {verb}")
        fields = [(f.name, f.name, _READERS[f.type]) for f in fields_of(WORD_EFFECTS[verb])]
        pieces += _named(words, fields)
    prefix: Path = ("effect",)
    if words.next() == "when":
        prefix = ("effect", "effect")
    pieces = [p if isinstance(p, str) else p._replace(path=(*prefix, *p.path)) for p in pieces]
    if words.next() == "when":
        words.read("when")
        mask = _Choice("mask", words.read("a mask"), _whole, ("effect", "mask"), words.place)
        if words.read("'is'") != "is":
            words.fail("expected 'is'")
        pattern = _Choice("pattern", words.read("a pattern"), _whole, ("effect", "pattern"), words.place)
        pieces += [" when ", mask, " is ", pattern]
    if words.next() == "when":
        words.read("when")
        words.fail("expected one condition only: of patterns, as many as are wanted are alternatives")
    return pieces, {"effect": verb}


def _timing(words: Words, labels: dict[str, object], *, taken: set[str]) -> list[str | _Choice]:
    kind = words.read("") if words.left() else "permanent"
    if kind not in TIMINGS:
        words.fail(f"expected {', '.join(TIMINGS)} or the end")
    labels["timing"] = kind
    fields = [(f.name.rstrip("_"), f.name, _READERS.get(f.type, str)) for f in fields_of(TIMINGS[kind])]
    pieces: list[str | _Choice] = [f" {kind}"]
    pieces += [
        piece
        if isinstance(piece, str)
        # Effects and timings may each have a seed.
        else piece._replace(
            path=("timing", *piece.path), name=f"timing_{piece.name}" if piece.name in taken else piece.name
        )
        for piece in _named(words, fields)
    ]
    if words.left():
        words.read("")
        left = [word for word, _, _ in fields if f" {word} " not in pieces]
        words.fail(f"expected {' or '.join(left) or 'the end'}")
    return pieces


def _named(words: Words, fields: Sequence[tuple[str, str, Callable[[str], Any]]]) -> list[str | _Choice]:
    """Read fields, each by its word, in any order, until a word is none of them; give them in the fault's own order."""
    readers = {word: (field, read) for word, field, read in fields}
    found: dict[str, _Choice] = {}
    while words.next() in readers and words.next() not in found:
        word = words.read("")
        field, read = readers[word]
        found[word] = _Choice(word, words.read(word), read, (field,), words.place)
    return [piece for word, _, _ in fields if word in found for piece in (f" {word} ", found[word])]


def _blocks(form: _Form, words: Words, extent: Extent, pattern: int) -> Iterator[Block]:
    """Resolve a form's choices; where what one allows depends on others, those are taken one by one."""
    site = _a_site(form, words, extent)
    given = {c.name: _given(c, words) for c in form.choices}
    stars = {name for name, values in given.items() if values is None}
    sources = {source for name in stars for source in _depends(name, site, form.site)}
    known = {name: values for name, values in given.items() if values is not None}
    by_name = {c.name: c for c in form.choices}
    for name in sorted(stars & sources, key=list(given).index):
        known[name] = _all(by_name[name], site, extent, {}, words)
    apart = [name for name in given if name in sources]
    for chosen in product(*(list(known[name]) for name in apart)):
        values: dict[str, Values] = {**known, **{name: (one,) for name, one in zip(apart, chosen, strict=True)}}
        fixed = {name: some[0] for name, some in values.items() if size_of(some) == 1}
        for name in given:
            if name not in values:
                values[name] = _all(by_name[name], site, extent, fixed, words)
        yield _block(form, values, words, extent, pattern)


def _given(choice: _Choice, words: Words) -> Values | None:
    """Read a choice: a range, alternatives, or both; None: ``*``."""
    if choice.text == "*":
        return None
    parts: list[Values] = []
    for text in choice.text.split("|"):
        ends = re.fullmatch(r"(-?[0-9]{1,40})\.\.(-?[0-9]{1,40})", text) if choice.read is _whole else None
        if ends:
            first, last = int(ends[1]), int(ends[2])
            if last < first:
                words.fail(f"expected {choice.name} as a range a..b with a <= b, both in it", at=choice.at)
            parts.append(range(first, last + 1))
            continue
        try:
            parts.append((choice.read(text),))
        except ValueError:
            hows: dict[Any, str] = {_whole: "a number, a range a..b", _pass: f"one of {', '.join(PASSES)}"}
            how = hows.get(choice.read, "a value")
            words.fail(f"expected {choice.name}, {how}, alternatives x|y or *", at=choice.at)
    if len(parts) == 1:
        return parts[0]
    if sum(map(size_of, parts)) > _MOST_LISTED:
        words.fail(
            f"alternatives of {choice.name} are more than {_MOST_LISTED:,}; make each range a pattern", at=choice.at
        )
    values = tuple(value for part in parts for value in part)
    if len(set(map(repr, values))) < len(values):
        words.fail(f"alternatives of {choice.name} hold a value twice", at=choice.at)
    return values


def _depends(name: str, site: Site, word: str) -> tuple[str, ...]:
    """Say on which other choices depends what ``*`` stands for."""
    if name == "first":
        return ("layer", "pass") if word == "result-elements" else ("layer",)
    if name == "row" and isinstance(_exposure(site), SumExposure) and "level" in SITES[word].indices:
        return ("level",)
    return {"index": ("name",), "cycle": ("layer", "pass")}.get(name, ())


def _exposure(site: Site) -> object:
    return site.exposure(rows=1 << 62, cols=1 << 62)


def _a_site(form: _Form, words: Words, extent: Extent) -> Site:
    """Build one of a form's sites, to ask it what fits."""
    values: dict[str, Any] = {}
    for choice in form.choices:
        if choice.path[0] == "site":
            some = _given(choice, words)
            values[choice.name] = some[0] if some is not None else _LEAST.get(choice.name, 0)
    with pointing(words, at=1):
        site = SITES[form.site].build(**values)
        site.check_array(extent.array)
    return site


_LEAST = MappingProxyType({"name": "name", "state": "state", "level": 1, "length": 1})
"""What stands for ``*`` in a site that is only to be asked what fits; 0 for all others."""


def _all(choice: _Choice, site: Site, extent: Extent, fixed: Mapping[str, Any], words: Words) -> Values:
    """Give all that ``*`` stands for."""

    def unknown(problem: str) -> NoReturn:
        words.fail(f"* of {choice.name} {problem}", at=choice.at)

    values: Values
    match choice.name:
        case "row" | "col" | "level":
            values = _places(choice.name, _with(site, fixed), extent.array)
        case "bit":
            values = _bits(site, extent)
        case "value" if choice.read is _whole:
            values = (0, 1)
        case "step":
            values = range(extent.steps or unknown("needs the extent's steps; give steps, or a range"))
        case "pass":
            values = PASSES
        case "until":
            values = ("cycle", "reload")
        case "layer":
            values = tuple(layer.name for layer in extent.layers) or unknown(
                "needs the extent's layers; give layers, or names with | between"
            )
        case "name":
            store = _stored(site).store
            field = {"statistics": "buffers", "activation": "layers"}.get(store, "parameters")
            values = tuple(extent.stored(store)) or unknown(
                f"needs the extent's {field}; give {field}, or names with | between"
            )
        case "state":
            values = extent.states or unknown("needs the extent's states; give states, or names with | between")
        case "index":
            stored = _stored(site)
            sizes = extent.stored(stored.store)
            name = fixed["name"]
            if name not in sizes:
                unknown(f"needs the size of {name!r}; give it in the extent, or a range")
            values = range(max(0, sizes[name] - fixed.get("length", 1) + 1)) or unknown(
                f"has no place in {name!r} of {sizes[name]} elements; make length shorter"
            )
        case "first" | "cycle":
            layer = extent.layer(fixed.get("layer", ""))
            needs_pass = choice.name == "cycle" or _elements(site).of == "result"
            if layer is None or (needs_pass and "pass" not in fixed):
                needed = " and a pass" if needs_pass else ""
                unknown(
                    f"needs a layer of the extent{needed}; add 'layer *'{needed and ' and pass *'}, or give a range"
                )
            if choice.name == "cycle":
                values = range(extent.cycles(layer, fixed["pass"]))
            else:
                elements = extent.elements(_elements(site).of, layer, fixed.get("pass"))
                values = range(max(0, elements - fixed.get("length", 1) + 1)) or unknown(
                    f"has no place in {layer.name!r} of {elements} elements; make length shorter"
                )
        case _:
            unknown("has no end that the array or the model sets; give a range or alternatives")
    return values


def _stored(site: Site) -> MemoryExposure:
    exposure = _exposure(site)
    assert isinstance(exposure, MemoryExposure)
    return exposure


def _elements(site: Site) -> ElementExposure:
    exposure = _exposure(site)
    assert isinstance(exposure, ElementExposure)
    return exposure


def _with(site: Any, fixed: Mapping[str, Any]) -> Any:
    """Give a site with those of its fields changed that are fixed."""
    names = {field.name for field in dataclasses.fields(site)}
    return dataclasses.replace(site, **{name: value for name, value in fixed.items() if name in names})


def _places(name: str, site: Any, array: Array) -> Values:
    """Give the rows, columns or levels that there are, one of each place: all columns of a half are one, say."""
    size = {"row": array.rows, "col": array.cols, "level": array.rows.bit_length() + 1}[name]
    found: dict[object, int] = {}
    for place in range(size):
        moved = dataclasses.replace(site, **{name: place})
        try:
            exposure = moved.exposure(rows=array.rows, cols=array.cols)
            moved.check_array(array)
        except InvalidInput:
            continue
        if isinstance(exposure, SumExposure) and exposure.stage == "node":
            # Lanes that meet at a node are one place.
            exposure = (exposure.col, exposure.level, array.node(exposure.row, exposure.level))
        found.setdefault(exposure, place)
    places = tuple(found.values())
    whole = range(places[0], places[-1] + 1)
    return whole if tuple(whole) == places else places


def _bits(site: Site, extent: Extent) -> Values:
    """Give the bits of the words at a site: those that its own check lets pass."""
    format = extent.format if isinstance(_exposure(site), MemoryExposure) else extent.array.format or extent.format
    bits = 0
    while _fits(site, StuckAt(bit=bits, value=0), extent.array, format):
        bits += 1
    return range(bits)


def _fits(site: Site, effect: StuckAt, array: Array, format: Format) -> bool:
    try:
        site.check(effect, array, format)
    except InvalidInput:
        return False
    return True


def _block(form: _Form, values: Mapping[str, Values], words: Words, extent: Extent, pattern: int) -> Block:
    firsts = {name: some[0] for name, some in values.items()}
    choices = {choice.name: choice for choice in form.choices}
    try:
        first = parse_fault(form.text(firsts))
    except InvalidInput as error:  # it points into a string of ours
        _point(error, form, firsts, words)
    axes = tuple(
        Axis(name=name, values=some, path=choices[name].path, is_single=choices[name].is_single)
        for name, some in values.items()
        if size_of(some) > 1
    )
    axes = tuple(sorted(axes, key=lambda axis: list(choices).index(axis.name)))
    labels = {**form.labels, **{name: some[0] for name, some in values.items() if size_of(some) == 1}}
    block = Block(first=first, axes=axes, labels=labels, pattern=pattern)
    with pointing(words, at=1):
        first.site.exposure(rows=extent.array.rows, cols=extent.array.cols)
        first.site.check_array(extent.array)
    with pointing(words, at=next((choice.at for choice in form.choices if choice.path[0] == "effect"), 2)):
        first.check(extent.array, extent.format)
    _check_known(first, choices, words, extent)
    for place, axis in enumerate(axes):
        # What fits is what lies between the ends, so that the ends of a range will do.
        tried = (axis.size - 1,) if isinstance(axis.values, range) else range(axis.size)
        for position in tried:
            with pointing(words, at=choices[axis.name].at):
                fault = block.fault([position if at == place else 0 for at in range(len(axes))])
                fault.check(extent.array, extent.format)
            _check_known(fault, choices, words, extent)
    return block


def _point(error: InvalidInput, form: _Form, firsts: Mapping[str, object], words: Words) -> NoReturn:
    """Say what `parse_fault` found wrong with a fault of the pattern, at the pattern's own word if one is marked."""
    problem, _, marked = str(error).removeprefix("fault: ").rpartition(": ")
    before, arrows, _ = marked.partition(">>")
    if not arrows or problem.endswith("at the end"):
        words.fail(problem)
    at, written = 1, 0
    for piece in form.pieces:
        written += len(piece if isinstance(piece, str) else _written(firsts[piece.name]))
        if isinstance(piece, _Choice):
            at = piece.at
        if written > len(before):
            break
    words.fail(problem, at=at)


def _check_known(fault: Fault, choices: Mapping[str, _Choice], words: Words, extent: Extent) -> None:
    """Hold a fault against what is known of the model: its steps, layers, parameters and cycles."""
    timing = fault.timing
    if isinstance(timing, Transient):
        if extent.steps is not None and timing.step >= extent.steps:
            words.fail(f"step={timing.step} is outside the training (0..{extent.steps - 1})", at=choices["step"].at)
        layer = extent.layer(timing.layer) if timing.layer is not None else None
        if timing.layer is not None and extent.layers and layer is None:
            known = ", ".join(one.name for one in extent.layers)
            words.fail(f"layer={timing.layer!r} is none of the model's ({known})", at=choices["layer"].at)
        if layer is not None and timing.cycle is not None and timing.pass_ is not None:
            cycles = extent.cycles(layer, timing.pass_)
            if timing.cycle >= cycles:
                words.fail(
                    f"cycle={timing.cycle} is outside {timing.pass_} of {layer.name} (0..{cycles - 1})",
                    at=choices["cycle"].at,
                )
    exposure = fault.site.exposure(rows=extent.array.rows, cols=extent.array.cols)
    if isinstance(exposure, MemoryExposure) and (sizes := extent.stored(exposure.store)):
        if exposure.name not in sizes:
            words.fail(f"name={exposure.name!r} is none of the model's ({', '.join(sizes)})", at=1)
        if exposure.store == "optimizer" and extent.states and exposure.state not in extent.states:
            words.fail(f"state={exposure.state!r} is none of the optimizer's ({', '.join(extent.states)})", at=1)
        if exposure.first + exposure.length > sizes[exposure.name]:
            words.fail(
                f"index={exposure.first} of {exposure.name} is outside its {sizes[exposure.name]} elements, "
                f"{exposure.length} being wanted",
                at=1,
            )
