"""The reference core against cycle-accurate RTL simulation, bit for bit, and its own rules on small cases."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from miscompute import InvalidInput, nvdla
from miscompute.fault import (
    SITES,
    ActivationRegister,
    Fault,
    Flip,
    Site,
    StuckAt,
    WeightBus,
    WeightRegister,
    parse_fault,
)
from miscompute.reference import CoreResult, convolve

Array64 = NDArray[np.float64]


def _site(name: str, *, row: int, col: int) -> Site | None:
    """Translate a site of the vectors; None if the core does not know it."""
    match name:
        case "weight_reg":
            return WeightRegister(row=row, col=col)
        case "weight_shadow":
            return WeightRegister(row=row, col=col, stage="shadow")
        case "weight_bus_half":
            return WeightBus(row=row, col=col, reach="half")
        case "weight_bus_all":
            return WeightBus(row=row)
        case "weight_bus_all_prezero":
            return WeightBus(row=row, before_zero_detector=True)
        case "act_reg_cell":
            return ActivationRegister(row=row, col=col)
        case "act_reg_half":
            return ActivationRegister(row=row, col=col, reach="half")
        case "act_reg_all":
            return ActivationRegister(row=row, reach="all")
    return None


VECTORS = {"mac_int8": 652, "conv_int8_8x8": 650, "conv_int8_64x32": 130}
"""How many faults at sites the core knows each file holds."""


@pytest.mark.parametrize("file", VECTORS)
def test_agrees_with_rtl(vectors: Path, file: str) -> None:
    data = np.load(vectors / f"{file}.npz", allow_pickle=False)
    array = nvdla(rows=int(data["C"]), cols=int(data["K"]), format="int8")
    faults = 0
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
            site = _site(str(data["f_site"][row]), row=int(data["f_c"][row]), col=int(data["f_k"][row]))
            if site is None:
                continue
            effect = StuckAt(bit=int(data["f_bit"][row]), value=int(data["f_val"][row]))
            fault = Fault(site=site, effect=effect)
            core = convolve(array, fault, w, x, stride=stride, padding=(0, 0), dilation=dilation)
            np.testing.assert_array_equal(core.result[0], expected, err_msg=f"{layer['name']}: {fault}")
            faults += 1
    assert faults == VECTORS[file]


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
def test_knows_every_operand_site(word: str) -> None:
    site = SITES[word].build(**dict.fromkeys(SITES[word].indices, 0))
    core = _matrix(Fault(site=site, effect=Flip(bits=(0,))), W, X)
    assert core.stationary.reached.any() or core.streaming.reached.any()


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
