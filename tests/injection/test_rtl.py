"""Injection against cycle-accurate simulation of NVDLA: every int8 vector of an operand site, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from miscompute import ActivationRegister, Fault, StuckAt, WeightBus, WeightRegister, inject, nvdla
from miscompute.fault import Site

pytestmark = pytest.mark.usefixtures("one_thread")

SITES = (
    "weight_reg",
    "weight_shadow",
    "act_reg_cell",
    "act_reg_half",
    "act_reg_all",
    "weight_bus_half",
    "weight_bus_all",
    "weight_bus_all_prezero",
)


def site_of(name: str, lane: int, cell: int) -> Site:
    match name:
        case "weight_reg":
            return WeightRegister(row=lane, col=cell)
        case "weight_shadow":
            return WeightRegister(row=lane, col=cell, stage="shadow")
        case "act_reg_cell":
            return ActivationRegister(row=lane, col=cell)
        case "act_reg_half":
            return ActivationRegister(row=lane, col=cell, reach="half")
        case "act_reg_all":
            return ActivationRegister(row=lane, reach="all")
        case "weight_bus_half":
            return WeightBus(row=lane, col=cell, reach="half")
        case "weight_bus_all":
            return WeightBus(row=lane)
        case _:
            return WeightBus(row=lane, before_zero_detector=True)


@pytest.mark.parametrize(("file", "faults"), [("mac_int8", 652), ("conv_int8_8x8", 650), ("conv_int8_64x32", 130)])
def test_every_vector_of_an_operand_site(vectors: Path, file: str, faults: int) -> None:
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
        if name not in SITES:
            continue
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
            site=site_of(name, int(table["f_c"][row]), int(table["f_k"][row])),
            effect=StuckAt(bit=int(table["f_bit"][row]), value=int(table["f_val"][row])),
        )
        with torch.no_grad(), inject(conv, fault, array=array):
            y = conv(x)[0]
        np.testing.assert_array_equal(y.numpy(), expected, err_msg=f"row {row}: {fault}")
        compared += 1
    assert compared == faults
