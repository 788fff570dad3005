"""Bounds are never exceeded: norms against dense matrices, and the way to the scores against random changes."""

from collections.abc import Callable
from itertools import product

import pytest
import torch

from miscompute.pvf._bounds import LIPSCHITZ, bounds_of, convolution_norm
from miscompute.pvf._graph import Graph, capture, golden_values, run_node

from .conftest import Subject

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (4, 4, 1, 1), (2, 3, 5, 5), (3, 3, 2, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolutions_norm_bounds_its_matrix_closely(shape: tuple[int, ...], stride: int) -> None:
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(shape[2]))
    size = 9
    basis = torch.eye(shape[1] * size**2, dtype=torch.float64).view(-1, shape[1], size, size)
    columns = torch.conv2d(basis, weight, stride=stride, padding=(shape[2] // 2, shape[3] // 2)).flatten(1)
    true = float(torch.linalg.matrix_norm(columns, 2))
    bound = convolution_norm(weight)
    assert true <= bound
    if stride == 1:
        assert bound <= 1.4 * true


def test_large_matrices_have_a_bound_that_is_at_most_a_quarter_larger() -> None:
    weight = torch.randn(200, 160, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    true = float(torch.linalg.matrix_norm(weight[:, :, 0, 0], 2))
    assert true <= convolution_norm(weight) <= 1.25 * true


@pytest.mark.parametrize("target", LIPSCHITZ, ids=str)
def test_slopes(target: Callable[..., torch.Tensor]) -> None:
    x = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    try:
        y = target(x)
    except (TypeError, RuntimeError):
        y = target(x, 0.0, False)  # dropout's probability, and that it is off
    steepest = float((y.diff() / x.diff()).abs().max())
    assert steepest <= LIPSCHITZ[target] * (1 + 1e-9)
    assert steepest >= 0.97 * LIPSCHITZ[target]


def carried(graph: Graph, values: dict[torch.fx.Node, torch.Tensor], start: torch.fx.Node) -> torch.Tensor:
    """Run what follows a node on its changed value."""
    new = dict(values)
    for node in graph.after({start}):
        new[node] = run_node(node, lambda one: new[one] if one in new else graph.constants[one])
    return new[graph.output]


@pytest.mark.parametrize("name", ["lenet5", "resnet18"])
def test_no_change_of_any_node_exceeds_its_bounds(subject: Callable[[str], Subject], name: str) -> None:
    model, inputs, _ = subject(name)
    with torch.no_grad():
        graph = capture(model, inputs[:3])
        values = golden_values(graph, inputs[:3], lambda node: node in graph.batch)
        shapes = {node: tuple(value.shape) for node, value in values.items()}
        bounds = bounds_of(graph, shapes)
        scores = values[graph.output]
        generator = torch.Generator().manual_seed(0)
        assert len(bounds.gain) > 4
        assert bounds.distance is not None
        g = scores.argmax(1)
        margins = scores.gather(1, g[:, None]) - scores
        for node, size in product(tuple(bounds.gain)[::4], (1e-3, 1e3)):
            shape = shapes[node]
            change = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.1) * size
            after = carried(graph, {**values, node: values[node] + change}, node)
            nearer = margins - (after.gather(1, g[:, None]) - after)
            rounding = 1e-4 * (1 + float(after.abs().max()))
            limit = bounds.gain[node] * change.flatten(1).norm(dim=1)[:, None] * bounds.distance[g]
            assert bool((nearer <= limit + rounding).all()), node
            if node in bounds.absolute:
                limit = torch.einsum("nf,nfc->nc", change.flatten(1).abs(), bounds.absolute[node][g])
                assert bool((nearer <= limit + rounding).all()), node
