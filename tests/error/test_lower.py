"""Lowering against the rules of HARDWARE.md written out as conditions on every index, its laws, and cases by hand.

test_lower_against_reference.py compares with an array that runs cycle by cycle.
"""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import miscompute as mc
from miscompute import InvalidInput, Layer, Nvdla, Range, Region, nvdla, nvdla_full, nvdla_small, parse_fault
from miscompute import fault as faults
from miscompute.error import AnyError, Error, StoredError, SumError, lower
from miscompute.fault import SITES, Exposure, SumExposure
from miscompute.hardware import (
    PASSES,
    SWIZZLES,
    Array,
    Operand,
    OutputStationary,
    Pass,
    WeightStationary,
    simd,
    systolic,
)

CHANNELS = ("batch", "group", "n", "ic", "oc")
PLACE = {"row": 1, "col": 2, "level": 1, "address": 0, "name": "conv", "state": "exp_avg", "index": 0, "first": 0}


def fault_at(word: str, **place: int) -> mc.Fault:
    indices = ",".join(str({"length": 4, **PLACE, **place}[index]) for index in SITES[word].indices)
    return parse_fault(f"{word}[{indices}] bit {0 if word == 'valid' else 3} flip")


KINDS = {word: type(fault_at(word).site.exposure(rows=8, cols=8)) for word in SITES}
OPERANDS_WORDS = [word for word, kind in KINDS.items() if kind is Exposure]
SUM_WORDS = [word for word, kind in KINDS.items() if kind is SumExposure]


def is_on(array: Array, fault: mc.Fault) -> bool:
    """Say whether the array has the place; if not, nothing is lowered."""
    try:
        fault.check(array)
    except InvalidInput as error:
        with pytest.raises(InvalidInput, match=f"^{re.escape(str(error))}$"):
            lower(fault, array, Layer(name="layer", n=1, ic=1, oc=1))
        return False
    return True


def of_operands(errors: tuple[AnyError, ...]) -> list[Error]:
    found = [error for error in errors if isinstance(error, Error)]
    assert len(found) == len(errors)
    return found


def channels(layer: Layer, operand: Operand) -> dict[str, int]:
    sizes = zip(layer.dims(operand), layer.shape(operand), strict=True)
    return {dim: size for dim, size in sizes if dim in CHANNELS}


def reached(errors: list[Error], layer: Layer, pass_: Pass, operand: Operand) -> NDArray[np.int8]:
    """Count the errors by result of the pass and by channels of the operand, of which all positions must be hit."""
    results, operands = layer.result(pass_), channels(layer, operand)
    found = np.zeros((*results.values(), *operands.values()), np.int8)
    for error in errors:
        assert (error.layer, error.pass_, error.operand) == (layer.name, pass_, operand)
        assert error.region.dims == layer.dims(operand)
        assert error.region.elements > 0
        for dim, size in zip(layer.dims(operand), layer.shape(operand), strict=True):
            assert max(error.region.range(dim)) < size
            assert dim in CHANNELS or error.region.range(dim) == Range(start=0, stop=size)
        if error.results:
            assert error.results.dims == tuple(results)
            assert all(max(error.results.range(dim)) < size for dim, size in results.items())
        seen = error.results.ranges if error.results else [range(size) for size in results.values()]
        found[np.ix_(*map(list, (*seen, *map(error.region.range, operands))))] += 1
    return found


