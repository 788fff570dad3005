"""What a layer is besides its tensors, and how its three passes are computed from any operands."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..hardware import Layer

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
        """Write each output position's input words in a row, im2col: (groups, n * pixels, ic / groups * taps).

        Its gradient is col2im, which PyTorch derives.
        """
        x = F.pad(x, [side for pad in reversed(self.padding) for side in (pad, pad)])
        for axis, (size, stride, dilation) in enumerate(zip(kernel, self.stride, self.dilation, strict=True)):
            reach = dilation * (size - 1) + 1
            x = x.unfold(2 + axis, reach, stride)[..., ::dilation]
        rank = len(kernel)
        x = x.movedim(1, rank + 1)  # (n, *out, ic, *kernel)
        words = x.shape[rank + 1] // self.groups * math.prod(kernel)
        return x.reshape(-1, self.groups, words).transpose(0, 1)


convolution = lru_cache(Convolution)
"""Equal geometries are one object, which is quick to look up."""


@final
@dataclass(frozen=True, eq=False)
class TransposedConvolution(Geometry):
    """``torch.conv_transpose1d``, ``2d``, ``3d``: input (n, ic, *size), weight (ic, oc / groups, *kernel).

    The convolution it is the gradient of, its ``twin``, computes the passes: the input as the twin's output gradient.
    """

    twin: Convolution
    output_padding: tuple[int, ...]

    def layer(self, name: str, index: int, x: Tensor, weight: Tensor) -> Layer:
        """Describe the call as a layer: the twin's."""
        t = self.twin
        sizes = zip(x.shape[2:], weight.shape[2:], t.stride, t.padding, t.dilation, self.output_padding, strict=True)
        return Layer(
            name=name,
            index=index,
            n=x.shape[0],
            ic=weight.shape[1] * t.groups,
            oc=weight.shape[0],
            size=tuple((o - 1) * s - 2 * p + d * (k - 1) + 1 + more for o, k, s, p, d, more in sizes),
            kernel=tuple(weight.shape[2:]),
            stride=t.stride,
            padding=t.padding,
            dilation=t.dilation,
            groups=t.groups,
            transposed=True,
        )

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the twin's output."""
        return self.twin.forward(x, weight, bias)

    def grad_input(self, grad_output: Tensor, weight: Tensor, size: tuple[int, ...]) -> Tensor:
        """Compute the twin's input gradient."""
        return self.twin.grad_input(grad_output, weight, size)

    def grad_weight(
        self, grad_output: Tensor, x: Tensor, kernel: tuple[int, ...], *, bias: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the twin's weight gradient."""
        return self.twin.grad_weight(grad_output, x, kernel, bias=False)


transposed_convolution = lru_cache(TransposedConvolution)
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


@final
@dataclass(frozen=True, eq=False)
class Products(Geometry):
    """Batched products of matrices: input (batch, n, ic), weight (batch, oc, ic), output (batch, n, oc).

    ``owns_weight``: whether the weight was copied when the call was read, so that nobody else looks at it.
    """

    owns_weight: bool = False

    def layer(self, name: str, index: int, x: Tensor, weight: Tensor) -> Layer:
        """Describe the call as a layer."""
        return Layer(name=name, index=index, batch=x.shape[0], n=x.shape[1], ic=x.shape[2], oc=weight.shape[1])

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the output."""
        return x.bmm(weight.transpose(1, 2))

    def grad_input(self, grad_output: Tensor, weight: Tensor, size: tuple[int, ...]) -> Tensor:
        """Compute the input's gradient."""
        return grad_output.bmm(weight)

    def grad_weight(
        self, grad_output: Tensor, x: Tensor, kernel: tuple[int, ...], *, bias: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the gradient of the second operand."""
        return grad_output.transpose(1, 2).bmm(x), None


PRODUCTS = Products()
PRODUCTS_OF_COPY = Products(owns_weight=True)


class Call(NamedTuple):
    """A call of an operator, its tensors in the shapes of `Layer`; ``restore`` gives the caller's shape."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    geometry: Geometry
    restore: Callable[[Tensor], Tensor] | None


def each_dimension(value: Any, rank: int) -> tuple[int, ...]:
    """Give a stride, padding or dilation for each of the spatial dimensions, as PyTorch reads one number for all."""
    return tuple(value) * (rank if len(value) == 1 else 1) if isinstance(value, tuple | list) else (value,) * rank
