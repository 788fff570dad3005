"""From a hardware fault to software errors."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, NamedTuple, TypeVar

from ..fault import (
    AnyExposure,
    CycleBursts,
    ElementExposure,
    Elements,
    Exposure,
    Fault,
    MemoryExposure,
    SumExposure,
    Transient,
)
from ..hardware import PASSES, TWIN_OPERANDS, TWIN_PASSES, Array, Conditions, Every, Layer, Operand, Pass
from ._cycle import check_zeros, lower_cycle, lower_cycles, rows_of
from ._error import AnyError, Error, StoredError, SumError
from ._region import Range, Region

_T = TypeVar("_T", bound=Hashable)


def lower(
    fault: Fault,
    array: Array,
    layer: Layer | Iterable[Layer],
    *,
    step: int = 0,
    passes: Sequence[Pass] = PASSES,
    as_seen: bool = False,
) -> tuple[AnyError, ...]:
    """Derive which tensor elements a fault on an array corrupts, in each pass of a layer or of several.

    The rules are exact down to ragged channels and groups (docs/architecture.md, "Lowering"): on lane c and cell k, a
    register of the stationary operand holds the elements with lane index = c mod rows and cell index = k mod cols; one
    of the streaming operand holds those of lane c and is read by some cells only. Regions are those of the layer as the
    array sees it (`Array.seen`): by im2col of the product of matrices, in image mode of `Layer.as_image`.

    Args:
        fault: what is broken.
        array: the array it is broken in; its swizzle is followed.
        layer: a layer, or the layers of a traced model.
        step: the optimizer step, which some swizzles and timings go by.
        passes: the computations to lower for.
        as_seen: whether layers and passes are such as the array sees them already.

    Returns:
        The errors, by layer and pass: `Error` of an operand, `SumError` between operands and result, `StoredError` in
        memory. Empty where nothing can be reached: ``ic <= c``, say.

    Raises:
        InvalidInput: if the site is not on the array, a bit not in its format, or there is no exact lowering.

    >>> from miscompute.fault import parse_fault
    >>> from miscompute.hardware import nvdla_small
    >>> conv = Layer(name="conv", n=4, ic=16, oc=24, size=(8, 8), kernel=(3, 3))
    >>> for error in lower(parse_fault("weight[1,2] bit 28 stuck-at 0"), nvdla_small(), conv):
    ...     print(error.pass_, error.operand, error.region)
    forward weight [oc 2:24:8, ic 1:16:8, r 0:3, s 0:3]
    grad_input weight [oc 1:24:8, ic 2:16:8, r 0:3, s 0:3]
    grad_weight grad_output [n 1:4:8, oc 2:24:8, oh 0:6, ow 0:6]
    """
    fault.check(array)
    layers = (layer,) if isinstance(layer, Layer) else tuple(layer)
    exposure = fault.site.exposure(rows=array.rows, cols=array.cols)
    if isinstance(exposure, MemoryExposure):
        return tuple(_lower_memory(fault, exposure, layers, as_seen=as_seen))
    found: list[AnyError] = []
    for one in layers:
        for pass_ in passes:
            seen = one if as_seen else array.seen(one, pass_)
            if one.transposed and not as_seen:
                errors = _lower_pass(in_twin(fault), array, seen, TWIN_PASSES[pass_], step)
                found += [_renamed(error, fault) for error in errors]
            else:
                found += _lower_pass(fault, array, seen, pass_, step)
    return tuple(found)


def in_twin(fault: Fault) -> Fault:
    """Say a fault in a transposed convolution in the terms of the convolution it is the gradient of, its twin."""
    site, timing = fault.site, fault.timing
    if isinstance(site, Elements) and site.of != "result":
        site = replace(site, of=TWIN_OPERANDS[site.of])
    if isinstance(timing, Transient) and timing.pass_ is not None:
        timing = replace(timing, pass_=TWIN_PASSES[timing.pass_])
    return replace(fault, site=site, timing=timing)


def _renamed(error: Error | SumError, fault: Fault) -> Error | SumError:
    """Say of an error of a convolution what it is to its transposed one. Regions keep the names of dimensions."""
    error = replace(error, pass_=TWIN_PASSES[error.pass_], timing=fault.timing)
    if isinstance(error, SumError):
        return error
    return error if error.operand == "result" else replace(error, operand=TWIN_OPERANDS[error.operand])


def _lower_memory(
    fault: Fault, exposure: MemoryExposure, layers: Sequence[Layer], *, as_seen: bool
) -> Iterator[AnyError]:
    elements = Range(start=exposure.first, stop=exposure.first + exposure.length)
    if exposure.store != "activation":
        yield StoredError(
            store=exposure.store,
            name=exposure.name,
            state=exposure.state,
            elements=elements,
            effect=fault.effect,
            timing=fault.timing,
        )
        return
    for layer in layers:
        if layer.name == exposure.name:
            kept: Operand = "grad_output" if layer.transposed else "input"
            for error in _flat(fault, layer, "grad_weight", kept, elements):
                yield _renamed(error, fault) if layer.transposed and not as_seen else error


def _lower_pass(fault: Fault, array: Array, layer: Layer, pass_: Pass, step: int) -> Iterator[Error | SumError]:
    for exposure, effect in fault.site.feeds(fault.effect, array):
        yield from _lower_word(replace(fault, effect=effect), exposure, array, layer, pass_, step)


def _lower_word(
    fault: Fault, exposure: AnyExposure, array: Array, layer: Layer, pass_: Pass, step: int
) -> Iterator[Error | SumError]:
    timing = fault.timing
    assert not isinstance(exposure, MemoryExposure)
    if isinstance(exposure, ElementExposure):
        elements = Range(start=exposure.first, stop=exposure.first + exposure.length)
        yield from _flat(fault, layer, pass_, exposure.of, elements)
    elif isinstance(timing, Transient) and timing.cycle is not None:
        if (timing.layer, timing.pass_) == (layer.name, pass_):
            yield from lower_cycle(fault, timing, exposure, array, layer, array.schedule(layer, pass_), step)
    elif isinstance(timing, CycleBursts):
        yield from lower_cycles(fault, timing, exposure, array, layer, pass_, step)
    elif isinstance(exposure, SumExposure):
        yield from _lower_sum(fault, exposure, array, layer, pass_, step)
    else:
        yield from _lower_operand(fault, exposure, array, layer, pass_, step)


def _flat(fault: Fault, layer: Layer, pass_: Pass, of: Operand | Literal["result"], elements: Range) -> Iterator[Error]:
    """Corrupt elements that count in the order of memory, as many of them as there are."""
    if of != "result" and of not in _OPERANDS_OF[pass_]:
        return
    size = math.prod(layer.result(pass_).values()) if of == "result" else layer.elements(of)
    region = Region(dims=("element",), ranges=(replace(elements, stop=min(elements.stop, size)),))
    if region.elements:
        yield Error(
            layer=layer.name,
            pass_=pass_,
            operand=of,
            region=region,
            effect=fault.effect,
            spares_zeros=False,
            results=None,
            timing=fault.timing,
        )


_OPERANDS_OF: Mapping[Pass, tuple[Operand, Operand]] = {
    "forward": ("weight", "input"),
    "grad_input": ("weight", "grad_output"),
    "grad_weight": ("input", "grad_output"),
}


def _lower_operand(
    fault: Fault, exposure: Exposure, array: Array, layer: Layer, pass_: Pass, step: int
) -> Iterator[Error]:
    mapping = array.mapping(pass_)
    spares_zeros = exposure.behind_zero_detector and array.zero_gate
    check_zeros(fault, exposure, array, layer, mapping)
    operand = mapping.stationary if exposure.operand == "stationary" else mapping.streaming
    operand_shape = dict(zip(layer.dims(operand), layer.shape(operand), strict=True))
    row = min(exposure.row, array.depth - 1)
    for residue, seen in _dealings(array, layer, pass_, step, lambda lanes: lanes.index(row)):
        lane = Every(residue, array.depth)
        elements, readers = array.reach(
            mapping,
            exposure.operand,
            lane=lane,
            row=exposure.row,
            cols=exposure.cols,
            passes_on=exposure.passes_on,
        )
        results: list[Region | None] = [None]
        if seen is not None or readers:
            results = list(_results(layer, pass_, readers, seen))
        for region in _regions(layer, operand_shape, elements):
            for result in results:
                yield Error(
                    layer=layer.name,
                    pass_=pass_,
                    operand=operand,
                    region=region,
                    effect=fault.effect,
                    spares_zeros=spares_zeros,
                    results=result,
                    timing=fault.timing,
                )


def _lower_sum(
    fault: Fault, exposure: SumExposure, array: Array, layer: Layer, pass_: Pass, step: int
) -> Iterator[SumError]:
    cells = array.cells(array.mapping(pass_), exposure.row, range(exposure.col, exposure.col + 1))
    rows = rows_of(exposure, array)
    for lanes, seen in _dealings(array, layer, pass_, step, lambda lanes: lanes):
        for results in _results(layer, pass_, cells, _at_address(exposure.address, array, layer, pass_, seen)):
            yield SumError(
                layer=layer.name,
                pass_=pass_,
                stage=exposure.stage,
                results=results,
                rows=rows,
                lanes=lanes,
                operations=None,
                effect=fault.effect,
                timing=fault.timing,
            )


def _at_address(address: int | None, array: Array, layer: Layer, pass_: Pass, seen: "_Seen | None") -> "_Seen | None":
    """Keep of what is seen the positions with one index in their stripe."""
    if address is None:
        return seen
    of = "pixel" if layer.size else array.mapping(pass_).image
    there = [
        range(stripe.start + address, stripe.start + address + 1)
        for stripe in array.stripes_of(layer, pass_)
        if address < len(stripe) and (seen is None or any(stripe.start in set(run) for run in seen.positions))
    ]
    return _Seen(seen.image if seen else {}, of, tuple(_runs(there)) if there else ())


class _Seen(NamedTuple):
    """Results computed in some stripes: of certain images, at certain runs of positions (dimension ``of``)."""

    image: dict[str, Every]
    of: str
    positions: tuple[Range, ...]


def _dealings(
    array: Array, layer: Layer, pass_: Pass, step: int, look: Callable[[tuple[int, ...]], _T]
) -> Iterator[tuple[_T, _Seen | None]]:
    """Give what is looked at in the lanes of a block's channels, and in which stripes it is so (None: in all)."""
    if not array.swizzle.per_stripe:
        yield look(array.lanes(step=step, layer=layer.index)), None
        return
    image, stripes = array.mapping(pass_).image, array.stripes_of(layer, pass_)
    if layer.size:
        of = "pixel"
        period = array.rows // math.gcd(len(stripes), array.rows)  # images until the stripes meet the same lanes again
    else:  # the images of a linear layer are the pixels of one
        of, period = image, 1
    for first in range(period):
        alike = defaultdict(list)
        for number, stripe in enumerate(stripes):
            alike[look(array.lanes(step=step, layer=layer.index, stripe=first * len(stripes) + number))].append(stripe)
        for dealt, met in alike.items():
            yield dealt, _Seen({image: Every(first, period)} if period > 1 else {}, of, tuple(_runs(met)))


