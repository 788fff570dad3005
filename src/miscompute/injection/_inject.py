"""The context manager: from intercepted calls to layers on the faulty array."""

import sys
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import Lock, get_ident
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from .._invalid import InvalidInput
from ..error import StoredError, in_twin, lower
from ..fault import PERMANENT, Fault
from ..fault import Memory as MemorySite
from ..hardware import PASSES, Array, Layer
from ._geometry import LINEAR, PRODUCTS, Call, Convolution, TransposedConvolution
from ._image import OnArrayInImageMode
from ._log import Log
from ._memory import Memory
from ._operators import COMPOSITES, OPERATORS, UNLOWERED, Operator
from ._passes import UNREACHED, LayerOnArray, OnArray, Plans, Scratch, make_plan
from ._private import active_modes, enter_below, entered, in_backward
from ._products import read_matmul

_Function = Callable[..., Any]

_MOST_PLANS = 256  # kept for a layer: a random swizzle never comes back to the same lanes


def unwrapped(model: nn.Module) -> nn.Module:
    """Give the model inside data parallelism and compilation, by whose names its layers are called."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


class _Hook:
    """A hook on the model. Where the model is copied or pickled meanwhile, the copy's does nothing."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def __call__(self, *_: object) -> None:
        self._action()

    def __reduce__(self) -> tuple[type["_Hook"], tuple[Callable[[], None]]]:
        return _Hook, (_nothing,)


def _nothing() -> None: ...


