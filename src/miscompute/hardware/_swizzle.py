"""Channel swizzles: which lane a channel is computed on, and how that moves.

A convolution sums over its input channels, so weights and activations may be dealt to the lanes in any common order
without changing the result. A fault stays on its lane; a swizzle decides who meets it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, final

import numpy as np

from .._invalid import InvalidInput


class Swizzle(ABC):
    """A rule that deals channels to lanes: channel i of a block of ``rows`` channels goes to ``lanes(...)[i]``."""

    each_step: ClassVar[bool] = True
    """Whether the lanes may move from step to step."""

    per_stripe: ClassVar[bool] = False
    """Whether the lanes move within a pass, from stripe to stripe. They then come back after ``rows`` stripes."""

    @abstractmethod
    def lanes(self, rows: int, *, step: int, layer: int, stripe: int) -> tuple[int, ...]:
        """Give the lane of each channel of a block, a permutation of ``range(rows)``.

        ``step`` counts optimizer steps, ``layer`` is `Layer.index`, and ``stripe`` counts the stripes of one kernel
        group through the images of the batch, within one pass.
        """

    @property
    def hardware(self) -> str:
        """Say what the hardware would need."""
        return (type(self).__doc__ or "").partition("Hardware: ")[2].partition("\n")[0]


def _rotated(rows: int, by: int) -> tuple[int, ...]:
    return tuple((channel + by) % rows for channel in range(rows))


@final
@dataclass(frozen=True)
class NoSwizzle(Swizzle):
    """Channel i always meets lane i mod rows.

    Hardware: nothing; this is NVDLA as built.
    """

    each_step: ClassVar[bool] = False

    def lanes(self, rows: int, *, step: int, layer: int, stripe: int) -> tuple[int, ...]:
        """Give the identity."""
        return tuple(range(rows))

    def __str__(self) -> str:
        return "none"


@final
@dataclass(frozen=True)
class RotateEachStep(Swizzle):
    """Lanes rotate by one each optimizer step.

    Hardware: a rotator before the weight and activation loaders, set from a register that software writes once a step.
    """

    def lanes(self, rows: int, *, step: int, layer: int, stripe: int) -> tuple[int, ...]:
        """Rotate by the step."""
        return _rotated(rows, step)

    def __str__(self) -> str:
        return "step"


@final
@dataclass(frozen=True)
class RotateEachStripe(Swizzle):
    """Lanes rotate by one each stripe, from an offset that moves by one each step: the finest that is possible.

    A weight is loaded once a stripe and held, so nothing finer than a stripe can move it.

    Hardware: a rotator before the weight and activation loaders and a counter of stripes, loaded with the step at each kernel group.
    """  # noqa: E501

    per_stripe: ClassVar[bool] = True

    def lanes(self, rows: int, *, step: int, layer: int, stripe: int) -> tuple[int, ...]:
        """Rotate by step plus stripe."""
        return _rotated(rows, step + stripe)

    def __str__(self) -> str:
        return "stripe"


@final
@dataclass(frozen=True)
class RotateEachLayer(Swizzle):
    """Lanes are rotated by the layer's index, for ever: the control that moves channels but never in time.

    Hardware: nothing; a compiler permutes the channels of the stored weights.
    """

    each_step: ClassVar[bool] = False

    def lanes(self, rows: int, *, step: int, layer: int, stripe: int) -> tuple[int, ...]:
        """Rotate by the layer."""
        return _rotated(rows, layer)

    def __str__(self) -> str:
        return "layer"


@final
@dataclass(frozen=True)
class RandomEachStep(Swizzle):
    """Lanes are permuted anew each optimizer step, at random from a seed.

    Hardware: a full crossbar before the weight and activation loaders, its setting written by software once a step.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InvalidInput(f"seed={self.seed} of RandomEachStep must not be negative")

    def lanes(self, rows: int, *, step: int, layer: int, stripe: int) -> tuple[int, ...]:
        """Draw the permutation that belongs to the step."""
        permutation = np.random.default_rng((self.seed, step)).permutation(rows)
        return tuple(int(lane) for lane in permutation)

    def __str__(self) -> str:
        return f"random:{self.seed}" if self.seed else "random"


SWIZZLES: Mapping[str, Swizzle] = MappingProxyType(
    {
        "none": NoSwizzle(),
        "step": RotateEachStep(),
        "stripe": RotateEachStripe(),
        "layer": RotateEachLayer(),
        "random": RandomEachStep(),
    }
)
"""Every swizzle, by the word used in specs and on the command line."""


def swizzle_named(name: str) -> Swizzle:
    """Look a swizzle up by name; ``random:SEED`` gives a random one its seed.

    >>> swizzle_named("random:7")
    RandomEachStep(seed=7)
    """
    word, colon, seed = name.partition(":")
    if colon and word == "random" and seed.isdecimal():
        return RandomEachStep(seed=int(seed))
    if name not in SWIZZLES:
        raise InvalidInput(f"swizzle={name!r} is unknown; choose one of {', '.join(SWIZZLES)}, random:SEED")
    return SWIZZLES[name]
