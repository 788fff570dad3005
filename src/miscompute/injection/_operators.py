"""The operators that run on the array: from a call to a layer, and from a layer to its three passes.

To add an operator, write how its call is read and how its passes are computed, and add one row to `OPERATORS`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..hardware import Layer, Operand, Pass

_backward = torch.ops.aten.convolution_backward.default


class Geometry(ABC):
    """What a call says besides its tensors; computes the three passes from operands of any number of channels.

    ``sums_bias``: whether PyTorch's own operator sums the bias's gradient in a way of its own, together with the
    weight's, so that only it gives the same bits.
    """

    sums_bias: ClassVar[bool] = False

    @abstractmethod
    def layer(self, name: str, index: int, x: Tensor, weight: Tensor) -> Layer:
        """Describe the call as a layer."""

    @abstractmethod
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the output."""

    @abstractmethod
    def grad_input(self, grad_output: Tensor, weight: Tensor, size: tuple[int, ...]) -> Tensor:
        """Compute the input's gradient; ``size`` is the input's spatial size."""

    @abstractmethod
    def grad_weight(
        self, grad_output: Tensor, x: Tensor, kernel: tuple[int, ...], *, bias: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the gradients of weight and bias."""


@final
@dataclass(frozen=True, eq=False)
class Convolution(Geometry):
    """``torch.conv1d``, ``conv2d``, ``conv3d``: input (n, ic, *size), weight (oc, ic / groups, *kernel)."""

    sums_bias: ClassVar[bool] = True

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def layer(self, name: str, index: int, x: Tensor, weight: Tensor) -> Layer:
        """Describe the call as a layer."""
        return Layer(
            name=name,
            index=index,
            n=x.shape[0],
            ic=x.shape[1],
            oc=weight.shape[0],
            size=tuple(x.shape[2:]),
            kernel=tuple(weight.shape[2:]),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the output."""
        no = (0,) * len(self.stride)
        return torch.convolution(x, weight, bias, self.stride, self.padding, self.dilation, False, no, self.groups)

    def grad_input(self, grad_output: Tensor, weight: Tensor, size: tuple[int, ...]) -> Tensor:
        """Compute the input's gradient."""
        shape = (grad_output.shape[0], weight.shape[1] * self.groups, *size)
        x = grad_output.new_empty(1).expand(shape)  # only its shape is read
        grad_input: Tensor = self._gradients(grad_output, x, weight, (True, False, False))[0]
        return grad_input

    def grad_weight(
        self, grad_output: Tensor, x: Tensor, kernel: tuple[int, ...], *, bias: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the gradients of weight and bias."""
        weight = x.new_empty(1).expand((grad_output.shape[1], x.shape[1] // self.groups, *kernel))
        _, grad_weight, grad_bias = self._gradients(grad_output, x, weight, (False, True, bias))
        return grad_weight, grad_bias

    def _gradients(self, grad_output: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, ...]) -> Any:
        no = (0,) * len(self.stride)
        oc = [weight.shape[0]]
        return _backward(
            grad_output, x, weight, oc, self.stride, self.padding, self.dilation, False, no, self.groups, wanted
        )

    def columns(self, x: Tensor, kernel: tuple[int, ...]) -> Tensor:
        """Write each output position's input words in a row, im2col: (n * pixels, groups, ic / groups * taps).

        Its gradient is col2im, which PyTorch derives.
        """
        x = F.pad(x, [side for pad in reversed(self.padding) for side in (pad, pad)])
        for axis, (size, stride, dilation) in enumerate(zip(kernel, self.stride, self.dilation, strict=True)):
            reach = dilation * (size - 1) + 1
            x = (
                x.unfold(2 + axis, reach, stride)[..., ::dilation]
                if dilation > 1
                else x.unfold(2 + axis, reach, stride)
            )
        rank = len(kernel)
        x = x.movedim(1, rank + 1)  # (n, *out, ic, *kernel)
        return x.reshape(-1, self.groups, x.shape[rank + 1] // self.groups * math.prod(kernel))


_convolution = lru_cache(Convolution)
"""Equal geometries are one object, which is quick to look up."""


@final
@dataclass(frozen=True, eq=False)
class Linear(Geometry):
    """``torch.nn.functional.linear`` with its leading dimensions flattened: input (n, ic), weight (oc, ic)."""

    def layer(self, name: str, index: int, x: Tensor, weight: Tensor) -> Layer:
        """Describe the call as a layer."""
        return Layer(name=name, index=index, n=x.shape[0], ic=x.shape[1], oc=weight.shape[0])

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the output."""
        return F.linear(x, weight, bias)

    def grad_input(self, grad_output: Tensor, weight: Tensor, size: tuple[int, ...]) -> Tensor:
        """Compute the input's gradient."""
        return grad_output.mm(weight)

    def grad_weight(
        self,
        grad_output: Tensor,
        x: Tensor,
        kernel: tuple[int, ...],
        *,
        bias: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the gradients of weight and bias."""
        return grad_output.t().mm(x), None


LINEAR = Linear()


class Call(NamedTuple):
    """A call of an operator, its tensors in the shapes of `Layer`; ``restore`` gives the caller's shape."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    geometry: Geometry
    restore: Callable[[Tensor], Tensor] | None


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
        return tuple(value) * (rank if len(value) == 1 else 1) if isinstance(value, tuple | list) else (value,) * rank

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
            _convolution(each(stride), each(padding), dilation, groups),
            None if batched else lambda y: y.squeeze(0),
        )

    return read


class Operator(NamedTuple):
    """An operator that runs on the array: its name and how its arguments are read."""

    name: str
    read: Callable[..., Call]


OPERATORS: Mapping[Callable[..., Any], Operator] = MappingProxyType(
    {
        F.linear: Operator("linear", _read_linear),
        torch.conv1d: Operator("conv1d", _reader(1)),
        torch.conv2d: Operator("conv2d", _reader(2)),
        torch.conv3d: Operator("conv3d", _reader(3)),
    }
)
"""Every operator that is lowered."""

_UNLOWERED_FUNCTIONS = """
matmul mm bmm addmm baddbmm addbmm mv addmv einsum convolution chain_matmul bilinear
conv_transpose1d conv_transpose2d conv_transpose3d
lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
"""
_UNLOWERED_METHODS = """
matmul __matmul__ __rmatmul__ mm bmm addmm baddbmm addbmm mv addmv addmm_ baddbmm_ addbmm_ addmv_
"""

UNLOWERED: Mapping[Callable[..., Any], str] = MappingProxyType(
    {getattr(torch, name): f"torch.{name}" for name in _UNLOWERED_FUNCTIONS.split()}
    | {getattr(Tensor, name): f"torch.Tensor.{name}" for name in _UNLOWERED_METHODS.split()}
    | {
        F.scaled_dot_product_attention: "scaled_dot_product_attention",
        F.multi_head_attention_forward: "multi_head_attention_forward",
        F.bilinear: "bilinear",
    }
)
"""Operators that an array computes too but that are not lowered yet: their calls are counted and warned of."""


RESULT_AXES: Mapping[Pass, Mapping[str, tuple[Operand, int]]] = MappingProxyType(
    {
        "forward": {"n": ("input", 0), "oc": ("weight", 0)},
        "grad_input": {"n": ("grad_output", 0), "ic": ("weight", 1)},
        "grad_weight": {"oc": ("grad_output", 1), "ic": ("input", 1)},
    }
)
"""Which axis of which operand carries a dimension of a pass's result, so that parts of the result can be computed."""
