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
            if not any(parameter is one for group in optimizer.param_groups for one in group["params"]):
                continue
            if error.store == "gradient":
                stored = parameter.grad
            else:
                states = optimizer.state.get(parameter, {})
                tensors = {name for name, value in states.items() if isinstance(value, Tensor) and value.dim()}
                if states and error.state not in tensors:
                    raise InvalidInput(
                        f"state={error.state!r} of optimizer-memory is none that the optimizer keeps of "
                        f"{error.name!r}; choose one of {', '.join(sorted(tensors)) or 'none at all'}"
                    )
                stored = states.get(error.state)
            if stored is not None:  # else nothing is stored yet
                self._check_holds(error, stored)
                self._corrupt(error, stored, is_kept=False)

    def forget(self) -> None:
        """Note that an optimizer has stepped: what is stored now is not to be restored."""
        self._changes.clear()

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
