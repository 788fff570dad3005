"""The reference systolic arrays, on small products worked out by hand."""

import re
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from miscompute import InvalidInput, parse_fault
from miscompute.hardware import OutputStationary, WeightStationary, systolic
from miscompute.reference import CoreResult, _systolic, output_stationary, weight_stationary

IN_CYCLE = "transient step 0 pass forward layer fc cycle"


def ws(
    fault: str | None,
    a: list[list[float]],
    b: list[list[float]],
    *,
    rows: int = 2,
    format: str = "int8",
    **options: Any,
) -> CoreResult:
    array = systolic(rows=rows, cols=2, format=format, **options)
    assert isinstance(array, WeightStationary)
    return weight_stationary(array, None if fault is None else parse_fault(fault), np.array(b), np.array(a))


def os(fault: str | None, a: list[list[float]], b: list[list[float]], *, format: str = "int8") -> CoreResult:
    array = systolic(rows=2, cols=2, format=format, dataflow="output-stationary")
    assert isinstance(array, OutputStationary)
    return output_stationary(array, None if fault is None else parse_fault(fault), np.array(b), np.array(a))


WS_A = [[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]]  # k = 3 takes two tiles of two rows; the second row of the last is idle
ONES = [[1.0] * 3] * 3  # n = 3 takes two tiles of two columns


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, [[6, 6, 6], [2, 2, 2]]),
        # PE (0, 1) holds k = 0 and 2 of column 1. Bit 3 makes 9 of 1.
        ("weight[0,1] bit 3 flip", [[6, 9 + 2 + 27, 6], [2, 1 + 9, 2]]),
        ("weight-shadow[0,1] bit 3 flip", [[6, 38, 6], [2, 10, 2]]),
        ("weight[1,0] bit 3 flip", [[1 + 18 + 3, 6, 22], [9 + 1, 2, 10]]),
        ("weight-bus[0] bit 3 flip", [[38, 38, 38], [10, 10, 10]]),
        # Words of k = 0 and 2 are wrong from the faulty register on to the right.
        ("activation[0,1] bit 3 flip", [[6, 9 + 2 + 11, 6], [2, 8 + 1 + 9, 2]]),
        ("activation[0,0] bit 3 flip", [[22, 22, 22], [18, 18, 18]]),
        ("activation-all[0] bit 3 flip", [[22, 22, 22], [18, 18, 18]]),
        ("valid[0,1] bit 0 stuck-at 0", [[6, 2, 6], [2, 1, 2]]),
        ("valid[0,1] bit 0 stuck-at 1", [[6, 6, 6], [2, 2, 2]]),
        # The idle PE (1, 0) of the last tile multiplies zeros: it adds 16 too.
        ("product[1,0] bit 4 flip", [[6 + 32, 6, 38], [2 + 32, 2, 34]]),
        ("adder[0,0] bit 0 stuck-at 1", [[6, 6, 6], [1 + 1 + 1, 2, 3]]),  # on 1, 3; 0, 1
        ("adder[1,0] bit 2 stuck-at 1", [[7 + 7, 6, 14], [5 + 5, 2, 10]]),  # on 3, 3; 1, 1: of the last tile too
        ("cell[0] bit 2 stuck-at 1", [[14, 6, 14], [10, 2, 10]]),
        ("accumulator[1] bit 2 stuck-at 1", [[6, 7 + 3, 6], [2, 5 + 1, 2]]),  # not on the last sum
        ("accumulator-entry[1,1] bit 2 stuck-at 1", [[6, 6, 6], [2, 6, 2]]),
        ("output[0] bit 3 stuck-at 1", [[14, 6, 14], [10, 2, 10]]),
    ],
)
def test_weight_stationary(fault: str | None, expected: list[list[int]]) -> None:
    found = ws(fault, WS_A, ONES)
    assert found.result.tolist() == expected
    assert found.cycles == 2 * 2 * 2  # tiles of n, tiles of k, rows m
    healthy = ws(None, WS_A, ONES).result
    assert (found.result == healthy)[~found.touched].all()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        # Cycles: n 0 and 1 with k 0 and 1: 0, 1; with k 2: 2, 3; then the same for n 2. Each is m 0, m 1.
        (f"product[1,0] bit 4 flip {IN_CYCLE} 3", [[6, 6, 6], [18, 2, 2]]),
        (f"adder[0,1] bit 4 flip {IN_CYCLE} 1", [[6, 6, 6], [2, 18, 2]]),
        (f"weight[0,1] bit 3 flip {IN_CYCLE} 2", [[6, 6 + 24, 6], [2, 2, 2]]),
        (f"weight[0,1] bit 3 flip {IN_CYCLE} 2 until reload", [[6, 30, 6], [2, 2 + 8, 2]]),
        (f"weight[0,1] bit 3 flip {IN_CYCLE} 3 until reload", [[6, 6, 6], [2, 10, 2]]),
        (f"valid[0,0] bit 0 flip {IN_CYCLE} 2", [[3, 6, 6], [2, 2, 2]]),
        (f"valid[0,0] bit 0 flip {IN_CYCLE} 2 until reload", [[3, 6, 6], [1, 2, 2]]),
        (f"activation[0,0] bit 3 flip {IN_CYCLE} 2", [[14, 14, 6], [2, 2, 2]]),
        (f"activation[0,0] bit 3 flip {IN_CYCLE} 6", [[6, 6, 14], [2, 2, 2]]),
        (f"cell[1] bit 2 stuck-at 1 {IN_CYCLE} 1", [[6, 6, 6], [2, 6, 2]]),
        (f"accumulator[0] bit 2 stuck-at 1 {IN_CYCLE} 0", [[10, 6, 6], [2, 2, 2]]),
        (f"accumulator[0] bit 2 stuck-at 1 {IN_CYCLE} 2", [[6, 6, 6], [2, 2, 2]]),
        (f"output[0] bit 3 stuck-at 1 {IN_CYCLE} 6", [[6, 6, 14], [2, 2, 2]]),
        (f"output[0] bit 3 stuck-at 1 {IN_CYCLE} 4", [[6, 6, 6], [2, 2, 2]]),
    ],
)
def test_weight_stationary_in_one_cycle(fault: str, expected: list[list[int]]) -> None:
    assert ws(fault, WS_A, ONES).result.tolist() == expected


