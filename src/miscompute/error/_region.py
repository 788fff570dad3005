"""Strided ranges over named dimensions: which elements, at the cost of the elements and no more."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .._invalid import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Range:
    """Indices ``start + i * step + j`` for ``0 <= j < width``, below ``stop``: a slice whose every stop is a short run.

    >>> list(Range(start=1, stop=10, step=4, width=2)), str(Range(start=1, stop=10, step=4))
    ([1, 2, 5, 6, 9], '1:10:4')
    """

    start: int
    stop: int
    step: int = 1
    width: int = 1

    def __post_init__(self) -> None:
        if self.start < 0 or not 1 <= self.width <= self.step:
            raise InvalidInput(
                f"Range needs start >= 0 and 1 <= width <= step, not start={self.start}, width={self.width}, "
                f"step={self.step}"
            )

    def __len__(self) -> int:
        span = max(0, self.stop - self.start)
        return span // self.step * self.width + min(span % self.step, self.width)

    def __iter__(self) -> Iterator[int]:
        for first in range(self.start, self.stop, self.step):
            yield from range(first, min(first + self.width, self.stop))

    def __str__(self) -> str:
        step = f":{self.step}" if self.step > self.width else ""
        width = f" width {self.width}" if self.step > self.width > 1 else ""
        return f"{self.start}:{self.stop}{step}{width}"


@dataclass(frozen=True, kw_only=True)
class Region:
    """The elements of a tensor whose index lies in every dimension's range.

    >>> region = Region(dims=("oc", "ic"), ranges=(Range(start=0, stop=16, step=8), Range(start=0, stop=3)))
    >>> region.elements, str(region)
    (6, '[oc 0:16:8, ic 0:3]')
    """

    dims: tuple[str, ...]
    ranges: tuple[Range, ...]

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.ranges):
            raise InvalidInput(f"a Region needs as many ranges as dims, not {len(self.ranges)} for {self.dims}")

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(len(range_) for range_ in self.ranges)

    def range(self, dim: str) -> Range:
        """Give the range of a dimension, by its name."""
        return self.ranges[self.dims.index(dim)]

    def __str__(self) -> str:
        return f"[{', '.join(f'{d} {r}' for d, r in zip(self.dims, self.ranges, strict=True))}]"
