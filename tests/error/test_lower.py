"""Lowering against the rules of HARDWARE.md written out as conditions on every index, its laws, and cases by hand.

test_lower_against_reference.py compares with an array that runs cycle by cycle.
"""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import miscompute as mc
from miscompute import Error, InvalidInput, Layer, Nvdla, Range, Region, lower, nvdla, nvdla_small, parse_fault
from miscompute.fault import SITES
from miscompute.hardware import PASSES, SWIZZLES, Operand, Pass

CHANNELS = ("group", "n", "ic", "oc")


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
    layer: Layer, array: Nvdla, pass_: Pass, operand: Operand, *, row: int, cols: range, step: int
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
    for dim in ("n", "ic", "oc"):
        if dim in of_result and dim in of_operand:
            meet &= of_result[dim] == of_operand[dim]
    together = of_result | of_operand
    if "ic" in together and "oc" in together:
        meet &= together["ic"] // per_group["ic"] == together["oc"] // per_group["oc"]

    mapping = array.mapping(pass_)
    image, position = (of_result[mapping.image], of_result["pixel"]) if layer.size else (0, of_result[mapping.image])
    stripes = array.stripes(position.size)
    stripe_of = np.array([number for number, stripe in enumerate(stripes) for _ in stripe])
    stripe = image * len(stripes) + stripe_of[position]
    lane_of = np.array(
        [array.lanes(step=step, layer=layer.index, stripe=number) for number in range(int(np.max(stripe)) + 1)]
    )
    met = lane_of[stripe, of_operand[mapping.lane] % array.rows] == row
    return met & np.isin(of_result[mapping.cell] % array.cols, list(cols)) & meet, meet


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, Layer, Nvdla, int, int, int]:
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
    )
    array = nvdla(
        rows=draw(st.integers(1, 5)),
        cols=draw(st.sampled_from([2, 4])),
        swizzle=draw(st.sampled_from(list(SWIZZLES))),
        grad_weight=draw(st.sampled_from(["A", "B"])),
    )
    word = draw(st.sampled_from(list(SITES)))
    row, col = draw(st.integers(0, array.rows - 1)), draw(st.integers(0, array.cols - 1))
    return word, layer, array, row, col, draw(st.integers(0, 30))


def fault_at(word: str, **place: int) -> mc.Fault:
    indices = ",".join(str(place[index]) for index in SITES[word].indices)
    return parse_fault(f"{word}[{indices}] bit 3 flip")


@settings(max_examples=300)
@given(cases())
def test_every_index_is_reached_as_the_rules_say_and_once(case: tuple[str, Layer, Nvdla, int, int, int]) -> None:
    word, layer, array, row, col, step = case
    fault = fault_at(word, row=row, col=col)
    exposure = fault.site.exposure(rows=array.rows, cols=array.cols)
    for pass_ in PASSES:
        mapping = array.mapping(pass_)
        operand = mapping.stationary if exposure.operand == "stationary" else mapping.streaming
        if layer.groups > 1 and word == "weight-bus-before-detector" and operand == "weight":
            with pytest.raises(InvalidInput, match="expand the layer to a dense one"):
                lower(fault, array, layer, step=step, passes=[pass_])
            continue
        errors = list(lower(fault, array, layer, step=step, passes=[pass_]))
        found = reached(errors, layer, pass_, operand)
        rule, meet = expected(layer, array, pass_, operand, row=row, cols=exposure.cols, step=step)
        np.testing.assert_array_equal(found * meet, rule)
        assert all((error.effect, error.timing) == (fault.effect, fault.timing) for error in errors)
        assert all(error.spares_zeros == exposure.behind_zero_detector for error in errors)


@pytest.mark.parametrize("swizzle", SWIZZLES)
@pytest.mark.parametrize("groups", [1, 3])
def test_every_element_sits_in_exactly_one_register(swizzle: str, groups: int) -> None:
    array = nvdla(rows=3, cols=4, swizzle=swizzle)
    layer = Layer(name="conv", n=5, ic=5 * groups, oc=7 * groups, size=(5, 4), kernel=(2, 2), groups=groups)
    for pass_ in PASSES:
        operand = array.mapping(pass_).stationary
        total = sum(
            reached(
                list(lower(fault_at("weight", row=row, col=col), array, layer, passes=[pass_])), layer, pass_, operand
            )
            for row in range(array.rows)
            for col in range(array.cols)
        )
        _, meet = expected(layer, array, pass_, operand, row=0, cols=range(1), step=0)
        assert (total * meet == meet).all()


