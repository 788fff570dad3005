"""Injection against the reference array: the operands that are read, and the results of all three passes."""

from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.strategies import Operands, arrays, faults, integers, layers, refused, run
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from miscompute import inject, nvdla, parse_fault
from miscompute.fault import BitOperation, Exposure, Fault, Flip, StuckAt
from miscompute.fault._effect import Masks
from miscompute.formats import Format
from miscompute.hardware import PASSES, Layer, Nvdla, Operand, Pass
from miscompute.injection._passes import LayerOnArray

pytestmark = pytest.mark.usefixtures("one_thread")


class OneLayer(nn.Module):
    """A layer called functionally, with a bias that must not disturb anything."""

    def __init__(self, layer: Layer, weight: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.arange(layer.oc).to(weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not layer.size:
            return F.linear(x, self.weight, self.bias)
        conv: Any = (F.conv1d, F.conv2d, F.conv3d)[len(layer.size) - 1]
        y: Tensor = conv(x, self.weight, self.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        return y


def in_step(model: nn.Module, x: Tensor, grad_output: Tensor) -> dict[Pass, Tensor]:
    y = model(x)
    y.backward(grad_output)
    assert isinstance(model.weight, nn.Parameter)
    assert x.grad is not None
    assert model.weight.grad is not None
    return {"forward": y.detach(), "grad_input": x.grad, "grad_weight": model.weight.grad}


def faulty_step(
    layer: Layer, array: Nvdla, fault: Fault, data: Operands, step: int
) -> tuple[dict[Pass, NDArray[np.float64]], OneLayer]:
    """Train a model of one layer for a step, in float64; give what each pass computed, without the bias."""
    model = OneLayer(layer, torch.from_numpy(data["weight"]))
    x = torch.from_numpy(data["input"]).requires_grad_()
    # The layer's index decides a swizzle that goes by it: let as many layers run before as it says.
    before = [nn.Linear(1, 1).double() for _ in range(layer.index)]
    for other in before:
        nn.init.ones_(other.weight)
    model.before = nn.ModuleList(before)
    kept = {operand: values.copy() for operand, values in data.items()}
    with inject(model, fault, array=array, step=step):
        for other in before:
            other(torch.ones(1, 1, dtype=torch.float64))
        found = in_step(model, x, torch.from_numpy(data["grad_output"]))
    found["forward"] = found["forward"] - torch.arange(layer.oc).double().view(-1, *(1 for _ in layer.size))
    for operand, values in kept.items():  # the tensors share memory with the data
        np.testing.assert_array_equal(data[operand], values)
    return {pass_: result.numpy() for pass_, result in found.items()}, model


def summed_over_positions(data: Operands) -> NDArray[np.float64]:
    grad_output = data["grad_output"]
    return np.asarray(grad_output.sum(axis=tuple(axis for axis in range(grad_output.ndim) if axis != 1)))


@settings(max_examples=120)
@given(st.data())
def test_results_are_those_of_the_faulty_array(draw: st.DataObject) -> None:
    layer, array = draw.draw(layers()), draw.draw(arrays(format="int8", zero_gate=st.booleans()))
    fault, step = draw.draw(faults(array)), draw.draw(st.integers(0, 9))
    assume(not any(refused(fault, array, layer, pass_) for pass_ in PASSES))
    data = integers(layer, draw.draw(st.integers(0, 99)))
    found, model = faulty_step(layer, array, fault, data, step)
    for pass_ in PASSES:
        expected = run(pass_, array, fault, layer, data, step).result
        np.testing.assert_array_equal(found[pass_], expected, err_msg=pass_)  # integers: sums are exact
    assert model.bias.grad is not None
    np.testing.assert_array_equal(model.bias.grad.numpy(), summed_over_positions(data))


@settings(max_examples=75)
@given(st.data())
def test_results_in_floating_point_are_those_of_the_faulty_array(draw: st.DataObject) -> None:
    # Words of the format in a float64 model: sums are float64 on both sides, and differ in their order alone.
    layer = draw.draw(layers())
    array = draw.draw(arrays(format=draw.draw(st.sampled_from(sorted(DTYPES))), zero_gate=st.booleans()))
    format = array.format
    assert format is not None
    # Bits that change a value by a factor of 1 + 2**-4 at least and 2**8 at most: it stays finite, and is missed if it
    # is misread elsewhere.
    visible = {*range(format.mantissa_bits - 4, format.mantissa_bits + 2), format.bits - 1}

    def is_visible(fault: Fault) -> bool:
        return isinstance(fault.effect, BitOperation) and fault.effect.masks(format) in _masks(visible, format)

    fault = draw.draw(faults(array).filter(is_visible))
    step = draw.draw(st.integers(0, 9))
    assume(not any(refused(fault, array, layer, pass_) for pass_ in PASSES))
    random = np.random.default_rng(draw.draw(st.integers(0, 99)))
    data: Operands = {
        operand: format.decode(format.encode(values * random.uniform(0.5, 1.0, size=values.shape)))
        for operand, values in integers(layer, 0).items()
    }
    found, model = faulty_step(layer, array, fault, data, step)
    for pass_ in PASSES:
        expected = run(pass_, array, fault, layer, data, step).result
        # 2**11 products at most, below 2**12 each: rounding by 2**-53 adds up to 2**11 * 2**11 * 2**12 * 2**-53 < 1e-5.
        np.testing.assert_allclose(found[pass_], expected, rtol=0, atol=1e-5, err_msg=pass_)
    assert model.bias.grad is not None
    np.testing.assert_allclose(model.bias.grad.numpy(), summed_over_positions(data), rtol=0, atol=1e-9)


def _masks(bits: set[int], format: Format) -> list[Masks]:
    return [
        effect.masks(format)
        for bit in bits
        for effect in (Flip(bits=(bit,)), StuckAt(bit=bit, value=0), StuckAt(bit=bit, value=1))
    ]


# tf32 and fp8 have no dtype that a layer computes in; tests/injection/test_words.py looks at their words.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WORDS = {32: (torch.int32, np.uint32), 16: (torch.int16, np.uint16)}


def words(tensor: Tensor, format: Format) -> NDArray[np.uint64]:
    if not format.is_float:  # in a float64 model
        return format.encode(tensor.detach().numpy())
    signed, unsigned = WORDS[format.bits]
    return tensor.detach().contiguous().view(signed).numpy().view(unsigned).astype(np.uint64)


@settings(max_examples=75)
@given(st.data())
def test_operands_are_read_as_the_array_reads_them(draw: st.DataObject) -> None:
    layer = draw.draw(layers())
    array = draw.draw(arrays(format=draw.draw(st.sampled_from([*sorted(DTYPES), "int8"])), zero_gate=st.booleans()))
    format = array.format
    assert format is not None
    fault, step = draw.draw(faults(array)), draw.draw(st.integers(0, 9))
    exposure = fault.site.exposure(rows=array.rows, cols=array.cols)
    assert isinstance(exposure, Exposure)
    assert isinstance(fault.effect, BitOperation)
    # Where all results see the same, operands are whole when they are read.
    assume(not array.swizzle.per_stripe)
    assume(exposure.operand == "stationary" or len(exposure.cols) == array.cols)
    assume(str(array.swizzle) != "layer")  # covered by the results above
    assume(not any(refused(fault, array, layer, pass_) for pass_ in PASSES))
    random = torch.Generator().manual_seed(draw.draw(st.integers(0, 99)))
    tensors: dict[Operand, Tensor] = {
        operand: (torch.randn(values.shape, generator=random) * torch.from_numpy(values)).to(DTYPES[format.name])
        if format.is_float
        else torch.from_numpy(values)
        for operand, values in integers(layer, 0).items()
    }
    data: Operands = {operand: tensor.double().numpy() for operand, tensor in tensors.items()}
    model = OneLayer(layer, tensors["weight"])
    seen: dict[Pass, dict[Operand, Tensor]] = {}

    def look(self: LayerOnArray, pass_: Pass, operands: dict[Operand, Tensor], *_: object) -> tuple[Tensor, None]:
        seen[pass_] = {operand: tensor.detach().clone() for operand, tensor in operands.items()}
        shapes = {"forward": "grad_output", "grad_input": "input", "grad_weight": "weight"}
        return torch.zeros_like(tensors[shapes[pass_]]), None  # type: ignore[index]

    with (
        patch.object(LayerOnArray, "_compute", look),
        patch.object(LayerOnArray, "is_hit", lambda _: True),
        inject(model, fault, array=array, step=step),
    ):
        in_step(model, tensors["input"].requires_grad_(), tensors["grad_output"])
    keep, set_, flip = (np.uint64(mask) for mask in fault.effect.masks(format))
    assert set(seen) == set(PASSES)
    for pass_, operands in seen.items():
        answer = run(pass_, array, fault, layer, data, step)
        for operand, tensor in operands.items():
            stored = words(tensors[operand], format)
            wrong = ((stored & keep) | set_) ^ flip
            reading = answer.operands[operand]
            expected = np.where(reading.reached, wrong, stored)
            found = words(tensor, format)
            np.testing.assert_array_equal(found[reading.read], expected[reading.read], err_msg=f"{pass_} {operand}")


@pytest.mark.parametrize("mapping", ["A", "B"])
@pytest.mark.parametrize("text", ["weight[1,2] bit 23 flip", "activation[1,2] bit 22 stuck-at 1"])
def test_floating_point_results_agree_to_rounding(mapping: Literal["A", "B"], text: str) -> None:
    layer = Layer(name="layer", n=5, ic=6, oc=7, size=(6, 5), kernel=(3, 2), padding=(1, 1), stride=(2, 1))
    random = torch.Generator().manual_seed(3)
    tensors: dict[Operand, Tensor] = {
        operand: torch.randn(values.shape, generator=random) for operand, values in integers(layer, 0).items()
    }
    array = nvdla(rows=4, cols=3, format="fp32", grad_weight=mapping)
    fault = parse_fault(text)
    model = OneLayer(layer, tensors["weight"])
    data: Operands = {operand: tensor.double().numpy() for operand, tensor in tensors.items()}
    with inject(model, fault, array=array):
        found = in_step(model, tensors["input"].requires_grad_(), tensors["grad_output"])
    found["forward"] = found["forward"] - torch.arange(7.0).view(-1, 1, 1)
    for pass_ in PASSES:
        expected = run(pass_, array, fault, layer, data, 0).result
        np.testing.assert_allclose(found[pass_].numpy(), expected, rtol=1e-5, atol=2e-5)
