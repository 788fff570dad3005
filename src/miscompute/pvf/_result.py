"""What was found: failures of each fault, and their sums and rates."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import NamedTuple, final

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from .._invalid import InvalidInput
from ..analysis import Estimate, rate, weighted_mean
from ..fault import BitOperation, Effect
from ..formats import Format
from ._criteria import place_of
from ._draws import Allocation
from ._engine import Work
from ._faults import Faults


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """How many inferences fail under each fault of a parameter, by each criterion."""

    faults: Faults
    failures: Int64[Tensor, "criteria elements effects"]


class Row(NamedTuple):
    """Faults taken together.

    ``pvf``: the probability that an inference fails under one of them. ``critical``: the share of them under which at
    least one inference fails. ``failures`` of ``inferences`` were found under the ``faults`` that were tried.
    """

    name: str
    faults: int
    population: int
    failures: int
    inferences: int
    pvf: Estimate
    critical: Estimate


class _Group(NamedTuple):
    """Faults of one group: failures of those tried, how many of all each stands for, and how many all are.

    ``bound``: the most that one could stand for. ``is_split``: whether the draws were of these and others together, so
    that how many of them are of the group is chance.
    """

    failures: Int64[np.ndarray, " tried"]
    weights: Float64[np.ndarray, " tried"]
    population: int
    bound: float
    is_split: bool

    @property
    def tried(self) -> int:
        return len(self.failures)

    @property
    def mean(self) -> float:
        return float((self.weights * self.failures).sum() / self.weights.sum())


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Vulnerability:
    """How vulnerable a model is to faults in its parameters.

    Args:
        format: in which the parameters are stored.
        criteria: by which an inference fails, in the order of the failures.
        inferences: with each fault: as many as there are images, or places of texts.
        accuracy: of the fault-free model in that format; None without labels.
        shapes: of the parameters.
        effects: that each element of a parameter may suffer.
        measured: what was found.
        exhaustive: whether all faults of the parameters were tried, or some drawn at random.
        work: how it was found.
        allocation: how many faults were drawn of each parameter and effect; None: all alike, or all were tried.
    """

    format: Format
    criteria: tuple[str, ...]
    inferences: int
    accuracy: float | None
    shapes: Mapping[str, tuple[int, ...]]
    effects: tuple[Effect, ...]
    measured: tuple[Measured, ...]
    exhaustive: bool
    work: Work
    allocation: Allocation | None = None

    def failures(self, criterion: str | None = None) -> dict[str, Int64[Tensor, "elements effects"]]:
        """Give the failures of every fault by parameter; -1 where a fault was not tried.

        ``criterion``: without one, the first.
        """
        found = {}
        for name, (elements, columns, failures) in self._tried(criterion).items():
            found[name] = torch.full(_size(self, name), -1)
            found[name][elements, columns] = torch.from_numpy(failures)
        return found

    def stands_for(self, parameter: str) -> Float64[np.ndarray, " effects"]:
        """Say how many of all faults each one that was tried of a parameter stands for, by effect."""
        size, columns = math.prod(self.shapes[parameter]), len(self.effects)
        if self.allocation is not None:
            return size / self.allocation[parameter]
        population = columns * sum(math.prod(shape) for shape in self.shapes.values())
        return np.full(columns, population / self._many)

    @cached_property
    def _many(self) -> int:
        """How many faults were tried: of thousands that were drawn, too many to count again for each."""
        return sum(len(one.faults) for one in self.measured)

    def rows(self, by: str = "model", criterion: str | None = None, *, confidence: float = 0.95) -> tuple[Row, ...]:
        """Sum up by ``model``, ``layer``, ``parameter``, ``channel``, ``element``, ``bit``, ``field`` or ``effect``.

        A channel is the first dimension of a parameter, an element one number of it. Of ``bit`` and ``field``, only
        faults of one bit have a row.

        Raises:
            InvalidInput: for another word, or a criterion that was not asked for.
        """
        grouped = self._grouped((by,), criterion)
        return tuple(self._row(name, found, confidence) for (name,), found in grouped.items())

    def cells(
        self,
        rows: str,
        columns: str,
        criterion: str | None = None,
        *,
        only: Sequence[str] | None = None,
        confidence: float = 0.95,
    ) -> dict[tuple[str, str], Row]:
        """Sum up by two groups at once, such as ``layer`` and ``bit``: what a heat map shows. See `rows`.

        ``only``: the labels of rows that are wanted, in any order.

        Raises:
            InvalidInput: as `rows` does.
        """
        return {
            (row, column): self._row(f"{row}, {column}", found, confidence)
            for (row, column), found in self._grouped((rows, columns), criterion).items()
            if only is None or row in only
        }

    def worst(
        self, number: int = 10, by: str = "element", criterion: str | None = None, *, confidence: float = 0.95
    ) -> tuple[Row, ...]:
        """Give the parts with the highest PVF, worst first.

        Of faults that were drawn, those tried decide, and among many parts the first owe their place to chance as well;
        the intervals are of each part by itself.

        Args:
            number: how many to give.
            by: a word of `rows`.
            criterion: without one, the first.
            confidence: of each interval.

        Raises:
            InvalidInput: for a number below 1, or as `rows` does.
        """
        if number < 1:
            raise InvalidInput(f"number={number} of the worst must be at least 1")
        if by not in GROUPS:
            raise InvalidInput(f"by={by!r} is unknown; choose from {', '.join(GROUPS)}")
        found = [(group.mean, name, group) for (name,), group in self._grouped((by,), criterion).items() if group.tried]
        found.sort(key=lambda one: -one[0])  # of equals, the first in the model
        return tuple(self._row(name, group, confidence) for _, name, group in found[:number])

    def _grouped(self, by: tuple[str, ...], criterion: str | None) -> dict[tuple[str, ...], _Group]:
        """Give the faults of every combination of labels."""
        for word in by:
            if word not in GROUPS:
                raise InvalidInput(f"by={word!r} is unknown; choose from {', '.join(GROUPS)}")
        tried = self._tried(criterion)
        found: dict[tuple[str, ...], list[_Group]] = {}
        for name, (elements, columns, failures) in tried.items():
            groupings = [GROUPS[word](self, name) for word in by]
            labels = list(product(*(names for names, _ in groupings)))
            # (elements or 1, effects or 1): of a large model, a number for each fault would not fit into memory.
            places, belongs = np.zeros((1, 1), np.int64), np.ones((1, 1), bool)
            for names, keys in groupings:
                places, belongs = places * len(names) + keys, belongs & (keys >= 0)
            shape = _size(self, name)
            each = math.prod(shape) // places.size
            sizes = each * np.bincount(places[belongs], minlength=len(labels))
            mine = np.broadcast_to(belongs, shape)[elements, columns]
            at = np.broadcast_to(places, shape)[elements, columns][mine]
            order = np.argsort(at, kind="stable")
            cuts = np.searchsorted(at[order], range(1, len(labels)))
            stands = self.stands_for(name)
            weights = np.split(stands[columns][mine][order], cuts)
            parts = np.split(failures[mine][order], cuts)
            is_split = self.allocation is not None and len(places) > 1
            bounds = np.full(len(labels), stands.max())
            if is_split and places.shape[1] > 1:  # a label need not have the effects of which few were drawn
                bounds = np.zeros(len(labels))
                np.maximum.at(bounds, places[belongs], np.broadcast_to(stands, places.shape)[belongs])
            for label, size, some, of_some, bound in zip(
                labels, sizes.tolist(), parts, weights, bounds.tolist(), strict=True
            ):
                if size:
                    found.setdefault(label, []).append(_Group(some, of_some, size, bound, is_split))
        return {label: _together(groups) for label, groups in found.items()}

    def _tried(self, criterion: str | None) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Give the faults that were tried, by parameter: their elements, the places of their effects, and failures."""
        place = place_of(criterion, self.criteria)
        column = {effect: at for at, effect in enumerate(self.effects)}
        nothing = np.zeros(0, np.int64)
        parts = {name: [(nothing, nothing, nothing)] for name in self.shapes}
        for one in self.measured:
            columns = np.array([column[effect] for effect in one.faults.effects])
            elements = np.array(one.faults.elements)
            pairs = np.repeat(elements, len(columns)), np.tile(columns, len(elements))
            parts[one.faults.parameter].append((*pairs, one.failures[place].numpy().ravel()))
        joined = {name: [np.concatenate(some) for some in zip(*three, strict=True)] for name, three in parts.items()}
        return {name: (elements, columns, failures) for name, (elements, columns, failures) in joined.items()}

    def frame(self) -> pl.DataFrame:
        """Give a row for each fault that was tried: parameter, element, effect, and its failures by each criterion.

        An element counts in the order of memory; ``weight`` says how many of all faults this one stands for.
        ``write_parquet`` and ``write_csv`` of the frame keep it.
        """
        parts = []
        column = {effect: at for at, effect in enumerate(self.effects)}
        for one in self.measured:
            elements, effects = len(one.faults.elements), len(one.faults.effects)
            columns = [column[effect] for effect in one.faults.effects]
            counts = {name: one.failures[at].flatten().numpy() for at, name in enumerate(self.criteria)}
            parts.append(
                pl.DataFrame(
                    {
                        "parameter": [one.faults.parameter] * (elements * effects),
                        "element": np.repeat(np.array(one.faults.elements), effects),
                        "effect": [str(effect) for effect in one.faults.effects] * elements,
                        "weight": np.tile(self.stands_for(one.faults.parameter)[columns], elements),
                        "inferences": [self.inferences] * (elements * effects),
                        **counts,
                    }
                )
            )
        return pl.concat(parts)

    def _row(self, name: str, group: _Group, confidence: float) -> Row:
        total, faults, population = int(group.failures.sum()), group.tried, group.population
        inferences = faults * self.inferences
        shares, hit = group.failures / self.inferences, group.failures > 0
        affected = int(hit.sum())
        if not faults:
            pvf = critical = Estimate(low=0.0, best=0.5, high=1.0, confidence=confidence, method="nothing was tried")
        elif faults == population:
            pvf = _exact(total / inferences, confidence, None, None)
            critical = _exact(affected / faults, confidence, affected, faults)
        elif self.allocation is None:
            pvf = mean_estimate(shares, confidence)
            critical = rate(affected, faults, confidence=confidence, population=population)
        else:
            pvf, critical = (_weighed(one, group, confidence) for one in (shares, hit.astype(float)))
        return Row(name, faults, population, total, inferences, pvf, critical)


