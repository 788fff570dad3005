"""Schedules: every cycle has its moment, and the moments form every product of a layer once."""

import re
from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import Triple, all_arrays, loop_nest, small_layers

from miscompute import InvalidInput, Layer
from miscompute.hardware import (
    PASSES,
    Array,
    Moment,
    Operand,
    OutputStationary,
    Pass,
    Schedule,
    nvdla,
    product_at,
    systolic,
)


def walked(array: Array, layer: Layer, pass_: Pass) -> Counter[Triple]:
    """Collect the products of every multiplier in every cycle, those with a zero that is in no tensor left out."""
    found: Counter[Triple] = Counter()
    schedule, mapping = array.schedule(layer, pass_), array.mapping(pass_)
    sizes = {"n": layer.n, "ic": layer.ic, "oc": layer.oc}
    rows = array.rows if isinstance(array, OutputStationary) else 1
    for cycle in range(schedule.cycles):
        moment = schedule.at(cycle)
        for row, col, lane in product(range(rows), range(array.cols), range(array.depth)):
            positions, cells = array.touched(
                "result", moment, schedule.stripes[moment.stripe], row=row, cols=range(col, col + 1)
            )
            channel = moment.block * array.depth + lane
            for position, cell in product(positions, cells):
                image = moment.image if layer.size else position
                channels = {mapping.lane: channel, mapping.cell: cell, mapping.image: image}
                if any(channels[dim] >= size for dim, size in sizes.items()):
                    continue  # ragged ends
                met = product_at(
                    layer,
                    pass_,
                    mapping.stationary,
                    channels=channels,
                    tap=moment.tap,
                    pixel=position if layer.size else 0,
                )
                batch = (moment.batch,) if layer.batch > 1 else ()
                elements = [met["weight"], met["input"], met["grad_output"]]
                whole = tuple((*batch, *element) for element in elements if element is not None)
                if len(whole) == len(elements):
                    found[whole] += 1
    return found


@settings(max_examples=60)
@given(small_layers(), all_arrays, st.sampled_from(PASSES))
def test_a_pass_forms_every_product_once(layer: Layer, array: Array, pass_: Pass) -> None:
    layer = layer.as_matmul() if array.im2col else layer
    assert walked(array, layer, pass_) == loop_nest(layer)


@settings(max_examples=50)
@given(small_layers(), all_arrays, st.sampled_from(PASSES))
def test_cycles_and_moments_are_one_to_one(layer: Layer, array: Array, pass_: Pass) -> None:
    schedule = array.schedule(layer, pass_)
    moments = [schedule.at(cycle) for cycle in range(min(schedule.cycles, 600))]
    assert [schedule.cycle(moment) for moment in moments] == list(range(len(moments)))
    assert len(set(moments)) == len(moments)
    seen = layer.as_matmul() if array.im2col else layer
    last = schedule.at(schedule.cycles - 1)
    end = schedule.stripes[-1]
    assert last == Moment(
        batch=seen.batch - 1,
        group=schedule.groups - 1,
        image=schedule.images - 1,
        stripe=len(schedule.stripes) - 1,
        block=schedule.blocks - 1,
        tap=schedule.taps - 1,
        pixel=end.stop - 1,
    )
    assert all(schedule.stripe_of(moment.pixel) == moment.stripe for moment in moments)
    for beyond in (-1, schedule.cycles):
        message = f"cycle={beyond} is outside the pass, which takes {schedule.cycles:,} cycles (from 0)"
        with pytest.raises(InvalidInput, match=re.escape(message)):
            schedule.at(beyond)


