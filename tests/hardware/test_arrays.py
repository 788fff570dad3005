"""The catalogue of arrays: names, families and options."""

import re
from typing import Any

import pytest

from miscompute import InvalidInput
from miscompute.hardware import (
    ARRAYS,
    OutputStationary,
    RotateEachStep,
    Simd,
    WeightStationary,
    array_named,
    nvdla,
    nvdla_full,
    nvdla_large,
    nvdla_medium_512,
    nvdla_medium_1024,
    nvdla_small,
    nvdla_small_256,
    simd,
    systolic,
)
from miscompute.hardware._arrays import FAMILIES


@pytest.mark.parametrize("name", ARRAYS)
def test_every_name_builds_and_takes_a_format(name: str) -> None:
    assert array_named(name) == ARRAYS[name]()
    array = array_named(name, format="int8")
    assert array.format is not None
    assert array.format.name == "int8"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_any_size(family: str) -> None:
    array = array_named(f"{family}-3x5", format="bf16")
    assert (array.rows, array.cols) == (3, 5)
    assert type(array) is type(FAMILIES[family](rows=1, cols=1))


def test_what_names_stand_for() -> None:
    assert array_named("nvdla-32x16") == nvdla(rows=32, cols=16)
    assert array_named("nvdla-small") == nvdla_small() == nvdla(rows=8, cols=8)
    assert array_named("nvdla-small-256") == nvdla_small_256() == nvdla(rows=32, cols=8)
    assert array_named("nvdla-medium-512") == nvdla_medium_512() == nvdla(rows=32, cols=16)
    assert array_named("nvdla-medium-1024") == nvdla_medium_1024() == nvdla(rows=32, cols=32)
    assert array_named("nvdla-large") == nvdla_large() == nvdla(rows=64, cols=32)
    assert array_named("nvdla-full") == nvdla_full() == nvdla(rows=64, cols=16, packs_two=True)
    assert array_named("systolic-ws") == systolic(rows=128, cols=128)
    assert array_named("systolic-ws-4x8") == WeightStationary(rows=4, cols=8)
    assert array_named("systolic-os-4x8") == OutputStationary(rows=4, cols=8)
    assert array_named("simd") == simd(lanes=8) == Simd(rows=1, cols=8)


def test_options_reach_the_array() -> None:
    assert array_named("nvdla-small", grad_weight="B") == nvdla_small(grad_weight="B")
    assert array_named("nvdla-4x4", zero_gate=False) == nvdla(rows=4, cols=4, zero_gate=False)
    assert array_named("systolic-ws-4x8", swizzle="step").swizzle == RotateEachStep()
    assert array_named("simd", lanes=16).cols == 16


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nvdla-small", {"rows": 4}),
        ("nvdla-medium-512", {"cols": 8}),
        ("nvdla-4x4", {"rows": 8}),  # the name has said it
        ("systolic-os-4x4", {"cols": 8}),
        ("systolic-ws", {"dataflow": "output-stationary"}),
        ("systolic-ws-4x4", {"dataflow": "output-stationary"}),
        ("systolic-ws", {"grad_weight": "A"}),
        ("systolic-os", {"zero_gate": True}),
        ("simd", {"swizzle": "none"}),
    ],
)
def test_an_option_that_the_array_does_not_have_is_refused(name: str, options: dict[str, Any]) -> None:
    ((option, value),) = options.items()
    message = f"{option}={value!r} is not an option of array {name}; leave it out"
    with pytest.raises(InvalidInput, match="^" + re.escape(message) + "$"):
        array_named(name, **options)


@pytest.mark.parametrize(
    "name",
    [
        "tpu",
        "nvdla",
        "8x8",
        "nvdla-8",
        "nvdla-8x",
        "nvdla-8x8x8",
        "nvdla--8x8",
        "simd-8",
        "simd-1x8",
        "systolic-4x4",
        "",
    ],
)
def test_an_unknown_name_is_refused(name: str) -> None:
    choices = ", ".join([*ARRAYS, *(f"{family}-ROWSxCOLS" for family in FAMILIES)])
    with pytest.raises(
        InvalidInput, match="^" + re.escape(f"array={name!r} is unknown; choose one of {choices}") + "$"
    ):
        array_named(name)


def test_a_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match="rows=0 of an array must be at least 1"):
        array_named("nvdla-0x8")
