"""NVDLA's geometry, schedule, adders and words, from its table and by hand."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miscompute import InvalidInput, Layer, Nvdla, nvdla, nvdla_full, nvdla_large, nvdla_small
from miscompute import hardware as hw
from miscompute.formats import FORMATS
from miscompute.hardware import PASSES, STAGES, SWIZZLES


def test_sizes_of_the_configurations() -> None:  # HARDWARE.md, "Geometry and schedule": C x K
    assert (nvdla_small().rows, nvdla_small().cols) == (8, 8)
    assert (nvdla_large().rows, nvdla_large().cols) == (64, 32)
    assert nvdla_small().zero_gate
    assert nvdla_small() == nvdla(rows=8, cols=8)


def test_passes_lie_on_nvdla_as_in_the_table() -> None:  # HARDWARE.md, "The three passes on the same array"
    table = {
        ("A", "forward"): ("weight", "input", "ic", "oc"),
        ("A", "grad_input"): ("weight", "grad_output", "oc", "ic"),
        ("A", "grad_weight"): ("grad_output", "input", "n", "oc"),
        ("B", "forward"): ("weight", "input", "ic", "oc"),
        ("B", "grad_input"): ("weight", "grad_output", "oc", "ic"),
        ("B", "grad_weight"): ("input", "grad_output", "n", "ic"),
    }
    for array in (nvdla_small(grad_weight="A"), nvdla_small(grad_weight="B")):
        for pass_ in PASSES:
            mapping = array.mapping(pass_)
            found = (mapping.stationary, mapping.streaming, mapping.lane, mapping.cell)
            assert found == table[array.grad_weight, pass_]


@pytest.mark.parametrize(
    ("cols", "pixels", "lengths"),
    # HARDWARE.md: 2K while at least 4K remain, else the remainder if at most 2K remain, else K.
    [
        (8, 0, []),
        (8, 1, [1]),  # a fully connected layer
        (8, 16, [16]),
        (8, 17, [8, 9]),
        (8, 31, [8, 8, 15]),
        (8, 32, [16, 16]),
        (8, 33, [16, 8, 9]),
        (8, 49, [16, 16, 8, 9]),
        (1, 5, [2, 1, 2]),
        (32, 100, [32, 32, 36]),
    ],
)
def test_stripes_by_hand(cols: int, pixels: int, lengths: list[int]) -> None:
    assert [len(stripe) for stripe in nvdla(rows=8, cols=cols).stripes(pixels)] == lengths


def test_the_full_configuration_computes_two_kernels_a_cell_in_int8_alone() -> None:
    # HARDWARE.md, "Geometry and schedule": 64 x 16 for int16 and fp16, 64 x 32 for int8. Stripes of 32 at most: the
    # unit description of nvdlav1.
    layer = Layer(name="conv", n=1, ic=3, oc=33, size=(10, 10), kernel=(1, 1))
    found = {format: nvdla_full(format=format) for format in ("int8", "int8:0.5", "int16", "fp16", "fp8_e4m3", None)}
    in_flight = {format: array.kernels_in_flight for format, array in found.items()}
    assert in_flight == {"int8": 32, "int8:0.5": 32, "int16": 16, "fp16": 16, "fp8_e4m3": 16, None: 16}
    assert {array.schedule(layer, "forward").groups for array in found.values() if array.kernels == 2} == {2}
    assert {array.schedule(layer, "forward").groups for array in found.values() if array.kernels == 1} == {3}
    for array in found.values():
        assert (array.rows, array.cols) == (64, 16)
        assert [len(stripe) for stripe in array.stripes(100)] == [32, 32, 16, 20]
    image = replace(layer, size=(2, 70)).as_image()
    lengths = [len(stripe) for stripe in nvdla_full(image_mode="first").stripes_of(image, "forward")]
    assert lengths == [32, 32, 6] * 2
    assert nvdla(rows=64, cols=16, format="int8").kernels == 1


@given(st.integers(1, 40), st.integers(1, 600))
def test_only_an_image_that_is_short_has_a_short_stripe(cols: int, pixels: int) -> None:
    lengths = [len(stripe) for stripe in nvdla(rows=8, cols=cols).stripes(pixels)]
    assert max(lengths) <= 2 * cols
    assert min(lengths) >= min(cols, pixels)


@given(st.integers(0, 1000), st.integers(0, 20), st.integers(0, 50))
def test_an_array_deals_channels_as_its_swizzle_does(step: int, layer: int, stripe: int) -> None:
    for name, swizzle in SWIZZLES.items():
        lanes = nvdla_small(swizzle=name).lanes(step=step, layer=layer, stripe=stripe)
        assert lanes == swizzle.lanes(8, step=step, layer=layer, stripe=stripe)


def test_names_stand_for_formats_and_swizzles() -> None:
    by_name = nvdla(rows=8, cols=8, format="bf16", swizzle="random:3")
    assert by_name == nvdla(rows=8, cols=8, format=FORMATS["bf16"], swizzle=hw.RandomEachStep(seed=3))


@pytest.mark.usefixtures("unchecked")
def test_names_stand_for_formats_and_swizzles_in_the_class_too() -> None:
    assert Nvdla(rows=8, cols=8, format="int8", swizzle="step") == nvdla(  # type: ignore[arg-type]
        rows=8, cols=8, format="int8", swizzle="step"
    )


@given(st.integers(2, 70), st.data())
def test_adders_are_a_binary_tree_of_neighbours(rows: int, draw: st.DataObject) -> None:
    array, top = nvdla(rows=rows, cols=1), (rows - 1).bit_length()
    row = draw.draw(st.integers(0, rows - 1))
    lanes = range(row, row + 1)
    for level in range(1, top + 1):
        wider = array.node(row, level)
        assert set(lanes) < set(wider) or rows in (lanes.stop, wider.stop)
        assert wider.start % 2**level == 0
        assert len(wider) == min(2**level, rows - wider.start)
        assert all(array.node(lane, level) == wider for lane in wider)
        lanes = wider
    assert lanes == range(rows)  # the root
    for level in (0, top + 1):
        message = f"level={level} is outside the adder tree of {rows} lanes (1..{top}; {top} is the root)"
        with pytest.raises(InvalidInput, match=re.escape(message)):
            array.node(row, level)


def test_a_cell_of_one_lane_has_no_adder() -> None:
    with pytest.raises(InvalidInput, match="level=1 of an adder: a cell of one lane has none; use product"):
        nvdla(rows=1, cols=1).node(0, 1)


@pytest.mark.parametrize(("rows", "sums"), [(8, 19), (64, 22), (32, 21)])  # HARDWARE.md, "Widths": 16 + log2(C)
def test_words_are_as_wide_as_in_the_hardware(rows: int, sums: int) -> None:
    array = nvdla(rows=rows, cols=8)
    assert [array.word(stage, FORMATS["int8"]).bits for stage in STAGES] == [18, sums, sums, 34, 32]
    assert {array.word(stage, FORMATS["fp16"]) for stage in STAGES} == {FORMATS["fp32"]}


IMAGE = Layer(name="conv", n=2, ic=3, oc=5, size=(9, 9), kernel=(5, 3), stride=(2, 1), padding=(2, 1))


def test_only_the_first_layer_s_forward_pass_of_an_image_runs_in_image_mode() -> None:
    array = nvdla_small(image_mode="first")
    assert array.seen(IMAGE, "forward") == IMAGE.as_image() == array.seen(IMAGE.as_image(), "forward")
    for pass_ in PASSES:
        assert nvdla_small().seen(IMAGE, pass_) == IMAGE
    others: list[dict[str, Any]] = [
        {"index": 1},
        {"ic": 2},
        {"ic": 5},
        {"groups": 3, "oc": 6},
        {"dilation": (1, 2)},
        {"transposed": True},
        {"size": (9,), "kernel": (5,), "stride": (1,), "padding": (0,), "dilation": (1,)},
    ]
    for other in others:
        layer = replace(IMAGE, **other)
        assert array.seen(layer, "forward") == layer, other
    assert array.seen(IMAGE, "grad_input") == array.seen(IMAGE, "grad_weight") == IMAGE


@pytest.mark.parametrize(
    ("rows", "cols", "width", "lengths"),
    # The sequence generator's CSC_IMG_STRIPE: 2K, and 4K where C / K = 4; each row of the output by itself.
    [(8, 8, 9, [9, 9]), (8, 4, 20, [8, 8, 4] * 2), (8, 2, 20, [8, 8, 4] * 2), (64, 32, 224, [64, 64, 64, 32] * 2)],
)
def test_stripes_of_an_image_end_with_its_rows(rows: int, cols: int, width: int, lengths: list[int]) -> None:
    array = nvdla(rows=rows, cols=cols, image_mode="first")
    layer = replace(IMAGE, size=(4, width), kernel=(3, 3), stride=(1, 1), padding=(0, 1))
    stripes = array.stripes_of(array.seen(layer, "forward"), "forward")
    assert [len(stripe) for stripe in stripes] == lengths
    assert [pixel for stripe in stripes for pixel in stripe] == list(range(2 * width))
    schedule = array.schedule(layer, "forward")
    assert (schedule.stripes, schedule.blocks, schedule.taps) == (stripes, -(-9 // rows), 3)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_image_mode_is_refused() -> None:
    with pytest.raises(InvalidInput, match="image_mode='all' is unknown; choose one of none, first"):
        nvdla(rows=8, cols=8, image_mode="all")  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_mapping_is_refused() -> None:
    with pytest.raises(InvalidInput, match="grad_weight='C' is unknown; choose one of A, B"):
        nvdla(rows=8, cols=8, grad_weight="C")  # type: ignore[arg-type]
