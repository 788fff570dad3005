"""Populations of faults: counted, indexed, sampled and split into strata, without being listed."""

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, product
from typing import final

from .._invalid import InvalidInput
from ._fault import Fault
from ._pattern import Axis, Block, Extent, blocks_of
from ._shuffle import below, shuffled

_MOST_STRATA = 100_000

Key = tuple[object, ...]
"""What the faults of a stratum have in common: a label for each name in ``by``, None where a fault has none."""


@final
@dataclass(frozen=True, kw_only=True)
class FaultSpace:
    """A population of faults, written as fault strings with choices; the faults count from 0.

    Each word of a fault string that is a number or a name may be a choice instead: a range ``a..b``, both ends
    included, alternatives ``x|y|z`` (which may be ranges), or ``*`` for all that array and model allow (`Extent`). So
    may the site's word. ``*`` is one of each place: where several numbers name one place, as all columns of a half do,
    it is the first of them.

    The faults of a pattern are in the order of nested loops, the last choice running fastest. Patterns follow one
    another, and no fault is in two of them.

    Each fault of a pattern weighs as much as the pattern says, 1 if it says nothing: the area of a place, its raw FIT.
    What a space says of probabilities goes by weight (`probability`, `draws`); a `sample` does not.

    With several extents the space is all patterns in the first, then all in the second, and so on: the same faults on
    other arrays or trainings, which the extents' ``setting`` tells apart. `index` then finds a fault under the first.

    Args:
        patterns: fault strings with choices.
        weights: what one fault of each weighs; none: 1 each.
        extents: what ``*`` stands for.

    Raises:
        InvalidInput: with the offending word between ``>>`` and ``<<``; or if patterns overlap.

    >>> from miscompute.hardware import nvdla_small
    >>> space = FaultSpace.parse("weight[*,*] bit * stuck-at *", Extent(array=nvdla_small()))
    >>> space.size, str(space.fault(0)), str(space.fault(4_095))
    (4096, 'weight[0,0] bit 0 stuck-at 0', 'weight[7,7] bit 31 stuck-at 1')
    >>> space.index(space.fault(1_234))
    1234
    >>> space.labels(1_234)["bit"], len(space.strata(("bit", "value")))
    (9, 64)
    """

    patterns: tuple[str, ...]
    extents: tuple[Extent, ...]
    weights: tuple[float, ...] = ()
    _blocks: tuple[Block, ...] = field(init=False, repr=False, compare=False)
    _settings: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _ends: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _loads: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        patterns = tuple(" ".join(pattern.split()) for pattern in self.patterns)
        weights = tuple(map(float, self.weights)) or (1.0,) * len(patterns)
        if not self.extents:
            raise InvalidInput("extents=() of FaultSpace must be at least one, which says what * stands for")
        if not patterns:
            raise InvalidInput("patterns=() of FaultSpace must be at least one, such as 'weight[*,*] bit * flip'")
        if len(weights) != len(patterns) or not all(0 < weight < math.inf for weight in weights):
            raise InvalidInput(
                f"weights={self.weights} of FaultSpace must be one for each of {len(patterns)} patterns, positive and "
                "finite"
            )
        blocks, settings = list[Block](), list[int]()
        for place, extent in enumerate(self.extents):
            found = [block for number, text in enumerate(patterns) for block in blocks_of(text, extent, pattern=number)]
            _check_apart(found, patterns)
            blocks += [_labelled(block, extent.setting) for block in found]
            settings += [place] * len(found)
        for name, value in (
            ("patterns", patterns),
            ("weights", weights),
            ("_blocks", tuple(blocks)),
            ("_settings", tuple(settings)),
            ("_ends", tuple(accumulate(block.size for block in blocks))),
            ("_loads", tuple(accumulate(block.size * weights[block.pattern] for block in blocks))),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, patterns: str | Sequence[str] | Mapping[str, float], *extents: Extent) -> "FaultSpace":
        """Parse patterns: a text with one a line, several texts, or a mapping from pattern to weight.

        A line may begin with its weight: ``2.5 x weight[*,*] bit * flip``. ``str`` of a space parses back.
        """
        if isinstance(patterns, Mapping):
            return cls(patterns=tuple(patterns), weights=tuple(patterns.values()), extents=extents)
        lines = patterns.splitlines() if isinstance(patterns, str) else patterns
        matches = [re.fullmatch(r"(?:([0-9.eE+-]+) x )?(.*)", " ".join(line.split())) for line in lines if line.strip()]
        found = [(match[1], match[2]) for match in matches if match]
        try:
            weights = tuple(float(weight or 1) for weight, _ in found)
        except ValueError:
            wrong = next(f"{weight} x {text}" for weight, text in found if weight and not _is_number(weight))
            raise InvalidInput(f"faults: expected a weight, a number: >>{wrong.replace(' x ', '<< x ', 1)}") from None
        return cls(patterns=tuple(text for _, text in found), weights=weights, extents=extents)

    @property
    def size(self) -> int:
        """How many faults there are; ``len`` is the same, up to the largest machine word."""
        return self._ends[-1]

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Fault]:
        return (self.fault(index) for index in range(self.size))

    def fault(self, index: int) -> Fault:
        """Build the fault with an index.

        Raises:
            InvalidInput: if there is none.
        """
        block, positions = self._at(index)
        return block.fault(positions)

    def index(self, fault: Fault) -> int:
        """Find a fault.

        Raises:
            InvalidInput: if it is not in the space.
        """
        for block, end in zip(self._blocks, self._ends, strict=True):
            positions = block.positions(fault)
            if positions is not None:
                return end - block.size + _ravel(positions, block.axes)
        raise InvalidInput(f"fault '{fault}' is not in the space of {self.size:,} faults")

    def __contains__(self, fault: object) -> bool:
        return isinstance(fault, Fault) and any(block.positions(fault) is not None for block in self._blocks)

    def labels(self, index: int) -> dict[str, object]:
        """Say what was chosen for a fault, for tables: site, effect and timing by their words, then each choice."""
        block, positions = self._at(index)
        chosen = {axis.name: axis.values[place] for axis, place in zip(block.axes, positions, strict=True)}
        return {**block.labels, **chosen}

    def setting(self, index: int) -> int:
        """Say under which of the extents a fault is."""
        self._at(index)  # says so if there is none
        return self._settings[bisect_right(self._ends, index)]

    @property
    def axes(self) -> tuple[str, ...]:
        """The names that `labels` gives and `strata` goes by."""
        names: dict[str, None] = {}
        for block in self._blocks:
            names.update(dict.fromkeys([*block.labels, *(axis.name for axis in block.axes)]))
        return tuple(names)

    def weight(self, index: int) -> float:
        """Give what a fault weighs."""
        block, _ = self._at(index)
        return self.weights[block.pattern]

    @property
    def total_weight(self) -> float:
        """What all faults weigh together: the area or the raw FIT of the space."""
        return self._loads[-1]

    @property
    def is_weighted(self) -> bool:
        """Whether some faults weigh more than others."""
        return len(set(self.weights)) > 1

    def probability(self, index: int) -> float:
        """Give the probability that it is this fault, if one happens in the space."""
        return self.weight(index) / self.total_weight

    def sample(self, n: int, seed: int) -> tuple[int, ...]:
        """Draw the indices of n different faults, each as likely as the others whatever it weighs.

        The seed decides; fewer are the beginning of more.

        Raises:
            InvalidInput: if there are not so many.
        """
        _check_sample(n, seed, self.size)
        return shuffled(self.size, n, "sample", seed)

    def draws(self, n: int, seed: int) -> tuple[int, ...]:
        """Draw n indices independently of each other, by `probability`; a fault may be drawn again.

        The seed decides; fewer are the beginning of more.
        """
        _check_sample(n, seed, None)
        return tuple(self._draw(seed, place) for place in range(n))

    def _draw(self, seed: int, place: int) -> int:
        part = below(1 << 53, "draw", seed, place) / (1 << 53) * self.total_weight
        number = min(bisect_right(self._loads, part), len(self._blocks) - 1)
        size = self._blocks[number].size
        return self._ends[number] - size + below(size, "draw within", seed, place)

    def strata(self, by: Sequence[str]) -> "tuple[Stratum, ...]":
        """Split the space by what was chosen: every fault is in one stratum.

        Args:
            by: names of `axes`. Faults without such a choice have the key None there.

        Raises:
            InvalidInput: for a name that is none, or for more strata than one can want.
        """
        unknown = [name for name in by if name not in self.axes]
        if unknown or not by:
            raise InvalidInput(f"by={list(by)} of strata must be of this space's choices: {', '.join(self.axes)}")
        parts: dict[Key, list[_Part]] = {}
        for number, block in enumerate(self._blocks):
            split = [place for place, axis in enumerate(block.axes) if axis.name in by]
            many = math.prod(block.axes[place].size for place in split)
            if many + len(parts) > _MOST_STRATA:
                raise InvalidInput(f"by={list(by)} makes more than {_MOST_STRATA:,} strata; leave a name out")
            for chosen in product(*(range(block.axes[place].size) for place in split)):
                fixed = dict(zip(split, chosen, strict=True))
                labels = {**block.labels, **{block.axes[p].name: block.axes[p].values[at] for p, at in fixed.items()}}
                key = tuple(labels.get(name) for name in by)
                parts.setdefault(key, []).append(_Part(number, fixed, block.size // many))
        return tuple(
            Stratum(
                space=self, by=tuple(by), key=key, _parts=tuple(some), _ends=tuple(accumulate(p.size for p in some))
            )
            for key, some in parts.items()
        )

    def _at(self, index: int) -> tuple[Block, tuple[int, ...]]:
        if not 0 <= index < self.size:
            raise InvalidInput(f"index={index} is outside the space of {self.size:,} faults (0..{self.size - 1})")
        number = bisect_right(self._ends, index)
        block = self._blocks[number]
        return block, _unravel(index - (self._ends[number] - block.size), block.axes)

    def __str__(self) -> str:
        return "\n".join(
            f"{weight!r} x {pattern}" if weight != 1 else pattern
            for weight, pattern in zip(self.weights, self.patterns, strict=True)
        )


@dataclass(frozen=True)
class _Part:
    """The part of a block in a stratum: some axes at a fixed position."""

    block: int
    fixed: Mapping[int, int]
    size: int


@final
@dataclass(frozen=True, kw_only=True)
class Stratum:
    """The faults of a space that have their ``by`` in common, counted from 0; ``stratum[i]`` is one's index in the space."""  # noqa: E501

    space: FaultSpace
    by: tuple[str, ...]
    key: Key
    _parts: tuple[_Part, ...] = field(repr=False)
    _ends: tuple[int, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """How many faults there are."""
        return self._ends[-1]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.size:
            raise IndexError(f"place {place} is outside the stratum of {self.size:,} faults")
        number = bisect_right(self._ends, place)
        part = self._parts[number]
        block = self.space._blocks[part.block]
        free = [axis for at, axis in enumerate(block.axes) if at not in part.fixed]
        chosen = iter(_unravel(place - (self._ends[number] - part.size), free))
        positions = [part.fixed[at] if at in part.fixed else next(chosen) for at in range(len(block.axes))]
        return self.space._ends[part.block] - block.size + _ravel(positions, block.axes)

    def __iter__(self) -> Iterator[int]:
        return (self[place] for place in range(self.size))

    def fault(self, place: int) -> Fault:
        """Build a fault of the stratum."""
        return self.space.fault(self[place])

    def sample(self, n: int, seed: int) -> tuple[int, ...]:
        """Draw n different faults as `FaultSpace.sample` does, independently of other strata; give their indices there.

        Raises:
            InvalidInput: if there are not so many.
        """
        _check_sample(n, seed, self.size)
        return tuple(self[place] for place in shuffled(self.size, n, "stratum", seed, self.by, self.key))

    @property
    def total_weight(self) -> float:
        """What its faults weigh together."""
        blocks = self.space._blocks
        return math.fsum(part.size * self.space.weights[blocks[part.block].pattern] for part in self._parts)

    @property
    def is_weighted(self) -> bool:
        """Whether some of its faults weigh more than others."""
        return len({self.space.weights[self.space._blocks[part.block].pattern] for part in self._parts}) > 1


def _labelled(block: Block, setting: Mapping[str, object]) -> Block:
    twice = setting.keys() & {*block.labels, *(axis.name for axis in block.axes)}
    if twice:
        raise InvalidInput(f"setting={dict(setting)} of Extent: {min(twice)!r} names a choice of the faults already")
    return replace(block, labels={**setting, **block.labels})


def _ravel(positions: Sequence[int], axes: Sequence[Axis]) -> int:
    index = 0
    for position, axis in zip(positions, axes, strict=True):
        index = index * axis.size + position
    return index


def _unravel(index: int, axes: Sequence[Axis]) -> tuple[int, ...]:
    positions = []
    for axis in reversed(axes):
        index, position = divmod(index, axis.size)
        positions.append(position)
    return tuple(reversed(positions))


def _check_apart(blocks: Sequence[Block], patterns: Sequence[str]) -> None:
    """Refuse a fault that two patterns have, which would count twice. Blocks of one pattern are apart by themselves."""
    for place, block in enumerate(blocks):
        for other in blocks[:place]:
            if other.pattern != block.pattern and type(other.first.site) is type(block.first.site):
                both = other.common(block)
                if both is not None:
                    raise InvalidInput(
                        f"faults: '{both}' is in '{patterns[other.pattern]}' and in '{patterns[block.pattern]}', and "
                        "would count twice; narrow one of them"
                    )


def _check_sample(n: int, seed: int, size: int | None) -> None:
    if n < 0 or (size is not None and n > size):
        raise InvalidInput(f"n={n} of a sample must be from 0" + ("" if size is None else f" to {size}, all there are"))
    if seed < 0:
        raise InvalidInput(f"seed={seed} must not be negative")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
