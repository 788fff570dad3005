"""The three passes of a layer on the faulty array, and their place in autograd."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .._invalid import InvalidInput
from ..error import Error, Range, Region, SumError
from ..formats import Format
from ..hardware import PASSES, TWIN_PASSES, Array, Layer, Operand, Pass
from ._geometry import Geometry, Products
from ._operators import RESULT_DIMS
from ._private import disabled_torch_function
from ._sums import Sums
from ._words import FLAT, Change, Index, Misread, Rounded, format_of, index_of, to_format

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

Misreads = tuple[Misread, ...]

Formats = dict[Operand, Format]
"""The formats that operands were rounded to, if the array has one; empty where it takes them as they are."""

Scratch = dict[Hashable, Tensor]
"""Room for the copies of weights, by shape, dtype and device; used for one pass of one layer at a time."""


class _Cut(NamedTuple):
    """A part of one axis of an operand: what some results need of it."""

    operand: Operand
    axis: int
    part: slice | Tensor


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Results that see operands misread in a way of their own, and are computed from what they need of them."""

    misreads: Misreads
    cuts: tuple[_Cut, ...]
    bias: slice | Tensor | None
    targets: tuple[tuple[Index, Index], ...]  # (where in the whole result, which of the part's results)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The errors of one pass of one layer, made ready: what all results see, and parts that see something else."""

    whole: Misreads
    parts: tuple[_Part, ...]
    result: tuple[int, ...]  # the result's shape as regions of results count it (`Layer.result`)
    sums: Sums | None  # results that are summed up wrong
    wrong_results: Misreads  # elements of the result that come out wrong
    reached: int  # how many words pass the faulty place in one execution
    misread_channels: slice | Tensor | None  # output channels in which all results see the output's gradient misread


Plans = Mapping[Pass, Plan | None]

UNREACHED: Plans = dict.fromkeys(PASSES)
"""The plans of a layer that the fault does not reach."""


def make_plan(layer: Layer, pass_: Pass, found: Sequence[Error | SumError], array: Array) -> Plan | None:
    """Make the errors of a pass ready; None if there are none."""
    if not found:
        return None
    in_sums = tuple(error for error in found if isinstance(error, SumError))
    sums = Sums(errors=in_sums, array=array, layer=layer, pass_=pass_) if in_sums else None
    in_results = [error for error in found if isinstance(error, Error) and error.operand == "result"]
    errors = [error for error in found if isinstance(error, Error) and error.operand != "result"]
    # Errors with the same results act together; results with the same misread elements are computed together, whatever
    # their positions within an image.
    misread = [error.region for error in errors if error.operand == "grad_output" and not error.results]
    channels = [slice(None) if region.dims == ("element",) else index_of([region.range("oc")])[0] for region in misread]
    seen: set[tuple[str, Region]] = set()  # an element misread for several results is logged once
    by_results = _grouped(errors, lambda error: error.results)
    whole = _ready(layer, by_results.pop(None, []), seen)
    wrong_results = _ready(layer, in_results, seen)

    def needs(together: list[Error]) -> Hashable:
        results = together[0].results
        assert results is not None
        channels = tuple(r for d, r in zip(results.dims, results.ranges, strict=True) if d != "pixel")
        return channels, tuple(error.region for error in together)

    alikes = _grouped(by_results.values(), needs).values()
    return Plan(
        whole=whole,
        parts=tuple(_make_part(layer, pass_, alike, seen) for alike in alikes),
        result=tuple(layer.result(pass_).values()),
        sums=sums,
        wrong_results=wrong_results,
        reached=sum(region.elements for _, region in seen) + (sums.reached if sums else 0),
        misread_channels=channels[0] if channels else None,
    )


