"""What all arrays of this package have in common: words in memory, in registers and in sums, right and wrong."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ..fault import (
    ZERO,
    Accumulator,
    ActivationRegister,
    AdderNode,
    BitOperation,
    CellOutput,
    CycleBursts,
    Effect,
    Fault,
    FinalOutput,
    Flip,
    OperandValid,
    Product,
    ProductTable,
    Site,
    StuckAt,
    Timing,
    Transient,
    WeightBus,
    WeightRegister,
)
from ..fault import When as Conditional
from ..formats import Format, integer
from ..hardware import STAGES, Array, Pass, Stage

Numbers = NDArray[Any]
"""What words spell: int64 of integers; of floating-point words, float32 or float64 (`Sums.dtype`)."""

ON_THE_WAY = (Product, AdderNode, CellOutput, Accumulator, FinalOutput)
"""The sites on the way from products to results."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What became of an operand in the registers, element by element, in the operand's shape.

    Args:
        words: the words as read wrong where ``reached``, as stored elsewhere.
        reached: whether the element sat in a faulty register in at least one atomic operation, and was not spared there
            as a zero. That its partner in the product was zero does not count: the word was wrong all the same.
        read: whether it sat in any register at all. Strides and ends leave some elements out.
        format: how the words spell values.
    """

    words: NDArray[np.uint64]
    reached: NDArray[np.bool_]
    read: NDArray[np.bool_]
    format: Format


@dataclass(frozen=True, kw_only=True, eq=False)
class CoreResult:
    """What an array computed, and how it read the two operands.

    Args:
        result: (image, cell, *position) of a convolution, (m, n) of a product of matrices.
        touched: whether a word that was read from the faulty place went into the result, changed or not.
        stationary: how the operand was read that is held.
        streaming: how the operand was read that passes by.
        cycles: how many cycles it took.
    """

    result: NDArray[np.float64]
    touched: NDArray[np.bool_]
    stationary: Reading
    streaming: Reading
    cycles: int


class Presence(NamedTuple):
    """In which cycles of a pass a fault is there: in all, in one (``cycle``), or in those that ``drawn`` marks.

    With ``until_reload`` the one cycle upsets a register, which then keeps the wrong word for as long as it holds it.
    """

    cycle: int | None = None
    until_reload: bool = False
    drawn: Callable[[NDArray[np.intp]], NDArray[np.bool_]] | None = None

    @property
    def is_always(self) -> bool:
        """Whether the fault is there in all cycles."""
        return self.cycle is None and self.drawn is None

    def during(self, cycles: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Mark the cycles in which the fault is there."""
        if self.drawn is not None:
            return self.drawn(cycles)
        return np.ones_like(cycles, dtype=np.bool_) if self.cycle is None else cycles == self.cycle

    def while_held(self, cycles: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Mark as `during`, for a register that holds one word along the last axis."""
        there = self.during(cycles)
        return np.logical_or.accumulate(there, axis=-1) if self.until_reload else there

    def loads(self, cycles: NDArray[np.intp], cells: int) -> NDArray[np.bool_]:
        """Mark the cells that get a wrong word if a bus loads one a cycle along the last axis, (..., cell)."""
        if self.is_always:
            return np.ones((*cycles.shape[:-1], cells), dtype=np.bool_)
        there = np.zeros((*cycles.shape[:-1], max(cells, cycles.shape[-1])), dtype=np.bool_)
        there[..., : cycles.shape[-1]] = self.during(cycles)
        return there[..., :cells]


class Drawn(Timing):
    """The bursts of one execution, by its cycles: asked for some, it marks those in which the fault is there."""

    def __init__(self, timing: CycleBursts, *, step: int, pass_: Pass, layer: str) -> None:
        self._timing, self._of = timing, (step, pass_, layer)
        self._total = 0
        self._there = np.empty(0, dtype=np.intp)

    def __call__(self, cycles: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Mark the cycles in which the fault is there."""
        last = int(cycles.max(initial=0))
        if last >= self._total:
            self._total = 2 * (last + 1)
            step, pass_, layer = self._of
            self._there = self._timing.cycles(self._total, step=step, pass_=pass_, layer=layer)
        return np.isin(cycles, self._there)

    def active(self, *, step: int, pass_: Pass, layer: str) -> bool:
        """Hold in the execution it was made for."""
        return (step, pass_, layer) == self._of

    def __str__(self) -> str:
        return str(self._timing)


class Broken(NamedTuple):
    """A fault that is there in a pass: where, what it does to words, and when.

    Of a valid bit ``effect`` is what it does to operands, and ``kernels`` those of a cell that have it.
    """

    site: Site
    effect: Effect
    when: Presence
    kernels: tuple[int, ...] = ()


def broken_in(array: Array, fault: Fault | None, *, active: bool) -> Broken | None:
    """Give the fault of a pass; None if there is none.

    Raises:
        InvalidInput: if the site is not on the array, the effect does not fit its words, or neither word nor cycle says
            what happens: random effects, a shadow register's single cycle.
    """
    if array.format is None:
        raise InvalidInput("array has format=None, but a register holds words: give one, nvdla(..., format='fp32')")
    if fault is None or not active:
        return None
    fault.check(array)
    effect = fault.effect.effect if isinstance(fault.effect, Conditional) else fault.effect
    if not isinstance(effect, BitOperation | ProductTable):
        raise InvalidInput(f"effect '{fault.effect}' does not follow from the word alone, as it must here")
    when = Presence(drawn=fault.timing if isinstance(fault.timing, Drawn) else None)
    if isinstance(fault.timing, Transient) and fault.timing.cycle is not None:
        when = Presence(cycle=fault.timing.cycle, until_reload=fault.timing.until == "reload")
    if not when.is_always and isinstance(fault.site, WeightRegister) and fault.site.stage == "shadow":
        raise InvalidInput(
            f"site={fault.site} in one cycle: a shadow register waits for its stripe, in cycles that are not known"
        )
    if isinstance(fault.site, OperandValid):
        valid = np.uint64((1 << array.kernels) - 1)
        read = int(fault.effect.read(np.asarray(valid), integer(2)))
        missing = tuple(kernel for kernel in range(array.kernels) if not read >> kernel & 1)
        # Where none is missing, it may add zeros that would have been skipped.
        return Broken(fault.site, ZERO, when, missing) if missing else None
    return Broken(fault.site, fault.effect, when)


def not_a_place(broken: Broken, array: Array) -> InvalidInput:
    """Make the error that says that an array has no such place, or none that a cycle finds."""
    when = "" if broken.when.is_always else " in one cycle"
    return InvalidInput(
        f"site={broken.site} is no place of the {type(array).__name__} array{when}; choose another site"
    )


class Sums:
    """The words from products to results.

    Where a fault is on the way, words are the array's: integers in two's complement of the stage's width, or fp32, with
    products and sums rounded in the order in which the array forms them. Where none is, nobody looks at them, and sums
    are exact integers, or float64: the order of sums then does not matter but for rounding by 2**-53.
    """

    def __init__(self, array: Array, broken: Broken | None) -> None:
        assert array.format is not None
        self._format = array.format
        self._effect = broken.effect if broken is not None and isinstance(broken.site, ON_THE_WAY) else None
        self._kernels = array.kernels
        self.in_words = self._effect is not None
        self._word = {stage: array.word(stage, array.format) for stage in STAGES if self.in_words}
        self.dtype: np.dtype[Any] = np.dtype(
            np.int64 if not array.format.is_float else np.float32 if self.in_words else np.float64
        )

    def wrap(self, values: Numbers, stage: Stage) -> Numbers:
        """Keep as many low bits of integers as the stage has."""
        if not self.in_words or self._format.is_float:
            return values
        half = 1 << (self._word[stage].bits - 1)
        return np.asarray(((values + half) & (2 * half - 1)) - half)

    def saturate(self, values: Numbers, stage: Stage) -> Numbers:
        """Take the nearest integers that the stage holds."""
        if not self.in_words or self._format.is_float:
            return values
        half = 1 << (self._word[stage].bits - 1)
        return np.asarray(np.clip(values, -half, half - 1))

    def misread(self, values: Numbers, stage: Stage) -> Numbers:
        """Give what the faulty place hands on for the words of its stage."""
        assert self._effect is not None
        word = self._word[stage]
        if word.is_float:
            bits = np.asarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
            return self._effect.read(bits, word).astype(np.uint32).view(np.float32)
        bits = np.asarray(values, dtype=np.int64).view(np.uint64) & np.uint64((1 << word.bits) - 1)
        return self.wrap(self._effect.read(bits, word).view(np.int64), stage)

    def strike(self, words: Numbers, col: int, stage: Stage, there: NDArray[np.bool_]) -> list[int]:
        """Let the faulty place of a cell hand on a wrong word, in place; say whose words it is, of those there are.

        Args:
            words: of all kernels in flight, (kernel, ...).
            col: the cell.
            stage: what the words are.
            there: when the fault is, in the shape of a kernel's words.
        """
        kernels = [kernel for kernel in range(col * self._kernels, (col + 1) * self._kernels) if kernel < len(words)]
        wrong = [self.misread(words[col], stage)] if self._kernels == 1 and kernels else []
        if self._kernels > 1 and kernels:
            wrong = self._misread_together([words[kernel] for kernel in kernels], stage)
        for kernel, word in zip(kernels, wrong, strict=True):
            words[kernel] = np.where(there, word, words[kernel])
        return kernels

    def _misread_together(self, words: list[Numbers], stage: Stage) -> list[Numbers]:
        """Join the words of a cell's kernels, the first in the low bits, misread the whole, and take it apart again.

        A whole may be wider than any machine word, so this goes number by number.
        """
        assert isinstance(self._effect, StuckAt | Flip)
        width = self._word[stage].bits
        low = (1 << width) - 1
        wrong = [np.empty_like(one) for one in words]
        for index in np.ndindex(words[0].shape):
            whole = sum((int(one[index]) & low) << place * width for place, one in enumerate(words))
            if isinstance(self._effect, Flip):
                for bit in self._effect.bits:
                    whole ^= 1 << bit
            elif self._effect.value:
                whole |= 1 << self._effect.bit
            else:
                whole &= ~(1 << self._effect.bit)
            for place, one in enumerate(wrong):
                part = whole >> place * width & low
                one[index] = part - (1 << width) if part >> (width - 1) else part
        return wrong

    def misread_product(self, products: Numbers, held: Numbers, passing: Numbers) -> Numbers:
        """Give what a faulty multiplier puts out, from the words on both of its sides."""
        if not isinstance(self._effect, ProductTable):
            return self.misread(products, "product")
        w, x = (np.asarray(side, dtype=np.int64) + 128 for side in (held, passing))
        return self.wrap(np.asarray(products + self._effect.errors[w, x]), "product")


class InMemory:
    """An operand in memory, and what its words turn into in a faulty register.

    For every word: its number, its number in a faulty register, whether the array gates it as a zero (and does so when
    it lies in a faulty register), and whether that spares it from being misread.

    Args:
        values: the operand; any shape.
        array: where it goes.
        dtype: of the numbers.
        broken: the fault, if it is in a register of this operand.
    """

    def __init__(
        self,
        values: NDArray[np.float64],
        *,
        array: Array,
        dtype: np.dtype[Any],
        broken: Broken | None,
    ) -> None:
        assert array.format is not None
        values = np.ascontiguousarray(values)  # so that marks can be set by an element's number
        self.format = array.format.fitted(values)
        spelled = self.format if self.format.is_float else integer(self.format.bits)
        self.words = self.format.encode(values)
        self.misread_words = self.words if broken is None else self._misread(broken, array.kernels)
        self.number: Numbers = spelled.decode(self.words).astype(dtype)
        self.misread: Numbers = spelled.decode(self.misread_words).astype(dtype)
        zero = self.format.encode(np.zeros(1))  # what an idle register holds
        if broken is not None and array.kernels == 1:
            zero = broken.effect.read(zero, self.format)
        self.misread_zero: Numbers = spelled.decode(zero).astype(dtype)[0]
        self.gated = (self.number == 0) & array.zero_gate  # zeros of either sign
        self.misread_gated = self.spared = self.gated
        match broken:
            case Broken(site=WeightBus(before_zero_detector=True)):  # it looks at the word that is already wrong
                self.misread_gated, self.spared = (self.misread == 0) & array.zero_gate, np.zeros_like(self.gated)
            case Broken(site=OperandValid()):  # the multiplier puts out 0 for it, whatever its partner
                self.misread_gated = self.gated | self._of(broken.kernels, array.kernels)
        self.reached = np.zeros_like(self.gated)
        self.read = np.zeros_like(self.gated)

    def _misread(self, broken: Broken, kernels: int) -> NDArray[np.uint64]:
        """Give what the words turn into in a faulty register: of an operand that is held, with its cell's others."""
        if isinstance(broken.site, OperandValid):
            wrong = broken.effect.read(self.words, self.format)
            return np.where(self._of(broken.kernels, kernels), wrong, self.words)
        if kernels == 1 or faulty_operand(broken) == "streaming":
            return broken.effect.read(self.words, self.format)
        width, low = self.format.bits, np.uint64((1 << self.format.bits) - 1)
        wrong = self.words.copy()
        for first in range(
            0, len(wrong), kernels
        ):  # neighbours share a cell; where the last is alone, its others are 0
            whole = np.zeros_like(wrong[first])
            for place, word in enumerate(self.words[first : first + kernels]):
                whole |= word << np.uint64(place * width)
            whole = broken.effect.read(whole, integer(kernels * width))
            for place, word in enumerate(wrong[first : first + kernels]):
                word[...] = whole >> np.uint64(place * width) & low
        return wrong

    def _of(self, some: tuple[int, ...], kernels: int) -> NDArray[np.bool_]:
        """Mark the words of some of each cell's kernels, where kernels are the first dimension."""
        marked = np.zeros(self.words.shape, dtype=np.bool_)
        for kernel in some:
            marked[kernel::kernels] = True
        return marked

    @property
    def unit(self) -> float:
        """What the number 1 is worth."""
        return 1.0 if self.format.scale is None else float(self.format.scale)

    def reading(self) -> Reading:
        """Give what was recorded."""
        words = np.where(self.reached, self.misread_words, self.words)
        return Reading(words=words, reached=self.reached, read=self.read, format=self.format)


def faulty_operand(broken: Broken | None) -> Literal["stationary", "streaming"] | None:
    """Say whose registers or bus the fault is in; None: there is none, or it is on the way to the result."""
    if broken is None or isinstance(broken.site, ON_THE_WAY):
        return None
    return "streaming" if isinstance(broken.site, ActivationRegister) else "stationary"


def operands_in_memory(
    array: Array,
    broken: Broken | None,
    stationary: NDArray[np.float64],
    streaming: NDArray[np.float64],
    *,
    dtype: np.dtype[Any],
) -> tuple[InMemory, InMemory]:
    """Put both operands of a product into memory."""
    faulty = faulty_operand(broken)
    return (
        InMemory(stationary, array=array, dtype=dtype, broken=broken if faulty == "stationary" else None),
        InMemory(streaming, array=array, dtype=dtype, broken=broken if faulty == "streaming" else None),
    )


def product_result(
    result: Numbers, touched: NDArray[np.bool_], held: InMemory, passing: InMemory, *, cycles: int
) -> CoreResult:
    """Give what an array computed of a product of matrices, (m, n)."""
    return CoreResult(
        result=valued(result, held, passing),
        touched=touched,
        stationary=held.reading(),
        streaming=passing.reading(),
        cycles=cycles,
    )


def valued(result: Numbers, held: InMemory, passing: InMemory) -> NDArray[np.float64]:
    """Give the values of a result's numbers."""
    with np.errstate(invalid="ignore"):  # a NaN may signal
        return result.astype(np.float64) * (held.unit * passing.unit)


def reshaped(reading: Reading, shape: tuple[int, ...], inside: tuple[slice, ...]) -> Reading:
    """Give a reading another shape, and of that a part."""
    return replace(
        reading,
        words=reading.words.reshape(shape)[inside],
        reached=reading.reached.reshape(shape)[inside],
        read=reading.read.reshape(shape)[inside],
    )


def blocks(total: int, size: int) -> list[slice]:
    """Cut ``total`` channels into blocks of ``size``; the last may be ragged."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
