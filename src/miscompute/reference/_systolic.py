"""Systolic arrays, register by register: in each cycle every word moves on to a neighbour."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ..fault import (
    Accumulator,
    ActivationRegister,
    AdderNode,
    CellOutput,
    Fault,
    FinalOutput,
    OperandValid,
    Product,
    Site,
    WeightBus,
    WeightRegister,
)
from ..hardware import OutputStationary, WeightStationary
from ._words import (
    Broken,
    CoreResult,
    InMemory,
    Numbers,
    Presence,
    Sums,
    blocks,
    broken_in,
    not_a_place,
    operands_in_memory,
    product_result,
)


@dataclass(kw_only=True, eq=False)
class _Moving:
    """A register in each processing element (PE) for a word that is passed on, (row, col), and what marks the word.

    ``element`` is the number of the operand's element that the word is, from 1; 0 where it is none. ``wrong`` is
    whether it passed the faulty register.
    """

    number: Numbers
    element: NDArray[np.intp]
    wrong: NDArray[np.bool_]

    @staticmethod
    def of(rows: int, cols: int, dtype: np.dtype[Any]) -> "_Moving":
        shape = rows, cols
        return _Moving(
            number=np.zeros(shape, dtype), element=np.zeros(shape, np.intp), wrong=np.zeros(shape, dtype=np.bool_)
        )

    def turned(self) -> "_Moving":
        """See rows as columns; the registers are the same."""
        return _Moving(number=self.number.T, element=self.element.T, wrong=self.wrong.T)

    def shift_right(self, memory: InMemory, entering: NDArray[np.intp]) -> None:
        """Pass all words on to the right; at the left edge enter elements of memory, given by their numbers."""
        for registers in (self.number, self.element, self.wrong):
            registers[:, 1:] = registers[:, :-1].copy()
        self.number[:, 0] = np.where(entering > 0, memory.number.reshape(-1)[entering - 1], 0)
        self.element[:, 0] = entering
        self.wrong[:, 0] = False
        memory.read.reshape(-1)[entering[entering > 0] - 1] = True

    def misread(self, row: int, col: int, memory: InMemory) -> None:
        """Take the word in a register for what the faulty one makes of it."""
        element = self.element[row, col]
        if not element:
            self.number[row, col] = memory.misread_zero
            return
        self.number[row, col] = memory.misread.reshape(-1)[element - 1]
        self.wrong[row, col] = memory.reached.reshape(-1)[element - 1] = True


def _numbered(memory: InMemory) -> NDArray[np.intp]:
    return np.arange(1, memory.words.size + 1).reshape(memory.words.shape)


def _entering(words: NDArray[np.intp], time: int) -> NDArray[np.intp]:
    """Give what enters at the left edge at a time; rows of words begin one cycle after another."""
    rows, length = words.shape  # (row, ...) -> (row,)
    at = time - np.arange(rows)
    inside = (at >= 0) & (at < length)
    return np.where(inside, words[np.arange(rows), np.clip(at, 0, length - 1)], 0)


def _prepare(
    array: WeightStationary | OutputStationary,
    fault: Fault | None,
    stationary: NDArray[np.float64],
    streaming: NDArray[np.float64],
    *,
    active: bool,
    is_place: Callable[[Site], bool],
) -> tuple[Broken | None, Sums, InMemory, InMemory]:
    """Check the fault and put the operands into memory."""
    if array.zero_gate:
        raise InvalidInput("zero_gate=True of a systolic array: its elements have no zero gate here; leave it out")
    broken = broken_in(array, fault, active=active)
    if broken is not None and (
        not is_place(broken.site) or (isinstance(broken.site, WeightBus) and not broken.when.is_always)
    ):
        raise not_a_place(broken, array)
    sums = Sums(array, broken)
    held, passing = operands_in_memory(array, broken, stationary, streaming, dtype=sums.dtype)
    return broken, sums, held, passing


class _Stepped(NamedTuple):
    """The rows and columns of PEs that are stepped in a tile, and where among them the fault is."""

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    site: Site | None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.cols)


def _without_idle(site: Any, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> _Stepped:
    """Leave out the rows and columns of PEs that a tile leaves idle, but for those of the fault.

    An idle healthy row or column holds zeros. It passes words and sums on as they come, one cycle later, and all that
    they meet beyond it is as much later: what meets what stays the same.
    """
    stepped, moved = [], {}
    for name, in_use in (("row", rows), ("col", cols)):
        faulty = getattr(site, name, None)
        stepped.append(in_use if faulty is None else np.union1d(in_use, [faulty]))
        if faulty is not None:
            moved[name] = int(np.searchsorted(stepped[-1], faulty))
    return _Stepped(np.sort(stepped[0]), np.sort(stepped[1]), replace(site, **moved) if moved else site)


def _is_place_ws(site: Site) -> bool:
    match site:
        case WeightRegister() | WeightBus(reach="all") | OperandValid() | Product() | AdderNode(level=1) | CellOutput():
            return True
        case Accumulator(row=0) | FinalOutput() | ActivationRegister(reach="cell" | "all"):
            return True
    return False


def weight_stationary(
    array: WeightStationary,
    fault: Fault | None,
    stationary: NDArray[np.float64],
    streaming: NDArray[np.float64],
    *,
    step: int = 0,
    layer_index: int = 0,
    active: bool = True,
    first: int = 0,
) -> CoreResult:
    """Compute a product of matrices on a weight-stationary systolic array, with a fault anywhere in it.

    Tiles of ``stationary`` are held in the processing elements (PEs), tiles of k within tiles of n. In each tile all
    rows of ``streaming`` pass: row m enters PE row r at time m + r, and in every cycle words move one PE to the right
    and partial sums one PE down, each PE adding its product. What leaves at the bottom is added to an accumulator, one
    a column with an entry a row m. Idle PEs hold zeros and do the same. Integers wrap at the width of their stage.

    A cycle of a `Transient` is a row m in one tile: it finds each PE when that row's words are there, so a fault in PE
    (r, c) is there at time m + r + c of the tile. A stationary register keeps a wrong word ``until="reload"`` for
    the rows that are left in the tile. When a bus loads what is not known, so no cycle of it.

    Args:
        array: the array; its format must be given.
        fault: as `convolve` takes it. An operand register at the left edge is ``activation-all[row]``.
        stationary: held in the PEs: (k, n).
        streaming: passes to the right: (m, k).
        step: the optimizer step, which some swizzles go by.
        layer_index: the layer's place in its model, which some swizzles go by.
        active: whether the fault is there.
        first: the number of the first cycle.

    Returns:
        The result, (m, n), and how the operands were read.

    Raises:
        InvalidInput: if the array has no format, or the site is not on it.
    """
    broken, sums, held, passing = _prepare(array, fault, stationary, streaming, active=active, is_place=_is_place_ws)
    site = None if broken is None else broken.site
    (rows, depth), cols = streaming.shape, stationary.shape[1]
    result = np.zeros((rows, cols), dtype=sums.dtype)
    touched = np.zeros(result.shape, dtype=np.bool_)
    lanes = np.array(array.lanes(step=step, layer=layer_index))
    cycle = first
    with np.errstate(invalid="ignore", over="ignore"):
        for columns in blocks(cols, array.cols):
            in_use = columns.stop - columns.start
            accumulators, hit = result[:, columns], touched[:, columns]
            for channels in blocks(depth, array.rows):
                tile = _Tile(
                    broken=broken,
                    sums=sums,
                    held=held,
                    passing=passing,
                    first=cycle,
                    channels=channels,
                    columns=columns,
                    lanes=lanes[: channels.stop - channels.start],
                )
                bottom, by_fault = tile.flow()
                hit |= by_fault[:, :in_use]
                accumulators[...] = sums.wrap(accumulators + bottom[:, :in_use], "accumulator")
                is_last = channels.stop == depth
                if isinstance(site, Accumulator) and site.col < in_use and not is_last:
                    there = tile.there & (True if site.address is None else np.arange(rows) == site.address)
                    wrong = sums.misread(accumulators[:, site.col], "accumulator")
                    accumulators[:, site.col] = np.where(there, wrong, accumulators[:, site.col])
                    hit[:, site.col] |= there
                if isinstance(site, FinalOutput) and site.col < in_use and is_last:
                    wrong = sums.misread(accumulators[:, site.col], "output")
                    accumulators[:, site.col] = np.where(tile.there, wrong, accumulators[:, site.col])
                    hit[:, site.col] |= tile.there
                cycle += rows
    return product_result(result, touched, held, passing, cycles=cycle - first)


class _Tile:
    """One tile of a weight-stationary array: the registers of its PEs, and rows of the streaming operand passing."""

    def __init__(
        self,
        *,
        broken: Broken | None,
        sums: Sums,
        held: InMemory,
        passing: InMemory,
        first: int,
        channels: slice,
        columns: slice,
        lanes: NDArray[np.intp],
    ) -> None:
        self._sums, self._held, self._passing = sums, held, passing
        in_use = np.arange(columns.stop - columns.start)
        stepped = _without_idle(None if broken is None else broken.site, lanes, in_use)
        self._shape, self._site = stepped.shape, stepped.site
        self.waves = len(passing.words)
        when = Presence(cycle=-1) if broken is None else broken.when  # never, if there is none
        cycles = np.arange(first, first + self.waves)
        self.there, self._while_held = (
            when.during(cycles),
            when.while_held(cycles),
        )  # at which rows m the fault is there
        lanes = np.searchsorted(stepped.rows, lanes)
        self._entering = np.zeros((len(stepped.rows), self.waves), dtype=np.intp)  # of idle rows: no element, so zeros
        self._entering[lanes] = _numbered(passing)[:, channels].T
        place = np.ix_(lanes, in_use)
        self._element = np.zeros(stepped.shape, dtype=np.intp)
        self._element[place] = _numbered(held)[channels, columns]
        self._number = np.zeros(self._element.shape, dtype=sums.dtype)
        self._misread = np.full(self._element.shape, held.misread_zero, dtype=sums.dtype)
        self._number[place], self._misread[place] = (words[channels, columns] for words in (held.number, held.misread))
        held.read[channels, columns] = True
        self._loaded_wrong = self._load()

    def flow(self) -> tuple[Numbers, NDArray[np.bool_]]:
        """Let all rows pass: what leaves the columns at the bottom, (m, col), and whether the fault touched it."""
        rows, cols = self._shape
        moving = _Moving.of(rows, cols, self._sums.dtype)
        partial, touched = np.zeros((rows, cols), self._sums.dtype), np.zeros((rows, cols), np.bool_)
        bottom, by_fault = np.zeros((self.waves, cols), self._sums.dtype), np.zeros((self.waves, cols), np.bool_)
        for time in range(self.waves + rows + cols - 2):
            moving.shift_right(self._passing, _entering(self._entering, time))
            match self._site:
                case ActivationRegister(row=row, col=col) if self._is_at(self.there, time, row, col):
                    moving.misread(row, col, self._passing)
            held, held_wrong = self._stationary_words(time)
            products = self._products(time, held, moving.number)
            above, above_touched = np.zeros_like(partial), np.zeros_like(touched)
            above[1:], above_touched[1:] = partial[:-1], touched[:-1]
            partial = self._sums.wrap(above + products, "partial_sum")
            touched = above_touched | held_wrong | moving.wrong
            self._touch_sums(time, partial, touched)
            wave = time - (rows - 1) - np.arange(cols)  # the row m that leaves each column
            leaves = (wave >= 0) & (wave < self.waves)
            bottom[wave[leaves], leaves], by_fault[wave[leaves], leaves] = partial[-1, leaves], touched[-1, leaves]
        return bottom, by_fault

    def _is_at(self, waves: NDArray[np.bool_], time: int, row: int, col: int) -> bool:
        """Whether the row m that a PE has at this time is one of those."""
        wave = time - row - col
        return 0 <= wave < self.waves and bool(waves[wave])

    def _load(self) -> NDArray[np.bool_]:
        """Fill the stationary registers over a bus that may be faulty; mark what is loaded wrong."""
        wrong = np.zeros(self._element.shape, dtype=np.bool_)
        if isinstance(self._site, WeightBus):
            wrong[self._site.row] = True
            self._number = np.where(wrong, self._misread, self._number)
            self._mark_reached(wrong)
        return wrong & (self._element > 0)

    def _stationary_words(self, time: int) -> tuple[Numbers, NDArray[np.bool_]]:
        """Give what the PEs read from their stationary registers, and which of it is wrong."""
        number, wrong = self._number, self._loaded_wrong
        match self._site:
            case WeightRegister(row=row, col=col) | OperandValid(row=row, col=col):
                if self._is_at(self._while_held, time, row, col):
                    number, wrong = number.copy(), wrong.copy()
                    number[row, col], wrong[row, col] = self._misread[row, col], self._element[row, col] > 0
                    self._mark_reached(wrong)
        return number, wrong

    def _mark_reached(self, wrong: NDArray[np.bool_]) -> None:
        elements = self._element[wrong]
        self._held.reached.reshape(-1)[elements[elements > 0] - 1] = True

    def _products(self, time: int, held: Numbers, passing: Numbers) -> Numbers:
        products = self._sums.wrap(np.asarray(held * passing), "product")
        match self._site:
            case OperandValid(row=row, col=col) if self._is_at(self._while_held, time, row, col):
                products[row, col] = 0
            case Product(row=row, col=col) if self._is_at(self.there, time, row, col):
                pe = np.s_[row : row + 1, col]
                products[pe] = self._sums.misread_product(products[pe], held[pe], passing[pe])
        return products

    def _touch_sums(self, time: int, partial: Numbers, touched: NDArray[np.bool_]) -> None:
        """Misread the partial sum that leaves a PE."""
        match self._site:
            case Product(row=row, col=col) if self._is_at(self.there, time, row, col):
                touched[row, col] = True
            case AdderNode(row=row, col=col) if self._is_at(self.there, time, row, col):
                pe = np.s_[row : row + 1, col]
                partial[pe], touched[pe] = self._sums.misread(partial[pe], "node"), True
            case CellOutput(col=col) if self._is_at(self.there, time, len(partial) - 1, col):
                pe = np.s_[len(partial) - 1 : len(partial), col]
                partial[pe], touched[pe] = self._sums.misread(partial[pe], "partial_sum"), True


def _is_place_os(site: Site) -> bool:
    match site:
        case WeightRegister() | OperandValid() | Product() | Accumulator(address=None):
            return True
        case ActivationRegister(reach="cell" | "all"):
            return True
    return False


def output_stationary(
    array: OutputStationary,
    fault: Fault | None,
    stationary: NDArray[np.float64],
    streaming: NDArray[np.float64],
    *,
    active: bool = True,
    first: int = 0,
) -> CoreResult:
    """Compute a product of matrices on an output-stationary systolic array, with a fault anywhere in it.

    A tile of the result after another, tiles of m within tiles of n, each PE sums up one element. Words of
    ``streaming`` enter at the left, row r at time k + r, and move to the right; words of ``stationary`` enter at the
    top, column c at time k + c, and move down. They meet in PE (r, c) at time k + r + c. How finished results leave is
    not modelled. Integers wrap at the width of their stage.

    A cycle of a `Transient` is one k in one tile: it finds each PE when the words of that k are there. An operand
    register holds a word for one cycle, so ``until="reload"`` changes nothing.

    Args:
        array: the array; its format must be given.
        fault: as `convolve` takes it. An operand register at the left edge is ``activation-all[row]``.
        stationary: passed down: (k, n).
        streaming: passed to the right: (m, k).
        active: whether the fault is there.
        first: the number of the first cycle.

    Returns:
        The result, (m, n), and how the operands were read.

    Raises:
        InvalidInput: if the array has no format, or the site is not on it.
    """
    broken, sums, held, passing = _prepare(array, fault, stationary, streaming, active=active, is_place=_is_place_os)
    depth = len(stationary)
    result = np.zeros((len(streaming), stationary.shape[1]), dtype=sums.dtype)
    touched = np.zeros(result.shape, dtype=np.bool_)
    cycle = first
    with np.errstate(invalid="ignore", over="ignore"):
        for columns in blocks(result.shape[1], array.cols):
            for rows in blocks(result.shape[0], array.rows):
                when = Presence(cycle=-1) if broken is None else broken.when
                there = when.during(np.arange(cycle, cycle + depth))
                sum_, hit = _sum_in_place(broken, sums, held, passing, rows, columns, there)
                in_use = np.s_[: rows.stop - rows.start, : columns.stop - columns.start]
                result[rows, columns], touched[rows, columns] = sum_[in_use], hit[in_use]
                cycle += depth
    return product_result(result, touched, held, passing, cycles=cycle - first)


def _sum_in_place(
    broken: Broken | None,
    sums: Sums,
    held: InMemory,
    passing: InMemory,
    rows: slice,
    columns: slice,
    there: NDArray[np.bool_],
) -> tuple[Numbers, NDArray[np.bool_]]:
    """Let all k pass through one tile: the accumulators, (row, col), and whether the fault touched them.

    ``there`` marks the k at which the fault is there.
    """
    in_use = (np.arange(part.stop - part.start) for part in (rows, columns))
    stepped = _without_idle(None if broken is None else broken.site, *in_use)
    shape, depth, site = stepped.shape, len(there), stepped.site
    of_rows, of_cols = (np.zeros((size, depth), dtype=np.intp) for size in shape)
    of_rows[: rows.stop - rows.start] = _numbered(passing)[rows]
    of_cols[: columns.stop - columns.start] = _numbered(held)[:, columns].T
    right, down = _Moving.of(*shape, sums.dtype), _Moving.of(*shape, sums.dtype)
    accumulators, touched = np.zeros(shape, dtype=sums.dtype), np.zeros(shape, dtype=np.bool_)
    for time in range(depth + sum(shape) - 2):
        k = time - np.add.outer(*map(np.arange, shape))  # of each PE
        busy = (k >= 0) & (k < depth)
        hit = busy & there[np.clip(k, 0, depth - 1)]
        right.shift_right(passing, _entering(of_rows, time))
        down.turned().shift_right(held, _entering(of_cols, time))
        match site:
            case ActivationRegister(row=row, col=col) if hit[row, col]:
                right.misread(row, col, passing)
            case WeightRegister(row=row, col=col) if hit[row, col]:
                down.misread(row, col, held)
        products = sums.wrap(np.asarray(down.number * right.number), "product")
        wrong = right.wrong | down.wrong
        match site:
            case OperandValid(row=row, col=col) if hit[row, col]:
                products[row, col], wrong[row, col] = 0, True
                held.reached.reshape(-1)[[e - 1 for e in [down.element[row, col]] if e]] = True
            case Product(row=row, col=col) if hit[row, col]:
                pe = np.s_[row : row + 1, col]
                products[pe], wrong[pe] = sums.misread_product(products[pe], down.number[pe], right.number[pe]), True
        accumulators = np.where(busy, sums.wrap(accumulators + products, "accumulator"), accumulators)
        match site:
            case Accumulator(row=row, col=col) if hit[row, col] and k[row, col] < depth - 1:
                pe = np.s_[row : row + 1, col]
                accumulators[pe], wrong[pe] = sums.misread(accumulators[pe], "accumulator"), True
        touched |= busy & wrong
    return accumulators, touched
