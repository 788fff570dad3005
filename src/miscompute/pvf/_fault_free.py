"""What every measurement begins with: the model without a fault, and what its inferences give."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from .._invalid import InvalidInput
from ..formats import Format
from ._brute import golden_of, scores_of
from ._criteria import Golden, Limits, check_criteria, settled
from ._faults import rounded_to


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FaultFree:
    """A model without a fault, and what a faulty inference is judged by.

    ``model`` is a copy in eval mode that needs no gradients, some of its parameters rounded to their ``formats``.
    """

    model: nn.Module
    formats: dict[str, Format]
    criteria: tuple[str, ...]
    limits: Limits
    golden: Golden

    @property
    def accuracy(self) -> float | None:
        """The share of inferences that are right; None without labels."""
        golden = self.golden
        return None if golden.labels is None else float((golden.classes == golden.labels).double().mean())


def fault_free(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor | None,
    *,
    rounded: Sequence[str],
    format: Format,
    criteria: Sequence[str] | None,
    limits: Limits | None,
    batch_size: int,
) -> FaultFree:
    """Run a model without a fault; arguments as of `vulnerability`, ``rounded`` the parameters stored in the format.

    Raises:
        InvalidInput: for values that cannot be, or if the scores are not finite.
    """
    if batch_size < 1:
        raise InvalidInput(f"batch_size={batch_size} must be at least 1")
    if not len(inputs):
        raise InvalidInput("inputs must hold at least one example")
    chosen = tuple(criteria) if criteria is not None else ("top1",) + (("label",) if labels is not None else ())
    check_criteria(chosen, labels)
    prepared = copy.deepcopy(model).eval().requires_grad_(False)
    formats = rounded_to(prepared, rounded, format)
    scores = scores_of(prepared, inputs, batch_size)
    if labels is not None and labels.numel() != len(scores):
        raise InvalidInput(f"labels are {labels.numel()}, but there are {len(scores)} inferences; give one for each")
    if not bool(torch.isfinite(scores).all()):
        raise InvalidInput(f"scores without any fault are not finite in format={format.name}; choose another")
    return FaultFree(
        model=prepared,
        formats=formats,
        criteria=chosen,
        limits=settled(limits, scores, inputs),
        golden=golden_of(scores, labels),
    )
