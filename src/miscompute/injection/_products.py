"""Products of matrices, and what is made of them."""

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F  # noqa: N812

from ._geometry import LINEAR, PRODUCTS, PRODUCTS_OF_COPY, Call
from ._private import disabled_torch_function, softmax_backward

Product = Callable[[str, Tensor, Tensor], Tensor]
"""Computes a named product ``a @ b`` on the array: (..., m, k), (..., k, n) -> (..., m, n)."""


def read_matmul(a: Tensor, b: Tensor) -> Call:
    """Read ``a @ b`` with the dimensions that `torch.matmul` knows: vectors, matrices and batches that broadcast.

    ``b`` is the weight, transposed. A matrix ``b`` is one product, all leading dimensions of ``a`` being rows of it.
    """
    a_is_vector, b_is_vector = a.dim() == 1, b.dim() == 1
    if a_is_vector:
        a = a[None]
    if b_is_vector:
        b = b[:, None]
    lead = a.shape[:-2]
    if lead != b.shape[:-2]:
        lead = torch.broadcast_shapes(lead, b.shape[:-2])  # type: ignore[no-untyped-call]
    shape = (*lead, *(() if a_is_vector else a.shape[-2:-1]), *(() if b_is_vector else b.shape[-1:]))

    def restore(y: Tensor) -> Tensor:
        return y.reshape(shape)

    if b.dim() == 2:
        return Call(a.reshape(-1, a.shape[-1]), b.t(), None, LINEAR, restore)
    products = math.prod(lead)
    x = a.expand(*lead, *a.shape[-2:]).reshape(products, *a.shape[-2:])
    flat = b.expand(*lead, *b.shape[-2:]).reshape(products, *b.shape[-2:])
    weight = flat.transpose(1, 2)
    if products == 1:  # one product, however it is written
        return Call(x[0], weight[0], None, LINEAR, restore)
    is_copy = flat.untyped_storage().data_ptr() != b.untyped_storage().data_ptr()
    return Call(x, weight, None, PRODUCTS_OF_COPY if is_copy else PRODUCTS, restore)


