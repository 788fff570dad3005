"""The contract of `inject`: what is intercepted, what is counted, and that nothing is left behind."""

import copy
import io
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

import miscompute as mc
from miscompute import InvalidInput
from miscompute.injection import Injection

pytestmark = pytest.mark.usefixtures("one_thread")

FAULT = mc.parse_fault("weight[0,0] bit 25 flip")  # a factor of 16, up or down
ARRAY = mc.nvdla(rows=2, cols=2)


class Net(nn.Module):
    """A convolution called functionally and a linear layer."""

    def __init__(self, *, checkpointed: bool = False, reentrant: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.kernel = nn.Parameter(torch.randn(4, 2, 3, 3, generator=generator) / 4)
        self.fc = nn.Linear(36, 3)
        with torch.no_grad():
            self.fc.weight.copy_(torch.randn(3, 36, generator=generator) / 6)
            self.fc.bias.zero_()
        self.checkpointed = checkpointed
        self.reentrant = reentrant

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(F.conv2d(x, weight=self.kernel, padding="same"))

    def forward(self, x: Tensor) -> Tensor:
        run: Any = partial(checkpoint, self.features, use_reentrant=self.reentrant)
        features: Tensor = run(x) if self.checkpointed else self.features(x)
        logits: Tensor = self.fc(features.flatten(1))
        return logits


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 2, 3, 3, generator=torch.Generator().manual_seed(2))


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    F.cross_entropy(model(x), torch.arange(len(x)) % 3).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def by_pass(injection: Injection) -> dict[tuple[str, str], tuple[int, int, int]]:
    return {(row.layer, row.pass_): (row.executions, row.reached, row.changed) for row in injection.log}


@pytest.fixture
def model() -> Iterator[Net]:
    net = Net()
    before = copy.deepcopy(net.state_dict())
    hooks = dict(net._forward_hooks), dict(net._forward_pre_hooks)
    modes = torch._C._len_torch_function_stack()
    versions = [p._version for p in net.parameters()]
    yield net
    assert (dict(net._forward_hooks), dict(net._forward_pre_hooks)) == hooks
    assert torch._C._len_torch_function_stack() == modes
    if [p._version for p in net.parameters()] == versions:  # not trained meanwhile
        assert equal(before, net.state_dict())


def test_forward_and_gradients_change_inside_and_are_back_after(model: Net) -> None:
    x = images()
    golden_y, golden = model(x).detach(), gradients(model, x)
    with mc.inject(model, FAULT, array=ARRAY):
        assert not torch.equal(model(x), golden_y)
        assert not equal(gradients(model, x), golden)
    assert torch.equal(model(x), golden_y)
    assert equal(gradients(model, x), golden)


