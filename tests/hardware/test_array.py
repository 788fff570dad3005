"""Arrays: what every array promises, ours or a user's, and NVDLA's own geometry and schedule."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miscompute import InvalidInput, Layer, Nvdla, nvdla, nvdla_large, nvdla_small
from miscompute import hardware as hw
from miscompute.formats import FORMATS, Format
from miscompute.hardware import ARRAYS, PASSES, SWIZZLES, Array, Mapping, Pass, array_named

# The contract. To hold an array of your own to it, add a row.


@final
@dataclass(frozen=True, kw_only=True)
class Streaming(Array):
    """A user's array: it holds nothing, every result position is a stripe of its own."""

    def mapping(self, pass_: Pass) -> Mapping:
        return nvdla_small().mapping(pass_)

    def stripes(self, pixels: int) -> tuple[range, ...]:
        return tuple(range(pixel, pixel + 1) for pixel in range(pixels))


ROWS: dict[str, Callable[[], Array]] = {
    **ARRAYS,
    "nvdla-B": lambda: nvdla(rows=8, cols=8, grad_weight="B"),
    "nvdla-1x1": lambda: nvdla(rows=1, cols=1),
    "nvdla-3x5": lambda: nvdla(rows=3, cols=5, swizzle="stripe", format="int8", zero_gate=False),
    "user's": lambda: Streaming(rows=3, cols=2),
}
every = pytest.mark.parametrize("build", ROWS.values(), ids=list(ROWS))

CONV = Layer(name="conv", n=2, ic=3, oc=5, size=(6, 6), kernel=(3, 3))
LINEAR = Layer(name="fc", n=2, ic=3, oc=5)


@every
def test_a_pass_multiplies_two_operands_over_the_lanes(build: Callable[[], Array]) -> None:
    array = build()
    for layer in (CONV, LINEAR):
        for pass_ in PASSES:
            mapping, result = array.mapping(pass_), layer.result(pass_)
            stationary, streaming = layer.dims(mapping.stationary), layer.dims(mapping.streaming)
            assert mapping.stationary != mapping.streaming
            assert mapping.lane in stationary  # summed over: in both operands, not in the result
            assert mapping.lane in streaming
            assert mapping.lane not in result
            assert mapping.cell in stationary  # each cell computes results of its own from what it holds
            assert mapping.cell in result
            assert mapping.cell not in streaming
            assert mapping.image in streaming  # what passes by makes the rest of the result
            assert mapping.image in result


@every
@given(pixels=st.integers(0, 600))
def test_stripes_partition_the_pixels_in_order(build: Callable[[], Array], pixels: int) -> None:
    stripes = build().stripes(pixels)
    assert [pixel for stripe in stripes for pixel in stripe] == list(range(pixels))
    assert all(len(stripe) > 0 and stripe.step == 1 for stripe in stripes)


@every
def test_lanes_are_a_permutation(build: Callable[[], Array]) -> None:
    array = build()
    for place in range(20):
        assert sorted(array.lanes(step=place, layer=place, stripe=place)) == list(range(array.rows))


@every
def test_an_array_is_a_value_that_evaluates_back(build: Callable[[], Array]) -> None:
    array = build()
    assert array == build()
    assert hash(array) == hash(build())
    assert eval(repr(array), {**vars(hw), "Format": Format, "Streaming": Streaming}) == array


@every
def test_an_array_has_rows_and_columns_of_a_size(build: Callable[[], Array]) -> None:
    array = build()
    assert array.rows >= 1
    assert array.cols >= 1
    assert array.swizzle in SWIZZLES.values()
    assert array.format is None or array.format in FORMATS.values()


# NVDLA.


def test_sizes_of_the_configurations() -> None:  # HARDWARE.md, "Geometry and schedule": C x K
    assert (nvdla_small().rows, nvdla_small().cols) == (8, 8)
    assert (nvdla_large().rows, nvdla_large().cols) == (64, 32)
    assert nvdla_small().zero_gate
    assert array_named("nvdla-32x16") == nvdla(rows=32, cols=16)
    assert array_named("nvdla-small") == nvdla_small() == nvdla(rows=8, cols=8)


