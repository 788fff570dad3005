"""Injection against cycle-accurate simulation of NVDLA: every int8 vector, bit for bit."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from miscompute import Fault, Flip, Layer, StuckAt, Transient, inject, nvdla
from miscompute.fault import (
    Accumulator,
    ActivationRegister,
    AdderNode,
    CellOutput,
    FinalOutput,
    Product,
    Site,
    WeightBus,
    WeightRegister,
)
from miscompute.hardware import Moment

pytestmark = pytest.mark.usefixtures("one_thread")


def site_of(name: str, lane: int, cell: int, address: int) -> Site:
    sites: dict[str, Site] = {
        "weight_reg": WeightRegister(row=lane, col=cell),
        "weight_shadow": WeightRegister(row=lane, col=cell, stage="shadow"),
        "act_reg_cell": ActivationRegister(row=lane, col=cell),
        "act_reg_half": ActivationRegister(row=lane, col=cell, reach="half"),
        "act_reg_all": ActivationRegister(row=lane, reach="all"),
        "weight_bus_half": WeightBus(row=lane, col=cell, reach="half"),
        "weight_bus_all": WeightBus(row=lane),
        "weight_bus_all_prezero": WeightBus(row=lane, before_zero_detector=True),
        "product": Product(row=lane, col=cell),
        "adder_node": AdderNode(row=lane, col=cell),
        "adder_root": CellOutput(col=cell),
        "cell_out": CellOutput(col=cell),
        "accumulator": Accumulator(col=cell),
        "accumulator_entry": Accumulator(col=cell, address=max(address, 0)),
        "final_out": FinalOutput(col=cell),
    }
    return sites[name]


@pytest.mark.parametrize(("file", "faults"), [("mac_int8", 792), ("conv_int8_8x8", 1000), ("conv_int8_64x32", 190)])
def test_every_vector_of_a_permanent_fault(vectors: Path, file: str, faults: int) -> None:
    with np.load(vectors / f"{file}.npz", allow_pickle=False) as archive:
        table = dict(archive)
    array = nvdla(rows=int(table["C"]), cols=int(table["K"]), format="int8")
    layers = json.loads(str(table["layers"]))
    rows_before = dict.fromkeys(range(len(layers)), 0)
    compared = 0
    for row in range(len(table["f_layer"])):
        number = int(table["f_layer"][row])
        expected = table[f"y_fault{number}"][rows_before[number]]
        rows_before[number] += 1
        name = str(table["f_site"][row])
        layer = layers[number]
        down, across = layer.get("pad", [0, 0])
        x = torch.from_numpy(table[f"x{number}"]).double()[None]
        x = F.pad(x, (across, across, down, down), value=layer.get("padv", 0))
        weight = torch.from_numpy(table[f"w{number}"]).double()
        stride, dilation = layer.get("stride", [1, 1]), layer.get("dil", [1, 1])
        oc, ic, *kernel = weight.shape
        conv = torch.nn.Conv2d(ic, oc, (kernel[0], kernel[1]), tuple(stride), dilation=tuple(dilation), bias=False)
        conv.weight = torch.nn.Parameter(weight)
        fault = Fault(
            site=site_of(name, *(int(table[f"f_{index}"][row]) for index in ("c", "k", "addr"))),
            effect=StuckAt(bit=int(table["f_bit"][row]), value=int(table["f_val"][row])),
        )
        with torch.no_grad(), inject(conv, fault, array=array):
            y = conv(x)[0]
        np.testing.assert_array_equal(y.numpy(), expected, err_msg=f"row {row}: {fault}")
        compared += 1
    assert compared == faults


@pytest.mark.filterwarnings("ignore")
def test_every_vector_of_a_transient(vectors: Path) -> None:
    with np.load(vectors / "transient_8x8.npz", allow_pickle=False) as archive:
        table = dict(archive)
    array = nvdla(rows=8, cols=8, format="int8")
    x, weight = torch.from_numpy(table["x"]).double()[None], torch.from_numpy(table["w"]).double()
    layer = Layer(name="0", n=1, ic=16, oc=16, size=(6, 6), kernel=(3, 3), padding=(1, 1))
    schedule = array.schedule(layer, "forward")
    for row in range(len(table["type"])):
        kind = str(table["type"][row])
        k, c, bit, oc, ic, r, s, oh, ow, n_pixels = (
            int(table[name][row]) for name in ("k", "c", "bit", "oc", "ic", "r", "s", "oh", "ow", "n_pixels")
        )
        pixel = oh * 6 + ow
        number = schedule.stripe_of(pixel)
        cycle = schedule.cycle(Moment(group=oc // 8, image=0, stripe=number, block=ic // 8, tap=r * 3 + s, pixel=pixel))
        site: Site = CellOutput(col=k)
        if kind == "x_set":
            site = ActivationRegister(row=c, col=k)
        elif kind in ("w_set", "w_seu"):
            site = WeightRegister(row=c, col=k)
        until: Literal["cycle", "reload"] = "reload" if kind == "w_seu" else "cycle"
        assert n_pixels == (schedule.stripes[number].stop - pixel if kind == "w_seu" else 1)
        fault = Fault(
            site=site,
            effect=Flip(bits=(bit,)),
            timing=Transient(step=0, pass_="forward", layer="0", cycle=cycle, until=until),
        )
        conv = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, padding=1, bias=False))
        conv[0].weight = torch.nn.Parameter(weight)
        with torch.no_grad(), inject(conv, fault, array=array):
            y = conv(x)[0]
        np.testing.assert_array_equal(y.numpy(), table["y_fault"][row], err_msg=f"row {row}: {fault}")