def surroundings(model: nn.Module) -> dict[str, object]:
    """Everything that an injection might touch, as values to compare."""
    hooks = {
        f"{name}.{attribute}": list(value)
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if "hooks" in attribute and isinstance(value, dict)
    }
    shared = {
        f"{owner.__name__}.{name}": list(value)
        for owner in map(import_module, ("torch.nn.modules.module", "torch.optim.optimizer"))
        for name, value in vars(owner).items()
        if name.startswith("_global_") and isinstance(value, dict)
    }
    tensors = {
        name: (
            id(tensor),
            tensor._version,
            tensor.tolist(),
            tensor.grad if tensor.grad is None else tensor.grad.tolist(),
        )
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    return {
        **hooks,
        **shared,
        **tensors,
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "training": [module.training for module in model.modules()],
        "modes": torch._C._len_torch_function_stack(),
        "random": torch.get_rng_state().tolist(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "anomaly": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "stance": torch._dynamo.eval_frame._stance.stance,
    }


class Failing(torch.optim.SGD):
    """An optimizer whose step raises."""

    def step(self, closure: Any = None) -> Any:
        raise RuntimeError("no step")


def _fail_in_forward(model: Net) -> None:
    model(images()[:, :1])


def _fail_in_backward(model: Net) -> None:
    y = model(images())
    y.register_hook(lambda _: 1 // 0)
    y.sum().backward()


def _fail_in_step(model: Net) -> None:
    Failing(model.parameters(), lr=0.1).step()


@pytest.mark.parametrize("failing", [None, _fail_in_forward, _fail_in_backward, _fail_in_step])
def test_nothing_is_left_behind(failing: Callable[[Net], None] | None) -> None:
    model = Net()
    model.register_buffer("counter", torch.zeros(2))
    model.register_forward_hook(lambda *_: None)
    gradients(model, images())
    torch.optim.SGD(model.parameters(), lr=0.1)  # loads what optimizers load
    before = surroundings(model)
    if failing is None:
        with mc.inject(model, FAULT, array=ARRAY):
            with torch.no_grad():
                model(images())
            torch.autograd.grad(model(images()).sum(), [model.kernel])
    else:
        with pytest.raises((RuntimeError, ZeroDivisionError)), mc.inject(model, FAULT, array=ARRAY):
            failing(model)
    assert surroundings(model) == before


def test_stored_weights_are_the_same_while_a_layer_runs(model: Net) -> None:
    kept = [p.detach().clone() for p in model.parameters()]
    versions = [p._version for p in model.parameters()]
    seen = []

    def look(*_: object) -> None:
        assert [p._version for p in model.parameters()] == versions
        seen.append(all(torch.equal(p, k) for p, k in zip(model.parameters(), kept, strict=True)))

    handle = model.fc.register_forward_hook(look)
    with mc.inject(model, FAULT, array=ARRAY):
        gradients(model, images())
    handle.remove()
    look()
    assert seen == [True, True]


def test_all_is_restored_after_an_exception(model: Net) -> None:
    with pytest.raises(IndexError), mc.inject(model, FAULT, array=ARRAY):
        model(images())[99]
    golden = gradients(Net(), images())
    assert equal(gradients(model, images()), golden)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_inference(model: Net, context: Callable[[], Any]) -> None:
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        expected = model(images()).detach()
        with context():
            assert torch.equal(model(images()), expected)
    assert by_pass(injection)["kernel", "forward"] == (2, 2 * 18, 2 * 18)


@pytest.mark.parametrize("swizzle", ["none", "stripe"])
def test_training_after_inference_mode(model: Net, swizzle: str) -> None:
    array = mc.nvdla(rows=2, cols=2, swizzle=swizzle)
    with mc.inject(model, FAULT, array=array):
        expected = gradients(model, images())
    with mc.inject(model, FAULT, array=array):
        with torch.inference_mode():
            model(images())
        assert equal(gradients(model, images()), expected)


def test_autocast_reads_the_words_it_computes_with(model: Net) -> None:
    half = Net().bfloat16()
    fault = mc.parse_fault("weight[0,0] bit 9 flip")
    with mc.inject(half, fault, array=ARRAY):
        expected = half(images().bfloat16())
        expected.sum().backward()
    with mc.inject(model, fault, array=ARRAY):
        with torch.autocast("cpu", torch.bfloat16):
            y = model(images())
        y.sum().backward()
    assert torch.equal(y, expected)
    for found, wanted in zip(model.parameters(), half.parameters(), strict=True):
        assert found.grad is not None
        assert wanted.grad is not None
        assert torch.equal(found.grad, wanted.grad.float())


def test_a_bf16_model_says_what_its_bits_are() -> None:
    half = Net().bfloat16()
    wide = mc.parse_fault("weight[0,0] bit 28 stuck-at 0")
    message = r"^bit=28 is outside bf16 \(0\.\.15; 15 is the sign\)$"
    with pytest.raises(InvalidInput, match=message), mc.inject(half, wide, array=ARRAY):
        half(images().bfloat16())


def test_a_bit_outside_the_operands_format_is_named(model: Net) -> None:
    wide = mc.parse_fault("weight[0,0] bit 28 stuck-at 0")
    with (
        pytest.raises(InvalidInput, match=r"bit=28 is outside bf16 \(0\.\.15; 15 is the sign\)"),
        mc.inject(model, wide, array=ARRAY),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(images())


def test_gradient_accumulation(model: Net) -> None:
    a, b = images(3), images(4)[1:]
    with mc.inject(model, FAULT, array=ARRAY):
        first, second = gradients(model, a), gradients(model, b)
        model.zero_grad()
        for x in (a, b):
            F.cross_entropy(model(x), torch.arange(3)).backward()  # type: ignore[no-untyped-call]
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, first[name] + second[name])


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(model: Net, reentrant: bool) -> None:
    x = images().requires_grad_()
    again = Net(checkpointed=True, reentrant=reentrant)
    with mc.inject(model, FAULT, array=ARRAY):
        expected = gradients(model, x)
    with mc.inject(again, FAULT, array=ARRAY) as injection:
        assert equal(gradients(again, x), expected)
    assert by_pass(injection)["kernel", "forward"][0] == 2  # once more, in the backward pass


def test_a_compiled_model_computes_the_same(model: Net) -> None:
    compiled = torch.compile(model, backend="eager")
    with mc.inject(model, FAULT, array=ARRAY):
        expected = gradients(model, images())
    assert isinstance(compiled, nn.Module)
    compiled(images())
    with mc.inject(compiled, FAULT, array=ARRAY):
        found = gradients(compiled, images())
    assert equal({name.removeprefix("_orig_mod."): grad for name, grad in found.items()}, expected)


def test_a_model_compiled_inside_runs_faulty(model: Net) -> None:
    golden = model(images())
    with mc.inject(model, FAULT, array=ARRAY):
        expected = model(images())
        compiled: Any = torch.compile(model, backend="eager")
        assert torch.equal(compiled(images()), expected)
    assert torch.equal(model(images()), golden)


def test_a_model_that_compiles_itself_computes_the_same(model: Net) -> None:
    with mc.inject(model, FAULT, array=ARRAY):
        expected = model(images())
    itself = Net()
    itself.compile(backend="eager")
    with mc.inject(itself, FAULT, array=ARRAY):
        assert torch.equal(itself(images()), expected)


def test_torchscript_is_refused() -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit"), torch.no_grad():
        scripted = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))  # type: ignore[no-untyped-call]
    with pytest.raises(InvalidInput, match="TorchScript"):
        mc.inject(nn.Sequential(scripted), FAULT, array=ARRAY)


def test_other_models_are_left_alone(model: Net) -> None:
    teacher = Net()
    expected = teacher(images())
    with mc.inject(model, FAULT, array=ARRAY):
        assert torch.equal(teacher(images()), expected)


def test_parts_called_by_themselves_are_the_models(model: Net) -> None:
    x = images()
    with mc.inject(model, FAULT, array=ARRAY):
        assert torch.equal(model.fc(model.features(x).flatten(1)), model(x))


def test_weights_that_are_computed(model: Net) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net()

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.inner.kernel * 2)

    masked = Masked()
    with mc.inject(masked, FAULT, array=ARRAY) as injection:
        y = masked(images())
        y.sum().backward()
    expected = (masked.inner.kernel * 2).detach().clone()
    expected.view(torch.int32)[0::2, 0::2] ^= 1 << 25
    assert torch.equal(y, F.conv2d(images(), expected))
    assert {row.layer for row in injection.log} == {"conv2d(4x2x3x3)"}
    assert masked.inner.kernel.grad is not None


