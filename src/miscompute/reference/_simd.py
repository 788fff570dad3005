"""A vector unit, one broadcast word after another."""

import numpy as np
from numpy.typing import NDArray

from ..fault import (
    Accumulator,
    ActivationRegister,
    Fault,
    FinalOutput,
    OperandValid,
    Product,
    WeightBus,
    WeightRegister,
)
from ..hardware import Simd
from ._words import (
    Broken,
    CoreResult,
    Numbers,
    Sums,
    blocks,
    broken_in,
    faulty_operand,
    not_a_place,
    operands_in_memory,
    product_result,
)


def _lanes(array: Simd, broken: Broken) -> NDArray[np.bool_]:
    """Mark the lanes that the fault is in, or that read its word."""
    marked = np.zeros(array.cols, dtype=np.bool_)
    match broken.site:
        case (
            WeightRegister(col=col)
            | OperandValid(col=col)
            | ActivationRegister(col=col, reach="cell")
            | Product(col=col)
            | Accumulator(row=0, col=col, address=None)
            | FinalOutput(col=col)
        ):
            marked[col] = True
        case WeightBus() if not broken.when.is_always:
            raise not_a_place(broken, array)
        case WeightBus(reach="all") | ActivationRegister(reach="all"):
            marked[:] = True
        case _:
            raise not_a_place(broken, array)
    return marked


def vector_product(
    array: Simd,
    fault: Fault | None,
    stationary: NDArray[np.float64],
    streaming: NDArray[np.float64],
    *,
    active: bool = True,
    first: int = 0,
) -> CoreResult:
    """Compute a product of matrices on a vector unit, with a fault anywhere in it.

    A vector of neighbouring columns after another, and row after row of the result, the unit walks k: it loads as many
    words of row k of ``stationary`` as there are lanes, takes them all times one word of ``streaming``, and adds the
    products to the lanes' accumulators, which begin at 0. That is one cycle. A word loaded wrong is wrong for one
    cycle, so ``until="reload"`` changes nothing. Integers wrap at the width of their stage.

    Args:
        array: the vector unit; its format must be given.
        fault: as `convolve` takes it.
        stationary: loaded as vectors: (k, n).
        streaming: broadcast: (m, k).
        active: whether the fault is there.
        first: the number of the first cycle.

    Returns:
        The result, (m, n), and how the operands were read.

    Raises:
        InvalidInput: if the array has no format, or the site is not on it.
    """
    broken = broken_in(array, fault, active=active)
    sums = Sums(array, broken)
    marked = np.zeros(array.cols, dtype=np.bool_) if broken is None else _lanes(array, broken)
    site = None if broken is None else broken.site
    faulty = faulty_operand(broken)
    held, passing = operands_in_memory(array, broken, stationary, streaming, dtype=sums.dtype)
    (rows, depth), cols = streaming.shape, stationary.shape[1]
    result = np.zeros((rows, cols), dtype=sums.dtype)
    touched = np.zeros(result.shape, dtype=np.bool_)
    held.read[:] = passing.read[:] = True
    cycle = first
    with np.errstate(invalid="ignore", over="ignore"):
        for lanes in blocks(cols, array.cols):
            hit = marked[: lanes.stop - lanes.start]
            accumulators = result[:, lanes]  # of all rows: what one row does has no bearing on the next
            for k in range(depth):
                there = np.zeros(rows, dtype=np.bool_) if broken is None else _rows_hit(broken, cycle, k, rows, depth)
                wrong = there[:, None] & hit  # (m, lane)
                touched[:, lanes] |= wrong if not isinstance(site, Accumulator | FinalOutput) else False
                w, w_gated = held.number[k, lanes][None], held.gated[k, lanes][None]
                x, x_gated = passing.number[:, k, None], passing.gated[:, k, None]
                if faulty == "stationary":
                    w = np.where(wrong, held.misread[k, lanes], w)
                    w_gated = np.where(wrong, held.misread_gated[k, lanes], w_gated)
                    held.reached[k, lanes] |= wrong.any(axis=0) & ~held.spared[k, lanes]
                elif faulty == "streaming":
                    x = np.where(wrong, passing.misread[:, k, None], x)
                    passing.reached[:, k] |= wrong.any(axis=1) & ~passing.spared[:, k]
                product = sums.wrap(np.where(w_gated | x_gated, w.dtype.type(0), w * x), "product")
                if isinstance(site, Product):
                    both = np.broadcast_arrays(w, x)
                    product = np.where(wrong, sums.misread_product(product, *both), product)
                accumulators[...] = sums.wrap(accumulators + product, "accumulator")
                is_last = k == depth - 1
                if isinstance(site, Accumulator) and not is_last:
                    _misread(accumulators, touched[:, lanes], wrong, sums.misread(accumulators, "accumulator"))
                if isinstance(site, FinalOutput) and is_last:
                    _misread(accumulators, touched[:, lanes], wrong, sums.misread(accumulators, "output"))
            cycle += rows * depth
    return product_result(result, touched, held, passing, cycles=cycle - first)


def _rows_hit(broken: Broken, first: int, k: int, rows: int, depth: int) -> NDArray[np.bool_]:
    """Mark the rows of the result whose k-th cycle the fault is there in; a row takes ``depth`` cycles."""
    return broken.when.during(first + np.arange(rows) * depth + k)


def _misread(words: Numbers, touched: NDArray[np.bool_], where: NDArray[np.bool_], wrong: Numbers) -> None:
    """Put wrong words in their place."""
    words[...] = np.where(where, wrong, words)
    touched |= where