def _runs(stripes: Sequence[range]) -> Iterator[Range]:
    """Join neighbours of one length that lie at one distance; the ragged ones at the end stay apart."""
    first = 0
    while first < len(stripes):
        length = step = len(stripes[first])
        last = first
        for number, (stripe, next_) in enumerate(pairwise(stripes[first:]), first + 1):
            distance = next_.start - stripe.start
            if len(next_) != length or (last > first and distance != step):
                break
            step, last = distance, number
        yield Range(start=stripes[first].start, stop=stripes[last].stop, step=step, width=length)
        first = last + 1


def _results(layer: Layer, pass_: Pass, cells: Conditions, seen: _Seen | None) -> Iterator[Region]:
    sizes = layer.result(pass_)
    if seen is None:
        yield from _regions(layer, sizes, cells)
        return
    for positions in seen.positions:
        for region in _regions(layer, sizes, {**cells, **seen.image}):
            ranges = tuple(
                positions if dim == seen.of else range_ for dim, range_ in zip(region.dims, region.ranges, strict=True)
            )
            yield Region(dims=region.dims, ranges=ranges)


def _regions(layer: Layer, sizes: Mapping[str, int], conditions: Mapping[str, Every]) -> Iterator[Region]:
    """Give the elements whose channel indices, counted over the whole layer, meet the conditions.

    Where a tensor's channels are split by group, index ``i`` of group ``g`` is channel ``g * size + i``, so the pattern
    within a group shifts from group to group and comes back after ``period`` groups.
    """
    if "group" not in sizes:
        groups: Iterable[tuple[dict[str, Range], Mapping[str, Every]]] = [({}, conditions)]
    else:
        ones = [
            dict(zip(conditions, combination, strict=True))
            for combination in _product([_single(every) for every in conditions.values()])
        ]
        groups = [
            ({"group": Range(start=first, stop=layer.groups, step=period)}, shifted)
            for one in ones
            for period in [math.lcm(*(e.step // math.gcd(e.step, sizes[d]) for d, e in one.items()))]
            for first in range(min(period, layer.groups))
            for shifted in [{d: Every((e.first - first * sizes[d]) % e.step, e.step) for d, e in one.items()}]
        ]
    for ranges, every in groups:
        region = Region(
            dims=tuple(sizes),
            ranges=tuple(
                ranges[dim]
                if dim in ranges
                else Range(start=every[dim].first, stop=size, step=every[dim].step, width=every[dim].width)
                if dim in every
                else Range(start=0, stop=size)
                for dim, size in sizes.items()
            ),
        )
        if region.elements:
            yield region


def _single(every: Every) -> list[Every]:
    """Split a condition into conditions of width 1, which shift to another group without breaking."""
    return [Every((every.first + offset) % every.step, every.step) for offset in range(every.width)]


def _product(choices: Sequence[Sequence[Every]]) -> Iterator[tuple[Every, ...]]:
    if not choices:
        yield ()
        return
    for first in choices[0]:
        for rest in _product(choices[1:]):
            yield (first, *rest)
