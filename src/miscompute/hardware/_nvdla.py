"""The direct-convolution core of NVDLA."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from .._invalid import InvalidInput
from ..formats import FORMATS, Format, format_named, integer
from ._array import GRAD_WEIGHT, Array, Mapping, Stage, mapping_of
from ._layer import Layer, Pass
from ._swizzle import Swizzle, swizzle_named


@final
@dataclass(frozen=True, kw_only=True)
class Nvdla(Array):
    """The direct-convolution core of the open NVIDIA Deep Learning Accelerator (NVDLA), atomic-C by atomic-K.

    The hardware manual calls ``rows`` atomic-C and ``cols`` atomic-K. Loops run, outer to inner, over kernel groups
    (OC/K), stripes of output pixels, channel blocks (IC/C), kernel rows, kernel columns and the pixels of the stripe.

    ``grad_weight`` chooses how a weight gradient is laid on the core: ``"A"`` holds the output gradient in the cells
    and streams the input, ``"B"`` the other way round. The batch is dealt to the lanes in both.

    ``image_mode="first"`` computes the forward pass of a model's first layer in image mode, where few channels would
    leave most lanes idle: a plain convolution over two dimensions (no groups, no dilation) of 1, 3 or 4 input channels.
    Column s of the kernel and channel c meet on lane (s * IC + c) mod C; stripes end with a row of the output and have
    2K positions, 4K if C = 4K (`Layer.as_image`). NVDLA's compiler does so for a convolution that reads the network's
    input where that is declared an image, in a pixel format; ``"none"`` takes it for a feature map. Backward passes,
    which NVDLA was not made for, are ordinary convolutions.

    *Fidelity* of image mode: lanes as in cycle-accurate simulation (300 of 300 faults), order and stripes as in the
    open RTL (the sequence generator, NV_NVDLA_CSC_sg.v). Left out: channel post-extension, an option of the hardware
    that reads two or four kernel rows at once. ``tests/reference/test_image.py`` and `miscompute.validation` compare.

    ``packs_two`` is nvdlav1, the full configuration, whose words are 16 bits wide: in int8 each cell computes two
    kernels, 2k and 2k + 1 of those in flight. Its weight word has 16 bits, the low byte that of kernel 2k; every place
    from products to results has a word for each of the two, side by side: bit b of a place whose word has w bits for
    one kernel is bit b % w of kernel 2k + b // w. ``col`` counts the cells, of 16 bits, and stripes go by them. The
    activation is one int8 word, which both kernels of a cell read.

    *Fidelity* of ``packs_two``: that an int8 lane packs two kernels, that each multiplier and adder splits in two, that
    accumulators have 34 bits a kernel and that a stripe has at most 32 positions is nvdlav1's (unit description of its
    documentation). Assumed, where that does not say: that the low kernel's word is the low half everywhere; that a
    load brings a cell's whole word; that stripes end in image mode as without. No vector judges it;
    `miscompute.validation` compares with the reference.

    >>> nvdla(rows=8, cols=8).mapping("grad_weight")
    Mapping(stationary='grad_output', streaming='input', lane='n', cell='oc', image='ic')
    """

    saturates: ClassVar[bool] = True
    has_halves: ClassVar[bool] = True
    loads_in_order: ClassVar[bool] = True

    grad_weight: Literal["A", "B"] = "A"
    image_mode: Literal["none", "first"] = "none"
    packs_two: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grad_weight not in GRAD_WEIGHT:
            raise InvalidInput(f"grad_weight={self.grad_weight!r} is unknown; choose one of A, B")
        if self.image_mode not in ("none", "first"):
            raise InvalidInput(f"image_mode={self.image_mode!r} is unknown; choose one of none, first")

    @property
    def kernels(self) -> int:
        """How many kernels a cell computes at once.

        >>> nvdla_full(format="int8").kernels, nvdla_full(format="fp16").kernels
        (2, 1)
        """
        is_int8 = self.format is not None and not self.format.is_float and self.format.bits == 8
        return 2 if self.packs_two and is_int8 else 1

    def mapping(self, pass_: Pass) -> Mapping:
        """Say which operand a pass holds in the cells and how its dimensions lie on rows and columns."""
        return mapping_of(pass_, self.grad_weight)

    def stripes(self, pixels: int) -> tuple[range, ...]:
        """Split an image's result positions into stripes of 2K pixels, with NVDLA's rule for the end.

        A stripe takes 2K pixels while at least 4K remain, else all that remain if those are at most 2K, else K.

        >>> [len(stripe) for stripe in nvdla(rows=8, cols=8).stripes(49)]
        [16, 16, 8, 9]
        """
        K = self.cols
        stripes, start = [], 0
        while start < pixels:
            left = pixels - start
            length = 2 * K if left >= 4 * K else left if left <= 2 * K else K
            stripes.append(range(start, start + length))
            start += length
        return tuple(stripes)

    def stripes_of(self, layer: Layer, pass_: Pass) -> tuple[range, ...]:
        """Give the stripes of one image of a layer, as the array sees it: in image mode, row after row.

        >>> image = Layer(name="c", n=1, ic=1, oc=1, size=(2, 40), kernel=(1, 1)).as_image()
        >>> nvdla_small().stripes_of(image, "forward")
        (range(0, 16), range(16, 32), range(32, 40), range(40, 56), range(56, 72), range(72, 80))
        """
        if not (layer.packed and pass_ == "forward"):
            return super().stripes_of(layer, pass_)
        height, width = layer.out_size
        # A stripe begins where a word of the buffer does.
        most = (4 if self.rows == 4 * self.cols and not self.packs_two else 2) * self.cols
        starts = range(0, width, most)
        return tuple(
            range(row * width + start, row * width + min(start + most, width))
            for row in range(height)
            for start in starts
        )

    def seen(self, layer: Layer, pass_: Pass) -> Layer:
        """Give the layer as the core computes a pass of it: in image mode, its first convolution's rows as channels."""
        is_image = (
            self.image_mode == "first"
            and (pass_, layer.index, layer.groups, len(layer.size)) == ("forward", 0, 1, 2)
            and layer.ic in (1, 3, 4)
            and layer.dilation == (1, 1)
            and not layer.transposed
        )
        return layer.as_image() if is_image else layer

    def node(self, row: int, level: int) -> range:
        """Give the lanes that meet at the node of a level of the adder tree: 2 at level 1, all at the root.

        >>> nvdla_small().node(5, 1), nvdla_small().node(5, 2)
        (range(4, 6), range(4, 8))
        """
        if self.rows == 1:
            raise InvalidInput(f"level={level} of an adder: a cell of one lane has none; use product[row,col]")
        width = 1 << level
        if level < 1 or width > 2 * self.rows - 1:
            top = (self.rows - 1).bit_length()
            raise InvalidInput(
                f"level={level} is outside the adder tree of {self.rows} lanes (1..{top}; {top} is the root)"
            )
        first = row // width * width
        return range(first, min(first + width, self.rows))

    def word(self, stage: Stage, format: Format) -> Format:
        """Give the word of a stage.

        With int8 operands, as in the hardware: products of 18 bits, partial sums of 16 + log2(rows), an accumulator of
        34 bits that saturates, an output of 32. With floating-point operands all are fp32: NVDLA's own fp16 arithmetic
        is block floating point (`fp16_mac`), which a tensor's operands do not spell.
        """
        if format.is_float:
            return FORMATS["fp32"]
        if format.bits != 8:
            raise InvalidInput(
                f"format={format.name}: the widths of NVDLA's sums are known for int8 and floating point"
            )
        sums = 16 + (self.rows - 1).bit_length()
        return integer({"product": 18, "node": sums, "partial_sum": sums, "accumulator": 34, "output": 32}[stage])


