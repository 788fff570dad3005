"""A layer as an accelerator sees it: one convolution, with its shapes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from .._invalid import InvalidInput

Pass = Literal["forward", "grad_input", "grad_weight"]
"""The three computations a layer asks of the array in a training step."""

Operand = Literal["weight", "input", "grad_output"]
"""The tensors those computations read; each pass reads two of them."""

PASSES: tuple[Pass, ...] = get_args(Pass)
OPERANDS: tuple[Operand, ...] = get_args(Operand)

TWIN_PASSES: Mapping[Pass, Pass] = {"forward": "grad_input", "grad_input": "forward", "grad_weight": "grad_weight"}
"""What a transposed convolution's passes are to the convolution it is the gradient of, its twin."""

TWIN_OPERANDS: Mapping[Operand, Operand] = {"weight": "weight", "input": "grad_output", "grad_output": "input"}
"""What a transposed convolution's operands are to its twin."""

_KERNEL_DIMS = {0: (), 1: ("s",), 2: ("r", "s"), 3: ("t", "r", "s")}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution over 1, 2 or 3 spatial dimensions, or a linear layer (no spatial dimensions).

    All sizes count elements. ``n`` is the batch; for a linear layer it is the product of all leading dimensions. Tuples
    have one entry a spatial dimension, outermost first; ``padding`` is what stands on each side and is zero-valued.
    ``index`` is the layer's place among the layers of its model (0 first), which a swizzle may go by. ``batch`` linear
    layers of one shape, each with a weight of its own, are a batched product of matrices: an attention's heads, say.
    ``transposed`` is a transposed convolution, whose forward pass is the ``grad_input`` of the convolution described by
    all the other fields, and the other way round. ``packed`` is a convolution whose ``ic`` runs over a row of the
    kernel with all its channels (`as_image`).

    >>> Layer(name="conv1", n=128, ic=3, oc=64, size=(32, 32), kernel=(5, 5), stride=(2, 2), padding=(2, 2)).out_size
    (16, 16)
    >>> Layer(name="fc", n=128, ic=1024, oc=10).shape("grad_output")
    (128, 10)
    """

    name: str
    n: int
    ic: int
    oc: int
    size: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] | None = None
    padding: tuple[int, ...] | None = None
    dilation: tuple[int, ...] | None = None
    groups: int = 1
    index: int = 0
    batch: int = 1
    transposed: bool = False
    packed: bool = False

    def __post_init__(self) -> None:
        rank = len(self.size)
        if rank not in _KERNEL_DIMS:
            raise InvalidInput(f"size={self.size} of layer {self.name!r} has {rank} dimensions; 0 to 3 are known")
        for field, default in (("stride", 1), ("padding", 0), ("dilation", 1)):
            if getattr(self, field) is None:
                object.__setattr__(self, field, (default,) * rank)
        for field in ("kernel", "stride", "padding", "dilation"):
            if len(getattr(self, field)) != rank:
                raise InvalidInput(
                    f"{field}={getattr(self, field)} of layer {self.name!r} needs {rank} entries, as size={self.size}"
                )
            least = 0 if field == "padding" else 1
            if min(getattr(self, field), default=least) < least:
                raise InvalidInput(f"{field}={getattr(self, field)} of layer {self.name!r} must be at least {least}")
        for field in ("n", "ic", "oc", "groups", "batch"):
            if getattr(self, field) < 1:
                raise InvalidInput(f"{field}={getattr(self, field)} of layer {self.name!r} must be at least 1")
        if self.batch > 1 and rank:
            raise InvalidInput(f"batch={self.batch} of layer {self.name!r} is for linear layers, not size={self.size}")
        if self.ic % self.groups or self.oc % self.groups:
            raise InvalidInput(f"groups={self.groups} of layer {self.name!r} must divide ic={self.ic} and oc={self.oc}")
        if min(self.out_size, default=1) < 1:
            raise InvalidInput(f"kernel={self.kernel} of layer {self.name!r} does not fit into size={self.size}")

    @property
    def out_size(self) -> tuple[int, ...]:
        """The spatial size of the output."""
        assert self.stride is not None
        assert self.padding is not None
        assert self.dilation is not None
        return tuple(
            (i + 2 * p - d * (k - 1) - 1) // s + 1
            for i, k, s, p, d in zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )

    @property
    def is_pointwise(self) -> bool:
        """Whether it is linear or a 1 x 1 convolution without padding or stride: every pass reads stored words only."""
        ones = (1,) * len(self.size)
        return (self.kernel, self.stride, self.padding) == (ones, ones, (0,) * len(self.size))

    def dims(self, operand: Operand) -> tuple[str, ...]:
        """Name an operand's dimensions, outermost first, as regions do.

        A grouped convolution's weight is seen with its output channels split, ``(group, oc, ic, r, s)``; channel
        indices of ``oc`` and ``ic`` then count within the group.
        """
        batch = ("batch",) if self.batch > 1 else ()
        match operand:
            case "weight":
                group = ("group",) if self.groups > 1 else ()
                return (*batch, *group, "oc", "ic", *_KERNEL_DIMS[len(self.kernel)])
            case "input":
                return (*batch, "n", "ic", *("d", "h", "w")[3 - len(self.size) :])
            case "grad_output":
                return (*batch, "n", "oc", *("od", "oh", "ow")[3 - len(self.size) :])

    def shape(self, operand: Operand) -> tuple[int, ...]:
        """Give an operand's shape, in the order of `dims`."""
        batch = (self.batch,) if self.batch > 1 else ()
        match operand:
            case "weight":
                group = (self.groups,) if self.groups > 1 else ()
                return (*batch, *group, self.oc // self.groups, self.ic // self.groups, *self.kernel)
            case "input":
                return (*batch, self.n, self.ic, *self.size)
            case "grad_output":
                return (*batch, self.n, self.oc, *self.out_size)

    def tensor_shape(self, operand: Operand) -> tuple[int, ...]:
        """Give an operand's shape as PyTorch has it: as `shape`, a grouped weight's output channels not split."""
        shape = self.shape(operand)
        return (self.oc, *shape[2:]) if operand == "weight" and self.groups > 1 else shape

    def elements(self, operand: Operand) -> int:
        """Count an operand's elements."""
        return math.prod(self.shape(operand))

    def words(self, of: Operand | Literal["result"], pass_: Pass) -> int:
        """Count the elements of an operand or of what a pass computes, in a transposed convolution's own terms.

        >>> up = Layer(name="up", n=1, ic=2, oc=3, size=(6,), kernel=(2,), transposed=True)  # from 3 channels to 2
        >>> up.words("input", "forward"), up.words("result", "forward")
        (15, 12)
        """
        if of == "result":
            return math.prod(self.result(TWIN_PASSES[pass_] if self.transposed else pass_).values())
        return self.elements(TWIN_OPERANDS[of] if self.transposed else of)

    def result(self, pass_: Pass) -> dict[str, int]:
        """Name and size the dimensions of what a pass computes, its spatial positions flattened to ``pixel``.

        A linear layer has no ``pixel``. A grouped layer's weight gradient is split as its weight is (`dims`).

        >>> Layer(name="c", n=4, ic=3, oc=8, size=(9, 9), kernel=(3, 3)).result("forward")
        {'n': 4, 'oc': 8, 'pixel': 49}
        """
        match pass_:
            case "forward":
                dims = {"n": self.n, "oc": self.oc}
            case "grad_input":
                dims = {"n": self.n, "ic": self.ic}
            case "grad_weight":
                dims = dict(zip(self.dims("weight"), self.shape("weight"), strict=True))
                for dim in _KERNEL_DIMS[len(self.kernel)]:
                    del dims[dim]
        if self.batch > 1:
            dims = {"batch": self.batch, **dims}
        return {**dims, "pixel": math.prod(self.positions(pass_))} if self.size else dims

    def positions(self, pass_: Pass) -> tuple[int, ...]:
        """Give the spatial size of what a pass computes."""
        return {"forward": self.out_size, "grad_input": self.size, "grad_weight": self.kernel}[pass_]

    def as_matmul(self) -> "Layer":
        """Give the matrix product that im2col makes of a convolution; a linear layer is one already.

        Every position of the output is a row of ``ic * taps`` input words, ordered by input channel and then kernel
        position: (n * pixels, ic / groups * taps) by (ic / groups * taps, oc / groups). A grouped convolution makes a
        batch of them, one a group.

        >>> conv = Layer(name="c", n=4, ic=3, oc=8, size=(9, 9), kernel=(3, 3))
        >>> conv.as_matmul()  # doctest: +ELLIPSIS
        Layer(name='c', n=196, ic=27, oc=8, size=(), kernel=(), stride=(), padding=(), dilation=(), groups=1, ...)
        """
        if not self.size:
            return self
        if self.transposed:
            raise InvalidInput(
                f"layer {self.name!r} is a transposed convolution, which im2col does not make a product of"
            )
        return Layer(
            name=self.name,
            n=self.n * math.prod(self.out_size),
            ic=self.ic // self.groups * math.prod(self.kernel),
            oc=self.oc // self.groups,
            index=self.index,
            batch=self.groups,
        )

    def as_image(self) -> "Layer":
        """Give the convolution that reads a whole row of the kernel as channels: word ``s * ic + c`` is channel c of column s.

        Its input has, for every column of the output, the words of all channels that a kernel row covers there, padding
        included; what remains of the kernel is one column.

        >>> conv = Layer(name="c", n=4, ic=3, oc=8, size=(9, 7), kernel=(5, 3), stride=(2, 2), padding=(2, 1)).as_image()
        >>> conv.shape("input"), conv.shape("weight"), conv.stride, conv.padding, conv.out_size
        ((4, 9, 9, 4), (8, 9, 5, 1), (2, 1), (2, 0), (5, 4))
        """  # noqa: E501
        if len(self.size) != 2 or self.groups > 1 or self.transposed:
            raise InvalidInput(f"layer {self.name!r} is no plain convolution of images; leave it as it is")
        if self.packed:
            return self
        assert self.stride is not None
        assert self.padding is not None
        assert self.dilation is not None
        return replace(
            self,
            ic=self.kernel[1] * self.ic,
            size=(self.size[0], self.out_size[1]),
            kernel=(self.kernel[0], 1),
            stride=(self.stride[0], 1),
            padding=(self.padding[0], 0),
            dilation=(self.dilation[0], 1),
            packed=True,
        )
