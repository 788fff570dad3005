"""The operators that run on the array: from a call to a layer.

To add an operator, write how its call is read (and, if it is no convolution or product of matrices, a `Geometry`), and
add one row to `OPERATORS`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..hardware import Operand, Pass
from ._geometry import LINEAR, Call, convolution, each_dimension
from ._products import attention, einsum, read_added, read_matmul
from ._transposed import transposed_reader


def _read_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call:
    if weight.dim() == 1:  # one output channel, and no dimension for it
        call = _read_linear(input.reshape(-1, input.shape[-1]), weight[None], bias)
        return call._replace(restore=lambda y: y.view(input.shape[:-1]))
    if input.dim() == 2:
        return Call(input, weight, bias, LINEAR, None)
    lead = input.shape[:-1]
    return Call(input.reshape(-1, input.shape[-1]), weight, bias, LINEAR, lambda y: y.view(*lead, y.shape[-1]))


def _reader(rank: int) -> Callable[..., Call]:
    def each(value: Any) -> tuple[int, ...]:
        return each_dimension(value, rank)

    def read(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Call:
        dilation = each(dilation)
        if padding == "valid":
            padding = 0
        elif padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            if any(t % 2 for t in total):  # the longer side is padded beforehand, as PyTorch does
                input = F.pad(input, [side for t in reversed(total) for side in (0, t % 2)])
            padding = [t // 2 for t in total]
        batched = input.dim() == rank + 2
        return Call(
            input if batched else input.unsqueeze(0),
            weight,
            bias,
            convolution(each(stride), each(padding), dilation, groups),
            None if batched else lambda y: y.squeeze(0),
        )

    return read


class Operator(NamedTuple):
    """An operator that is one product on the array.

    Args:
        name: how an unnamed layer is called by it.
        read: from its arguments to a `Call`.
        operands: where the streaming and the weight operand are among the arguments, and their names.
    """

    name: str
    read: Callable[..., Call]
    operands: tuple[tuple[int, str], tuple[int, str]] = ((0, "input"), (1, "weight"))

    @property
    def has_weight(self) -> bool:
        """Whether the second operand is a layer's weight by the operator's own account."""
        return self.operands[1][1] == "weight"


_MATMUL = ((0, "input"), (1, "other"))
_MM = ((0, "input"), (1, "mat2"))
_ADDED = ((1, "mat1"), (2, "mat2"))

OPERATORS: Mapping[Callable[..., Any], Operator] = MappingProxyType(
    {
        F.linear: Operator("linear", _read_linear),
        torch.conv1d: Operator("conv1d", _reader(1)),
        torch.conv2d: Operator("conv2d", _reader(2)),
        torch.conv3d: Operator("conv3d", _reader(3)),
        torch.conv_transpose1d: Operator("conv_transpose1d", transposed_reader(1)),
        torch.conv_transpose2d: Operator("conv_transpose2d", transposed_reader(2)),
        torch.conv_transpose3d: Operator("conv_transpose3d", transposed_reader(3)),
        **dict.fromkeys(
            (torch.matmul, Tensor.matmul, Tensor.__matmul__), Operator("matmul", read_matmul, operands=_MATMUL)
        ),
        Tensor.__rmatmul__: Operator("matmul", lambda b, a: read_matmul(a, b), operands=((1, "other"), (0, "input"))),
        **dict.fromkeys((torch.mm, Tensor.mm), Operator("mm", read_matmul, operands=_MM)),
        **dict.fromkeys((torch.bmm, Tensor.bmm), Operator("bmm", read_matmul, operands=_MM)),
        **dict.fromkeys((torch.mv, Tensor.mv), Operator("mv", read_matmul, operands=((0, "input"), (1, "vec")))),
        **dict.fromkeys((torch.addmm, Tensor.addmm), Operator("addmm", read_added, operands=_ADDED)),
        **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), Operator("baddbmm", read_added, operands=_ADDED)),
    }
)
"""Every operator that is one product on the array."""

COMPOSITES: Mapping[Callable[..., Any], Callable[..., Tensor]] = MappingProxyType(
    {F.scaled_dot_product_attention: attention, torch.einsum: einsum}
)
"""Operators that are several products and something between: from how a product is computed, and their arguments."""

_UNLOWERED_FUNCTIONS = """
addbmm addmv convolution chain_matmul bilinear
lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
"""
_UNLOWERED_METHODS = """
addbmm addmv addmm_ baddbmm_ addbmm_ addmv_
"""

UNLOWERED: Mapping[Callable[..., Any], str] = MappingProxyType(
    {getattr(torch, name): f"torch.{name}" for name in _UNLOWERED_FUNCTIONS.split()}
    | {getattr(Tensor, name): f"torch.Tensor.{name}" for name in _UNLOWERED_METHODS.split()}
    | {F.bilinear: "bilinear"}
)
"""Operators that an array computes too but that are not lowered yet: their calls are counted and warned of."""


RESULT_DIMS: Mapping[Pass, Mapping[str, Operand]] = MappingProxyType(
    {
        "forward": {"n": "input", "oc": "weight"},
        "grad_input": {"n": "grad_output", "ic": "weight"},
        "grad_weight": {"oc": "grad_output", "ic": "input"},
    }
)
"""Which operand carries a dimension of a pass's result, so that parts of the result can be computed."""
