"""Effects: what is read instead of words, and the laws they keep in every format."""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from miscompute import Flip, InvalidInput, StuckAt, parse_fault
from miscompute import fault as names
from miscompute.fault import (
    EFFECTS,
    WORD_EFFECTS,
    ZERO,
    BitOperation,
    Effect,
    Moved,
    ProductTable,
    RandomFlips,
    RandomWord,
    SetTo,
    When,
    burst,
)
from miscompute.formats import FORMATS, Format, integer

formats = st.sampled_from(list(FORMATS.values()))


Words = NDArray[np.uint64]
Case = tuple[Format, Words, tuple[int, ...]]


def corrupt(effect: Effect, format: Format, words: Words, key: tuple[int, ...] = ()) -> Words:
    effect.check(format)
    before = words.copy()
    read = effect.read(words, format, key=key)
    np.testing.assert_array_equal(words, before)  # what is stored stays as it is
    assert read.shape == words.shape
    assert not (read >> np.uint64(format.bits)).any()
    return read


def corrupt_values(effect: Effect, format: Format, *values: float) -> list[float]:
    corrupted: list[float] = format.decode(corrupt(effect, format, format.encode(np.array(values)))).tolist()
    return corrupted


def zeros(*shape: int) -> Words:
    return np.zeros(shape, np.uint64)


@st.composite
def words_and_bits(draw: st.DrawFn) -> Case:
    format = draw(formats)
    words = draw(st.lists(st.integers(0, (1 << format.bits) - 1), min_size=1, max_size=20))
    bits = draw(st.lists(st.integers(0, format.bits - 1), min_size=1, max_size=format.bits, unique=True))
    return format, np.array(words, dtype=np.uint64), tuple(bits)


# Laws.


@given(words_and_bits())
def test_flipping_changes_those_bits_and_twice_restores(
    case: Case,
) -> None:
    format, words, bits = case
    flipped = corrupt(Flip(bits=bits), format, words)
    for bit in range(format.bits):
        changed = (flipped ^ words) >> np.uint64(bit) & np.uint64(1)
        assert (changed == (bit in bits)).all()
    np.testing.assert_array_equal(corrupt(Flip(bits=bits), format, flipped), words)


@given(words_and_bits(), st.integers(0, 1))
def test_a_stuck_bit_has_its_value_for_ever_and_no_other_bit_changes(case: Case, value: int) -> None:
    format, words, (bit, *_) = case
    effect = StuckAt(bit=bit, value=value)
    stuck = corrupt(effect, format, words)
    assert (stuck >> np.uint64(bit) & np.uint64(1) == value).all()
    assert ((stuck ^ words) & ~np.uint64(1 << bit) == 0).all()
    np.testing.assert_array_equal(corrupt(effect, format, stuck), stuck)


@given(words_and_bits(), st.integers(0, 1))
def test_masks_say_what_is_read(case: Case, value: int) -> None:
    format, words, bits = case
    for effect in (Flip(bits=bits), StuckAt(bit=bits[0], value=value), SetTo(value=3.0)):
        masks = effect.masks(format)
        assert all(0 <= mask < 1 << format.bits for mask in masks)
        read = [(word & masks.keep | masks.set) ^ masks.flip for word in words.tolist()]
        assert corrupt(effect, format, words).tolist() == read


def test_the_order_of_bits_does_not_matter() -> None:
    assert Flip(bits=(4, 3)) == Flip(bits=(3, 4))


@given(formats, st.integers(0, 31), st.integers(1, 31))
def test_a_burst_is_neighbours(format: Format, bit: int, length: int) -> None:
    assume(bit + length <= format.bits)
    assert int(corrupt(burst(bit, length), format, zeros())) == ((1 << length) - 1) << bit


def test_values_are_the_same_effect_if_they_spell_the_same_word() -> None:
    values = [0.0, -0.0, 1.0, 1.5, math.inf, -math.inf, math.nan]
    effects = [SetTo(value=value) for value in values]
    assert len(set(effects)) == len(values)
    for value, effect in zip(values, effects, strict=True):
        again = SetTo(value=float(str(float(value))))  # NaN anew, not the same object
        assert [one == again for one in effects] == [one is effect for one in effects]
        assert hash(again) == hash(effect)
        np.testing.assert_array_equal(again.masks(FORMATS["fp32"]), effect.masks(FORMATS["fp32"]))
    assert SetTo(value=-math.nan).masks(FORMATS["bf16"]) == SetTo(value=math.nan).masks(FORMATS["bf16"])
    assert SetTo(value=0.0) != 0.0


