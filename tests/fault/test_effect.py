"""Effects: bit operations on words, and the laws they keep in every format."""

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from miscompute import Flip, InvalidInput, StuckAt, parse_fault
from miscompute.fault import EFFECTS, Effect
from miscompute.formats import FORMATS, Format

formats = st.sampled_from(list(FORMATS.values()))


def corrupt(effect: Effect, format: Format, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    keep, set_, flip = (np.uint64(mask) for mask in effect.masks(format))
    return ((words & keep) | set_) ^ flip


def corrupt_values(effect: Effect, format: Format, *values: float) -> list[float]:
    corrupted: list[float] = format.decode(corrupt(effect, format, format.encode(np.array(values)))).tolist()
    return corrupted


@st.composite
def words_and_bits(draw: st.DrawFn) -> tuple[Format, NDArray[np.uint64], tuple[int, ...]]:
    format = draw(formats)
    words = draw(st.lists(st.integers(0, (1 << format.bits) - 1), min_size=1, max_size=20))
    bits = draw(st.lists(st.integers(0, format.bits - 1), min_size=1, max_size=format.bits, unique=True))
    return format, np.array(words, dtype=np.uint64), tuple(bits)


# Laws.


@given(words_and_bits())
def test_flipping_changes_those_bits_and_twice_restores(
    case: tuple[Format, NDArray[np.uint64], tuple[int, ...]],
) -> None:
    format, words, bits = case
    flipped = corrupt(Flip(bits=bits), format, words)
    for bit in range(format.bits):
        changed = (flipped ^ words) >> np.uint64(bit) & np.uint64(1)
        assert (changed == (bit in bits)).all()
    np.testing.assert_array_equal(corrupt(Flip(bits=bits), format, flipped), words)


@given(words_and_bits(), st.integers(0, 1))
def test_a_stuck_bit_has_its_value_for_ever_and_no_other_bit_changes(
    case: tuple[Format, NDArray[np.uint64], tuple[int, ...]], value: int
) -> None:
    format, words, (bit, *_) = case
    effect = StuckAt(bit=bit, value=value)
    stuck = corrupt(effect, format, words)
    assert (stuck >> np.uint64(bit) & np.uint64(1) == value).all()
    assert ((stuck ^ words) & ~np.uint64(1 << bit) == 0).all()
    np.testing.assert_array_equal(corrupt(effect, format, stuck), stuck)


@pytest.mark.parametrize("effect", [StuckAt(bit=3, value=0), StuckAt(bit=3, value=1), Flip(bits=(0, 3))])
def test_masks_fit_the_word(effect: Effect) -> None:
    for format in FORMATS.values():
        assert all(0 <= mask < 1 << format.bits for mask in effect.masks(format))


def test_the_order_of_bits_does_not_matter() -> None:
    assert Flip(bits=(4, 3)) == Flip(bits=(3, 4))


@pytest.mark.parametrize("effect", [StuckAt(bit=28, value=0), Flip(bits=(3, 4)), Flip(bits=(7,))])
def test_an_effect_evaluates_back(effect: Effect) -> None:
    assert eval(repr(effect)) == effect


# One row a word of EFFECTS, so that a new one does not go untested.
SPELLED: dict[str, dict[str, Effect]] = {
    "stuck-at": {"bit 3 stuck-at 0": StuckAt(bit=3, value=0), "bit 28 stuck-at 1": StuckAt(bit=28, value=1)},
    "flip": {"bit 30 flip": Flip(bits=(30,)), "bits 3,4,31 flip": Flip(bits=(31, 3, 4))},
}


@pytest.mark.parametrize("word", EFFECTS)
def test_the_catalogue_is_spelled_and_parsed(word: str) -> None:
    for text, effect in SPELLED[word].items():
        assert str(effect) == text
        assert parse_fault(f"weight[0,0] {text}").effect == effect


# Golden values: HARDWARE.md, "Floating point".


def test_bit_28_stuck_at_0_shrinks_ordinary_fp32_weights() -> None:
    ordinary = (2.0**-31, 0.1, -0.75, 1.0, float(np.nextafter(np.float32(2), np.float32(0))))
    exact = [float(np.float32(weight)) for weight in ordinary]
    fp32 = FORMATS["fp32"]
    assert corrupt_values(StuckAt(bit=28, value=0), fp32, *exact) == [weight * 2.0**-32 for weight in exact]
    assert corrupt_values(StuckAt(bit=28, value=1), fp32, *exact) == exact


def test_bit_30_stuck_at_1_turns_zero_into_two_and_overflows_one() -> None:
    assert corrupt_values(StuckAt(bit=30, value=1), FORMATS["fp32"], 0.0, 1.0) == [2.0, float("inf")]


def test_the_sign_bit_of_an_integer_is_worth_as_much_as_all_values() -> None:
    assert corrupt_values(Flip(bits=(7,)), FORMATS["int8"], 0.0, 5.0, -1.0) == [-128, -123, 127]


# Messages.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StuckAt(bit=-1, value=0), "bit=-1 must not be negative; bit 0 is the least significant"),
        (lambda: StuckAt(bit=0, value=2), "value=2 of StuckAt must be 0 or 1"),
        (lambda: Flip(bits=()), "bits=() of Flip must be one or more different bits, none negative"),
        (lambda: Flip(bits=(1, 1)), "bits=(1, 1) of Flip must be one or more different bits, none negative"),
        (lambda: Flip(bits=(3, -1)), "bits=(3, -1) of Flip must be one or more different bits, none negative"),
        (lambda: EFFECTS["stuck-at"]((1, 2), 0), "stuck-at takes one bit and the value 0 or 1"),
        (lambda: EFFECTS["stuck-at"]((1,), None), "stuck-at takes one bit and the value 0 or 1"),
    ],
)
def test_an_effect_that_cannot_be_is_refused(build: Callable[[], Effect], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        build()


@pytest.mark.parametrize("effect", [StuckAt(bit=16, value=0), StuckAt(bit=16, value=1), Flip(bits=(0, 16))])
def test_a_bit_outside_the_format_is_refused(effect: Effect) -> None:
    with pytest.raises(InvalidInput, match=r"bit=16 is outside bf16 \(0\.\.15; 15 is the sign\)"):
        effect.masks(FORMATS["bf16"])
    effect.masks(FORMATS["fp32"])
