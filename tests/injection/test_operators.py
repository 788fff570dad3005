"""The table of operators: what a call says, and passes that are PyTorch's own bit for bit."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from miscompute.hardware import PASSES
from miscompute.injection._operators import COMPOSITES, OPERATORS, RESULT_DIMS, UNLOWERED

pytestmark = pytest.mark.usefixtures("one_thread")

RANKS = {F.linear: 0, torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


def data(function: Any, groups: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    rank = RANKS[function]
    random = torch.Generator().manual_seed(rank)
    x = torch.randn(3, 4, *(5, 6, 4)[:rank], generator=random)
    weight = torch.randn(6, 4 // groups, *(3, 2, 2)[:rank], generator=random)
    return x, weight, torch.randn(6, generator=random)


@pytest.mark.parametrize("function", RANKS, ids=lambda function: OPERATORS[function].name)
@pytest.mark.parametrize("groups", [1, 2])
def test_passes_are_those_of_pytorch(function: Any, groups: int) -> None:
    rank = RANKS[function]
    options: dict[str, Any] = {}
    if rank:
        options = {"stride": 2, "padding": (1,) * rank, "dilation": (2, 1, 1)[:rank], "groups": groups}
    x, weight, bias = (tensor.requires_grad_() for tensor in data(function, groups if rank else 1))
    y = function(x, weight, bias, **options)
    random = torch.Generator().manual_seed(9)
    grad_output = torch.randn(y.shape, generator=random)
    y.backward(grad_output)
    call = OPERATORS[function].read(x, weight, bias=bias, **options)
    layer = call.geometry.layer("name", 7, call.x, call.weight)
    assert (layer.name, layer.index, layer.n, layer.ic, layer.oc) == ("name", 7, 3, 4, 6)
    assert layer.shape("grad_output") == tuple(y.shape)
    assert call.restore is None
    with torch.no_grad():
        assert torch.equal(call.geometry.forward(x, weight, bias), y)
        assert x.grad is not None
        assert torch.equal(call.geometry.grad_input(grad_output, weight, layer.size), x.grad)
        grad_weight, grad_bias = call.geometry.grad_weight(grad_output, x, layer.kernel, bias=True)
        assert weight.grad is not None
        assert torch.equal(grad_weight, weight.grad)
        if call.geometry.sums_bias:
            assert grad_bias is not None
            assert bias.grad is not None
            assert torch.equal(grad_bias, bias.grad)
        else:
            assert grad_bias is None


@pytest.mark.parametrize("function", [f for f in RANKS if RANKS[f]], ids=lambda f: OPERATORS[f].name)
@pytest.mark.parametrize("options", [{}, {"padding": "valid"}, {"padding": "same", "dilation": 2}, {"stride": [2]}])
def test_options_in_all_their_spellings(function: Any, options: dict[str, Any]) -> None:
    x, weight, bias = data(function)
    weight = weight[:, :, :, :1] if RANKS[function] > 1 else weight  # odd kernels, which need no further padding
    weight = weight[..., :1] if RANKS[function] > 2 else weight
    for given in (x, x[0]):
        expected = function(given, weight, bias, **options)
        call = OPERATORS[function].read(given, weight, bias, **options)
        found = call.geometry.forward(call.x, call.weight, call.bias)
        torch.testing.assert_close(found if call.restore is None else call.restore(found), expected)


def test_equal_geometries_are_one_object() -> None:
    x, weight, _ = data(torch.conv2d)
    read = OPERATORS[torch.conv2d].read
    assert read(x, weight, padding=1).geometry is read(x[0], weight, None, (1, 1), (1, 1)).geometry
    assert read(x, weight, padding=1).geometry is not read(x, weight).geometry


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("weight", [torch.arange(8.0).view(2, 4), torch.arange(4.0)], ids=["matrix", "vector"])
def test_linear_takes_any_leading_dimensions(lead: tuple[int, ...], weight: Tensor) -> None:
    x = torch.arange(float(4 * torch.Size(lead).numel())).view(*lead, 4)
    call = OPERATORS[F.linear].read(x, weight)
    assert call.x.dim() == call.weight.dim() == 2
    y = call.geometry.forward(call.x, call.weight, call.bias)
    assert torch.equal(y if call.restore is None else call.restore(y), F.linear(x, weight))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 5)),
        ((4,), (4,)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((2, 3, 4), (4, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (6, 4, 5)),
        ((4,), (2, 4, 5)),
        ((2, 3, 4), (4,)),
        ((1, 3, 4), (1, 4, 5)),
        ((2, 0, 4), (2, 4, 5)),
    ],
)
def test_products_of_all_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(1)
    x, y = torch.randn(a, generator=random), torch.randn(b, generator=random)
    call = OPERATORS[torch.matmul].read(x, y)
    assert call.restore is not None
    found = call.restore(call.geometry.forward(call.x, call.weight, None))
    torch.testing.assert_close(found, torch.matmul(x, y))


@pytest.mark.parametrize("bias", [(5,), (3, 5), (3, 1), ()])
@pytest.mark.parametrize("factors", [{}, {"beta": 2, "alpha": 0.5}, {"beta": 0}])
def test_added_products(bias: tuple[int, ...], factors: dict[str, float]) -> None:
    random = torch.Generator().manual_seed(1)
    x, y, added = (torch.randn(shape, generator=random) for shape in ((3, 4), (4, 5), bias))
    call = OPERATORS[torch.addmm].read(added, x, y, **factors)
    assert call.restore is not None
    found = call.restore(call.geometry.forward(call.x, call.weight, call.bias))
    torch.testing.assert_close(found, torch.addmm(added, x, y, **factors))  # type: ignore[call-overload]


def product(_: str, a: Tensor, b: Tensor) -> Tensor:
    return a @ b


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("bij, bkj -> bki", [(2, 3, 4), (2, 5, 4)]),
        ("...ij,...jk->...ik", [(6, 2, 3), (2, 6, 3, 4)]),
        ("ii,ij->j", [(3, 3), (3, 4)]),
        ("ijk,j->i", [(2, 3, 4), (3,)]),
        ("i,j->ij", [(2,), (3,)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
        ("bij,bij->", [(2, 3, 4), (2, 3, 4)]),
        ("bhld,bhsd->bhls", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("ij,ij->ji", [(2, 3), (1, 3)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    random = torch.Generator().manual_seed(1)
    operands = [torch.randn(shape, generator=random) for shape in shapes]
    expected = torch.einsum(equation, *operands)
    torch.testing.assert_close(COMPOSITES[torch.einsum](product, equation, *operands), expected)
    torch.testing.assert_close(COMPOSITES[torch.einsum](product, equation, operands), expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": "bool"}, {"attn_mask": "float"}, {"enable_gqa": True}],
    ids=str,
)
def test_attention(options: dict[str, Any]) -> None:
    random = torch.Generator().manual_seed(1)
    heads = 2 if "enable_gqa" in options else 4
    query = torch.randn(2, 4, 5, 8, generator=random)
    key, value = (torch.randn(2, heads, 6, width, generator=random) for width in (8, 3))
    if options.get("is_causal"):
        key, value = key[:, :, :5], value[:, :, :5]
    masks = {"bool": torch.rand(5, 6, generator=random) > 0.3, "float": torch.randn(5, 6, generator=random)}
    if "attn_mask" in options:
        options = {"attn_mask": masks[options["attn_mask"]]}
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    found = COMPOSITES[F.scaled_dot_product_attention](product, query, key, value, **options)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("wrong", [None, math.inf, math.nan])
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_in_place_is_attention_to_the_last_bit(is_causal: bool, wrong: float | None, autocast: bool) -> None:
    random = torch.Generator().manual_seed(1)
    tensors = [torch.randn(2, 3, length, 8, generator=random) for length in (5, 6, 6)]
    if wrong is not None:
        for tensor in tensors:
            tensor[0, 1, 3, 2] = wrong
    grad_output = torch.randn(2, 3, 5, 8, generator=random)

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = query @ key.mT * (1 / math.sqrt(8))
        if is_causal:
            scores = scores.masked_fill(~torch.ones(5, 6, dtype=torch.bool).tril(), -math.inf)
        return scores.softmax(-1) @ value

    def taken_apart(*tensors: Tensor) -> Tensor:
        return COMPOSITES[F.scaled_dot_product_attention](product, *tensors, is_causal=is_causal)

    def results(attention: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        with torch.autocast("cpu", enabled=autocast):
            y = attention(*leaves)
            with torch.no_grad():
                again = attention(*leaves)
        return [y, again, *torch.autograd.grad(y, leaves, grad_output.to(y.dtype))]

    for found, expected in zip(results(taken_apart), results(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_attention_taken_apart_can_be_differentiated_twice() -> None:
    random = torch.Generator().manual_seed(1)
    tensors = [torch.randn(1, 1, 3, 2, generator=random, dtype=torch.float64).requires_grad_() for _ in range(3)]
    attention = COMPOSITES[F.scaled_dot_product_attention]
    assert torch.autograd.gradgradcheck(lambda *qkv: attention(product, *qkv, is_causal=True), tensors)


def test_tables_are_complete() -> None:
    assert set(RESULT_DIMS) == set(PASSES)
    assert not set(OPERATORS) & set(UNLOWERED)
    assert not set(COMPOSITES) & (set(OPERATORS) | set(UNLOWERED))