@given(small_layers(), all_arrays, st.sampled_from(PASSES))
def test_a_pass_takes_as_many_cycles_as_its_loops(layer: Layer, array: Array, pass_: Pass) -> None:
    # Each result takes its atomic operations; every cell computes one result at a time, a PE one of its tile.
    seen = layer.as_matmul() if array.im2col else layer
    mapping, sizes = array.mapping(pass_), {"n": seen.n, "ic": seen.ic, "oc": seen.oc}
    result, batch = seen.result(pass_), seen.batch
    taps = {"weight": seen.kernel, "grad_output": seen.out_size, "input": seen.size}[mapping.stationary]
    operations = -(-sizes[mapping.lane] // array.depth)
    for tap in taps:
        operations *= tap
    positions = result.get("pixel", 1) * sizes[mapping.image]
    if isinstance(array, OutputStationary):
        positions = -(-positions // array.rows)
    assert array.schedule(layer, pass_).cycles == batch * operations * positions * -(-sizes[mapping.cell] // array.cols)


def test_loops_run_as_in_the_hardware() -> None:
    # HARDWARE.md: kernel group -> stripe of pixels -> channel block -> r -> s -> pixels of the stripe.
    layer = Layer(name="conv", n=2, ic=3, oc=3, size=(3, 4), kernel=(1, 2))  # 9 pixels; stripes of 4, 2 and 3
    schedule = nvdla(rows=2, cols=2).schedule(layer, "forward")
    assert schedule == Schedule(groups=2, images=2, stripes=(range(4), range(4, 6), range(6, 9)), blocks=2, taps=2)
    loops = [
        Moment(group=group, image=image, stripe=number, block=block, tap=tap, pixel=pixel)
        for group in range(2)
        for image in range(2)
        for number, stripe in enumerate(schedule.stripes)
        for block in range(2)
        for tap in range(2)
        for pixel in stripe
    ]
    assert [schedule.at(cycle) for cycle in range(schedule.cycles)] == loops


def test_products_of_a_batch_come_one_after_another() -> None:
    array, layer = nvdla(rows=2, cols=2), Layer(name="fc", n=5, ic=3, oc=3)
    one, batch = array.schedule(layer, "forward"), array.schedule(replace(layer, batch=3), "forward")
    assert batch.cycles == 3 * one.cycles
    for cycle in range(batch.cycles):
        moment = batch.at(cycle)
        assert moment == replace(one.at(cycle % one.cycles), batch=cycle // one.cycles)
        assert batch.cycle(moment) == cycle


def test_one_product_by_hand() -> None:
    layer = Layer(name="c", n=2, ic=4, oc=6, size=(5, 5), kernel=(3, 3), stride=(2, 2), padding=(1, 1), groups=2)
    # Output (1, 2), tap (2, 0): input row 1 * 2 + 2 - 1 = 3, column 2 * 2 + 0 - 1 = 3.
    channels = {"n": 1, "ic": 3, "oc": 4}
    met = product_at(layer, "forward", "weight", channels=channels, tap=6, pixel=5)
    wanted: dict[Operand, tuple[int, ...]] = {
        "weight": (1, 1, 1, 2, 0),
        "input": (1, 3, 3, 3),
        "grad_output": (1, 4, 1, 2),
    }
    assert met == wanted
    # The same from the side of the input's gradient, where the kernel is turned: tap (0, 2), pixel (3, 3).
    assert product_at(layer, "grad_input", "weight", channels=channels, tap=2, pixel=18) == wanted
    # And of the weight's: held output (1, 2), or held input (3, 3) turned to (1, 1).
    assert product_at(layer, "grad_weight", "grad_output", channels=channels, tap=5, pixel=6) == wanted
    assert product_at(layer, "grad_weight", "input", channels=channels, tap=6, pixel=6) == wanted


def test_words_that_are_in_no_tensor() -> None:
    layer = Layer(name="c", n=1, ic=2, oc=2, size=(4,), kernel=(2,), stride=(2,), padding=(1,), groups=2)
    meet = {"n": 0, "ic": 0, "oc": 0}
    padded = product_at(layer, "forward", "weight", channels=meet, tap=0, pixel=0)
    assert (padded["weight"], padded["input"]) == ((0, 0, 0, 0), None)
    inserted = product_at(layer, "grad_input", "weight", channels=meet, tap=0, pixel=1)  # r = 1: o = (1 + 1 - 1) / 2
    assert (inserted["weight"], inserted["grad_output"]) == ((0, 0, 0, 1), None)
    between = product_at(layer, "forward", "weight", channels={**meet, "oc": 1}, tap=0, pixel=1)
    assert (between["weight"], between["input"]) == (None, (0, 0, 1))


@pytest.mark.parametrize("dataflow", ["weight-stationary", "output-stationary"])
def test_a_convolution_is_laid_out_as_the_product_it_runs_as(dataflow: str) -> None:
    layer = Layer(name="conv", n=2, ic=3, oc=5, size=(6, 6), kernel=(3, 3))
    array = systolic(rows=4, cols=4, dataflow=dataflow)  # type: ignore[arg-type]
    for pass_ in PASSES:
        assert array.schedule(layer, pass_) == array.schedule(layer.as_matmul(), pass_)
