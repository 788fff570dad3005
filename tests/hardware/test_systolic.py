"""Systolic arrays: a grid of processing elements, PE by PE."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miscompute import InvalidInput
from miscompute.formats import FORMATS
from miscompute.hardware import PASSES, STAGES, Every, Moment, OutputStationary, WeightStationary, systolic

PLACES = st.tuples(st.integers(0, 3), st.integers(0, 4))
M, K, N = 11, 9, 13  # (m, k) by (k, n), none a multiple of the array's size


def meet(index: int, condition: Every | None) -> bool:
    return condition is None or (index - condition.first) % condition.step < condition.width


def misreads(array: WeightStationary | OutputStationary, operand: str, row: int, col: int) -> set[tuple[int, int, int]]:
    """Which products (m, k, n) of A[m, k] and B[k, n] have an operand that is faulty at a PE, by `Array.reach`."""
    mapping = array.mapping("forward")  # m: n, k: ic, n: oc
    lane = Every(min(row, array.depth - 1), array.depth)
    elements, readers = array.reach(mapping, operand, lane=lane, row=row, cols=range(col, col + 1))  # type: ignore[arg-type]
    conditions = dict(elements)
    for dim, every in readers.items():
        assert conditions.setdefault(dim, every) == every
    return {
        (m, k, n)
        for m in range(M)
        for k in range(K)
        for n in range(N)
        if all(meet(index, conditions.get(dim)) for dim, index in (("n", m), ("ic", k), ("oc", n)))
    }


def walk(dataflow: str, *, rows: int, cols: int, operand: str, row: int, col: int) -> set[tuple[int, int, int]]:
    """Say the same by walking every word through the PEs: what a PE reads after the faulty one is wrong."""
    wrong = set()
    for m in range(M):
        for k in range(K):
            for n in range(N):
                if dataflow == "weight-stationary":
                    at = (k % rows, n % cols)  # where A[m, k] and B[k, n] meet
                    # A[m, k] enters row k % rows on the left; B[k, n] stays where it is.
                    through = [(at[0], c) for c in range(at[1] + 1)] if operand == "streaming" else [at]
                else:
                    at = (m % rows, n % cols)
                    # A[m, k] enters row m % rows on the left, B[k, n] enters column n % cols at the top.
                    through = (
                        [(at[0], c) for c in range(at[1] + 1)]
                        if operand == "streaming"
                        else [(r, at[1]) for r in range(at[0] + 1)]
                    )
                if (row, col) in through:
                    wrong.add((m, k, n))
    return wrong


@pytest.mark.parametrize("dataflow", ["weight-stationary", "output-stationary"])
@pytest.mark.parametrize("operand", ["stationary", "streaming"])
@given(place=PLACES)
def test_a_word_is_wrong_from_the_faulty_pe_on(dataflow: str, operand: str, place: tuple[int, int]) -> None:
    row, col = place
    array = systolic(rows=4, cols=5, dataflow=dataflow)  # type: ignore[arg-type]
    wanted = walk(dataflow, rows=4, cols=5, operand=operand, row=row, col=col)
    assert misreads(array, operand, row, col) == wanted


def test_a_weight_stationary_column_adds_up_the_rows_above() -> None:
    array = systolic(rows=4, cols=4)
    assert [array.node(row, 1) for row in range(4)] == [range(1), range(2), range(3), range(4)]
    assert array.adds_in_a_chain
    message = "level=2 of an adder: a systolic column is a chain, one adder a row; leave it out"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        array.node(0, 2)


def test_an_output_stationary_pe_has_its_accumulator_only() -> None:
    array = OutputStationary(rows=4, cols=4)
    assert array.depth == 1
    message = "an output-stationary PE has no adder but its accumulator; use accumulator-pe[row,col]"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        array.node(0, 1)


@pytest.mark.parametrize("pass_", PASSES)
def test_a_pe_owns_its_results(pass_: str) -> None:
    array = OutputStationary(rows=4, cols=5)
    mapping = array.mapping(pass_)  # type: ignore[arg-type]
    cells = array.cells(mapping, 2, range(3, 4))
    assert cells == {mapping.image: Every(2, 4), mapping.cell: Every(3, 5)}


def test_what_is_touched_in_a_cycle() -> None:
    moment = Moment(group=2, image=0, stripe=1, block=0, tap=0, pixel=7)
    held = WeightStationary(rows=4, cols=5)
    touched = {
        word: held.touched(word, moment, range(20), row=1, cols=range(3, 4))
        for word in ("stationary", "streaming", "result")
    }
    assert touched == {
        "stationary": (range(7, 8), range(13, 14)),
        "streaming": (range(7, 8), range(13, 15)),  # and on to the right
        "result": (range(7, 8), range(13, 14)),
    }
    owned = OutputStationary(rows=4, cols=5)
    touched = {
        word: owned.touched(word, moment, range(7, 8), row=1, cols=range(3, 4))
        for word in ("stationary", "streaming", "result")
    }
    assert touched == {  # tile 7 has rows 28 to 31
        "stationary": (range(29, 32), range(13, 14)),  # and on downwards
        "streaming": (range(29, 30), range(13, 15)),
        "result": (range(29, 30), range(13, 14)),
    }


def test_sums_are_of_32_bits() -> None:
    for array in (systolic(rows=4, cols=4), systolic(rows=4, cols=4, dataflow="output-stationary")):
        assert [array.word(stage, FORMATS["int8"]).bits for stage in STAGES] == [16, 32, 32, 32, 32]
        assert {array.word(stage, FORMATS["bf16"]) for stage in STAGES} == {FORMATS["fp32"]}
        assert not array.zero_gate


def test_an_output_stationary_array_has_nothing_to_swizzle() -> None:
    message = "swizzle=step of an output-stationary array: it has no lanes to move channels over"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        systolic(rows=4, cols=4, dataflow="output-stationary", swizzle="step")


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_dataflow_is_refused() -> None:
    message = "dataflow='row-stationary' is unknown; choose one of weight-stationary, output-stationary"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        systolic(rows=4, cols=4, dataflow="row-stationary")  # type: ignore[arg-type]
