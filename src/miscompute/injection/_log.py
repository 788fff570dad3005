"""What an injection really did, layer by layer and pass by pass."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..fault import STORES, Store
from ..hardware import PASSES, Pass


@dataclass(frozen=True, kw_only=True)
class LogRow:
    """One pass of one layer: how often it ran with the fault active, and what the fault did.

    A fault in memory has a row for the stored tensor, with the store in place of the pass. ``reached`` counts words in
    the regions of the errors, those included that are spared as zeros or that a stride leaves out; ``changed`` counts
    those whose bits came out different. Both are summed over ``executions``. Reached but never changed is *not
    activated*.
    """

    layer: str
    pass_: Pass | Store
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
    counts: list[Tensor] = field(default_factory=list)


class Log:
    """The record of an injection: a table of `LogRow`, and the operators that ran without being lowered."""

    # Changed values are counted many at a time, which takes less and waits for the device more rarely. What is to be
    # counted is kept until then: so many tensors, so many elements (64 KiB of fp32 words).
    _PENDING = 256
    _ELEMENTS = 1 << 14

    def __init__(self) -> None:
        self._entries: dict[tuple[str, Pass | Store], _Entry] = {}
        self.unlowered: dict[str, int] = {}

    def add(
        self, layer: str, pass_: Pass | Store, reached: int, changed: list[Tensor], counted: Tensor | None = None
    ) -> None:
        """Note one execution of a pass.

        Args:
            layer: of the layer, or of a stored tensor.
            pass_: which computation, or what is stored.
            reached: how many words passed the faulty place.
            changed: tensors whose elements stand for changed words where they are not zero.
            counted: how many words were changed besides, as a tensor of one element.
        """
        entry = self._entries.get((layer, pass_))
        if entry is None:
            entry = self._entries[layer, pass_] = _Entry()
        entry.executions += 1
        entry.reached += reached
        entry.pending += changed
        if counted is not None:
            entry.counts.append(counted)
        for tensor in changed:
            entry.elements += tensor.numel()
        if len(entry.pending) + len(entry.counts) > self._PENDING or entry.elements > self._ELEMENTS:
            self._settle(entry)

    @staticmethod
    def _settle(entry: _Entry) -> None:
        counts = [*entry.counts, *(torch.count_nonzero(tensor) for tensor in entry.pending)]
        if counts:
            entry.changed += int(torch.stack(counts).sum() if len(counts) > 1 else counts[0])
            entry.counts.clear()
            entry.pending.clear()
            entry.elements = 0

    def __iter__(self) -> Iterator[LogRow]:
        for (layer, pass_), entry in sorted(
            self._entries.items(), key=lambda item: (item[0][0], (*PASSES, *STORES).index(item[0][1]))
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
