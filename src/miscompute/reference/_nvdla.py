"""NVDLA's direct-convolution core, one atomic operation after another."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ..fault import (
    Accumulator,
    ActivationRegister,
    AdderNode,
    CellOutput,
    Fault,
    FinalOutput,
    OperandValid,
    Product,
    ProductTable,
    WeightBus,
    WeightRegister,
)
from ..hardware import Array, Nvdla
from ._words import (
    Broken,
    CoreResult,
    InMemory,
    Numbers,
    Sums,
    blocks,
    broken_in,
    faulty_operand,
    not_a_place,
    operands_in_memory,
    reshaped,
    valued,
)


class _Registers(NamedTuple):
    """The faulty operand registers: of which operand, and which multipliers read them, (kernel, lane)."""

    operand: Literal["stationary", "streaming"]
    faulty: NDArray[np.bool_]


def _faulty_registers(array: Array, broken: Broken | None) -> _Registers | None:
    """Mark the multipliers that read a wrong word from the fault's site; None if there are none."""
    operand = faulty_operand(broken)
    if broken is None or operand is None:
        return None
    faulty = np.zeros((array.cols, array.rows), dtype=np.bool_)
    half = array.cols // 2
    match broken.site:
        case (
            WeightRegister(row=row, col=col)
            | OperandValid(row=row, col=col)
            | ActivationRegister(row=row, col=col, reach="cell")
        ):
            faulty[col, row] = True
        case WeightBus(row=row, col=col, reach="half") | ActivationRegister(row=row, col=col, reach="half"):
            faulty[:half, row] = col < half
            faulty[half:, row] = col >= half
        case WeightBus(row=row, reach="all") | ActivationRegister(row=row, reach="all"):
            faulty[:, row] = True
        case _:
            raise not_a_place(broken, array)
    return _Registers(operand, np.repeat(faulty, array.kernels, axis=0))


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


Words = tuple[slice | NDArray[np.intp], ...]
"""Where words lie in a memory of any shape."""


class _Operations(NamedTuple):
    """The atomic operations of one channel block and one stripe: one a kernel position and pixel, (tap, pixel).

    ``lanes`` gives the lane of each of the ``channels``; ``passers`` finds in an image the words that they meet,
    (channel, tap, pixel); ``cycles`` numbers the operations.
    """

    cells: slice
    channels: slice
    lanes: NDArray[np.intp]
    image: int
    passers: Words
    cycles: NDArray[np.intp]