def test_a_swizzle_deals_k_to_other_rows() -> None:
    # In step 0 nothing rotates; the layer's index does, by one: k = 1 meets row 0.
    array = systolic(rows=2, cols=2, format="int8", swizzle="layer")
    assert isinstance(array, WeightStationary)
    fault = parse_fault("weight[0,1] bit 3 flip")
    found = weight_stationary(array, fault, np.array(ONES), np.array(WS_A), layer_index=1)
    assert found.result.tolist() == [[6, 1 + 18 + 3, 6], [2, 9 + 1, 2]]


OS_A = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]  # m = 3 takes two tiles of two rows


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, [[3, 3, 3], [7, 7, 7], [11, 11, 11]]),
        # Words of m = 0 and 2 are wrong from column 1 on.
        ("activation[0,1] bit 3 flip", [[3, 9 + 10, 3], [7, 7, 7], [11, 13 + 14, 11]]),
        ("activation-all[1] bit 3 flip", [[3, 3, 3], [11 + 12, 23, 23], [11, 11, 11]]),
        # Words of n = 0 and 2 are wrong from row 1 on.
        ("weight[1,0] bit 3 flip", [[3, 3, 3], [27 + 36, 7, 63], [11, 11, 11]]),
        ("weight[0,0] bit 3 flip", [[27, 3, 27], [63, 7, 63], [99, 11, 99]]),
        ("valid[1,0] bit 0 stuck-at 0", [[3, 3, 3], [0, 7, 0], [11, 11, 11]]),
        ("product[1,1] bit 4 flip", [[3, 3, 3], [7, 39, 7], [11, 11, 11]]),
        ("accumulator-pe[1,1] bit 3 stuck-at 1", [[3, 3, 3], [7, 11 + 4, 7], [11, 11, 11]]),
        ("accumulator[1] bit 3 stuck-at 1", [[3, 9 + 2, 3], [7, 7, 7], [11, 13 + 6, 11]]),
    ],
)
def test_output_stationary(fault: str | None, expected: list[list[int]]) -> None:
    found = os(fault, OS_A, ONES[:2])
    assert found.result.tolist() == expected
    assert found.cycles == 2 * 2 * 2  # tiles of n, tiles of m, k
    healthy = os(None, OS_A, ONES[:2]).result
    assert (found.result == healthy)[~found.touched].all()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        # Cycles: n 0 and 1 with m 0 and 1: 0, 1; with m 2: 2, 3; then the same for n 2. Each is k 0, k 1.
        (f"activation[0,0] bit 3 flip {IN_CYCLE} 3", [[3, 3, 3], [7, 7, 7], [19, 19, 11]]),
        (f"weight[1,0] bit 3 flip {IN_CYCLE} 4", [[3, 3, 3], [7, 7, 31], [11, 11, 11]]),
        (f"weight[0,0] bit 3 flip {IN_CYCLE} 0 until reload", [[11, 3, 3], [31, 7, 7], [11, 11, 11]]),
        (f"product[0,0] bit 4 flip {IN_CYCLE} 2", [[3, 3, 3], [7, 7, 7], [27, 11, 11]]),
        (f"valid[0,0] bit 0 flip {IN_CYCLE} 2", [[3, 3, 3], [7, 7, 7], [6, 11, 11]]),
        (f"accumulator-pe[1,1] bit 3 stuck-at 1 {IN_CYCLE} 0", [[3, 3, 3], [7, 15, 7], [11, 11, 11]]),
        (f"accumulator-pe[1,1] bit 3 stuck-at 1 {IN_CYCLE} 1", [[3, 3, 3], [7, 7, 7], [11, 11, 11]]),
    ],
)
def test_output_stationary_in_one_cycle(fault: str, expected: list[list[int]]) -> None:
    assert os(fault, OS_A, ONES[:2]).result.tolist() == expected


