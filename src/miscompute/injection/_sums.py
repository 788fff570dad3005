"""Results summed up as the array sums them, word by word, where a fault is on the way from products to results.

In integer formats everything is exact. In floating point the sum of a faulty result is formed in the array's stated
order: products and sums rounded to the word of their stage (fp32), the products of an atomic operation added in a
binary tree of neighbouring lanes or down the chain of rows, partial sums added one after another.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .._invalid import InvalidInput
from ..error import Region, SumError
from ..fault import BitOperation, Effect, ProductTable
from ..formats import Format
from ..hardware import PASSES, Array, Layer, Mapping, Operand, Pass, Stage
from ._laid import Laid, lay
from ._words import Rounded

_ROOM = 1 << 22  # words that are looked at together


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Sums of one pass of one layer that go wrong.

    Args:
        errors: what goes wrong; their results do not overlap.
        array: whose sums they are.
        layer: the layer, as the array sees it.
        pass_: the computation.
    """

    errors: tuple[SumError, ...]
    array: Array
    layer: Layer
    pass_: Pass

    @property
    def reached(self) -> int:
        """How many words pass the faulty place in one execution."""
        operations = self.array.schedule(self.layer, self.pass_).operations
        words = 0
        for error in self.errors:
            each = 1 if error.stage == "output" else len(error.operations or range(operations))
            words += error.results.elements * each
        return words

    def correct(self, result: Tensor, operands: dict[Operand, Rounded], bias: Tensor | None, *, step: int) -> Tensor:
        """Write what the array computes over the results that go wrong; say how many words were changed.

        Args:
            result: of the pass, changed in place.
            operands: as the array reads them.
            bias: added after the sums, (oc,); None: nothing.
            step: the optimizer step; random effects draw by it.
        """
        changed = torch.zeros((), dtype=torch.int64, device=result.device)
        mapping = self.array.mapping(self.pass_)
        held, passing = operands[mapping.stationary], operands[mapping.streaming]
        unit = held.unit * passing.unit
        values = {operand: _plain(rounded) for operand, rounded in operands.items()}
        one = replace(self.layer, batch=1)
        for number, error in enumerate(self.errors):
            dims = dict(zip(error.results.dims, error.results.ranges, strict=True))
            for batch in dims.pop("batch", (None,)):
                own = values if batch is None else {operand: tensor[batch] for operand, tensor in values.items()}
                view = result if batch is None else result[batch]
                view = view.view(tuple(one.result(self.pass_).values()))
                results = Region(dims=tuple(dims), ranges=tuple(dims.values()))
                for indices, where in _blocks(results, one, self.pass_, mapping):
                    at = [torch.tensor(some, device=result.device) for some in indices]
                    summing = _Summing(
                        error=error,
                        array=self.array,
                        laid=lay(one, self.pass_, mapping, own, at[1]),
                        format=held.format,
                        key=(step, PASSES.index(self.pass_), one.index, number, batch or 0),
                    )
                    sums = summing.sums(at[0], at[2])  # (image, cell, pixel)
                    changed += summing.changed
                    if unit != 1:
                        sums = sums * unit
                    if bias is not None:
                        sums = sums + bias.to(sums.dtype)[at[1]][:, None]
                    view[where(at)] = _in_order(sums, one, mapping, one.result(self.pass_)).to(result.dtype)
        return changed


def _plain(operand: Rounded) -> Tensor:
    """Give words as numbers in which sums are formed: integers as themselves, without their scale."""
    return operand.words.to(torch.float32 if operand.format.is_float else torch.float64)


def _blocks(
    results: Region, layer: Layer, pass_: Pass, mapping: Mapping
) -> Iterator[tuple[tuple[list[int], list[int], list[int]], Callable[[list[Tensor]], tuple[Tensor, ...]]]]:
    """Give results as images, cells and pixels of the dense convolution, and where those are in the result."""
    ranges = {dim: list(range_) for dim, range_ in zip(results.dims, results.ranges, strict=True)}
    if not layer.size:
        is_row_first = results.dims.index(mapping.image) == 0
        yield (
            ([0], ranges[mapping.cell], ranges[mapping.image]),
            lambda at: _grid(*((at[2], at[1]) if is_row_first else (at[1], at[2]))),
        )
        return
    if "group" not in ranges:
        is_image_first = results.dims.index(mapping.image) == 0
        yield (
            (ranges[mapping.image], ranges[mapping.cell], ranges["pixel"]),
            lambda at: _grid(*((at[0], at[1]) if is_image_first else (at[1], at[0])), at[2]),
        )
        return
    sizes = layer.result(pass_)
    for group in ranges["group"]:
        images = [group * sizes[mapping.image] + index for index in ranges[mapping.image]]
        cells = [group * sizes[mapping.cell] + index for index in ranges[mapping.cell]]

        def where(at: list[Tensor], group: int = group) -> tuple[Tensor, ...]:
            of = {mapping.image: at[0] % sizes[mapping.image], mapping.cell: at[1] % sizes[mapping.cell]}
            return _grid(torch.full_like(at[0][:1], group), of["oc"], of["ic"], at[2])

        yield (images, cells, ranges["pixel"]), where