def _together(groups: Sequence[_Group]) -> _Group:
    return _Group(
        np.concatenate([one.failures for one in groups]),
        np.concatenate([one.weights for one in groups]),
        sum(one.population for one in groups),
        max(one.bound for one in groups),
        any(one.is_split for one in groups),
    )


def _exact(best: float, confidence: float, events: int | None, trials: int | None) -> Estimate:
    return Estimate(
        low=best, best=best, high=best, confidence=confidence, method="exhaustive", events=events, trials=trials
    )


def mean_estimate(values: Float64[np.ndarray, " trials"], confidence: float) -> Estimate:
    """Estimate the mean of values in 0..1 of faults drawn at random, by betting; without replacement it is safe too."""
    return replace(weighted_mean(values, np.ones(len(values)), bound=1.0, confidence=confidence), method="betting")


def _weighed(values: Float64[np.ndarray, " tried"], group: _Group, confidence: float) -> Estimate:
    """Estimate the mean of values in 0..1 of faults of which each stands for some of the group's."""
    if group.is_split:
        return weighted_mean(values, group.weights, bound=group.bound, confidence=confidence, normalised=True)
    # Where a fault stands for itself alone, all of its kind were tried.
    rest = group.weights > 1
    known, left = float(values[~rest].sum()), float(group.weights[rest].sum())
    weights = group.weights[rest] * (rest.sum() / left)
    found = weighted_mean(values[rest], weights, bound=float(weights.max()), confidence=confidence)
    return found.map(lambda mean: (known + left * mean) / group.population)