def expected(
    layer: Layer,
    array: Array,
    pass_: Pass,
    operand: Operand,
    *,
    row: int,
    cols: range,
    passes_on: bool = True,
    step: int,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say the same by the rules, and which pairs of a result and an operand's channel meet in a product at all.

    A grouped convolution is padded to a dense one, whose channels count over all groups (HARDWARE.md).
    """
    results, operands = layer.result(pass_), channels(layer, operand)
    axes = np.ogrid[tuple(slice(size) for size in (*results.values(), *operands.values()))]
    of_result = dict(zip(results, axes[: len(results)], strict=True))
    of_operand = dict(zip(operands, axes[len(results) :], strict=True))
    per_group = {"ic": layer.ic // layer.groups, "oc": layer.oc // layer.groups}
    for index in (of_result, of_operand):
        if "group" in index:
            group = index.pop("group")
            for dim in ("ic", "oc"):
                index[dim] = group * per_group[dim] + index[dim]
    meet: NDArray[np.bool_] = np.ones((*results.values(), *operands.values()), bool)
    for dim in ("batch", "n", "ic", "oc"):
        if dim in of_result and dim in of_operand:
            meet &= of_result[dim] == of_operand[dim]
    together = of_result | of_operand
    if "ic" in together and "oc" in together:
        meet &= together["ic"] // per_group["ic"] == together["oc"] // per_group["oc"]

    mapping = array.mapping(pass_)
    is_held = operand == mapping.stationary
    there = np.isin(of_result[mapping.cell] % array.cols, list(cols))
    onward = of_result[mapping.cell] % array.cols >= cols.start  # passed on to the right
    if isinstance(array, OutputStationary):
        in_row = of_result[mapping.image] % array.rows
        if not passes_on:
            return there & (in_row == row) & meet, meet
        return (there & (in_row >= row) if is_held else onward & (in_row == row)) & meet, meet
    image, position = (of_result[mapping.image], of_result["pixel"]) if layer.size else (0, of_result[mapping.image])
    stripes = array.stripes(position.size)
    stripe_of = np.array([number for number, stripe in enumerate(stripes) for _ in stripe])
    stripe = image * len(stripes) + stripe_of[position]
    lane_of = np.array(
        [array.lanes(step=step, layer=layer.index, stripe=number) for number in range(int(np.max(stripe)) + 1)]
    )
    met = lane_of[stripe, of_operand[mapping.lane] % array.rows] == row
    is_passed_on = isinstance(array, WeightStationary) and not is_held
    return met & (onward if is_passed_on else there) & meet, meet


Case = tuple[Layer, Array, int, int, int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rank = draw(st.integers(0, 2))
    groups = draw(st.integers(1, 3)) if rank else 1
    layer = Layer(
        name="layer",
        n=draw(st.integers(1, 9)),
        ic=groups * draw(st.integers(1, 7)),
        oc=groups * draw(st.integers(1, 7)),
        size=tuple(draw(st.integers(2, 6)) for _ in range(rank)),
        kernel=tuple(draw(st.integers(1, 2)) for _ in range(rank)),
        groups=groups,
        index=draw(st.integers(0, 5)),
        batch=1 if rank else draw(st.integers(1, 3)),
    )
    rows, cols, swizzle = draw(st.integers(1, 5)), draw(st.sampled_from([2, 4])), draw(st.sampled_from(list(SWIZZLES)))
    array: Array
    match draw(st.sampled_from(["nvdla", "nvdla", "weight-stationary", "output-stationary", "simd"])):
        case "nvdla":
            array = nvdla(rows=rows, cols=cols, swizzle=swizzle, grad_weight=draw(st.sampled_from(["A", "B"])))
        case "weight-stationary":
            array = systolic(rows=rows, cols=cols, swizzle=swizzle)
        case "output-stationary":
            array = systolic(rows=rows, cols=cols, dataflow="output-stationary")
        case _:
            array = simd(lanes=cols)
    row, col = draw(st.integers(0, array.rows - 1)), draw(st.integers(0, array.cols - 1))
    return layer, array, row, col, draw(st.integers(0, 30))


@settings(max_examples=80)
@given(st.sampled_from(OPERANDS_WORDS), cases())
def test_every_index_is_reached_as_the_rules_say_and_once(word: str, case: Case) -> None:
    layer, array, row, col, step = case
    fault = fault_at(word, row=row, col=col)
    exposure = fault.site.exposure(rows=array.rows, cols=array.cols)
    assert isinstance(exposure, Exposure)
    if not is_on(array, fault):
        return
    for pass_ in PASSES:
        mapping = array.mapping(pass_)
        operand = mapping.stationary if exposure.operand == "stationary" else mapping.streaming
        if layer.groups > 1 and word == "weight-bus-before-detector" and operand == "weight" and not array.im2col:
            with pytest.raises(InvalidInput, match="expand the layer to a dense one"):
                lower(fault, array, layer, step=step, passes=[pass_])
            continue
        errors = of_operands(lower(fault, array, layer, step=step, passes=[pass_]))
        seen = layer.as_matmul() if array.im2col else layer
        found = reached(errors, seen, pass_, operand)
        rule, meet = expected(
            seen, array, pass_, operand, row=row, cols=exposure.cols, passes_on=exposure.passes_on, step=step
        )
        np.testing.assert_array_equal(found * meet, rule)
        effect = fault.site.acts(fault.effect)
        assert all((error.effect, error.timing) == (effect, fault.timing) for error in errors)
        assert all(error.spares_zeros == (exposure.behind_zero_detector and array.zero_gate) for error in errors)


def summed(
    layer: Layer, array: Array, pass_: Pass, *, row: int, col: int, address: int | None, step: int
) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Say by the rules which results are summed up in a cell, and on which lanes a block's channels are then."""
    mapping, sizes = array.mapping(pass_), layer.result(pass_)
    group_size = {dim: sizes[dim] for dim in ("oc", "ic") if "group" in sizes}
    found = {}
    for index in np.ndindex(*sizes.values()):
        at = dict(zip(sizes, index, strict=True))
        for dim, size in group_size.items():
            at[dim] += at["group"] * size
        position, pixels = (at["pixel"], sizes["pixel"]) if layer.size else (at[mapping.image], sizes[mapping.image])
        stripes = array.stripes(pixels)
        number = next(number for number, stripe in enumerate(stripes) if position in stripe)
        stripe = number + (at[mapping.image] * len(stripes) if layer.size else 0)
        if (
            at[mapping.cell] % array.cols == col
            and address in (None, position - stripes[number].start)
            and (not isinstance(array, OutputStationary) or at[mapping.image] % array.rows == row)
        ):
            found[index] = array.lanes(step=step, layer=layer.index, stripe=stripe)
    return found


@settings(max_examples=80)
@given(st.sampled_from(SUM_WORDS), cases(), st.integers(0, 9))
def test_every_result_of_a_cell_is_summed_up_in_one_error(word: str, case: Case, address: int) -> None:
    layer, array, row, col, step = case
    fault = fault_at(word, row=row, col=col, address=address)
    exposure = fault.site.exposure(rows=array.rows, cols=array.cols)
    assert isinstance(exposure, SumExposure)
    if not is_on(array, fault):
        return
    seen = layer.as_matmul() if array.im2col else layer
    for pass_ in PASSES:
        rows = {"product": range(min(row, array.depth - 1), min(row, array.depth - 1) + 1)}
        if exposure.stage == "node":
            rows["node"] = array.node(row, 1)
        found: dict[tuple[int, ...], tuple[int, ...]] = {}
        for error in lower(fault, array, layer, step=step, passes=[pass_]):
            assert isinstance(error, SumError)
            assert (error.layer, error.pass_, error.stage) == (layer.name, pass_, exposure.stage)
            assert (error.rows, error.operations) == (rows.get(exposure.stage), None)
            assert (error.effect, error.timing) == (fault.effect, fault.timing)
            assert error.results.dims == tuple(seen.result(pass_))
            assert error.results.elements > 0
            for index in itertools.product(*error.results.ranges):
                assert index not in found  # once
                found[index] = error.lanes
        in_row = exposure.row
        assert found == summed(seen, array, pass_, row=in_row, col=col, address=exposure.address, step=step)


@pytest.mark.parametrize("swizzle", SWIZZLES)
@pytest.mark.parametrize("groups", [1, 3])
def test_every_element_sits_in_exactly_one_register(swizzle: str, groups: int) -> None:
    array = nvdla(rows=3, cols=4, swizzle=swizzle)
    layer = Layer(name="conv", n=5, ic=5 * groups, oc=7 * groups, size=(5, 4), kernel=(2, 2), groups=groups)
    for pass_ in PASSES:
        operand = array.mapping(pass_).stationary
        total: NDArray[np.int8] = sum(  # type: ignore[assignment]
            reached(
                of_operands(lower(fault_at("weight", row=row, col=col), array, layer, passes=[pass_])),
                layer,
                pass_,
                operand,
            )
            for row in range(array.rows)
            for col in range(array.cols)
        )
        _, meet = expected(layer, array, pass_, operand, row=0, cols=range(1), step=0)
        assert (total * meet == meet).all()


@pytest.mark.parametrize("array", [nvdla_small(), systolic(rows=128, cols=128), simd(lanes=8)])
def test_a_dense_layer_costs_one_error_a_pass_whatever_its_size(array: Array) -> None:
    layer = Layer(name="conv", n=1024, ic=4096, oc=4096, size=(512, 512), kernel=(3, 3))
    for word in (*OPERANDS_WORDS, *SUM_WORDS):
        fault = fault_at(word, row=min(3, array.rows - 1), col=5)
        if word != "accumulator-entry" and is_on(array, fault):
            assert len(lower(fault, array, layer)) == len(PASSES)


@pytest.mark.parametrize("size", [(227, 227), (2, 12), (5, 8), (320, 241)])
def test_ragged_stripes_cost_few_errors(size: tuple[int, ...]) -> None:
    # The last stripes are of other lengths and at other distances than those before them.
    layer = Layer(name="conv", n=9, ic=8, oc=8, size=size, kernel=(1, 1))
    entry = fault_at("accumulator-entry", address=2, col=5)
    assert 1 <= len(lower(entry, nvdla_small(), layer, passes=["forward"])) <= 3
    swizzled = nvdla_small(swizzle="stripe")
    assert len(lower(fault_at("weight"), swizzled, layer, passes=["forward"])) <= 8 * 8 * 3  # lanes and images, thrice


# By hand, from the tables of HARDWARE.md. The layer is ragged: lanes from 4 on have one channel, cells from 3 on one.

CONV = Layer(name="conv", n=10, ic=12, oc=11, size=(5, 6), kernel=(3, 2))  # 3 x 5 outputs

FORWARD_INPUT = "conv forward: input[n 0:10, ic 1:12:8, h 0:5, w 0:6] bit 3 flip"
GRAD_INPUT_INPUT = "conv grad_input: grad_output[n 0:10, oc 1:11:8, oh 0:3, ow 0:5] bit 3 flip"


@pytest.mark.parametrize(
    ("site", "lines"),
    [
        (
            "weight[1,2]",  # w[oc%K==k, ic%C==c]; w[oc%C==c, ic%K==k]; dy[n%C==c, oc%K==k]
            [
                "conv forward: weight[oc 2:11:8, ic 1:12:8, r 0:3, s 0:2] bit 3 flip, zeros spared, permanent",
                "conv grad_input: weight[oc 1:11:8, ic 2:12:8, r 0:3, s 0:2] bit 3 flip, zeros spared, permanent",
                "conv grad_weight: grad_output[n 1:10:8, oc 2:11:8, oh 0:3, ow 0:5] bit 3 flip, zeros spared, "
                "permanent",
            ],
        ),
        (
            "weight-bus-half[1,6]",
            [
                "conv forward: weight[oc 4:11:8 width 4, ic 1:12:8, r 0:3, s 0:2] bit 3 flip, zeros spared, permanent",
                "conv grad_input: weight[oc 1:11:8, ic 4:12:8 width 4, r 0:3, s 0:2] bit 3 flip, zeros spared, "
                "permanent",
                "conv grad_weight: grad_output[n 1:10:8, oc 4:11:8 width 4, oh 0:3, ow 0:5] bit 3 flip, zeros spared, "
                "permanent",
            ],
        ),
        (
            "weight-bus-before-detector[1]",  # before the detector, zeros too
            [
                "conv forward: weight[oc 0:11, ic 1:12:8, r 0:3, s 0:2] bit 3 flip, permanent",
                "conv grad_input: weight[oc 1:11:8, ic 0:12, r 0:3, s 0:2] bit 3 flip, permanent",
                "conv grad_weight: grad_output[n 1:10:8, oc 0:11, oh 0:3, ow 0:5] bit 3 flip, permanent",
            ],
        ),
        (
            "activation[1,2]",  # x[ic%C==c] as seen by one cell; dy[oc%C==c]; x[n%C==c]
            [
                f"{FORWARD_INPUT}, zeros spared, seen by [n 0:10, oc 2:11:8, pixel 0:15], permanent",
                f"{GRAD_INPUT_INPUT}, zeros spared, seen by [n 0:10, ic 2:12:8, pixel 0:30], permanent",
                "conv grad_weight: input[n 1:10:8, ic 0:12, h 0:5, w 0:6] bit 3 flip, zeros spared, "
                "seen by [oc 2:11:8, ic 0:12, pixel 0:6], permanent",
            ],
        ),
        (
            "activation-all[1]",
            [
                f"{FORWARD_INPUT}, zeros spared, permanent",
                f"{GRAD_INPUT_INPUT}, zeros spared, permanent",
                "conv grad_weight: input[n 1:10:8, ic 0:12, h 0:5, w 0:6] bit 3 flip, zeros spared, permanent",
            ],
        ),
    ],
)
def test_the_tables_of_hardware(site: str, lines: list[str]) -> None:
    fault = parse_fault(f"{site} bit 3 flip")
    assert [str(error) for error in lower(fault, nvdla_small(), CONV)] == lines


def test_grad_weight_b_holds_the_input() -> None:  # x[n%C==c, ic%K==k]; dy[n%C==c]
    array = nvdla_small(grad_weight="B")
    (held,) = of_operands(lower(fault_at("weight"), array, CONV, passes=["grad_weight"]))
    assert (held.operand, str(held.region)) == ("input", "[n 1:10:8, ic 2:12:8, h 0:5, w 0:6]")
    (passing,) = of_operands(lower(fault_at("activation"), array, CONV, passes=["grad_weight"]))
    assert (passing.operand, str(passing.region)) == ("grad_output", "[n 1:10:8, oc 0:11, oh 0:3, ow 0:5]")
    assert str(passing.results) == "[oc 0:11, ic 2:12:8, pixel 0:6]"


def test_the_shadow_register_does_what_the_active_one_does() -> None:
    active, shadow = (lower(fault_at(word, row=1, col=2), nvdla_small(), CONV) for word in ("weight", "weight-shadow"))
    assert active == shadow


@pytest.mark.parametrize(
    ("place", "passes"),
    [
        ({"row": 4, "col": 0}, {"grad_weight"}),  # ic <= c, and oc <= c in grad_input
        ({"row": 3, "col": 0}, {"forward", "grad_weight"}),  # oc = 3 <= c
        ({"row": 0, "col": 3}, {"grad_input"}),  # oc <= k, but ic > k
        ({"row": 0, "col": 4}, set()),
        ({"row": 6, "col": 0}, set()),  # n <= c: the batch does not fill the lanes
    ],
)
def test_lanes_and_cells_without_channels_do_nothing(place: dict[str, int], passes: set[Pass]) -> None:
    layer = Layer(name="conv", n=6, ic=4, oc=3, size=(4, 4), kernel=(3, 3))
    assert {error.pass_ for error in of_operands(lower(fault_at("weight", **place), nvdla_small(), layer))} == passes


def test_a_depthwise_layer_has_one_channel_a_lane() -> None:
    layer = Layer(name="dw", n=4, ic=20, oc=20, size=(4, 4), kernel=(3, 3), groups=20)
    (error,) = of_operands(lower(fault_at("weight", row=2, col=2), nvdla_small(), layer, passes=["forward"]))
    assert str(error.region) == "[group 2:20:8, oc 0:1:8, ic 0:1:8, r 0:3, s 0:3]"
    # Global ic and oc are the same channel: lane 2 of cell 3 holds only the padding of the dense layer.
    assert lower(fault_at("weight", row=2, col=3), nvdla_small(), layer, passes=["forward"]) == ()


def test_a_linear_layer_has_the_batch_for_pixels() -> None:
    errors = of_operands(lower(fault_at("activation"), nvdla_small(), Layer(name="fc", n=3, ic=10, oc=10)))
    assert [(str(error.region), str(error.results)) for error in errors] == [
        ("[n 0:3, ic 1:10:8]", "[n 0:3, oc 2:10:8]"),
        ("[n 0:3, oc 1:10:8]", "[n 0:3, ic 2:10:8]"),
        ("[n 1:3:8, ic 0:10]", "[oc 2:10:8, ic 0:10]"),
    ]


def test_a_swizzle_by_step_moves_the_channels() -> None:
    array = nvdla_small(swizzle="step")  # channel i on lane (i + step) mod 8
    for step in range(20):
        (error,) = of_operands(lower(fault_at("weight"), array, CONV, step=step, passes=["forward"]))
        assert error.region.range("ic") == Range(start=(1 - step) % 8, stop=12, step=8)


def test_a_swizzle_by_stripe_splits_the_results() -> None:
    # 49 pixels on 8 columns are stripes of 16, 16, 8 and 9; with two rows, even ones put channel 0 on lane 0.
    layer = Layer(name="conv", n=1, ic=2, oc=1, size=(7, 7), kernel=(1, 1))
    array = nvdla(rows=2, cols=8, swizzle="stripe")
    errors = of_operands(lower(fault_at("weight", row=0, col=0), array, layer, passes=["forward"]))
    seen = {(error.region.range("ic").start, str(error.results and error.results.range("pixel"))) for error in errors}
    assert seen == {(0, "0:16"), (0, "32:40"), (1, "16:32"), (1, "40:49")}


def test_without_a_gate_zeros_are_reached_too() -> None:
    errors = of_operands(lower(fault_at("weight"), nvdla(rows=8, cols=8, zero_gate=False), CONV))
    assert len(errors) == 3
    assert not any(error.spares_zeros for error in errors)


def test_several_layers_come_in_order_and_a_pass_may_be_chosen() -> None:
    layers = [CONV, Layer(name="fc", n=3, ic=10, oc=10, index=1)]
    fault = fault_at("weight", row=0, col=0)
    errors = of_operands(lower(fault, nvdla_small(), iter(layers), passes=["grad_weight", "forward"]))
    assert [(error.layer, error.pass_) for error in errors] == [
        ("conv", "grad_weight"),
        ("conv", "forward"),
        ("fc", "grad_weight"),
        ("fc", "forward"),
    ]
    assert lower(fault, nvdla_small(), []) == ()


# Sums, by hand.


@pytest.mark.parametrize(
    ("site", "line"),
    [
        ("product[1,2]", "product of lanes 1..1 of [n 0:10, oc 2:11:8, pixel 0:15]"),
        ("adder[5,2]", "node of lanes 4..5 of [n 0:10, oc 2:11:8, pixel 0:15]"),
        ("adder[5,2,2]", "node of lanes 4..7 of [n 0:10, oc 2:11:8, pixel 0:15]"),
        ("cell[2]", "partial sum of [n 0:10, oc 2:11:8, pixel 0:15]"),
        ("accumulator[2]", "accumulator of [n 0:10, oc 2:11:8, pixel 0:15]"),
        ("accumulator-entry[3,2]", "accumulator of [n 0:10, oc 2:11:8, pixel 3:4]"),  # one stripe of 15
        ("output[2]", "output of [n 0:10, oc 2:11:8, pixel 0:15]"),
    ],
)
def test_sums_of_nvdla(site: str, line: str) -> None:
    (error,) = lower(parse_fault(f"{site} bit 3 flip"), nvdla_small(), CONV, passes=["forward"])
    assert str(error) == f"conv forward: {line} bit 3 flip, permanent"


def test_a_stripes_entry_is_met_once_a_stripe() -> None:
    # 49 pixels on 8 columns are stripes of 16, 16, 8 and 9: index 8 is in the last, index 9 in the long ones only.
    layer = Layer(name="conv", n=1, ic=2, oc=8, size=(7, 7), kernel=(1, 1))
    for address, pixels in ((7, {7, 23, 39, 47}), (8, {8, 24, 48}), (9, {9, 25}), (16, set())):
        errors = lower(fault_at("accumulator-entry", address=address), nvdla_small(), layer, passes=["forward"])
        found = [pixel for error in errors if isinstance(error, SumError) for pixel in error.results.range("pixel")]
        assert sorted(found) == sorted(pixels)


# Systolic arrays, by hand: a product of (10, 12) by (12, 11) on 4 x 4 PEs.

FC = Layer(name="fc", n=10, ic=12, oc=11)


WIDE = "seen by [n 0:10, oc 2:11:4 width 2]"
WEIGHT_STATIONARY = {
    "weight[1,2]": "weight[oc 2:11:4, ic 1:12:4] bit 3 flip",
    "activation[1,2]": f"input[n 0:10, ic 1:12:4] bit 3 flip, {WIDE}",
    "activation[1,0]": "input[n 0:10, ic 1:12:4] bit 3 flip",
    "adder[1,2]": "node of lanes 0..1 of [n 0:10, oc 2:11:4] bit 3 flip",
    "cell[2]": "partial sum of [n 0:10, oc 2:11:4] bit 3 flip",
    "accumulator[2]": "accumulator of [n 0:10, oc 2:11:4] bit 3 flip",
}
OUTPUT_STATIONARY = {
    "weight[1,2]": "weight[oc 2:11:4, ic 0:12] bit 3 flip, seen by [n 1:10:4 width 3, oc 0:11]",
    "weight[0,2]": "weight[oc 2:11:4, ic 0:12] bit 3 flip",
    "valid[1,2]": "weight[oc 2:11:4, ic 0:12] set-to 0.0, seen by [n 1:10:4, oc 0:11]",
    "activation[1,2]": f"input[n 1:10:4, ic 0:12] bit 3 flip, {WIDE}",
    "accumulator-pe[1,2]": "accumulator of [n 1:10:4, oc 2:11:4] bit 3 flip",
    "product[1,2]": "product of lanes 0..0 of [n 1:10:4, oc 2:11:4] bit 3 flip",
}


@pytest.mark.parametrize(
    ("array", "site", "line"),
    [(systolic(rows=4, cols=4), site, line) for site, line in WEIGHT_STATIONARY.items()]
    + [
        (systolic(rows=4, cols=4, dataflow="output-stationary"), site, line) for site, line in OUTPUT_STATIONARY.items()
    ],
)
def test_systolic_arrays(array: Array, site: str, line: str) -> None:
    bit = 0 if site.startswith("valid") else 3
    (error,) = lower(parse_fault(f"{site} bit {bit} flip"), array, FC, passes=["forward"])
    assert str(error) == f"fc forward: {line}, permanent"


def test_idle_pes() -> None:
    # HARDWARE.md: an idle element passes partial sums on, so its adder corrupts its column; its operands do nothing.
    array, layer = systolic(rows=4, cols=4), Layer(name="fc", n=5, ic=2, oc=3)
    assert lower(fault_at("weight", row=2, col=0), array, layer, passes=["forward"]) == ()
    assert lower(fault_at("activation", row=2, col=0), array, layer, passes=["forward"]) == ()
    (error,) = lower(fault_at("adder", row=3, col=0), array, layer, passes=["forward"])
    assert isinstance(error, SumError)
    assert (error.rows, str(error.results)) == (range(4), "[n 0:5, oc 0:3:4]")
    for word in (
        "weight",
        "activation",
        "valid",
        "product",
        "adder",
        "cell",
        "accumulator",
        "accumulator-entry",
        "output",
    ):
        # A column without results does nothing, whatever is broken in it.
        assert lower(fault_at(word, row=1, col=3), array, layer, passes=["forward"]) == ()


def test_a_convolution_runs_as_a_product_of_matrices() -> None:
    # 10 images of 3 x 5 positions; 12 channels of 3 x 2 taps.
    (error,) = of_operands(lower(fault_at("weight"), systolic(rows=4, cols=4), CONV, passes=["forward"]))
    assert str(error.region) == "[oc 2:11:4, ic 1:72:4]"
    (error,) = of_operands(lower(fault_at("activation", col=0), systolic(rows=4, cols=4), CONV, passes=["forward"]))
    assert str(error.region) == "[n 0:150, ic 1:72:4]"


def test_a_vector_lane_owns_every_so_manieth_result() -> None:
    lines = [str(error) for error in lower(fault_at("accumulator", col=2), simd(lanes=4), FC)]
    assert lines == [
        "fc forward: accumulator of [n 0:10, oc 2:11:4] bit 3 flip, permanent",
        "fc grad_input: accumulator of [n 0:10, ic 2:12:4] bit 3 flip, permanent",
        "fc grad_weight: accumulator of [oc 0:11, ic 2:12:4] bit 3 flip, permanent",
    ]


# Two kernels a cell.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("weight[3,5] bit 2 flip", ["weight[oc 10:70:32, ic 3:90:64]"]),
        ("weight[3,5] bit 10 flip", ["weight[oc 11:70:32, ic 3:90:64]"]),
        ("weight[3,5] bits 2,15 flip", ["weight[oc 10:70:32, ic 3:90:64]", "weight[oc 11:70:32, ic 3:90:64]"]),
        ("weight-bus[3] bit 8 flip", [f"weight[oc {kernel}:70:32, ic 3:90:64]" for kernel in range(1, 32, 2)]),
        ("weight-bus-half[3,9] bit 0 flip", [f"weight[oc {kernel}:70:32, ic 3:90:64]" for kernel in range(16, 32, 2)]),
        ("valid[3,5] bit 1 flip", ["weight[oc 11:70:32, ic 3:90:64]"]),
        ("activation[3,5] bit 2 flip", ["input[n 0:2, ic 3:90:64]"]),
        ("activation-half[3,9] bit 2 flip", ["input[n 0:2, ic 3:90:64]"]),
    ],
)
def test_a_cell_of_two_kernels(text: str, found: list[str]) -> None:
    array, layer = nvdla_full(format="int8"), Layer(name="fc", n=2, ic=90, oc=70)
    errors = of_operands(lower(parse_fault(text), array, layer, passes=["forward"]))
    assert [f"{error.operand}{error.region}" for error in errors] == found
    if text.startswith("activation"):
        assert (
            str(errors[0].results)
            == {
                "activation[3": "[n 0:2, oc 10:70:32 width 2]",
                "activation-half[3": "[n 0:2, oc 16:70:32 width 16]",
            }[text.partition(",")[0]]
        )


