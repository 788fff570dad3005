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
from miscompute.fault import Effect, Flip, StuckAt
from miscompute.formats import FORMATS, Format
from miscompute.injection._words import Misread, format_of, index_of, to_format

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
SIGNED = {8: torch.int8, 16: torch.int16, 32: torch.int32}
SHAPE = (6, 5, 2)


def tensor_of(format: Format, seed: int) -> Tensor:
    """Words of every kind: NaN with payloads, infinities, subnormals and, a quarter of them, zeros of either sign."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << format.bits, size=SHAPE, dtype=np.uint64)
    sign = np.uint64(1 << (format.bits - 1))
    words = np.where(rng.random(SHAPE) < 0.25, rng.choice([np.uint64(0), sign], size=SHAPE), words)
    signed = words.astype(f"u{format.bits // 8}").view(f"i{format.bits // 8}")
    return torch.from_numpy(signed.copy()).view(DTYPES[format.name])


def words_of(tensor: Tensor, format: Format) -> NDArray[np.uint64]:
    signed = tensor.view(SIGNED[format.bits]).numpy()
    return signed.view(f"u{format.bits // 8}").astype(np.uint64)


@st.composite
def effects(draw: st.DrawFn, format: Format) -> Effect:
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
    change = misread(ranges, effect, spares_zeros=spares_zeros)(tensor)
    keep, set_, flip = (np.uint64(mask) for mask in effect.masks(format))
    reached = inside(ranges) & ~((values == 0).numpy() & spares_zeros)
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
    read(tensor)
    once = words_of(tensor, format)
    again = read(tensor)
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
    zeros = torch.tensor([0.0, -0.0], dtype=DTYPES[name])
    flip = Flip(bits=(0 if bit == "lowest" else format.bits - 1,))
    everything = (Range(start=0, stop=2),)
    spared = zeros.clone()
    assert not misread(everything, flip, spares_zeros=True)(spared).bits.any()
    assert torch.equal(spared.signbit(), zeros.signbit())
    assert torch.equal(spared, zeros)
    hit = zeros.clone()
    assert misread(everything, flip, spares_zeros=False)(hit).bits.all()


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
    assert format_of(DTYPES[name]) is FORMATS[name]


def test_rounding_to_a_format() -> None:
    wide = torch.tensor([1.0, 1.0 + 2.0**-9, -3.0], dtype=torch.float64)
    assert to_format(wide, None) is wide
    assert to_format(wide.float(), FORMATS["fp32"]).dtype == torch.float32
    assert to_format(wide, FORMATS["bf16"]).tolist() == [1.0, 1.0, -3.0]
    assert to_format(wide[::2], FORMATS["int8"]).tolist() == [1, -3]
    for bad in (wide, torch.tensor([128.0]), torch.tensor([float("nan")])):
        with pytest.raises(InvalidInput, match="format=int8 of the array needs operands that are integers it holds"):
            to_format(bad, FORMATS["int8"])
    with pytest.raises(InvalidInput, match="operand dtype float64 has no fault model"):
        format_of(torch.float64)
