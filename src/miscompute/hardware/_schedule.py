"""When an array computes what: the cycles of one pass of one layer, and the product each multiplier forms in them."""

from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass
from itertools import accumulate

from .._invalid import InvalidInput
from ._layer import Layer, Operand, Pass

Element = tuple[int, ...]
"""The index of one element, in the order of `Layer.dims`."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One cycle: the place of its atomic operation in every loop, outermost first.

    ``batch`` is the product of a batched layer, ``group`` the kernel group, ``image`` the image, ``stripe`` the number
    of the stripe in the image, ``block`` the channel block, ``tap`` the kernel position in linear order and ``pixel``
    the result's position in linear order.
    """

    batch: int = 0
    group: int
    image: int
    stripe: int
    block: int
    tap: int
    pixel: int


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The loops of one pass of one layer: kernel group, image, stripe, channel block, kernel position, pixel.

    Each cycle is one atomic operation: every cell adds up ``depth`` products of one pixel.

    Args:
        batch: products of a batched layer, one after another.
        groups: blocks of as many kernels as the array has in flight.
        images: results that are finished one after another.
        stripes: the positions of each stripe.
        blocks: blocks of ``depth`` channels.
        taps: kernel positions.
    """

    batch: int = 1
    groups: int
    images: int
    stripes: tuple[range, ...]
    blocks: int
    taps: int

    @property
    def pixels(self) -> int:
        """Positions of one image."""
        return sum(map(len, self.stripes))

    @property
    def operations(self) -> int:
        """Atomic operations that make one result."""
        return self.blocks * self.taps

    @property
    def cycles(self) -> int:
        """How many cycles the pass takes, loading and stalls apart."""
        return self.batch * self.groups * self.images * self.pixels * self.operations

    def at(self, cycle: int) -> Moment:
        """Say what is computed in a cycle, 0 being the first of the pass.

        Raises:
            InvalidInput: if the pass is over by then.
        """
        if not 0 <= cycle < self.cycles:
            raise InvalidInput(f"cycle={cycle} is outside the pass, which takes {self.cycles:,} cycles (from 0)")
        image_number, left = divmod(cycle, self.pixels * self.operations)
        group_number, image = divmod(image_number, self.images)
        batch, group = divmod(group_number, self.groups)
        ends = list(accumulate(len(stripe) * self.operations for stripe in self.stripes))
        stripe = next(number for number, end in enumerate(ends) if left < end)
        left -= ends[stripe] - len(self.stripes[stripe]) * self.operations
        operation, offset = divmod(left, len(self.stripes[stripe]))
        block, tap = divmod(operation, self.taps)
        pixel = self.stripes[stripe].start + offset
        return Moment(batch=batch, group=group, image=image, stripe=stripe, block=block, tap=tap, pixel=pixel)

    def cycle(self, moment: Moment) -> int:
        """Give the cycle of a moment: the inverse of `at`.

        >>> schedule = Schedule(groups=2, images=1, stripes=(range(0, 4), range(4, 6)), blocks=3, taps=9)
        >>> schedule.cycle(schedule.at(201)), schedule.at(201).group
        (201, 1)
        """
        stripe = self.stripes[moment.stripe]
        images_before = (moment.batch * self.groups + moment.group) * self.images + moment.image
        before = images_before * self.pixels + stripe.start
        operation = moment.block * self.taps + moment.tap
        return before * self.operations + operation * len(stripe) + moment.pixel - stripe.start

    def stripe_of(self, pixel: int) -> int:
        """Give the number of the stripe that a position belongs to."""
        return next(number for number, stripe in enumerate(self.stripes) if pixel in stripe)


def taps_of(layer: Layer, stationary: Operand) -> tuple[int, ...]:
    """Give the kernel's size when an operand is held in the cells: an output gradient is an OH x OW kernel."""
    return {"weight": layer.kernel, "grad_output": layer.out_size, "input": layer.size}[stationary]


def product_at(
    layer: Layer, pass_: Pass, stationary: Operand, *, channels: ReadOnlyDict[str, int], tap: int, pixel: int
) -> ReadOnlyDict[Operand, Element | None]:
    """Say which elements of the two operands one product is formed of.

    Every product of the three passes joins a weight (oc, ic, r), an input (n, ic, h) and an output position (n, oc, o)
    with ``h = o * stride + r * dilation - padding``. A pass walks two of r, o and h, and the third follows.

    Args:
        layer: the layer.
        pass_: the computation.
        stationary: the operand that is held in the cells.
        channels: indices of ``n``, ``ic`` and ``oc``, those over the whole layer.
        tap: the kernel position, in linear order.
        pixel: the result's position, in linear order.

    Returns:
        The index of the element, by operand, in the order of `Layer.dims`; None where a word is no element of a tensor:
        padding, an inserted zero, a zero between groups.
    """
    held = taps_of(layer, stationary)
    axes = range(len(layer.size))
    met = [
        _meeting(layer, pass_, stationary, axis=axis, u=u, q=q)
        for axis, u, q in zip(axes, _unravel(tap, held), _unravel(pixel, layer.positions(pass_)), strict=True)
    ]
    r, o, h = ([m[part] for m in met] for part in range(3))
    n, oc, ic = channels["n"], channels["oc"], channels["ic"]
    within_oc, within_ic = layer.oc // layer.groups, layer.ic // layer.groups
    group = (oc // within_oc,) if layer.groups > 1 else ()
    is_weight = oc // within_oc == ic // within_ic
    return {
        "weight": _whole((*group, oc % within_oc, ic % within_ic), r) if is_weight else None,
        "input": _whole((n, ic), h),
        "grad_output": _whole((n, oc), o),
    }


def _meeting(
    layer: Layer, pass_: Pass, stationary: Operand, *, axis: int, u: int, q: int
) -> tuple[int | None, int | None, int | None]:
    """Give (r, o, h) along one axis from the kernel position ``u`` and the result position ``q`` that a pass walks."""
    assert layer.stride is not None
    assert layer.padding is not None
    assert layer.dilation is not None
    s, p, d = layer.stride[axis], layer.padding[axis], layer.dilation[axis]
    if pass_ == "forward" or (pass_ == "grad_weight" and stationary == "grad_output"):
        r, o = (u, q) if pass_ == "forward" else (q, u)
        return r, o, _inside(o * s + r * d - p, layer.size[axis])
    if pass_ == "grad_input":
        r, h = layer.kernel[axis] - 1 - u, q  # the kernel is rotated by half a turn
    else:
        r, h = q, layer.size[axis] - 1 - u  # and so is the input, where it is held
    o, between = divmod(h + p - r * d, s)
    return r, None if between else _inside(o, layer.out_size[axis]), h


def _inside(index: int, size: int) -> int | None:
    return index if 0 <= index < size else None


def _whole(channels: Element, position: list[int | None]) -> Element | None:
    found = [index for index in position if index is not None]
    return (*channels, *found) if len(found) == len(position) else None


def _unravel(number: int, shape: tuple[int, ...]) -> Element:
    """Split a linear index, the last dimension running fastest."""
    index = []
    for size in reversed(shape):
        number, at = divmod(number, size)
        index.append(at)
    return tuple(reversed(index))