def test_words_are_recorded_as_read() -> None:
    found = ws("weight[0,1] bit 3 flip", WS_A, ONES)
    assert found.stationary.reached.tolist() == [[False, True, False], [False] * 3, [False, True, False]]
    assert found.stationary.words.tolist() == [[1, 9, 1], [1, 1, 1], [1, 9, 1]]
    assert not found.streaming.reached.any()
    assert found.stationary.read.all()
    assert found.streaming.read.all()
    found = os("activation[0,1] bit 3 flip", OS_A, ONES[:2])
    assert found.streaming.words.tolist() == [[9, 10], [3, 4], [13, 14]]
    assert not found.stationary.reached.any()
    # In one cycle, one word; of the column that is idle in the last tile of n, none.
    assert ws(f"activation[0,1] bit 3 flip {IN_CYCLE} 2", WS_A, ONES).streaming.reached.sum() == 1
    assert ws(f"weight[0,1] bit 3 flip {IN_CYCLE} 4", WS_A, ONES).stationary.reached.sum() == 0


PLACES = {
    "weight-stationary": (
        "weight[{row},{col}] bit 3 flip",
        "weight[{row},{col}] bit 3 flip " + IN_CYCLE + " 1 until reload",
        "weight-bus[{row}] bit 3 stuck-at 1",
        "activation[{row},{col}] bit 3 stuck-at 1",
        "activation-all[{row}] bit 3 flip " + IN_CYCLE + " 1",
        "valid[{row},{col}] bit 0 stuck-at 0",
        "product[{row},{col}] bit 4 flip",
        "adder[{row},{col}] bit 5 flip",
        "cell[{col}] bit 5 flip " + IN_CYCLE + " 1",
        "accumulator[{col}] bit 2 flip",
        "output[{col}] bit 2 flip",
    ),
    "output-stationary": (
        "weight[{row},{col}] bit 3 flip",
        "activation[{row},{col}] bit 3 stuck-at 1",
        "activation-all[{row}] bit 3 flip",
        "valid[{row},{col}] bit 0 stuck-at 0",
        "product[{row},{col}] bit 4 flip " + IN_CYCLE + " 1",
        "accumulator-pe[{row},{col}] bit 2 flip",
    ),
}


