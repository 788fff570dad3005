"""What an injection really did, layer by layer and pass by pass."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..hardware import PASSES, Pass


@dataclass(frozen=True, kw_only=True)
class LogRow:
    """One pass of one layer: how often it ran with the fault active, and what the fault did.

    ``reached`` counts elements that were read through the faulty place, ``changed`` those whose bits came out
    different, both summed over ``executions``. Reached but never changed is *not activated*.
    """

    layer: str
    pass_: Pass
    executions: int
    reached: int
    changed: int


@dataclass
class _Entry:
    executions: int = 0
    reached: int = 0
    changed: int = 0
    pending: list[Tensor] = field(default_factory=list)
    elements: int = 0  # of all that is pending


class Log:
    """The record of an injection: a table of `LogRow`, and the operators that ran without being lowered."""

    # Changed values are counted many at a time, which takes less and waits for the device more rarely. What is to be
    # counted is kept until then: so many tensors, so many elements (64 KiB of fp32 words).
    _PENDING = 256
    _ELEMENTS = 1 << 14

    def __init__(self) -> None:
        self._entries: dict[tuple[str, Pass], _Entry] = {}
        self.unlowered: dict[str, int] = {}

    def add(self, layer: str, pass_: Pass, reached: int, changed: list[Tensor]) -> None:
        """Note one execution of a pass; in ``changed``, elements that are not zero stand for changed values."""
        entry = self._entries.get((layer, pass_))
        if entry is None:
            entry = self._entries[layer, pass_] = _Entry()
        entry.executions += 1
        entry.reached += reached
        entry.pending += changed
        for tensor in changed:
            entry.elements += tensor.numel()
        if len(entry.pending) > self._PENDING or entry.elements > self._ELEMENTS:
            self._settle(entry)

    @staticmethod
    def _settle(entry: _Entry) -> None:
        if entry.pending:
            entry.changed += int(torch.stack([torch.count_nonzero(tensor) for tensor in entry.pending]).sum())
            entry.pending.clear()
            entry.elements = 0

    def __iter__(self) -> Iterator[LogRow]:
        for (layer, pass_), entry in sorted(
            self._entries.items(), key=lambda item: (item[0][0], PASSES.index(item[0][1]))
        ):
            self._settle(entry)
            yield LogRow(
                layer=layer,
                pass_=pass_,
                executions=entry.executions,
                reached=entry.reached,
                changed=entry.changed,
            )

    @property
    def reached(self) -> int:
        """Elements reached, over all layers and passes."""
        return sum(row.reached for row in self)

    @property
    def changed(self) -> int:
        """Values really changed, over all layers and passes."""
        return sum(row.changed for row in self)

    def __str__(self) -> str:
        head = f"{'layer':24} {'pass':12} {'executions':>10} {'reached':>14} {'changed':>14}"
        rows = [
            f"{row.layer:24} {row.pass_:12} {row.executions:10,} {row.reached:14,} {row.changed:14,}" for row in self
        ]
        missed = [f"not lowered: {name}, run {times:,} times" for name, times in self.unlowered.items()]
        return "\n".join([head, *rows, *missed])