def misread(weight: Tensor) -> Tensor:
    """What `FAULT` on `ARRAY` makes of a weight without zeros."""
    wrong = weight.detach().clone()
    wrong.view(torch.int32)[0::2, 0::2] ^= 1 << 25
    return wrong


def test_parameters_from_outside(model: Net) -> None:
    doubled = {name: p.detach() * 2 for name, p in model.named_parameters()}
    expected = {name: misread(p) if p.dim() > 1 else p for name, p in doubled.items()}
    with mc.inject(model, FAULT, array=ARRAY):
        found = torch.func.functional_call(model, doubled, (images(),))
    assert torch.equal(found, torch.func.functional_call(model, expected, (images(),)))


def test_parametrised_weights() -> None:
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with mc.inject(linear, FAULT, array=ARRAY):
        y = linear(x)
        y.sum().backward()
    assert torch.equal(y, F.linear(x, misread(linear.weight), linear.bias))
    assert all(p.grad is not None for p in linear.parameters())


def test_tied_weights_are_one_layer() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(x))
            return y

    tied = Tied()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    with mc.inject(tied, FAULT, array=ARRAY) as injection:
        y = tied(x)
    wrong = misread(tied.first.weight)
    assert torch.equal(y, F.linear(F.linear(x, wrong), wrong))
    assert by_pass(injection) == {("first", "forward"): (2, 18, 18)}