Grouping = Callable[[Vulnerability, str], tuple[list[str], np.ndarray]]
"""Labels, and the label's place, -1 for none, for all faults of a parameter (elements, effects).

Where all elements have the same, or all effects, that dimension is 1.
"""


def _whole(label: Callable[[str], str]) -> Grouping:
    def group(_: Vulnerability, name: str) -> tuple[list[str], np.ndarray]:
        return [label(name)], np.zeros((1, 1), np.int64)

    return group


def _size(result: Vulnerability, name: str) -> tuple[int, int]:
    return math.prod(result.shapes[name]), len(result.effects)


Division = Callable[[str, tuple[int, ...]], tuple[list[str], np.ndarray]]
"""From a parameter's name and shape: labels of its parts, and for each element the place of the label it belongs to."""


def by_channel(name: str, shape: tuple[int, ...]) -> tuple[list[str], np.ndarray]:
    """Divide a parameter by its first dimension."""
    channels = shape[0] if shape else 1
    return [f"{name}[{channel}]" for channel in range(channels)], np.arange(channels).repeat(math.prod(shape[1:]))


def by_word(name: str, shape: tuple[int, ...]) -> tuple[list[str], np.ndarray]:
    """Divide a parameter into its elements."""
    return [f"{name}[{','.join(map(str, place))}]" for place in np.ndindex(shape)], np.arange(math.prod(shape))


