"""Products of matrices under a permanent fault, against operands misread by plain indexing."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import miscompute as mc
from miscompute.hardware import PASSES, Pass
from miscompute.injection import Injection

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, COLS = 4, 3
ROW, COL = 1, 2
ARRAY = mc.nvdla(rows=ROWS, cols=COLS)
FAULT = mc.parse_fault(f"weight[{ROW},{COL}] bit 31 flip")  # negates: integers stay integers
NOTHING = mc.parse_fault("weight[1,2] bit 31 flip when 4294967295 is 2143289345")  # one NaN of many, never met


def negated(operand: Tensor, first: tuple[int, int], each: tuple[int, int]) -> Tensor:
    """Negate every so manieth element of the last two dimensions."""
    wrong = operand.clone()
    wrong[..., first[0] :: each[0], first[1] :: each[1]] *= -1
    return wrong


class Wrong(torch.autograd.Function):
    """``a @ b``, (..., m, k), (..., k, n), on the faulty array: what stays in it is misread in each pass.

    The register of lane ROW and cell COL holds b[k, n] in the forward pass, where lanes go along k and cells along n;
    b[k, n] with lanes along n and cells along k for a's gradient; grad[m, n], lanes along m, for b's.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ negated(b, (ROW, COL), (ROWS, COLS))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        grad_a = grads[0] @ negated(b, (COL, ROW), (COLS, ROWS)).mT
        return grad_a, a.mT @ negated(grads[0], (ROW, COL), (ROWS, COLS))