@given(words_and_bits(), st.floats(allow_nan=False, width=16))
def test_a_word_set_to_a_value_spells_it_whatever_it_was(case: Case, value: float) -> None:
    format, words, _ = case
    if not format.is_float:
        value = 5.0
    spelled = format.encode(np.full(words.shape, value))
    np.testing.assert_array_equal(corrupt(SetTo(value=value), format, words), spelled)


@given(words_and_bits())
def test_zero_is_the_word_without_bits(case: Case) -> None:
    format, words, _ = case
    assert not corrupt(ZERO, format, words).any()


@given(words_and_bits(), st.integers(-25, 25).filter(bool))
def test_words_that_move_come_from_so_many_places_on_and_back(case: Case, by: int) -> None:
    format, words, _ = case
    moved = corrupt(Moved(by=by), format, words)
    assert moved.tolist() == [words[(place + by) % len(words)] for place in range(len(words))]
    np.testing.assert_array_equal(corrupt(Moved(by=-by), format, moved), words)


def test_words_move_in_the_order_of_memory() -> None:
    words = np.arange(6, dtype=np.uint64).reshape(2, 3)
    assert corrupt(Moved(by=1), FORMATS["int8"], words).tolist() == [[1, 2, 3], [4, 5, 0]]


@settings(max_examples=50)
@given(words_and_bits(), st.data())
def test_when_spares_the_words_that_do_not_meet_the_pattern(case: Case, draw: st.DataObject) -> None:
    format, words, bits = case
    mask = draw.draw(st.integers(1, (1 << format.bits) - 1))
    pattern = draw.draw(st.integers(0, (1 << format.bits) - 1)) & mask
    always = RandomWord(seed=3)
    read = corrupt(When(effect=always, mask=mask, pattern=pattern), format, words, (1,))
    meets = np.array([word & mask == pattern for word in words.tolist()])
    np.testing.assert_array_equal(read, np.where(meets, corrupt(always, format, words, (1,)), words))
    # Each word meets exactly one of a bit's two values.
    bit = 1 << bits[0]
    halves = (When(effect=ZERO, mask=bit, pattern=0), When(effect=ZERO, mask=bit, pattern=bit))
    np.testing.assert_array_equal(sum(corrupt(half, format, words) for half in halves), words)


# Random effects: drawn by seed and key, and by nothing else.

drawn = pytest.mark.parametrize(
    "effect", [RandomWord(seed=7), RandomWord(seed=7, finite=True), RandomFlips(seed=7, weights=(1.0, 1.0, 1.0))]
)


@drawn
def test_a_draw_repeats_by_its_key_and_differs_by_it(effect: Effect) -> None:
    words, format = zeros(50), FORMATS["fp32"]
    first = corrupt(effect, format, words, (3, 1))
    other = corrupt(effect, format, words, (3, 2))
    np.testing.assert_array_equal(corrupt(effect, format, words, (3, 1)), first)
    assert (first != other).mean() > 0.5
    assert len(set(first.tolist())) > 25  # every word has a draw of its own


def test_seeds_differ() -> None:
    words, format = zeros(50), FORMATS["fp32"]
    for one, other in (
        (RandomWord(seed=1), RandomWord(seed=2)),
        (RandomFlips(seed=1), RandomFlips(seed=2)),
    ):
        assert (corrupt(one, format, words) != corrupt(other, format, words)).mean() > 0.5


@given(formats)
def test_random_words_have_every_bit_half_the_time(format: Format) -> None:
    words = corrupt(RandomWord(seed=5), format, zeros(40, 100))
    ones = (words[..., None] >> np.arange(format.bits, dtype=np.uint64) & np.uint64(1)).sum(axis=(0, 1))
    assert (abs(ones.astype(np.int64) - 2000) < 5 * math.sqrt(4000 / 4)).all()  # 5 sigma of a fair coin, 4000 times


