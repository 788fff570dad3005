"""What was found: failures of each fault, and their sums and rates."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import NamedTuple, final

import numpy as np
import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from .._invalid import InvalidInput
from ..analysis import Estimate, rate
from ..analysis._bet import least_mean
from ..fault import BitOperation, Effect
from ..formats import Format
from ._criteria import place_of
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
        exhaustive: whether all faults of the parameters were tried, or some drawn at random, all alike.
        work: how it was found.
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

    def failures(self, criterion: str | None = None) -> dict[str, Int64[Tensor, "elements effects"]]:
        """Give the failures of every fault by parameter; -1 where a fault was not tried.

        ``criterion``: without one, the first.
        """
        place = place_of(criterion, self.criteria)
        column = {effect: at for at, effect in enumerate(self.effects)}
        found = {name: torch.full((math.prod(shape), len(self.effects)), -1) for name, shape in self.shapes.items()}
        for one in self.measured:
            elements = torch.tensor(one.faults.elements)
            columns = torch.tensor([column[effect] for effect in one.faults.effects])
            found[one.faults.parameter][elements[:, None], columns[None]] = one.failures[place]
        return found

    def rows(self, by: str = "model", criterion: str | None = None, *, confidence: float = 0.95) -> tuple[Row, ...]:
        """Sum up by ``model``, ``layer``, ``parameter``, ``channel``, ``element``, ``bit``, ``field`` or ``effect``.

        A channel is the first dimension of a parameter, an element one number of it. Of ``bit`` and ``field``, only
        faults of one bit have a row.

        Raises:
            InvalidInput: for another word, or a criterion that was not asked for.
        """
        grouped = self._grouped((by,), criterion)
        return tuple(self._row(name, *found, confidence) for (name,), found in grouped.items())

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
            (row, column): self._row(f"{row}, {column}", *found, confidence)
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
        found: list[tuple[float, str, np.ndarray, int]] = []
        for (name,), (failures, population) in self._grouped((by,), criterion).items():
            if failures.size:
                found.append((float(failures.mean()), name, failures, population))
        found.sort(key=lambda one: -one[0])  # of equals, the first in the model
        return tuple(self._row(name, failures, size, confidence) for _, name, failures, size in found[:number])

    def _grouped(self, by: tuple[str, ...], criterion: str | None) -> dict[tuple[str, ...], tuple[np.ndarray, int]]:
        """Give, for every combination of labels, the failures of the faults tried, and how many faults there are."""
        for word in by:
            if word not in GROUPS:
                raise InvalidInput(f"by={word!r} is unknown; choose from {', '.join(GROUPS)}")
        tried: dict[tuple[str, ...], list[np.ndarray]] = {}
        population: dict[tuple[str, ...], int] = {}
        for name, table in self.failures(criterion).items():
            groupings = [GROUPS[word](self, name) for word in by]
            labels = list(product(*(names for names, _ in groupings)))
            belongs = np.logical_and.reduce([keys >= 0 for _, keys in groupings])
            places = np.zeros_like(groupings[0][1])
            for names, keys in groupings:
                places = places * len(names) + keys
            numbers, places = table.numpy()[belongs], places[belongs]
            order = np.argsort(places, kind="stable")
            for label, mine in zip(
                labels, np.split(numbers[order], np.searchsorted(places[order], range(1, len(labels)))), strict=True
            ):
                if mine.size:
                    population[label] = population.get(label, 0) + mine.size
                    tried.setdefault(label, []).append(mine[mine >= 0])
        return {label: (np.concatenate(parts), population[label]) for label, parts in tried.items()}

    def frame(self) -> pl.DataFrame:
        """Give a row for each fault that was tried: parameter, element, effect, and its failures by each criterion.

        An element counts in the order of memory. ``write_parquet`` and ``write_csv`` of the frame keep it.
        """
        parts = []
        for one in self.measured:
            elements, effects = len(one.faults.elements), len(one.faults.effects)
            counts = {name: one.failures[at].flatten().numpy() for at, name in enumerate(self.criteria)}
            parts.append(
                pl.DataFrame(
                    {
                        "parameter": [one.faults.parameter] * (elements * effects),
                        "element": np.repeat(np.array(one.faults.elements), effects),
                        "effect": [str(effect) for effect in one.faults.effects] * elements,
                        "inferences": [self.inferences] * (elements * effects),
                        **counts,
                    }
                )
            )
        return pl.concat(parts)

    def _row(self, name: str, failures: np.ndarray, population: int, confidence: float) -> Row:
        total, faults = int(failures.sum()), len(failures)
        inferences = faults * self.inferences
        affected = int((failures > 0).sum())
        if faults == population:
            best = total / inferences
            pvf = _exact(best, confidence, None, None)
            critical = _exact(affected / faults, confidence, affected, faults)
        elif faults:
            pvf = mean_estimate(failures / self.inferences, confidence)
            critical = rate(affected, faults, confidence=confidence, population=population)
        else:
            pvf = critical = Estimate(low=0.0, best=0.5, high=1.0, confidence=confidence, method="nothing was tried")
        return Row(name, faults, population, total, inferences, pvf, critical)


def _exact(best: float, confidence: float, events: int | None, trials: int | None) -> Estimate:
    return Estimate(
        low=best, best=best, high=best, confidence=confidence, method="exhaustive", events=events, trials=trials
    )


def mean_estimate(values: np.ndarray, confidence: float) -> Estimate:
    """Estimate the mean of values in 0..1 of faults drawn at random, by betting; without replacement it is safe too."""
    distinct, repeats = np.unique(values, return_counts=True)
    ones, tail = np.ones(len(distinct)), (1 - confidence) / 2
    low, best = least_mean(distinct, ones, repeats, tail), float(values.mean())
    high = 1 - least_mean(1 - distinct, ones, repeats, tail)
    return Estimate(low=min(low, best), best=best, high=max(high, best), confidence=confidence, method="betting")


Grouping = Callable[[Vulnerability, str], tuple[list[str], np.ndarray]]
"""Labels, and for each fault of a parameter (elements, effects) the label's place, -1 for none."""


def _whole(label: Callable[[str], str]) -> Grouping:
    def group(result: Vulnerability, name: str) -> tuple[list[str], np.ndarray]:
        return [label(name)], np.zeros(_size(result, name), int)

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
        return labels, np.repeat(keys[:, None], len(result.effects), 1)

    return group


def _by_effect(label: Callable[[Vulnerability, Effect], str | None]) -> Grouping:
    def group(result: Vulnerability, name: str) -> tuple[list[str], np.ndarray]:
        found = [label(result, effect) for effect in result.effects]
        labels = list(dict.fromkeys(one for one in found if one is not None))
        keys = np.array([-1 if one is None else labels.index(one) for one in found])
        return labels, np.repeat(keys[None], _size(result, name)[0], 0)

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