def test_every_way_to_call(model: Net) -> None:
    x, wrong = images(), misread(model.kernel)
    convolve: Any = torch.conv2d
    with mc.inject(model, FAULT, array=ARRAY):
        found = [
            convolve(x, model.kernel),
            convolve(input=x, weight=model.kernel, bias=None, stride=(1, 1), padding=(0,)),
            F.conv2d(x, model.kernel, padding="valid"),
            F.conv2d(x[0], model.kernel)[None].expand(4, -1, -1, -1),
        ]
        same = F.conv2d(x, model.kernel, stride=1, padding="same", dilation=2)
        one = torch.conv1d(x.flatten(2), model.kernel.flatten(2), padding=1)  # a view of the weight
    for y in found[:3]:
        assert torch.equal(y, F.conv2d(x, wrong))
    torch.testing.assert_close(found[3][0], F.conv2d(x, wrong)[0])
    assert torch.equal(same, F.conv2d(x, wrong, padding=2, dilation=2))
    assert torch.equal(one, torch.conv1d(x.flatten(2), wrong.flatten(2), padding=1))


def test_an_even_kernel_with_padding_same() -> None:
    conv = nn.Conv2d(2, 4, (2, 3), padding="same")
    with mc.inject(conv, FAULT, array=ARRAY):
        y = conv(images())
    with pytest.warns(UserWarning, match="Using padding='same' with even kernel"):
        expected = F.conv2d(images(), misread(conv.weight), conv.bias, padding="same")
    torch.testing.assert_close(y, expected)


def test_a_weight_without_output_channels() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vector = nn.Parameter(torch.arange(1.0, 9.0))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.vector)

    single, x = Single(), torch.ones(5, 3, 8)
    with mc.inject(single, FAULT, array=ARRAY):
        y = single(x)
        y.sum().backward()
    assert torch.equal(y, F.linear(x, misread(single.vector[None])[0]))
    assert single.vector.grad is not None


def test_an_empty_batch_meets_no_fault(model: Net) -> None:
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        model(images()[:0]).sum().backward()
    assert injection.log.reached == 0
    assert model.kernel.grad is not None


def test_only_the_gradients_that_are_wanted(model: Net) -> None:
    model.kernel.requires_grad = False
    x = images().requires_grad_()
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        expected = torch.autograd.grad(model(x).sum(), x)[0]
        model(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, expected)
    assert model.kernel.grad is None
    assert ("kernel", "grad_weight") not in by_pass(injection)
    assert ("kernel", "grad_input") in by_pass(injection)


def test_a_backward_pass_may_be_repeated(model: Net) -> None:
    with mc.inject(model, FAULT, array=ARRAY):
        loss = model(images()).square().sum()
        first = torch.autograd.grad(loss, model.kernel, retain_graph=True)[0]
        assert torch.equal(torch.autograd.grad(loss, model.kernel)[0], first)


def test_a_backward_pass_after_the_block_is_healthy(model: Net) -> None:
    with mc.inject(model, mc.parse_fault("weight[0,0] bit 25 flip"), array=ARRAY) as injection:
        y = model.fc(torch.ones(2, 36))
    y.sum().backward()
    assert model.fc.weight.grad is not None
    assert torch.equal(model.fc.weight.grad, torch.full((3, 36), 2.0))
    assert set(by_pass(injection)) == {("fc", "forward")}


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_made_inside_is_a_model_of_its_own(model: Net, how: str) -> None:
    golden = model(images())
    with mc.inject(model, FAULT, array=ARRAY):
        faulty = model(images())
        if how == "deepcopy":
            other = copy.deepcopy(model)
        else:
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            other = torch.load(file, weights_only=False)
        assert torch.equal(other(images()), golden)
        assert torch.equal(model(images()), faulty)
    assert torch.equal(other(images()), golden)
    with mc.inject(other, FAULT, array=ARRAY):
        assert torch.equal(other(images()), faulty)


def test_two_injections_into_one_model_are_refused(model: Net) -> None:
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        expected = model(images())
        for part in (model, model.fc, nn.Sequential(model)):
            with pytest.raises(InvalidInput, match="it is under injection already"):
                mc.inject(part, FAULT, array=ARRAY).__enter__()
        with pytest.raises(InvalidInput, match="it is under injection already"):
            injection.__enter__()
        with mc.inject(Net(), FAULT, array=ARRAY):  # another model
            assert torch.equal(model(images()), expected)
        assert mc.trace(model, images())
        assert torch.equal(model(images()), expected)
    with injection:
        assert torch.equal(model(images()), expected)


