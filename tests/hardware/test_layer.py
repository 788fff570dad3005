"""Layers: shapes against torch's own convolutions, and what is said about layers that cannot be."""

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from miscompute import InvalidInput, Layer
from miscompute.hardware import OPERANDS, PASSES, Operand, Pass


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    rank = draw(st.integers(0, 3))
    small = st.integers(1, 3)

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(rank))

    kernel, dilation = each(1, 3), each(1, 2)
    groups = draw(small) if rank else 1
    return Layer(
        name="conv",
        n=draw(small),
        ic=groups * draw(small),
        oc=groups * draw(small),
        size=tuple(d * (k - 1) + 1 + more for d, k, more in zip(dilation, kernel, each(0, 5), strict=True)),
        kernel=kernel,
        stride=each(1, 3),
        padding=each(0, 2),
        dilation=dilation,
        groups=groups,
        index=draw(small),
    )


def torch_shapes(layer: Layer) -> dict[Operand, tuple[int, ...]]:
    """Run the layer in torch, on tensors without values."""
    x = torch.empty((layer.n, layer.ic, *layer.size), device="meta")
    weight = torch.empty((layer.oc, layer.ic // layer.groups, *layer.kernel), device="meta")
    if not layer.size:
        y = F.linear(x, weight)
    else:
        assert layer.stride is not None
        assert layer.padding is not None
        assert layer.dilation is not None
        convolution = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(layer.size)]
        y = convolution(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return {"input": tuple(x.shape), "weight": tuple(weight.shape), "grad_output": tuple(y.shape)}


@given(layers())
def test_shapes_are_torchs(layer: Layer) -> None:
    shapes = torch_shapes(layer)
    assert layer.out_size == shapes["grad_output"][2:]
    for operand in OPERANDS:
        ours = layer.shape(operand)
        if operand == "weight" and layer.groups > 1:
            ours = (ours[0] * ours[1], *ours[2:])  # (group, oc, ic, ...) -> (oc, ic, ...)
        assert ours == shapes[operand]
        assert layer.elements(operand) == math.prod(shapes[operand])
        assert len(layer.dims(operand)) == len(set(layer.dims(operand))) == len(layer.shape(operand))


@given(layers())
def test_a_result_has_as_many_elements_as_the_tensor_it_is(layer: Layer) -> None:
    tensors: dict[Pass, Operand] = {"forward": "grad_output", "grad_input": "input", "grad_weight": "weight"}
    assert tuple(tensors) == PASSES
    for pass_, tensor in tensors.items():
        assert math.prod(layer.result(pass_).values()) == layer.elements(tensor)
        assert ("pixel" in layer.result(pass_)) == bool(layer.size)


@given(layers())
def test_a_layer_evaluates_back(layer: Layer) -> None:
    assert eval(repr(layer)) == layer


def test_what_is_left_out_is_plain() -> None:
    plain = Layer(name="c", n=1, ic=1, oc=1, size=(5, 5), kernel=(3, 3))
    assert plain == Layer(
        name="c", n=1, ic=1, oc=1, size=(5, 5), kernel=(3, 3), stride=(1, 1), padding=(0, 0), dilation=(1, 1)
    )


def test_dims_have_the_hardwares_names() -> None:
    conv = Layer(name="c", n=2, ic=6, oc=4, size=(9, 9), kernel=(3, 3), groups=2)
    assert conv.dims("weight") == ("group", "oc", "ic", "r", "s")
    assert conv.dims("input") == ("n", "ic", "h", "w")
    assert conv.dims("grad_output") == ("n", "oc", "oh", "ow")
    assert conv.result("grad_weight") == {"group": 2, "oc": 2, "ic": 3, "pixel": 9}
    assert conv.result("grad_input") == {"n": 2, "ic": 6, "pixel": 81}
    line = Layer(name="c", n=2, ic=6, oc=4, size=(9,), kernel=(3,))
    assert (line.dims("weight"), line.dims("input")) == (("oc", "ic", "s"), ("n", "ic", "w"))
    linear = Layer(name="fc", n=2, ic=6, oc=4)
    assert (linear.dims("weight"), linear.dims("input")) == (("oc", "ic"), ("n", "ic"))
    assert linear.result("grad_weight") == {"oc": 4, "ic": 6}


@given(layers())
def test_im2col_makes_a_matrix_product_of_a_convolution(layer: Layer) -> None:
    product = layer.as_matmul()
    assert product.size == ()
    assert product.as_matmul() == product
    assert (product.name, product.index) == (layer.name, layer.index)
    # The groups' products together hold every weight and every output once.
    assert product.batch == layer.groups
    assert product.elements("weight") == layer.elements("weight")
    assert product.elements("grad_output") == layer.elements("grad_output")
    columns = F.unfold(torch.zeros(1, 1, 5, 5), 3)  # torch's im2col: (1, taps, positions)
    plain = Layer(name="c", n=1, ic=1, oc=1, size=(5, 5), kernel=(3, 3)).as_matmul()
    assert (plain.ic, plain.n) == tuple(columns.shape[1:])


def test_a_batch_of_products_has_a_dimension_of_its_own() -> None:
    layer = Layer(name="heads", n=5, ic=3, oc=4, batch=2)
    assert [layer.shape(operand) for operand in OPERANDS] == [(2, 4, 3), (2, 5, 3), (2, 5, 4)]
    assert {layer.dims(operand)[0] for operand in OPERANDS} == {"batch"}
    assert [list(layer.result(pass_)) for pass_ in PASSES] == [
        ["batch", "n", "oc"],
        ["batch", "n", "ic"],
        ["batch", "oc", "ic"],
    ]


def test_a_transposed_convolution_is_no_product_of_matrices() -> None:
    layer = Layer(name="up", n=1, ic=2, oc=2, size=(5, 5), kernel=(3, 3), transposed=True)
    with pytest.raises(InvalidInput, match="layer 'up' is a transposed convolution, which im2col does not make"):
        layer.as_matmul()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": (4,) * 4, "kernel": (1,) * 4}, "size=(4, 4, 4, 4) of layer 'c' has 4 dimensions; 0 to 3 are known"),
        ({"kernel": (3,)}, "kernel=(3,) of layer 'c' needs 2 entries, as size=(8, 8)"),
        ({"stride": (1, 1, 1)}, "stride=(1, 1, 1) of layer 'c' needs 2 entries, as size=(8, 8)"),
        ({"padding": ()}, "padding=() of layer 'c' needs 2 entries, as size=(8, 8)"),
        ({"dilation": (2,)}, "dilation=(2,) of layer 'c' needs 2 entries, as size=(8, 8)"),
        ({"kernel": (3, 0)}, "kernel=(3, 0) of layer 'c' must be at least 1"),
        ({"stride": (0, 1)}, "stride=(0, 1) of layer 'c' must be at least 1"),
        ({"padding": (-1, 0)}, "padding=(-1, 0) of layer 'c' must be at least 0"),
        ({"dilation": (0, 0)}, "dilation=(0, 0) of layer 'c' must be at least 1"),
        ({"n": 0}, "n=0 of layer 'c' must be at least 1"),
        ({"ic": 0}, "ic=0 of layer 'c' must be at least 1"),
        ({"oc": -4}, "oc=-4 of layer 'c' must be at least 1"),
        ({"batch": 0}, "batch=0 of layer 'c' must be at least 1"),
        ({"batch": 2}, "batch=2 of layer 'c' is for linear layers, not size=(8, 8)"),
        ({"groups": 0}, "groups=0 of layer 'c' must be at least 1"),
        ({"groups": 4}, "groups=4 of layer 'c' must divide ic=6 and oc=4"),
        ({"groups": 3}, "groups=3 of layer 'c' must divide ic=6 and oc=4"),
        ({"size": (8, 2)}, "kernel=(3, 3) of layer 'c' does not fit into size=(8, 2)"),
        ({"dilation": (1, 4)}, "kernel=(3, 3) of layer 'c' does not fit into size=(8, 8)"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(changed: dict[str, object], message: str) -> None:
    plain: dict[str, object] = {"name": "c", "n": 2, "ic": 6, "oc": 4, "size": (8, 8), "kernel": (3, 3)}
    with pytest.raises(InvalidInput, match=re.escape(message)):
        Layer(**{**plain, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [{"groups": 2}, {"transposed": True}, {"size": (5,), "kernel": (3,)}])
def test_an_image_is_of_a_plain_convolution(other: dict[str, Any]) -> None:
    layer = Layer(**{"name": "c", "n": 1, "ic": 4, "oc": 2, "size": (5, 5), "kernel": (3, 3), **other})
    message = "layer 'c' is no plain convolution of images; leave it as it is"
    with pytest.raises(InvalidInput, match="^" + message + "$"):
        layer.as_image()


def test_an_image_s_rows_are_channels_and_its_results_as_before() -> None:
    layer = Layer(name="c", n=2, ic=3, oc=4, size=(7, 8), kernel=(3, 2), stride=(2, 3), padding=(1, 1))
    image = layer.as_image()
    assert image.result("forward") == layer.result("forward")
    assert image.out_size == layer.out_size
    assert image.elements("weight") == layer.elements("weight")
    assert image.as_image() == image