def _by_element(division: Division) -> Grouping:
    def group(result: Vulnerability, name: str) -> tuple[list[str], np.ndarray]:
        labels, keys = division(name, result.shapes[name])
        return labels, keys[:, None]

    return group


def _by_effect(label: Callable[[Vulnerability, Effect], str | None]) -> Grouping:
    def group(result: Vulnerability, _: str) -> tuple[list[str], np.ndarray]:
        found = [label(result, effect) for effect in result.effects]
        labels = list(dict.fromkeys(one for one in found if one is not None))
        keys = np.array([-1 if one is None else labels.index(one) for one in found])
        return labels, keys[None]

    return group


def bit_of(result: Vulnerability, effect: Effect) -> int | None:
    """Give the one bit that an effect touches; None: it touches several, or is no operation on bits."""
    if not isinstance(effect, BitOperation):
        return None
    full = (1 << result.format.bits) - 1
    keep, set_, flip = effect.masks(result.format)
    touched = (full & ~keep) | set_ | flip
    return touched.bit_length() - 1 if touched.bit_count() == 1 else None


def _bit(result: Vulnerability, effect: Effect) -> str | None:
    bit = bit_of(result, effect)
    return None if bit is None else f"bit {bit}"


def _field(result: Vulnerability, effect: Effect) -> str | None:
    bit = bit_of(result, effect)
    return None if bit is None else result.format.field(bit)


GROUPS: Mapping[str, Grouping] = MappingProxyType(
    {
        "model": _whole(lambda name: "model"),  # noqa: ARG005
        "layer": _whole(lambda name: name.rpartition(".")[0] or name),
        "parameter": _whole(lambda name: name),
        "channel": _by_element(by_channel),
        "element": _by_element(by_word),
        "bit": _by_effect(_bit),
        "field": _by_effect(_field),
        "effect": _by_effect(lambda result, effect: str(effect)),  # noqa: ARG005
    }
)
"""Every way to take faults together, by name."""