def read_added(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Call:
    """Read ``beta * input + alpha * (mat1 @ mat2)``; what is added is added outside the array."""
    call = read_matmul(mat1, mat2)
    if (beta, alpha) == (1, 1) and call.geometry is LINEAR and input.shape == mat2.shape[-1:]:
        return call._replace(bias=input)
    shaped = call.restore
    assert shaped is not None

    def restore(y: Tensor) -> Tensor:
        product: Tensor = alpha * shaped(y)
        return torch.add(product, beta * input) if beta else product

    return call._replace(restore=restore)


def attention(
    product: Product,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute scaled dot-product attention as the two products it is, ``scores`` and ``values``.

    query (..., l, e), key (..., s, e), value (..., s, v) -> (..., l, v). Source: the reference implementation in the
    documentation of `torch.nn.functional.scaled_dot_product_attention`.
    """
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = product("scores", query, key.transpose(-2, -1))  # (..., l, s)
    if is_causal or attn_mask is None:
        weigh = _Weights.apply if torch.is_grad_enabled() else _weights
        weights = weigh(scores, factor, is_causal)
    elif attn_mask.dtype == torch.bool:
        weights = (scores * factor).masked_fill(~attn_mask, -math.inf).softmax(-1)
    else:
        weights = (scores * factor + attn_mask).softmax(-1)
    return product("values", F.dropout(weights, dropout_p) if dropout_p else weights, value)


def _weights(scores: Tensor, factor: float, is_causal: bool) -> Tensor:
    """Turn scores (..., l, s), which nobody else keeps, to attention weights: scaled and masked in place.

    Bit for bit what scaling, filling with -INF and softmax give, in a quarter of the time on the CPU.
    """
    scores.mul_(factor)
    if is_causal:  # a row's later columns become 0, whatever they were, and then -INF
        scores.tril_().add_(scores.new_full(scores.shape[-2:], -math.inf).triu_(1))
    return scores.softmax(-1)


@final
class _Weights(torch.autograd.Function):
    """`_weights` and its gradient, which is of its own as well until it has been scaled and masked.

    The scores may be written to because no product keeps its result for its backward pass.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, scores: Tensor, factor: float, is_causal: bool) -> Tensor:
        """Compute the weights; keep them alone, of which softmax's gradient is made."""
        weights = _weights(scores, factor, is_causal)
        ctx.save_for_backward(weights)
        ctx.settings = scores.dtype, factor, is_causal  # type: ignore[attr-defined]
        return weights

    @staticmethod
    def backward(ctx: Any, grad_weights: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the scores' gradient; differentiable where a second derivative is asked for."""
        (weights,) = ctx.saved_tensors
        dtype, factor, is_causal = ctx.settings
        with disabled_torch_function():
            grad_scores = softmax_backward(grad_weights, weights, -1, weights.dtype).to(dtype)  # autocast's is fp32
            if torch.is_grad_enabled():
                return (grad_scores.tril() if is_causal else grad_scores) * factor, None, None
            if is_causal:
                grad_scores.tril_()
            return grad_scores.mul_(factor), None, None


def einsum(product: Product, equation: str, *operands: Any) -> Tensor:
    """Contract from left to right, two operands at a time, each contraction being a batched product of matrices.

    Indices of one operand that no other and not the result has are summed up before, outside the array.
    """
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    inputs, output = _indices(equation, [operand.dim() for operand in operands])
    left, left_indices = _reduced(operands[0], inputs[0], "".join(inputs[1:]) + output)
    for number, operand in enumerate(operands[1:], 1):
        later = "".join(inputs[number + 1 :]) + output
        right, right_indices = _reduced(operand, inputs[number], left_indices + later)
        left, left_indices = _reduced(left, left_indices, right_indices + later)
        left, left_indices = _contracted(product, left, left_indices, right, right_indices, later)
    return torch.einsum(f"{left_indices}->{output}", left)


def _indices(equation: str, dims: list[int]) -> tuple[list[str], str]:
    """Give every operand's indices and the result's, an ellipsis written out in letters that are free."""
    equation = equation.replace(" ", "")
    left, arrow, output = equation.partition("->")
    inputs = left.split(",")
    named = [len(indices.replace("...", "")) for indices in inputs]
    most = max(
        (dim - known for dim, known, indices in zip(dims, named, inputs, strict=True) if "..." in indices), default=0
    )
    free = [letter for letter in map(chr, range(0x41, 0x7B)) if letter.isalpha() and letter not in equation][:most]
    inputs = [
        indices.replace("...", "".join(free[most - (dim - known) :]))
        for indices, dim, known in zip(inputs, dims, named, strict=True)
    ]
    if not arrow:
        together = "".join(inputs)
        output = "".join(free) + "".join(sorted(i for i in set(together) - set(free) if together.count(i) == 1))
    return inputs, output.replace("...", "".join(free))


def _reduced(operand: Tensor, indices: str, wanted: str) -> tuple[Tensor, str]:
    """Take diagonals of repeated indices and sum up those that nobody wants."""
    kept = "".join(dict.fromkeys(index for index in indices if index in wanted))
    return (operand, indices) if kept == indices else (torch.einsum(f"{indices}->{kept}", operand), kept)


def _contracted(
    product: Product, left: Tensor, left_indices: str, right: Tensor, right_indices: str, later: str
) -> tuple[Tensor, str]:
    sizes = dict(zip(left_indices, left.shape, strict=True))
    for index, size in zip(right_indices, right.shape, strict=True):
        sizes[index] = max(size, sizes.get(index, 1))  # a size of 1 broadcasts
    shared = [index for index in left_indices if index in right_indices]
    batch = [index for index in shared if index in later]
    summed = [index for index in shared if index not in later]
    rows = [index for index in left_indices if index not in shared]
    cols = [index for index in right_indices if index not in shared]

    def shaped(operand: Tensor, indices: str, *groups: list[str]) -> Tensor:
        order = [index for group in groups for index in group]
        moved = operand.permute([indices.index(index) for index in order]).expand([sizes[index] for index in order])
        return moved.reshape([math.prod(sizes[index] for index in group) for group in groups])

    a = shaped(left, left_indices, batch, rows, summed)
    b = shaped(right, right_indices, batch, summed, cols)
    order = batch + rows + cols
    return product("einsum", a, b).reshape([sizes[index] for index in order]), "".join(order)
