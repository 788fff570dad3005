"""The reference passes of a layer against autograd, and what they record, on small cases worked out by hand."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from miscompute import InvalidInput, Layer, nvdla
from miscompute.fault import Fault, Flip, WeightRegister, parse_fault
from miscompute.hardware import ARRAYS, OPERANDS, PASSES, Array, Nvdla, Operand, Pass, array_named, simd, systolic
from miscompute.reference import LayerResult, forward, grad_input, grad_weight, layer_result

Operands = dict[Operand, NDArray[np.float64]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On tensors this small, torch spends most of its time in waking its threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(pass_: Pass, array: Array, fault: Fault | None, layer: Layer, data: Operands, step: int = 0) -> LayerResult:
    match pass_:
        case "forward":
            return forward(array, fault, layer, data["input"], data["weight"], step)
        case "grad_input":
            return grad_input(array, fault, layer, data["grad_output"], data["weight"], step)
        case "grad_weight":
            return grad_weight(array, fault, layer, data["input"], data["grad_output"], step)


def integers(layer: Layer, seed: int) -> Operands:
    """Small integers, zeros among them, so that every sum is exact."""
    rng = np.random.default_rng(seed)
    weight = (layer.oc, layer.ic // layer.groups, *layer.kernel)
    shapes: dict[Operand, tuple[int, ...]] = {
        "weight": weight,
        "input": layer.shape("input"),
        "grad_output": layer.shape("grad_output"),
    }
    return {operand: rng.integers(-4, 5, size=shape).astype(np.float64) for operand, shape in shapes.items()}


def autograd(layer: Layer, data: Operands) -> dict[Pass, NDArray[np.float64]]:
    x = torch.from_numpy(data["input"]).requires_grad_()
    w = torch.from_numpy(data["weight"]).requires_grad_()
    if layer.size:
        convs: dict[int, Callable[..., torch.Tensor]] = {
            1: torch.nn.functional.conv1d,
            2: torch.nn.functional.conv2d,
            3: torch.nn.functional.conv3d,
        }
        y = convs[len(layer.size)](x, w, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    else:
        y = torch.nn.functional.linear(x, w)
    dx, dw = torch.autograd.grad(y, (x, w), torch.from_numpy(data["grad_output"]))
    return {"forward": y.detach().numpy(), "grad_input": dx.numpy(), "grad_weight": dw.numpy()}


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Draw a small layer: any rank, groups up to depthwise, strides that do not divide, padding beyond the kernel."""
    rank = draw(st.sampled_from((0, 1, 2, 2, 3)))
    groups = draw(st.integers(1, 3)) if rank else 1
    largest = (0, 9, 6, 4)[rank]

    def numbers(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride, padding = numbers(1, 3), numbers(1, 3), numbers(0, 2)
    dilation = tuple(draw(st.integers(1, 2)) if k > 1 else 1 for k in kernel)
    size = tuple(
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), max(largest, d * (k - 1) + 1)))
        for k, p, d in zip(kernel, padding, dilation, strict=True)
    )
    return Layer(
        name="layer",
        n=draw(st.integers(1, 3)),
        ic=groups * draw(st.integers(1, 5 // groups)),
        oc=groups * draw(st.integers(1, 5 // groups)),
        size=size,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        index=draw(st.integers(0, 3)),
    )


@st.composite
def cores(draw: st.DrawFn) -> Nvdla:
    mapping: Literal["A", "B"] = draw(st.sampled_from(("A", "B")))
    return nvdla(
        rows=draw(st.sampled_from((2, 3, 4, 8))),
        cols=draw(st.sampled_from((2, 3, 4, 8))),
        format="fp32",
        zero_gate=draw(st.booleans()),
        swizzle=draw(st.sampled_from(("none", "step", "stripe", "layer", "random:3"))),
        grad_weight=mapping,
    )


@st.composite
def matrix_arrays(draw: st.DrawFn) -> Array:
    rows, cols = draw(st.sampled_from((2, 3, 4, 8))), draw(st.sampled_from((2, 3, 4, 8)))
    match draw(st.sampled_from(("weight-stationary", "output-stationary", "simd"))):
        case "weight-stationary":
            swizzle = draw(st.sampled_from(("none", "step", "stripe", "layer", "random:3")))
            return systolic(rows=rows, cols=cols, format="int8", swizzle=swizzle)
        case "output-stationary":
            return systolic(rows=rows, cols=cols, format="fp32", dataflow="output-stationary")
        case _:
            return simd(lanes=cols, format="fp32")


@settings(max_examples=75)
@given(layer=layers(), array=cores(), step=st.integers(0, 9), seed=st.integers(0, 99))
def test_a_healthy_core_computes_what_autograd_does(layer: Layer, array: Nvdla, step: int, seed: int) -> None:
    check_healthy(layer, array, step, seed)


@settings(max_examples=25)
@given(layer=layers(), array=matrix_arrays(), step=st.integers(0, 9), seed=st.integers(0, 99))
def test_healthy_products_of_matrices_are_what_autograd_computes(
    layer: Layer, array: Array, step: int, seed: int
) -> None:
    check_healthy(layer, array, step, seed)


def check_healthy(layer: Layer, array: Array, step: int, seed: int) -> None:
    data = integers(layer, seed)
    expected = autograd(layer, data)
    for pass_ in PASSES:
        found = run(pass_, array, None, layer, data, step)
        np.testing.assert_array_equal(found.result, expected[pass_], err_msg=pass_)
        assert not found.touched.any()
        as_seen = layer.as_matmul() if array.im2col else layer
        assert found.cycles == array.schedule(as_seen, pass_).cycles
        mapping = array.mapping(pass_)
        assert set(found.operands) == {mapping.stationary, mapping.streaming}
        for operand, reading in found.operands.items():
            np.testing.assert_array_equal(reading.values, data[operand])
            assert not reading.reached.any()


@pytest.mark.parametrize("name", [name for name in ARRAYS if not array_named(name).no_places])
def test_batched_layers_are_one_product_after_another(name: str) -> None:
    layer = Layer(name="bmm", n=3, ic=4, oc=5, batch=2)
    rng = np.random.default_rng(0)
    data: Operands = {
        operand: rng.integers(-4, 5, size=layer.shape(operand)).astype(np.float64) for operand in OPERANDS
    }
    x, w, dy = data["input"], data["weight"], data["grad_output"]
    expected: dict[Pass, NDArray[np.float64]] = {
        "forward": x @ w.swapaxes(1, 2),
        "grad_input": dy @ w,
        "grad_weight": dy.swapaxes(1, 2) @ x,
    }
    array = array_named(name, format="int8")
    for pass_ in PASSES:
        healthy = layer_result(array, None, layer, pass_, data, 0)
        np.testing.assert_array_equal(healthy.result, expected[pass_])
        assert healthy.cycles % 2 == 0
        first = healthy.cycles // 2  # the first cycle of the second product
        fault = parse_fault(f"product[0,0] bit 10 flip transient step 0 pass {pass_} layer bmm cycle {first}")
        found = layer_result(array, fault, layer, pass_, data, 0)
        wrong = found.result != healthy.result
        assert np.argwhere(wrong).tolist() == [[1, 0, 0]]
        assert found.touched[1, 0, 0]  # and the other kernel of its cell, unchanged
        assert np.count_nonzero(found.touched) == array.kernels


@pytest.mark.parametrize("name", [name for name in ARRAYS if not array_named(name).no_places])
def test_transposed_layers_are_gradients_of_a_convolution(name: str) -> None:
    layer = Layer(
        name="up", n=2, ic=3, oc=4, size=(5, 6), kernel=(3, 2), stride=(2, 1), padding=(1, 0), transposed=True
    )
    twin = integers(replace(layer, transposed=False), 0)
    x, w, dy = (torch.from_numpy(twin[operand]) for operand in ("grad_output", "weight", "input"))
    x, w = x.requires_grad_(), w.requires_grad_()
    y = torch.nn.functional.conv_transpose2d(x, w, None, (2, 1), (1, 0))
    assert y.shape == dy.shape
    dx, dw = torch.autograd.grad(y, (x, w), dy)
    data: Operands = {"input": twin["grad_output"], "weight": twin["weight"], "grad_output": twin["input"]}
    array = array_named(name, format="int8")
    results: dict[Pass, torch.Tensor] = {"forward": y, "grad_input": dx, "grad_weight": dw}
    for pass_, expected in results.items():
        found = layer_result(array, None, layer, pass_, data, 0)
        np.testing.assert_array_equal(found.result, expected.detach().numpy(), err_msg=pass_)
        for operand, reading in found.operands.items():
            np.testing.assert_array_equal(reading.values, data[operand])


@pytest.mark.parametrize("name", ["systolic-ws", "systolic-os", "simd"])
def test_a_cycle_of_a_grouped_layer_is_in_one_group(name: str) -> None:
    layer = Layer(name="g", n=1, ic=4, oc=4, size=(3,), kernel=(2,), groups=2)
    data = integers(layer, 0)
    array = array_named(name, format="int8")
    cycles = layer_result(array, None, layer, "forward", data, 0).cycles
    fault = parse_fault(f"product[0,0] bit 10 flip transient step 0 pass forward layer g cycle {cycles // 2}")
    found = layer_result(array, fault, layer, "forward", data, 0)
    assert np.argwhere(found.touched).tolist() == [[0, 2, 0]]  # the first result of the second group


def test_im2col_copies_are_words_of_their_own() -> None:
    # Input 0, 1, 2, 3 makes rows (0, 1), (1, 2), (2, 3): each column of them is one row of PEs.
    layer = Layer(name="c", n=1, ic=1, oc=1, size=(4,), kernel=(2,))
    data: Operands = {
        "input": np.array([[[0.0, 1.0, 2.0, 3.0]]]),
        "weight": np.ones((1, 1, 2)),
        "grad_output": np.array([[[1.0, 2.0, 3.0]]]),
    }
    array = systolic(rows=2, cols=2, format="int8")
    fault = parse_fault("activation[1,0] bit 4 flip")
    found = layer_result(array, fault, layer, "forward", data, 0)
    assert found.result.tolist() == [[[0 + 17, 1 + 18, 2 + 19]]]
    assert found.operands["input"].values.tolist() == [[[0, 17, 18, 19]]]
    assert found.operands["input"].reached.tolist() == [[[False, True, True, True]]]
    # The input's gradient comes back in rows, dy * (1, 1): (1, 1), (2, 2), (3, 3); column 1 is tap 1.
    found = layer_result(array, parse_fault("output[1] bit 4 flip"), layer, "grad_input", data, 0)
    assert found.result.tolist() == [[[1, 17 + 2, 18 + 3, 19]]]
    assert found.touched.tolist() == [[[False, True, True, True]]]
    # Of the weight's gradient, tap t is row t of the systolic arrays' result, and column t of the vector unit's.
    fault = parse_fault("output[0] bit 6 flip")
    healthy = [0 * 1 + 1 * 2 + 2 * 3, 1 * 1 + 2 * 2 + 3 * 3]
    found = layer_result(array, fault, layer, "grad_weight", data, 0)
    assert found.result.tolist() == [[[healthy[0] + 64, healthy[1] + 64]]]
    found = layer_result(simd(lanes=2, format="int8"), fault, layer, "grad_weight", data, 0)
    assert found.result.tolist() == [[[healthy[0] + 64, healthy[1]]]]


def test_integers_with_a_scale() -> None:
    layer = Layer(name="fc", n=1, ic=2, oc=1)
    data: Operands = {"input": np.array([[0.5, 1.0]]), "weight": np.array([[1.0, 0.25]])}
    for array in (nvdla(rows=2, cols=1, format="int8:0.25"), systolic(rows=2, cols=1, format="int8:0.25")):
        assert layer_result(array, None, layer, "forward", data, 0).result.tolist() == [[0.75]]
        fault = parse_fault("output[0] bit 0 flip")  # 2 * 4 + 4 * 1 = 12 sixteenths become 13
        assert layer_result(array, fault, layer, "forward", data, 0).result.tolist() == [[13 / 16]]
    grouped = Layer(name="g", n=1, ic=2, oc=2, size=(1,), kernel=(1,), groups=2)
    with pytest.raises(InvalidInput, match="is computed in parts: say a scale"):
        layer_result(simd(lanes=2, format="int8:max"), None, grouped, "forward", integers(grouped, 0), 0)


def test_a_cycle_beyond_the_pass_is_refused() -> None:
    layer = Layer(name="fc", n=2, ic=1, oc=1)
    fault = parse_fault("output[0] bit 0 flip transient step 0 pass forward layer fc cycle 2")
    with pytest.raises(InvalidInput, match=re.escape("cycle=2 is outside the pass, which takes 2 cycles (from 0)")):
        layer_result(simd(lanes=1, format="int8"), fault, layer, "forward", integers(layer, 0), 0)


def test_elements_that_no_result_needs_are_not_read() -> None:
    layer = Layer(name="c", n=1, ic=1, oc=1, size=(6,), kernel=(1,), stride=(2,))
    data = integers(layer, 0)
    for pass_ in ("forward", "grad_weight"):
        reading = run(pass_, nvdla(rows=2, cols=2, format="fp32"), None, layer, data).operands["input"]
        assert reading.read.tolist() == [[[True, False, True, False, True, False]]], pass_


LINEAR = Layer(name="fc", n=3, ic=5, oc=4)
CONV = Layer(name="conv", n=3, ic=5, oc=4, size=(4, 3), kernel=(3, 3), stride=(2, 1), padding=(1, 1))


@pytest.mark.parametrize("layer", [LINEAR, CONV], ids=lambda layer: layer.name)
@pytest.mark.parametrize(
    ("pass_", "mapping", "operand", "index"),
    [
        # Lane 1 and cell 0 of a 2 x 2 core, by the table "The three passes on the same array".
        ("forward", "A", "weight", np.s_[0::2, 1::2]),  # w[oc, ic]
        ("grad_input", "A", "weight", np.s_[1::2, 0::2]),
        ("grad_weight", "A", "grad_output", np.s_[1::2, 0::2]),  # dy[n, oc]
        ("grad_weight", "B", "input", np.s_[1::2, 0::2]),  # x[n, ic]
    ],
)
def test_a_weight_register_reaches_the_elements_of_its_lane_and_cell(
    layer: Layer, pass_: Pass, mapping: Literal["A", "B"], operand: Operand, index: tuple[slice, slice]
) -> None:
    data = {name: np.ones_like(values) for name, values in integers(layer, 0).items()}
    fault = parse_fault("weight[1,0] bit 30 flip")
    found = run(pass_, nvdla(rows=2, cols=2, format="fp32", grad_weight=mapping), fault, layer, data)
    expected = np.zeros(data[operand].shape, dtype=bool)
    expected[index] = True
    np.testing.assert_array_equal(found.operands[operand].reached, expected & found.operands[operand].read)
    assert np.isinf(found.operands[operand].values[found.operands[operand].reached]).all()
    assert all(name == operand or not reading.reached.any() for name, reading in found.operands.items())


@pytest.mark.parametrize("layer", [LINEAR, CONV], ids=lambda layer: layer.name)
@pytest.mark.parametrize(
    ("pass_", "mapping", "operand", "index"),
    [
        ("forward", "A", "input", np.s_[:, 1::2]),
        ("grad_input", "A", "grad_output", np.s_[:, 1::2]),
        ("grad_weight", "A", "input", np.s_[1::2]),
        ("grad_weight", "B", "grad_output", np.s_[1::2]),
    ],
)
def test_an_activation_register_reaches_the_elements_of_its_lane(
    layer: Layer, pass_: Pass, mapping: Literal["A", "B"], operand: Operand, index: tuple[slice, ...]
) -> None:
    data = {name: np.ones_like(values) for name, values in integers(layer, 0).items()}
    fault = parse_fault("activation[1,0] bit 22 flip")  # 1.0 becomes 1.5
    found = run(pass_, nvdla(rows=2, cols=2, format="fp32", grad_weight=mapping), fault, layer, data)
    expected = np.zeros(data[operand].shape, dtype=bool)
    expected[index] = True
    np.testing.assert_array_equal(found.operands[operand].reached, expected & found.operands[operand].read)
    # Only cell 0 reads it wrong: the results of every other index of the cells' dimension are right.
    wrong = found.result != autograd(layer, data)[pass_]
    cells = np.flatnonzero(
        wrong.any(axis=tuple(axis for axis in range(wrong.ndim) if axis != _cell_axis(pass_, mapping)))
    )
    assert cells.tolist() == list(range(0, wrong.shape[_cell_axis(pass_, mapping)], 2))


def _cell_axis(pass_: Pass, mapping: str) -> int:
    """Which axis of a pass's result is dealt to the cells: oc of y, ic of dx, oc or ic of dw."""
    return 0 if pass_ == "grad_weight" and mapping == "A" else 1


def test_a_stripe_swizzle_takes_kernel_positions_in_natural_order() -> None:
    # A batch of one is channel 0 of the lanes: on lane 0 in the stripe of kernel position 0, on lane 1 in the next.
    layer = Layer(name="c", n=1, ic=1, oc=1, size=(5,), kernel=(3,))
    assert nvdla(rows=2, cols=1).stripes(3) == (range(1), range(1, 3))
    data: Operands = {"input": np.ones((1, 1, 5)), "grad_output": np.ones((1, 1, 3))}
    fault = Fault(site=WeightRegister(row=0, col=0), effect=Flip(bits=(22,)))
    for mapping in ("A", "B"):
        array = nvdla(rows=2, cols=1, format="fp32", swizzle="stripe", grad_weight=mapping)
        found = run("grad_weight", array, fault, layer, data)
        assert found.result.tolist() == [[[4.5, 3.0, 3.0]]], mapping


def test_stripes_of_a_linear_layer_are_of_batch_rows() -> None:
    layer = Layer(name="fc", n=3, ic=1, oc=1)
    data: Operands = {"input": np.ones((3, 1)), "weight": np.ones((1, 1)), "grad_output": np.ones((3, 1))}
    array = nvdla(rows=2, cols=1, format="fp32", swizzle="stripe")
    fault = Fault(site=WeightRegister(row=0, col=0), effect=Flip(bits=(22,)))
    for pass_ in ("forward", "grad_input"):
        assert run(pass_, array, fault, layer, data).result.tolist() == [[1.5], [1.0], [1.0]], pass_


def test_a_depthwise_layer_has_a_lane_and_a_cell_a_channel() -> None:
    layer = Layer(name="dw", n=1, ic=4, oc=4, size=(3,), kernel=(2,), groups=4)
    data = {name: np.ones_like(values) for name, values in integers(layer, 0).items()}
    array = nvdla(rows=2, cols=2, format="fp32")
    diagonal = run("forward", array, parse_fault("weight[1,1] bit 22 flip"), layer, data)
    assert diagonal.operands["weight"].reached[:, 0, 0].tolist() == [False, True, False, True]
    assert diagonal.result[0, :, 0].tolist() == [2, 3, 2, 3]
    # Lane 1 of cell 0 holds only the zeros that make the weight dense.
    beside = run("forward", array, parse_fault("weight[1,0] bit 22 flip"), layer, data)
    assert not beside.operands["weight"].reached.any()
    assert (beside.result == 2).all()


def test_the_fault_is_there_when_its_timing_says() -> None:
    layer = Layer(name="fc", n=1, ic=1, oc=1)
    one = np.ones((1, 1))
    array = nvdla(rows=1, cols=1, format="fp32")
    fault = parse_fault("weight[0,0] bit 22 flip transient step 3 pass grad_input layer fc")
    data: Operands = {"input": one, "weight": one, "grad_output": one}
    for step in (2, 3):
        for pass_ in PASSES:
            value = 1.5 if (step, pass_) == (3, "grad_input") else 1.0
            assert run(pass_, array, fault, layer, data, step).result.tolist() == [[value]]
    other = Layer(name="other", n=1, ic=1, oc=1)
    assert run("grad_input", array, fault, other, data, 3).result.tolist() == [[1.0]]


@pytest.mark.parametrize("operand", ["weight", "input", "grad_output"])
def test_an_operand_of_another_shape_is_refused(operand: Any) -> None:
    layer = Layer(name="g", n=2, ic=4, oc=6, size=(5,), kernel=(2,), groups=2)
    data = integers(layer, 0)
    shape = data[operand].shape
    data[operand] = data[operand][..., :1]
    pass_: Pass = "grad_weight" if operand == "grad_output" else "forward"
    message = f"{operand} {data[operand].shape} of layer 'g' must be {shape}"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        run(pass_, nvdla(rows=2, cols=2, format="fp32"), None, layer, data)
