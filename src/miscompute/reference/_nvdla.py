"""NVDLA's direct-convolution core, one atomic operation after another."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ..fault import ActivationRegister, Effect, Fault, WeightBus, WeightRegister
from ..formats import Format
from ..hardware import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What became of an operand in the registers, element by element, in the operand's shape.

    Args:
        words: the words as read wrong where ``reached``, as stored elsewhere.
        reached: whether the element sat in a faulty register in at least one atomic operation, and was not spared there
            as a zero. That its partner in the product was zero does not count: the word was wrong all the same.
        read: whether it sat in any register at all. Strides and ends leave some elements out.
    """

    words: NDArray[np.uint64]
    reached: NDArray[np.bool_]
    read: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class CoreResult:
    """What the core computed, (image, cell, *position), and how it read the two operands."""

    result: NDArray[np.float64]
    stationary: Reading
    streaming: Reading


class _Registers(NamedTuple):
    """The faulty operand registers: of which operand, which multipliers read them, (cell, lane), and what they read."""

    operand: Literal["stationary", "streaming"]
    faulty: NDArray[np.bool_]
    before_zero_detector: bool
    effect: Effect


def _faulty_registers(fault: Fault, *, rows: int, cols: int) -> _Registers:
    """Mark the multipliers that read a wrong word from the fault's site."""
    site = fault.site
    site.exposure(rows=rows, cols=cols)  # raises if the site is not on the array
    faulty = np.zeros((cols, rows), dtype=np.bool_)
    half = cols // 2
    match site:
        case WeightRegister(row=row, col=col) | ActivationRegister(row=row, col=col, reach="cell"):
            faulty[col, row] = True
        case WeightBus(row=row, col=col, reach="half") | ActivationRegister(row=row, col=col, reach="half"):
            faulty[:half, row] = col < half
            faulty[half:, row] = col >= half
        case WeightBus(row=row, reach="all") | ActivationRegister(row=row, reach="all"):
            faulty[:, row] = True
        case _:
            raise InvalidInput(f"site={site} is not an operand register or bus, which is all this core knows")
    return _Registers(
        operand="streaming" if isinstance(site, ActivationRegister) else "stationary",
        faulty=faulty,
        before_zero_detector=isinstance(site, WeightBus) and site.before_zero_detector,
        effect=fault.effect,
    )


def _misread(words: NDArray[np.uint64], effect: Effect, format: Format) -> NDArray[np.uint64]:
    """Give what a faulty register hands on for each word it is given."""
    masks = effect.masks(format)
    return ((words & np.uint64(masks.keep)) | np.uint64(masks.set)) ^ np.uint64(masks.flip)


class _Words:
    """An operand in memory, its spatial dimensions flattened, and what it turns into in the registers.

    For every word: its value, its value in a faulty register, whether the array gates it as a zero (and does so when it
    lies in a faulty register), and whether that spares it from being misread.
    """

    def __init__(
        self, values: NDArray[np.float64], *, format: Format, zero_gate: bool, registers: _Registers | None
    ) -> None:
        self._shape = values.shape
        self.words = format.encode(values.reshape(*values.shape[:2], -1))
        self.misread_words = self.words if registers is None else _misread(self.words, registers.effect, format)
        self.value = format.decode(self.words)
        self.misread = format.decode(self.misread_words)
        self.gated = (self.value == 0) & zero_gate  # zeros of either sign
        if registers is not None and registers.before_zero_detector:  # it looks at the word that is already wrong
            self.misread_gated = (self.misread == 0) & zero_gate
            self.spared = np.zeros_like(self.gated)
        else:
            self.misread_gated = self.spared = self.gated
        self.reached = np.zeros_like(self.gated)
        self.read = np.zeros_like(self.gated)

    def reading(self, inside: tuple[slice, ...]) -> Reading:
        """Give what was recorded, for the part ``inside`` the padding."""
        words = np.where(self.reached, self.misread_words, self.words)
        return Reading(
            words=words.reshape(self._shape)[inside],
            reached=self.reached.reshape(self._shape)[inside],
            read=self.read.reshape(self._shape)[inside],
        )


