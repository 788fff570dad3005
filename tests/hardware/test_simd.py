"""The vector unit."""

import re
from typing import get_args

import pytest

from miscompute import InvalidInput, Layer
from miscompute.hardware import PASSES, Operand, Pass, Simd, simd


def test_lanes_are_neighbours_along_the_results_last_dimension() -> None:
    results: dict[Pass, Operand] = {"forward": "grad_output", "grad_input": "input", "grad_weight": "weight"}
    layer, array = Layer(name="fc", n=4, ic=9, oc=7), simd(lanes=4)
    assert tuple(results) == get_args(Pass)
    for pass_ in PASSES:
        mapping = array.mapping(pass_)
        assert (mapping.image, mapping.cell) == layer.dims(results[pass_])
        assert array.depth == 1  # one product a lane and cycle


def test_a_vector_unit_has_one_row_and_one_adder_a_lane() -> None:
    with pytest.raises(InvalidInput, match="rows=2 of a vector unit must be 1; its lanes are columns"):
        Simd(rows=2, cols=8)
    message = "a vector lane has no adder but its accumulator; use accumulator[lane]"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        simd(lanes=8).node(0, 1)