@pytest.mark.parametrize("shape", [(2, 8), (5, 2, 8)])
def test_unbatched_and_further_dimensions(shape: tuple[int, ...]) -> None:
    conv = nn.Conv1d(2, 4, 3)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with mc.inject(conv, FAULT, array=ARRAY):
        one = conv(x)
        many = conv(x if x.dim() == 3 else x[None])
    torch.testing.assert_close(one if one.dim() == 3 else one[None], many)
    linear = nn.Linear(8, 4)
    with mc.inject(linear, FAULT, array=ARRAY):
        torch.testing.assert_close(linear(x).reshape(-1, 4), linear(x.reshape(-1, 8)))


def test_memory_formats_and_expanded_gradients(model: Net) -> None:
    x = images()
    with mc.inject(model, FAULT, array=ARRAY):
        expected = model.features(x)
        (golden,) = torch.autograd.grad(model.features(x).sum(), model.kernel)
        last = model.features(x.to(memory_format=torch.channels_last))
        (found,) = torch.autograd.grad(last.sum(), model.kernel)
    torch.testing.assert_close(last, expected)
    torch.testing.assert_close(found, golden)


def test_paused_is_the_healthy_machine(model: Net) -> None:
    golden = gradients(model, images())
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        faulty = gradients(model, images())
        with injection.paused():
            assert equal(gradients(model, images()), golden)
        assert equal(gradients(model, images()), faulty)


def test_only_the_thread_that_entered_is_faulty(model: Net) -> None:
    golden, found = gradients(model, images()), []
    other = copy.deepcopy(model)
    with mc.inject(other, FAULT, array=ARRAY):
        thread = threading.Thread(target=lambda: found.append(gradients(other, images())))
        thread.start()
        thread.join()
    assert equal(found[0], golden)


def test_steps_are_the_optimizers_own(model: Net) -> None:
    adam, sgd = torch.optim.Adam([model.kernel]), torch.optim.SGD(model.fc.parameters())
    teacher = torch.optim.SGD(Net().parameters())
    with mc.inject(model, FAULT, array=ARRAY, step=10) as injection:
        for expected in (11, 12):
            gradients(model, images())
            adam.step()
            sgd.step()
            teacher.step()
            assert injection.step == expected
        adam.step()
        assert injection.step == 13


def test_a_skipped_step_is_not_counted(model: Net) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    kept = copy.deepcopy(model.state_dict())
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        scaler.scale(model(images()).sum() * float("inf")).backward()
        scaler.step(optimizer)
        scaler.update()
        assert injection.step == 0
        assert equal(model.state_dict(), kept)
        model.zero_grad()
        scaler.scale(model(images()).sum()).backward()
        scaler.step(optimizer)
    assert injection.step == 1


def test_a_step_that_calls_its_base_class_counts_once(model: Net) -> None:
    class Mine(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    torch.optim.SGD(Net().parameters())  # PyTorch's hooks now surround the base class's step, too
    optimizer = Mine(model.parameters(), lr=0.0)
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        optimizer.step()
        optimizer.step(lambda: 0.0)
    assert injection.step == 2


def test_an_optimizer_in_another_thread_does_not_disturb(model: Net) -> None:
    teachers = torch.optim.SGD(Net().parameters())

    class Slow(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            thread = threading.Thread(target=teachers.step)  # meanwhile
            thread.start()
            thread.join()
            return super().step()

    optimizer = Slow(model.parameters(), lr=0.0)
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        expected = model.fc(torch.ones(1, 36))
        optimizer.step()
        assert torch.equal(model.fc(torch.ones(1, 36)), expected)
    assert injection.step == 1


def test_an_optimizer_with_a_closure_runs_the_faulty_model(model: Net) -> None:
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images()), torch.arange(4) % 3)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with mc.inject(model, mc.parse_fault("weight[0,0] bit 3 flip"), array=ARRAY) as injection:
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert injection.step == 1
    assert by_pass(injection)["kernel", "forward"][0] == calls > 1