def _blocks(total: int, size: int) -> Iterator[slice]:
    """Cut ``total`` channels into blocks of ``size``; the last may be ragged."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _addresses(
    out: tuple[int, ...],
    kernel: tuple[int, ...],
    size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> NDArray[np.intp]:
    """Say which position of the streaming operand each kernel position meets for each result position, all linear."""
    positions, taps = np.indices(out).reshape(len(out), 1, -1), np.indices(kernel).reshape(len(out), -1, 1)
    index = [s * positions[axis] + d * taps[axis] for axis, (s, d) in enumerate(zip(stride, dilation, strict=True))]
    addresses: NDArray[np.intp] = np.ravel_multi_index(tuple(index), size)  # (taps, positions)
    return addresses


def _atomic_operations(
    held: _Words,
    passing: _Words,
    registers: _Registers | None,
    *,
    cells: slice,
    channels: slice,
    lanes: NDArray[np.intp],
    tap: int,
    image: int,
    addresses: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Multiply one kernel position with the words of a stripe: one atomic operation an address.

    ``lanes`` gives the lane of each of the ``channels``. Returns the partial sum of each cell and address. What the
    registers were given is marked in ``held`` and ``passing``.
    """
    in_cells = (cells, channels, tap)  # (cell, channel)
    weights, weight_gated = held.value[in_cells][:, :, None], held.gated[in_cells][:, :, None]
    passers = (channels, addresses)  # of one image: (channel, address)
    activations, activation_gated = passing.value[image][passers][None], passing.gated[image][passers][None]
    held.read[in_cells] = True
    passing.read[image][passers] = True

    if registers is not None:
        faulty = registers.faulty[: cells.stop - cells.start, lanes]  # (cell, channel)
        if registers.operand == "stationary":
            weights = np.where(faulty, held.misread[in_cells], held.value[in_cells])[:, :, None]
            weight_gated = np.where(faulty, held.misread_gated[in_cells], held.gated[in_cells])[:, :, None]
            held.reached[in_cells] |= faulty & ~held.spared[in_cells]
        else:  # each cell may now see another word
            activations = np.where(faulty[:, :, None], passing.misread[image][passers], activations)
            any_cell = np.any(faulty, axis=0, keepdims=True).T  # (channel, 1)
            passing.reached[image][passers] |= any_cell & ~passing.spared[image][passers]

    products = np.where(weight_gated | activation_gated, 0.0, weights * activations)  # (cell, channel, address)
    partial_sums: NDArray[np.float64] = products.sum(axis=1)
    return partial_sums


