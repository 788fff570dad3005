"""Places outside the arithmetic: memories, and the elements of a tensor wherever they pass."""

import re
from dataclasses import dataclass
from typing import Literal, final

from .._invalid import InvalidInput
from ..formats import Format
from ..hardware import OPERANDS, Array, Operand
from ._effect import Effect
from ._exposure import STORES, ElementExposure, MemoryExposure, Store
from ._site import Site


@final
@dataclass(frozen=True, kw_only=True)
class Memory(Site):
    """Words in the accelerator's memory: part of what a training keeps there.

    A transient fault changes what is stored, at the beginning of its step; the wrong word stays until it is written
    again. A permanent one holds after every write. ``store`` says what the words are:

    - ``weight``: the parameter ``name``, biases and normalisation included. Forward, backward and optimizer read it.
    - ``gradient``: the parameter's gradient, between the backward pass and the optimizer's step.
    - ``optimizer``: the optimizer's ``state`` of the parameter, such as ``exp_avg`` (Adam's m), ``exp_avg_sq`` (v) or
      ``momentum_buffer``, before the step reads it.
    - ``statistics``: the buffer ``name``, such as BatchNorm's running mean and variance.
    - ``activation``: the input of layer ``name``, as kept from the forward pass for its weight gradient.

    *Fidelity*: exact; elements are named by their place in PyTorch's tensor, not by an address.

    Args:
        store: what is stored there.
        name: of the parameter, buffer or layer.
        index: the first element, counted in the order of memory.
        length: how many elements follow one another.
        state: which of the optimizer's states.
    """

    store: Store
    name: str
    index: int
    length: int = 1
    state: str = ""

    def __post_init__(self) -> None:
        if self.store not in STORES:
            raise InvalidInput(f"store={self.store!r} of Memory is unknown; choose one of {', '.join(STORES)}")
        if self.index < 0 or self.length < 1:
            raise InvalidInput(f"Memory needs index >= 0 and length >= 1, not index={self.index}, length={self.length}")
        for field, word in (("name", self.name), ("state", self.state or "none")):
            if not re.fullmatch(r"[^\s,\]]+", word):
                raise InvalidInput(
                    f"{field}={word!r} of Memory must be a name without blanks, commas and closing brackets"
                )
        if bool(self.state) != (self.store == "optimizer"):
            raise InvalidInput(
                f"state={self.state!r} of Memory belongs to store='optimizer' and must be given there, such as exp_avg"
            )

    def exposure(self, *, rows: int, cols: int) -> MemoryExposure:
        """Expose the stored words; every array has a memory."""
        return MemoryExposure(store=self.store, name=self.name, state=self.state, first=self.index, length=self.length)

    def check(self, effect: Effect, array: Array, format: Format) -> None:
        """Raise `InvalidInput` unless the effect fits the words."""
        effect.check(format)

    def __str__(self) -> str:
        parts = [self.name, *([self.state] if self.state else []), str(self.index)]
        return f"{self.store}-memory[{','.join(parts + ([str(self.length)] if self.length > 1 else []))}]"


@final
@dataclass(frozen=True, kw_only=True)
class Elements(Site):
    """Elements of an operand or of the result of a pass, wherever the hardware may have corrupted them.

    What statistical error models speak of: they say what came out wrong, not where. Elements count in the order of
    memory of the layer as the array sees it (`Array.seen`): by im2col, of the product of matrices (`Layer.as_matmul`),
    in image mode of `Layer.as_image`. Those that a layer does not have are not corrupted there.

    *Fidelity*: exact for what it says. How well it stands for a fault is the error model's affair.
    """

    of: Operand | Literal["result"]
    first: int
    length: int = 1

    def __post_init__(self) -> None:
        if self.of not in (*OPERANDS, "result"):
            raise InvalidInput(f"of={self.of!r} of Elements is unknown; choose one of {', '.join(OPERANDS)}, result")
        if self.first < 0 or self.length < 1:
            raise InvalidInput(
                f"Elements needs first >= 0 and length >= 1, not first={self.first}, length={self.length}"
            )

    def exposure(self, *, rows: int, cols: int) -> ElementExposure:
        """Expose the elements; they are on every array."""
        return ElementExposure(of=self.of, first=self.first, length=self.length)

    def check(self, effect: Effect, array: Array, format: Format) -> None:
        """Raise `InvalidInput` unless the effect fits the words."""
        effect.check(format)

    def __str__(self) -> str:
        return f"{self.of.replace('_', '-')}-elements[{self.first},{self.length}]"
