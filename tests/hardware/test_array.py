"""Arrays: what every array promises, ours or a user's."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miscompute import InvalidInput, Layer
from miscompute import hardware as hw
from miscompute.formats import FORMATS, Format, integer
from miscompute.hardware import (
    ARRAYS,
    PASSES,
    STAGES,
    SWIZZLES,
    Array,
    Every,
    Mapping,
    OutputStationary,
    Pass,
    Stage,
    nvdla,
    nvdla_full,
    nvdla_small,
    simd,
    systolic,
)

# The contract. To hold an array of your own to it, add a row.


@final
@dataclass(frozen=True, kw_only=True)
class Streaming(Array):
    """A user's array: it holds nothing, every result position is a stripe of its own."""

    def mapping(self, pass_: Pass) -> Mapping:
        return nvdla_small().mapping(pass_)

    def stripes(self, pixels: int) -> tuple[range, ...]:
        return tuple(range(pixel, pixel + 1) for pixel in range(pixels))

    def node(self, row: int, level: int) -> range:
        if level != 1:
            raise InvalidInput(f"level={level}: all products are added up at once")
        return range(self.rows)

    def word(self, stage: Stage, format: Format) -> Format:
        return FORMATS["fp32"] if format.is_float else integer(40)


ROWS: dict[str, Callable[[], Array]] = {
    **ARRAYS,
    "nvdla-B": lambda: nvdla(rows=8, cols=8, grad_weight="B"),
    "nvdla-full, int8": lambda: nvdla_full(format="int8"),
    "nvdla-1x1": lambda: nvdla(rows=1, cols=1),
    "nvdla-3x5": lambda: nvdla(rows=3, cols=5, swizzle="stripe", format="int8", zero_gate=False),
    "systolic-ws-3x2": lambda: systolic(rows=3, cols=2, swizzle="step"),
    "systolic-os-3x2": lambda: systolic(rows=3, cols=2, dataflow="output-stationary", format="int8"),
    "simd-3": lambda: simd(lanes=3),
    "user's": lambda: Streaming(rows=3, cols=2),
}
every = pytest.mark.parametrize("build", ROWS.values(), ids=list(ROWS))

CONV = Layer(name="conv", n=2, ic=3, oc=5, size=(6, 6), kernel=(3, 3))
LINEAR = Layer(name="fc", n=2, ic=3, oc=5)


@every
def test_a_pass_multiplies_two_operands_over_the_lanes(build: Callable[[], Array]) -> None:
    array = build()
    for layer in (CONV, LINEAR):
        for pass_ in PASSES:
            mapping, result = array.mapping(pass_), layer.result(pass_)
            stationary, streaming = layer.dims(mapping.stationary), layer.dims(mapping.streaming)
            assert mapping.stationary != mapping.streaming
            assert mapping.lane in stationary  # summed over: in both operands, not in the result
            assert mapping.lane in streaming
            assert mapping.lane not in result
            assert mapping.cell in stationary  # each cell computes results of its own from what it holds
            assert mapping.cell in result
            assert mapping.cell not in streaming
            assert mapping.image in streaming  # what passes by makes the rest of the result
            assert mapping.image in result


@every
@given(pixels=st.integers(1, 600))
def test_stripes_partition_the_pixels_in_order(build: Callable[[], Array], pixels: int) -> None:
    stripes = build().stripes(pixels)
    assert [pixel for stripe in stripes for pixel in stripe] == list(range(pixels))
    assert all(len(stripe) > 0 and stripe.step == 1 for stripe in stripes)


@every
def test_lanes_are_a_permutation(build: Callable[[], Array]) -> None:
    array = build()
    for place in range(20):
        assert sorted(array.lanes(step=place, layer=place, stripe=place)) == list(range(array.depth))


@every
def test_an_array_is_a_value_that_evaluates_back(build: Callable[[], Array]) -> None:
    array = build()
    assert array == build()
    assert hash(array) == hash(build())
    assert eval(repr(array), {**vars(hw), "Format": Format, "Streaming": Streaming}) == array


@every
def test_an_array_has_rows_and_columns_of_a_size(build: Callable[[], Array]) -> None:
    array = build()
    assert array.rows >= 1
    assert array.cols >= 1
    assert array.swizzle in SWIZZLES.values()
    assert array.format is None or array.format in FORMATS.values()