def convolve(
    array: Array,
    fault: Fault | None,
    stationary: NDArray[np.float64],
    streaming: NDArray[np.float64],
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    step: int = 0,
    layer_index: int = 0,
    active: bool = True,
) -> CoreResult:
    """Compute a dense direct convolution on the core, with a fault in its operand registers.

    Loops, outer to inner: kernel group, image, stripe of result positions, channel block, kernel position; inside are
    the atomic operations of the stripe's positions, one a position, in each of which cell ``k`` adds up ``rows``
    products. Words are as the array's format spells them; sums are float64 (exact for int8, unrounded for the others).

    Args:
        array: the array; its format must be given.
        fault: what is broken; None for a healthy core. Its timing is not looked at: that is ``active``.
        stationary: held in the cells: (cell, lane, *kernel).
        streaming: passes by: (image, lane, *size), one to three spatial dimensions.
        stride: distance of neighbouring result positions in ``streaming``.
        padding: zeros on each side of ``streaming``. They are words like others.
        dilation: distance of neighbouring kernel positions in ``streaming``.
        step: the optimizer step, which some swizzles go by.
        layer_index: the layer's place in its model, which some swizzles go by.
        active: whether the fault is there.

    Raises:
        InvalidInput: if the array has no format, the operands do not fit, or the site is not on the array.

    >>> from miscompute.fault import parse_fault
    >>> from miscompute.hardware import nvdla
    >>> ones = np.ones((2, 4, 1))
    >>> core, fault = nvdla(rows=2, cols=2, format="int8"), parse_fault("weight[0,1] bit 2 stuck-at 1")
    >>> convolve(core, fault, ones, ones[:1], stride=(1,), padding=(0,), dilation=(1,)).result.tolist()
    [[[4.0], [12.0]]]
    """
    format = array.format
    if format is None:
        raise InvalidInput("array has format=None, but a register holds words: give one, nvdla(..., format='fp32')")
    rank = stationary.ndim - 2
    if rank not in (1, 2, 3) or {streaming.ndim - 2, len(stride), len(padding), len(dilation)} != {rank}:
        raise InvalidInput(
            f"stationary {stationary.shape}, streaming {streaming.shape}, stride={stride}, padding={padding} and "
            f"dilation={dilation} must have the same number of spatial dimensions, 1 to 3"
        )
    if stationary.shape[1] != streaming.shape[1]:
        raise InvalidInput(
            f"stationary {stationary.shape} and streaming {streaming.shape} must have the same dimension 1, the lanes"
        )
    kernel = stationary.shape[2:]
    framed = tuple(size + 2 * pad for size, pad in zip(streaming.shape[2:], padding, strict=True))
    out = tuple(
        (size - d * (k - 1) - 1) // s + 1 for size, k, s, d in zip(framed, kernel, stride, dilation, strict=True)
    )
    if min(out) < 1:
        raise InvalidInput(f"stationary {stationary.shape} does not fit into streaming {streaming.shape}, padded")

    registers = None
    if fault is not None and active:
        registers = _faulty_registers(fault, rows=array.rows, cols=array.cols)

    def in_memory(operand: Literal["stationary", "streaming"], values: NDArray[np.float64]) -> _Words:
        its_own = registers if registers is not None and registers.operand == operand else None
        return _Words(values, format=format, zero_gate=array.zero_gate, registers=its_own)

    held = in_memory("stationary", stationary)
    passing = in_memory("streaming", np.pad(streaming, ((0, 0), (0, 0), *((pad, pad) for pad in padding))))
    addresses = _addresses(out, kernel, framed, stride, dilation)
    taps, pixels = addresses.shape
    images, (cells_total, channels_total) = len(streaming), stationary.shape[:2]
    result = np.zeros((images, cells_total, pixels))

    with np.errstate(invalid="ignore", over="ignore"):  # a misread word may be an infinity or NaN
        for cells in _blocks(cells_total, array.cols):  # a kernel group; cells beyond the last one are off
            stripe_number = 0
            for image in range(images):
                for stripe in array.stripes(pixels):
                    lanes = np.array(array.lanes(step=step, layer=layer_index, stripe=stripe_number))
                    for channels in _blocks(channels_total, array.rows):  # lanes beyond the last one are masked
                        for tap in range(taps):
                            result[image, cells, stripe.start : stripe.stop] += _atomic_operations(
                                held,
                                passing,
                                registers,
                                cells=cells,
                                channels=channels,
                                lanes=lanes[: channels.stop - channels.start],
                                tap=tap,
                                image=image,
                                addresses=addresses[tap, stripe.start : stripe.stop],
                            )
                    stripe_number += 1

    everything = (slice(None), slice(None))
    inside = tuple(slice(pad, pad + size) for pad, size in zip(padding, streaming.shape[2:], strict=True))
    return CoreResult(
        result=result.reshape(images, cells_total, *out),
        stationary=held.reading(everything),
        streaming=passing.reading((*everything, *inside)),
    )