def _grid(*indices: Tensor) -> tuple[Tensor, ...]:
    return torch.meshgrid(*indices, indexing="ij")


def _in_order(sums: Tensor, layer: Layer, mapping: Mapping, sizes: dict[str, int]) -> Tensor:
    """Bring (image, cell, pixel) into the order of the result's dimensions."""
    dims = [dim for dim in sizes if dim in (mapping.image, mapping.cell)]
    if not layer.size:
        return sums[0].t() if dims[0] == mapping.image else sums[0]
    if dims[0] != mapping.image:
        sums = sums.transpose(0, 1)
    return sums[None] if "group" in sizes else sums


@dataclass(kw_only=True, eq=False)
class _Summing:
    """The sums of one error, image by image as room allows."""

    error: SumError
    array: Array
    laid: Laid
    format: Format
    key: tuple[int, ...]
    changed: int | Tensor = 0
    _drawn: int = field(default=0, init=False)

    def sums(self, images: Tensor, pixels: Tensor) -> Tensor:
        """Compute the finished results, (image, cell, pixel)."""
        cells, lanes = self.laid.held.shape[:2]
        taps = self.laid.held.shape[2:].numel()
        depth = self.array.depth
        blocks = -(-lanes // depth)
        words = len(pixels) * blocks * taps * (cells * (depth if self.format.is_float else 1) + depth)
        several = max(1, _ROOM // max(1, words))
        order = torch.tensor([self.error.lanes.index(lane) for lane in range(depth)], device=images.device)
        held = self._by_lane(self.laid.held.flatten(2)[..., None], order)[..., 0]  # (cell, block, lane, tap)
        parts = []
        for some in torch.split(images, several):
            passing = self._by_lane(self.laid.patches(some, pixels), order)  # (image, block, lane, tap, pixel)
            partial = self._in_floats(held, passing) if self.format.is_float else self._in_integers(held, passing)
            parts.append(self._accumulate(partial.flatten(2, 3)))  # (image, cell, operation, pixel)
        return torch.cat(parts)

    def _by_lane(self, words: Tensor, order: Tensor) -> Tensor:
        """Deal channels to lanes: (., channel, tap, pixel) -> (., block, lane, tap, pixel), unused lanes holding 0."""
        depth = self.array.depth
        missing = -words.shape[1] % depth
        words = torch.nn.functional.pad(words, (0, 0, 0, 0, 0, missing))
        return words.view(len(words), -1, depth, *words.shape[2:])[:, :, order]

    def _in_integers(self, held: Tensor, passing: Tensor) -> Tensor:
        """Compute partial sums, (image, cell, block, tap, pixel), exactly."""

        def sums(lanes: slice) -> Tensor:
            return torch.einsum("cblt,ibltp->icbtp", held[:, :, lanes], passing[:, :, lanes]).to(torch.int64)

        whole, stage = sums(slice(None)), self.error.stage
        if stage == "partial_sum":
            return self._where_active(whole, self._faulty(whole, stage))
        if stage not in ("product", "node"):
            return whole
        assert self.error.rows is not None
        node = sums(slice(self.error.rows.start, self.error.rows.stop))
        if isinstance(self.error.effect, ProductTable):
            faulty = node + self._table_errors(self.error.effect, held, passing)
        else:
            faulty = self._faulty(node, stage)
        node_too = self._where_active(node, faulty)
        return _wrapped(whole - node + node_too, self._bits("partial_sum"))

    def _table_errors(self, table: ProductTable, held: Tensor, passing: Tensor) -> Tensor:
        assert self.error.rows is not None
        lane = self.error.rows.start
        errors = torch.from_numpy(table.errors).to(held.device).long()
        w = held[:, :, lane].long()[None, ..., None] + 128  # (1, cell, block, tap, 1)
        x = passing[:, :, lane].long()[:, None] + 128  # (image, 1, block, tap, pixel)
        return errors[w, x]

    def _in_floats(self, held: Tensor, passing: Tensor) -> Tensor:
        """Compute partial sums, (image, cell, block, tap, pixel), in the array's order."""
        w, x = held[None, ..., None], passing[:, None]
        products = w * x  # (image, cell, block, lane, tap, pixel)
        if self.array.zero_gate:
            products = products.masked_fill_((w == 0) | (x == 0), 0)
        stage, rows = self.error.stage, self.error.rows
        terms = list(products.unbind(3))
        if stage == "product":
            assert rows is not None
            terms[rows.start] = self._where_active(terms[rows.start], self._faulty(terms[rows.start], stage))
        node = rows if stage == "node" else None
        total = self._chain(terms, node) if self.array.adds_in_a_chain else self._tree(terms, node)
        return self._where_active(total, self._faulty(total, stage)) if stage == "partial_sum" else total

    def _chain(self, terms: list[Tensor], node: range | None) -> Tensor:
        total = torch.zeros_like(terms[0])
        for row, term in enumerate(terms):
            total = total + term
            if node is not None and row == node.stop - 1:
                total = self._where_active(total, self._faulty(total, "node"))
        return total

    def _tree(self, terms: list[Tensor], node: range | None) -> Tensor:
        spans = [range(lane, lane + 1) for lane in range(len(terms))]
        while len(terms) > 1:
            pairs = range(0, len(terms), 2)
            spans = [range(spans[i].start, spans[min(i + 1, len(spans) - 1)].stop) for i in pairs]
            terms = [terms[i] + terms[i + 1] if i + 1 < len(terms) else terms[i] for i in pairs]
            for i, span in enumerate(spans):
                if span == node:
                    terms[i] = self._where_active(terms[i], self._faulty(terms[i], "node"))
                    node = None  # an odd one goes up alone and is met again
        return terms[0]

    def _accumulate(self, partial: Tensor) -> Tensor:
        """Sum partial sums up, (image, cell, operation, pixel) -> (image, cell, pixel)."""
        operations = partial.shape[2]
        is_hit = self.error.stage == "accumulator"
        if not is_hit and not self.format.is_float:
            reach = self._bits("partial_sum") - 1
            if not self.array.saturates or operations << reach < 1 << (self._bits("accumulator") - 1):
                return self._finish(self._kept(partial.sum(dim=2), "accumulator"))  # in whatever order
        total = torch.zeros_like(partial[:, :, 0])
        for operation in range(operations):
            total = self._kept(total + partial[:, :, operation], "accumulator")
            if is_hit and operation < operations - 1 and self._hits(operation):
                total = self._counted(total, self._faulty(total, "accumulator"))
        return self._finish(total)

    def _finish(self, total: Tensor) -> Tensor:
        total = self._kept(total, "output")
        return self._counted(total, self._faulty(total, "output")) if self.error.stage == "output" else total

    def _bits(self, stage: Stage) -> int:
        return self.array.word(stage, self.format).bits

    def _kept(self, sums: Tensor, stage: Stage) -> Tensor:
        """Give what a register keeps of sums: integers saturate or wrap at its width."""
        if self.format.is_float:
            return sums
        bits = self._bits(stage)
        half = 1 << (bits - 1)
        return sums.clamp(-half, half - 1) if self.array.saturates else _wrapped(sums, bits)

    def _hits(self, operation: int) -> bool:
        return self.error.operations is None or operation in self.error.operations

    def _where_active(self, right: Tensor, wrong: Tensor) -> Tensor:
        """Take the wrong words in the operations that are hit; (image, cell, block, tap, pixel)."""
        if self.error.operations is not None:
            taps = right.shape[3]
            is_hit = torch.zeros(right.shape[2] * taps, dtype=torch.bool, device=right.device)
            is_hit[list(self.error.operations)] = True
            wrong = torch.where(is_hit.view(-1, taps)[..., None], wrong, right)
        return self._counted(right, wrong)

    def _counted(self, right: Tensor, wrong: Tensor) -> Tensor:
        bits = (right, wrong) if right.dtype == torch.int64 else (right.view(torch.int32), wrong.view(torch.int32))
        self.changed = self.changed + torch.count_nonzero(bits[0] != bits[1])
        return wrong

    def _faulty(self, words: Tensor, stage: Stage) -> Tensor:
        """Give what is read instead of words."""
        self._drawn += 1
        return read_words(words, self.error.effect, self.array.word(stage, self.format), key=(*self.key, self._drawn))


def _wrapped(values: Tensor, bits: int) -> Tensor:
    """Keep the low bits of integers, as two's complement."""
    half = 1 << (bits - 1)
    return ((values + half) & ((1 << bits) - 1)) - half


def read_words(values: Tensor, effect: Effect, format: Format, *, key: tuple[int, ...]) -> Tensor:
    """Give what is read instead of words: int64 values of an integer format, or float32.

    Raises:
        InvalidInput: if the effect does not fit the format.
    """
    if format.is_float and format.bits != 32:
        raise InvalidInput(f"format={format.name} of a sum is not fp32")
    if isinstance(effect, BitOperation):
        keep, set_, flip = effect.masks(format)
        if not format.is_float:
            full = (1 << format.bits) - 1
            return _wrapped((((values & full) & keep) | set_) ^ flip, format.bits)
        signed = [mask - (1 << 32) if mask >> 31 else mask for mask in (keep, set_, flip)]
        return (((values.view(torch.int32) & signed[0]) | signed[1]) ^ signed[2]).view(torch.float32)
    words = format.encode(values.double().cpu().numpy())
    read = format.decode(effect.read(words, format, key=key))
    return torch.from_numpy(read).to(values)