def test_an_accumulator_of_two_kernels() -> None:
    array, layer = nvdla_full(format="int8"), Layer(name="fc", n=2, ic=90, oc=70)
    errors = lower(parse_fault("accumulator[5] bits 3,37 flip"), array, layer, passes=["forward"])
    assert [str(error) for error in errors] == [
        f"fc forward: accumulator of [n 0:2, oc {kernel}:70:32] bit 3 flip, permanent" for kernel in (10, 11)
    ]


# Transposed convolutions.


@pytest.mark.parametrize("word", [word for word in (*OPERANDS_WORDS, *SUM_WORDS) if word != "accumulator-pe"])
def test_a_transposed_convolution_is_its_twin_backwards(word: str) -> None:
    twins: dict[str, Pass] = {"forward": "grad_input", "grad_input": "forward", "grad_weight": "grad_weight"}
    operands = {"input": "grad_output", "grad_output": "input", "weight": "weight"}
    fault, transposed = fault_at(word), replace(CONV, transposed=True)
    for pass_ in PASSES:
        found = lower(fault, nvdla_small(), transposed, passes=[pass_])
        meant = lower(fault, nvdla_small(), CONV, passes=[twins[pass_]])
        assert len(found) == len(meant) > 0
        for ours, its in zip(found, meant, strict=True):
            assert isinstance(its, Error | SumError)
            twin = replace(its, pass_=pass_)
            if isinstance(twin, Error):
                twin = replace(twin, operand=operands[twin.operand])  # type: ignore[arg-type]
            assert ours == twin


