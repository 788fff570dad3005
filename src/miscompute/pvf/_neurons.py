"""Faults of neurons: a bit of one element of what a layer gives is wrong, in every inference."""

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.fx import Node

from .._invalid import InvalidInput
from ..formats import Format, format_named
from ._brute import golden_of
from ._criteria import Golden, Limits, failures
from ._draws import all_faults, drawn_alike
from ._engine import Work
from ._fault_free import FaultFree, fault_free
from ._faults import Faults, effects_of, words_read
from ._graph import LAYERS, Graph, Values, capture, golden_values, module_of, run_node
from ._result import Measured, Vulnerability

_MOST = 64  # elements between two reports


def neuron_vulnerability(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor | None = None,
    *,
    layers: Sequence[str] | None = None,
    kinds: Sequence[str] = ("flip",),
    format: str = "fp32",
    criteria: Sequence[str] | None = None,
    limits: Limits | None = None,
    trials: int | None = None,
    seed: int = 0,
    batch_size: int = 250,
    report: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Vulnerability:
    """Count how many inferences fail under faults of neurons: elements of what a layer gives, before what follows it.

    In every inference the same element of the layer's result is read wrong, by all that read it. The model is computed
    again from the layer on: there is no faster way here.

    Args:
        model: as of `vulnerability`, and so are the arguments that are not here.
        inputs: what it takes, examples first.
        labels: of each inference, for the criteria that need them.
        layers: names of modules, such as convolutions; None: all layers.
        kinds: of `KINDS`.
        format: floating point, in which the element is stored for that moment: it alone is rounded to it.
        criteria: of `CRITERIA`.
        limits: of the criteria that have one.
        trials: how many faults to draw from all, without repeating any; None: all of them.
        seed: of the draw.
        batch_size: examples that run together.
        report: told how many pairs of a fault and an example are done, and of how many.

    Returns:
        What `vulnerability` returns, with layers in the place of parameters; a channel is the first dimension of one
        example's result.

    Raises:
        InvalidInput: for names that are not there, values that cannot be, or a model that cannot be captured.
    """
    asked = format_named(format)
    if not asked.is_float:
        raise InvalidInput(f"format={format} of neurons must be of floating point, such as bf16: there is no scale")
    effects = effects_of(kinds, asked)
    clean = fault_free(
        model, inputs, labels, rounded=(), format=asked, criteria=criteria, limits=limits, batch_size=batch_size
    )
    graph = capture(clean.model, inputs)
    nodes = _nodes(graph, layers)
    shapes = {name: tuple(node.meta["val"].shape[1:]) for name, node in nodes.items()}
    if trials is None:
        faults = all_faults(shapes, effects, most=_MOST)
    else:
        faults = drawn_alike(shapes, effects, trials=trials, seed=seed)
    counted = [
        torch.zeros(len(clean.criteria), len(one.elements), len(one.effects), dtype=torch.int64) for one in faults
    ]
    done, total = 0, sum(map(len, faults)) * len(inputs)
    of_examples = None if labels is None else labels.reshape(len(inputs), -1)
    for first in range(0, len(inputs), batch_size):
        batch = inputs[first : first + batch_size]
        # What the batch gives everywhere; what follows a faulty element is computed again for each fault.
        values = golden_values(graph, batch, lambda node: node in graph.batch)
        golden = golden_of(
            values[graph.output].flatten(0, -2),
            None if of_examples is None else of_examples[first : first + batch_size],
        )
        for one, into in zip(faults, counted, strict=True):
            into += _failures(graph, nodes[one.parameter], values, one, asked, golden, clean)
            done += len(one) * len(batch)
            report(done, total)
    return Vulnerability(
        format=asked,
        criteria=clean.criteria,
        inferences=len(clean.golden.scores),
        accuracy=clean.accuracy,
        shapes=shapes,
        effects=effects,
        measured=tuple(Measured(faults=one, failures=count) for one, count in zip(faults, counted, strict=True)),
        exhaustive=trials is None,
        work=Work(pairs=total, whole=total, fallbacks=tuple(nodes)),
    )


def _failures(
    graph: Graph, node: Node, values: Values, faults: Faults, format: Format, golden: Golden, clean: FaultFree
) -> Int64[Tensor, "criteria elements effects"]:
    """Count the failed inferences of a batch under each fault of what a node gives."""
    after = graph.after({node})
    found = torch.zeros(len(clean.criteria), len(faults.elements), len(faults.effects), dtype=torch.int64)
    for row, element in enumerate(faults.elements):
        words = format.encode(values[node].flatten(1)[:, element].double().numpy())
        for column, effect in enumerate(faults.effects):
            read = words_read(effect, words, format, faults.parameter, repeat(element, len(words)))
            scores = _scores(graph, node, after, values, element, torch.from_numpy(format.decode(read)).float())
            found[:, row, column] = failures(scores, golden, clean.criteria, clean.limits).sum(1)
    return found


def _scores(graph: Graph, node: Node, after: Sequence[Node], values: Values, element: int, read: Tensor) -> Tensor:
    wrong = values[node].clone(memory_format=torch.contiguous_format)
    wrong.view(len(wrong), -1)[:, element] = read
    new: Values = {node: wrong}

    def of(one: Node) -> Any:
        if one in new:
            return new[one]
        if one in graph.constants:
            return graph.constants[one]
        if one not in values:
            new[one] = run_node(one, of)
            return new[one]
        return values[one]

    for one in after:
        new[one] = run_node(one, of)
    scores: Tensor = new[graph.output]
    return scores.flatten(0, -2)


def _nodes(graph: Graph, layers: Sequence[str] | None) -> dict[str, Node]:
    """Name the results of layers by their modules."""
    found: dict[str, Node] = {}
    for node in graph.nodes:
        if node.target in LAYERS and graph.batch.get(node) == 0:
            name = module_of(node)
            found[name if name not in found else f"{name}.{node.name}"] = node
    missing = [name for name in layers or () if name not in found]
    if missing or not found:
        raise InvalidInput(f"layer {missing[0] if missing else None!r} is not there; choose from {', '.join(found)}")
    return {name: found[name] for name in layers} if layers is not None else found