def test_zero_grad_goes_past_the_interception_and_comes_back(model: Net) -> None:
    own, seen = torch.optim.Optimizer.zero_grad, []

    class Watched(torch.optim.SGD):
        def _patch_step_function(self) -> None:  # called inside `zero_grad`, of an optimizer that is loaded
            seen.append(torch._C._len_torch_function_stack())
            super()._patch_step_function()

    optimizer = Watched(model.parameters(), lr=0.1)
    seen.clear()
    with mc.inject(model, FAULT, array=ARRAY):
        expected = gradients(model, images())
        for fails in (False, True):
            del optimizer._zero_grad_profile_name
            if fails:
                optimizer.param_groups[0]["params"].append(None)
                with pytest.raises(AttributeError):
                    optimizer.zero_grad()
            else:
                optimizer.zero_grad()
            assert all(p.grad is None for p in model.parameters())
            assert equal(gradients(model, images()), expected)
    assert seen == [0, 0]
    assert torch.optim.Optimizer.zero_grad is own


def test_zero_grad_is_the_optimizers_own_after_the_last_injection(model: Net) -> None:
    own = torch.optim.Optimizer.zero_grad
    with mc.inject(model, FAULT, array=ARRAY):
        replacement = torch.optim.Optimizer.zero_grad
        with mc.inject(Net(), FAULT, array=ARRAY):
            assert torch.optim.Optimizer.zero_grad is replacement
        assert torch.optim.Optimizer.zero_grad is replacement is not own
    assert torch.optim.Optimizer.zero_grad is own


def test_a_failed_optimizer_step_does_not_end_the_injection(model: Net) -> None:
    optimizer, golden = Failing(model.parameters(), lr=0.1), gradients(model, images())
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        expected = gradients(model, images())
        part = model.fc(torch.ones(1, 36))
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no step"):
                optimizer.step()
            assert equal(gradients(model, images()), expected)
        with pytest.raises(RuntimeError, match="no step"):
            optimizer.step()
        assert torch.equal(model.fc(torch.ones(1, 36)), part)
        assert injection.step == 0
    assert equal(gradients(model, images()), golden)


def test_a_mode_entered_after_a_failed_step_stays_inside(model: Net) -> None:
    optimizer = Failing(model.parameters(), lr=0.1)
    with mc.inject(model, FAULT, array=ARRAY):
        expected = model(images())
        with pytest.raises(RuntimeError, match="no step"):
            optimizer.step()
        with torch.device("cpu"):
            assert torch.equal(model(images()), expected)
        assert torch.equal(model(images()), expected)


