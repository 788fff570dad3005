"""The three passes of a layer on the faulty array, and their place in autograd."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ..error import Error, Range, Region
from ..formats import Format
from ..hardware import PASSES, Layer, Operand, Pass
from ._operators import RESULT_AXES, Geometry
from ._private import disabled_torch_function
from ._words import Index, Misread, index_of, to_format

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

Misreads = tuple[Misread, ...]


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
    reached: int  # how many elements are misread in one execution


def make_plan(layer: Layer, pass_: Pass, errors: Sequence[Error]) -> Plan | None:
    """Make the errors of a pass ready; None if there are none."""
    if not errors:
        return None
    # Errors with the same results act together; results with the same misread elements are computed together, whatever
    # their positions within an image.
    seen: set[tuple[Operand, Region]] = set()  # an element misread for several results is logged once
    by_results = _grouped(errors, lambda error: error.results)
    whole = _ready(layer, by_results.pop(None, []), seen)

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
        reached=sum(region.elements for _, region in seen),
    )


def _grouped(items: Iterable[_T], key: Callable[[_T], _K]) -> dict[_K, list[_T]]:
    groups: dict[_K, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _ready(layer: Layer, errors: Sequence[Error], seen: set[tuple[Operand, Region]]) -> Misreads:
    ready = []
    for error in errors:
        is_split = error.operand == "weight" and layer.groups > 1
        ready.append(
            Misread(
                operand=error.operand,
                index=index_of(error.region.ranges),
                view=layer.shape("weight") if is_split else None,
                effect=error.effect,
                spares_zeros=error.spares_zeros,
                is_logged=(error.operand, error.region) not in seen,
            )
        )
        seen.add((error.operand, error.region))
    return tuple(ready)


def _make_part(layer: Layer, pass_: Pass, alike: Sequence[Sequence[Error]], seen: set[tuple[Operand, Region]]) -> _Part:
    results = alike[0][0].results
    assert results is not None
    # A grouped layer's channels cannot be cut without breaking its groups; its images can.
    axes = {dim: axis for dim, axis in RESULT_AXES[pass_].items() if layer.groups == 1 or dim == "n"}
    ranges = {dim: results.range(dim) for dim in axes}
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
        cuts=tuple(_Cut(*axes[dim], part) for dim, part in cuts.items()),
        bias=cuts.get("oc") if pass_ == "forward" else None,
        targets=tuple(targets),
    )


class LayerOnArray:
    """A layer's three passes as the array computes them, with the plans that hold at present.

    ``plan`` gives the plan of a pass, None when the fault does not reach it now; ``record`` is told of each execution
    under a plan: layer, pass, elements reached, values changed.
    """

    def __init__(
        self,
        layer: Layer,
        geometry: Geometry,
        *,
        format: Format | None,
        plan: Callable[["LayerOnArray", Pass], Plan | None],
        record: Callable[[str, Pass, int, list[Tensor]], None],
    ) -> None:
        self.layer = layer
        self.plans: dict[Hashable, Plan | None] = {}
        self._geometry = geometry
        self._format = format
        self._plan = plan
        self._record = record

    def is_hit(self) -> bool:
        """Whether any pass is now to be computed otherwise than by PyTorch itself."""
        return self._format is not None or any(self._plan(self, pass_) is not None for pass_ in PASSES)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the output, (n, oc, *out_size)."""
        return self._run("forward", {"input": x, "weight": weight}, bias=bias)[0]

    def grad_input(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        """Compute the input's gradient, (n, ic, *size)."""
        return self._run("grad_input", {"grad_output": grad_output, "weight": weight})[0]

    def grad_weight(self, grad_output: Tensor, x: Tensor, *, bias: bool) -> tuple[Tensor, Tensor | None]:
        """Compute the gradients of weight and bias; the bias's is summed outside the MAC array and always right."""
        return self._run("grad_weight", {"grad_output": grad_output, "input": x}, with_bias=bias)

    def _run(
        self, pass_: Pass, stored: dict[Operand, Tensor], *, bias: Tensor | None = None, with_bias: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        plan = self._plan(self, pass_)
        rounded = {operand: to_format(tensor, self._format) for operand, tensor in stored.items()}
        changed: list[Tensor] = []

        def read(misreads: Misreads) -> dict[Operand, Tensor]:
            operands = dict(rounded)
            for misread in misreads:
                operand = misread.operand
                if operands[operand] is rounded[operand]:
                    operands[operand] = rounded[operand].clone()
                words_changed = misread(operands[operand])
                if misread.is_logged:
                    changed.append(words_changed)
            return {operand: tensor.to(stored[operand].dtype) for operand, tensor in operands.items()}

        operands = read(plan.whole if plan else ())
        result, grad_bias = self._compute(pass_, operands, bias, with_bias)
        is_clean = grad_bias is None or operands["grad_output"] is stored["grad_output"]
        # Where no value changed, the operator's own sum is right to the last bit, which another sum would not be.
        if not is_clean and (rounded["grad_output"] is not stored["grad_output"] or torch.stack(changed).any()):
            grad_bias = sum_over_positions(stored["grad_output"])
        if plan is None:
            return result, grad_bias
        for part in plan.parts:
            operands = read(part.misreads)
            for operand, axis, wanted in part.cuts:
                operands[operand] = operands[operand][(slice(None),) * axis + (wanted,)]
            part_bias = bias if bias is None or part.bias is None else bias[part.bias]
            own, _ = self._compute(pass_, operands, part_bias, False)
            if len(plan.result) == 3:
                own = own.flatten(2)  # (., ., *positions) -> (., ., pixel)
            elif len(plan.result) == 4:
                own = own.view(plan.result)  # (oc, ic, *kernel) -> (group, oc, ic, pixel)
            for where, which in part.targets:
                result.view(plan.result)[where] = own[which]
        self._record(self.layer.name, pass_, plan.reached, changed)
        return result, grad_bias

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
                return self._geometry.grad_weight(
                    operands["grad_output"], operands["input"], self.layer.kernel, bias=with_bias
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
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients that are needed."""
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