def nvdla(
    *,
    rows: int,
    cols: int,
    format: Format | str | None = None,
    zero_gate: bool = True,
    swizzle: Swizzle | str = "none",
    grad_weight: Literal["A", "B"] = "A",
    image_mode: Literal["none", "first"] = "none",
    packs_two: bool = False,
) -> Nvdla:
    """Build an NVDLA core of any size; formats and swizzles may be given by name.

    >>> nvdla(rows=32, cols=16, format="int8", swizzle="step").cols
    16
    """
    return Nvdla(
        rows=rows,
        cols=cols,
        format=format_named(format) if isinstance(format, str) else format,
        zero_gate=zero_gate,
        swizzle=swizzle_named(swizzle) if isinstance(swizzle, str) else swizzle,
        grad_weight=grad_weight,
        image_mode=image_mode,
        packs_two=packs_two,
    )


def nvdla_small(
    *,
    format: Format | str | None = None,
    swizzle: Swizzle | str = "none",
    grad_weight: Literal["A", "B"] = "A",
    image_mode: Literal["none", "first"] = "none",
) -> Nvdla:
    """Build nv_small, the "small configuration": 8 x 8 MACs."""
    return nvdla(rows=8, cols=8, format=format, swizzle=swizzle, grad_weight=grad_weight, image_mode=image_mode)


def nvdla_small_256(
    *,
    format: Format | str | None = None,
    swizzle: Swizzle | str = "none",
    grad_weight: Literal["A", "B"] = "A",
    image_mode: Literal["none", "first"] = "none",
) -> Nvdla:
    """Build nv_small_256: 32 x 8 MACs."""
    return nvdla(rows=32, cols=8, format=format, swizzle=swizzle, grad_weight=grad_weight, image_mode=image_mode)


def nvdla_medium_512(
    *,
    format: Format | str | None = None,
    swizzle: Swizzle | str = "none",
    grad_weight: Literal["A", "B"] = "A",
    image_mode: Literal["none", "first"] = "none",
) -> Nvdla:
    """Build nv_medium_512: 32 x 16 MACs."""
    return nvdla(rows=32, cols=16, format=format, swizzle=swizzle, grad_weight=grad_weight, image_mode=image_mode)


def nvdla_medium_1024(
    *,
    format: Format | str | None = None,
    swizzle: Swizzle | str = "none",
    grad_weight: Literal["A", "B"] = "A",
    image_mode: Literal["none", "first"] = "none",
) -> Nvdla:
    """Build nv_medium_1024: 32 x 32 MACs."""
    return nvdla(rows=32, cols=32, format=format, swizzle=swizzle, grad_weight=grad_weight, image_mode=image_mode)


def nvdla_large(
    *,
    format: Format | str | None = None,
    swizzle: Swizzle | str = "none",
    grad_weight: Literal["A", "B"] = "A",
    image_mode: Literal["none", "first"] = "none",
) -> Nvdla:
    """Build nv_large, the "large configuration": 64 x 32 MACs."""
    return nvdla(rows=64, cols=32, format=format, swizzle=swizzle, grad_weight=grad_weight, image_mode=image_mode)


def nvdla_full(
    *,
    format: Format | str | None = None,
    swizzle: Swizzle | str = "none",
    grad_weight: Literal["A", "B"] = "A",
    image_mode: Literal["none", "first"] = "none",
) -> Nvdla:
    """Build nvdlav1, the full configuration: 64 x 16 cells of 16 bits, which compute 32 kernels at once in int8."""
    return nvdla(
        rows=64,
        cols=16,
        format=format,
        swizzle=swizzle,
        grad_weight=grad_weight,
        image_mode=image_mode,
        packs_two=True,
    )