@pytest.mark.parametrize(
    ("timing", "steps", "passes"),
    [
        ("transient step 2", {2}, {"forward", "grad_input", "grad_weight"}),
        ("transient step 1 pass grad_weight", {1}, {"grad_weight"}),
        ("transient step 1 layer fc", {1}, {"forward", "grad_input", "grad_weight"}),
        ("intermittent on 1 off 2 start 1", {1, 4}, {"forward", "grad_input", "grad_weight"}),
    ],
)
def test_timings_hit_their_steps(model: Net, timing: str, steps: set[int], passes: set[str]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    hit = set()
    with mc.inject(model, mc.parse_fault(f"weight[0,0] bit 3 flip {timing}"), array=ARRAY) as injection:
        for step in range(6):
            before = sum(row.executions for row in injection.log)
            gradients(model, images().requires_grad_())
            if sum(row.executions for row in injection.log) > before:
                hit.add(step)
            optimizer.step()
    assert hit == steps
    assert {row.pass_ for row in injection.log} == passes
    assert ("fc" in timing) == ({row.layer for row in injection.log} == {"fc"})


def test_a_fault_that_changes_nothing_leaves_training_bit_identical() -> None:
    def trained(fault: str | None) -> tuple[dict[str, Tensor], int]:
        net = Net()
        optimizer = torch.optim.Adam(net.parameters())
        injection = None if fault is None else mc.inject(net, mc.parse_fault(fault), array=ARRAY)
        if injection:
            injection.__enter__()
        for _ in range(5):
            gradients(net, images())
            optimizer.step()
        if injection:
            injection.__exit__(None, None, None)
        return net.state_dict(), injection.log.changed if injection else 0

    golden, _ = trained(None)
    found, changed = trained("weight[0,0] bit 30 stuck-at 0")  # no word here is as large as 2
    assert changed == 0
    assert equal(found, golden)


def test_the_log_counts_elements_and_changes(model: Net) -> None:
    with torch.no_grad():
        model.kernel[0, 0] = 0.0  # nine zeros, spared
    with mc.inject(model, mc.parse_fault("weight[0,0] bit 31 stuck-at 1"), array=ARRAY) as injection:
        model(images())
    positive = int((model.kernel[0::2, 0::2] > 0).sum())
    assert by_pass(injection)["kernel", "forward"] == (1, 18, positive)
    assert "kernel" in str(injection.log)


def test_what_is_not_lowered_is_counted_and_warned_of() -> None:
    class Memory(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.bilinear(x, x, torch.ones(1, x.shape[-1], x.shape[-1]))

    model = Memory()
    injection = mc.inject(model, FAULT, array=ARRAY)
    injection.__enter__()
    Memory()(images())  # another model
    model(images())
    with pytest.warns(UserWarning, match="the model ran bilinear, not lowered yet"):
        injection.__exit__(None, None, None)
    assert list(injection.log.unlowered.values()) == [1]


def test_second_derivatives_are_refused(model: Net) -> None:
    with mc.inject(model, FAULT, array=ARRAY):
        loss = model(images()).square().mean()
        with pytest.raises(InvalidInput, match="create_graph=True"):
            torch.autograd.grad(loss, model.kernel, create_graph=True)


def test_a_dtype_without_fault_model_needs_a_format(model: Net) -> None:
    wide = Net().double()
    message = "operand dtype float64 has no fault model; give the array a format="
    with pytest.raises(InvalidInput, match=message), mc.inject(wide, FAULT, array=ARRAY):
        wide(images().double())
    with mc.inject(wide, FAULT, array=mc.nvdla(rows=2, cols=2, format="fp32")):
        assert wide(images().double()).dtype == torch.float64


def test_an_integer_format_needs_integers(model: Net) -> None:
    fault = mc.parse_fault("weight[0,0] bit 3 flip")
    array = mc.nvdla_small(format="int8")
    with pytest.raises(InvalidInput, match="quantise the model first"), mc.inject(model, fault, array=array):
        model(images())


def test_bad_places_and_bits_are_said_at_once(model: Net) -> None:
    with pytest.raises(InvalidInput, match="row=9"):
        mc.inject(model, mc.parse_fault("weight[9,0] bit 1 flip"), array=ARRAY)
    with pytest.raises(InvalidInput, match="bit=9 is outside int8"):
        mc.inject(model, mc.parse_fault("weight[0,0] bit 9 flip"), array=mc.nvdla_small(format="int8"))


def test_trace_leaves_the_model_as_it_was(model: Net) -> None:
    model.fc.eval()
    layers = mc.trace(model, images())
    assert [(layer.name, layer.index, layer.n, layer.ic, layer.oc) for layer in layers] == [
        ("kernel", 0, 4, 2, 4),
        ("fc", 1, 4, 36, 3),
    ]
    assert model.training
    assert not model.fc.training
    assert mc.lower(FAULT, ARRAY, layers)


@pytest.mark.usefixtures("unchecked")  # of types, which costs more than the computation
@pytest.mark.parametrize("site", ["weight[1,0]", "activation[1,1]", "product[1,0]", "output[0]"])
def test_a_burst_of_cycles_that_never_ends_is_a_permanent_fault(site: str) -> None:
    """With int8 operands, where sums do not depend on their order; and one that ends is less."""
    fault = f"{site} bit 0 flip"
    array = mc.nvdla(rows=2, cols=2, format="int8")
    first, last = nn.Conv2d(3, 3, 2, bias=False), nn.Linear(12, 3, bias=False)
    model = nn.Sequential(first, nn.Flatten(), last)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter) % (5 + number) - 2)
    x = (torch.arange(54.0).view(2, 3, 3, 3) % 5 - 2).requires_grad_()

    def run(timing: str, step: int = 0) -> tuple[list[Tensor], int]:
        with mc.inject(model, mc.parse_fault(f"{fault} {timing}".strip()), array=array, step=step) as injection:
            conv = first(x)
            y = last(conv.detach().flatten(1))
            grads = torch.autograd.grad(conv, [x, first.weight], torch.ones_like(conv))
        return [conv, y, *grads], injection.log.changed

    permanent, changed = run("")
    ever, as_many = run("cycle-bursts mean_on 1e15 mean_off 1 seed 0")
    assert all(torch.equal(a, b) for a, b in zip(ever, permanent, strict=True))
    some = [run("cycle-bursts mean_on 3 mean_off 9 seed 1", step) for step in range(3)]
    assert all(0 < number < max(changed, as_many) for _, number in some)
    assert not torch.equal(some[0][0][0], some[1][0][0])
