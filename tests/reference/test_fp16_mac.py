"""The floating-point MAC cell against RTL simulation, bit for bit, and what holds without it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from miscompute import InvalidInput
from miscompute.fault import Effect, Flip, StuckAt
from miscompute.formats import FORMATS, BlockWords, to_block
from miscompute.reference import BlockSum, fp16_mac, misread_register

Words = NDArray[np.uint64]


def fp16(numbers: object) -> BlockWords:
    return to_block(FORMATS["fp16"].encode(np.array(numbers, dtype=np.float64)))


def stacked(rows: list[BlockWords]) -> BlockWords:
    return BlockWords(**{name: np.stack([getattr(row, name) for row in rows]) for name in vars(rows[0])})


def row_of(numbers: BlockWords) -> BlockWords:
    return stacked([numbers])


def row(numbers: BlockWords, index: int) -> BlockWords:
    return BlockWords(**{name: words[index] for name, words in vars(numbers).items()})


# Reference: RTL simulation.


def assert_outputs(result: BlockSum, outputs: Words) -> None:
    """Compare with 44-bit outputs: [43:38] exponent, [37:0] sum."""
    np.testing.assert_array_equal(result.exponent, outputs >> np.uint64(38))
    signed = (outputs << np.uint64(26)).view(np.int64) >> 26
    np.testing.assert_array_equal(result.sum, signed)


def ieee(halves: NDArray[np.float16]) -> BlockWords:
    return to_block(halves.view(np.uint16).astype(np.uint64))


def test_fault_free_sums_are_those_of_rtl(vectors: Path) -> None:
    data = np.load(vectors / "fp16_mac.npz", allow_pickle=False)
    assert data["out_ref"].size == 2200
    assert_outputs(fp16_mac(ieee(data["w"]), ieee(data["x"])), data["out_ref"])


@pytest.mark.parametrize(("kind", "faults"), [("mts", 200), ("exp", 150), ("ieee", 200)])
def test_faulty_sums_are_those_of_rtl(vectors: Path, kind: str, faults: int) -> None:
    data = np.load(vectors / "fp16_mac.npz", allow_pickle=False)
    chosen = np.flatnonzero(data["kind"] == kind)
    assert len(chosen) == faults
    weights, activations = ieee(data["w"][chosen]), ieee(data["x"][chosen])
    if kind != "ieee":  # there, w holds the word as it was read
        register = "mantissa" if kind == "mts" else "exponent"
        weights = stacked(
            [
                misread_register(
                    row(weights, i),
                    lane=int(data["lane"][at]),
                    register=register,  # type: ignore[arg-type]
                    effect=StuckAt(bit=int(data["bit"][at]), value=int(data["val"][at])),
                )
                for i, at in enumerate(chosen)
            ]
        )
    assert_outputs(fp16_mac(weights, activations), data["out_faulty"][chosen])


# Laws.

finite_words = st.integers(0, (1 << 16) - 1).filter(lambda word: word >> 10 & 31 != 31) | st.sampled_from((0, 1 << 15))


@st.composite
def operands(draw: st.DrawFn, words: st.SearchStrategy[int] = finite_words) -> tuple[Words, Words]:
    """Draw words of one or two cells and up to three pixels: weights (n, lane), activations (n, pixel, lane)."""
    n, pixels, lanes = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 9))

    def array(*shape: int) -> Words:
        size = int(np.prod(shape))
        numbers = draw(st.lists(words, min_size=size, max_size=size))
        return np.array(numbers, dtype=np.uint64).reshape(shape)

    return array(n, lanes), array(n, pixels, lanes)


def dot(weights: BlockWords, activations: BlockWords) -> NDArray[np.float64]:
    """Add up in float64: exactly if the products, of 22 bits, lie within 2**24 of each other."""
    return np.asarray((weights.values[:, None] * activations.values).sum(axis=-1))


@given(operands())
def test_sums_are_off_by_less_than_two_units_a_lane(case: tuple[Words, Words]) -> None:
    weights, activations = (to_block(words) for words in case)
    result = fp16_mac(weights, activations)
    # In units of the last place of the largest product, which float64 resolves to 2**-16 at least.
    off = np.ldexp(dot(weights, activations), 50 - result.exponent) - result.sum
    lanes = case[0].shape[-1]
    assert (off < 2 * lanes).all()
    assert (off > -lanes).all()
    products = weights.values[:, None] * activations.values
    assert (result.exponent <= 56).all()
    assert ((result.exponent == 0) | (products != 0).any(axis=-1)).all()


# Words whose IEEE exponents differ in the two low bits only share their block exponent: nothing is shifted out.
alike = st.integers(0, (1 << 12) - 1).flatmap(lambda low: st.sampled_from((0x3000 | low, 0xB000 | low)))


@given(operands(alike))
def test_products_with_one_exponent_add_up_exactly(case: tuple[Words, Words]) -> None:
    weights, activations = (to_block(words) for words in case)
    result = fp16_mac(weights, activations)
    assert (result.exponent == 24).all()
    np.testing.assert_array_equal(result.values, dot(weights, activations))


@given(operands(), st.randoms(use_true_random=False))
def test_lanes_may_be_dealt_in_any_order(case: tuple[Words, Words], random: object) -> None:
    weights, activations = case
    order = np.arange(weights.shape[-1])
    random.shuffle(order)  # type: ignore[attr-defined]
    result = fp16_mac(to_block(weights), to_block(activations))
    dealt = fp16_mac(to_block(weights[..., order]), to_block(activations[..., order]))
    np.testing.assert_array_equal(dealt.sum, result.sum)
    np.testing.assert_array_equal(dealt.exponent, result.exponent)


@given(operands(), st.sampled_from(("mantissa", "exponent")), st.data())
def test_a_fault_spares_zeros_and_other_lanes(case: tuple[Words, Words], register: str, draw: st.DataObject) -> None:
    lane = draw.draw(st.integers(0, case[0].shape[-1] - 1))
    bit = draw.draw(st.integers(0, 15 if register == "mantissa" else 2))
    weights, activations = to_block(case[0]), to_block(case[1])
    misread = misread_register(weights, lane=lane, register=register, effect=Flip(bits=(bit,)))  # type: ignore[arg-type]
    others = np.arange(case[0].shape[-1]) != lane
    np.testing.assert_array_equal(misread.values[:, others], weights.values[:, others])
    healthy, faulty = fp16_mac(weights, activations), fp16_mac(misread, activations)
    idle = ~(weights.nonzero[:, None, lane] & activations.nonzero[..., lane])
    np.testing.assert_array_equal(faulty.sum[idle], healthy.sum[idle])
    np.testing.assert_array_equal(faulty.exponent[idle], healthy.exponent[idle])
    if register == "exponent" or bit == 15:
        assert (misread.values[:, lane] != weights.values[:, lane])[weights.nonzero[:, lane]].all()


@pytest.mark.parametrize("lanes", [0, 1, 64])
def test_zeros_give_zero(lanes: int) -> None:
    ones, zeros = fp16(np.ones((2, 3, lanes))), fp16(np.zeros((2, lanes)))
    result = fp16_mac(zeros, ones)
    assert not result.sum.any()
    assert not result.exponent.any()
    assert result.values.shape == (2, 3)


def test_the_largest_sum_fits_38_bits() -> None:
    all_ones = BlockWords(
        mantissa=np.full((1, 1, 64), 0x7FFF, dtype=np.uint64),
        exponent=np.full((1, 1, 64), 7, dtype=np.uint64),
        nonzero=np.ones((1, 1, 64), dtype=np.bool_),
    )
    assert fp16_mac(row(all_ones, 0), all_ones).sum.item() == 64 * 0x7FFF**2 < 1 << 37


# Golden values, worked out by hand.


def test_one_is_two_to_the_26_at_exponent_24() -> None:
    result = fp16_mac(fp16([[1.0]]), fp16([[[1.0], [-1.0], [2.0**-14]]]))
    # 1.0 is 2**13 * 16**3 * 2**-25 and 2**-14, the smallest normal number, 2**11 * 16**0 * 2**-25.
    assert result.sum.tolist() == [[1 << 26, -(1 << 26), 1 << 24]]
    assert result.exponent.tolist() == [[24, 24, 12]]


@pytest.mark.parametrize(("small", "left"), [(2.0**-4, 1 << 22), (2.0**-20, 1 << 6), (-(2.0**-24), -(1 << 2))])
def test_a_small_product_is_shifted_to_the_largest(small: float, left: int) -> None:
    result = fp16_mac(fp16([[1.0, 2.0**-12]]), fp16([[[1.0, small * 2.0**12]]]))
    assert result.exponent.item() == 24
    assert result.sum.item() - (1 << 26) == left


def test_a_product_eight_steps_below_is_lost_of_either_sign() -> None:
    # 2**15 has block exponent 7, 2**-14 has 0: 14 against 6.
    for small in (1.0, -1.0):
        both = fp16_mac(fp16([[2.0**15, small * 2.0**-14]]), fp16([[[2.0**15, 1.5 * 2.0**9]]]))
        assert both.sum.item() == 1 << 24  # 2**30 at exponent 56
        assert both.values.item() == 2.0**30


def test_an_exponent_fault_erases_low_bits_of_other_lanes() -> None:
    weights = fp16([[1.0, 1.0]])
    activations = fp16([[[0.0009765625, 1.0009765625]]])  # 2**-10 and 1 + 2**-10
    healthy = fp16_mac(weights, activations)
    assert healthy.values.item() == 1.001953125
    faulty = fp16_mac(
        misread_register(weights, lane=0, register="exponent", effect=StuckAt(bit=2, value=1)), activations
    )
    # Lane 0 becomes 2**16 * 2**-10 = 64 at block exponent 8. Lane 1 is shifted by two steps: its product, 1025 * 2**16,
    # is 262400 then, with nothing to truncate, but sum and carry may each have lost a part.
    assert faulty.exponent.item() == 32
    assert faulty.values.item() == pytest.approx(64 + 1.0009765625, abs=2 * 2.0 ** (32 - 50))
    assert faulty.values.item() <= 64 + 1.0009765625


def test_truncated_bits_are_those_of_the_multiplier() -> None:
    """Low bits that show how a product is split, as this model gave them when it agreed with RTL simulation."""
    numbers = np.arange(1, 4 * 64 + 1, dtype=np.uint64).reshape(4, 64) * np.uint64(40503) % np.uint64(0x7C00)
    words = to_block(numbers | numbers << np.uint64(7) & np.uint64(0x8000))
    result = fp16_mac(row_of(row(words, 0)), row_of(words))
    assert result.exponent.tolist() == [[56, 44, 48, 56]]
    assert result.sum.tolist() == [[43868909, 21850003, 5299752, -7263866]]


# Messages.


@pytest.mark.parametrize(
    ("register", "effect", "message"),
    [
        (
            "mantissa",
            StuckAt(bit=16, value=0),
            r"effect='bit 16 stuck-at 0' is outside the mantissa register \(bits 0..15",
        ),
        ("exponent", Flip(bits=(0, 3)), r"effect='bits 0,3 flip' is outside the exponent register \(bits 0\.\.2\)"),
    ],
)
def test_a_bit_outside_a_register_is_refused(register: str, effect: Effect, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        misread_register(fp16([1.0]), lane=0, register=register, effect=effect)  # type: ignore[arg-type]


@pytest.mark.parametrize("lane", [-1, 2])
def test_a_lane_outside_is_refused(lane: int) -> None:
    with pytest.raises(InvalidInput, match=rf"lane={lane} is outside the numbers' lanes \(0\.\.1\)"):
        misread_register(fp16([1.0, 2.0]), lane=lane, register="mantissa", effect=Flip(bits=(0,)))


@pytest.mark.parametrize(
    ("weights", "activations"), [((2, 3), (2, 1, 4)), ((1, 3), (2, 1, 3)), ((3,), (1, 3)), ((1, 65), (1, 1, 65))]
)
def test_shapes_that_do_not_fit_are_refused(weights: tuple[int, ...], activations: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"must be \(n, lane\) and \(n, pixel, lane\), of 64 lanes at most"):
        fp16_mac(fp16(np.ones(weights)), fp16(np.ones(activations)))
