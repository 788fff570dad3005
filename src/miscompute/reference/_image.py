"""NVDLA's core in image mode: the kernel's rows slide along the lines of an image."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..fault import Fault
from ..hardware import Array, Nvdla
from ._nvdla import walk
from ._words import CoreResult, Sums, broken_in, operands_in_memory, reshaped, valued


def convolve_lines(
    array: Array,
    fault: Fault | None,
    kernel: NDArray[np.float64],
    lines: NDArray[np.float64],
    *,
    out: tuple[int, int],
    stride: tuple[int, int],
    step: int = 0,
    layer_index: int = 0,
    active: bool = True,
    first: int = 0,
) -> CoreResult:
    """Compute the convolution of an image on the core, in image mode, with a fault anywhere in it.

    The image lies in memory line by line, in each the words of all channels of a pixel side by side, and so do the rows
    of the kernel. For a pixel of the result the core takes, in each line that the kernel covers, a run of words as long
    as a row of the kernel, and deals it to the lanes word by word, block after block. Loops, outer to inner: kernel
    group, image, line of the result, stripe of its pixels, block of a run, row of the kernel, pixel. A stripe has 2K
    pixels, or 4K if there are four times as many lanes as cells, until the line ends; the rest is as in `convolve`.

    Args:
        array: the array; its format must be given.
        fault: as `convolve` takes it.
        kernel: held in the cells: (cell, row, word).
        lines: of the image, its padding included: (image, line, word).
        out: lines of the result, and pixels in each.
        stride: how many lines, and how many words of a line, lie between neighbours in the result.
        step: the optimizer step, which some swizzles go by.
        layer_index: the layer's place in its model, which some swizzles go by.
        active: whether the fault is there.
        first: the number of the first cycle.

    Raises:
        InvalidInput: if the array has no format, or the site is not on it.

    >>> from miscompute.fault import parse_fault
    >>> from miscompute.hardware import nvdla
    >>> core, fault = nvdla(rows=2, cols=1, format="int8"), parse_fault("weight[1,0] bit 2 stuck-at 1")
    >>> kernel, lines = np.ones((1, 1, 3)), np.arange(1.0, 7.0).reshape(1, 1, 6)  # the second word of the row reads 5
    >>> convolve_lines(core, fault, kernel, lines, out=(1, 4), stride=(1, 1)).result.tolist()
    [[[[14.0, 21.0, 28.0, 35.0]]]]
    """
    broken = broken_in(array, fault, active=active)
    sums = Sums(array, broken)
    flat = lines.reshape(len(lines), -1)
    held, passing = operands_in_memory(array, broken, kernel.swapaxes(1, 2), flat, dtype=sums.dtype)
    (down, across), (height, width), length = out, lines.shape[1:], kernel.shape[2]
    wide = array.rows == 4 * array.cols and not (isinstance(array, Nvdla) and array.packs_two)
    most = 4 * array.cols if wide else 2 * array.cols
    stripes = [
        range(line * across + pixel, line * across + min(pixel + most, across))
        for line in range(down)
        for pixel in range(0, across, most)
    ]

    def passers(words: slice, stripe: range) -> tuple[NDArray[np.intp]]:
        found = np.empty((words.stop - words.start, kernel.shape[1], len(stripe)), dtype=np.intp)
        for number, pixel in enumerate(stripe):
            for row in range(kernel.shape[1]):
                line, start = pixel // across * stride[0] + row, pixel % across * stride[1]
                assert line < height
                assert start + length <= width
                found[:, row, number] = np.arange(words.start, words.stop) + line * width + start
        return (found,)

    result, touched, cycles = walk(
        array,
        broken,
        held,
        passing,
        sums,
        stripes=stripes,
        passers=passers,
        step=step,
        layer_index=layer_index,
        first=first,
    )
    shape, everything = (len(lines), len(kernel), *out), (slice(None), slice(None))
    by_word = held.reading()
    by_row = replace(
        by_word,
        words=by_word.words.swapaxes(1, 2),
        reached=by_word.reached.swapaxes(1, 2),
        read=by_word.read.swapaxes(1, 2),
    )
    return CoreResult(
        result=valued(result, held, passing).reshape(shape),
        touched=touched.reshape(shape),
        stationary=by_row,
        streaming=reshaped(passing.reading(), lines.shape, everything),
        cycles=cycles,
    )
