"""The catalogue of arrays."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from .._invalid import InvalidInput
from ._array import Array
from ._matrix_unit import matrix_unit
from ._nvdla import nvdla, nvdla_full, nvdla_large, nvdla_medium_512, nvdla_medium_1024, nvdla_small, nvdla_small_256
from ._simd import simd
from ._systolic import systolic

ARRAYS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "nvdla-small": nvdla_small,
        "nvdla-small-256": nvdla_small_256,
        "nvdla-medium-512": nvdla_medium_512,
        "nvdla-medium-1024": nvdla_medium_1024,
        "nvdla-large": nvdla_large,
        "nvdla-full": nvdla_full,
        "systolic-ws": partial(systolic, rows=128, cols=128, dataflow="weight-stationary"),
        "systolic-os": partial(systolic, rows=128, cols=128, dataflow="output-stationary"),
        "simd": partial(simd, lanes=8),
        "matrix-unit": matrix_unit,
    }
)
"""Every array that has a name, by the word used in specs and on the command line: from its options."""

FAMILIES: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "nvdla": nvdla,
        "systolic-ws": partial(systolic, dataflow="weight-stationary"),
        "systolic-os": partial(systolic, dataflow="output-stationary"),
    }
)
"""Arrays of any size, by the word that goes before ``-ROWSxCOLS``."""


def array_named(name: str, **options: Any) -> Array:
    """Look an array up by name, or by family and size as ``nvdla-ROWSxCOLS``, and give it options.

    >>> array_named("nvdla-32x16", swizzle="step").rows, array_named("systolic-os-4x8").cols
    (32, 8)
    """
    family, _, size = name.rpartition("-")
    rows, x, cols = size.partition("x")
    if name in ARRAYS:
        build = ARRAYS[name]
    elif family in FAMILIES and x and rows.isdecimal() and cols.isdecimal():
        build = partial(FAMILIES[family], rows=int(rows), cols=int(cols))
    else:
        sized = ", ".join(f"{family}-ROWSxCOLS" for family in FAMILIES)
        raise InvalidInput(f"array={name!r} is unknown; choose one of {', '.join(ARRAYS)}, {sized}")
    known = inspect.signature(build).parameters.keys() - {"dataflow"}  # the name has said it
    if name not in ARRAYS:
        known -= {"rows", "cols"}
    for option, value in options.items():
        if option not in known:
            raise InvalidInput(f"{option}={value!r} is not an option of array {name}; leave it out")
    return build(**options)
