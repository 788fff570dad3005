"""Collateral damage: what one faulty word does to every feature map that follows, and to the scores, of one example."""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import Node

from .._invalid import InvalidInput
from ..fault import Fault, Memory
from ..formats import format_named
from ._faults import Faults, rounded_to
from ._graph import LAYERS, Graph, arguments, capture, golden_values, module_of


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMap:
    """What a layer hands on, of one example, without the fault and with it: channels first, then places.

    ``name`` is the layer's, or the block's whose branches are added in it.
    """

    name: str
    golden: Float[Tensor, "..."]
    faulty: Float[Tensor, "..."]

    @property
    def differs(self) -> Tensor:
        """Which elements are not what they were."""
        return ~((self.golden == self.faulty) | (self.golden.isnan() & self.faulty.isnan()))

    @property
    def changed(self) -> float:
        """The share of elements that differ."""
        return float(self.differs.double().mean())

    @property
    def channels(self) -> tuple[int, int]:
        """How many channels differ somewhere, and how many there are."""
        return int(self.differs.flatten(1).any(1).sum()) if self.golden.dim() > 1 else int(self.differs.sum()), len(
            self.golden
        )

    @property
    def nonfinite(self) -> int:
        """How many elements are infinite or NaN with the fault."""
        return int((~self.faulty.isfinite()).sum())

    @property
    def relative(self) -> float:
        """The root mean square of the change over that of the fault-free map; infinite if an element is not finite."""
        change, whole = (self.faulty.double() - self.golden.double()).norm(), self.golden.double().norm()
        ratio = float(change / whole) if whole else (math.inf if change else 0.0)
        return math.inf if math.isnan(ratio) else ratio


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Damage:
    """What a fault of a stored parameter does to one example on its way through a model.

    Args:
        fault: which.
        parameter: whose word, and at which ``place``.
        stored: what it holds.
        read: what it is read as.
        example: what the model takes, without the dimension of examples.
        features: what each layer hands on, in order, the first after the fault first.
        golden: the scores without the fault.
        faulty: the scores with it.
    """

    fault: Fault
    parameter: str
    place: tuple[int, ...]
    stored: float
    read: float
    example: Tensor
    features: tuple[FeatureMap, ...]
    golden: Float[Tensor, "*places classes"]
    faulty: Float[Tensor, "*places classes"]

    @property
    def element(self) -> str:
        """The faulty word's name, such as ``conv1.weight[0,0,0,0]``."""
        return f"{self.parameter}[{','.join(map(str, self.place))}]"


def damage(model: nn.Module, example: Tensor, fault: Fault, *, format: str = "fp32") -> Damage:
    """Carry one example through a model with a faulty parameter and without, and keep what each layer hands on.

    Args:
        model: as of `vulnerability`; left as it was.
        example: one, without the dimension of examples.
        fault: of ``weight-memory``; it is there in the whole inference, whatever its timing.
        format: in which the parameter is stored.

    Raises:
        InvalidInput: if the fault is not in a parameter of the model, does not fit its word, or the model cannot be
            captured.
    """
    name, first, length = _place(model, fault)
    asked = format_named(format)
    fault.effect.check(asked)
    prepared = copy.deepcopy(model).eval().requires_grad_(False)
    formats = rounded_to(prepared, [name], asked)
    parameter = prepared.get_parameter(name)
    read = Faults(parameter=name, elements=tuple(range(first, first + length)), effects=(fault.effect,)).values(
        parameter, formats[name]
    )[:, 0]
    wrong = parameter.detach().clone()
    wrong.view(-1)[first : first + length] = read
    graph = capture(prepared, example[None])
    shown = _feature_maps(graph, name)
    wanted = {graph.output, *shown}
    swapped = replace(graph, constants={**graph.constants, **dict.fromkeys(graph.parameters[name], wrong)})
    golden, faulty = (golden_values(one, example[None], wanted.__contains__) for one in (graph, swapped))
    return Damage(
        fault=fault,
        parameter=name,
        place=tuple(int(one) for one in np.unravel_index(first, tuple(parameter.shape))),
        stored=float(parameter.view(-1)[first]),
        read=float(read[0]),
        example=example,
        features=tuple(
            FeatureMap(name=label, golden=_one(golden, graph, node), faulty=_one(faulty, graph, node))
            for node, label in shown.items()
        ),
        golden=golden[graph.output][0],
        faulty=faulty[graph.output][0],
    )


def _place(model: nn.Module, fault: Fault) -> tuple[str, int, int]:
    site, names = fault.site, [name for name, _ in model.named_parameters()]
    if not isinstance(site, Memory) or site.store != "weight":
        raise InvalidInput(
            f"fault '{fault}' is not in a parameter; write it as 'weight-memory[{names[0] if names else 'NAME'},0] "
            "bit 30 flip'"
        )
    if site.name not in names:
        raise InvalidInput(f"name={site.name!r} of weight-memory is no parameter; choose from {', '.join(names)}")
    size = model.get_parameter(site.name).numel()
    if site.index + site.length > size:
        raise InvalidInput(
            f"index={site.index} of weight-memory: {site.name!r} has {size:,} elements (0..{size - 1}), and "
            f"{site.length} are wanted"
        )
    return site.name, site.index, site.length


def _one(values: dict[Node, Any], graph: Graph, node: Node) -> Tensor:
    tensor: Tensor = values[node]
    return tensor.select(graph.batch[node], 0)


def _feature_maps(graph: Graph, parameter: str) -> dict[Node, str]:
    """Name what follows the fault and is read by a layer, in order."""
    reached = set(graph.after(set(graph.parameters[parameter])))
    found: dict[Node, str] = {}
    for node in graph.nodes:
        is_read = any(user.target in LAYERS and arguments(user)[0] is node for user in node.users)
        if is_read and node in reached and node in graph.batch:
            label = _layer_of(node)
            again = sum(held == label or held.startswith(f"{label} (") for held in found.values())
            found[node] = f"{label} ({again + 1})" if again else label
    return found


def _layer_of(node: Node) -> str:
    """Name the module that made a feature map: of a function of one operand, the one that made that."""
    while node.target not in LAYERS and node.target is not torch.ops.aten.add.Tensor and len(node.all_input_nodes):
        before = arguments(node)[0]
        if not isinstance(before, Node) or before.op != "call_function":
            break
        node = before
    return module_of(node)