# Memory and elements.


@pytest.mark.parametrize("store", ["weight", "gradient", "optimizer", "statistics"])
def test_memory_is_no_matter_of_layers_and_passes(store: str) -> None:
    (error,) = lower(fault_at(f"{store}-memory", index=5), nvdla_small(), [CONV, FC])
    assert isinstance(error, StoredError)
    assert (error.store, error.name, list(error.elements)) == (store, "conv", [5, 6, 7, 8])
    assert error.state == ("exp_avg" if store == "optimizer" else "")
    state = " exp_avg" if store == "optimizer" else ""
    assert str(error) == f"{store} conv{state}[element 5:9] bit 3 flip, permanent"


def test_a_kept_activation_is_read_by_its_layers_weight_gradient() -> None:
    (error,) = lower(fault_at("activation-memory", index=5), nvdla_small(), [FC, CONV])
    assert str(error) == "conv grad_weight: input[element 5:9] bit 3 flip, permanent"


@pytest.mark.parametrize("layer", [CONV, replace(CONV, transposed=True)], ids=["plain", "transposed"])
def test_elements_are_corrupted_where_their_operand_is_read(layer: Layer) -> None:
    found = {
        word: of_operands(lower(fault_at(f"{word}-elements"), nvdla_small(), layer))
        for word in ("weight", "input", "grad-output", "result")
    }
    passes = {word: [error.pass_ for error in errors] for word, errors in found.items()}
    assert all(error.operand == word.replace("-", "_") for word, errors in found.items() for error in errors)
    assert passes == {
        "weight": ["forward", "grad_input"],
        "input": ["forward", "grad_weight"],
        "grad-output": ["grad_input", "grad_weight"],
        "result": list(PASSES),
    }