@pytest.mark.parametrize(
    ("dataflow", "fault", "row", "col"),
    [
        (dataflow, fault, row, col)
        for dataflow, faults in PLACES.items()
        for fault in faults
        for row, col in ((0, 0), (1, 1), (4, 0), (2, 3), (4, 4))
    ],
)
def test_idle_rows_and_columns_may_be_left_out(dataflow: Any, fault: str, row: int, col: int) -> None:
    """5 x 5 PEs, of which the product fills 3 x 2, or, dealt by a swizzle, rows that are no neighbours."""
    swizzle = {"swizzle": "random:3"} if dataflow == "weight-stationary" else {}
    array = systolic(rows=5, cols=5, format="int8", dataflow=dataflow, **swizzle)
    random = np.random.default_rng(row + col)
    a, b = (random.integers(-9, 9, shape).astype(np.float64) for shape in ((3, 3), (3, 2)))
    parsed = parse_fault(fault.format(row=row, col=col))

    def found() -> CoreResult:
        if isinstance(array, WeightStationary):
            return weight_stationary(array, parsed, b, a, step=4)
        assert isinstance(array, OutputStationary)
        return output_stationary(array, parsed, b, a)

    left_out = found()
    without_idle = _systolic._without_idle
    with patch.object(_systolic, "_without_idle", lambda site, *_: without_idle(site, np.arange(5), np.arange(5))):
        whole = found()
    assert left_out.result.tolist() == whole.result.tolist()
    assert left_out.touched.tolist() == whole.touched.tolist()
    assert left_out.cycles == whole.cycles
    for operand in ("stationary", "streaming"):
        for marks in ("words", "reached", "read"):
            left, all_ = (getattr(getattr(result, operand), marks).tolist() for result in (left_out, whole))
            assert left == all_


def test_sums_are_formed_down_the_chain_in_fp32() -> None:
    a = [[1e8, 1.0, -1e8, 1.0]]  # neighbours of 1e8 are 8 apart
    b = [[1.0]] * 4
    nothing = "accumulator[0] bit 31 stuck-at 0"  # on sums that are not negative
    assert ws(nothing, a, b, rows=4, format="fp32").result.tolist() == [[1.0]]  # ((1e8 + 1) - 1e8) + 1
    assert ws(nothing, a, b, rows=2, format="fp32").result.tolist() == [[0.0]]  # (1e8 + 1) + (-1e8 + 1)
    assert os(nothing, a, b, format="fp32").result.tolist() == [[1.0]]


def test_32_bits_wrap() -> None:
    a, b = [[-1.0, 1.0]], [[1.0]] * 2  # -1 with bit 31 at 0 is the largest number
    assert ws("adder[0,0] bit 31 stuck-at 0", a, b).result.tolist() == [[-(2.0**31)]]
    assert ws("accumulator[0] bit 31 stuck-at 0", a, b, rows=1).result.tolist() == [[-(2.0**31)]]
    assert os("accumulator[0] bit 31 stuck-at 0", a, b).result.tolist() == [[-(2.0**31)]]


@pytest.mark.parametrize(
    ("dataflow", "fault"),
    [
        ("ws", "activation-half[0,1] bit 0 flip"),
        ("ws", "weight-bus-half[0,1] bit 0 flip"),
        ("ws", "accumulator-pe[1,0] bit 0 flip"),
        ("ws", "adder[0,0,2] bit 0 flip"),
        ("ws", "input-elements[0,1] bit 0 flip"),
        ("ws", f"weight-bus[0] bit 0 flip {IN_CYCLE} 0"),
        ("os", "activation-half[0,1] bit 0 flip"),
        ("os", "weight-bus[0] bit 0 flip"),
        ("os", "cell[0] bit 0 flip"),
        ("os", "adder[0,0] bit 0 flip"),
        ("os", "accumulator-entry[0,0] bit 0 flip"),
        ("os", "output[0] bit 0 flip"),
    ],
)
def test_places_that_are_not_there_are_refused(dataflow: str, fault: str) -> None:
    with pytest.raises(InvalidInput):  # mostly by the fault's own check, whose messages are tested there
        (ws if dataflow == "ws" else os)(fault, OS_A, ONES[:2])


def test_a_zero_gate_is_refused() -> None:
    array = WeightStationary(rows=1, cols=1, zero_gate=True)
    with pytest.raises(InvalidInput, match=re.escape("zero_gate=True of a systolic array")):
        weight_stationary(array, None, np.ones((1, 1)), np.ones((1, 1)))
