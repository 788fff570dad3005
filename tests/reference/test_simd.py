"""The reference vector unit, on small products worked out by hand."""

import numpy as np
import pytest

from miscompute import InvalidInput, parse_fault
from miscompute.hardware import simd
from miscompute.reference import CoreResult, vector_product

IN_CYCLE = "transient step 0 pass forward layer fc cycle"

A = [[1.0, 2.0], [3.0, 4.0]]
ONES = [[1.0] * 3] * 2  # n = 3 takes two vectors of two lanes


def unit(fault: str | None, a: list[list[float]], b: list[list[float]], *, format: str = "int8") -> CoreResult:
    found = None if fault is None else parse_fault(fault)
    return vector_product(simd(lanes=2, format=format), found, np.array(b), np.array(a))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, [[3, 3, 3], [7, 7, 7]]),
        ("weight[0,1] bit 3 flip", [[3, 9 + 18, 3], [7, 27 + 36, 7]]),
        ("weight-bus[0] bit 3 flip", [[27, 27, 27], [63, 63, 63]]),
        ("activation[0,0] bit 3 flip", [[9 + 10, 3, 19], [11 + 12, 7, 23]]),  # as one lane reads it
        ("activation-all[0] bit 3 flip", [[19, 19, 19], [23, 23, 23]]),
        ("valid[0,1] bit 0 stuck-at 0", [[3, 0, 3], [7, 0, 7]]),
        ("product[0,0] bit 4 flip", [[35, 3, 35], [39, 7, 39]]),
        ("accumulator[1] bit 3 stuck-at 1", [[3, 9 + 2, 3], [7, 11 + 4, 7]]),  # not on the last sum
        ("output[0] bit 4 flip", [[19, 3, 19], [23, 7, 23]]),
        # Cycles: n 0 and 1: m 0 with k 0 and 1, m 1 with k 0 and 1; then the same for n 2.
        (f"weight[0,0] bit 3 flip {IN_CYCLE} 3", [[3, 3, 3], [7 + 32, 7, 7]]),
        (f"weight[0,0] bit 3 flip {IN_CYCLE} 2 until reload", [[3, 3, 3], [7 + 24, 7, 7]]),
        (f"activation-all[0] bit 3 flip {IN_CYCLE} 1", [[11, 11, 3], [7, 7, 7]]),
        (f"product[0,0] bit 4 flip {IN_CYCLE} 6", [[3, 3, 3], [7, 7, 23]]),
        (f"accumulator[1] bit 3 stuck-at 1 {IN_CYCLE} 2", [[3, 3, 3], [7, 15, 7]]),
        (f"accumulator[1] bit 3 stuck-at 1 {IN_CYCLE} 3", [[3, 3, 3], [7, 7, 7]]),
        (f"output[1] bit 4 flip {IN_CYCLE} 3", [[3, 3, 3], [7, 23, 7]]),
    ],
)
def test_vector_unit(fault: str | None, expected: list[list[int]]) -> None:
    found = unit(fault, A, ONES)
    assert found.result.tolist() == expected
    assert found.cycles == 2 * 2 * 2  # vectors of n, rows m, k
    assert (found.result == unit(None, A, ONES).result)[~found.touched].all()


def test_words_are_recorded_as_read() -> None:
    found = unit("weight[0,1] bit 3 flip", A, ONES)
    assert found.stationary.words.tolist() == [[1, 9, 1], [1, 9, 1]]
    assert unit(f"activation[0,0] bit 3 flip {IN_CYCLE} 6", A, ONES).streaming.words.tolist() == [[1, 2], [11, 4]]


def test_sums_are_formed_in_order_in_fp32() -> None:
    a, b = [[1e8, 1.0, -1e8, 1.0]], [[1.0]] * 4  # neighbours of 1e8 are 8 apart
    assert unit("output[0] bit 31 stuck-at 0", a, b, format="fp32").result.tolist() == [[1.0]]


def test_32_bits_wrap() -> None:
    found = unit("accumulator[0] bit 31 stuck-at 0", [[-1.0, 1.0]], [[1.0]] * 2)
    assert found.result.tolist() == [[-(2.0**31)]]  # -1 with bit 31 at 0 is the largest number


@pytest.mark.parametrize(
    "fault",
    [
        "activation-half[0,1] bit 0 flip",
        "weight-bus-half[0,1] bit 0 flip",
        "cell[0] bit 0 flip",
        "adder[0,0] bit 0 flip",
        "accumulator-entry[0,0] bit 0 flip",
        "result-elements[0,1] bit 0 flip",
        f"weight-bus[0] bit 0 flip {IN_CYCLE} 0",
    ],
)
def test_places_that_are_not_there_are_refused(fault: str) -> None:
    with pytest.raises(InvalidInput):  # mostly by the fault's own check, whose messages are tested there
        unit(fault, A, ONES)
