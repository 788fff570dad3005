"""The reference core against cycle-accurate RTL simulation, bit for bit, and its own rules on small cases."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from miscompute import InvalidInput, nvdla
from miscompute.fault import (
    SITES,
    ActivationRegister,
    AdderNode,
    CellOutput,
    Fault,
    Flip,
    Product,
    ProductTable,
    SetTo,
    Site,
    StuckAt,
    Transient,
    WeightRegister,
    parse_fault,
)
from miscompute.reference import CoreResult, convolve
from miscompute.validation._vectors import SITES as VECTOR_SITES

Array64 = NDArray[np.float64]


@pytest.mark.usefixtures("unchecked")  # of types, which costs more than the computation
@pytest.mark.parametrize(("file", "faults"), [("mac_int8", 792), ("conv_int8_8x8", 1000), ("conv_int8_64x32", 190)])
def test_agrees_with_rtl(vectors: Path, file: str, faults: int) -> None:
    with np.load(vectors / f"{file}.npz", allow_pickle=False) as archive:
        data = dict(archive)
    array = nvdla(rows=int(data["C"]), cols=int(data["K"]), format="int8")
    compared = 0
    for index, layer in enumerate(json.loads(str(data["layers"]))):
        pad = layer.get("pad", [0, 0])
        frame = ((0, 0), *((p, p) for p in pad))
        # The padding value is a word like others; the core's own padding is zero.
        x = np.pad(data[f"x{index}"].astype(np.float64), frame, constant_values=layer.get("padv", 0))[None]
        w = data[f"w{index}"].astype(np.float64)
        stride, dilation = tuple(layer.get("stride", [1, 1])), tuple(layer.get("dil", [1, 1]))
        healthy = convolve(array, None, w, x, stride=stride, padding=(0, 0), dilation=dilation)
        np.testing.assert_array_equal(healthy.result[0], data[f"y_ref{index}"])
        for row, expected in zip(np.flatnonzero(data["f_layer"] == index), data[f"y_fault{index}"], strict=True):
            site, *place = (data[f"f_{field}"][row] for field in ("site", "c", "k", "addr"))
            fault = Fault(
                site=VECTOR_SITES[str(site)](*map(int, place)),
                effect=StuckAt(bit=int(data["f_bit"][row]), value=int(data["f_val"][row])),
            )
            core = convolve(array, fault, w, x, stride=stride, padding=(0, 0), dilation=dilation)
            np.testing.assert_array_equal(core.result[0], expected, err_msg=f"{layer['name']}: {fault}")
            assert (core.result == healthy.result)[~core.touched].all()
            compared += 1
    assert compared == faults


def _cycle(*, oc: int, ic: int, tap: int, pixel: int, out: int, sizes: tuple[int, int, int]) -> tuple[int, int]:
    """Count the atomic operations before one, and those of its kernel position that are left in its stripe."""
    channels, taps, pixels = sizes
    array, cycle = nvdla(rows=8, cols=8), 0
    for group in range(0, out, 8):
        for stripe in array.stripes(pixels):
            for block in range(0, channels, 8):
                for position in range(taps):
                    if (group, block, position) == (oc - oc % 8, ic - ic % 8, tap) and pixel in stripe:
                        return cycle + pixel - stripe.start, stripe.stop - pixel
                    cycle += len(stripe)
    raise AssertionError


@pytest.mark.usefixtures("unchecked")
def test_transients_agree_with_rtl(vectors: Path) -> None:
    with np.load(vectors / "transient_8x8.npz", allow_pickle=False) as archive:
        data = dict(archive)
    x, w = data["x"].astype(np.float64)[None], data["w"].astype(np.float64)
    array = nvdla(rows=8, cols=8, format="int8")
    arguments: dict[str, Any] = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    np.testing.assert_array_equal(convolve(array, None, w, x, **arguments).result[0], data["y_ref"])
    for row, kind in enumerate(data["type"]):
        lane, cell, bit, oc, ic, r, s, oh, ow = (
            int(data[f][row]) for f in ("c", "k", "bit", "oc", "ic", "r", "s", "oh", "ow")
        )
        sites: dict[str, Site] = {
            "w_set": WeightRegister(row=lane, col=cell),
            "w_seu": WeightRegister(row=lane, col=cell),
            "x_set": ActivationRegister(row=lane, col=cell),
            "psum_set": CellOutput(col=cell),
        }
        cycle, left = _cycle(oc=oc, ic=ic, tap=r * 3 + s, pixel=oh * 6 + ow, out=16, sizes=(16, 9, 36))
        assert left == data["n_pixels"][row] or kind != "w_seu"
        timing = Transient(
            step=0, pass_="forward", layer="c", cycle=cycle, until="reload" if kind == "w_seu" else "cycle"
        )
        fault = Fault(site=sites[str(kind)], effect=Flip(bits=(bit,)), timing=timing)
        core = convolve(array, fault, w, x, **arguments)
        np.testing.assert_array_equal(core.result[0], data["y_fault"][row], err_msg=f"row {row}: {fault}")
        assert core.touched.sum() <= left
    assert len(data["type"]) == 250


def _matrix(
    fault: str | Fault | None,
    stationary: list[list[float]],
    streaming: list[list[float]],
    *,
    zero_gate: bool = True,
    format: str = "int8",
) -> CoreResult:
    """Multiply on a 2 x 2 core: ``stationary`` (cell, lane), ``streaming`` (pixel, lane)."""
    held, passing = np.array(stationary, dtype=np.float64), np.array(streaming, dtype=np.float64)
    return convolve(
        nvdla(rows=2, cols=2, format=format, zero_gate=zero_gate),
        parse_fault(fault) if isinstance(fault, str) else fault,
        held[:, :, None],
        passing.T[None],
        stride=(1,),
        padding=(0,),
        dilation=(1,),
    )


W = [[1.0, 0.0], [2.0, 3.0], [0.0, 4.0]]
X = [[1.0, 1.0], [0.0, 5.0]]


@pytest.mark.parametrize(
    ("fault", "zero_gate", "expected"),
    [
        (None, True, [[1, 0], [5, 15], [4, 20]]),
        # Bit 4 adds 16 to each small number. Lane 0 of cell 0 holds the first and the third row's first weight; the
        # third is zero, and the second pixel's word for it is zero.
        ("weight[0,0] bit 4 flip", True, [[17, 0], [5, 15], [4, 20]]),
        ("weight[0,0] bit 4 flip", False, [[17, 0], [5, 15], [20, 20]]),
        ("weight-shadow[0,1] bit 4 flip", True, [[1, 0], [21, 15], [4, 20]]),
        ("weight-bus[0] bit 4 flip", True, [[17, 0], [21, 15], [4, 20]]),
        ("weight-bus-half[0,1] bit 4 flip", True, [[1, 0], [21, 15], [4, 20]]),
        ("weight-bus-before-detector[0] bit 4 flip", True, [[17, 0], [21, 15], [20, 20]]),
        # Lane 1: cell 0 sees 17 and 21 in place of 1 and 5, where its weight is not zero.
        ("activation[1,0] bit 4 flip", True, [[1, 0], [5, 15], [68, 84]]),
        ("activation[0,1] bit 4 flip", True, [[1, 0], [37, 15], [4, 20]]),
        ("activation[0,1] bit 4 flip", False, [[1, 0], [37, 47], [4, 20]]),
        ("activation-half[1,1] bit 4 flip", True, [[1, 0], [53, 63], [4, 20]]),
        ("activation-all[1] bit 4 flip", True, [[1, 0], [53, 63], [68, 84]]),
    ],
)
def test_products_of_a_faulty_register(fault: str | None, zero_gate: bool, expected: list[list[int]]) -> None:
    assert _matrix(fault, W, X, zero_gate=zero_gate).result[0].tolist() == expected


IN_CYCLE = "transient step 0 pass forward layer fc cycle"
LONG_W = [[1.0, 2.0, 4.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]  # (cell, channel): two blocks of two lanes, two groups
LONG_X = [[1.0, 1.0, 1.0], [0.0, 3.0, 1.0]]  # (pixel, channel)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, [[7, 10], [3, 4], [1, 0]]),
        # Lane 1 of the second block is unused, of zeros: its product is wrong too. So are products of gated zeros.
        ("product[1,0] bit 4 flip", [[7 + 32, 10 + 32], [3, 4], [1 + 32, 0 + 32]]),
        ("product[0,1] bit 4 flip", [[7, 10], [3 + 32, 4 + 32], [1, 0]]),
        ("adder[1,0] bit 0 stuck-at 1", [[3 + 5, 7 + 5], [3, 4], [1 + 1, 1 + 1]]),  # on 3, 4; 6, 4; 1, 0; 0, 0
        ("cell[0] bit 0 stuck-at 1", [[8, 12], [3, 4], [2, 2]]),  # the root is the only node of two lanes
        ("accumulator[0] bit 3 stuck-at 1", [[11 + 4, 14 + 4], [3, 4], [9, 8]]),  # on 3, 6, 1, 0: not on the last sum
        ("accumulator-entry[1,0] bit 3 stuck-at 1", [[7, 14 + 4], [3, 4], [1, 8]]),
        ("output[1] bit 3 stuck-at 1", [[7, 10], [11, 12], [1, 0]]),
        ("valid[0,0] bit 0 stuck-at 0", [[2, 6], [3, 4], [0, 0]]),
        ("valid[0,0] bit 0 stuck-at 1", [[7, 10], [3, 4], [1, 0]]),
        # Cycles: the first group: block 0: 0, 1; block 1: 2, 3; the second: 4 to 7. Each is pixel 0, pixel 1.
        (f"product[1,0] bit 4 flip {IN_CYCLE} 3", [[7, 26], [3, 4], [1, 0]]),
        (f"adder[0,0] bit 4 flip {IN_CYCLE} 4", [[7, 10], [3, 4], [17, 0]]),
        (f"cell[1] bit 4 flip {IN_CYCLE} 0", [[7, 10], [19, 4], [1, 0]]),
        (f"cell[1] bit 4 flip {IN_CYCLE} 4", [[7, 10], [3, 4], [1, 0]]),  # that cell is off
        (f"accumulator[0] bit 3 stuck-at 1 {IN_CYCLE} 1", [[7, 18], [3, 4], [1, 0]]),
        (f"accumulator[0] bit 3 stuck-at 1 {IN_CYCLE} 2", [[7, 10], [3, 4], [1, 0]]),
        (f"accumulator-entry[0,0] bit 3 stuck-at 1 {IN_CYCLE} 1", [[7, 10], [3, 4], [1, 0]]),
        (f"output[0] bit 4 flip {IN_CYCLE} 7", [[7, 10], [3, 4], [1, 16]]),
        (f"output[0] bit 4 flip {IN_CYCLE} 5", [[7, 10], [3, 4], [1, 0]]),
        (f"valid[1,0] bit 0 flip {IN_CYCLE} 1", [[7, 4], [3, 4], [1, 0]]),
        (f"valid[1,0] bit 0 flip {IN_CYCLE} 0 until reload", [[5, 4], [3, 4], [1, 0]]),
        (f"activation-all[0] bit 4 flip {IN_CYCLE} 0", [[7 + 16, 10], [3 + 16, 4], [1, 0]]),
        (f"activation-all[0] bit 4 flip {IN_CYCLE} 1", [[7, 10], [3, 4], [1, 0]]),  # a zero passes
        (f"weight[1,0] bit 4 flip {IN_CYCLE} 0", [[7 + 16, 10], [3, 4], [1, 0]]),
        (f"weight[1,0] bit 4 flip {IN_CYCLE} 0 until reload", [[7 + 16, 10 + 48], [3, 4], [1, 0]]),
        (f"weight[1,0] bit 4 flip {IN_CYCLE} 1 until reload", [[7, 10 + 48], [3, 4], [1, 0]]),
        # The bus loads cell 0 in a block's first cycle and cell 1 in its second; the word is wrong for both pixels.
        (f"weight-bus[1] bit 4 flip {IN_CYCLE} 0", [[7 + 16, 10 + 48], [3, 4], [1, 0]]),
        (f"weight-bus[1] bit 4 flip {IN_CYCLE} 1", [[7, 10], [3 + 16, 4 + 48], [1, 0]]),
        (f"weight-bus-half[1,0] bit 4 flip {IN_CYCLE} 1", [[7, 10], [3, 4], [1, 0]]),
    ],
)
def test_sums_and_cycles(fault: str | None, expected: list[list[int]]) -> None:
    found = _matrix(fault, LONG_W, LONG_X)
    assert found.result[0].tolist() == expected
    assert found.cycles == 8
    assert (found.result == _matrix(None, LONG_W, LONG_X).result)[~found.touched].all()


def test_the_accumulator_saturates() -> None:
    # -1 with bit 33 at 0 is the largest number of 34 bits; one more saturates, and again at 32 bits.
    found = _matrix("accumulator[0] bit 33 stuck-at 0", [[-1.0, 0.0, 1.0]], [[1.0, 1.0, 1.0]])
    assert found.result.tolist() == [[[2.0**31 - 1]]]


def test_a_cell_wraps() -> None:
    # Two lanes make 17 bits: -1 with bit 16 at 0 is 2**16 - 1, and a product of 2**17 - 1 wraps to -1.
    assert _matrix("cell[0] bit 16 stuck-at 0", [[-1.0]], [[1.0]]).result.tolist() == [[[2.0**16 - 1]]]
    assert _matrix("product[0,0] bit 17 stuck-at 0", [[-1.0]], [[1.0]]).result.tolist() == [[[-1.0]]]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (2, 0.0),  # (1e8 + 1) + (-1e8 + 1): neighbours of 1e8 are 8 apart
        (3, 1.0),  # the odd one goes up alone, ((1e8 + 1) - 1e8), and the next block adds 1
        (4, 0.0),
    ],
)
def test_floating_point_sums_are_formed_in_a_tree_in_fp32(rows: int, expected: float) -> None:
    found = convolve(
        nvdla(rows=rows, cols=1, format="fp32"),
        parse_fault("output[0] bit 31 stuck-at 0"),  # on a positive result
        np.ones((1, 4, 1)),
        np.array([1e8, 1.0, -1e8, 1.0])[None, :, None],
        stride=(1,),
        padding=(0,),
        dilation=(1,),
    )
    assert found.result.tolist() == [[[expected]]]


def test_nodes_of_a_ragged_tree() -> None:
    # Five lanes: 0 and 1, 2 and 3, 4 alone; then 0 to 3, 4 alone; then all.
    for level, row, lanes in ((1, 4, 1), (2, 4, 1), (2, 3, 4), (3, 0, 5)):
        found = convolve(
            nvdla(rows=5, cols=1, format="int8"),
            Fault(site=AdderNode(row=row, col=0, level=level), effect=SetTo(value=0.0)),
            np.ones((1, 5, 1)),
            np.ones((1, 5, 1)),
            stride=(1,),
            padding=(0,),
            dilation=(1,),
        )
        assert found.result.tolist() == [[[5.0 - lanes]]], (level, row)


def test_a_table_adds_the_error_of_each_pair() -> None:
    errors = np.zeros((256, 256), dtype=np.int32)
    errors[128 + 2, 128 + 1], errors[128 + 2, 128 + 3], errors[128, 128] = 64, -8, 1000
    fault = Fault(site=Product(row=1, col=0), effect=ProductTable(name="own", errors=errors))
    # Pixels meet weight 2 of the first cell with 1 and 3; in the second block the lane multiplies zeros.
    assert _matrix(fault, LONG_W[:1], LONG_X).result[0].tolist() == [[7 + 64 + 1000, 10 - 8 + 1000]]


def test_a_condition_on_the_word() -> None:
    found = _matrix("weight[0,0] bit 4 flip when 2 is 2", [[1.0], [1.0], [2.0]], [[1.0]])
    assert found.result[0].tolist() == [[1], [1], [18]]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("weight[0,0] random-word seed 1", "does not follow from the word alone"),
        (f"weight-shadow[0,0] bit 0 flip {IN_CYCLE} 0", "a shadow register waits for its stripe"),
        ("adder[0,0,2] bit 0 flip", "level=2 is outside the adder tree"),
        ("accumulator-pe[1,0] bit 0 flip", "row=1 of an accumulator"),
    ],
)
def test_what_no_rule_says_is_refused(fault: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        _matrix(fault, W, X)


def test_a_word_that_a_fault_makes_infinite_is_gated_with_a_zero_partner() -> None:
    fault = "weight[0,0] bit 30 flip"  # 1.0 becomes an infinity
    assert _matrix(fault, [[1.0, 2.0]], [[0.0, 1.0], [1.0, 1.0]], format="fp32").result.tolist() == [[[2.0, np.inf]]]
    ungated = _matrix(fault, [[1.0, 2.0]], [[0.0, 1.0]], format="fp32", zero_gate=False)
    assert np.isnan(ungated.result).all()


def test_negative_zero_is_gated() -> None:
    core = _matrix("weight[0,0] bit 0 stuck-at 1", [[-0.0, 2.0]], [[4.0, 1.0]], format="fp32")
    assert core.result.tolist() == [[[2.0]]]
    assert not core.stationary.reached.any()


def test_words_are_recorded_as_read() -> None:
    core = _matrix("weight[1,0] bit 1 stuck-at 1", W, X)
    assert core.stationary.reached[:, :, 0].tolist() == [[False, False], [False, False], [False, True]]
    assert core.stationary.words[:, :, 0].tolist() == [[1, 0], [2, 3], [0, 6]]
    assert core.stationary.read.all()
    assert not core.streaming.reached.any()
    assert core.streaming.read.all()


@pytest.mark.parametrize(("zero_gate", "reached"), [(True, [True, False]), (False, [True, True])])
def test_a_gated_zero_that_passes_is_not_reached(zero_gate: bool, reached: list[bool]) -> None:
    core = _matrix("activation[0,1] bit 4 flip", W, X, zero_gate=zero_gate)  # of lane 0, the second pixel's is zero
    assert core.streaming.reached.tolist() == [[reached, [False, False]]]


def test_a_zero_partner_does_not_hide_that_a_word_was_read_wrong() -> None:
    core = _matrix("weight[0,0] bit 4 flip", [[1.0, 1.0]], [[0.0, 1.0]])
    assert core.result.tolist() == [[[1.0]]]
    assert core.stationary.reached[:, :, 0].tolist() == [[True, False]]


def test_without_lane_or_cell_nothing_is_reached() -> None:
    for fault in ("weight[1,0] bit 0 flip", "activation-all[1] bit 0 flip"):
        core = _matrix(fault, [[1.0]], [[1.0]])
        assert not core.stationary.reached.any(), fault
        assert not core.streaming.reached.any(), fault
    for fault in ("weight[0,1] bit 0 flip", "activation[0,1] bit 0 flip", "weight-bus-half[0,1] bit 0 flip"):
        core = _matrix(fault, [[1.0]], [[1.0]])
        assert not core.stationary.reached.any(), fault
        assert not core.streaming.reached.any(), fault


def test_padding_is_a_word_like_others() -> None:
    one = np.ones((1, 1, 1))
    core = {
        zero_gate: convolve(
            nvdla(rows=1, cols=1, format="int8", zero_gate=zero_gate),
            parse_fault("activation-all[0] bit 1 flip"),
            one,
            one,
            stride=(1,),
            padding=(1,),
            dilation=(1,),
        )
        for zero_gate in (True, False)
    }
    assert core[True].result.tolist() == [[[0, 3, 0]]]
    assert core[False].result.tolist() == [[[2, 3, 2]]]
    assert core[False].streaming.reached.tolist() == [[[True]]]


def test_a_stripe_swizzle_counts_stripes_through_the_images() -> None:
    # cols=1: stripes of 2 pixels, three an image. Lane of channel 0: (step + stripe) mod 2.
    core = convolve(
        nvdla(rows=2, cols=1, format="int8", swizzle="stripe"),
        parse_fault("weight[0,0] bit 4 flip"),
        np.array([[1.0, 0.0], [1.0, 0.0]])[:, :, None],  # two kernel groups: each counts from 0
        np.ones((3, 2, 5)),
        stride=(1,),
        padding=(0,),
        dilation=(1,),
    )
    stripes = nvdla(rows=2, cols=1).stripes(5)
    assert [len(stripe) for stripe in stripes] == [2, 1, 2]
    # Image 0: stripes 0, 1, 2; image 1: stripes 3, 4, 5; image 2: stripes 6, 7, 8. Even ones put channel 0 on lane 0.
    expected = [[17, 17, 1, 17, 17], [1, 1, 17, 1, 1], [17, 17, 1, 17, 17]]
    assert core.result.tolist() == [[image, image] for image in expected]


@pytest.mark.parametrize(("swizzle", "channel"), [("none", 1), ("step", 0), ("layer", 2), ("stripe", 0)])
def test_a_swizzle_decides_which_channel_meets_the_lane(swizzle: str, channel: int) -> None:
    # Channel i is on lane i, i + step or i + layer, mod 4: `channel` meets lane 1. Channel 4 starts a new block.
    core = convolve(
        nvdla(rows=4, cols=2, format="int8", swizzle=swizzle),
        Fault(site=WeightRegister(row=1, col=0), effect=Flip(bits=(0,))),
        np.ones((1, 7, 1)),
        np.ones((1, 7, 1)),
        stride=(1,),
        padding=(0,),
        dilation=(1,),
        step=1,
        layer_index=3,
    )
    assert np.flatnonzero(core.stationary.reached).tolist() == [c for c in (channel, channel + 4) if c < 7]


def test_an_inactive_fault_does_nothing() -> None:
    one = np.ones((1, 1, 1))
    fault = parse_fault("weight[0,0] bit 4 flip")
    core = convolve(
        nvdla(rows=1, cols=1, format="int8"),
        fault,
        one,
        one,
        stride=(1,),
        padding=(0,),
        dilation=(1,),
        active=False,
    )
    assert core.result.tolist() == [[[1.0]]]
    assert not core.stationary.reached.any()


@pytest.mark.parametrize("word", SITES)
def test_knows_every_site_of_the_arithmetic(word: str) -> None:
    at = {"name": "name", "state": "state", "level": 1, "length": 1}
    site = SITES[word].build(**{field: at.get(field, 0) for field in SITES[word].indices})
    fault = Fault(site=site, effect=Flip(bits=(0,)))
    if "memory" in word or "elements" in word:
        with pytest.raises(InvalidInput, match="is no place of the Nvdla array"):
            _matrix(fault, W, X)
    else:
        assert _matrix(fault, [[*cell, 1.0] for cell in W], [[*pixel, 1.0] for pixel in X]).touched.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"array": nvdla(rows=2, cols=2)}, "array has format=None"),
        ({"stationary": np.ones((2, 3))}, "same number of spatial dimensions"),
        ({"stride": (1, 1)}, "same number of spatial dimensions"),
        (
            {"stationary": np.ones((2, 2, 1))},
            "stationary (2, 2, 1) and streaming (1, 3, 4) must have the same",
        ),
        ({"stationary": np.ones((2, 3, 5))}, "does not fit into streaming (1, 3, 4)"),
        ({"fault": parse_fault("weight[2,0] bit 0 flip")}, "row=2 is outside the 2 x 2 array"),
        ({"fault": parse_fault("weight[0,0] bit 8 flip")}, "bit=8 is outside int8"),
    ],
)
def test_what_cannot_be_computed_is_refused(changes: dict[str, object], message: str) -> None:
    arguments = {
        "array": nvdla(rows=2, cols=2, format="int8"),
        "fault": None,
        "stationary": np.ones((2, 3, 1)),
        "streaming": np.ones((1, 3, 4)),
        "stride": (1,),
        "padding": (0,),
        "dilation": (1,),
        **changes,
    }
    with pytest.raises(InvalidInput, match=re.escape(message)):
        convolve(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weight[0,0] bit 1 stuck-at 1", [7, 5, 5]),  # 5 reads 7: the low byte of the first cell
        ("weight[0,0] bit 9 stuck-at 1", [5, 7, 5]),  # its high byte
        ("weight[0,1] bit 1 stuck-at 1", [5, 5, 7]),
        ("weight[0,1] bit 9 stuck-at 1", [5, 5, 5]),  # nothing is there
        ("weight-bus[0] bit 1 stuck-at 1", [7, 5, 7]),
        ("weight-bus[0] bits 1,9 flip", [7, 7, 7]),
        ("valid[0,0] bit 1 stuck-at 0", [5, 0, 5]),
        ("activation[0,0] bit 1 stuck-at 1", [15, 15, 5]),  # 1 reads 3, in both
        ("product[0,0] bit 18 flip", [5, 4, 5]),  # of 18 bits each
        ("cell[1] bit 0 flip", [5, 5, 4]),
        ("output[0] bit 33 flip", [5, 7, 5]),  # of 32 bits each
        ("output[0] bits 1,33 flip", [7, 7, 5]),
    ],
)
def test_two_kernels_share_a_cell(text: str, expected: list[int]) -> None:
    array = nvdla(rows=1, cols=2, format="int8", packs_two=True)
    kernels, pixel = np.full((3, 1, 1), 5.0), np.ones((1, 1, 1))
    core = convolve(array, parse_fault(text), kernels, pixel, stride=(1,), padding=(0,), dilation=(1,))
    assert core.result[0, :, 0].tolist() == expected


def test_a_zero_is_gated_by_itself_where_two_kernels_share_a_word() -> None:
    array = nvdla(rows=1, cols=1, format="int8", packs_two=True)
    kernels, pixel = np.array([0.0, 5.0]).reshape(2, 1, 1), np.ones((1, 1, 1))
    core = convolve(
        array, parse_fault("weight[0,0] bits 1,9 flip"), kernels, pixel, stride=(1,), padding=(0,), dilation=(1,)
    )
    assert core.result[0, :, 0].tolist() == [0, 7]