def wrong(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` as PyTorch shapes it; where b is one matrix, all leading dimensions of a are rows."""
    if b.dim() == 2:
        y: Tensor = Wrong.apply(a.reshape(-1, a.shape[-1]), b)  # type: ignore[no-untyped-call]
        return y.view(*a.shape[:-1], b.shape[1])
    lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
    return Wrong.apply(  # type: ignore[no-any-return, no-untyped-call]
        a.expand(*lead, *a.shape[-2:]), b.expand(*lead, *b.shape[-2:])
    )


def wrong_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = wrong(x, weight.t())
    return y if bias is None else y + bias


Computation = Callable[..., Tensor]


class Net(nn.Module):
    """A computation with two activations and a parameter, in a part of the model."""

    def __init__(self, computation: Computation, *shape: int) -> None:
        super().__init__()
        self.part = Part(computation, shape)

    def forward(self, *inputs: Tensor) -> Tensor:
        y: Tensor = self.part(*inputs)
        return y


class Part(nn.Module):
    """Where the computation is."""

    def __init__(self, computation: Computation, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.computation = computation
        self.parameter = nn.Parameter(integers(*shape, seed=7))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.computation(*inputs, self.parameter)


def integers(*shape: int, seed: int) -> Tensor:
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).float()


def in_step(model: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
    """Give the output and the gradients of the tensors."""
    for tensor in tensors:
        tensor.grad = None
    y = model(*(tensor for tensor in tensors if not isinstance(tensor, nn.Parameter)))
    y.backward(integers(*y.shape, seed=9))  # type: ignore[no-untyped-call]
    return [y.detach(), *(tensor.grad.clone() for tensor in tensors if tensor.grad is not None)]


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def close(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)


def names(injection: Injection) -> set[str]:
    return {row.layer for row in injection.log}


def passes(injection: Injection) -> set[tuple[str, str]]:
    return {(row.layer, row.pass_) for row in injection.log}


Q, K = (2, 3, 6, 5), (2, 3, 7, 5)

CASES: dict[str, tuple[Computation, Computation, tuple[int, ...], tuple[int, ...], tuple[int, ...], str]] = {
    "q @ k.mT": (
        lambda q, k, _: q @ k.mT,
        lambda q, k, _: wrong(q, k.mT),
        Q,
        K,
        (1,),
        "part.matmul",
    ),
    "broadcast": (
        lambda q, k, _: torch.matmul(q, k.transpose(-1, -2)),
        lambda q, k, _: wrong(q, k.mT),
        (2, 1, 6, 5),
        (3, 7, 5),
        (1,),
        "part.matmul",
    ),
    "x @ parameter": (
        lambda x, _, w: x @ w,
        lambda x, _, w: wrong(x, w),
        (2, 6, 5),
        (1,),
        (5, 8),
        "part.parameter",
    ),
    "x @ parameter.t()": (
        lambda x, _, w: x.matmul(w.t()),
        lambda x, _, w: wrong(x, w.t()),
        (2, 6, 5),
        (1,),
        (8, 5),
        "part.parameter",
    ),
    "mm": (lambda a, b, _: a.mm(b), lambda a, b, _: wrong(a, b), (6, 5), (5, 7), (1,), "part.mm"),
    "bmm": (lambda a, b, _: torch.bmm(a, b), lambda a, b, _: wrong(a, b), (3, 6, 5), (3, 5, 7), (1,), "part.bmm"),
    "addmm": (  # GPT-2's Conv1D: bias, input, weight
        lambda x, b, w: torch.addmm(b, x, w),
        lambda x, b, w: wrong(x, w) + b,
        (6, 5),
        (8,),
        (5, 8),
        "part.parameter",
    ),
    "addmm with factors": (
        lambda x, b, w: torch.addmm(b, x, w, beta=2, alpha=3),
        lambda x, b, w: 3 * wrong(x, w) + 2 * b,
        (6, 5),
        (6, 8),
        (5, 8),
        "part.parameter",
    ),
    "baddbmm": (
        lambda a, b, w: torch.baddbmm(w, a, b, beta=0.5, alpha=2),
        lambda a, b, w: 2 * wrong(a, b) + 0.5 * w,
        (3, 6, 5),
        (3, 5, 7),
        (3, 6, 7),
        "part.baddbmm",
    ),
    "einsum": (
        lambda a, b, _: torch.einsum("blhd,bshd->bhls", a, b),
        lambda a, b, _: wrong(a.transpose(1, 2), b.permute(0, 2, 3, 1)),
        (2, 6, 3, 5),
        (2, 7, 3, 5),
        (1,),
        "part.einsum",
    ),
    "einsum of three": (
        lambda a, b, w: torch.einsum("ij,jk,kl->il", a, b, w),
        lambda a, b, w: wrong(wrong(a, b), w),
        (6, 5),
        (5, 7),
        (7, 8),
        "part.einsum",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_products_read_what_the_array_reads(case: str) -> None:
    computation, reference, first, second, parameter, name = CASES[case]
    model = Net(computation, *parameter)
    tensors = [*(integers(*s, seed=i).requires_grad_() for i, s in enumerate((first, second))), model.part.parameter]
    golden = in_step(model, *tensors)
    expected = in_step(lambda *inputs: reference(*inputs, model.part.parameter), *tensors)
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        found = in_step(model, *tensors)
    same(found, expected)
    assert all(not torch.equal(a, b) for a, b in zip(found[:2], golden[:2], strict=True))
    assert names(injection) == {name}
    assert {pass_ for _, pass_ in passes(injection)} == set(PASSES)
    with mc.inject(model, NOTHING, array=ARRAY) as injection:
        same(in_step(model, *tensors), golden)
    assert injection.log.changed == 0 < injection.log.reached


def test_three_matrices_of_an_einsum_that_are_one_batch() -> None:
    model = Net(lambda a, b, _: torch.einsum("bij,bij->b", a, b), 1)
    tensors = [integers(4, 2, 3, seed=seed).requires_grad_() for seed in (0, 1)]
    a, b = tensors
    expected = in_step(lambda *_: wrong(a.reshape(4, 1, 6), b.reshape(4, 6, 1)).flatten(), *tensors)
    fault = mc.parse_fault("weight[1,0] bit 31 flip")
    with mc.inject(model, fault, array=mc.nvdla(rows=4, cols=3)):
        found = in_step(model, *tensors)
    flipped = b.detach().reshape(4, 6).clone()
    flipped[:, 1::4] *= -1
    same(found[:1], [(a.detach().reshape(4, 6) * flipped).sum(1)])
    assert found[1].shape == expected[1].shape


def wrong_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    scores = wrong(q, k.mT) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return wrong(scores.softmax(-1), v)


CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril()
MASK = torch.rand(6, 6, generator=torch.Generator().manual_seed(3)) > 0.3

ATTENTION: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "causal": ({"is_causal": True}, {"mask": CAUSAL}),
    "mask": ({"attn_mask": MASK | CAUSAL}, {"mask": MASK | CAUSAL}),
    "added": ({"attn_mask": MASK.float()}, {"mask": MASK.float()}),
    "scale": ({"scale": 0.25}, {"scale": 0.25}),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_scaled_dot_product_attention(case: str) -> None:
    options, same_options = ATTENTION[case]
    model = Net(lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v, **options), 1)
    tensors = [(integers(2, 3, 6, 5, seed=seed) / 4).requires_grad_() for seed in range(3)]
    golden = in_step(model, *tensors)
    expected = in_step(lambda q, k, v: wrong_attention(q, k, v, **same_options), *tensors)
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        found = in_step(model, *tensors)
    close(found, expected)
    assert not torch.allclose(found[0], golden[0], atol=0.01)
    assert passes(injection) == {(f"part.{name}", pass_) for name in ("scores", "values") for pass_ in PASSES}
    with mc.inject(model, NOTHING, array=ARRAY):
        close(in_step(model, *tensors), golden)


def wrong_multihead(attention: nn.MultiheadAttention, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Self-attention, ``batch_first``: x (n, l, e)."""
    n, length, width = x.shape
    x = x.transpose(0, 1)  # rows are counted position by position, as the module lays them
    packed = wrong_linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (part.reshape(length, n, attention.num_heads, -1).permute(1, 2, 0, 3) for part in packed.chunk(3, dim=-1))
    y = wrong_attention(q, k, v, mask).permute(2, 0, 1, 3).reshape(length, n, width)
    return wrong_linear(y, attention.out_proj.weight, attention.out_proj.bias).transpose(0, 1)


class Attending(nn.Module):
    """Multi-head attention of a sequence to itself."""

    def __init__(self, *, need_weights: bool, mask: Tensor | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.need_weights = need_weights
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, need_weights=self.need_weights, attn_mask=self.mask)
        result: Tensor = y
        return result


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_attention(need_weights: bool, masked: bool) -> None:
    model = Attending(need_weights=need_weights, mask=~CAUSAL if masked else None)
    tensors = [integers(2, 6, 12, seed=0).requires_grad_(), *model.parameters()]
    golden = in_step(model, *tensors)
    mask = CAUSAL if masked else None
    expected = in_step(lambda x: wrong_multihead(model.attention, x, mask), *tensors)
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        found = in_step(model, *tensors)
        model.eval()  # which takes a path of its own, without gradients
        with torch.no_grad():
            close([model(tensors[0])], expected[:1])
        with torch.inference_mode():
            close([model(tensors[0])], expected[:1])
    close(found, expected)
    assert not torch.allclose(found[0], golden[0], atol=0.01)
    inner = {"attention.scores", "attention.values"}
    if need_weights:
        inner = {"attention.bmm", "attention.baddbmm"} if masked else {"attention.bmm"}
    assert names(injection) == {"attention.in_proj_weight", "attention.out_proj", *inner}
    assert {pass_ for _, pass_ in passes(injection)} == set(PASSES)


def wrong_encoder(layer: nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
    """An encoder layer that normalises after; source: Vaswani et al., 2017, fig. 1, left."""
    x = layer.norm1(x + wrong_multihead(layer.self_attn, x))
    hidden = torch.relu(wrong_linear(x, layer.linear1.weight, layer.linear1.bias))
    y: Tensor = layer.norm2(x + wrong_linear(hidden, layer.linear2.weight, layer.linear2.bias))
    return y


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_an_encoder_layer_in_training_and_in_evaluation(context: Callable[[], Any]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layer = nn.TransformerEncoderLayer(12, 3, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(layer)
    x = integers(2, 6, 12, seed=0).requires_grad_()
    tensors = [x, *model.parameters()]
    expected = in_step(lambda x: wrong_encoder(layer, x), *tensors)
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        close(in_step(model, *tensors), expected)
        model.eval()  # PyTorch computes the whole layer by one operator then
        with context():
            close([model(x)], expected[:1])
    executions = {row.layer: row.executions for row in injection.log if row.pass_ == "forward"}
    inner = ("in_proj_weight", "out_proj", "scores", "values")
    wanted = ["0.linear1", "0.linear2", *(f"0.self_attn.{name}" for name in inner)]
    assert executions == dict.fromkeys(wanted, 2)


def test_an_encoder_of_layers_in_evaluation() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layer = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)
        model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = integers(2, 6, 12, seed=0), torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    with torch.no_grad(), mc.inject(model, NOTHING, array=ARRAY) as injection:
        y = model(x, src_key_padding_mask=padding)
    assert len(names(injection)) == 12
    for layer_ in model.layers:
        layer_.train()  # by parts
    close([y], [model(x, src_key_padding_mask=padding).detach()])


TRANSPOSED: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1d": (F.conv_transpose1d, (5, 6, 4), (6, 5, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "2d": (F.conv_transpose2d, (5, 6, 3, 4), (6, 5, 3, 2), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
    "3d": (F.conv_transpose3d, (5, 6, 2, 3, 2), (6, 5, 2, 1, 2), {"stride": 2}),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions_by_the_convolution_they_are_the_gradient_of(case: str) -> None:
    """The passes of ``conv``: forward and input gradient change places, the input is its output's gradient.

    Weight (ic, oc, *kernel) is conv's (oc', ic', *kernel). Its input gradient has lanes along oc', cells along ic'; its
    forward pass the other way round; its weight gradient misreads the gradient of its output, lanes along the batch.
    """
    function, shape, kernel, options = TRANSPOSED[case]
    model = Net(lambda x, w: function(x, w, **options), *kernel)
    x = integers(*shape, seed=1).requires_grad_()
    w = model.part.parameter
    with mc.inject(model, FAULT, array=ARRAY) as injection:
        found = in_step(model, x, w)

    def cut(operand: Tensor, first: tuple[int, int], each: tuple[int, int]) -> Tensor:
        moved = operand.detach().movedim((0, 1), (-2, -1))
        return negated(moved, first, each).movedim((-2, -1), (0, 1)).contiguous()

    y = function(x.detach(), cut(w, (ROW, COL), (ROWS, COLS)), **options)
    grad_output = integers(*y.shape, seed=9)
    inputs = x.detach().requires_grad_()
    (grad_x,) = torch.autograd.grad(function(inputs, cut(w, (COL, ROW), (COLS, ROWS)), **options), inputs, grad_output)
    misread = cut(x, (ROW, COL), (ROWS, COLS))
    (grad_w,) = torch.autograd.grad(function(misread, w, **options), w, grad_output)
    same(found, [y, grad_x, grad_w])
    assert passes(injection) == {("part.parameter", pass_) for pass_ in PASSES}
    with mc.inject(model, NOTHING, array=ARRAY):
        nothing = in_step(model, x, w)
    same(nothing, in_step(model, x, w))


def test_outside_its_step_a_fault_leaves_every_bit_to_pytorch() -> None:
    """Attention is not even taken apart."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = nn.Sequential(nn.TransformerEncoderLayer(12, 3, 16, dropout=0.2, batch_first=True), nn.Linear(12, 4))
    x = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def run() -> list[Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            found = in_step(model.train(), x, *model.parameters())
        with torch.no_grad():
            return [*found, model.eval()(x)]

    golden = run()
    fault = mc.parse_fault("weight[0,0] bit 30 flip transient step 3")
    with mc.inject(model, fault, array=ARRAY) as injection:
        same(run(), golden)
    assert names(injection) == set()
    with mc.inject(model, fault, array=ARRAY, step=3):
        assert not torch.equal(run()[0], golden[0])


def test_dropout_of_attention_draws_as_pytorch_does() -> None:
    model = Net(lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v, dropout_p=0.5), 1)
    tensors = [torch.ones(2, 3, 6, 5) for _ in range(3)]
    with torch.random.fork_rng(), mc.inject(model, NOTHING, array=ARRAY):
        torch.manual_seed(1)
        first = model(*tensors)
        torch.manual_seed(1)
        assert torch.equal(model(*tensors), first)
        kept = first / (2 / 6)  # each of six equal weights is dropped or doubled
        torch.testing.assert_close(kept, kept.round())
        assert len(kept.unique()) > 2


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("of", ["weight", "input", "grad-output", "result"])
@pytest.mark.parametrize("module", [nn.Linear(5, 4), nn.Conv1d(5, 4, 2), nn.ConvTranspose1d(5, 4, 2)], ids=str)
def test_elements_count_in_the_order_of_memory(module: nn.Module, of: str, pass_: Pass) -> None:
    """Misread in one pass alone: the bias's gradient is summed elsewhere and stays right."""
    x = integers(3, 5, *(() if isinstance(module, nn.Linear) else (3,)), seed=0).requires_grad_()
    weight, bias = module.parameters()
    with torch.no_grad():
        weight.copy_(integers(*weight.shape, seed=1))
    tensors = [x, weight, bias]
    golden = in_step(module, *tensors)
    fault = mc.parse_fault(f"{of}-elements[3,2] bit 31 flip transient step 0 pass {pass_}")
    model = nn.Sequential(module)
    with mc.inject(model, fault, array=ARRAY) as injection:
        found = in_step(model, *tensors)

    def misread(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().clone()
        if name == of:
            tensor.view(-1)[3:5] *= -1
        return tensor

    grad_output = integers(*golden[0].shape, seed=9)
    function: Any = {nn.Linear: F.linear, nn.Conv1d: F.conv1d, nn.ConvTranspose1d: F.conv_transpose1d}[type(module)]
    operands = {"input": x, "weight": weight, "grad-output": grad_output}
    read = {name: misread(name, tensor) for name, tensor in operands.items()}
    inputs, weights = read["input"].requires_grad_(), read["weight"].requires_grad_()
    y = function(inputs, weights, bias.detach())
    grads = torch.autograd.grad(y, [inputs, weights], read["grad-output"])
    place = PASSES.index(pass_)
    expected = list(golden)
    expected[place] = misread("result", (y.detach(), *grads)[place])
    same(found, expected)
    reads = {"forward": {"input", "weight"}, "grad_input": {"weight", "grad-output"}}
    is_read = of == "result" or of in reads.get(pass_, {"input", "grad-output"})
    assert injection.log.reached == (2 if is_read else 0)


def test_the_kept_input_of_a_transposed_convolution_is_its_own() -> None:
    module = nn.ConvTranspose1d(5, 4, 2, stride=2)
    x = integers(3, 5, 3, seed=0).requires_grad_()
    tensors = [x, *module.parameters()]
    y, grad_x, _, grad_bias = in_step(module, *tensors)
    fault = mc.parse_fault("activation-memory[0,7] set-to 5")
    with mc.inject(nn.Sequential(module), fault, array=ARRAY) as injection:
        found = in_step(module, *tensors)
    misread = x.detach().clone()
    misread.view(-1)[7] = 5
    grad_output = integers(*y.shape, seed=9)
    (grad_w,) = torch.autograd.grad(module(misread), [module.weight], grad_output)
    same(found, [y, grad_x, grad_w, grad_bias])
    assert passes(injection) == {("0", "grad_weight")}
