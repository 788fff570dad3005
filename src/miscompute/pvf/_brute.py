"""The definition: write the faulty value, run the model, compare. Slow and obvious."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from ..formats import Format
from ._criteria import Golden, Limits, failures
from ._faults import Faults


def scores_of(model: nn.Module, inputs: Tensor, batch_size: int) -> Tensor:
    """Run a model in batches; scores (inferences, classes), the places of a text one after the other."""
    with torch.no_grad():
        scores = [model(inputs[first : first + batch_size]) for first in range(0, len(inputs), batch_size)]
    return torch.cat(scores).flatten(0, -2)


def golden_of(scores: Tensor, labels: Tensor | None) -> Golden:
    """Make what faulty scores are compared with."""
    return Golden(scores, scores.argmax(1), None if labels is None else labels.flatten())


def brute_force(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor | None,
    faults: Sequence[Faults],
    formats: Mapping[str, Format],
    *,
    criteria: tuple[str, ...] = ("top1",),
    limits: Limits | None = None,
    batch_size: int = 250,
) -> list[Int64[Tensor, "criteria elements effects"]]:
    """Count the failed inferences of each fault by running the whole model with it.

    Args:
        model: in eval mode, its parameters values of their formats (`rounded_to`); as it was when this returns.
        inputs: what the model takes, examples first.
        labels: one for each inference, if a criterion needs them.
        faults: of which parameters.
        formats: of each parameter.
        criteria: of `CRITERIA`.
        limits: of the criteria that have one.
        batch_size: examples run together. Rounding may depend on it, so it belongs to the definition.
    """
    limits = limits or Limits()
    golden = golden_of(scores_of(model, inputs, batch_size), labels)
    found = []
    for one in faults:
        parameter = model.get_parameter(one.parameter).detach().view(-1)
        values = one.values(parameter, formats[one.parameter])
        counted = torch.zeros(len(criteria), *values.shape, dtype=torch.int64)
        for row, element in enumerate(one.elements):
            stored = parameter[element].clone()
            for column in range(values.shape[1]):
                parameter[element] = values[row, column]
                try:
                    scores = scores_of(model, inputs, batch_size)
                finally:
                    parameter[element] = stored
                counted[:, row, column] = failures(scores, golden, criteria, limits).sum(1)
        found.append(counted)
    return found