class _Interception(TorchFunctionMode):
    """Offers every operator that would run on the array to a handler, if the call is the model's own.

    A call is the model's if it happens inside the model's forward, or on one of its parameters (a submodule called
    directly), or while the backward pass recomputes part of a forward (gradient checkpointing). Only calls of the
    thread that holds it are offered.
    """

    def __init__(
        self,
        model: nn.Module,
        handler: Callable[[Call, str], Tensor | None],
        is_needed: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__()
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                raise InvalidInput(
                    f"model: its part {name!r} is a TorchScript module, whose operators cannot be intercepted; "
                    "use the Python module it was made from"
                )
        self._model = model
        self._handler = handler
        self._is_needed = is_needed
        inner = unwrapped(model)
        self._modules = {id(module): name for name, module in inner.named_modules()}
        self._depth = 0
        self._thread = 0
        self._entered_by = entered(under=self)
        self._names: dict[int, str] = {}
        for name, parameter in inner.named_parameters():
            self._names.setdefault(id(parameter), name.removesuffix(".weight"))
        self.unlowered: dict[str, int] = {}

    def hold(self) -> ExitStack:
        """Start intercepting; closing what is returned ends it and leaves the model as it was."""
        self._thread = get_ident()
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:  # else nothing has been compiled
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            for handle in (
                self._model.register_forward_pre_hook(_Hook(self._entered)),
                self._model.register_forward_hook(_Hook(self._left), always_call=True),
            ):
                stack.callback(handle.remove)
            stack.enter_context(self)
            return stack.pop_all()

    def _entered(self) -> None:
        if get_ident() == self._thread:
            self._depth += 1

    def _left(self) -> None:
        if get_ident() == self._thread:
            self._depth -= 1

    def may_be_layer(self, name: str) -> bool:
        """Whether a layer may go by a name: a parameter's, a module's that computes its weight, or an operator's.

        Which layers there are shows when the model runs; PyTorch's own modules multiply matrices by no parameter of one
        dimension, and only those for layers compute a weight.
        """
        owner, _, last = name.rpartition(".")
        named = self._named_modules()
        if name in named and (not _is_pytorchs(named[name]) or isinstance(named[name], _LAYERS)):
            return True
        if last.partition("(")[0] in _PRODUCTS:
            return not owner or owner in named
        return name in self.layer_names()

    def layer_names(self) -> tuple[str, ...]:
        """Name the layers that have a parameter for a weight, or may have."""
        named = self._named_modules()
        return tuple(
            self._names[id(parameter)]
            for name, parameter in unwrapped(self._model).named_parameters()
            if parameter.dim() > 1 or not _is_pytorchs(named[name.rpartition(".")[0]])
        )

    def _named_modules(self) -> dict[str, nn.Module]:
        return dict(unwrapped(self._model).named_modules())

    def shares_parameters(self, other: "_Interception") -> bool:
        """Whether the two models have a parameter in common."""
        return not self._names.keys().isdisjoint(other._names)

    def owns(self, parameters: list[dict[str, Any]]) -> bool:
        """Whether an optimizer's parameter groups hold a parameter of the model."""
        return any(id(parameter) in self._names for group in parameters for parameter in group["params"])

    def __torch_function__(
        self,
        func: _Function,
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Compute an operator on the array if it is the model's, else as always."""
        handle = _HANDLED.get(func)
        if kwargs is None:
            kwargs = {}
        if handle is None:
            return self._entered_by.get(func, func)(*args, **kwargs)
        result = handle(self, func, args, kwargs)
        return func(*args, **kwargs) if result is None else result

    def compute(self, operator: Operator, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
        """Compute an operator that is one product; None: as always."""
        if torch.compiler.is_compiling():
            raise InvalidInput("model: it is being compiled under injection; compile it after, or use it uncompiled")
        name = self._name(operator, args, kwargs)
        if name is None:
            return None
        if kwargs.get("out") is not None:
            self.leave_out(f"{operator.name}(out=...)")
            return None
        call = operator.read(*args, **kwargs)
        if not call.x.is_floating_point():
            return None
        result = self._handler(call, name)
        return result if result is None or call.restore is None else call.restore(result)

    def compose(self, composite: Callable[..., Tensor], args: Any, kwargs: dict[str, Any]) -> Tensor | None:
        """Compute an operator that is several products; None: as always."""
        if not (self._depth or in_backward()) or not self._is_needed():
            return None
        caller = self._calling_module()
        if caller is None and not self._depth:
            return None

        def product(label: str, a: Tensor, b: Tensor) -> Tensor:
            call = read_matmul(a, b)
            result = self._handler(call, f"{caller}.{label}" if caller else label) if a.is_floating_point() else None
            if result is None:
                return torch.matmul(a, b)
            return result if call.restore is None else call.restore(result)

        return composite(product, *args, **kwargs)

    def leave_out(self, name: str) -> None:
        """Count a call that an array would compute and that is left to PyTorch."""
        if self._depth:
            self.unlowered[name] = self.unlowered.get(name, 0) + 1

    def _name(self, operator: Operator, args: Any, kwargs: dict[str, Any]) -> str | None:
        """Name the layer that a call is: by its parameter, else by the module that calls. None: not the model's."""
        for position, keyword in reversed(operator.operands):
            operand = args[position] if len(args) > position else kwargs.get(keyword)
            name = self._names.get(id(operand))
            if name is None and isinstance(operand, Tensor) and operand._base is not None:  # a view, transposed say
                name = self._names.get(id(operand._base))
            if name is not None:
                return name
        if not self._depth and not in_backward():
            return None
        caller = self._calling_module()
        if caller is None and not self._depth:
            return None
        if operator.has_weight:  # computed, by a parametrisation say
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            return caller or f"{operator.name}({'x'.join(map(str, weight.shape))})"
        return f"{caller}.{operator.name}" if caller else operator.name

    def _calling_module(self) -> str | None:
        """Name the submodule whose method makes the call; None: no method of the model's."""
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if code.co_argcount and code.co_varnames[0] == "self":
                name: str | None = self._modules.get(id(frame.f_locals.get("self")))
                if name is not None:
                    return name
            frame = frame.f_back  # type: ignore[assignment]
        return None


_LAYERS = (
    nn.Linear,
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
"""PyTorch's modules whose weight may be computed: by a parametrisation, say."""

_PRODUCTS = frozenset({operator.name for operator in OPERATORS.values()} | {"scores", "values", "einsum"})
"""What layers are called by that no parameter names: the products of `OPERATORS` and `COMPOSITES`."""


def _is_pytorchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules.")


_Handle = Callable[[_Interception, _Function, Any, dict[str, Any]], Tensor | None]


def _product(operator: Operator) -> _Handle:
    return lambda interception, _, args, kwargs: interception.compute(operator, args, kwargs)


def _composite(composite: Callable[..., Tensor]) -> _Handle:
    return lambda interception, _, args, kwargs: interception.compose(composite, args, kwargs)


def _unlowered(name: str) -> _Handle:
    return lambda interception, *_: interception.leave_out(name)


_HANDLED: dict[_Function, _Handle] = {
    **{function: _product(operator) for function, operator in OPERATORS.items()},
    **{function: _composite(composite) for function, composite in COMPOSITES.items()},
    **{function: _unlowered(name) for function, name in UNLOWERED.items()},
}


class _QuickZeroGrad:
    """Makes `Optimizer.zero_grad` leave the innermost interception, as long as anyone holds this.

    Else both its accesses to each parameter's gradient would pass through, which costs more than they do themselves.
    Other threads, and calls outside all interceptions, find it as it always is.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._holders = 0
        self._original: _Function = Optimizer.zero_grad

    @contextmanager
    def hold(self) -> Iterator[None]:
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                self._original = Optimizer.zero_grad
                Optimizer.zero_grad = self._leaving(self._original)  # type: ignore[method-assign]
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    Optimizer.zero_grad = self._original  # type: ignore[method-assign]

    @staticmethod
    def _leaving(original: _Function) -> _Function:
        @wraps(original)
        def zero_grad(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            modes = active_modes()
            if not modes or not isinstance(modes[-1], _Interception):
                original(optimizer, *args, **kwargs)
                return
            modes[-1].__exit__(None, None, None)  # type: ignore[no-untyped-call]
            try:
                original(optimizer, *args, **kwargs)
            finally:
                modes[-1].__enter__()  # type: ignore[no-untyped-call]

        return zero_grad


_quick_zero_grad = _QuickZeroGrad()


class Injection:
    """An injection under way: what `inject` gives. Its `log` stays readable afterwards."""

    def __init__(self, model: nn.Module, fault: Fault, *, array: Array, step: int = 0) -> None:
        fault.check(array)
        self.log = Log()
        self._fault = fault
        self._array = array
        self._first_step = step
        self._step = step
        self._is_lasting = fault.timing == PERMANENT and not array.swizzle.each_step
        self._is_on = False
        self._moment = 0  # goes on whenever the layers' plans may become others
        self._interception = _Interception(model, self._compute, self._may_act)
        self._check_layer()
        self._optimizers: dict[int, tuple[Optimizer, int]] = {}
        self._begun: set[int] = set()  # the optimizers that are stepping
        self._layers: dict[Hashable, LayerOnArray] = {}
        self._indices: dict[str, int] = {}
        self._scratch: Scratch = {}
        stored = [error for error in lower(fault, array, (), step=step) if isinstance(error, StoredError)]
        self._memory = (
            Memory(unwrapped(model), stored, record=self.log.add, step=lambda: self._step) if stored else None
        )
        self._model = model
        self._stack = ExitStack()
        self._thread = 0
        self._left_at: int | None = None  # how many modes lie below the interception, while it is left for a step
        self._returning: RemovableHandle | None = None

    def _check_layer(self) -> None:
        """Raise `InvalidInput` if the layer whose kept input is faulty cannot be one of the model's."""
        site = self._fault.site
        if not isinstance(site, MemorySite) or site.store != "activation":
            return
        if not self._interception.may_be_layer(site.name):
            some = ", ".join(self._interception.layer_names()[:8]) or "none that a parameter names"
            raise InvalidInput(f"name={site.name!r} of activation-memory is no layer of the model; it has {some}")

    @property
    def step(self) -> int:
        """How many optimizer steps are completed. With several optimizers of the model, those of the busiest."""
        return self._step

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Compute on a healthy machine inside: an evaluation amid training, say."""
        was_on = self._is_on
        self._turn(on=False)
        try:
            yield
        finally:
            self._turn(on=was_on)

    def _turn(self, *, on: bool) -> None:
        self._is_on = on
        self._moment += 1

    def __enter__(self) -> "Injection":
        if any(isinstance(m, _Interception) and m.shares_parameters(self._interception) for m in active_modes()):
            raise InvalidInput("model: it is under injection already, and faults do not add up; end that one first")
        self._thread = get_ident()
        with ExitStack() as stack:
            # This loads the compiler, so that a model compiled inside, by the first who compiles at all, runs in eager
            # mode as well.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(_quick_zero_grad.hold())
            stack.enter_context(self._interception.hold())
            for handle in (
                register_optimizer_step_pre_hook(self._before_step),
                register_optimizer_step_post_hook(self._after_step),
            ):
                stack.callback(handle.remove)
            if self._memory is not None:
                stack.callback(self._memory.restore)
                after = self._model.register_forward_hook(_Hook(self._after_forward))
                stack.callback(after.remove)
                self._memory.begin_step()
            self._stack = stack.pop_all()
        self._turn(on=True)
        return self

    def _after_forward(self) -> None:
        assert self._memory is not None
        if self._is_on:
            self._memory.after_forward(training=self._model.training)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turn(on=False)
        self._resume()
        self._stack.close()
        self.log.unlowered.update(self._interception.unlowered)
        if self.log.unlowered and error is None:
            names = ", ".join(self.log.unlowered)
            warnings.warn(f"the model ran {names}, not lowered yet: no fault was injected there", stacklevel=2)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._begun.add(id(optimizer))
        if self._memory is not None and self._is_on:
            self._memory.before_update(optimizer)
        # An optimizer's many small operators need not pass through the interception; a closure runs the model, though.
        modes = active_modes()
        if len(args) < 2 and not kwargs and modes and modes[-1] is self._interception:
            self._left_at = len(modes) - 1
            self._interception.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            # A step that raises is not followed by `_after_step`; what comes next is a module's forward.
            self._returning = register_module_forward_pre_hook(self._resume)

    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        self._resume()
        if id(optimizer) not in self._begun:  # the end of a step that called its base class's, which counted
            return
        self._begun.remove(id(optimizer))
        if id(optimizer) not in self._optimizers and not self._interception.owns(optimizer.param_groups):
            return
        steps = self._optimizers.get(id(optimizer), (optimizer, 0))[1]
        self._optimizers[id(optimizer)] = (optimizer, steps + 1)
        is_new = self._first_step + steps + 1 > self._step
        self._step = max(self._step, self._first_step + steps + 1)
        if not self._is_lasting:
            self._moment += 1
        if self._memory is not None:
            self._memory.after_update(optimizer)
            if is_new and self._is_on:
                self._memory.begin_step()

    def _resume(self, *_: object) -> None:
        if self._left_at is not None and get_ident() == self._thread:
            enter_below(self._interception, self._left_at)
            self._left_at = None
            if self._returning is not None:
                self._returning.remove()

    def _may_act(self) -> bool:
        """Whether the fault, or the array's format, may now change anything anywhere."""
        return self._is_on and (self._array.format is not None or self._fault.timing.may_act(step=self._step))

    def _compute(self, call: Call, name: str) -> Tensor | None:
        if not self._is_on:
            return None
        call = _cast_as_autocast(call)
        if self._array.im2col and isinstance(call.geometry, TransposedConvolution):
            self._interception.leave_out("conv_transpose")
            return None
        if self._array.im2col and isinstance(call.geometry, Convolution):
            return self._compute_by_columns(call, name)
        return self._compute_layer(call, name)

    def _compute_by_columns(self, call: Call, name: str) -> Tensor | None:
        """Compute a convolution as the product of matrices that im2col makes of it, or as a batch, one a group."""
        x, weight, bias, geometry, _ = call
        assert isinstance(geometry, Convolution)
        kernel = tuple(weight.shape[2:])
        out = geometry.layer(name, 0, x, weight).out_size
        columns, rows = geometry.columns(x, kernel), weight.flatten(1)
        if geometry.groups == 1:
            y = self._compute_layer(Call(columns[0], rows, bias, LINEAR, None), name)
        else:
            rows = rows.view(geometry.groups, -1, rows.shape[1])
            y = self._compute_layer(Call(columns, rows, None, PRODUCTS, None), name)
        if y is None:
            return None
        if geometry.groups > 1:
            y = y.transpose(0, 1).flatten(1)  # (group, row, oc / groups) -> (row, oc)
            y = y if bias is None else y + bias
        return y.view(len(x), *out, -1).movedim(-1, 1)

    def _compute_layer(self, call: Call, name: str) -> Tensor | None:
        x, weight, bias, geometry, _ = call
        key = (name, x.shape, geometry)
        on_array = self._layers.get(key)
        if on_array is None:
            if not x.numel():  # an empty batch
                return None
            index = self._indices.setdefault(name, len(self._indices))
            layer = geometry.layer(name, index, x, weight)
            kind = OnArrayInImageMode if self._array.seen(layer, "forward").packed else LayerOnArray
            on_array = self._layers[key] = kind(
                layer,
                geometry,
                format=self._array.format,
                plans=self._plans,
                record=self.log.add,
                scratch=self._scratch,
                step=lambda: self._step,
            )
        if not on_array.is_hit():
            return None
        if torch.is_grad_enabled():
            return OnArray.apply(x, weight, bias, on_array)  # type: ignore[no-any-return, no-untyped-call]
        return on_array.forward(x, weight, bias)

    def _plans(self, on_array: LayerOnArray) -> Plans:
        if on_array.present is not None and on_array.present[0] == self._moment:
            return on_array.present[1]
        plans = UNREACHED
        if self._is_on:
            fault = self._fault_of(on_array)
            timing, layer = fault.timing, on_array.layer
            plans = {
                pass_: plan if timing.active(step=self._step, pass_=pass_, layer=layer.name) else None
                for pass_, plan in self._plans_at(on_array).items()
            }
            if not any(plans.values()):
                plans = UNREACHED
        on_array.present = self._moment, plans
        return plans

    def _fault_of(self, on_array: LayerOnArray) -> Fault:
        """Give the fault in the terms of what a layer computes."""
        return in_twin(self._fault) if on_array.is_transposed else self._fault

    def _plans_at(self, on_array: LayerOnArray) -> Plans:
        """Give the plans at the current step if the fault were active, made once for each dealing of the lanes."""
        layer, step, swizzle = on_array.layer, self._step, self._array.swizzle
        fault = self._fault_of(on_array)
        redraws = fault.timing.redraws
        is_new = redraws or swizzle.per_stripe
        lanes: Hashable = step if is_new else self._array.lanes(step=step, layer=layer.index)
        if lanes not in on_array.made:
            if len(on_array.made) >= (1 if redraws else _MOST_PLANS):
                on_array.made.clear()
            errors = [
                error
                for error in lower(fault, self._array, layer, step=step, passes=on_array.computes, as_seen=True)
                if not isinstance(error, StoredError)
            ]
            on_array.made[lanes] = {
                pass_: make_plan(layer, pass_, [error for error in errors if error.pass_ == pass_], self._array)
                for pass_ in PASSES
            }
        return on_array.made[lanes]


def _cast_as_autocast(call: Call) -> Call:
    """Do what autocast would have done inside the operator that is replaced."""
    kind = call.x.device.type
    if not torch.is_autocast_enabled(kind):
        return call
    dtype = torch.get_autocast_dtype(kind)

    def cast(tensor: Tensor | None) -> Any:
        if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
            return tensor
        return tensor.to(dtype)

    return call._replace(x=cast(call.x), weight=cast(call.weight), bias=cast(call.bias))


def inject(model: nn.Module, fault: Fault, *, array: Array, step: int = 0) -> Injection:
    """Run a model on a faulty array inside a ``with`` block.

    Convolutions and linear layers of the model, functional calls included, compute all three passes with the operands
    the array would read. Parameters, gradients and buffers hold what the faulty chip's memory would; nothing is changed
    behind the model's back, and on exit all is as before. Steps are counted by the model's own optimizer.

    *Fidelity*: the operands of every multiplier are exact to the bit (docs/architecture.md, "Lowering"); sums are
    PyTorch's, whose order is not the array's. Biases, normalisation, activation functions, the loss and the optimizer
    run on fault-free units.

    Args:
        model: any module; unmodified, on any device, compiled (it then runs uncompiled) or not.
        fault: what is broken.
        array: the array it is broken in.
        step: the optimizer step to count from, when a training is continued.

    Raises:
        InvalidInput: if the site is not on the array, the model cannot be intercepted or is under injection already;
            while the model runs, if the fault's bit is outside its operands' format or the format has no fault model.

    >>> import miscompute as mc
    >>> model = torch.nn.Linear(8, 8, bias=False)
    >>> fault = mc.Fault(site=mc.WeightRegister(row=0, col=0), effect=mc.StuckAt(bit=31, value=0))
    >>> with mc.inject(model, fault, array=mc.nvdla_small()) as injection:
    ...     loss = model(torch.ones(1, 8)).sum()
    >>> [(row.layer, row.pass_, row.reached) for row in injection.log]
    [('weight', 'forward', 1)]
    """
    return Injection(model, fault, array=array, step=step)


def trace(model: nn.Module, *inputs: Any) -> tuple[Layer, ...]:
    """Record the layers of a model that run on an array, in the order in which they first run.

    The model runs once, in evaluation mode and without gradients; ``inputs`` are what its forward takes.

    >>> [layer.name for layer in trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(5, 4))]
    ['0', '2']
    """
    layers: dict[str, Layer] = {}

    def note(call: Call, name: str) -> None:
        layers.setdefault(name, call.geometry.layer(name, len(layers), call.x, call.weight))

    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with _Interception(model, note).hold(), torch.no_grad():
            model(*inputs)
    finally:
        for module in training:
            module.training = True
    return tuple(layers.values())
