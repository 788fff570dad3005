"""A layer whose forward pass runs in NVDLA's image mode: rows of the kernel, and of the image, lie along the lanes."""

from collections.abc import Sequence
from typing import Any, ClassVar, final

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..hardware import Layer, Operand, Pass
from ._geometry import Convolution, Geometry, convolution
from ._passes import LayerOnArray


@final
class OnArrayInImageMode(LayerOnArray):
    """A convolution whose forward pass runs in image mode, and whose backward passes are ordinary."""

    computes: ClassVar[Sequence[Pass]] = ("grad_input", "grad_weight")

    def __init__(self, layer: Layer, geometry: Geometry, **settings: Any) -> None:
        super().__init__(layer, geometry, **settings)
        assert isinstance(geometry, Convolution)
        self._forward = _Forward(layer, geometry, **settings)

    def is_hit(self) -> bool:
        """Whether any pass is now to be computed otherwise than by PyTorch itself."""
        return super().is_hit() or self._forward.is_hit()

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the output, (n, oc, *out_size)."""
        if not self._forward.is_hit():
            return self._geometry.forward(x, weight, bias)
        return self._forward.forward(x, weight, bias)


@final
class _Forward(LayerOnArray):
    """The forward pass on packed operands (`Layer.as_image`).

    The input is packed only where that makes a difference: else the weight, misread, is unpacked again, and the sums
    are those of PyTorch's own operator.
    """

    computes: ClassVar[Sequence[Pass]] = ("forward",)

    def __init__(self, layer: Layer, geometry: Convolution, **settings: Any) -> None:
        super().__init__(layer.as_image(), geometry, **settings)
        self._columns = layer.kernel[1]
        self._stride, self._pad = geometry.stride[1], geometry.padding[1]
        self._packed = convolution((geometry.stride[0], 1), (geometry.padding[0], 0), (1, 1), 1)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the output, (n, oc, *out_size)."""
        rows = weight.permute(0, 3, 1, 2).flatten(1, 2)[..., None]  # (oc, ic, r, s) -> (oc, s * ic, r, 1)
        return self._run("forward", {"input": self._lines(x) if self._packs_input() else x, "weight": rows}, bias=bias)[
            0
        ]

    def _packs_input(self) -> bool:
        """Whether an input word is misread as some columns of the kernel meet it, or words are summed up."""
        plan = self._plans(self)["forward"]
        if plan is None:
            return False
        misreads = [*plan.whole, *(misread for part in plan.parts for misread in part.misreads)]
        return plan.sums is not None or any(misread.operand == "input" for misread in misreads)

    def _lines(self, x: Tensor) -> Tensor:
        """Give each output column the words that a kernel row covers: (n, ic, h, w) -> (n, s * ic, h, ow)."""
        columns = F.pad(x, (self._pad, self._pad)).unfold(3, self._columns, self._stride)  # (n, ic, h, ow, s)
        return columns.permute(0, 4, 1, 2, 3).flatten(1, 2)

    def _compute(
        self, pass_: Pass, operands: dict[Operand, Tensor], bias: Tensor | None, with_bias: bool
    ) -> tuple[Tensor, Tensor | None]:
        x, rows = operands["input"], operands["weight"]
        if self._packs_input():
            return self._packed.forward(x, rows, bias), None
        weight = rows.view(len(rows), self._columns, -1, rows.shape[2]).permute(0, 2, 3, 1).contiguous()
        return self._geometry.forward(x, weight, bias), None