@given(formats, st.integers(0, 99))
def test_finite_words_are_finite_and_still_random(format: Format, seed: int) -> None:
    words = corrupt(RandomWord(seed=seed, finite=True), format, zeros(2000))
    assert np.isfinite(format.decode(words)).all()
    if format.is_float:
        below = corrupt(RandomWord(seed=seed), format, zeros(2000))
        fine = np.isfinite(format.decode(below))
        np.testing.assert_array_equal(words[fine], below[fine])  # drawn again only where they are not


def flipped_bits(effect: RandomFlips, format: Format, words: int) -> NDArray[np.int64]:
    read = corrupt(effect, format, zeros(words))
    return (read[:, None] >> np.arange(format.bits, dtype=np.uint64) & np.uint64(1)).astype(np.int64)


@pytest.mark.parametrize("name", FORMATS)
def test_one_random_flip_is_one_bit_any_bit(name: str) -> None:
    bits, format = flipped_bits(RandomFlips(seed=1), FORMATS[name], 4000), FORMATS[name]
    assert (bits.sum(axis=1) == 1).all()
    mean, p = 4000 / format.bits, 1 / format.bits
    assert (abs(bits.sum(axis=0) - mean) < 5 * math.sqrt(mean * (1 - p))).all()


def test_random_flips_are_as_many_as_their_weights_say() -> None:
    bits = flipped_bits(RandomFlips(seed=2, weights=(6.0, 0.0, 3.0, 1.0)), FORMATS["fp32"], 10_000)
    times = np.bincount(bits.sum(axis=1), minlength=5)
    for k, p in enumerate((0.0, 0.6, 0.0, 0.3, 0.1)):
        assert abs(times[k] - 10_000 * p) <= 5 * math.sqrt(10_000 * p * (1 - p))


def test_as_many_flips_as_bits_invert_the_word() -> None:
    effect = RandomFlips(seed=0, weights=(0.0,) * 7 + (1.0,))
    assert (corrupt(effect, FORMATS["int8"], zeros(20)) == 255).all()


# One row a word of EFFECTS and WORD_EFFECTS, so that a new one does not go untested.
SPELLED: dict[str, dict[str, Effect]] = {
    "stuck-at": {"bit 3 stuck-at 0": StuckAt(bit=3, value=0), "bit 28 stuck-at 1": StuckAt(bit=28, value=1)},
    "flip": {"bit 30 flip": Flip(bits=(30,)), "bits 3,4,31 flip": Flip(bits=(31, 3, 4))},
    "set-to": {
        "set-to 0.0": ZERO,
        "set-to -0.0": SetTo(value=-0.0),
        "set-to -1.5": SetTo(value=-1.5),
        "set-to 8.98e+17": SetTo(value=8.98e17),
        "set-to nan": SetTo(value=math.nan),
        "set-to -inf": SetTo(value=-math.inf),
    },
    "random-word": {"random-word seed 7": RandomWord(seed=7)},
    "random-finite": {"random-finite seed 7": RandomWord(seed=7, finite=True)},
    "random-flips": {
        "random-flips seed 7": RandomFlips(seed=7),
        "random-flips seed 7 weights 0.6,0.4": RandomFlips(seed=7, weights=(0.6, 0.4)),
    },
    "moved": {"moved by 3": Moved(by=3), "moved by -1": Moved(by=-1)},
}


@pytest.mark.parametrize("word", [*EFFECTS, *WORD_EFFECTS])
def test_the_catalogue_is_spelled_parsed_and_evaluates_back(word: str) -> None:
    for text, effect in SPELLED[word].items():
        once = When(effect=effect, mask=6, pattern=2)
        for said, meant in (
            (text, effect),
            (f"{text} when 6 is 2", once),
            (f"{text} when 6 is 2 when 1 is 0", When(effect=once, mask=1, pattern=0)),
        ):
            assert str(meant) == said
            assert parse_fault(f"weight[0,0] {said}").effect == meant
            assert eval(repr(meant), vars(names)) == meant


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


def test_a_value_is_rounded_to_the_word() -> None:
    assert corrupt_values(SetTo(value=1.001), FORMATS["bf16"], 5.0) == [1.0]
    assert corrupt_values(SetTo(value=1e9), FORMATS["fp16"], 5.0) == [math.inf]


