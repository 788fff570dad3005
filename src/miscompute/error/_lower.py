"""From a hardware fault to software errors."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from .._invalid import InvalidInput
from ..fault import Exposure, Fault
from ..hardware import PASSES, Array, Layer, Pass
from ._error import Error
from ._region import Range, Region


class _Every(NamedTuple):
    """A condition on a channel's index: ``(index - first) mod step < width``."""

    first: int
    step: int
    width: int = 1


def lower(
    fault: Fault, array: Array, layer: Layer | Iterable[Layer], *, step: int = 0, passes: Sequence[Pass] = PASSES
) -> tuple[Error, ...]:
    """Derive which tensor elements a fault on an array corrupts, in each pass of a layer or of several.

    The rules are those of NVDLA's direct convolution (docs/architecture.md, "Lowering"), exact down to ragged channels
    and groups: on lane c and cell k, a register of the stationary operand holds the elements with lane index
    = c mod rows and cell index = k mod cols; one of the streaming operand holds those of lane c and is read by some
    cells only.

    Args:
        fault: what is broken.
        array: the array it is broken in; its swizzle is followed.
        layer: a layer, or the layers of a traced model.
        step: the optimizer step, which some swizzles go by.
        passes: the computations to lower for.

    Returns:
        The errors, by layer and pass. Empty where nothing can be reached: ``ic <= c``, say.

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
    exposure = fault.site.exposure(rows=array.rows, cols=array.cols)
    if array.format is not None:
        fault.effect.masks(array.format)
    layers = (layer,) if isinstance(layer, Layer) else tuple(layer)
    return tuple(
        error for one in layers for pass_ in passes for error in _lower_pass(fault, exposure, array, one, pass_, step)
    )


def _lower_pass(
    fault: Fault, exposure: Exposure, array: Array, layer: Layer, pass_: Pass, step: int
) -> Iterator[Error]:
    mapping = array.mapping(pass_)
    spares_zeros = exposure.behind_zero_detector and array.zero_gate
    if layer.groups > 1 and not spares_zeros and mapping.stationary == "weight" and exposure.operand == "stationary":
        raise InvalidInput(
            f"site {fault.site} of layer {layer.name!r} corrupts zeros between its groups={layer.groups}, which a "
            "grouped convolution does not compute; expand the layer to a dense one"
        )
    if exposure.operand == "streaming" and not spares_zeros and not layer.is_pointwise:
        raise InvalidInput(
            f"site {fault.site} of layer {layer.name!r} corrupts padding and inserted zeros, which are in no tensor, "
            "on an array without a zero gate; only linear and pointwise layers can be lowered there"
        )
    cells = {mapping.cell: _Every(exposure.cols.start, array.cols, len(exposure.cols))}
    if len(exposure.cols) == array.cols:
        cells = {}
    operand = mapping.stationary if exposure.operand == "stationary" else mapping.streaming
    operand_shape = dict(zip(layer.dims(operand), layer.shape(operand), strict=True))
    for residue, seen in _residues(array, layer, pass_, exposure.row, step):
        lanes = {mapping.lane: _Every(residue, array.rows)}
        if exposure.operand == "stationary":
            regions = _regions(layer, operand_shape, lanes | cells)
        else:
            regions = _regions(layer, operand_shape, lanes)
        if seen is None and (exposure.operand == "stationary" or not cells):
            results: list[Region | None] = [None]
        else:
            results = list(_results(layer, pass_, cells, seen))
        for region in regions:
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


class _Seen(NamedTuple):
    """Results computed in some stripes: of certain images, at certain runs of positions (dimension ``of``)."""

    image: dict[str, _Every]
    of: str
    positions: tuple[Range, ...]


def _residues(array: Array, layer: Layer, pass_: Pass, row: int, step: int) -> Iterator[tuple[int, _Seen | None]]:
    """Give which channel of each block of ``rows`` sits on the faulty lane, and in which stripes (None: all)."""
    if not array.swizzle.per_stripe:
        yield array.lanes(step=step, layer=layer.index).index(row), None
        return
    image = array.mapping(pass_).image
    if layer.size:
        of, pixels = "pixel", layer.result(pass_)["pixel"]
        stripes = array.stripes(pixels)
        period = array.rows // math.gcd(len(stripes), array.rows)  # images until the stripes meet the same lanes again
    else:  # the images of a linear layer are the pixels of one
        sizes = {"n": layer.n, "ic": layer.ic, "oc": layer.oc}
        of, stripes, period = image, array.stripes(sizes[image]), 1
    for first in range(period):
        by_residue = defaultdict(list)
        for number, stripe in enumerate(stripes):
            lanes = array.lanes(step=step, layer=layer.index, stripe=first * len(stripes) + number)
            by_residue[lanes.index(row)].append(stripe)
        for residue, met in by_residue.items():
            yield residue, _Seen({image: _Every(first, period)} if period > 1 else {}, of, tuple(_runs(met)))


def _runs(stripes: Sequence[range]) -> Iterator[Range]:
    """Join stripes of one length that lie at one distance; the ragged ones at the end stay apart."""
    length = len(stripes[0])
    regular = [stripe for stripe in stripes if len(stripe) == length]
    distances = {b.start - a.start for a, b in pairwise(regular)}
    if len(distances) > 1:
        regular = regular[:1]
    step = distances.pop() if len(regular) > 1 else length
    yield Range(start=regular[0].start, stop=regular[-1].stop, step=step, width=length)
    if rest := [stripe for stripe in stripes if stripe not in regular]:
        yield from _runs(rest)


def _results(layer: Layer, pass_: Pass, cells: dict[str, _Every], seen: _Seen | None) -> Iterator[Region]:
    sizes = layer.result(pass_)
    if seen is None:
        yield from _regions(layer, sizes, cells)
        return
    for positions in seen.positions:
        for region in _regions(layer, sizes, cells | seen.image):
            ranges = tuple(
                positions if dim == seen.of else range_ for dim, range_ in zip(region.dims, region.ranges, strict=True)
            )
            yield Region(dims=region.dims, ranges=ranges)


def _regions(layer: Layer, sizes: Mapping[str, int], conditions: Mapping[str, _Every]) -> Iterator[Region]:
    """Give the elements whose channel indices, counted over the whole layer, meet the conditions.

    Where a tensor's channels are split by group, index ``i`` of group ``g`` is channel ``g * size + i``, so the pattern
    within a group shifts from group to group and comes back after ``period`` groups.
    """
    if "group" not in sizes:
        groups: Iterable[tuple[dict[str, Range], Mapping[str, _Every]]] = [({}, conditions)]
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
            for shifted in [{d: _Every((e.first - first * sizes[d]) % e.step, e.step) for d, e in one.items()}]
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


def _single(every: _Every) -> list[_Every]:
    """Split a condition into conditions of width 1, which shift to another group without breaking."""
    return [_Every((every.first + offset) % every.step, every.step) for offset in range(every.width)]


def _product(choices: Sequence[Sequence[_Every]]) -> Iterator[tuple[_Every, ...]]:
    if not choices:
        yield ()
        return
    for first in choices[0]:
        for rest in _product(choices[1:]):
            yield (first, *rest)
