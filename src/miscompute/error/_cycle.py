"""Faults of one cycle: one product, one partial sum, or one word for the rest of its stripe."""

from collections.abc import Iterator
from dataclasses import replace

from .._invalid import InvalidInput
from ..fault import CycleBursts, Exposure, Fault, SumExposure, Transient, WeightRegister
from ..hardware import TWIN_PASSES, Array, Layer, Mapping, Moment, Pass, Schedule, product_at
from ._error import Error, SumError
from ._region import Range, Region


def check_zeros(fault: Fault, exposure: Exposure, array: Array, layer: Layer, mapping: Mapping) -> None:
    """Refuse a fault that corrupts zeros which are in no tensor."""
    if exposure.behind_zero_detector and array.zero_gate:
        return
    if layer.groups > 1 and mapping.stationary == "weight" and exposure.operand == "stationary":
        raise InvalidInput(
            f"site {fault.site} of layer {layer.name!r} corrupts zeros between its groups={layer.groups}, which a "
            "grouped convolution does not compute; expand the layer to a dense one"
        )
    if exposure.operand == "streaming" and not layer.is_pointwise:
        raise InvalidInput(
            f"site {fault.site} of layer {layer.name!r} corrupts padding and inserted zeros, which are in no tensor, "
            "on an array without a zero gate; only linear and pointwise layers can be lowered there"
        )


def rows_of(exposure: SumExposure, array: Array) -> range | None:
    """Give the lanes whose products meet at a place; None where it is those of a whole cell."""
    if exposure.stage == "product":
        row = min(exposure.row, array.depth - 1)
        return range(row, row + 1)
    return array.node(exposure.row, exposure.level) if exposure.stage == "node" else None


def _check_in_cycle(fault: Fault, exposure: Exposure, array: Array, layer: Layer, mapping: Mapping) -> None:
    """Refuse a fault of which it is not known what it does in one cycle."""
    check_zeros(fault, exposure, array, layer, mapping)
    if isinstance(fault.site, WeightRegister) and fault.site.stage == "shadow":
        raise InvalidInput(
            f"site {fault.site} in one cycle: which words wait in it then is not known; use weight[row,col]"
        )
    if exposure.of_one_load and not array.loads_in_order:
        raise InvalidInput(
            f"site {fault.site} in one cycle: when the array loads which word is not known; leave cycle out"
        )
    if exposure.of_one_load and array.im2col:
        raise InvalidInput(
            f"site {fault.site} in one cycle: which load that is, is known for NVDLA only; take the register it feeds, "
            "weight[row,col] until reload"
        )