@every
def test_a_node_adds_up_lanes_its_own_among_them(build: Callable[[], Array]) -> None:
    array = build()
    for row in range(array.rows):
        for level in range(10):
            try:
                lanes = array.node(row, level)
            except InvalidInput:
                continue
            assert row in lanes
            assert set(lanes) <= set(range(array.rows))


@every
def test_words_are_wide_enough_and_other_arithmetic_is_refused(build: Callable[[], Array]) -> None:
    array = build()
    for format in FORMATS.values():
        if format.is_float:
            assert all(array.word(stage, format).is_float for stage in STAGES)
    bits = [array.word(stage, FORMATS["int8"]).bits for stage in STAGES]
    assert min(bits) >= 16  # a product of two int8
    assert max(bits) == bits[STAGES.index("accumulator")]  # an output may be cut to 32 bits
    if not isinstance(array, Streaming):
        with pytest.raises(InvalidInput, match=r"format=int16: .*int8 and floating"):
            array.word("product", FORMATS["int16"])


def numbers(size: int, condition: Every | None) -> set[int]:
    return {i for i in range(size) if condition is None or (i - condition.first) % condition.step < condition.width}


@every
@pytest.mark.parametrize("pass_", PASSES)
def test_every_word_is_held_in_one_place_and_every_result_computed_in_one(
    build: Callable[[], Array], pass_: Pass
) -> None:
    array, mapping, size = build(), build().mapping(pass_), 11
    owns = isinstance(array, OutputStationary)  # results stay in place, operands pass by
    rows = range(min(array.rows, 12)) if array.depth > 1 or owns else range(1)
    cols = [range(col, col + 1) for col in range(min(array.kernels_in_flight, 12))]
    held, computed = [], []
    for row in rows:
        lane = Every(min(row, array.depth - 1), array.depth)
        for col in cols:
            elements, readers = array.reach(mapping, "stationary", lane=lane, row=row, cols=col)
            assert set(elements) | set(readers) <= {mapping.lane, mapping.cell, mapping.image}
            for channel in numbers(size, elements.get(mapping.lane)):
                held += [(channel, cell, row if owns else 0) for cell in numbers(size, elements.get(mapping.cell))]
            if row == 0 or owns:
                result = array.cells(mapping, row, col)
                for cell in numbers(size, result.get(mapping.cell)):
                    computed += [(cell, image) for image in numbers(size, result.get(mapping.image))]
    assert len(held) == len(set(held)) == size * size * (len(rows) if owns else 1)
    assert len(computed) == len(set(computed)) == size * size


@every
@pytest.mark.parametrize("pass_", PASSES)
def test_a_streaming_word_is_read_where_it_passes(build: Callable[[], Array], pass_: Pass) -> None:
    array, mapping = build(), build().mapping(pass_)
    passed_on = isinstance(array, OutputStationary | hw.WeightStationary)
    size = array.kernels_in_flight
    for col in {0, size // 2, size - 1}:
        _, readers = array.reach(mapping, "streaming", lane=Every(0, array.depth), row=0, cols=range(col, col + 1))
        cells = numbers(2 * size, readers.get(mapping.cell))
        wanted = set(range(col, size)) if passed_on else {col}
        assert cells == wanted | {cell + size for cell in wanted}


# Messages.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nvdla(rows=0, cols=8), "rows=0 of an array must be at least 1"),
        (lambda: nvdla(rows=8, cols=-1), "cols=-1 of an array must be at least 1"),
        (lambda: simd(lanes=0), "cols=0 of an array must be at least 1"),
        (lambda: systolic(rows=0, cols=1), "rows=0 of an array must be at least 1"),
        (lambda: nvdla(rows=8, cols=8, format="fp31"), "format='fp31' is unknown; choose one of fp32"),
        (lambda: systolic(rows=8, cols=8, format="fp31"), "format='fp31' is unknown; choose one of fp32"),
        (lambda: simd(lanes=8, format="fp31"), "format='fp31' is unknown; choose one of fp32"),
        (lambda: nvdla(rows=8, cols=8, swizzle="never"), "swizzle='never' is unknown; choose one of none"),
        (lambda: systolic(rows=8, cols=8, swizzle="never"), "swizzle='never' is unknown; choose one of none"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_an_array_that_cannot_be_is_refused(build: Callable[[], Array], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        build()