def test_elements_of_a_transposed_convolution_count_in_its_own_tensors() -> None:
    up = Layer(name="up", n=1, ic=2, oc=3, size=(6,), kernel=(2,), transposed=True)  # 15 inputs, 12 results
    for word, last, passes in (
        ("input", 15, PASSES[:1]),
        ("result", 12, PASSES[:1]),
        ("grad-output", 12, PASSES[1:]),
    ):
        errors = of_operands(lower(fault_at(f"{word}-elements", first=11), nvdla_small(), up, passes=passes))
        assert [str(error.region) for error in errors] == [f"[element 11:{last}]"] * len(passes)
    (error,) = lower(parse_fault("activation-memory[up,14,5] bit 3 flip"), nvdla_small(), up)
    assert str(error) == "up grad_weight: input[element 14:15] bit 3 flip, permanent"


def test_elements_beyond_the_end_are_left_out() -> None:
    layer = Layer(name="fc", n=2, ic=3, oc=5)  # 15 weights, 10 results
    (error,) = of_operands(lower(fault_at("weight-elements", first=13), nvdla_small(), layer, passes=["forward"]))
    assert str(error.region) == "[element 13:15]"
    assert lower(fault_at("weight-elements", first=15), nvdla_small(), layer, passes=["forward"]) == ()
    (error,) = of_operands(lower(fault_at("result-elements", first=8), nvdla_small(), layer, passes=["forward"]))
    assert str(error.region) == "[element 8:10]"


