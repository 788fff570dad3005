"""Number formats against numpy's and torch's, and what holds for any format."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from miscompute import InvalidInput
from miscompute.formats import FORMATS, Format, format_named, integer

ROWS = list(FORMATS.values())
FLOATS = [row for row in ROWS if row.is_float]
# Users may describe formats of their own: fp4 is e2m1 of the OCP microscaling specification but for its top exponent,
# fp6 e2m3 but for its NaN.
OWN_FLOATS = [
    Format(name="fp4", bits=4, exponent_bits=2, mantissa_bits=1),
    Format(name="fp6", bits=6, exponent_bits=2, mantissa_bits=3, has_infinities=False),
]
OWN = [*OWN_FLOATS, *map(integer, (2, 18, 34, 53)), integer(8, scale=0.05), integer(16, scale=2.0**-40)]

fp32, tf32, bf16, fp16, int8 = (FORMATS[name] for name in ("fp32", "tf32", "bf16", "fp16", "int8"))
# The formats of 16 and 8 bits that PyTorch has dtypes for.
TORCH = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
values = st.lists(st.floats(), min_size=1, max_size=40).map(lambda numbers: np.array(numbers))


def words_of(format: Format) -> NDArray[np.uint64]:
    """All words of a short format; of a long one, all exponents and signs with fractions of both ends and at random."""
    if format.bits <= 16:
        return np.arange(1 << format.bits, dtype=np.uint64)
    random = np.random.default_rng(0).integers(0, 1 << format.bits, 20_000, dtype=np.uint64)
    if not format.is_float:
        ends = np.arange(100, dtype=np.uint64)
        sign = np.uint64(1 << (format.bits - 1))
        return np.concatenate([random, ends, np.uint64((1 << format.bits) - 1) - ends, sign - ends - 1, sign + ends])
    tops = np.arange(1 << (format.bits - format.mantissa_bits), dtype=np.uint64) << np.uint64(format.mantissa_bits)
    last = np.uint64((1 << format.mantissa_bits) - 1)
    return np.concatenate([random, tops, tops + np.uint64(1), tops + last])


def close_calls(format: Format) -> NDArray[np.float64]:
    """Ties between neighbouring words, and the float64 just below and above: here rounding goes wrong first."""
    words = words_of(format)
    one = format.decode(words)
    words = words[np.isfinite(one) & (words & np.uint64((1 << (format.bits - 1)) - 1) > 0)]
    ties = (format.decode(words) + format.decode(words - np.uint64(1))) / 2
    return np.concatenate([np.nextafter(ties, -np.inf), ties, np.nextafter(ties, np.inf)])


# Reference: numpy and torch.


def assert_words(format: Format, numbers: NDArray[np.float64], expected: NDArray[np.uint64]) -> None:
    nan = np.isnan(numbers)
    words = format.encode(numbers)
    assert words.dtype == np.uint64
    np.testing.assert_array_equal(words[~nan], expected[~nan])
    assert np.isnan(format.decode(words[nan])).all()  # a payload is the converter's own business


def numpy_words(numbers: NDArray[np.float64], dtype: type[np.floating]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore", under="ignore"):
        rounded = numbers.astype(dtype)
    return rounded.view(f"u{rounded.itemsize}").astype(np.uint64)


def torch_words(numbers: NDArray[np.float64], dtype: torch.dtype) -> NDArray[np.uint64]:
    """Convert float32 values, for torch rounds a float64 twice."""
    assert np.array_equal(numbers.astype(np.float32), numbers, equal_nan=True)
    rounded = torch.from_numpy(numbers.astype(np.float32)).to(dtype)
    unsigned = {1: torch.uint8, 2: torch.uint16}[dtype.itemsize]
    return rounded.view(unsigned).numpy().astype(np.uint64)


@given(values)
def test_fp32_and_fp16_encode_as_numpy_does(numbers: NDArray[np.float64]) -> None:
    assert_words(fp32, numbers, numpy_words(numbers, np.float32))
    assert_words(fp16, numbers, numpy_words(numbers, np.float16))


def saturates(name: str, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out what PyTorch before 2.13 turned into NaN: what e4m3 has no room for, 464 being the tie with 480."""
    if name != "fp8_e4m3" or tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13):
        return numbers
    return numbers[~(np.abs(numbers) > 464)]


