"""Published error models: each draws a fault that replays from its string and does what its name says."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import miscompute as mc
from miscompute import InvalidInput, Layer
from miscompute.error import (
    ERROR_MODELS,
    FLIP_WEIGHTS,
    NON_FINITE_SHARE,
    NULLIFIED_SHARE,
    Error,
    ErrorModel,
    Execution,
    error_model_named,
    gpu_bit_flips,
    gpu_corruption,
    gpu_non_finite,
    gpu_nullification,
    isca2023_long_run,
    isca2023_operand_bit,
    isca2023_output_moved,
)
from miscompute.fault import ZERO, Elements, Fault, Flip, RandomFlips, SetTo, Transient, parse_fault
from miscompute.formats import FORMATS
from miscompute.hardware import PASSES, Pass

pytestmark = pytest.mark.usefixtures("one_thread")

every = pytest.mark.parametrize("name", ERROR_MODELS)
UNREAD: set[tuple[str, Pass]] = {("fidelity-input-bit", "grad_input"), ("fidelity-weight-bit", "grad_weight")}
PAIRS = [(name, pass_) for name in ERROR_MODELS for pass_ in PASSES if (name, pass_) not in UNREAD]

ARRAY = mc.nvdla(rows=4, cols=4)
BATCH = 2


class Net(nn.Module):
    """A convolution and a linear layer, whose values are never zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.fc = nn.Linear(64, 5, bias=False)
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.data = torch.rand(parameter.shape, generator=generator) + 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(self.conv(x).flatten(1))
        return result


def images() -> torch.Tensor:
    return (torch.rand(BATCH, 3, 6, 6, generator=torch.Generator().manual_seed(2)) + 0.5).requires_grad_()


LAYERS = {layer.name: layer for layer in mc.trace(Net(), images())}


def at(layer: Layer, pass_: Pass, *, step: int = 0, **options: Any) -> Execution:
    return Execution(layer=layer, pass_=pass_, step=step, **options)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def draws(model: ErrorModel, times: int, layer: Layer, **options: Any) -> list[Fault]:
    source = generator(7)
    return [model(at(layer, "forward", **options), source) for _ in range(times)]


def inject(fault: Fault) -> tuple[mc.Injection, list[torch.Tensor]]:
    net, x = Net(), images()
    with mc.inject(net, fault, array=ARRAY) as injection:
        y = net(x)
        y.backward(torch.linspace(0.5, 1.5, y.numel()).view_as(y))
    return injection, [t.clone() for t in (y.detach(), x.grad, *(p.grad for p in net.parameters())) if t is not None]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("name", "pass_"), PAIRS)
def test_a_drawn_fault_changes_values_in_its_pass_and_nowhere_else(name: str, pass_: Pass, layer: str) -> None:
    fault = ERROR_MODELS[name](at(LAYERS[layer], pass_), generator(3))
    (error,) = mc.lower(fault, ARRAY, LAYERS[layer], passes=[pass_])
    assert isinstance(error, Error)
    injection, _ = inject(fault)
    changed = {(row.layer, row.pass_): row.changed for row in injection.log if row.changed}
    assert isinstance(fault.site, Elements)
    assert set(changed) == {(layer, pass_)}
    assert 0.9 * fault.site.length <= changed[layer, pass_] <= fault.site.length  # a random word may be the old one


@every
def test_a_transposed_convolution_is_corrupted_in_its_own_tensors(name: str) -> None:
    module = nn.ConvTranspose2d(3, 4, 2)
    x = images()
    (layer,) = mc.trace(module, x)
    fault = ERROR_MODELS[name](at(layer, "forward"), generator(3))
    assert isinstance(fault.site, Elements)
    y, last = module(x), fault.site.first + fault.site.length
    assert last <= {"input": x, "weight": module.weight, "result": y}[fault.site.of].numel()
    with mc.inject(module, fault, array=ARRAY) as injection:
        assert not torch.equal(module(x), y)
    assert [(row.pass_, row.reached) for row in injection.log] == [("forward", fault.site.length)]


@every
def test_a_fault_replays_from_its_string(name: str) -> None:
    fault = ERROR_MODELS[name](at(LAYERS["conv"], "forward"), generator(5))
    assert parse_fault(str(fault)) == fault
    first, again = inject(fault)[1], inject(parse_fault(str(fault)))[1]
    assert all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in zip(first, again, strict=True))
    assert ERROR_MODELS[name](at(LAYERS["conv"], "forward"), generator(5)) == fault


@every
def test_faults_lie_inside_the_tensor_and_in_the_step_drawn_for(name: str) -> None:
    layer, source = LAYERS["conv"], generator(11)
    for number in range(300):
        fault = ERROR_MODELS[name](at(layer, "forward", step=number, format=FORMATS["fp8_e5m2"]), source)
        assert isinstance(fault.site, Elements)
        whole = math.prod(layer.result("forward").values()) if fault.site.of == "result" else 0
        size = whole or layer.elements(fault.site.of)  # type: ignore[arg-type]
        assert fault.site.first + fault.site.length <= size
        assert fault.timing == Transient(step=number, pass_="forward", layer="conv")
        fault.check(ARRAY, FORMATS["fp8_e5m2"])


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("isca2023-operand-bit", {1}),
        ("isca2023-output-random", {1}),
        ("isca2023-outputs-16", {16}),
        ("isca2023-output-moved", {16}),
        ("isca2023-operands-64", {64}),
        ("gpu-nullification", set(range(1, 17))),
    ],
)
def test_runs_are_as_long_as_published_or_said(name: str, lengths: set[int]) -> None:
    found = {fault.site.length for fault in draws(ERROR_MODELS[name], 400, LAYERS["conv"])}  # type: ignore[attr-defined]
    assert found == lengths


