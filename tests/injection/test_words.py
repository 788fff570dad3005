"""Misreading words: laws that hold for every format, effect and region."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from miscompute import InvalidInput, Range
from miscompute.fault import BitOperation, Effect, Flip, Moved, RandomFlips, RandomWord, StuckAt
from miscompute.formats import FORMATS, Format, format_named
from miscompute.injection._words import Misread, format_of, index_of, to_format

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "int16": torch.int16,
    "int8": torch.int8,
}
SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32}
SHAPE = (6, 5, 2)


def tensor_of(format: Format, seed: int) -> Tensor:
    """Words of every kind: NaN with payloads, infinities, subnormals and, a quarter of them, zeros of either sign."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << format.bits, size=SHAPE, dtype=np.uint64)
    sign = np.uint64(1 << (format.bits - 1))
    words = np.where(rng.random(SHAPE) < 0.25, rng.choice([np.uint64(0), sign], size=SHAPE), words)
    dtype = DTYPES[format.name]
    shifted = words << np.uint64(8 * dtype.itemsize - format.bits)  # tf32 is the upper part of fp32
    signed = shifted.astype(f"u{dtype.itemsize}").view(f"i{dtype.itemsize}")
    return torch.from_numpy(signed.copy()).view(dtype)


def words_of(tensor: Tensor, format: Format) -> NDArray[np.uint64]:
    size = tensor.element_size()
    signed = tensor.view(SIGNED[size]).numpy()
    return signed.view(f"u{size}").astype(np.uint64) >> np.uint64(8 * size - format.bits)


@st.composite
def effects(draw: st.DrawFn, format: Format) -> BitOperation:
    bits = draw(st.sets(st.integers(0, format.bits - 1), min_size=1, max_size=3))
    bit = min(bits)
    return draw(st.sampled_from((Flip(bits=tuple(bits)), StuckAt(bit=bit, value=0), StuckAt(bit=bit, value=1))))


@st.composite
def regions(draw: st.DrawFn) -> tuple[Range, ...]:
    def one(size: int) -> Range:
        step = draw(st.integers(1, 4))
        return Range(start=draw(st.integers(0, size - 1)), stop=size, step=step, width=draw(st.integers(1, step)))

    return tuple(one(size) for size in SHAPE)


def misread(ranges: Sequence[Range], effect: Effect, *, spares_zeros: bool) -> Misread:
    return Misread(
        operand="weight",
        index=index_of(ranges),
        view=None,
        effect=effect,
        spares_zeros=spares_zeros,
        is_logged=True,
    )


def inside(ranges: Sequence[Range]) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[np.ix_(*map(list, ranges))] = True
    return mask


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(st.data())
def test_words_change_as_the_masks_say_and_only_in_the_region(name: str, draw: st.DataObject) -> None:
    format = FORMATS[name]
    effect, ranges, spares_zeros = draw.draw(effects(format)), draw.draw(regions()), draw.draw(st.booleans())
    tensor = tensor_of(format, draw.draw(st.integers(0, 99)))
    before, values = words_of(tensor, format), tensor.clone()
    change = misread(ranges, effect, spares_zeros=spares_zeros)(tensor, format)
    keep, set_, flip = (np.uint64(mask) for mask in effect.masks(format))
    reached = inside(ranges) & ~((values.float() == 0).numpy() & spares_zeros)
    expected = np.where(reached, ((before & keep) | set_) ^ flip, before)
    np.testing.assert_array_equal(words_of(tensor, format), expected)
    assert int(torch.count_nonzero(change.bits)) == np.count_nonzero(expected != before)
    change.toggle()
    np.testing.assert_array_equal(words_of(tensor, format), before)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40)
@given(st.data())
def test_flips_undo_themselves_and_stuck_bits_stay(name: str, draw: st.DataObject) -> None:
    format = FORMATS[name]
    effect, ranges = draw.draw(effects(format)), draw.draw(regions())
    read = misread(ranges, effect, spares_zeros=False)
    tensor = tensor_of(format, draw.draw(st.integers(0, 99)))
    before = words_of(tensor, format)
    read(tensor, format)
    once = words_of(tensor, format)
    again = read(tensor, format)
    twice = words_of(tensor, format)
    if isinstance(effect, Flip):
        np.testing.assert_array_equal(twice, before)
        assert (once != before).sum() == inside(ranges).sum()
    else:
        np.testing.assert_array_equal(twice, once)
        assert not again.bits.any()


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.is_float])
@pytest.mark.parametrize("bit", ["lowest", "sign"])
def test_zeros_of_either_sign_are_spared(name: str, bit: str) -> None:
    format = FORMATS[name]
    zeros = torch.tensor([0.0, -0.0]).to(DTYPES[name])
    flip = Flip(bits=(0 if bit == "lowest" else format.bits - 1,))
    everything = (Range(start=0, stop=2),)
    spared = zeros.clone()
    assert not misread(everything, flip, spares_zeros=True)(spared, format).bits.any()
    assert torch.equal(spared.float().signbit(), zeros.float().signbit())
    assert torch.equal(spared.float(), zeros.float())
    hit = zeros.clone()
    assert misread(everything, flip, spares_zeros=False)(hit, format).bits.all()