def lower_cycle(
    fault: Fault,
    timing: Transient,
    exposure: Exposure | SumExposure,
    array: Array,
    layer: Layer,
    schedule: Schedule,
    step: int,
) -> Iterator[Error | SumError]:
    """Derive what a fault corrupts in one cycle of a pass's schedule, or from it on until its register is reloaded."""
    assert timing.cycle is not None
    assert timing.pass_ is not None
    pass_, mapping = timing.pass_, array.mapping(timing.pass_)
    moment = schedule.at(timing.cycle)
    stripe = schedule.stripes[moment.stripe]
    lanes = array.lanes(step=step, layer=layer.index, stripe=moment.image * len(schedule.stripes) + moment.stripe)
    offset = moment.pixel - stripe.start
    sizes = {"n": layer.n, "ic": layer.ic, "oc": layer.oc}

    if isinstance(exposure, SumExposure):
        operation = moment.block * schedule.taps + moment.tap
        is_last = operation == schedule.operations - 1
        if exposure.address not in (None, offset) or (exposure.stage == "output" and not is_last):
            return
        pixels, cells = array.touched(
            "result", moment, stripe, row=exposure.row, cols=range(exposure.col, exposure.col + 1)
        )
        results = _results(layer, pass_, mapping, moment, pixels, cells)
        if results is not None:
            yield SumError(
                layer=layer.name,
                pass_=pass_,
                stage=exposure.stage,
                results=results,
                rows=rows_of(exposure, array),
                lanes=lanes,
                operations=None if exposure.stage == "output" else Range(start=operation, stop=operation + 1),
                effect=fault.effect,
                timing=timing,
            )
        return

    _check_in_cycle(fault, exposure, array, layer, mapping)
    cols = exposure.cols
    if exposure.of_one_load:  # cells get their words for an operation one a cycle, and hold them for a stripe
        first = offset * array.kernels
        cols = range(max(first, cols.start), min(first + array.kernels, cols.stop))
        if not cols:
            return
    word = exposure.operand if exposure.passes_on else "result"
    pixels, cells = array.touched(word, moment, stripe, row=exposure.row, cols=cols)
    if exposure.operand == "stationary" and exposure.of_one_load:
        pixels = stripe
    elif exposure.operand == "stationary" and timing.until == "reload":
        pixels = range(pixels.start, max(pixels.stop, stripe.stop))
    channel = moment.block * array.depth + lanes.index(min(exposure.row, array.depth - 1))
    results = _results(layer, pass_, mapping, moment, pixels, cells)
    if channel >= sizes[mapping.lane] or results is None:
        return
    position, image = (moment.pixel, moment.image) if layer.size else (0, pixels.start)
    met = product_at(
        layer,
        pass_,
        mapping.stationary,
        channels={mapping.lane: channel, mapping.cell: cells.start, mapping.image: image},
        tap=moment.tap,
        pixel=position,
    )
    operand = mapping.stationary if exposure.operand == "stationary" else mapping.streaming
    element = met[operand]
    if element is None:  # padding, an inserted zero or one between groups, which the array gates
        return
    dims = layer.dims(operand)
    batch = (moment.batch,) if "batch" in dims else ()
    yield Error(
        layer=layer.name,
        pass_=pass_,
        operand=operand,
        region=Region(dims=dims, ranges=tuple(Range(start=i, stop=i + 1) for i in (*batch, *element))),
        effect=fault.effect,
        spares_zeros=exposure.behind_zero_detector and array.zero_gate,
        results=results,
        timing=timing,
    )


def lower_cycles(
    fault: Fault,
    timing: CycleBursts,
    exposure: Exposure | SumExposure,
    array: Array,
    layer: Layer,
    pass_: Pass,
    step: int,
) -> Iterator[Error | SumError]:
    """Derive what a fault corrupts in the cycles of one execution in which it is there.

    Cycle after cycle, so that it costs what it hits. What hits one result in several cycles is of one effect on it.
    """
    named = TWIN_PASSES[pass_] if layer.transposed else pass_
    if isinstance(exposure, Exposure):
        _check_in_cycle(fault, exposure, array, layer, array.mapping(pass_))
    schedule = array.schedule(layer, pass_)
    in_sums: dict[Region, list[SumError]] = {}
    for cycle in timing.cycles(schedule.cycles, step=step, pass_=named, layer=layer.name).tolist():
        one = Transient(step=step, pass_=pass_, layer=layer.name, cycle=cycle)
        for error in lower_cycle(fault, one, exposure, array, layer, schedule, step):
            if isinstance(error, SumError):
                in_sums.setdefault(error.results, []).append(error)
            else:
                yield replace(error, timing=timing)
    for errors in in_sums.values():
        operations = tuple(operation for error in errors for operation in error.operations or ())
        yield replace(errors[0], timing=timing, operations=operations or None)


def _results(layer: Layer, pass_: Pass, mapping: Mapping, moment: Moment, pixels: range, cells: range) -> Region | None:
    """Give the region of some results of one image; None if the layer has none of them."""
    image, batch = moment.image, moment.batch
    wanted = {
        "batch": range(batch, batch + 1),
        mapping.image: range(image, image + 1),
        mapping.cell: cells,
        "pixel": pixels,
    }
    if not layer.size:
        wanted[mapping.image] = pixels
    sizes = layer.result(pass_)
    if "group" in sizes:  # channels count within a group; results of two groups' channels are not kept
        group, within = divmod(image, sizes[mapping.image])
        first = group * sizes[mapping.cell]
        wanted["group"] = range(group, group + 1)
        wanted[mapping.image] = range(within, within + 1)
        wanted[mapping.cell] = range(max(0, cells.start - first), cells.stop - first)
    ranges = [Range(start=wanted[dim].start, stop=min(wanted[dim].stop, size)) for dim, size in sizes.items()]
    region = Region(dims=tuple(sizes), ranges=tuple(ranges))
    return region if region.elements else None