def test_a_run_covers_a_tensor_that_is_shorter() -> None:
    tiny = Layer(name="fc", n=1, ic=2, oc=3)
    fault = ERROR_MODELS["isca2023-outputs-16"](at(tiny, "forward"), generator())
    assert fault.site == Elements(of="result", first=0, length=3)


def test_long_runs_are_log_uniform() -> None:
    """From 64 to 65,536: of 2,000 draws half are below 2,048, within 4 sigma (89)."""
    layer = Layer(name="fc", n=256, ic=2, oc=256)
    lengths = [fault.site.length for fault in draws(isca2023_long_run, 2_000, layer)]  # type: ignore[attr-defined]
    assert min(lengths) >= 64
    assert max(lengths) <= 65_536
    assert sum(length < 2_048 for length in lengths) == pytest.approx(1_000, abs=89)


def test_an_operand_is_drawn_by_its_elements_and_a_bit_by_the_format() -> None:
    """The conv has 108 weights and 216 input values; 2,400 draws, 4 sigma."""
    faults = draws(isca2023_operand_bit, 2_400, LAYERS["conv"], format=FORMATS["bf16"])
    of = Counter(fault.site.of for fault in faults)  # type: ignore[attr-defined]
    assert of["weight"] == pytest.approx(800, abs=4 * math.sqrt(2_400 * 1 / 3 * 2 / 3))
    bits = Counter(fault.effect.bits[0] for fault in faults if isinstance(fault.effect, Flip))
    assert set(bits) == set(range(16))
    assert max(abs(times - 150) for times in bits.values()) < 4.5 * math.sqrt(2_400 / 16)


def test_moved_values_come_from_other_positions() -> None:
    fault = isca2023_output_moved(at(LAYERS["fc"], "forward"), generator(1))
    _, (moved, *_) = inject(fault)
    with torch.no_grad():
        right = Net()(images())
    assert sorted(moved.flatten().tolist()) == pytest.approx(sorted(right.flatten().tolist()))
    assert int((moved != right).sum()) == fault.site.length == 10  # type: ignore[attr-defined]


def test_shares_of_a_gpu_s_corruptions() -> None:
    """4,000 draws, 4 sigma each."""
    trials = 4_000
    effects = [fault.effect for fault in draws(gpu_corruption, trials, LAYERS["conv"])]
    for share, events in (
        (NULLIFIED_SHARE, sum(effect == ZERO for effect in effects)),
        (NON_FINITE_SHARE, sum(isinstance(e, SetTo) and math.isinf(e.value) for e in effects)),
        (1 - NULLIFIED_SHARE - NON_FINITE_SHARE, sum(isinstance(effect, RandomFlips) for effect in effects)),
    ):
        assert events == pytest.approx(share * trials, abs=4 * math.sqrt(trials * share * (1 - share)))
    assert all(effect != SetTo(value=0.0) or effect == ZERO for effect in effects)


def test_fewer_than_two_fifths_of_flip_events_are_of_one_bit() -> None:
    """20,000 words, 4 sigma (0.014): what is drawn, not what is asked for."""
    assert sum(FLIP_WEIGHTS) == pytest.approx(1)
    (fault,) = draws(gpu_bit_flips, 1, LAYERS["conv"])
    words = fault.effect.read(np.zeros(20_000, np.uint64), FORMATS["fp32"])
    flips = np.bitwise_count(words)
    assert set(flips.tolist()) == set(range(1, 9))
    single = float((flips == 1).mean())
    assert single == pytest.approx(FLIP_WEIGHTS[0], abs=4 * math.sqrt(0.39 * 0.61 / 20_000))
    assert single < 0.4 + 0.0035  # one sigma


def test_infinities_have_either_sign_and_a_format_without_them_has_none() -> None:
    values = Counter(fault.effect.value for fault in draws(gpu_non_finite, 200, LAYERS["conv"]))  # type: ignore[attr-defined]
    assert set(values) == {math.inf, -math.inf}
    faults = draws(gpu_corruption, 2_000, LAYERS["conv"], format=FORMATS["fp8_e4m3"])
    assert {type(fault.effect) for fault in faults if fault.effect != ZERO} == {RandomFlips}


def test_nullified_results_are_zero() -> None:
    fault = gpu_nullification(at(LAYERS["fc"], "forward"), generator(2))
    _, (y, *_) = inject(fault)
    assert isinstance(fault.site, Elements)
    zeros = torch.nonzero(y.flatten() == 0).flatten().tolist()
    assert zeros == list(range(fault.site.first, fault.site.first + fault.site.length))


# Messages.


def test_what_a_pass_does_not_read_is_refused() -> None:
    for name, pass_ in UNREAD:
        with pytest.raises(InvalidInput, match=rf"pass_='{pass_}' of layer 'conv' does not read its \w+; choose"):
            ERROR_MODELS[name](at(LAYERS["conv"], pass_), generator())


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"layer 'fc' has one result in forward, and no other position; choose"):
        isca2023_output_moved(at(Layer(name="fc", n=1, ic=2, oc=1), "forward"), generator())
    with pytest.raises(InvalidInput, match="format=int8 has no infinity; choose another error model"):
        gpu_non_finite(at(LAYERS["fc"], "forward", format=FORMATS["int8"]), generator())
    with pytest.raises(InvalidInput, match="error model='isca' is unknown; choose one of isca2023-operand-bit, "):
        error_model_named("isca")