def _grouped(items: Iterable[_T], key: Callable[[_T], _K]) -> dict[_K, list[_T]]:
    groups: dict[_K, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _ready(layer: Layer, errors: Sequence[Error], seen: set[tuple[str, Region]]) -> Misreads:
    ready = []
    for error in errors:
        is_flat = error.region.dims == ("element",)
        is_split = error.operand == "weight" and layer.groups > 1
        ready.append(
            Misread(
                operand=error.operand,
                index=index_of(error.region.ranges),
                view=FLAT if is_flat else layer.shape("weight") if is_split else None,
                effect=error.effect,
                spares_zeros=error.spares_zeros,
                is_logged=(error.operand, error.region) not in seen,
            )
        )
        seen.add((error.operand, error.region))
    return tuple(ready)


def _make_part(layer: Layer, pass_: Pass, alike: Sequence[Sequence[Error]], seen: set[tuple[str, Region]]) -> _Part:
    results = alike[0][0].results
    assert results is not None
    # A grouped layer's channels cannot be cut without breaking its groups; its images can.
    carriers = {dim: operand for dim, operand in RESULT_DIMS[pass_].items() if layer.groups == 1 or dim == "n"}
    ranges = {dim: results.range(dim) for dim in carriers}
    cuts = {dim: index_of([range_])[0] for dim, range_ in ranges.items()}
    targets = []
    for together in alike:
        where = together[0].results
        assert where is not None
        own = [
            Range(start=0, stop=len(range_)) if dim in cuts else range_
            for dim, range_ in zip(where.dims, where.ranges, strict=True)
        ]
        targets.append((index_of(where.ranges), index_of(own)))
    return _Part(
        misreads=_ready(layer, alike[0], seen),
        cuts=tuple(_Cut(carriers[dim], layer.dims(carriers[dim]).index(dim), part) for dim, part in cuts.items()),
        bias=cuts.get("oc") if pass_ == "forward" else None,
        targets=tuple(targets),
    )


class LayerOnArray:
    """A layer's three passes as the array computes them.

    ``layer`` is as the array sees it in the passes that are computed here, ``computes``. ``plans`` gives the plans that
    hold at present, by pass, None where the fault does not reach; ``record`` is told of each execution under a plan:
    layer, pass, elements reached, and of these the bits that changed. ``step`` gives the optimizer step.
    """

    computes: ClassVar[Sequence[Pass]] = PASSES

    def __init__(
        self,
        layer: Layer,
        geometry: Geometry,
        *,
        format: Format | None,
        plans: Callable[["LayerOnArray"], Plans],
        record: Callable[[str, Pass, int, list[Tensor], Tensor | None], None],
        scratch: Scratch,
        step: Callable[[], int],
    ) -> None:
        self.is_transposed = layer.transposed  # then the passes below are those of its twin (`TWIN_PASSES`)
        self.layer = layer
        self._step = step
        self.present: tuple[int, Plans] | None = None  # kept by ``plans``: the plans, and until when they hold
        self.made: dict[Hashable, Plans] = {}
        self._geometry = geometry
        self._owns_weight = isinstance(geometry, Products) and geometry.owns_weight
        self._format = format
        self._plans = plans
        self._record = record
        self._scratch = scratch

    def is_hit(self) -> bool:
        """Whether any pass is now to be computed otherwise than by PyTorch itself."""
        return self._format is not None or self._plans(self) is not UNREACHED

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the output, (n, oc, *out_size)."""
        if self.is_transposed:
            return self._run("grad_input", {"grad_output": x, "weight": weight}, bias=bias)[0]
        return self._run("forward", {"input": x, "weight": weight}, bias=bias)[0]

    def grad_input(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        """Compute the input's gradient, (n, ic, *size)."""
        if self.is_transposed:
            return self._run("forward", {"input": grad_output, "weight": weight})[0]
        return self._run("grad_input", {"grad_output": grad_output, "weight": weight})[0]

    def grad_weight(self, grad_output: Tensor, x: Tensor, *, bias: bool) -> tuple[Tensor, Tensor | None]:
        """Compute the gradients of weight and bias; the bias's is summed outside the MAC array and always right."""
        if self.is_transposed:
            grad_weight = self._run("grad_weight", {"grad_output": x, "input": grad_output})[0]
            return grad_weight, sum_over_positions(grad_output) if bias else None
        stored: dict[Operand, Tensor] = {"grad_output": grad_output, "input": x}
        if not bias or not self._geometry.sums_bias:
            return self._run("grad_weight", stored)[0], sum_over_positions(grad_output) if bias else None
        grad_weight, grad_bias, wrong = self._run("grad_weight", stored, with_bias=True)
        if grad_bias is not None and wrong is not None:
            grad_bias[wrong] = sum_over_positions(grad_output[:, wrong])
        return grad_weight, grad_bias

    def _run(
        self, pass_: Pass, stored: dict[Operand, Tensor], *, bias: Tensor | None = None, with_bias: bool = False
    ) -> tuple[Tensor, Tensor | None, slice | Tensor | None]:
        """Compute a pass; also say of which output channels a sum of the output's gradient came out wrong, if any."""
        plan = self._plans(self)[pass_]
        bias, late = (None, bias) if self.is_transposed else (bias, None)
        formats: Formats = {}
        rounded = stored
        if self._format is not None:
            held = {operand: to_format(tensor, self._format) for operand, tensor in stored.items()}
            rounded = {operand: words for operand, (words, _) in held.items()}
            formats = {operand: format for operand, (_, format) in held.items()}
        if plan is None:
            result, grad_bias = self._compute(pass_, _values(rounded, stored, formats), bias, with_bias)
            return self._and(result, late), grad_bias, None if rounded is stored else slice(None)
        key = self._step(), PASSES.index(pass_), self.layer.index
        changed: list[Tensor] = []
        operands, borrowed = self._read(plan.whole, rounded, changed, formats, key)
        try:
            result, grad_bias = self._compute(pass_, _values(operands, stored, formats), bias, with_bias)
        finally:
            for change in borrowed:
                change.toggle()
        wrong: slice | Tensor | None = None if rounded is stored else slice(None)
        if with_bias and wrong is None and any(bool(torch.count_nonzero(bits)) for bits in changed):
            wrong = plan.misread_channels  # else the sum is right to the last bit
        for part in plan.parts:
            operands, borrowed = self._read(part.misreads, rounded, changed, formats, key)
            try:
                operands = _values(operands, stored, formats)
                for operand, axis, wanted in part.cuts:
                    operands[operand] = operands[operand][(slice(None),) * axis + (wanted,)]
                part_bias = bias if bias is None or part.bias is None else bias[part.bias]
                own, _ = self._compute(pass_, operands, part_bias, False)
            finally:
                for change in borrowed:
                    change.toggle()
            if len(plan.result) == 3:
                own = own.flatten(2)  # (., ., *positions) -> (., ., pixel)
            elif len(plan.result) == 4:
                own = own.view(plan.result)  # (oc, ic, *kernel) -> (group, oc, ic, pixel)
            for where, which in part.targets:
                result.view(plan.result)[where] = own[which]
        counted = None
        if plan.sums is not None:
            counted = plan.sums.correct(result, self._as_words(rounded, formats), bias, step=key[0])
        result = self._and(result, late)
        changed.extend(misread(result, key=key).bits for misread in plan.wrong_results)
        named = TWIN_PASSES[pass_] if self.is_transposed else pass_
        self._record(self.layer.name, named, plan.reached, changed, counted)
        return result, grad_bias, wrong

    def _and(self, result: Tensor, bias: Tensor | None) -> Tensor:
        """Add a bias that the pass itself does not: a transposed convolution's, to its output."""
        return result if bias is None else result + bias.view(-1, *(1 for _ in self.layer.size))

    def _read(
        self,
        misreads: Misreads,
        stored: dict[Operand, Tensor],
        changed: list[Tensor],
        formats: Formats,
        key: tuple[int, ...],
    ) -> tuple[dict[Operand, Tensor], list[Change]]:
        """Give operands as they are read. Some are borrowed: changed in place, to be changed back.

        A gradient belongs to the autograd engine alone while a layer's backward pass runs, and is large; so does what
        was copied for this call. Other operands may be looked at meanwhile, by another thread, so they are copied.
        """
        operands: dict[Operand, Tensor] = dict(stored)
        borrowed: list[Change] = []
        for misread in misreads:
            operand = misread.operand
            assert operand != "result"
            tensor, format = operands[operand], formats.get(operand)
            # What the twin of a transposed convolution takes for a gradient is the input.
            is_gradient = operand == ("input" if self.is_transposed else "grad_output")
            if tensor is not stored[operand]:
                change = misread(tensor, format, key=key)
            elif (is_gradient and _may_borrow(operand, stored)) or (operand == "weight" and self._owns_weight):
                change = misread(tensor.data, format, key=key)  # `data` leaves the version that autograd checks as is
                borrowed.append(change)
            else:
                tensor = operands[operand] = _copy(tensor, self._scratch) if operand == "weight" else tensor.clone()
                change = misread(tensor, format, key=key)
            if misread.is_logged:
                changed.append(change.bits)
        return operands, borrowed

    def _as_words(self, rounded: dict[Operand, Tensor], formats: Formats) -> dict[Operand, Rounded]:
        return {
            operand: Rounded(words, formats.get(operand) or format_of(words.dtype))
            for operand, words in rounded.items()
        }

    def _compute(
        self, pass_: Pass, operands: dict[Operand, Tensor], bias: Tensor | None, with_bias: bool
    ) -> tuple[Tensor, Tensor | None]:
        match pass_:
            case "forward":
                return self._geometry.forward(operands["input"], operands["weight"], bias), None
            case "grad_input":
                size = self.layer.size
                return self._geometry.grad_input(operands["grad_output"], operands["weight"], size), None
            case "grad_weight":
                kernel = self.layer.kernel
                return self._geometry.grad_weight(operands["grad_output"], operands["input"], kernel, bias=with_bias)


def _values(words: dict[Operand, Tensor], stored: dict[Operand, Tensor], formats: Formats) -> dict[Operand, Tensor]:
    """Give what words spell, in the dtypes of the stored operands."""
    if not formats:
        return words
    return {
        operand: Rounded(tensor, formats[operand]).values(stored[operand].dtype) for operand, tensor in words.items()
    }


def _copy(weight: Tensor, scratch: Scratch) -> Tensor:
    """Copy to memory that is in use already: fresh memory for each step would cost more than the copy."""
    key = (weight.shape, weight.stride(), weight.dtype, weight.device)
    room = scratch.get(key)
    if room is None:
        with torch.inference_mode(mode=False):  # a tensor made in inference mode could not be written to after
            room = scratch[key] = torch.empty_like(weight)
    return room.copy_(weight)


def _may_borrow(operand: Operand, stored: dict[Operand, Tensor]) -> bool:
    """Whether each element of an operand has a place of its own that no other operand shares."""
    own = stored[operand]
    place = own.untyped_storage().data_ptr()
    return own.is_contiguous() and all(
        other == operand or tensor.untyped_storage().data_ptr() != place for other, tensor in stored.items()
    )


def sum_over_positions(grad_output: Tensor) -> Tensor:
    """Sum an output's gradient to its bias's: (n, oc, *out_size) -> (oc,)."""
    return grad_output.sum([axis for axis in range(grad_output.dim()) if axis != 1])


class OnArray(torch.autograd.Function):
    """A layer whose forward and backward passes are computed on the array."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, on_array: LayerOnArray) -> Tensor:
        """Compute the output; keep the stored operands, not the misread ones, for the backward passes."""
        ctx.save_for_backward(x, weight)
        ctx.on_array = on_array  # type: ignore[attr-defined]
        return on_array.forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients that are needed."""
        if torch.is_grad_enabled():
            raise InvalidInput(
                "create_graph=True: second derivatives are not computed under injection; pause it for them"
            )
        x, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias, _ = ctx.needs_input_grad
        on_array: LayerOnArray = ctx.on_array
        grad_input = grad_weight = grad_bias = None
        with disabled_torch_function():
            if needs_input:
                grad_input = on_array.grad_input(grad_output, weight)
            if needs_weight:
                grad_weight, grad_bias = on_array.grad_weight(grad_output, x, bias=needs_bias)
            elif needs_bias:
                grad_bias = sum_over_positions(grad_output)
        return grad_input, grad_weight, grad_bias, None
