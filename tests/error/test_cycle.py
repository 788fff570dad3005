"""Faults of one cycle: together, the cycles of a pass do what a permanent fault does, product by product."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.strategies import Triple, all_arrays, loop_nest, small_layers

from miscompute import Fault, Flip, InvalidInput, Layer, Transient, nvdla, nvdla_small, parse_fault
from miscompute.error import AnyError, Error, Region, SumError, lower
from miscompute.fault import (
    Accumulator,
    ActivationRegister,
    CellOutput,
    CycleBursts,
    FinalOutput,
    OperandValid,
    Product,
    Site,
    WeightBus,
    WeightRegister,
)
from miscompute.hardware import PASSES, Array, Operand, OutputStationary, Pass, Simd, simd, systolic

Index = tuple[int, ...]
FLIP = Flip(bits=(0,))
RESULTS: dict[Pass, Operand] = {"forward": "grad_output", "grad_input": "input", "grad_weight": "weight"}


def at(cycle: int, site: Site, pass_: Pass, *, until: str = "cycle") -> Fault:
    timing = Transient(step=0, pass_=pass_, layer="layer", cycle=cycle, until=until)  # type: ignore[arg-type]
    return Fault(site=site, effect=FLIP, timing=timing)


def indices(region: Region) -> set[Index]:
    return set(itertools.product(*region.ranges))


def meetings(layer: Layer, pass_: Pass, operand: Operand) -> set[tuple[Index, Index]]:
    """Give which elements of an operand meet which results in a product, by the definition of a convolution."""
    order: tuple[Operand, ...] = ("weight", "input", "grad_output")
    positions = {"weight": layer.kernel, "input": layer.size, "grad_output": layer.out_size}[RESULTS[pass_]]

    def result(triple: Triple) -> Index:
        index = triple[order.index(RESULTS[pass_])]
        if not positions:
            return index
        return (*index[: -len(positions)], int(np.ravel_multi_index(index[-len(positions) :], positions)))

    return {(triple[order.index(operand)], result(triple)) for triple in loop_nest(layer)}


def products(errors: Iterable[AnyError], meeting: set[tuple[Index, Index]]) -> Counter[tuple[Index, Index]]:
    """Count the products that errors of an operand corrupt."""
    found: Counter[tuple[Index, Index]] = Counter()
    for error in errors:
        assert isinstance(error, Error)
        elements = indices(error.region)
        results = None if error.results is None else indices(error.results)
        found.update((e, r) for e, r in meeting if e in elements and (results is None or r in results))
    return found


@st.composite
def places(draw: st.DrawFn, arrays: st.SearchStrategy[Array] = all_arrays) -> tuple[Layer, Array, Pass, int, int]:
    layer, array, pass_ = draw(small_layers()), draw(arrays), draw(st.sampled_from(PASSES))
    assume(array.schedule(layer, pass_).cycles <= 400)
    row, col = draw(st.integers(0, array.rows - 1)), draw(st.integers(0, array.cols - 1))
    return layer, array, pass_, row, col


@pytest.mark.parametrize("which", ["held", "valid", "passing", "half", "all"])
@settings(max_examples=20)
@given(st.data())
def test_all_cycles_together_corrupt_what_a_permanent_fault_does_each_product_once(
    which: str, draw: st.DataObject
) -> None:
    with_halves = st.builds(nvdla, rows=st.integers(1, 4), cols=st.just(4), grad_weight=st.sampled_from(("A", "B")))
    layer, array, pass_, row, col = draw.draw(places(with_halves if which == "half" else all_arrays))
    sites: dict[str, Site] = {
        "held": WeightRegister(row=row, col=col),
        "valid": OperandValid(row=row, col=col),
        "passing": ActivationRegister(row=row, col=col),
        "half": ActivationRegister(row=row, col=col, reach="half"),
        "all": ActivationRegister(row=row, reach="all"),
    }
    site, mapping = sites[which], array.mapping(pass_)
    seen = layer.as_matmul() if array.im2col else layer
    meeting = meetings(seen, pass_, mapping.stationary if which in ("held", "valid") else mapping.streaming)
    permanent = products(lower(Fault(site=site, effect=FLIP), array, layer, passes=[pass_]), meeting)
    found: Counter[tuple[Index, Index]] = Counter()
    for cycle in range(array.schedule(layer, pass_).cycles):
        errors = lower(at(cycle, site, pass_), array, layer)
        assert len(errors) <= 1
        for error in errors:
            assert isinstance(error, Error)
            assert error.region.elements == 1
            assert error.results is not None
            if which == "valid" or (which == "held" and not isinstance(array, OutputStationary)):
                assert error.results.elements == 1  # one product
        found += products(errors, meeting)
    assert found == permanent
    assert not permanent or set(permanent.values()) == {1}


@settings(max_examples=30)
@given(places(), st.sampled_from([Product, CellOutput, Accumulator, FinalOutput]))
def test_all_cycles_together_meet_every_sum_once(place: tuple[Layer, Array, Pass, int, int], kind: type[Site]) -> None:
    layer, array, pass_, row, col = place
    row = row if isinstance(array, OutputStationary) or kind is Product else 0
    site = kind(row=row, col=col) if kind in (Product, Accumulator) else kind(col=col)  # type: ignore[call-arg]
    if isinstance(array, OutputStationary | Simd):
        assume(kind in (Product, Accumulator))  # what a PE has
    schedule = array.schedule(layer, pass_)
    found: Counter[tuple[Index, int | None, Index]] = Counter()
    for cycle in range(schedule.cycles):
        for error in lower(at(cycle, site, pass_), array, layer):
            assert isinstance(error, SumError)
            assert error.results.elements == 1
            operations = [None] if error.operations is None else list(error.operations)
            assert len(operations) == 1
            found.update(itertools.product(indices(error.results), operations, [error.lanes]))
    permanent: Counter[tuple[Index, int | None, Index]] = Counter()
    for error in lower(Fault(site=site, effect=FLIP), array, layer, passes=[pass_]):
        assert isinstance(error, SumError)
        each = [None] if kind is FinalOutput else list(range(schedule.operations))
        permanent.update(itertools.product(indices(error.results), each, [error.lanes]))
    assert found == permanent


@settings(max_examples=30)
@given(places(), st.data())
def test_an_upset_lasts_until_the_stripe_ends(place: tuple[Layer, Array, Pass, int, int], draw: st.DataObject) -> None:
    layer, array, pass_, row, col = place
    site, schedule = WeightRegister(row=row, col=col), array.schedule(layer, pass_)
    cycle = draw.draw(st.integers(0, schedule.cycles - 1))
    moment = schedule.at(cycle)
    left = schedule.stripes[moment.stripe].stop - moment.pixel
    kept = lower(at(cycle, site, pass_, until="reload"), array, layer)
    one_by_one = [error for later in range(left) for error in lower(at(cycle + later, site, pass_), array, layer)]
    results: set[Index] = set()
    for error in one_by_one:
        assert isinstance(error, Error)
        assert error.results is not None
        results |= indices(error.results)
    if not one_by_one:
        assert kept == ()
        return
    (error,) = kept
    assert isinstance(error, Error)
    assert error.results is not None
    assert {one.region for one in one_by_one if isinstance(one, Error)} == {error.region}
    assert indices(error.results) == results


# By hand. 14 x 14 inputs and 3 x 3 taps make 144 outputs: on 8 columns, stripes of 16 pixels.

CONV = Layer(name="conv", n=2, ic=12, oc=20, size=(14, 14), kernel=(3, 3))
CYCLES_OF_A_GROUP = 2 * 144 * 2 * 9


def lines(text: str, array: Array | None = None, layer: Layer = CONV) -> list[str]:
    return [
        str(error).rpartition(", transient")[0] for error in lower(parse_fault(text), array or nvdla_small(), layer)
    ]


def test_one_product_of_nvdla() -> None:
    # Kernel group 1, image 1, stripe 2, channel block 1, tap (1, 2), pixel 32 + 5: ic = 8 + 3, oc = 8 + 2.
    cycle = CYCLES_OF_A_GROUP + 144 * 18 + 2 * 16 * 18 + (9 + 5) * 16 + 5
    when = f"transient step 0 pass forward layer conv cycle {cycle}"
    where = "seen by [n 1:2, oc 10:11, pixel 37:38]"
    assert lines(f"weight[3,2] bit 3 flip {when}") == [
        f"conv forward: weight[oc 10:11, ic 11:12, r 1:2, s 2:3] bit 3 flip, zeros spared, {where}"
    ]
    assert lines(f"weight[3,2] bit 3 flip {when} until reload") == [
        "conv forward: weight[oc 10:11, ic 11:12, r 1:2, s 2:3] bit 3 flip, zeros spared, "
        "seen by [n 1:2, oc 10:11, pixel 37:48]"
    ]
    # Pixel 37 is (3, 1): the input is at (4, 3).
    assert lines(f"activation[3,2] bit 3 flip {when}") == [
        f"conv forward: input[n 1:2, ic 11:12, h 4:5, w 3:4] bit 3 flip, zeros spared, {where}"
    ]
    assert lines(f"activation-all[3] bit 3 flip {when}") == [
        "conv forward: input[n 1:2, ic 11:12, h 4:5, w 3:4] bit 3 flip, zeros spared, "
        "seen by [n 1:2, oc 8:16, pixel 37:38]"
    ]
    # Kernels are loaded one a cycle: at the sixth pixel of a stripe, that of cell 5, for the whole stripe.
    assert lines(f"weight-bus[3] bit 3 flip {when}") == [
        "conv forward: weight[oc 13:14, ic 11:12, r 1:2, s 2:3] bit 3 flip, zeros spared, "
        "seen by [n 1:2, oc 13:14, pixel 32:48]"
    ]
    assert lines(f"weight-bus-half[3,0] bit 3 flip {when}") == []  # cell 5 is in the other half
    operation = "in operations 14:15"
    assert lines(f"product[3,2] bit 3 flip {when}") == [
        f"conv forward: product of lanes 3..3 of [n 1:2, oc 10:11, pixel 37:38] {operation} bit 3 flip"
    ]
    assert lines(f"accumulator-entry[5,2] bit 3 flip {when}") == [
        f"conv forward: accumulator of [n 1:2, oc 10:11, pixel 37:38] {operation} bit 3 flip"
    ]
    assert lines(f"accumulator-entry[6,2] bit 3 flip {when}") == []
    assert lines(f"output[2] bit 3 flip {when}") == []  # no result is finished in this operation
    last = f"transient step 0 pass forward layer conv cycle {cycle + 3 * 16}"
    assert lines(f"output[2] bit 3 flip {last}") == [
        "conv forward: output of [n 1:2, oc 10:11, pixel 37:38] bit 3 flip"
    ]


@pytest.mark.parametrize(
    ("dataflow", "site", "until", "line"),
    # A product of (10, 12) by (12, 11) on 4 x 4 PEs. Cycle 13 of the second column block is, weight-stationary,
    # row 3 of A in the tile of k from 4 to 7; cycle 7, output-stationary, k = 7 of the tile of rows 0 to 3.
    [
        ("weight-stationary", "weight[1,2]", "", "weight[oc 6:7, ic 5:6] seen by [n 3:4, oc 6:7]"),
        ("weight-stationary", "weight[1,2]", " until reload", "weight[oc 6:7, ic 5:6] seen by [n 3:10, oc 6:7]"),
        ("weight-stationary", "activation[1,2]", "", "input[n 3:4, ic 5:6] seen by [n 3:4, oc 6:8]"),
        ("output-stationary", "weight[1,2]", "", "weight[oc 6:7, ic 7:8] seen by [n 1:4, oc 6:7]"),
        ("output-stationary", "weight[1,2]", " until reload", "weight[oc 6:7, ic 7:8] seen by [n 1:4, oc 6:7]"),
        ("output-stationary", "activation[1,2]", "", "input[n 1:2, ic 7:8] seen by [n 1:2, oc 6:8]"),
    ],
)
def test_one_cycle_of_a_systolic_array(dataflow: str, site: str, until: str, line: str) -> None:
    layer = Layer(name="fc", n=10, ic=12, oc=11)
    array = systolic(rows=4, cols=4, dataflow=dataflow)  # type: ignore[arg-type]
    first = array.schedule(layer, "forward").cycles // 3  # of three column blocks
    cycle = first + (13 if dataflow == "weight-stationary" else 7)
    assert lines(f"{site} bit 3 flip transient step 0 pass forward layer fc cycle {cycle}{until}", array, layer) == [
        "fc forward: " + line.replace(" seen", " bit 3 flip, seen")
    ]


def test_ragged_ends_do_nothing() -> None:
    last_block = f"transient step 0 pass forward layer conv cycle {9 * 16}"  # channels 8 to 11
    assert lines(f"weight[4,2] bit 3 flip {last_block}") == []
    assert len(lines(f"product[4,2] bit 3 flip {last_block}")) == 1  # unused lanes multiply zeros, which is a product
    last_group = f"transient step 0 pass forward layer conv cycle {2 * CYCLES_OF_A_GROUP}"  # output channels 16 to 19
    assert lines(f"cell[4] bit 3 flip {last_group}") == []


def test_the_lane_follows_the_swizzle() -> None:
    when = "transient step 3 pass forward layer conv cycle 0"
    for step in range(3, 6):
        (error,) = lower(parse_fault(f"weight[1,0] bit 3 flip {when}"), nvdla_small(swizzle="step"), CONV, step=step)
        assert isinstance(error, Error)
        assert list(error.region.range("ic")) == [(1 - step) % 8]


def test_the_lane_follows_the_stripe_through_the_images() -> None:
    # Image 1, stripe 2 of 9 (pixel 32) is the twelfth: channel i of block 0 is on lane i + 11.
    cycle = 144 * 18 + 2 * 16 * 18
    fault = parse_fault(f"activation[1,0] bit 3 flip transient step 0 pass forward layer conv cycle {cycle}")
    (error,) = lower(fault, nvdla_small(swizzle="stripe"), CONV)
    assert isinstance(error, Error)
    assert str(error.region) == "[n 1:2, ic 6:7, h 2:3, w 8:9]"


def test_another_pass_and_another_layer_are_untouched() -> None:
    fault = parse_fault("weight[0,0] bit 3 flip transient step 0 pass grad_input layer conv cycle 0")
    other = Layer(name="other", n=2, ic=12, oc=20, size=(14, 14), kernel=(3, 3))
    assert {
        (error.layer, error.pass_) for error in lower(fault, nvdla_small(), [other, CONV]) if isinstance(error, Error)
    } == {("conv", "grad_input")}


def test_a_product_of_a_batch_comes_after_another() -> None:
    layer = Layer(name="fc", n=3, ic=4, oc=4, batch=5)
    cycles = nvdla(rows=4, cols=4).schedule(layer, "forward").cycles
    assert cycles == 15
    text = "weight[1,2] bit 3 flip transient step 0 pass forward layer fc cycle 10"
    assert lines(text, nvdla(rows=4, cols=4), layer) == [
        "fc forward: weight[batch 3:4, oc 2:3, ic 1:2] bit 3 flip, zeros spared, seen by [batch 3:4, n 1:2, oc 2:3]"
    ]


# Messages.


def test_a_cycle_after_the_pass_is_refused() -> None:
    message = "cycle=15552 is outside the pass, which takes 15,552 cycles (from 0)"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        lines(f"weight[0,0] bit 3 flip transient step 0 pass forward layer conv cycle {3 * CYCLES_OF_A_GROUP}")


@pytest.mark.parametrize("array", [systolic(rows=4, cols=4), simd(lanes=4)])
def test_the_load_of_one_kernel_is_nvdlas(array: Array) -> None:
    message = "site weight-bus[0] in one cycle: when the array loads which word is not known; leave cycle out"
    with pytest.raises(InvalidInput, match="^" + re.escape(message) + "$"):
        lower(at(0, WeightBus(row=0), "forward"), array, Layer(name="layer", n=2, ic=2, oc=2))


def test_what_waits_in_a_shadow_register_in_a_cycle_is_not_known() -> None:
    message = "site weight-shadow[0,0] in one cycle: which words wait in it then is not known; use weight[row,col]"
    with pytest.raises(InvalidInput, match="^" + re.escape(message) + "$"):
        lower(
            at(0, WeightRegister(row=0, col=0, stage="shadow"), "forward"), nvdla_small(), replace(CONV, name="layer")
        )


def test_zeros_in_no_tensor_are_refused_in_a_cycle_too() -> None:
    array, layer = nvdla(rows=4, cols=4, zero_gate=False), Layer(name="layer", n=1, ic=2, oc=2, size=(3,), kernel=(2,))
    with pytest.raises(InvalidInput, match="corrupts padding and inserted zeros, which are in no tensor"):
        lower(at(0, ActivationRegister(row=0), "forward"), array, layer)


# Bursts.


def test_what_hits_one_result_in_several_cycles_is_one_error_of_it() -> None:
    layer, array = (
        Layer(name="fc", n=2, ic=6, oc=3),
        nvdla(rows=2, cols=2),
    )  # 2 groups of 3 operations of 2 pixels
    timing = CycleBursts(mean_on=1.5, mean_off=1.5, seed=1)
    there = timing.cycles(12, step=0, pass_="forward", layer="fc").tolist()
    found = lower(Fault(site=CellOutput(col=0), effect=FLIP, timing=timing), array, layer, passes=("forward",))
    wanted: dict[tuple[int, int], list[int]] = {}
    for cycle in there:
        group, left = divmod(cycle, 6)
        operation, n = divmod(left, 2)
        wanted.setdefault((n, 2 * group), []).append(operation)
    hit = {next(iter(indices(e.results))): list(e.operations or ()) for e in found if isinstance(e, SumError)}
    assert (hit, len(found)) == (wanted, len(wanted))
    assert any(len(operations) > 1 for operations in wanted.values())
    assert re.search(r"in operations \d,\d", "".join(map(str, found)))


def test_bursts_in_no_known_cycle_are_refused() -> None:
    when = "cycle-bursts mean_on 1.0 mean_off 9.0 seed 1"
    for text, array, message in (
        (
            "weight-memory[fc.weight,0]",
            nvdla_small(),
            "memory and elements are in no cycle of an array; use bursts, which",
        ),
        (
            "result-elements[0,4]",
            nvdla_small(),
            "memory and elements are in no cycle of an array; use bursts, which are",
        ),
        ("weight-shadow[0,0]", nvdla_small(), "in one cycle: which words wait in it then is not known"),
        ("weight-bus[0]", systolic(rows=2, cols=2), "in one cycle: when the array loads which word is not known"),
    ):
        with pytest.raises(InvalidInput, match=re.escape(message)):
            lower(parse_fault(f"{text} bit 3 flip {when}"), array, Layer(name="fc", n=1, ic=1, oc=1))