class _Core:
    """The multipliers and adders of the core."""

    def __init__(self, array: Array, broken: Broken | None, held: InMemory, passing: InMemory, sums: Sums) -> None:
        self._array, self._broken, self._sums = array, broken, sums
        self._registers = _faulty_registers(array, broken)
        self._held, self._passing = held, passing

    def partial_sums(self, at: _Operations) -> tuple[Numbers, NDArray[np.bool_]]:
        """Multiply and add up: each cell's partial sums, (cell, tap, pixel), and whether the fault touched them."""
        held, passing = self._held, self._passing
        in_cells = (at.cells, at.channels)  # (cell, channel, tap)
        passers = at.passers
        held.read[in_cells] = True
        passing.read[at.image][passers] = True
        w, w_gated = held.number[in_cells][..., None], held.gated[in_cells][..., None]
        x, x_gated = passing.number[at.image][passers][None], passing.gated[at.image][passers][None]
        touched = np.zeros((len(w), *at.cycles.shape), dtype=np.bool_)
        if self._registers is not None:
            wrong = self._wrong(self._registers, at)  # (cell, channel, tap, pixel)
            if self._registers.operand == "stationary":
                w = np.where(wrong, held.misread[in_cells][..., None], w)
                w_gated = np.where(wrong, held.misread_gated[in_cells][..., None], w_gated)
                wrong = wrong & ~held.spared[in_cells][..., None]
                held.reached[in_cells] |= wrong.any(axis=3)
            else:  # each cell may now see another word; the detector has seen the one that was sent
                x = np.where(wrong, passing.misread[at.image][passers], x)
                wrong = wrong & ~passing.spared[at.image][passers]
                _mark(passing.reached[at.image], passers, wrong.any(axis=0))
            touched |= wrong.any(axis=1)
        products = np.where(w_gated | x_gated, w.dtype.type(0), w * x)  # (cell, channel, tap, pixel)
        if not self._sums.in_words:
            return products.sum(axis=1), touched
        return self._in_words(products, np.broadcast_to(w, products.shape), np.broadcast_to(x, products.shape), at)

    def _wrong(self, registers: _Registers, at: _Operations) -> NDArray[np.bool_]:
        """Mark what multipliers read from a faulty register, (cell, channel, tap, pixel)."""
        assert self._broken is not None
        faulty = registers.faulty[: at.cells.stop - at.cells.start, at.lanes][..., None, None]
        when = self._broken.when
        if isinstance(self._broken.site, WeightBus):  # the cells get their words one a cycle
            kernels = self._array.kernels
            loaded = when.loads(at.cycles, -(-len(faulty) // kernels)).repeat(kernels, axis=-1)
            return faulty & loaded.T[: len(faulty), None, :, None]
        holds = isinstance(self._broken.site, WeightRegister | OperandValid)
        return faulty & (when.while_held if holds else when.during)(at.cycles)

    def _in_words(
        self, products: Numbers, w: Numbers, x: Numbers, at: _Operations
    ) -> tuple[Numbers, NDArray[np.bool_]]:
        """Add products up in the tree, word by word; on lanes without a channel they are of two zeros."""

        def on_lanes(words: Numbers) -> Numbers:
            dealt = np.zeros((len(words), self._array.rows, *at.cycles.shape), dtype=words.dtype)
            dealt[:, at.lanes] = words
            return dealt

        assert self._broken is not None
        site, sums = self._broken.site, self._sums
        there = self._broken.when.during(at.cycles)
        touched = np.zeros((len(products), *at.cycles.shape), dtype=np.bool_)
        nodes = sums.wrap(on_lanes(products), "product")
        if isinstance(site, Product) and isinstance(self._broken.effect, ProductTable):
            if site.col < len(nodes):
                multiplier = (site.col, site.row)
                wrong = sums.misread_product(nodes[multiplier], on_lanes(w)[multiplier], on_lanes(x)[multiplier])
                nodes[multiplier] = np.where(there, wrong, nodes[multiplier])
                touched[site.col] = there
        elif isinstance(site, Product):
            touched[sums.strike(nodes[:, site.row], site.col, "product", there)] = there
        level = 0
        while nodes.shape[1] > 1:
            level += 1
            left, right = nodes[:, 0::2], nodes[:, 1::2]
            nodes = left.copy()  # an odd one goes up alone
            nodes[:, : right.shape[1]] = sums.wrap(left[:, : right.shape[1]] + right, "node")
            if isinstance(site, AdderNode) and site.level == level:
                touched[sums.strike(nodes[:, site.row >> level], site.col, "node", there)] = there
        partial = sums.wrap(nodes[:, 0], "partial_sum")
        if isinstance(site, CellOutput):
            touched[sums.strike(partial, site.col, "partial_sum", there)] = there
        return partial, touched

    def accumulate(
        self, running: Numbers, touched: NDArray[np.bool_], at: _Operations, partial: Numbers, *, is_last_block: bool
    ) -> None:
        """Add partial sums, (cell, tap, pixel), to the running sums of a stripe, (cell, pixel), in place.

        After the last one the result is finished.
        """
        sums, broken = self._sums, self._broken
        if not sums.in_words:
            running += partial.sum(axis=1)
            return
        assert broken is not None
        site = broken.site
        last = partial.shape[1] - 1 if is_last_block else -1
        for tap, there in enumerate(broken.when.during(at.cycles)):
            running[...] = sums.saturate(running + partial[:, tap], "accumulator")
            if tap == last:
                running[...] = sums.saturate(running, "output")
            match site:
                case Accumulator(col=col, address=address) if tap != last:
                    hit = there & (address is None or np.arange(len(there)) == address)
                    touched[sums.strike(running, col, "accumulator", hit)] |= hit
                case FinalOutput(col=col) if tap == last:
                    touched[sums.strike(running, col, "output", there)] |= there


def _mark(marks: NDArray[np.bool_], words: Words, wanted: NDArray[np.bool_]) -> None:
    """Mark some of these words; one word may be among them several times, wanted only once."""
    numbers = np.arange(marks.size).reshape(marks.shape)[words]
    marks.reshape(-1)[numbers[wanted]] = True


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
    first: int = 0,
) -> CoreResult:
    """Compute a dense direct convolution on the core, with a fault anywhere in it.

    Loops, outer to inner: kernel group, image, stripe of result positions, channel block, kernel position; inside are
    the atomic operations of the stripe's positions, one a position and a cycle, in each of which cell ``k`` adds up
    ``rows`` products: in a binary tree of neighbouring lanes, an odd one going up alone. Running sums take up partial
    sums in that order and saturate, and so does the result. Cycles count the atomic operations alone, from 0.

    In one cycle: an operand register is wrong for its operations (kept ``until="reload"``, a stationary word or its
    valid bit for the operations of the same kernel position that are left in the stripe); a bus takes the stationary
    words of a kernel position to the cells one a cycle, from the first cycle of those operations on, and a word that
    was loaded wrong is wrong in all of them (an assumption: the order of loading is not known to the cycle).

    Words are as the array's format spells them, and as `Sums` says on the way to a result.

    Args:
        array: the array; its format must be given.
        fault: what is broken; None for a healthy core. Its timing is not looked at but for the cycle of a transient:
            that is ``active``.
        stationary: held in the cells: (cell, lane, *kernel); two neighbours in one cell, where the array packs them.
        streaming: passes by: (image, lane, *size), one to three spatial dimensions.
        stride: distance of neighbouring result positions in ``streaming``.
        padding: zeros on each side of ``streaming``. They are words like others.
        dilation: distance of neighbouring kernel positions in ``streaming``.
        step: the optimizer step, which some swizzles go by.
        layer_index: the layer's place in its model, which some swizzles go by.
        active: whether the fault is there.
        first: the number of the first cycle.

    Raises:
        InvalidInput: if the array has no format, the operands do not fit, or the site is not on the array.

    >>> from miscompute.fault import parse_fault
    >>> from miscompute.hardware import nvdla
    >>> ones = np.ones((2, 4, 1))
    >>> core, fault = nvdla(rows=2, cols=2, format="int8"), parse_fault("weight[0,1] bit 2 stuck-at 1")
    >>> convolve(core, fault, ones, ones[:1], stride=(1,), padding=(0,), dilation=(1,)).result.tolist()
    [[[4.0], [12.0]]]
    """
    broken = broken_in(array, fault, active=active)
    if not isinstance(array, Nvdla):
        raise InvalidInput(f"array={array} is no core for direct convolution; use layer_result")
    out, framed = _sizes(stationary, streaming, stride, padding, dilation)
    sums = Sums(array, broken)

    padded = np.pad(streaming, ((0, 0), (0, 0), *((pad, pad) for pad in padding)))
    flat = (values.reshape(*values.shape[:2], -1) for values in (stationary, padded))
    held, passing = operands_in_memory(array, broken, *flat, dtype=sums.dtype)
    addresses = _addresses(out, stationary.shape[2:], framed, stride, dilation)
    result, touched, cycles = walk(
        array,
        broken,
        held,
        passing,
        sums,
        stripes=array.stripes(addresses.shape[1]),
        passers=lambda channels, stripe: (channels, addresses[:, stripe.start : stripe.stop]),
        step=step,
        layer_index=layer_index,
        first=first,
    )
    everything = (slice(None), slice(None))
    inside = tuple(slice(pad, pad + size) for pad, size in zip(padding, streaming.shape[2:], strict=True))
    return CoreResult(
        result=valued(result, held, passing).reshape(*result.shape[:2], *out),
        touched=touched.reshape(*result.shape[:2], *out),
        stationary=reshaped(held.reading(), stationary.shape, everything),
        streaming=reshaped(passing.reading(), padded.shape, (*everything, *inside)),
        cycles=cycles,
    )


def walk(
    array: Array,
    broken: Broken | None,
    held: InMemory,
    passing: InMemory,
    sums: Sums,
    *,
    stripes: Sequence[range],
    passers: Callable[[slice, range], Words],
    step: int,
    layer_index: int,
    first: int,
) -> tuple[Numbers, NDArray[np.bool_], int]:
    """Walk the core's loops: kernel group, image, stripe, channel block, kernel position, pixel.

    Args:
        array: the array.
        broken: the fault, if it is there.
        held: the stationary operand, (cell, channel, kernel position).
        passing: the streaming operand, images of any shape.
        sums: on the way to results.
        stripes: the pixels of each stripe.
        passers: finds in an image the words that meet some channels in a stripe, (channel, kernel position, pixel).
        step: the optimizer step, which some swizzles go by.
        layer_index: the layer's place in its model, which some swizzles go by.
        first: the number of the first cycle.

    Returns:
        The results, (image, cell, pixel); whether the fault touched them; the cycles that it took.
    """
    core = _Core(array, broken, held, passing, sums)
    cells_total, channels_total, taps = held.number.shape
    images, pixels = len(passing.number), sum(map(len, stripes))
    result = np.zeros((images, cells_total, pixels), dtype=sums.dtype)
    touched = np.zeros(result.shape, dtype=np.bool_)
    cycle = first

    with np.errstate(invalid="ignore", over="ignore"):  # a misread word may be an infinity or NaN
        # A kernel group; cells beyond the last one are off, and so is the other kernel of an odd last one.
        for cells in blocks(cells_total, array.cols * array.kernels):
            stripe_number = 0
            for image in range(images):
                for stripe in stripes:
                    where = (image, cells, slice(stripe.start, stripe.stop))
                    lanes = np.array(array.lanes(step=step, layer=layer_index, stripe=stripe_number))
                    for channels in blocks(channels_total, array.rows):  # lanes beyond the last one are masked
                        operations = taps * len(stripe)  # kernel positions, and in each of them pixels
                        at = _Operations(
                            cells=cells,
                            channels=channels,
                            lanes=lanes[: channels.stop - channels.start],
                            image=image,
                            passers=passers(channels, stripe),
                            cycles=np.arange(cycle, cycle + operations).reshape(taps, -1),
                        )
                        partial, by_fault = core.partial_sums(at)
                        touched[where] |= by_fault.any(axis=1)
                        is_last_block = channels.stop == channels_total
                        core.accumulate(result[where], touched[where], at, partial, is_last_block=is_last_block)
                        cycle += operations
                    stripe_number += 1
    return result, touched, cycle - first


def _sizes(
    stationary: NDArray[np.float64],
    streaming: NDArray[np.float64],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Check that the operands fit; give the result's spatial size and the padded streaming operand's."""
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
    return out, framed