def test_a_table_of_products_belongs_to_a_multiplier() -> None:
    table = ProductTable(name="n42", errors=np.zeros((256, 256), np.int32))
    table.check(integer(18))
    message = "effect 'table n42' is an int8 multiplier's; it belongs to the site product[row,col]"
    for format in (FORMATS["int8"], FORMATS["fp32"]):
        with pytest.raises(InvalidInput, match=re.escape(message)):
            table.check(format)
    with pytest.raises(InvalidInput, match=re.escape(message)):
        table.read(zeros(3), integer(18))


# Messages.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StuckAt(bit=-1, value=0), "bit=-1 must not be negative; bit 0 is the least significant"),
        (lambda: StuckAt(bit=0, value=2), "value=2 of StuckAt must be 0 or 1"),
        (lambda: Flip(bits=()), "bits=() of Flip must be one or more different bits, none negative"),
        (lambda: Flip(bits=(1, 1)), "bits=(1, 1) of Flip must be one or more different bits, none negative"),
        (lambda: Flip(bits=(3, -1)), "bits=(3, -1) of Flip must be one or more different bits, none negative"),
        (lambda: burst(3, 0), "length=0 of burst must be at least 1"),
        (lambda: RandomWord(seed=-1), "seed=-1 must not be negative"),
        (lambda: RandomFlips(seed=-1), "seed=-1 must not be negative"),
        (
            lambda: RandomFlips(seed=0, weights=(0.0, 0.0)),
            "weights=(0.0, 0.0) of RandomFlips must not be negative, and must not all be 0",
        ),
        (lambda: RandomFlips(seed=0, weights=(2.0, -1.0)), "weights=(2.0, -1.0) of RandomFlips must not be negative"),
        (lambda: RandomFlips(seed=0, weights=()), "weights=() of RandomFlips must not be negative"),
        (lambda: RandomFlips(seed=0, weights=(math.nan,)), "weights=(nan,) of RandomFlips must not be negative"),
        (lambda: Moved(by=0), "by=0 of Moved moves nothing; choose another distance"),
        (
            lambda: When(effect=ZERO, mask=2, pattern=3),
            "mask=2 of When must be positive and hold all bits of pattern=3",
        ),
        (lambda: When(effect=ZERO, mask=0, pattern=0), "mask=0 of When must be positive and hold all bits of"),
        (lambda: When(effect=ZERO, mask=1, pattern=-1), "mask=1 of When must be positive and hold all bits of"),
        (
            lambda: ProductTable(name="n", errors=np.zeros((2, 2), np.int32)),
            "errors of ProductTable 'n' must be (256, 256), not (2, 2)",
        ),
        (lambda: EFFECTS["stuck-at"]((1, 2), 0), "stuck-at takes one bit and the value 0 or 1"),
        (lambda: EFFECTS["stuck-at"]((1,), None), "stuck-at takes one bit and the value 0 or 1"),
    ],
)
def test_an_effect_that_cannot_be_is_refused(build: Callable[[], Effect], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        build()


@pytest.mark.parametrize("effect", [StuckAt(bit=16, value=0), StuckAt(bit=16, value=1), Flip(bits=(0, 16))])
def test_a_bit_outside_the_format_is_refused(effect: BitOperation) -> None:
    for refuse in (effect.masks, effect.check, When(effect=effect, mask=1, pattern=0).check):
        with pytest.raises(InvalidInput, match=r"bit=16 is outside bf16 \(0\.\.15; 15 is the sign\)"):
            refuse(FORMATS["bf16"])
    effect.check(FORMATS["fp32"])


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (When(effect=ZERO, mask=256, pattern=0), "mask=256 of When has bits outside int8 (0..7)"),
        (RandomFlips(seed=0, weights=(1.0,) * 9), "of RandomFlips are more than the 8 bits of int8"),
        (SetTo(value=128.0), "values must be integers in -128..127 to be int8"),
    ],
)
def test_what_does_not_fit_the_word_is_refused(effect: Effect, message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        effect.check(FORMATS["int8"])
    effect.check(FORMATS["fp32"])
