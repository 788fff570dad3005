"""Draws: which faults of all are tried, where not all are."""

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from .._invalid import InvalidInput
from ..analysis import deal
from ..fault import Effect
from ..formats import Format
from ._faults import Faults, Protection

PLANS: Mapping[str, str] = MappingProxyType(
    {
        "uniform": "all faults alike",
        "data-aware": "more of those that change a word much",
    }
)
"""Every way to draw faults, and what it prefers."""

Shapes = Mapping[str, tuple[int, ...]]
Allocation = Mapping[str, Int64[np.ndarray, " effects"]]
"""Of each parameter, how many of its elements are drawn for each effect, at random and without repeating any."""

_LOOK = 4096  # elements of a parameter, at random, from which is guessed what an effect does to it
_ALIKE = 0.5  # of the trials, dealt whatever the guess says, since it may be wrong
# Times its own sum a neuron must be off before answers change: about so in LeNet-5, and no number is best.
_MASKED = 10.0


def check_drawn(shapes: Shapes, effects: Sequence[Effect], *, trials: int | None, plan: str = "uniform") -> None:
    """Raise `InvalidInput` unless so many faults can be drawn by a plan; no number of trials: all are tried."""
    if plan not in PLANS:
        raise InvalidInput(f"plan={plan!r} is unknown; choose from {', '.join(PLANS)}")
    if trials is None:
        if plan != "uniform":
            raise InvalidInput(
                f"plan={plan!r} is of faults that are drawn, and all are asked for; give trials, or leave the plan out"
            )
        return
    population = sum(_sizes(shapes).values()) * len(effects)
    if trials < 1:
        raise InvalidInput(f"trials={trials} must be at least 1; leave it out for all faults")
    if trials > population:
        raise InvalidInput(f"trials={trials} exceed the {population} faults that there are; leave it out for all")
    least = len(shapes) * len(effects)
    if plan == "data-aware" and trials < least:
        raise InvalidInput(
            f"trials={trials} must be at least {least} with plan='data-aware', one for each of {len(effects)} effects "
            f"on each of {len(shapes)} parameters; draw more, or use plan='uniform'"
        )


def all_faults(shapes: Shapes, effects: Sequence[Effect], *, most: int) -> list[Faults]:
    """List all faults of parameters of some shapes, of at the most so many elements at once."""
    return [
        Faults(parameter=name, elements=tuple(range(first, min(first + most, size))), effects=tuple(effects))
        for name, size in _sizes(shapes).items()
        for first in range(0, size, most)
    ]


def drawn_alike(shapes: Shapes, effects: Sequence[Effect], *, trials: int, seed: int) -> list[Faults]:
    """Draw different faults, all alike; those of one element are one value.

    Raises:
        InvalidInput: unless from one to all are to be drawn.
    """
    check_drawn(shapes, effects, trials=trials)
    sizes = _sizes(shapes)
    population = sum(sizes.values()) * len(effects)
    places = np.sort(np.random.default_rng(seed).choice(population, trials, replace=False))
    elements, columns = np.divmod(places, len(effects))
    ends = np.cumsum(list(sizes.values()))
    owners = np.searchsorted(ends, elements, side="right")
    names = list(sizes)
    first = ends[owners] - np.array(list(sizes.values()))[owners]
    owned = (names[owner] for owner in owners.tolist())
    return _gathered(zip(owned, (elements - first).tolist(), columns.tolist(), strict=True), effects)


def drawn_by(allocation: Allocation, shapes: Shapes, effects: Sequence[Effect], *, seed: int) -> list[Faults]:
    """Draw different faults, as many of each parameter and effect as is said; those of one element are one value."""
    random, sizes = np.random.default_rng(seed), _sizes(shapes)
    chosen = (
        (name, element, column)
        for name, numbers in allocation.items()
        for column, number in enumerate(numbers.tolist())
        for element in random.choice(sizes[name], number, replace=False).tolist()
    )
    return _gathered(chosen, effects)


def _gathered(chosen: Iterable[tuple[str, int, int]], effects: Sequence[Effect]) -> list[Faults]:
    """Put the effects on one element of one parameter together."""
    found: dict[tuple[str, int], list[Effect]] = {}
    for name, element, column in chosen:
        found.setdefault((name, element), []).append(effects[column])
    return [Faults(parameter=name, elements=(at,), effects=tuple(several)) for (name, at), several in found.items()]


def allocate(
    model: nn.Module,
    formats: Mapping[str, Format],
    effects: Sequence[Effect],
    *,
    trials: int,
    protection: Protection | None = None,
) -> Allocation:
    """Deal trials to the effects on each parameter: half by size, half by size and what the words say they may do.

    That is guessed from the parameters alone, before any inference: with d the change of an element, relative to the
    root of the sum of squares of its channel (of a vector, to its root mean square), by ``d / (10 + d)`` in the root
    mean square over elements. The others mask one neuron that is a little wrong, and beyond being all wrong more is not
    worse. The guess decides how wide intervals are, never what is right.

    Args:
        model: its parameters hold values of the formats.
        formats: of the parameters, by name.
        effects: on each element.
        trials: all that there are to deal.
        protection: bits that no fault changes.

    Raises:
        InvalidInput: unless there is one for each effect on each parameter, and not more than faults.
    """
    shapes = {name: tuple(model.get_parameter(name).shape) for name in formats}
    check_drawn(shapes, effects, trials=trials, plan="data-aware")
    sizes = _sizes(shapes)
    population = sum(sizes.values()) * len(effects)
    worth = {name: _worth(name, model.get_parameter(name), one, effects, protection) for name, one in formats.items()}
    whole = math.fsum(float(worth[name].sum()) * size for name, size in sizes.items())
    shares = [
        size * (_ALIKE / population + ((1 - _ALIKE) * guess / whole if whole else 0.0))
        for name, size in sizes.items()
        for guess in worth[name].tolist()
    ]
    dealt = deal([size for size in sizes.values() for _ in effects], shares, trials)
    return dict(zip(sizes, np.array(dealt).reshape(len(sizes), len(effects)), strict=True))


def _worth(
    name: str, parameter: Tensor, format: Format, effects: Sequence[Effect], protection: Protection | None
) -> Float64[np.ndarray, " effects"]:
    stored = parameter.detach().double()
    size = stored.numel()
    looked = np.random.default_rng(size).choice(size, min(size, _LOOK), replace=False)
    elements = tuple(looked.tolist())
    protected = protection.of(name, elements) if protection is not None else ()
    faults = Faults(parameter=name, elements=elements, effects=tuple(effects), protected=protected)
    rows = stored.reshape(len(stored), -1) if stored.dim() > 1 else stored.reshape(1, -1)
    scale = rows.norm(dim=1) if stored.dim() > 1 else rows.square().mean(1).sqrt()
    of_element = scale.repeat_interleave(rows.shape[1])[looked, None].clamp(min=torch.finfo(torch.float32).tiny)
    huge = torch.finfo(torch.float32).max
    change = (faults.values(parameter, format).double() - stored.flatten()[looked, None]).abs()
    relative = change.nan_to_num(nan=huge, posinf=huge) / of_element
    guess: Float64[np.ndarray, " effects"] = (relative / (_MASKED + relative)).square().mean(0).sqrt().numpy()
    return guess


def _sizes(shapes: Shapes) -> dict[str, int]:
    return {name: math.prod(shape) for name, shape in shapes.items()}