@pytest.mark.parametrize("name", TORCH)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40).map(np.array))
def test_short_floats_encode_as_torch_does(name: str, numbers: NDArray[np.float64]) -> None:
    numbers = saturates(name, numbers)
    assert_words(FORMATS[name], numbers, torch_words(numbers, TORCH[name]))


@pytest.mark.parametrize("name", TORCH)
def test_every_fp32_exponent_and_every_close_call_encodes_as_torch_does(name: str) -> None:
    edges = fp32.decode(words_of(fp32))
    ties = close_calls(FORMATS[name])
    lower, upper = ((np.nextafter(ties.astype(np.float32), np.float32(end))) for end in (-np.inf, np.inf))
    around = np.concatenate([ties.astype(np.float32), lower, upper]).astype(np.float64)
    numbers = saturates(name, np.concatenate([edges, around]))
    assert_words(FORMATS[name], numbers, torch_words(numbers, TORCH[name]))


def test_close_calls_encode_as_numpy_does() -> None:
    for format, dtype in ((fp32, np.float32), (fp16, np.float16)):
        numbers = close_calls(format)
        assert_words(format, numbers, numpy_words(numbers, dtype))


def test_tf32_is_the_upper_19_bits_of_fp32_after_rounding() -> None:
    numbers = np.concatenate([fp32.decode(words_of(fp32)), close_calls(tf32)])
    numbers = numbers[numbers.astype(np.float32) == numbers]  # no NaN
    words = fp32.encode(numbers)
    # Round the 13 bits that go to nearest, ties to even: a carry runs on into the exponent, and from the largest number
    # to infinity, as it should.
    odd = (words >> np.uint64(13)) & np.uint64(1)
    expected = (words + np.uint64((1 << 12) - 1) + odd) >> np.uint64(13)
    np.testing.assert_array_equal(tf32.encode(numbers), expected)
    np.testing.assert_array_equal(tf32.decode(expected), fp32.decode(expected << np.uint64(13)))


def test_words_decode_as_numpy_and_torch_do() -> None:
    words = words_of(fp32)
    with np.errstate(invalid="ignore"):  # numpy says so where it quietens a signalling NaN
        borrowed_by_numpy = words.astype(np.uint32).view(np.float32).astype(np.float64)
    np.testing.assert_array_equal(fp32.decode(words), borrowed_by_numpy)
    for name, dtype in TORCH.items():
        words = words_of(FORMATS[name])  # all of them
        unsigned = torch.from_numpy(words.astype(f"u{dtype.itemsize}"))
        borrowed_by_torch = unsigned.view(dtype).to(torch.float64).numpy()
        np.testing.assert_array_equal(FORMATS[name].decode(words), borrowed_by_torch)
        signs = np.signbit(FORMATS[name].decode(words))
        np.testing.assert_array_equal(signs, words >> np.uint64(FORMATS[name].bits - 1) == 1)


@pytest.mark.parametrize(("name", "dtype"), [("int8", np.int8), ("int16", np.int16)])
def test_integers_are_numpys(name: str, dtype: type[np.signedinteger]) -> None:
    format = FORMATS[name]
    numbers = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    words = numbers.view(f"u{numbers.itemsize}").astype(np.uint64)
    np.testing.assert_array_equal(format.encode(numbers.astype(np.float64)), words)
    np.testing.assert_array_equal(format.decode(words), numbers)


@given(st.lists(st.integers(-(1 << 53), 1 << 53), min_size=1))
def test_wrapping_and_saturating_are_numpys_casts_and_clips(numbers: list[int]) -> None:
    exact = np.array(numbers, dtype=np.int64)
    for bits, dtype in ((8, np.int8), (16, np.int16), (32, np.int32)):
        format, limits = integer(bits), np.iinfo(dtype)
        np.testing.assert_array_equal(format.wrap(exact.astype(np.float64)), exact.astype(dtype))
        np.testing.assert_array_equal(format.saturate(exact.astype(np.float64)), exact.clip(limits.min, limits.max))


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20).map(np.array),
    st.floats(2.0**-30, 2.0**30),
)
def test_scaled_integers_quantise_as_torch_does(numbers: NDArray[np.float64], scale: float) -> None:
    format = integer(8, scale=scale)
    # In float64, as here: torch.quantize_per_tensor multiplies by the reciprocal in float32.
    expected = torch.from_numpy(numbers).div(scale).round().clamp(-128, 127)
    words = format.encode(numbers)
    np.testing.assert_array_equal(int8.decode(words), expected.numpy())
    np.testing.assert_array_equal(format.decode(words), expected.numpy() * scale)


