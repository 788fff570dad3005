"""Faults in memory: what is wrong when, who reads it, and until when."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import miscompute as mc
from miscompute import InvalidInput
from miscompute.injection import Injection

pytestmark = pytest.mark.usefixtures("one_thread")

ARRAY = mc.nvdla_small()


class Net(nn.Module):
    """A convolution with a bias, batch normalisation and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(torch.relu(self.bn(self.conv(x))).flatten(1))
        return y


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()


def images(step: int = 0) -> Tensor:
    return torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(2 + step))


def backward(model: nn.Module, step: int = 0) -> None:
    model.zero_grad()
    F.cross_entropy(model(images(step)), torch.arange(6) % 3).backward()  # type: ignore[no-untyped-call]


def gradients(model: nn.Module, step: int = 0) -> dict[str, Tensor]:
    backward(model, step)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def flat(tensor: Tensor) -> Tensor:
    """The elements in the order of memory."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def rows(injection: Injection) -> dict[tuple[str, str], tuple[int, int, int]]:
    return {(row.layer, row.pass_): (row.executions, row.reached, row.changed) for row in injection.log}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.125, momentum=0.5)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


Corrupt = Callable[[Net, torch.optim.Optimizer], None]


def trained(
    make: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    steps: int = 3,
    begin: dict[int, Corrupt] | None = None,
    update: dict[int, Corrupt] | None = None,
) -> dict[str, Tensor]:
    """Train by hand, with what a fault does written out: at the beginning of steps, and before their updates."""
    model = net()
    optimizer = make(model)
    for step in range(steps):
        with torch.no_grad():
            (begin or {}).get(step, _nothing)(model, optimizer)
        backward(model, step)
        with torch.no_grad():
            (update or {}).get(step, _nothing)(model, optimizer)
        optimizer.step()
    return model.state_dict()


def _nothing(*_: object) -> None: ...


def injected(
    make: Callable[[nn.Module], torch.optim.Optimizer], fault: str, *, steps: int = 3
) -> tuple[dict[str, Tensor], Injection]:
    model = net()
    optimizer = make(model)
    with mc.inject(model, mc.parse_fault(fault), array=ARRAY) as injection:
        for step in range(steps):
            backward(model, step)
            optimizer.step()
    return model.state_dict(), injection


@pytest.mark.parametrize("name", [name for name, _ in net().named_parameters()])
def test_every_parameter_is_stored(name: str) -> None:
    """A transient in a weight, a bias or a scale is read by forward, backward and the step that ends it."""

    def corrupt(model: Net, _: object) -> None:
        flat(model.get_parameter(name))[2] = 1.5

    found, injection = injected(adam, f"weight-memory[{name},2] set-to 1.5 transient step 1")
    assert equal(found, trained(adam, begin={1: corrupt}))
    assert not equal(found, trained(adam))
    assert rows(injection)[name, "weight"] == (1, 1, 1)


def test_a_wrong_weight_stays_until_it_is_written() -> None:
    model = net()
    model.conv.weight.requires_grad_(False)  # no optimizer writes it
    optimizer = sgd(model)
    seen = []
    with mc.inject(model, mc.parse_fault("weight-memory[conv.weight,7] set-to 3.0 transient step 1"), array=ARRAY):
        for step in range(4):
            backward(model, step)
            seen.append(float(flat(model.conv.weight)[7]))
            optimizer.step()
    assert seen == [float(flat(net().conv.weight)[7]), 3, 3, 3]
    assert float(flat(model.conv.weight)[7]) == 3  # the chip's memory still holds it


@pytest.mark.parametrize("effect", ["set-to 0.5", "bit 22 stuck-at 1", "bit 23 flip"])
def test_a_permanent_fault_holds_after_each_step(effect: str) -> None:
    """What it does after each write, done by hand; a flip once after each write."""

    def corrupt(model: Net, _: object) -> None:
        words = flat(model.fc.weight).view(torch.int32)[:2]
        if effect == "set-to 0.5":
            words.copy_(torch.tensor([0.5, 0.5]).view(torch.int32))
        elif effect == "bit 22 stuck-at 1":
            words.bitwise_or_(1 << 22)
        else:
            words.bitwise_xor_(1 << 23)

    model = net()
    optimizer = sgd(model)
    with mc.inject(model, mc.parse_fault(f"weight-memory[fc.weight,0,2] {effect}"), array=ARRAY) as injection:
        for step in range(3):
            backward(model, step)
            optimizer.step()
        inside = copy.deepcopy(model.state_dict())
    reference = trained(sgd, begin=dict.fromkeys(range(3), corrupt))
    assert equal(model.state_dict(), reference)  # what the last step wrote
    expected = net()
    expected.load_state_dict(reference)
    corrupt(expected, None)
    assert equal(inside, expected.state_dict())  # what was read of it
    assert rows(injection)["fc.weight", "weight"][:2] == (4, 8)


@pytest.mark.parametrize("steps", [2, 3])
def test_a_permanent_flip_of_what_is_never_written_is_one_flip(steps: int) -> None:
    model = net()
    model.conv.bias.requires_grad_(False)  # type: ignore[union-attr]
    optimizer = sgd(model)
    assert model.conv.bias is not None
    before = model.conv.bias.detach().clone()
    with mc.inject(model, mc.parse_fault("weight-memory[conv.bias,0] bit 31 flip"), array=ARRAY) as injection:
        for step in range(steps):
            backward(model, step)
            optimizer.step()
            assert float(model.conv.bias[0]) == -float(before[0])
            assert torch.equal(model.conv.bias[1:], before[1:])
    assert rows(injection)["conv.bias", "weight"] == (steps + 1, steps + 1, 1)


def test_gradients_are_read_wrong_by_the_step() -> None:
    def corrupt(model: Net, _: object) -> None:
        assert model.bn.weight.grad is not None
        model.bn.weight.grad[1:3] = 4

    found, injection = injected(sgd, "gradient-memory[bn.weight,1,2] set-to 4 transient step 1")
    assert equal(found, trained(sgd, update={1: corrupt}))
    assert rows(injection)["bn.weight", "gradient"] == (1, 2, 2)
    found, injection = injected(sgd, "gradient-memory[bn.weight,1,2] set-to 4")
    assert equal(found, trained(sgd, update=dict.fromkeys(range(3), corrupt)))
    assert rows(injection)["bn.weight", "gradient"] == (3, 6, 6)


@pytest.mark.parametrize(
    ("make", "state"),
    [
        pytest.param(adam, "exp_avg", id="adam-exp_avg"),
        pytest.param(adam, "exp_avg_sq", id="adam-exp_avg_sq"),
        pytest.param(sgd, "momentum_buffer", id="sgd-momentum_buffer"),
    ],
)
@pytest.mark.parametrize("timing", ["transient step 1", ""])
def test_the_optimizers_state_is_read_wrong_by_the_step(make: Any, state: str, timing: str) -> None:
    def corrupt(model: Net, optimizer: torch.optim.Optimizer) -> None:
        flat(optimizer.state[model.conv.weight][state])[5] = 0.75

    found, injection = injected(make, f"optimizer-memory[conv.weight,{state},5] set-to 0.75 {timing}".strip())
    steps = {1} if timing else {1, 2}  # in step 0 nothing is stored yet
    assert equal(found, trained(make, update=dict.fromkeys(steps, corrupt)))
    assert not equal(found, trained(make))
    assert rows(injection)["conv.weight", "optimizer"] == (len(steps), len(steps), len(steps))


@pytest.mark.parametrize("effect", ["bit 22 stuck-at 1", "bit 24 flip", "set-to 2.0"])
def test_statistics_in_training_and_after(effect: str) -> None:
    """Normalisation in training does not read them; a permanent fault holds after each pass that writes them."""
    reference, model = net(), net()
    expected = gradients(reference)
    fault = mc.parse_fault(f"statistics-memory[bn.running_var,1] {effect}")
    with mc.inject(model, fault, array=ARRAY) as injection:
        start = model.bn.running_var.clone()  # type: ignore[union-attr]
        assert equal(gradients(model), expected)
        found = model.bn.running_var.clone()  # type: ignore[union-attr]
        model.eval()
        y = model(images())
    healthy = torch.ones(4)
    written = reference.bn.running_var - 0.9 * healthy + 0.9 * start  # type: ignore[operator]
    wanted = _with(written, 1, effect)
    assert float(start[1]) == float(_with(healthy, 1, effect)[1])
    torch.testing.assert_close(found, wanted)
    reference.eval()
    reference.bn.running_var = found
    reference.bn.running_mean = model.bn.running_mean
    assert torch.equal(y, reference(images()))
    assert rows(injection)["bn.running_var", "statistics"][0] == 2
    torch.testing.assert_close(model.bn.running_var, written)


def _with(values: Tensor, index: int, effect: str) -> Tensor:
    values = values.clone()
    words = values.view(torch.int32)
    if effect == "bit 22 stuck-at 1":
        words[index] |= 1 << 22
    elif effect == "bit 24 flip":
        words[index] ^= 1 << 24
    else:
        values[index] = 2
    return values


def test_a_transient_in_statistics_fades_with_their_average() -> None:
    model, reference = net(), net()
    with mc.inject(
        model, mc.parse_fault("statistics-memory[bn.running_mean,0] set-to 1000 transient step 0"), array=ARRAY
    ):
        for step in range(3):
            model(images(step))
    for step in range(3):
        reference(images(step))
    difference = model.bn.running_mean - reference.bn.running_mean  # type: ignore[operator]
    torch.testing.assert_close(difference, torch.tensor([1000 * 0.9**3, 0, 0, 0]), rtol=1e-5, atol=1e-6)


def test_activations_are_read_wrong_by_the_weight_gradient_alone() -> None:
    golden_model, model = net(), net()
    golden = gradients(golden_model)
    fault = mc.parse_fault("activation-memory[conv,3] set-to 5 transient step 0")
    with mc.inject(model, fault, array=ARRAY) as injection:
        found = gradients(model)
        x = images()
        model(x)
        assert torch.equal(x, images())
    flat(x)[3] = 5
    assert {name for name in found if not torch.equal(found[name], golden[name])} == {"conv.weight"}
    grads: list[Tensor] = []
    golden_model.conv.register_forward_hook(lambda *called: called[2].register_hook(grads.append) and None)
    gradients(golden_model)
    _, expected, _ = torch.ops.aten.convolution_backward(
        grads[0], x, golden_model.conv.weight, [4], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    )
    torch.testing.assert_close(found["conv.weight"], expected)
    assert rows(injection) == {("conv", "grad_weight"): (1, 1, 1)}


def test_the_order_of_memory_is_the_tensors_own() -> None:
    model = net()
    model.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with mc.inject(model, mc.parse_fault("weight-memory[conv.weight,1] set-to 7"), array=ARRAY):
        assert model.conv.weight[0, 1, 0, 0] == 7


@pytest.mark.parametrize("effect", ["set-to 1e30", "bit 30 flip", "random-word seed 3", "bit 22 stuck-at 1"])
@pytest.mark.parametrize("store", ["weight-memory[conv.weight,0,9]", "statistics-memory[bn.running_var,0,4]"])
@pytest.mark.parametrize("fails", [False, True])
def test_without_a_step_all_is_restored(store: str, effect: str, fails: bool) -> None:
    model = net().eval()
    with torch.no_grad():
        golden = model(images())
    before = copy.deepcopy(model.state_dict())
    try:
        with mc.inject(model, mc.parse_fault(f"{store} {effect}"), array=ARRAY), torch.no_grad():
            assert not torch.equal(model(images()), golden)
            assert not equal(model.state_dict(), before)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert equal(model.state_dict(), before)
    with torch.no_grad():
        assert torch.equal(model(images()), golden)


@pytest.mark.parametrize("effect", ["bit 31 flip", "bit 22 stuck-at 1"])
def test_what_was_written_by_hand_is_not_restored(effect: str) -> None:
    model = net()
    values = torch.linspace(1, 2, model.fc.weight.numel()).view_as(model.fc.weight)
    with mc.inject(model, mc.parse_fault(f"weight-memory[fc.weight,0,3] {effect}"), array=ARRAY), torch.no_grad():
        model.fc.weight.copy_(values)
    assert torch.equal(model.fc.weight, values)


class Calling(torch.optim.SGD):
    """An optimizer whose step calls its base class's."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_a_step_within_a_step_flips_once() -> None:
    found = []
    for kind in (torch.optim.SGD, Calling):
        model = net()
        optimizer = kind(model.parameters(), lr=0.125)
        with mc.inject(model, mc.parse_fault("gradient-memory[fc.bias,0] bit 31 flip"), array=ARRAY) as injection:
            backward(model)
            assert model.fc.bias.grad is not None
            before = float(model.fc.bias.grad[0])
            optimizer.step()
        assert float(model.fc.bias.grad[0]) == -before
        assert rows(injection)["fc.bias", "gradient"][2] == 1
        found.append(model.state_dict())
    assert equal(*found)


