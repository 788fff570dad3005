"""When an inference counts as failed."""

# ruff: noqa: ARG001 (all criteria take the same)

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .._invalid import InvalidInput


class Golden(NamedTuple):
    """What fault-free inferences gave: scores (n, classes), classes, and labels, if there are any."""

    scores: Float[Tensor, "n classes"]
    classes: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"] | None


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where the criteria that measure something begin.

    ``output``: for scores. ``loss``: for the cross entropy. ``perplexity``: for that of a text, by what part of the
    fault-free one it may grow. ``places`` is how many inferences a text has; `vulnerability` fills it in.
    """

    output: float = 0.1
    loss: float = 0.1
    perplexity: float = 0.1
    places: int = 1

    def __post_init__(self) -> None:
        if self.places < 1:
            raise InvalidInput(f"places={self.places} of Limits must be at least 1")
        for name in ("output", "loss", "perplexity"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidInput(f"{name}={getattr(self, name)} of Limits must be greater than 0 and finite")


Scores = Float[Tensor, "n classes"]


def _has_nan(scores: Scores) -> Bool[Tensor, " n"]:
    return scores.isnan().any(1)


def _top1(scores: Scores, golden: Golden, limits: Limits) -> Bool[Tensor, " n"]:
    return (scores.argmax(1) != golden.classes) | _has_nan(scores)


def _label(scores: Scores, golden: Golden, limits: Limits) -> Bool[Tensor, " n"]:
    assert golden.labels is not None
    return _top1(scores, golden, limits) & (golden.classes == golden.labels)


def _top5(scores: Scores, golden: Golden, limits: Limits) -> Bool[Tensor, " n"]:
    above = scores > scores.gather(1, golden.classes[:, None])
    return (above.sum(1) >= 5) | _has_nan(scores)


def _nonfinite(scores: Scores, golden: Golden, limits: Limits) -> Bool[Tensor, " n"]:
    return ~scores.isfinite().all(1)


def _output(scores: Scores, golden: Golden, limits: Limits) -> Bool[Tensor, " n"]:
    return ~((scores - golden.scores).abs() <= limits.output).all(1)  # so written that NaN fails


def _loss(scores: Scores, golden: Golden, limits: Limits) -> Bool[Tensor, " n"]:
    assert golden.labels is not None
    before = F.cross_entropy(golden.scores, golden.labels, reduction="none")
    after = F.cross_entropy(scores, golden.labels, reduction="none")
    return ~(after - before <= limits.loss)


def _perplexity(scores: Scores, golden: Golden, limits: Limits) -> Bool[Tensor, " n"]:
    assert golden.labels is not None
    before, after = (
        F.cross_entropy(one, golden.labels, reduction="none").view(-1, limits.places).mean(1)
        for one in (golden.scores, scores)
    )
    return (~(after - before <= math.log1p(limits.perplexity))).repeat_interleave(limits.places)


class Criterion(NamedTuple):
    """``fails``: from faulty scores which inferences fail; whether it needs labels; whether classes alone decide it."""

    fails: Callable[[Scores, Golden, Limits], Tensor]
    needs_labels: bool
    by_class: bool


CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        "top1": Criterion(_top1, needs_labels=False, by_class=True),
        "label": Criterion(_label, needs_labels=True, by_class=True),
        "top5": Criterion(_top5, needs_labels=False, by_class=True),
        "nonfinite": Criterion(_nonfinite, needs_labels=False, by_class=True),
        "output": Criterion(_output, needs_labels=False, by_class=False),
        "loss": Criterion(_loss, needs_labels=True, by_class=False),
        "perplexity": Criterion(_perplexity, needs_labels=True, by_class=False),
    }
)
"""Every criterion, by name. An inference is one image, or one place of a text.

``top1``: the predicted class is not the one of the fault-free model; scores with a NaN predict nothing, and fail.
``label``: the same, where the fault-free model's class is the label: the fault causes a misclassification.
``top5``: the fault-free model's class is not among the five best, or a score is NaN.
``nonfinite``: a score is NaN or infinite. None of these can fail while the fault-free class stays best and all scores
stay finite (``by_class``).
``output``: a score is off by more than ``Limits.output``. ``loss``: the cross entropy of the label grew by more than
``Limits.loss``. ``perplexity``: that of the whole text, the exponential of its mean cross entropy, grew by more than
the part ``Limits.perplexity``; then all its inferences count as failed, so the PVF is the share of texts.
"""


def settled(limits: Limits | None, scores: Tensor, inputs: Tensor) -> Limits:
    """Fill in how many inferences each example has."""
    return replace(limits or Limits(), places=len(scores) // len(inputs))


def check_criteria(names: tuple[str, ...], labels: Tensor | None) -> None:
    """Raise `InvalidInput` unless all are known and can be judged."""
    if not names:
        raise InvalidInput(f"criteria=() must name at least one of {', '.join(CRITERIA)}")
    for name in names:
        if name not in CRITERIA:
            raise InvalidInput(f"criterion={name!r} is unknown; choose from {', '.join(CRITERIA)}")
        if CRITERIA[name].needs_labels and labels is None:
            raise InvalidInput(f"criterion={name!r} needs labels; give them, or choose top1")


def place_of(criterion: str | None, asked: tuple[str, ...]) -> int:
    """Give the place of a criterion among those that were asked for; None: the first.

    Raises:
        InvalidInput: if it is none of them.
    """
    if criterion is None:
        return 0
    if criterion not in asked:
        raise InvalidInput(f"criterion={criterion!r} was not asked for; choose from {', '.join(asked)}")
    return asked.index(criterion)


def failures(scores: Scores, golden: Golden, criteria: tuple[str, ...], limits: Limits) -> Bool[Tensor, "criteria n"]:
    """Judge faulty scores by each criterion."""
    return torch.stack([CRITERIA[name].fails(scores, golden, limits) for name in criteria])
