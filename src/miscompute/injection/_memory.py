"""Faults in memory: stored tensors change, and stay changed until they are written again."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from .._invalid import InvalidInput
from ..error import StoredError
from ..fault import PERMANENT, Store
from ._words import FLAT, Change, Misread, format_of, index_of

_Record = Callable[[str, Store, int, list[Tensor]], None]


class Memory:
    """What a training keeps in a faulty memory.

    Parameters and statistics are corrupted at the beginning of a step, gradients and the optimizer's state just before
    the step reads them. Nothing that was written since is restored: it is what the faulty chip's memory holds. A word
    that nothing has written since it was corrupted, parameters without a step say, is restored when the injection ends.

    Args:
        model: whose tensors are stored.
        errors: which words are wrong.
        record: told of each corruption: name, store, elements reached, values changed.
        step: gives the optimizer step.
    """

    def __init__(
        self, model: nn.Module, errors: Sequence[StoredError], *, record: _Record, step: Callable[[], int]
    ) -> None:
        self._errors = errors
        self._record = record
        self._step = step
        self._changes: list[tuple[Change, Tensor]] = []
        self._left: dict[StoredError, tuple[int, Tensor]] = {}  # the step of the last corruption, and the words it left
        self._parameters = dict(model.named_parameters())
        self._buffers = dict(model.named_buffers())
        for error in errors:
            tensor = self._tensor(error)
            error.effect.check(format_of(tensor.dtype))
            self._check_holds(error, tensor)
        # Room that is written again each step; the words last written are looked up by their tensor.
        self._misreads = {error: self._misread(error) for error in errors}

    @staticmethod
    def _check_holds(error: StoredError, stored: Tensor) -> None:
        if error.elements.stop > stored.numel():
            name = f"{error.state} of {error.name!r}" if error.state else repr(error.name)
            raise InvalidInput(
                f"index={error.elements.start} of {error.store}-memory: {name} has {stored.numel():,} "
                f"elements (0..{stored.numel() - 1}), and {len(error.elements)} are wanted"
            )

    @staticmethod
    def _misread(error: StoredError) -> Misread:
        return Misread(
            operand="result",
            index=index_of([error.elements]),
            view=FLAT,
            effect=error.effect,
            spares_zeros=False,
            is_logged=True,
        )

    def _tensor(self, error: StoredError) -> Tensor:
        known: dict[str, Any] = self._buffers if error.store == "statistics" else self._parameters
        if error.name not in known:
            kind = "buffer" if error.store == "statistics" else "parameter"
            some = ", ".join(list(known)[:8]) or "none at all"
            raise InvalidInput(f"name={error.name!r} of {error.store}-memory is no {kind} of the model; it has {some}")
        tensor: Tensor = known[error.name]
        return tensor

    def _is_active(self, error: StoredError) -> bool:
        return error.timing.active(step=self._step(), pass_="forward", layer=error.name)

    def begin_step(self) -> None:
        """Corrupt parameters and statistics: a step begins."""
        for error in self._errors:
            if error.store in ("weight", "statistics") and self._is_active(error):
                self._corrupt(error, self._tensor(error).detach(), is_kept=True)

    def after_forward(self, *, training: bool) -> None:
        """Corrupt statistics that a forward pass in training has written, where the fault is permanent."""
        for error in self._errors:
            if error.store == "statistics" and training and error.timing == PERMANENT:
                self._corrupt(error, self._tensor(error).detach(), is_kept=True)

    def before_update(self, optimizer: Optimizer) -> None:
        """Corrupt gradients and the optimizer's state: it is about to step."""
        for error in self._errors:
            if error.store not in ("gradient", "optimizer") or not self._is_active(error):
                continue
            parameter = self._tensor(error)
            if not _steps(optimizer, parameter):
                continue
            if error.store == "gradient":
                stored = parameter.grad
            else:
                if optimizer.state.get(parameter):
                    self._check_state(error, optimizer)
                stored = optimizer.state.get(parameter, {}).get(error.state)
            if stored is not None:  # else nothing is stored yet
                self._check_holds(error, stored)
                self._corrupt(error, stored, is_kept=False)

    def after_update(self, optimizer: Optimizer) -> None:
        """Note that an optimizer has stepped: what is stored now is not to be restored; and what it keeps is known."""
        self._changes.clear()
        for error in self._errors:
            if error.store == "optimizer":
                self._check_state(error, optimizer)

    def _check_state(self, error: StoredError, optimizer: Optimizer) -> None:
        """Raise `InvalidInput` if an optimizer that has made a step of the parameter keeps no such state of it."""
        parameter = self._tensor(error)
        if parameter.grad is None or not _steps(optimizer, parameter):
            return
        states = states_of(optimizer, parameter)
        if error.state not in states:
            known = f"choose one of {', '.join(states)}" if states else "it keeps none"
            raise InvalidInput(
                f"state={error.state!r} of optimizer-memory is none that {type(optimizer).__name__} keeps of "
                f"{error.name!r}; {known}"
            )

    def restore(self) -> None:
        """Restore parameters and statistics that nothing has stepped on."""
        with torch.no_grad():
            for change, left in reversed(self._changes):
                is_written = _words(change) != left
                change._replace(bits=change.bits.masked_fill(is_written, 0)).toggle()
        self._changes.clear()

    def _corrupt(self, error: StoredError, stored: Tensor, *, is_kept: bool) -> None:
        """Corrupt a word once after each write: a flipped word that is flipped again would be right."""
        with torch.no_grad():
            change = self._misreads[error](stored.data, key=(self._step(),))
            step, left = self._left.get(error, (-1, None))
            if left is not None and (step == self._step() or error.timing == PERMANENT):
                is_left = (_words(change) ^ change.bits) == left
                again = change.bits.masked_fill(~is_left, 0)
                change._replace(bits=again).toggle()
                change = change._replace(bits=change.bits ^ again)
            left = _words(change).clone()
        self._left[error] = self._step(), left
        if is_kept:
            self._changes.append((change, left))
        self._record(error.name, error.store, len(error.elements), [change.bits])


def _words(change: Change) -> Tensor:
    return change.words[change.where] if change.region is None else change.region


def states_of(optimizer: Optimizer, parameter: Tensor) -> tuple[str, ...]:
    """Name what an optimizer keeps of a parameter, element by element: Adam's exp_avg and exp_avg_sq, say."""
    kept = optimizer.state.get(parameter, {})
    return tuple(name for name, value in kept.items() if isinstance(value, Tensor) and value.dim())


def _steps(optimizer: Optimizer, parameter: Tensor) -> bool:
    return any(parameter is one for group in optimizer.param_groups for one in group["params"])
