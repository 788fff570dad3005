"""Random small layers and faults: lowering and injection against the array's slow reference."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .. import reference
from .._invalid import InvalidInput
from ..error import lower
from ..fault import (
    PERMANENT,
    SITES,
    ActivationRegister,
    CycleBursts,
    Elements,
    Fault,
    Flip,
    Memory,
    OperandValid,
    Site,
    StuckAt,
    Transient,
)
from ..formats import FORMATS
from ..hardware import OPERANDS, PASSES, Array, Layer, Operand, Pass
from ..injection import inject
from ._agreement import Agreement, Report, Tally, silent

_Operands = dict[Operand, NDArray[np.float64]]

_FEW = 12
"""Channels of most layers, so that large arrays are mostly idle and references quick; and the places of most faults."""


def check_array(
    array: Array,
    *,
    cases: int = 10_000,
    seed: int = 0,
    report: Report = silent,
) -> tuple[Agreement, ...]:
    """Compare injection with the reference on random layers, faults and passes, in int8, where all is exact.

    A case is one pass of one layer with one fault: convolutions of one to three dimensions with strides, paddings,
    dilations and groups, transposed ones, linear layers and batched products, of few channels or of more than the array
    has rows and columns; every site that the array has; stuck and flipped bits; for ever, in one cycle, or in bursts of
    cycles. It agrees if every result does, bit for bit.

    Args:
        array: the array; its format is set to int8, its size and swizzle are kept.
        cases: how many.
        seed: decides them all.
        report: told how many cases are done, of how many.

    Returns:
        How many agree, by site.
    """
    if array.no_places:
        raise InvalidInput(f"array={type(array).__name__} has no reference: {array.no_places}")
    if cases < 1:
        raise InvalidInput(f"cases={cases} must be at least 1")
    array = replace(array, format=FORMATS["int8"])
    random = np.random.default_rng(seed)
    tally, done = Tally(type(array).__name__), 0
    while done < cases:
        case = _draw(random, array)
        if case is None:
            continue
        for pass_, (word, agrees) in _compare(case).items():
            tally.add(word, f"{case.fault} on {array}, {pass_} of {case.layer}, step {case.step}", agrees=agrees)
            done += 1
            if done == cases:
                break
        report(done, cases)
    return tuple(sorted(tally.agreements(), key=lambda agreement: list(SITES).index(agreement.kind)))


@dataclass(frozen=True, kw_only=True)
class _Case:
    array: Array
    layer: Layer
    word: str
    fault: Fault
    step: int
    data: _Operands


def _draw(random: np.random.Generator, array: Array) -> _Case | None:
    """Draw a case; None if the array does not have the site, or the fault has no exact lowering there."""
    layer = _layer(random, array)
    word, site = _site(random, array)
    if site is None:
        return None
    step = int(random.integers(0, 4))
    try:
        fault = _fault(random, array, layer, site, step)
        fault.check(array)
        for pass_ in PASSES:
            # Says what cannot be lowered, such as corrupted padding, before anything is computed.
            lower(fault, array, layer, step=step, passes=(pass_,))
    except InvalidInput:
        return None
    return _Case(array=array, layer=layer, word=word, fault=fault, step=step, data=_data(random, layer))


def _site(random: np.random.Generator, array: Array) -> tuple[str, Site | None]:
    word = str(random.choice(list(SITES)))
    spelling = SITES[word]
    if "name" in spelling.indices or "first" in spelling.indices:  # memory and elements, on no array in particular
        return word, None
    most = {"row": array.rows, "col": array.cols, "level": 4, "address": 2 * array.cols}
    indices = {name: _index(random, most[name]) for name in spelling.indices}
    if "level" in indices:
        indices["level"] += 1
    try:
        site = spelling.build(**indices)
        site.exposure(rows=array.rows, cols=array.cols)
    except InvalidInput:
        return word, None
    assert not isinstance(site, Memory | Elements)
    return word, site


def _index(random: np.random.Generator, size: int) -> int:
    """Draw where most layers of few channels meet it, anywhere, or the last."""
    match random.choice(["few", "any", "last"], p=[0.65, 0.2, 0.15]):
        case "few":
            return int(random.integers(0, min(size, _FEW)))
        case "any":
            return int(random.integers(0, size))
        case _:
            return size - 1


def _fault(random: np.random.Generator, array: Array, layer: Layer, site: Site, step: int) -> Fault:
    words = 1 if isinstance(site, ActivationRegister) else array.kernels
    bits = words * (34 if random.random() < 0.5 else 8)
    bit = int(random.integers(0, bits))
    effect = Flip(bits=(bit,)) if random.random() < 0.3 else StuckAt(bit=bit, value=int(random.integers(0, 2)))
    if isinstance(effect, Flip) and words > 1:
        effect = Flip(bits=(bit, (bit + bits // 2) % bits))  # of another kernel too
    if isinstance(site, OperandValid):
        effect = StuckAt(bit=int(random.integers(0, array.kernels)), value=0)
    timing: Any = PERMANENT
    when = random.random()
    if when < 0.1:
        timing = CycleBursts(
            mean_on=float(random.integers(1, 9)),
            mean_off=float(random.integers(1, 40)),
            seed=int(random.integers(1 << 20)),
        )
    elif when < 0.4:
        pass_: Pass = PASSES[random.integers(0, len(PASSES))]
        seen = layer.as_matmul() if array.im2col else layer
        cycles = array.schedule(replace(seen, transposed=False), pass_).cycles
        until: Literal["cycle", "reload"] = "reload" if random.random() < 0.5 else "cycle"
        timing = Transient(step=step, pass_=pass_, layer=layer.name, cycle=int(random.integers(0, cycles)), until=until)
    return Fault(site=site, effect=effect, timing=timing)


def _layer(random: np.random.Generator, array: Array) -> Layer:
    def some(low: int, high: int) -> int:
        return int(random.integers(low, high + 1))

    rank = int(random.choice([0, 0, 1, 2, 2, 3]))
    if rank == 0:
        batch = some(1, 3) if random.random() < 0.3 else 1
        largest = (2 * most + 1 for most in (array.cols, array.rows, array.cols))  # a third tile, of one lane
        is_wide = random.random() < 0.1
        n, ic, oc = (some(1, most if is_wide and random.random() < 0.5 else min(most, _FEW)) for most in largest)
        return Layer(name="layer", batch=batch, n=n, ic=ic, oc=oc)
    groups = some(2, 3) if random.random() < 0.25 else 1
    kernel = tuple(some(1, 3) for _ in range(rank))
    stride = tuple(some(1, 2) for _ in range(rank))
    dilation = tuple(some(1, 2) for _ in range(rank))
    padding = tuple(some(0, k - 1) for k in kernel)
    size = tuple(max(some(1, 5), d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True))
    return Layer(
        name="layer",
        n=some(1, 3),
        ic=groups * some(1, max(1, min(9, array.rows + 1) // groups)),
        oc=groups * some(1, max(1, min(9, array.cols + 1) // groups)),
        size=size,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        transposed=not array.im2col and random.random() < 0.2,
    )


def _data(random: np.random.Generator, layer: Layer) -> _Operands:
    """Draw int8 operands, many of them zeros, in the shapes of PyTorch's tensors of the convolution itself."""
    choices = np.concatenate([np.zeros(64), np.arange(-128, 128)])
    shapes = {operand: layer.tensor_shape(operand) for operand in OPERANDS}
    return {operand: random.choice(choices, size=shape) for operand, shape in shapes.items()}


