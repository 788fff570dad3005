"""What generated tests draw from: small layers, arrays and faults, and the reference's answer for them."""

from collections import Counter
from itertools import product
from typing import Literal

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from miscompute import InvalidInput, Layer, nvdla, reference
from miscompute.fault import (
    Accumulator,
    ActivationRegister,
    AdderNode,
    CellOutput,
    Effect,
    Exposure,
    Fault,
    FinalOutput,
    Flip,
    Product,
    Site,
    StuckAt,
    SumExposure,
    WeightBus,
    WeightRegister,
)
from miscompute.hardware import Array, Nvdla, Operand, Pass, simd, systolic
from miscompute.reference import LayerResult

Triple = tuple[tuple[int, ...], ...]
"""The elements of weight, input and grad_output that a product joins, in the order of `Layer.dims`."""

Operands = dict[Operand, NDArray[np.float64]]


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Draw a small layer: any rank, groups up to depthwise, strides that do not divide, padding beyond the kernel."""
    rank = draw(st.sampled_from((0, 0, 1, 2, 2, 2, 3)))
    groups = draw(st.integers(1, 9)) if rank and draw(st.booleans()) else 1

    def numbers(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride, padding = (
        numbers(1, 3 if rank < 3 else 2),
        numbers(1, 2),
        numbers(0, 2 if rank < 3 else 1),
    )
    dilation = tuple(draw(st.integers(1, 2)) if k > 1 else 1 for k in kernel)
    size = tuple(
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), d * (k - 1) + 3))
        for k, p, d in zip(kernel, padding, dilation, strict=True)
    )
    return Layer(
        name="layer",
        n=draw(st.integers(1, 9)),
        ic=groups * draw(st.integers(1, max(1, 9 // groups))),
        oc=groups * draw(st.integers(1, max(1, 9 // groups))),
        size=size,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        index=draw(st.integers(0, 3)),
    )


@st.composite
def small_layers(draw: st.DrawFn) -> Layer:
    """Draw a layer small enough to walk product by product: stride, padding, dilation and groups included."""
    rank = draw(st.sampled_from((0, 1, 1, 2, 2, 3)))

    def numbers(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilation, padding = numbers(1, 3 if rank < 2 else 2), numbers(1, 2), numbers(0, 2 if rank < 3 else 1)
    groups = draw(st.integers(1, 3)) if rank else 1
    return Layer(
        name="layer",
        n=draw(st.integers(1, 3)),
        ic=groups * draw(st.integers(1, 5 if rank < 2 else 2)),
        oc=groups * draw(st.integers(1, 5 if rank < 2 else 2)),
        size=tuple(
            max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 2))
            for k, d, p in zip(kernel, dilation, padding, strict=True)
        ),
        kernel=kernel,
        stride=numbers(1, 3 if rank < 2 else 2),
        padding=padding,
        dilation=dilation,
        groups=groups,
        batch=1 if rank else draw(st.integers(1, 2)),
    )


@st.composite
def arrays(draw: st.DrawFn, *, format: str, zero_gate: st.SearchStrategy[bool]) -> Nvdla:
    mapping: Literal["A", "B"] = draw(st.sampled_from(("A", "B")))
    return nvdla(
        rows=draw(st.sampled_from((2, 3, 4, 8))),
        cols=draw(st.sampled_from((2, 3, 4, 8))),
        format=format,
        zero_gate=draw(zero_gate),
        swizzle=draw(st.sampled_from(("none", "step", "stripe", "layer", "random:3"))),
        grad_weight=mapping,
    )


swizzles = st.sampled_from(("none", "step", "stripe", "layer", "random:3"))
all_arrays: st.SearchStrategy[Array] = st.one_of(
    st.builds(
        nvdla, rows=st.integers(1, 4), cols=st.integers(1, 4), grad_weight=st.sampled_from(("A", "B")), swizzle=swizzles
    ),
    st.builds(systolic, rows=st.integers(1, 4), cols=st.integers(1, 4), swizzle=swizzles),
    st.builds(systolic, rows=st.integers(1, 4), cols=st.integers(1, 4), dataflow=st.just("output-stationary")),
    st.builds(simd, lanes=st.integers(1, 4)),
)


@st.composite
def faults(draw: st.DrawFn, array: Nvdla) -> Fault:
    """Draw a fault at any operand's site, of any bit of the array's format."""
    assert array.format is not None
    row, col = draw(st.integers(0, array.rows - 1)), draw(st.integers(0, array.cols - 1))
    sites: list[Site] = [
        WeightRegister(row=row, col=col),
        WeightRegister(row=row, col=col, stage="shadow"),
        WeightBus(row=row),
        WeightBus(row=row, before_zero_detector=True),
        ActivationRegister(row=row, col=col),
        ActivationRegister(row=row, reach="all"),
    ]
    if array.cols % 2 == 0:
        sites += [
            WeightBus(row=row, col=col, reach="half"),
            ActivationRegister(row=row, col=col, reach="half"),
        ]
    return Fault(site=draw(st.sampled_from(sites)), effect=draw(_effects(array.format.bits)))


@st.composite
def sum_faults(draw: st.DrawFn, array: Array) -> Fault:
    """Draw a fault at any site between operands and result, of any bit of its word (`Array.word`)."""
    assert array.format is not None
    row, col = draw(st.integers(0, array.rows - 1)), draw(st.integers(0, array.cols - 1))
    sites: list[Site] = [
        Product(row=row, col=col),
        AdderNode(row=row, col=col, level=draw(st.integers(1, max(1, (array.rows - 1).bit_length())))),
        CellOutput(col=col),
        Accumulator(col=col),
        Accumulator(row=row, col=col),
        Accumulator(col=col, address=draw(st.integers(0, 2 * array.cols))),
        FinalOutput(col=col),
    ]
    site = draw(st.sampled_from([site for site in sites if _is_on(array, site)]))
    exposure = site.exposure(rows=array.rows, cols=array.cols)
    assert isinstance(exposure, SumExposure)
    return Fault(site=site, effect=draw(_effects(array.word(exposure.stage, array.format).bits)))


def _is_on(array: Array, site: Site) -> bool:
    try:
        Fault(site=site, effect=Flip(bits=(0,))).check(array)
    except InvalidInput:
        return False
    return True


@st.composite
def _effects(draw: st.DrawFn, bits: int) -> Effect:
    bit = draw(st.integers(0, bits - 1))
    return draw(st.sampled_from((Flip(bits=(bit,)), StuckAt(bit=bit, value=0), StuckAt(bit=bit, value=1))))


def loop_nest(layer: Layer) -> Counter[Triple]:
    """Join weights, inputs and outputs as the definition of a convolution does."""
    found: Counter[Triple] = Counter()
    stride, padding, dilation = layer.stride or (), layer.padding or (), layer.dilation or ()
    ic_each, oc_each = layer.ic // layer.groups, layer.oc // layer.groups
    batches = [(batch,) for batch in range(layer.batch)] if layer.batch > 1 else [()]
    for batch, n, group, oc, ic in product(
        batches, range(layer.n), range(layer.groups), range(oc_each), range(ic_each)
    ):
        for o in product(*map(range, layer.out_size)):
            for r in product(*map(range, layer.kernel)):
                h = tuple(a * s + b * d - p for a, s, b, d, p in zip(o, stride, r, dilation, padding, strict=True))
                if all(0 <= index < size for index, size in zip(h, layer.size, strict=True)):
                    weight = (*batch, *((group,) if layer.groups > 1 else ()), oc, ic, *r)
                    image = (*batch, n, group * ic_each + ic, *h)
                    found[weight, image, (*batch, n, group * oc_each + oc, *o)] += 1
    return found


def integers(layer: Layer, seed: int) -> Operands:
    """Small integers, a third of them zeros of either sign."""
    rng = np.random.default_rng(seed)
    shapes: dict[Operand, tuple[int, ...]] = {
        "weight": (layer.oc, layer.ic // layer.groups, *layer.kernel),  # as torch has it: groups not split
        "input": layer.shape("input"),
        "grad_output": layer.shape("grad_output"),
    }
    choices = np.array([-0.0, 0.0, 1.0, -1.0, 2.0, 3.0])
    return {operand: rng.choice(choices, size=shape) for operand, shape in shapes.items()}


def run(pass_: Pass, array: Nvdla, fault: Fault, layer: Layer, data: Operands, step: int) -> LayerResult:
    match pass_:
        case "forward":
            return reference.forward(array, fault, layer, data["input"], data["weight"], step)
        case "grad_input":
            return reference.grad_input(array, fault, layer, data["grad_output"], data["weight"], step)
        case "grad_weight":
            return reference.grad_weight(array, fault, layer, data["input"], data["grad_output"], step)


def refused(fault: Fault, array: Nvdla, layer: Layer, pass_: Pass) -> bool:
    """Whether zeros are corrupted that are in no tensor, for which there is no lowering."""
    exposure = fault.site.exposure(rows=array.rows, cols=array.cols)
    assert isinstance(exposure, Exposure)
    spares_zeros = array.zero_gate and exposure.behind_zero_detector
    in_weight = exposure.operand == "stationary" and array.mapping(pass_).stationary == "weight"
    in_streaming = exposure.operand == "streaming" and not layer.is_pointwise
    return not spares_zeros and (in_streaming or (in_weight and layer.groups > 1))