def test_passes_lie_on_nvdla_as_in_the_table() -> None:  # HARDWARE.md, "The three passes on the same array"
    table = {
        ("A", "forward"): ("weight", "input", "ic", "oc"),
        ("A", "grad_input"): ("weight", "grad_output", "oc", "ic"),
        ("A", "grad_weight"): ("grad_output", "input", "n", "oc"),
        ("B", "forward"): ("weight", "input", "ic", "oc"),
        ("B", "grad_input"): ("weight", "grad_output", "oc", "ic"),
        ("B", "grad_weight"): ("input", "grad_output", "n", "ic"),
    }
    for array in (nvdla_small(grad_weight="A"), nvdla_small(grad_weight="B")):
        for pass_ in PASSES:
            mapping = array.mapping(pass_)
            found = (mapping.stationary, mapping.streaming, mapping.lane, mapping.cell)
            assert found == table[array.grad_weight, pass_]


@pytest.mark.parametrize(
    ("cols", "pixels", "lengths"),
    # HARDWARE.md: 2K while at least 4K remain, else the remainder if at most 2K remain, else K.
    [
        (8, 0, []),
        (8, 1, [1]),  # a fully connected layer
        (8, 16, [16]),
        (8, 17, [8, 9]),
        (8, 31, [8, 8, 15]),
        (8, 32, [16, 16]),
        (8, 33, [16, 8, 9]),
        (8, 49, [16, 16, 8, 9]),
        (1, 5, [2, 1, 2]),
        (32, 100, [32, 32, 36]),
    ],
)
def test_stripes_by_hand(cols: int, pixels: int, lengths: list[int]) -> None:
    assert [len(stripe) for stripe in nvdla(rows=8, cols=cols).stripes(pixels)] == lengths


@given(st.integers(1, 40), st.integers(1, 600))
def test_only_an_image_that_is_short_has_a_short_stripe(cols: int, pixels: int) -> None:
    lengths = [len(stripe) for stripe in nvdla(rows=8, cols=cols).stripes(pixels)]
    assert max(lengths) <= 2 * cols
    assert min(lengths) >= min(cols, pixels)


@given(st.integers(0, 1000), st.integers(0, 20), st.integers(0, 50))
def test_an_array_deals_channels_as_its_swizzle_does(step: int, layer: int, stripe: int) -> None:
    for name, swizzle in SWIZZLES.items():
        lanes = nvdla_small(swizzle=name).lanes(step=step, layer=layer, stripe=stripe)
        assert lanes == swizzle.lanes(8, step=step, layer=layer, stripe=stripe)


def test_names_stand_for_formats_and_swizzles() -> None:
    by_name = nvdla(rows=8, cols=8, format="bf16", swizzle="random:3")
    assert by_name == nvdla(rows=8, cols=8, format=FORMATS["bf16"], swizzle=hw.RandomEachStep(seed=3))


@pytest.mark.usefixtures("unchecked")
def test_names_stand_for_formats_and_swizzles_in_the_class_too() -> None:
    assert Nvdla(rows=8, cols=8, format="int8", swizzle="step") == nvdla(  # type: ignore[arg-type]
        rows=8, cols=8, format="int8", swizzle="step"
    )


# Messages.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nvdla(rows=0, cols=8), "rows=0 of an array must be at least 1"),
        (lambda: nvdla(rows=8, cols=-1), "cols=-1 of an array must be at least 1"),
        (lambda: nvdla(rows=8, cols=8, grad_weight="C"), "grad_weight='C' is unknown; choose one of A, B"),  # type: ignore[arg-type]
        (lambda: nvdla(rows=8, cols=8, format="fp31"), "format='fp31' is unknown; choose one of fp32"),
        (lambda: nvdla(rows=8, cols=8, swizzle="never"), "swizzle='never' is unknown; choose one of none"),
        (lambda: array_named("nvdla-0x8"), "rows=0 of an array must be at least 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_an_array_that_cannot_be_is_refused(build: Callable[[], Array], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        build()


@pytest.mark.parametrize("name", ["tpu", "nvdla", "8x8", "nvdla-8", "nvdla-8x", "nvdla-8x8x8", "nvdla--8x8", ""])
def test_an_unknown_name_is_refused(name: str) -> None:
    message = f"array={name!r} is unknown; choose one of nvdla-small, nvdla-large, nvdla-ROWSxCOLS"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        array_named(name)