class _OneLayer(nn.Module):
    """A layer called functionally."""

    def __init__(self, layer: Layer, weight: Tensor) -> None:
        super().__init__()
        self._layer = layer
        self.layer = nn.Module()
        self.layer.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        layer, weight = self._layer, self.layer.weight
        assert isinstance(weight, Tensor)
        if layer.batch > 1:
            return torch.bmm(x, weight.transpose(1, 2))
        if not layer.size:
            return F.linear(x, weight)
        rank = len(layer.size)
        stride, padding, dilation = (list(field or ()) for field in (layer.stride, layer.padding, layer.dilation))
        if layer.transposed:
            transposed: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
            least = [
                (o - 1) * s - 2 * p + d * (k - 1) + 1
                for o, s, p, d, k in zip(layer.out_size, stride, padding, dilation, layer.kernel, strict=True)
            ]
            more = [size - small for size, small in zip(layer.size, least, strict=True)]
            y: Tensor = transposed(x, weight, None, stride, padding, more, layer.groups, dilation)
            return y
        conv: Any = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        y = conv(x, weight, None, stride, padding, dilation, layer.groups)
        return y  # noqa: RET504, for its type


def _compare(case: _Case) -> dict[Pass, tuple[str, bool]]:
    """Train a model of one layer for a step, and compare what each pass computed."""
    layer, data = case.layer, case.data
    came, went = ("grad_output", "input") if layer.transposed else ("input", "grad_output")
    x = torch.from_numpy(data[came]).requires_grad_()  # type: ignore[index]
    model = _OneLayer(layer, torch.from_numpy(data["weight"]))
    with inject(model, case.fault, array=case.array, step=case.step):
        y = model(x)
        y.backward(torch.from_numpy(data[went]))  # type: ignore[index]
    weight = model.layer.weight
    assert isinstance(weight, Tensor)
    assert x.grad is not None
    assert weight.grad is not None
    found: dict[Pass, Tensor] = {"forward": y.detach(), "grad_input": x.grad, "grad_weight": weight.grad}
    operands: _Operands = {"weight": data["weight"], "input": x.detach().numpy(), "grad_output": data[went]}  # type: ignore[index]
    answers = {}
    for pass_ in PASSES:
        expected = reference.layer_result(case.array, case.fault, layer, pass_, operands, case.step).result
        answers[pass_] = case.word, np.array_equal(found[pass_].numpy(), expected)
    return answers