def test_groups_are_split_for_the_index() -> None:
    weight = torch.ones(4, 3)
    ranges = (Range(start=1, stop=2), Range(start=0, stop=2), Range(start=0, stop=1))
    read = Misread(
        operand="weight",
        index=index_of(ranges),
        view=(2, 2, 3),
        effect=Flip(bits=(31,)),
        spares_zeros=True,
        is_logged=True,
    )
    read(weight)
    assert weight[:, 0].tolist() == [1, 1, -1, -1]
    assert weight[:, 1:].eq(1).all()


def test_a_remembered_region_is_not_that_of_another_tensor() -> None:
    read = misread((Range(start=0, stop=1),), Flip(bits=(31,)), spares_zeros=True)
    first, second, narrow = torch.ones(2), torch.ones(2), torch.ones(2, dtype=torch.bfloat16)
    for tensor in (first, second, first):
        read(tensor)
    assert first.tolist() == [1, 1]
    assert second.tolist() == [-1, 1]
    with pytest.raises(InvalidInput, match=r"bit=31 is outside bf16 \(0\.\.15; 15 is the sign\)"):
        read(narrow)


def test_a_remembered_place_holds_wherever_a_tensor_lies() -> None:
    ranges = (Range(start=1, stop=4, step=2), Range(start=0, stop=5, step=3))
    read = Misread(
        operand="grad_output",
        index=index_of(ranges),
        view=None,
        effect=Flip(bits=(31,)),
        spares_zeros=True,
        is_logged=True,
    )
    expected = torch.ones(4, 5)
    expected[1::2, 0::3] = -1
    wide = torch.ones(6, 5)
    transposed, part, smaller = torch.ones(5, 4).t(), wide[2:], torch.ones(3, 5)
    for tensor in (torch.ones(4, 5), torch.ones(4, 5), transposed, part):
        read(tensor)
        assert torch.equal(tensor, expected)
    assert wide[:2].eq(1).all()
    read(smaller)
    assert torch.equal(smaller, expected[:3])


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_a_dtype(name: str) -> None:
    expected = "fp32" if name == "tf32" else name  # which has no dtype of its own
    assert format_of(DTYPES[name]) is FORMATS[expected]


def test_rounding_to_a_format() -> None:
    wide = torch.tensor([1.0, 1.0 + 2.0**-9, -3.0], dtype=torch.float64)
    narrow = wide.float()
    assert to_format(narrow, FORMATS["fp32"]).words is narrow
    assert to_format(wide, FORMATS["fp32"]).words.dtype == torch.float32
    assert to_format(wide, FORMATS["bf16"]).words.tolist() == [1.0, 1.0, -3.0]
    assert to_format(wide[::2], FORMATS["int8"]).words.tolist() == [1, -3]
    for bad in (wide, torch.tensor([128.0]), torch.tensor([float("nan")])):
        with pytest.raises(InvalidInput, match="format=int8 of the array needs operands that are integers it holds"):
            to_format(bad, FORMATS["int8"])
    with pytest.raises(InvalidInput, match="operand dtype float64 has no fault model"):
        format_of(torch.float64)


@pytest.mark.parametrize("name", [*FORMATS, "int8:0.05", "int16:0.001", "int8:max"])
def test_rounding_is_that_of_the_format(name: str) -> None:
    format = format_named(name)
    random = torch.Generator().manual_seed(1)
    values = torch.randn(2000, generator=random) * torch.exp2(torch.randint(-12, 9, (2000,), generator=random))
    if not format.is_float and format.scale is None:
        values = values.round().clamp(-100, 100)
    fitted = format.fitted(values.double().numpy())
    expected = fitted.decode(fitted.encode(values.double().numpy()))
    rounded = to_format(values, format)
    assert rounded.format == fitted
    np.testing.assert_array_equal(rounded.values(torch.float64).numpy(), expected)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("effect", [RandomWord(seed=3), RandomFlips(seed=3, weights=(0.5, 0.5)), Moved(by=2)], ids=str)
def test_drawn_words_are_those_of_the_effect(name: str, effect: Effect) -> None:
    format = FORMATS[name]
    ranges = (Range(start=0, stop=6), Range(start=1, stop=5, step=2), Range(start=0, stop=2))
    tensor = tensor_of(format, 5)
    before = words_of(tensor, format)
    misread(ranges, effect, spares_zeros=False)(tensor, format, key=(4, 1))
    at = np.ix_(*map(list, ranges))
    expected = before.copy()
    expected[at] = effect.read(before[at], format, key=(4, 1))
    np.testing.assert_array_equal(words_of(tensor, format), expected)