# Laws.


@pytest.mark.parametrize("format", ROWS + OWN, ids=lambda format: format.name)
def test_every_word_but_nan_survives_decode_and_encode(format: Format) -> None:
    words = words_of(format)
    numbers = format.decode(words)
    np.testing.assert_array_equal(format.encode(numbers)[~np.isnan(numbers)], words[~np.isnan(numbers)])
    np.testing.assert_array_equal(format.decode(format.encode(numbers)), numbers)


@pytest.mark.parametrize("format", [*FLOATS, *OWN_FLOATS], ids=lambda format: format.name)
def test_the_nearest_word_is_chosen(format: Format) -> None:
    numbers = np.abs(close_calls(format))
    words = format.encode(numbers)
    distance = np.abs(format.decode(words) - numbers)
    for neighbour in (words - (words > 0), words + np.uint64(1)):
        other = format.decode(neighbour)
        assert (distance[np.isfinite(other)] <= np.abs(other - numbers)[np.isfinite(other)]).all()


@pytest.mark.parametrize("format", FLOATS, ids=lambda format: format.name)
def test_a_negative_word_is_the_positive_one_with_the_sign_bit(format: Format) -> None:
    numbers = np.abs(close_calls(format))
    np.testing.assert_array_equal(format.encode(-numbers) ^ format.encode(numbers), 1 << (format.bits - 1))


@pytest.mark.parametrize("format", ROWS, ids=lambda format: format.name)
def test_shape_and_dtype_are_kept(format: Format) -> None:
    for shape in ((), (0,), (2, 3)):
        words = format.encode(np.ones(shape))
        assert words.shape == format.decode(words).shape == shape
        assert words.dtype == np.dtype(np.uint64)
        assert format.decode(words).dtype == np.dtype(np.float64)


@pytest.mark.parametrize("format", ROWS + OWN, ids=lambda format: format.name)
def test_fields_make_up_the_word(format: Format) -> None:
    fields = [format.field(bit) for bit in range(format.bits)]
    assert fields[-1] == "sign"
    low = ["mantissa"] * format.mantissa_bits + ["exponent"] * format.exponent_bits
    assert fields[:-1] == (low if format.is_float else ["magnitude"] * (format.bits - 1))


@pytest.mark.parametrize("name", FORMATS)
def test_the_catalogue_is_keyed_by_name_and_its_rows_evaluate_back(name: str) -> None:
    assert format_named(name).name == name
    assert eval(repr(FORMATS[name])) == FORMATS[name]


# Golden values.


@pytest.mark.parametrize(
    ("name", "bits", "exponent_bits", "bias", "largest"),
    [
        ("fp32", 32, 8, 127, (2 - 2.0**-23) * 2.0**127),  # IEEE 754-2019, table 3.5, binary32
        ("fp16", 16, 5, 15, 65504.0),  # binary16
        ("bf16", 16, 8, 127, (2 - 2.0**-7) * 2.0**127),  # the upper half of binary32
    ],
)
def test_parameters_of_published_formats(name: str, bits: int, exponent_bits: int, bias: int, largest: float) -> None:
    format = FORMATS[name]
    assert (format.bits, format.exponent_bits, format.bias) == (bits, exponent_bits, bias)
    infinity = ((1 << exponent_bits) - 1) << format.mantissa_bits
    spelled = format.decode(np.array([0, 1, infinity - 1, infinity], dtype=np.uint64))
    assert spelled.tolist() == [0.0, 2.0 ** (1 - bias - format.mantissa_bits), largest, np.inf]