def test_a_dense_layer_costs_one_error_a_pass_whatever_its_size() -> None:
    layer = Layer(name="conv", n=1024, ic=4096, oc=4096, size=(512, 512), kernel=(3, 3))
    for word in SITES:
        assert len(lower(fault_at(word, row=3, col=5), nvdla_small(), layer)) == len(PASSES)


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
    (held,) = lower(fault_at("weight", row=1, col=2), array, CONV, passes=["grad_weight"])
    assert (held.operand, str(held.region)) == ("input", "[n 1:10:8, ic 2:12:8, h 0:5, w 0:6]")
    (passing,) = lower(fault_at("activation", row=1, col=2), array, CONV, passes=["grad_weight"])
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
    assert {error.pass_ for error in lower(fault_at("weight", **place), nvdla_small(), layer)} == passes


def test_a_depthwise_layer_has_one_channel_a_lane() -> None:
    layer = Layer(name="dw", n=4, ic=20, oc=20, size=(4, 4), kernel=(3, 3), groups=20)
    (error,) = lower(fault_at("weight", row=2, col=2), nvdla_small(), layer, passes=["forward"])
    assert str(error.region) == "[group 2:20:8, oc 0:1:8, ic 0:1:8, r 0:3, s 0:3]"
    # Global ic and oc are the same channel: lane 2 of cell 3 holds only the padding of the dense layer.
    assert lower(fault_at("weight", row=2, col=3), nvdla_small(), layer, passes=["forward"]) == ()


def test_a_linear_layer_has_the_batch_for_pixels() -> None:
    errors = lower(fault_at("activation", row=1, col=2), nvdla_small(), Layer(name="fc", n=3, ic=10, oc=10))
    assert [(str(error.region), str(error.results)) for error in errors] == [
        ("[n 0:3, ic 1:10:8]", "[n 0:3, oc 2:10:8]"),
        ("[n 0:3, oc 1:10:8]", "[n 0:3, ic 2:10:8]"),
        ("[n 1:3:8, ic 0:10]", "[oc 2:10:8, ic 0:10]"),
    ]


def test_a_swizzle_by_step_moves_the_channels() -> None:
    array = nvdla_small(swizzle="step")  # channel i on lane (i + step) mod 8
    for step in range(20):
        (error,) = lower(fault_at("weight", row=1, col=2), array, CONV, step=step, passes=["forward"])
        assert error.region.range("ic") == Range(start=(1 - step) % 8, stop=12, step=8)


def test_a_swizzle_by_stripe_splits_the_results() -> None:
    # 49 pixels on 8 columns are stripes of 16, 16, 8 and 9; with two rows, even ones put channel 0 on lane 0.
    layer = Layer(name="conv", n=1, ic=2, oc=1, size=(7, 7), kernel=(1, 1))
    array = nvdla(rows=2, cols=8, swizzle="stripe")
    errors = lower(fault_at("weight", row=0, col=0), array, layer, passes=["forward"])
    seen = {(error.region.range("ic").start, str(error.results and error.results.range("pixel"))) for error in errors}
    assert seen == {(0, "0:16"), (0, "32:40"), (1, "16:32"), (1, "40:49")}


def test_without_a_gate_zeros_are_reached_too() -> None:
    errors = lower(fault_at("weight", row=1, col=2), nvdla(rows=8, cols=8, zero_gate=False), CONV)
    assert len(errors) == 3
    assert not any(error.spares_zeros for error in errors)


def test_several_layers_come_in_order_and_a_pass_may_be_chosen() -> None:
    layers = [CONV, Layer(name="fc", n=3, ic=10, oc=10, index=1)]
    fault = fault_at("weight", row=0, col=0)
    errors = lower(fault, nvdla_small(), iter(layers), passes=["grad_weight", "forward"])
    assert [(error.layer, error.pass_) for error in errors] == [
        ("conv", "grad_weight"),
        ("conv", "forward"),
        ("fc", "grad_weight"),
        ("fc", "forward"),
    ]
    assert lower(fault, nvdla_small(), []) == ()


def test_an_error_evaluates_back() -> None:
    names = {**vars(mc), "Region": Region, "Range": Range, "Permanent": type(mc.PERMANENT)}
    for word in SITES:
        for error in lower(fault_at(word, row=1, col=2), nvdla_small(swizzle="stripe"), CONV):
            assert eval(repr(error), names) == error


# Messages.


def test_a_site_off_the_array_is_refused() -> None:
    with pytest.raises(InvalidInput, match=re.escape("row=8 is outside the 8 x 8 array (rows 0..7)")):
        lower(fault_at("weight", row=8, col=0), nvdla_small(), CONV)


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
