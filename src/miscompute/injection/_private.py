"""Every private name of PyTorch that injection relies on, in one place, with what it is needed for."""

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

disabled_torch_function = torch._C.DisableTorchFunction
"""Context manager: operators called inside are not offered to torch-function modes (ours, in a backward pass)."""


softmax_backward: Callable[..., Tensor] = torch._softmax_backward_data
"""Softmax's gradient: of the result's gradient, the result, the dimension and the operand's dtype."""


def in_backward() -> bool:
    """Whether the autograd engine is running a backward pass in this thread.

    A forward operator met then is gradient checkpointing's recomputation.
    """
    return torch._C._current_graph_task_id() != -1


def active_modes() -> list[torch.overrides.TorchFunctionMode]:
    """Give this thread's active torch-function modes, the innermost last."""
    return [torch._C._get_function_stack_at(depth) for depth in range(torch._C._len_torch_function_stack())]


def enter_below(mode: torch.overrides.TorchFunctionMode, depth: int) -> None:
    """Make a torch-function mode active again, with ``depth`` modes outside it and those entered since inside."""
    inside = [torch._C._pop_torch_function_stack() for _ in active_modes()[depth:]]
    for each in (mode, *reversed(inside)):
        torch._C._push_on_torch_function_stack(each)


def entered(under: torch.overrides.TorchFunctionMode) -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """Give the functions inside which operators must be offered too, and what to call in their stead.

    A mode is left while it handles a call, and the autograd engine runs under the modes active when it starts:
    checkpointing computes part of a forward pass again inside. Multi-head attention is made of operators that run on
    the array. ``under`` is the mode that is to be active inside.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        with under:
            return torch.autograd.graph._engine_run_backward(*args, **kwargs)

    nobody = {"has_torch_function": lambda _: False, "has_torch_function_unary": lambda _: False}

    def changed(function: Any, **globals_: Any) -> Callable[..., Any]:
        """Copy a function, without its question whether a mode wants the call, and with other globals."""
        changed_globals = {**function.__globals__, **nobody, **globals_}
        copy = FunctionType(function.__code__, changed_globals, closure=function.__closure__)
        copy.__defaults__, copy.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
        return copy

    backward = changed(torch.autograd.backward, _engine_run_backward=run)

    def of_tensor(
        tensor: Tensor, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False, inputs: Any = None
    ) -> None:
        backward(tensor, gradient, retain_graph, create_graph, inputs=inputs)

    attention = changed(torch.nn.functional.multi_head_attention_forward)

    def attend(*args: Any, **kwargs: Any) -> Any:
        with under:
            return attention(*args, **kwargs)

    return {
        torch.Tensor.backward: of_tensor,
        torch.autograd.backward: backward,
        torch.autograd.grad: changed(torch.autograd.grad, _engine_run_backward=run),
        torch.nn.functional.multi_head_attention_forward: attend,
    }