def test_fp8_of_the_ocp_specification() -> None:  # OCP 8-bit Floating Point Specification 1.0, tables 1 and 2
    e4m3, e5m2 = FORMATS["fp8_e4m3"], FORMATS["fp8_e5m2"]
    assert (e4m3.bias, e5m2.bias) == (7, 15)
    words = np.array([0b1, 0b111, 0b1000, 0b1111_110], dtype=np.uint64)
    assert e4m3.decode(words).tolist() == [2.0**-9, 0.875 * 2.0**-6, 2.0**-6, 448.0]
    words = np.array([0b1, 0b11, 0b100, 0b11110_11], dtype=np.uint64)
    assert e5m2.decode(words).tolist() == [2.0**-16, 0.75 * 2.0**-14, 2.0**-14, 57344.0]
    assert np.isnan(e4m3.decode(np.array([0b0_1111_111, 0b1_1111_111], dtype=np.uint64))).all()
    assert e5m2.decode(np.array([0b0_11111_00, 0b1_11111_00], dtype=np.uint64)).tolist() == [np.inf, -np.inf]
    assert np.isnan(e5m2.decode(np.array([0b11111_01, 0b11111_10, 0b1_11111_11], dtype=np.uint64))).all()


def test_without_infinities_overflow_saturates_and_nan_stays() -> None:
    e4m3 = FORMATS["fp8_e4m3"]
    for large in (448.0, 464.0, 464.1, 480.0, 1e9, np.inf):
        assert e4m3.decode(e4m3.encode(np.array([large, -large]))).tolist() == [448.0, -448.0]
    assert e4m3.encode(np.array([np.nan])).tolist() == [0x7F]


def test_zero_is_the_word_zero() -> None:
    for format in ROWS + OWN:
        assert format.encode(np.array([0.0])).tolist() == [0]
    for format in FLOATS:
        assert format.encode(np.array([-0.0])).tolist() == [1 << (format.bits - 1)]


# Integers with a scale.


def test_scaled_integers_round_ties_to_even_and_saturate() -> None:
    format = integer(8, scale=0.5)
    words = format.encode(np.array([0.25, 0.75, -0.25, -0.75, 63.5, 64.0, -64.0, -64.5, np.inf, -np.inf]))
    assert int8.decode(words).tolist() == [0, 2, 0, -2, 127, 127, -128, -128, 127, -128]


@pytest.mark.parametrize("bits", [8, 16])
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20).map(np.array))
def test_a_fitted_scale_uses_the_whole_range_and_is_off_by_half_a_unit_at_most(
    bits: int, numbers: NDArray[np.float64]
) -> None:
    format = integer(bits, scale="max").fitted(numbers)
    assert isinstance(format.scale, float)
    words = integer(bits).decode(format.encode(numbers))
    largest = (1 << (bits - 1)) - 1
    assert np.abs(words).max() == (largest if numbers.any() else 0)
    # The division may round past a tie.
    off = np.abs(format.decode(format.encode(numbers)) - numbers)
    assert (off <= format.scale * (0.5 + largest * 2.0**-50)).all()
    assert format.fitted(numbers * 2) is format


def test_a_tensor_of_zeros_is_fitted_with_1_and_other_formats_fit_anything() -> None:
    assert format_named("int8:max").fitted(np.zeros(3)) == integer(8, scale=1.0)
    assert format_named("int8:max").fitted(np.zeros(0)) == integer(8, scale=1.0)
    for format in ROWS:
        assert format.fitted(np.array([np.nan])) is format


@pytest.mark.parametrize("name", ["int8:max", "int16:max", "int8:0.05", "int16:1e-05", "int8:2.0"])
def test_a_scale_is_spelled_in_the_name_and_comes_back(name: str) -> None:
    format = format_named(name)
    assert format.name == name
    assert format_named(format.name) == format
    assert eval(repr(format)) == format
    assert format.bits == format_named(name.partition(":")[0]).bits


def test_one_scale_has_one_name() -> None:
    assert format_named("int8:2") == format_named("int8:2.0") == integer(8, scale=2.0)
    fitted = format_named("int8:max").fitted(np.array([0.3, -0.7]))
    assert format_named(fitted.name) == fitted


# Messages.


@pytest.mark.parametrize(
    ("name", "bit", "message"),
    [
        ("bf16", 16, "bit=16 is outside bf16 (0..15; 15 is the sign)"),
        ("int8", 8, "bit=8 is outside int8 (0..7; 7 is the sign)"),
        ("fp32", -1, "bit=-1 is outside fp32 (0..31; 31 is the sign)"),
    ],
)
def test_a_bit_outside_is_refused(name: str, bit: int, message: str) -> None:
    for ask in (FORMATS[name].check_bit, FORMATS[name].field):
        with pytest.raises(InvalidInput, match=re.escape(message)):
            ask(bit)


