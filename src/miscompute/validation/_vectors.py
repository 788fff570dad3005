"""Vectors of RTL simulation: NumPy archives of stimulus and faulty outputs.

An archive is known by the arrays it holds, whatever its name:

- ``f_site``: permanent stuck-at faults on int8 layers, ``x{i}``, ``w{i}``, ``y_ref{i}``, ``y_fault{i}``, with a table
  of faults (``f_layer f_site f_c f_k f_bit f_val f_addr``), ``layers`` as JSON, ``C`` and ``K``;
- ``n_pixels``: transients on one int8 layer (``type k c bit oc ic r s oh ow``), ``x``, ``w``, ``pad``, ``y_fault``;
- ``out_faulty``: fp16 MAC cells, ``w``, ``x``, ``out_ref``, ``out_faulty``, ``kind lane bit val``;
- ``err``: error tables of int8 multipliers, indexed by weight + 128 and activation + 128.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from .._invalid import InvalidInput
from ..fault import (
    Accumulator,
    ActivationRegister,
    AdderNode,
    CellOutput,
    Fault,
    FinalOutput,
    Flip,
    Product,
    ProductTable,
    Site,
    StuckAt,
    Transient,
    WeightBus,
    WeightRegister,
)
from ..formats import BlockWords, to_block
from ..hardware import Layer, Moment, Nvdla, nvdla
from ..injection import inject
from ..reference import fp16_mac, misread_register
from ._agreement import Agreement, Report, Tally, silent

Archive = Mapping[str, NDArray[Any]]


def check_vectors(folder: Path, *, report: Report = silent) -> tuple[Agreement, ...]:
    """Reproduce every vector in a folder.

    Args:
        folder: holds ``*.npz`` archives.
        report: told how many archives are done, of how many.

    Returns:
        How many vectors agree, by archive and site.

    Raises:
        InvalidInput: if there is none, or one cannot be read or is of no known layout.
    """
    paths = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not paths:
        raise InvalidInput(f"vectors={str(folder)!r} holds no .npz archive; name a folder of RTL vectors")
    found: list[Agreement] = []
    for done, path in enumerate(paths):
        report(done, len(paths))
        archive = _read(path)
        check = next((check for key, check in LAYOUTS.items() if key in archive), None)
        if check is None:
            raise InvalidInput(f"vectors: {path.name} is of no known layout; it holds {', '.join(sorted(archive)[:8])}")
        tally = Tally(path.stem)
        try:
            check(archive, tally)
        except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
            raise InvalidInput(f"vectors: {path.name} is damaged or incomplete ({error})") from error
        found += tally.agreements()
    report(len(paths), len(paths))
    return tuple(found)


def _read(path: Path) -> Archive:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"vectors: {path.name} cannot be read ({error})") from error


SITES: Mapping[str, Callable[[int, int, int], Site]] = MappingProxyType(
    {
        "weight_reg": lambda c, k, _: WeightRegister(row=c, col=k),
        "weight_shadow": lambda c, k, _: WeightRegister(row=c, col=k, stage="shadow"),
        "act_reg_cell": lambda c, k, _: ActivationRegister(row=c, col=k),
        "act_reg_half": lambda c, k, _: ActivationRegister(row=c, col=k, reach="half"),
        "act_reg_all": lambda c, _, __: ActivationRegister(row=c, reach="all"),
        "weight_bus_half": lambda c, k, _: WeightBus(row=c, col=k, reach="half"),
        "weight_bus_all": lambda c, _, __: WeightBus(row=c),
        "weight_bus_all_prezero": lambda c, _, __: WeightBus(row=c, before_zero_detector=True),
        "product": lambda c, k, _: Product(row=c, col=k),
        "adder_node": lambda c, k, _: AdderNode(row=c, col=k),
        "adder_root": lambda _, k, __: CellOutput(col=k),
        "cell_out": lambda _, k, __: CellOutput(col=k),
        "accumulator": lambda _, k, __: Accumulator(col=k),
        "accumulator_entry": lambda _, k, address: Accumulator(col=k, address=address),
        "final_out": lambda _, k, __: FinalOutput(col=k),
    }
)
"""The sites of the vectors, by their names: from lane, cell and address."""


def _check_permanent(archive: Archive, tally: Tally) -> None:
    array = nvdla(rows=int(archive["C"]), cols=int(archive["K"]), format="int8")
    layers = [_Conv(archive, number, layer) for number, layer in enumerate(json.loads(str(archive["layers"])))]
    for number, conv in enumerate(layers):
        same = np.array_equal(conv(None, array), archive[f"y_ref{number}"])
        tally.add("no fault", f"layer {number}", agrees=same)
    rows_of = [0] * len(layers)
    for row, number in enumerate(archive["f_layer"].tolist()):
        name = str(archive["f_site"][row])
        if name not in SITES:
            raise InvalidInput(f"f_site={name!r} of row {row} is unknown; choose one of {', '.join(SITES)}")
        c, k, bit, value, address = (int(archive[f"f_{field}"][row]) for field in ("c", "k", "bit", "val", "addr"))
        fault = Fault(site=SITES[name](c, k, address), effect=StuckAt(bit=bit, value=value))
        expected = archive[f"y_fault{number}"][rows_of[number]]
        rows_of[number] += 1
        same = np.array_equal(layers[number](fault, array), expected)
        tally.add(name, f"row {row}: {fault}, layer {number}", agrees=same)


class _Conv:
    """A layer of an archive, run through injection; padding that is not zero is part of its input."""

    def __init__(self, archive: Archive, number: int, layer: dict[str, Any]) -> None:
        down, across = layer.get("pad", [0, 0])
        x = torch.from_numpy(archive[f"x{number}"]).double()[None]
        self._x = F.pad(x, (across, across, down, down), value=layer.get("padv", 0))
        weight = torch.from_numpy(archive[f"w{number}"]).double()
        oc, ic, r, s = weight.shape
        stride, dilation = layer.get("stride", [1, 1]), layer.get("dil", [1, 1])
        self._conv = torch.nn.Conv2d(ic, oc, (r, s), tuple(stride), dilation=tuple(dilation), bias=False)
        self._conv.weight = torch.nn.Parameter(weight)

    def __call__(self, fault: Fault | None, array: Nvdla) -> NDArray[Any]:
        """Compute the output, (oc, oh, ow)."""
        return _output(self._conv, self._x, fault, array)


def _output(model: torch.nn.Module, x: torch.Tensor, fault: Fault | None, array: Nvdla) -> NDArray[Any]:
    with torch.no_grad():
        if fault is None:
            return np.asarray(model(x)[0])
        with inject(model, fault, array=array):
            return np.asarray(model(x)[0])


def _check_transients(archive: Archive, tally: Tally) -> None:
    rows, cols = (int(archive[name]) if name in archive else 8 for name in ("C", "K"))
    array = nvdla(rows=rows, cols=cols, format="int8")
    x, weight = (torch.from_numpy(archive[name]).double() for name in ("x", "w"))
    oc, ic, r, s = weight.shape
    pad = tuple(int(side) for side in np.broadcast_to(archive["pad"], 2))
    conv = torch.nn.Conv2d(ic, oc, (r, s), padding=(pad[0], pad[1]), bias=False)
    conv.weight = torch.nn.Parameter(weight)
    model = torch.nn.Sequential(conv)
    layer = Layer(name="0", n=1, ic=ic, oc=oc, size=(x.shape[1], x.shape[2]), kernel=(r, s), padding=(pad[0], pad[1]))
    tally.add("no fault", "y_ref", agrees=np.array_equal(_output(model, x[None], None, array), archive["y_ref"]))
    for row in range(len(archive["type"])):
        kind = str(archive["type"][row])
        fault, lasts = _transient(archive, row, array, layer)
        same = np.array_equal(_output(model, x[None], fault, array), archive["y_fault"][row])
        tally.add(kind, f"row {row}: {fault}", agrees=same and lasts == int(archive["n_pixels"][row]))


def _transient(archive: Archive, row: int, array: Nvdla, layer: Layer) -> tuple[Fault, int]:
    """Give a transient, and how many positions it lasts."""
    kind = str(archive["type"][row])
    at = {name: int(archive[name][row]) for name in ("k", "c", "bit", "oc", "ic", "r", "s", "oh", "ow")}
    sites: dict[str, Callable[[], Site]] = {
        "w_set": lambda: WeightRegister(row=at["c"], col=at["k"]),
        "w_seu": lambda: WeightRegister(row=at["c"], col=at["k"]),
        "x_set": lambda: ActivationRegister(row=at["c"], col=at["k"]),
        "psum_set": lambda: CellOutput(col=at["k"]),
    }
    if kind not in sites:
        raise InvalidInput(f"type={kind!r} of row {row} is unknown; choose one of {', '.join(sites)}")
    schedule = array.schedule(layer, "forward")
    pixel = at["oh"] * layer.out_size[1] + at["ow"]
    stripe = schedule.stripe_of(pixel)
    moment = Moment(
        group=at["oc"] // array.cols,
        image=0,
        stripe=stripe,
        block=at["ic"] // array.rows,
        tap=at["r"] * layer.kernel[1] + at["s"],
        pixel=pixel,
    )
    until: Literal["cycle", "reload"] = "reload" if kind == "w_seu" else "cycle"
    timing = Transient(step=0, pass_="forward", layer="0", cycle=schedule.cycle(moment), until=until)
    fault = Fault(site=sites[kind](), effect=Flip(bits=(at["bit"],)), timing=timing)
    return fault, schedule.stripes[stripe].stop - pixel if kind == "w_seu" else 1


def _check_fp16(archive: Archive, tally: Tally) -> None:
    weights, activations = (_block_words(archive[name]) for name in ("w", "x"))
    for row in range(len(archive["kind"])):
        kind, own, passing = str(archive["kind"][row]), _row(weights, row), _row(activations, row)
        tally.add("no fault", f"row {row}", agrees=_is_output(own, passing, archive["out_ref"][row]))
        if kind not in _REGISTERS:
            raise InvalidInput(f"kind={kind!r} of row {row} is unknown; choose one of {', '.join(_REGISTERS)}")
        register = _REGISTERS[kind]
        if register is not None:
            bit, value, lane = (int(archive[name][row]) for name in ("bit", "val", "lane"))
            effect = StuckAt(bit=bit, value=value)
            own = _stacked(misread_register(_unstacked(own), lane=lane, register=register, effect=effect))
        tally.add(kind, f"row {row}", agrees=_is_output(own, passing, archive["out_faulty"][row]))


_REGISTERS: Mapping[str, Literal["mantissa", "exponent"] | None] = MappingProxyType(
    {"mts": "mantissa", "exp": "exponent", "ieee": None}  # of an IEEE word, the weight is given as it was read
)


def _block_words(halves: NDArray[Any]) -> BlockWords:
    return to_block(halves.view(np.uint16).astype(np.uint64))


def _row(words: BlockWords, row: int) -> BlockWords:
    return BlockWords(**{name: values[row : row + 1] for name, values in vars(words).items()})


def _unstacked(words: BlockWords) -> BlockWords:
    return BlockWords(**{name: values[0] for name, values in vars(words).items()})


def _stacked(words: BlockWords) -> BlockWords:
    return BlockWords(**{name: values[None] for name, values in vars(words).items()})


def _is_output(weights: BlockWords, activations: BlockWords, outputs: NDArray[Any]) -> bool:
    """Compare with outputs of 44 bits: [43:38] shared exponent, [37:0] signed sum."""
    found = fp16_mac(weights, activations)
    outputs = outputs.astype(np.uint64)
    signed = (outputs << np.uint64(26)).view(np.int64) >> 26
    return np.array_equal(found.exponent[0], outputs >> np.uint64(38)) and np.array_equal(found.sum[0], signed)


def _check_multipliers(archive: Archive, tally: Tally) -> None:
    """Inject each table into a core of one multiplier, and multiply all pairs of operands there."""
    array, numbers = nvdla(rows=1, cols=1, format="int8"), torch.arange(-128.0, 128.0, dtype=torch.float64)
    linear = torch.nn.Linear(1, 256, bias=False)
    linear.weight = torch.nn.Parameter(numbers[:, None])
    exact = np.outer(np.arange(-128, 128), np.arange(-128, 128))
    for row, errors in enumerate(archive["err"]):
        table = ProductTable(name=f"row {row}", errors=np.asarray(errors, dtype=np.int32))
        fault = Fault(site=Product(row=0, col=0), effect=table)
        with torch.no_grad(), inject(linear, fault, array=array):
            found = linear(numbers[:, None]).numpy().T  # (x, w) -> (w, x)
        is_gated = not errors[128].any() and not errors[:, 128].any()  # a product with a zero is never wrong
        tally.add("multiplier net", f"row {row}", agrees=is_gated and np.array_equal(found, exact + errors))


LAYOUTS: Mapping[str, Callable[[Archive, Tally], None]] = MappingProxyType(
    {
        "f_site": _check_permanent,
        "n_pixels": _check_transients,
        "out_faulty": _check_fp16,
        "err": _check_multipliers,
    }
)
"""How an archive is checked, by an array that only its layout has."""