def test_another_optimizer_reads_nothing_wrong() -> None:
    model = net()
    other = torch.optim.SGD(model.conv.parameters(), lr=0.1)
    with mc.inject(model, mc.parse_fault("gradient-memory[fc.bias,0] set-to 9"), array=ARRAY) as injection:
        backward(model)
        other.step()
        assert model.fc.bias.grad is not None
        assert model.fc.bias.grad[0] != 9
    assert rows(injection) == {}


def test_a_parameter_without_gradient_holds_none() -> None:
    model = net()
    optimizer = sgd(model)
    with mc.inject(model, mc.parse_fault("gradient-memory[fc.bias,0] set-to 9"), array=ARRAY) as injection:
        optimizer.step()
    assert model.fc.bias.grad is None
    assert rows(injection) == {}


def test_steps_while_paused_are_healthy() -> None:
    model = net()
    optimizer = sgd(model)
    with (
        mc.inject(model, mc.parse_fault("gradient-memory[fc.bias,0] set-to 9"), array=ARRAY) as injection,
        injection.paused(),
    ):
        for step in range(3):
            backward(model, step)
            optimizer.step()
    assert equal(model.state_dict(), trained(sgd))


def test_words_of_half_width() -> None:
    model = net().bfloat16()
    with mc.inject(model, mc.parse_fault("weight-memory[fc.bias,1] bit 15 flip"), array=ARRAY):
        assert model.fc.bias[1] == -net().bfloat16().fc.bias[1]
    with (
        pytest.raises(InvalidInput, match=r"^bit=28 is outside bf16 \(0\.\.15; 15 is the sign\)$"),
        mc.inject(model, mc.parse_fault("weight-memory[fc.bias,1] bit 28 flip"), array=ARRAY),
    ):
        pass


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "weight-memory[fc.wait,0] bit 1 flip",
            r"name='fc.wait' of weight-memory is no parameter of the model; it has ",
        ),
        (
            "statistics-memory[fc.weight,0] bit 1 flip",
            r"name='fc.weight' of statistics-memory is no buffer of the model",
        ),
        (
            "weight-memory[fc.bias,3] bit 1 flip",
            r"index=3 of weight-memory: 'fc.bias' has 3 elements \(0\.\.2\), and 1 ",
        ),
        (
            "gradient-memory[fc.bias,2,2] bit 1 flip",
            r"index=2 of gradient-memory: 'fc.bias' has 3 .*, and 2 are wanted",
        ),
        ("weight-memory[fc.bias,0] bit 32 flip", r"bit=32 is outside fp32"),
        *(
            (
                f"activation-memory[{name},0] bit 1 flip",
                rf"^name='{name}' of activation-memory is no layer of the model; it has conv, fc$",
            )
            for name in ("cnov", "bn", "fc.bias", "nowhere.matmul")
        ),
    ],
)
def test_names_and_places_are_checked_at_once(fault: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        mc.inject(net(), mc.parse_fault(fault), array=ARRAY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["conv", "fc", "matmul", "fc.scores", "linear(3x4)"])
def test_what_may_be_a_layer_is_not_refused(name: str) -> None:
    mc.inject(net(), mc.parse_fault(f"activation-memory[{name},0] bit 1 flip"), array=ARRAY)


def test_a_layer_that_computes_its_weight_is_one() -> None:
    model = net()
    nn.utils.parametrizations.weight_norm(model.fc)
    with mc.inject(model, mc.parse_fault("activation-memory[fc,0] set-to 9"), array=ARRAY) as injection:
        backward(model)
    assert rows(injection)["fc", "grad_weight"][1] == 1


@pytest.mark.parametrize("timing", ["", " transient step 700"])
@pytest.mark.parametrize(
    ("make", "state", "known"),
    [
        (adam, "exp_awg", "Adam keeps of 'fc.bias'; choose one of exp_avg, exp_avg_sq"),
        (sgd, "exp_avg", "SGD keeps of 'fc.bias'; choose one of momentum_buffer"),
        (lambda model: torch.optim.SGD(model.parameters()), "exp_avg", "SGD keeps of 'fc.bias'; it keeps none"),
    ],
)
def test_states_are_checked_in_the_first_step(make: Any, state: str, known: str, timing: str) -> None:
    message = f"^state='{state}' of optimizer-memory is none that {known}$"
    with pytest.raises(InvalidInput, match=message):
        injected(make, f"optimizer-memory[fc.bias,{state},0] bit 1 flip{timing}", steps=1)


def test_a_state_of_another_optimizers_parameter_is_not_asked_for() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.conv.parameters(), lr=0.1)
    with mc.inject(model, mc.parse_fault("optimizer-memory[fc.bias,exp_avg,0] bit 1 flip"), array=ARRAY):
        backward(model)
        optimizer.step()


def test_a_state_that_is_smaller_than_its_parameter() -> None:
    def adafactor(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adafactor(model.parameters())

    message = r"^index=3 of optimizer-memory: row_var of 'fc.weight' has 3 elements \(0\.\.2\), and 1 are wanted$"
    with pytest.raises(InvalidInput, match=message):
        injected(adafactor, "optimizer-memory[fc.weight,row_var,3] bit 1 flip")
    _, injection = injected(adafactor, "optimizer-memory[fc.weight,row_var,2] bit 1 flip")
    assert rows(injection)["fc.weight", "optimizer"] == (2, 2, 2)