@pytest.mark.parametrize("name", ["fp31", "int7", "", "scaled:0.5"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"format='{name}' is unknown; choose one of {', '.join(FORMATS)}"):
        format_named(name)


@pytest.mark.parametrize("scale", ["", "0", "-1", "nan", "inf", "mean", "0.5:1"])
def test_a_scale_that_is_none_is_refused(scale: str) -> None:
    message = f"format='int8:{scale}' has the scale '{scale}'; it must be a positive number or max, as in int8:0.05"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        format_named(f"int8:{scale}")


def test_floats_have_no_scale() -> None:
    with pytest.raises(
        InvalidInput, match=r"format='bf16:0\.5' has a scale, but bf16 is no integer; leave ':0\.5' out"
    ):
        format_named("bf16:0.5")
    with pytest.raises(InvalidInput, match=r"scale=0\.5 of format 'own' is for integers, exponent_bits=0"):
        Format(name="own", bits=8, exponent_bits=4, mantissa_bits=3, scale=0.5)


@pytest.mark.parametrize(
    ("bits", "exponent_bits", "mantissa_bits", "message"),
    [
        (16, 8, 8, r"bits=16 of format 'own' must be 1 \+ exponent_bits \+ mantissa_bits = 17"),
        (8, 0, 8, r"bits=8 of format 'own' must be 1 \+ exponent_bits \+ mantissa_bits = 9"),
        (
            64,
            11,
            52,
            r"format 'own' needs exponent_bits 0 and bits in 2\.\.53 \(an integer\), or exponent_bits in 2\.\.10 and "
            r"bits up to 32, not bits=64, exponent_bits=11",
        ),
        (1, 0, 0, "bits=1"),
        (54, 0, 53, "bits=54"),
        (33, 8, 24, "bits=33"),
        (8, 1, 6, "exponent_bits=1"),
    ],
)
def test_a_format_that_does_not_add_up_is_refused(
    bits: int, exponent_bits: int, mantissa_bits: int, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        Format(name="own", bits=bits, exponent_bits=exponent_bits, mantissa_bits=mantissa_bits)


@pytest.mark.parametrize("value", [0.5, 128.0, -129.0, np.nan, np.inf])
def test_an_integer_format_does_not_round(value: float) -> None:
    with pytest.raises(InvalidInput, match=r"values must be integers in -128\.\.127 to be int8; quantise them first"):
        int8.encode(np.array([1.0, value]))


def test_a_word_that_is_too_wide_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"words must be below 2\*\*8 to be int8"):
        int8.decode(np.array([255, 256], dtype=np.uint64))


def test_a_scaled_integer_refuses_what_it_cannot_spell() -> None:
    with pytest.raises(InvalidInput, match=r"values hold NaN, which no word of int8:0\.5 spells; look for its cause"):
        integer(8, scale=0.5).encode(np.array([1.0, np.nan]))
    for bad in (np.nan, np.inf):
        with pytest.raises(
            InvalidInput, match=rf"values of a tensor in int8:max must be finite: .* no scale for {bad}"
        ):
            integer(8, scale="max").fitted(np.array([1.0, bad]))


def test_a_scale_that_is_not_fitted_yet_is_refused() -> None:
    message = r"format int8:max has no scale before it has met a tensor; use format\.fitted\(values\)"
    with pytest.raises(InvalidInput, match=message):
        integer(8, scale="max").encode(np.ones(1))
    with pytest.raises(InvalidInput, match=message):
        integer(8, scale="max").decode(np.ones(1, dtype=np.uint64))


@pytest.mark.parametrize("value", [0.5, 2.0**53 + 2, np.nan, np.inf])
def test_only_exact_integers_are_wrapped_and_saturated(value: float) -> None:
    for function in (integer(34).wrap, integer(34).saturate):
        with pytest.raises(InvalidInput, match=r"values must be integers of a magnitude up to 2\*\*53"):
            function(np.array([1.0, value]))


def test_only_integers_have_registers_that_wrap() -> None:
    for format in (fp32, integer(8, scale=0.5)):
        with pytest.raises(
            InvalidInput, match=rf"format {format.name} is no register of integers; take one of integer"
        ):
            format.wrap(np.ones(1))
