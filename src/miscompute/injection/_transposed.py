"""Transposed convolutions: the passes of the convolution they are the gradient of, in another order."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ._geometry import Call, convolution, each_dimension, transposed_convolution


def transposed_reader(rank: int) -> Callable[..., Call]:
    """Give how ``torch.conv_transpose1d``, ``2d`` or ``3d`` is read."""

    def read(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Call:
        twin = convolution(
            each_dimension(stride, rank), each_dimension(padding, rank), each_dimension(dilation, rank), groups
        )
        batched = input.dim() == rank + 2
        return Call(
            input if batched else input.unsqueeze(0),
            weight,
            bias,
            transposed_convolution(twin, each_dimension(output_padding, rank)),
            None if batched else lambda y: y.squeeze(0),
        )

    return read
