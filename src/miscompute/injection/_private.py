"""Every private name of PyTorch that injection relies on, in one place, with what it is needed for."""

import torch

disabled_torch_function = torch._C.DisableTorchFunction
"""Context manager: operators called inside are not offered to torch-function modes (ours, in a backward pass)."""


def in_backward() -> bool:
    """Whether the autograd engine is running a backward pass in this thread.

    A forward operator met then is gradient checkpointing's recomputation.
    """
    return torch._C._current_graph_task_id() != -1


def is_top_mode(mode: torch.overrides.TorchFunctionMode) -> bool:
    """Whether a torch-function mode is the innermost active one, so that it can be left and entered again."""
    depth = torch._C._len_torch_function_stack()
    return depth > 0 and torch._C._get_function_stack_at(depth - 1) is mode
