"""How a task is trained: everything that decides the result besides the machine."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .._invalid import InvalidInput
from ..injection import states_of
from ._models import MODELS, check_reads
from ._sources import DATA_SETS


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training, to the last decision. Equal recipes on one machine train to equal bits.

    ``steps`` and ``evaluate_every`` count optimizer steps; ``lr`` is the highest learning rate of the schedule;
    ``momentum`` is SGD's and has no meaning for the others. ``validation_examples`` are how many of the data set's,
    from the first on, an evaluation takes; None: all. Many short runs spend most of their time in evaluations else.
    """

    data: str
    model: str
    width: float = 1.0
    optimizer: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    batch_size: int = 64
    steps: int = 1000
    evaluate_every: int = 50
    validation_examples: int | None = None
    seed: int = 123

    def __post_init__(self) -> None:
        tables: tuple[tuple[str, Mapping[str, object]], ...] = (
            ("model", MODELS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
        )
        for name, table in tables:
            if getattr(self, name) not in table:
                raise InvalidInput(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(table)}")
        if self.data in DATA_SETS:  # a caller may train on another
            check_reads(self.model, DATA_SETS[self.data].reads, self.data)
        for name in ("batch_size", "steps", "evaluate_every"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name}={getattr(self, name)} must be at least 1")
        if self.validation_examples is not None and self.validation_examples < 1:
            raise InvalidInput(
                f"validation_examples={self.validation_examples} must be at least 1; leave it out for all"
            )
        for name in ("momentum", "weight_decay"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise InvalidInput(f"{name}={getattr(self, name)} must not be negative, and must be finite")
        if self.seed < 0:
            raise InvalidInput(f"seed={self.seed} must not be negative")
        if self.seed >= 1 << 63:
            raise InvalidInput(f"seed={self.seed} must be less than 2**63")
        for name in ("width", "lr"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise InvalidInput(f"{name}={getattr(self, name)} must be greater than 0 and finite")


def _adam(parameters: Iterable[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


def _adamw(parameters: Iterable[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


def _sgd(parameters: Iterable[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


OPTIMIZERS: Mapping[str, Callable[[Iterable[Tensor], Recipe], torch.optim.Optimizer]] = MappingProxyType(
    {"adam": _adam, "adamw": _adamw, "sgd": _sgd}
)
"""Every optimizer, by the word used in specs and on the command line."""


def _one_cycle(done: float) -> float:
    """Rise from 4 % in the first 15 % of the training, then fall to nearly 0 along a cosine (Smith and Topin, 2018)."""
    if done < 0.15:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / 0.15)) / 2
    return 1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (done - 0.15) / 0.85)) / 2


def states_kept(recipe: Recipe) -> tuple[str, ...]:
    """Name what a recipe's optimizer keeps of a parameter, by letting it make a step.

    >>> states_kept(recipe_for("cluttered_digits")), states_kept(recipe_for("cifar10", optimizer="sgd", momentum=0.0))
    (('exp_avg', 'exp_avg_sq'), ())
    """
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    optimizer = OPTIMIZERS[recipe.optimizer]([parameter], recipe)
    optimizer.step()
    return states_of(optimizer, parameter)


SCHEDULES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "constant": lambda done: 1.0,  # noqa: ARG005
        "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
        "one-cycle": _one_cycle,
    }
)
"""Every schedule: the learning rate as a part of ``lr``, when that part of the steps is done."""

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "cluttered_digits": Recipe(
            data="cluttered_digits",
            model="alexnet",
            width=0.125,
            lr=2e-3,
            schedule="cosine",
            batch_size=64,
            steps=2500,
            evaluate_every=125,
        ),
        "cifar10": Recipe(
            data="cifar10",
            model="alexnet",
            lr=1.5e-3,
            schedule="one-cycle",
            batch_size=128,
            steps=3900,
            evaluate_every=390,
        ),
        "tiny_shakespeare": Recipe(
            data="tiny_shakespeare",
            model="gpt",
            optimizer="adamw",
            lr=6e-3,
            weight_decay=0.1,
            schedule="one-cycle",
            batch_size=32,
            steps=600,
            evaluate_every=60,
        ),
    }
)
"""For every data set, a recipe that trains well; experiments change what they are asked to."""


def recipe_for(data: str, **changes: Any) -> Recipe:
    """Give a data set's recipe with some fields changed; None means as it is.

    Another model than the recipe's has a width of 1 unless one is given: the recipe's was chosen for its own model.

    >>> recipe_for("cifar10", lr=1e-3, steps=None).steps
    3900
    >>> recipe_for("cluttered_digits").width, recipe_for("cluttered_digits", model="lenet5").width
    (0.125, 1.0)
    """
    if data not in RECIPES:
        raise InvalidInput(f"data={data!r} is unknown; choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[data]
    changes = {name: value for name, value in changes.items() if value is not None}
    if changes.get("model", recipe.model) != recipe.model:
        changes = {"width": 1.0, **changes}
    return replace(recipe, **changes)
