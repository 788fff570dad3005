"""A model as a graph of operators, and what each of them gives without a fault."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.fx import Node

from .._invalid import InvalidInput

Values = dict[Node, Any]

aten = torch.ops.aten

LAYERS = (
    aten.linear.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv_transpose2d.input,
    aten.matmul.default,
    aten.scaled_dot_product_attention.default,
)
"""Operators whose operand is a feature map: what layers hand to each other."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """What a model computes: operators in order, from ``source`` to ``output``.

    ``constants``: parameters, buffers and constants by the node that stands for them, the model's own tensors.
    ``parameters``: the nodes that stand for a parameter, by its names. ``batch``: which dimension of each node's tensor
    counts examples; nodes without are the same for all.
    """

    nodes: tuple[Node, ...]
    source: Node
    output: Node
    constants: Mapping[Node, Tensor]
    parameters: Mapping[str, tuple[Node, ...]]
    batch: Mapping[Node, int]

    def users(self, name: str) -> tuple[Node, ...]:
        """Give the operators that read a parameter."""
        return tuple(user for node in self.parameters[name] for user in node.users if user.op == "call_function")

    def after(self, changed: set[Node]) -> tuple[Node, ...]:
        """Give, in order, the operators that depend on some nodes."""
        reached = set(changed)
        found = []
        for node in self.nodes:
            if node not in reached and any(before in reached for before in node.all_input_nodes):
                reached.add(node)
                found.append(node)
        return tuple(found)


def capture(model: nn.Module, inputs: Tensor) -> Graph:
    """Capture a model in eval mode, by `torch.export` with a batch of any size.

    Raises:
        InvalidInput: if the model cannot be captured, or gives something else than one tensor of scores.
    """
    # Two different examples: one alone would fix the batch.
    example = inputs[:2] if len(inputs) > 1 else inputs[:1].expand(2, *inputs.shape[1:])
    sizes = ({0: torch.export.Dim("examples", min=2)},)
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=sizes, strict=False)
    except Exception as error:  # whatever a model's code makes the exporter raise
        raise InvalidInput(
            f"model {type(model).__name__} cannot be captured by torch.export ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}); use engine='brute'"
        ) from error
    if not _made_functional(program.graph):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of PyTorch about itself
            program = program.run_decompositions({})
    signature = program.graph_signature
    if signature.buffers_to_mutate or len(signature.user_outputs) != 1:
        raise InvalidInput(
            f"model {type(model).__name__} changes a buffer or gives several outputs; wrap it so that it gives scores"
        )
    state: dict[str, Tensor] = {**dict(model.named_parameters(remove_duplicate=False)), **program.constants}
    state |= dict(model.named_buffers(remove_duplicate=False))
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    named |= signature.inputs_to_lifted_tensor_constants
    constants: dict[Node, Tensor] = {}
    operators: list[Node] = []
    source = output = None
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in named:
                constants[node] = state[named[node.name]].detach()
            else:
                source = node
        elif node.op == "output":
            output = node.args[0][0]
        else:
            operators.append(node)
    if source is None or output is None or output.op != "call_function":
        raise InvalidInput(f"model {type(model).__name__} computes nothing from its input; give one that does")
    parameters: dict[str, tuple[Node, ...]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameters[name] = tuple(node for node, held in constants.items() if held.data_ptr() == parameter.data_ptr())
    return Graph(
        nodes=tuple(operators),
        source=source,
        output=output,
        constants=constants,
        parameters=parameters,
        batch={node: place for node in (source, *operators) if (place := _batch_dimension(node)) is not None},
    )


def _made_functional(graph: torch.fx.Graph) -> bool:
    """Replace operators that write into their operand by those that do not; False: somebody else may look at it."""
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable:
            continue
        packet, overload = schema.name.removeprefix("aten::"), schema.overload_name or "default"
        pure = getattr(getattr(torch.ops.aten, packet.removesuffix("_"), None), overload, None)
        if not packet.endswith("_") or pure is None or len(node.args[0].users) > 1:
            return False
        node.target = pure
    return True


def _batch_dimension(node: Node) -> int | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    places = [place for place, size in enumerate(value.shape) if not isinstance(size, int)]
    return places[0] if len(places) == 1 and str(value.shape[places[0]]).isidentifier() else None


def module_of(node: Node) -> str:
    """Name the module whose code calls an operator; without one, the operator."""
    scopes = list(node.meta.get("nn_module_stack", {}).values())
    return (scopes[-1][0] if scopes else "") or node.name


def run_node(node: Node, of: Callable[[Node], Any]) -> Any:
    """Carry one operator out on the values of the nodes it reads."""
    arguments, options = torch.fx.map_arg((node.args, node.kwargs), of)
    assert callable(node.target)
    return node.target(*arguments, **options)


def golden_values(graph: Graph, inputs: Tensor, keep: Callable[[Node], bool]) -> Values:
    """Run a graph on one batch; give what the nodes to keep gave."""
    values: Values = {**graph.constants, graph.source: inputs}
    kept: Values = {graph.source: inputs}
    waiting = {node: sum(user.op == "call_function" for user in node.users) for node in graph.nodes}
    with torch.no_grad():
        for node in graph.nodes:
            values[node] = run_node(node, values.__getitem__)
            if keep(node):
                kept[node] = values[node]
            for before in node.all_input_nodes:
                if before in waiting:
                    waiting[before] -= 1
                    if not waiting[before] and before is not graph.output:
                        del values[before]
    return kept


def arguments(node: Node) -> tuple[Any, ...]:
    """Give an operator's positional arguments, of whatever types."""
    return node.args