def test_a_valid_bit_at_1_does_nothing() -> None:
    assert lower(parse_fault("valid[1,2] bit 0 stuck-at 1"), nvdla_small(), CONV) == ()
    assert lower(parse_fault("valid[1,2] bit 0 stuck-at 0"), nvdla_small(), CONV) == lower(
        parse_fault("weight[1,2] set-to 0"), nvdla_small(), CONV
    )


@pytest.mark.parametrize("word", SITES)
def test_an_error_evaluates_back(word: str) -> None:
    names = {
        **vars(mc),
        **vars(faults),
        "Region": Region,
        "Range": Range,
        "SumError": SumError,
        "StoredError": StoredError,
    }
    errors = lower(
        fault_at(word, **({"row": 0} if word == "accumulator-pe" else {})), nvdla_small(swizzle="stripe"), CONV
    )
    assert errors
    for error in errors:
        assert eval(repr(error), names) == error
        assert "\n" not in str(error)


# Messages.


def test_a_site_off_the_array_is_refused() -> None:
    with pytest.raises(InvalidInput, match=re.escape("row=8 is outside the 8 x 8 array (rows 0..7)")):
        lower(fault_at("weight", row=8), nvdla_small(), CONV)


def test_a_bit_outside_the_arrays_format_is_refused() -> None:
    fault = parse_fault("weight[0,0] bit 28 stuck-at 0")
    with pytest.raises(InvalidInput, match=re.escape("bit=28 is outside int8 (0..7; 7 is the sign)")):
        lower(fault, nvdla_small(format="int8"), CONV)
    assert lower(fault, nvdla_small(format="fp32"), CONV)
    assert lower(fault, nvdla_small(), CONV)  # the format is the tensor's, not known yet


@pytest.mark.parametrize("array", [nvdla_small(), nvdla(rows=8, cols=8, zero_gate=False)])
def test_zeros_between_groups_are_refused(array: Nvdla) -> None:
    layer = Layer(name="conv", n=4, ic=4, oc=4, size=(4, 4), kernel=(3, 3), groups=2)
    word = "weight-bus-before-detector" if array.zero_gate else "weight"
    fault = fault_at(word, row=1, col=1)
    message = (
        f"site {fault.site} of layer 'conv' corrupts zeros between its groups=2, which a grouped convolution does not "
        "compute; expand the layer to a dense one"
    )
    with pytest.raises(InvalidInput, match=re.escape(message)):
        lower(fault, array, layer)
    assert lower(fault, array, layer, passes=["grad_weight"])  # holds grad_output, which has no groups
