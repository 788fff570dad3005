"""Lowering against the reference array: the same elements, and the same wrong results, on generated layers."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.strategies import Operands, arrays, faults, integers, layers, refused, run, sum_faults

from miscompute import InvalidInput, Layer
from miscompute.error import AnyError, Error, Region, SumError, lower
from miscompute.fault import BitOperation, Effect, FinalOutput, Flip
from miscompute.formats import Format
from miscompute.hardware import PASSES, Operand, Pass

pytestmark = pytest.mark.usefixtures("one_thread")


def mask(region: Region, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    inside = np.zeros(shape, dtype=np.bool_)
    inside[np.ix_(*(list(range_) for range_ in region.ranges))] = True
    return inside


def of_operands(errors: tuple[AnyError, ...]) -> list[Error]:
    found = [error for error in errors if isinstance(error, Error)]
    assert len(found) == len(errors)
    return found


def corrupted(error: Error, layer: Layer, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the elements an error corrupts, in the shape of the operand itself."""
    assert error.operand != "result"
    assert error.region.dims == layer.dims(error.operand)
    elements = mask(error.region, layer.shape(error.operand)).reshape(values.shape)
    return elements & (values != 0) if error.spares_zeros else elements


def seen_by(error: Error, layer: Layer, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Mark the results that see an error, in the shape of the pass's result."""
    if error.results is None:
        return np.ones(shape, dtype=np.bool_)
    dims = layer.result(error.pass_)
    assert error.results.dims == tuple(dims)
    return mask(error.results, tuple(dims.values())).reshape(shape)


@settings(max_examples=80)
@given(st.data())
def test_the_elements_are_those_that_sit_in_faulty_registers(draw: st.DataObject) -> None:
    layer, array = draw.draw(layers()), draw.draw(arrays(format="fp32", zero_gate=st.booleans()))
    fault, step = draw.draw(faults(array)), draw.draw(st.integers(0, 9))
    pass_ = draw.draw(st.sampled_from(PASSES))
    data = integers(layer, draw.draw(st.integers(0, 99)))
    if refused(fault, array, layer, pass_):
        with pytest.raises(InvalidInput, match=r"zeros between its groups|inserted zeros"):
            lower(fault, array, layer, step=step, passes=(pass_,))
        return
    errors = of_operands(lower(fault, array, layer, step=step, passes=(pass_,)))
    found = run(pass_, array, fault, layer, data, step)
    mapping = array.mapping(pass_)
    assert found.operands[mapping.stationary].read.all()
    assert {(error.pass_, error.operand) for error in errors} <= {(pass_, operand) for operand in found.operands}
    for operand, reading in found.operands.items():
        said = np.zeros(data[operand].shape, dtype=np.bool_)
        for error in errors:
            if error.operand != operand:
                continue
            elements = corrupted(error, layer, data[operand])
            if array.swizzle.per_stripe and operand == mapping.streaming:
                # A lane's word is wrong in some stripes only: the error is of those elements that feed their results.
                elements &= feeding(operand, pass_, layer, seen_by(error, layer, found.result.shape))
            said |= elements
        if array.swizzle.per_stripe and pass_ == "grad_weight" and layer.groups > 1:
            # The array has stripes of results between groups, which nobody keeps. An element may be reached in those
            # alone; that nothing else is missing is for the test of results.
            assert not (said & ~reading.reached).any()
        else:
            # Input that the stride jumps over, say, is in the region of an error but in nobody's register.
            np.testing.assert_array_equal(said & reading.read, reading.reached)


def misread(
    values: NDArray[np.float64], where: NDArray[np.bool_], effect: Effect, format: Format
) -> NDArray[np.float64]:
    assert isinstance(effect, BitOperation)
    keep, set_, flip = (np.uint64(word) for word in effect.masks(format))
    return np.where(where, format.decode(((format.encode(values) & keep) | set_) ^ flip), values)


def compute(pass_: Pass, layer: Layer, tensors: dict[Operand, torch.Tensor]) -> torch.Tensor:
    """Compute a pass with autograd."""
    x, w, dy = tensors["input"], tensors["weight"], tensors["grad_output"]
    convs: dict[int, Callable[..., torch.Tensor]] = {
        1: torch.nn.functional.conv1d,
        2: torch.nn.functional.conv2d,
        3: torch.nn.functional.conv3d,
    }
    if layer.size:
        y = convs[len(layer.size)](x, w, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    else:
        y = torch.nn.functional.linear(x, w)
    if pass_ == "forward":
        return y
    (grad,) = torch.autograd.grad(y, x if pass_ == "grad_input" else w, dy, create_graph=True)
    return grad


def computed(pass_: Pass, layer: Layer, data: Operands) -> NDArray[np.float64]:
    tensors = {operand: torch.from_numpy(values).requires_grad_() for operand, values in data.items()}
    return np.asarray(compute(pass_, layer, tensors).detach())


def feeding(operand: Operand, pass_: Pass, layer: Layer, results: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the elements of the streaming operand that are used for some of these results.

    A grouped layer is taken as the array computes it, dense. With ones everywhere, the derivative of the results' sum
    is how often an element is used.
    """
    dense = layer if pass_ == "grad_weight" else replace(layer, groups=1)
    ones = {name: torch.ones(values.shape, dtype=torch.float64) for name, values in integers(dense, 0).items()}
    tensors = {name: values.requires_grad_() for name, values in ones.items()}
    total = (compute(pass_, dense, tensors) * torch.from_numpy(results)).sum()
    (uses,) = torch.autograd.grad(total, tensors[operand])
    return np.asarray(uses > 0)


@settings(max_examples=80)
@given(st.data())
def test_the_results_are_those_of_the_faulty_array(draw: st.DataObject) -> None:
    layer, array = (
        draw.draw(layers()),
        draw.draw(arrays(format="int8", zero_gate=st.just(True))),
    )  # int8: sums are exact
    fault, step = draw.draw(faults(array)), draw.draw(st.integers(0, 9))
    pass_ = draw.draw(st.sampled_from(PASSES))
    data = integers(layer, draw.draw(st.integers(0, 99)))
    assume(not refused(fault, array, layer, pass_))
    errors = of_operands(lower(fault, array, layer, step=step, passes=(pass_,)))
    assume(errors)
    assert array.format is not None
    result = computed(pass_, layer, data)
    # A pass is linear in each operand, so the change by each error, where its results are, adds up.
    faulty = result.copy()
    for error in errors:
        assert error.operand != "result"
        values = data[error.operand]
        wrong: Operands = {
            **data,
            error.operand: misread(values, corrupted(error, layer, values), error.effect, array.format),
        }
        seen = seen_by(error, layer, result.shape)
        faulty += np.where(seen, computed(pass_, layer, wrong) - result, 0.0)
    np.testing.assert_array_equal(run(pass_, array, fault, layer, data, step).result, faulty)


@settings(max_examples=25)
@given(st.data())
def test_sums_go_wrong_where_it_is_said(draw: st.DataObject) -> None:
    layer, array = draw.draw(layers()), draw.draw(arrays(format="int8", zero_gate=st.just(True)))
    fault, step = draw.draw(sum_faults(array)), draw.draw(st.integers(0, 9))
    pass_ = draw.draw(st.sampled_from(PASSES))
    data = integers(layer, draw.draw(st.integers(0, 99)))
    right = computed(pass_, layer, data)
    wrong = run(pass_, array, fault, layer, data, step).result != right
    said = np.zeros(right.shape, dtype=np.bool_)
    for error in lower(fault, array, layer, step=step, passes=(pass_,)):
        assert isinstance(error, SumError)
        said |= mask(error.results, tuple(layer.result(pass_).values())).reshape(right.shape)
    assert not (wrong & ~said).any()
    if isinstance(fault.site, FinalOutput) and isinstance(fault.effect, Flip):
        np.testing.assert_array_equal(wrong, said)
