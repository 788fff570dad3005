"""Number formats against numpy's and torch's, and what holds for any format."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from miscompute import InvalidInput
from miscompute.formats import FORMATS, Format, format_named

ROWS = list(FORMATS.values())
FLOATS = [row for row in ROWS if row.is_float]
# Users may describe formats of their own; e5m2 is the IEEE-like fp8 of the OCP 8-bit floating point specification.
OWN = [
    Format(name="fp8-e5m2", bits=8, exponent_bits=5, mantissa_bits=2),
    Format(name="tf32", bits=19, exponent_bits=8, mantissa_bits=10),
    Format(name="int16", bits=16, exponent_bits=0, mantissa_bits=15),
]

fp32, bf16, fp16, int8 = (FORMATS[name] for name in ("fp32", "bf16", "fp16", "int8"))
values = st.lists(st.floats(), min_size=1, max_size=40).map(lambda numbers: np.array(numbers))


def words_of(format: Format) -> NDArray[np.uint64]:
    """All words of a short format; of a long one, all exponents and signs with fractions of both ends and at random."""
    if format.bits <= 16:
        return np.arange(1 << format.bits, dtype=np.uint64)
    random = np.random.default_rng(0).integers(0, 1 << format.bits, 20_000, dtype=np.uint64)
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


def bfloat16_words(numbers: NDArray[np.float64]) -> NDArray[np.uint64]:
    words = torch.tensor(numbers, dtype=torch.float32).to(torch.bfloat16).view(torch.int16).numpy()
    return words.view(np.uint16).astype(np.uint64)


@given(values)
def test_fp32_and_fp16_encode_as_numpy_does(numbers: NDArray[np.float64]) -> None:
    assert_words(fp32, numbers, numpy_words(numbers, np.float32))
    assert_words(fp16, numbers, numpy_words(numbers, np.float16))


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))  # torch rounds a float64 twice, so only float32 values
def test_bf16_encodes_as_torch_does(numbers: list[float]) -> None:
    assert_words(bf16, np.array(numbers), bfloat16_words(np.array(numbers)))


def test_close_calls_encode_as_numpy_and_torch_do() -> None:
    for format, dtype in ((fp32, np.float32), (fp16, np.float16)):
        numbers = close_calls(format)
        assert_words(format, numbers, numpy_words(numbers, dtype))
    ties = close_calls(bf16)
    ties = ties[ties.astype(np.float32) == ties]
    assert_words(bf16, ties, bfloat16_words(ties))


def test_words_decode_as_numpy_and_torch_do() -> None:
    words = words_of(fp32)
    with np.errstate(invalid="ignore"):  # numpy says so where it quietens a signalling NaN
        borrowed_by_numpy = words.astype(np.uint32).view(np.float32).astype(np.float64)
    np.testing.assert_array_equal(fp32.decode(words), borrowed_by_numpy)
    words = words_of(fp16)
    np.testing.assert_array_equal(fp16.decode(words), words.astype(np.uint16).view(np.float16).astype(np.float64))
    borrowed_by_torch = torch.from_numpy(words.astype(np.uint16).view(np.int16)).view(torch.bfloat16)
    np.testing.assert_array_equal(bf16.decode(words), borrowed_by_torch.to(torch.float64).numpy())


def test_int8_is_numpys() -> None:
    numbers = np.arange(-128, 128, dtype=np.int8)
    np.testing.assert_array_equal(int8.encode(numbers.astype(np.float64)), numbers.view(np.uint8))
    np.testing.assert_array_equal(int8.decode(numbers.view(np.uint8).astype(np.uint64)), numbers)


# Laws.


@pytest.mark.parametrize("format", ROWS + OWN, ids=lambda format: format.name)
def test_every_word_but_nan_survives_decode_and_encode(format: Format) -> None:
    words = words_of(format)
    numbers = format.decode(words)
    np.testing.assert_array_equal(format.encode(numbers)[~np.isnan(numbers)], words[~np.isnan(numbers)])
    np.testing.assert_array_equal(format.decode(format.encode(numbers)), numbers)


@pytest.mark.parametrize("format", [*FLOATS, *OWN[:2]], ids=lambda format: format.name)
def test_the_nearest_word_is_chosen(format: Format) -> None:
    numbers = np.abs(close_calls(format))
    words = format.encode(numbers)
    distance = np.abs(format.decode(words) - numbers)
    for neighbour in (words - np.uint64(words.min() > 0), words + np.uint64(1)):
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


def test_zero_is_the_word_zero() -> None:
    for format in ROWS + OWN:
        assert format.encode(np.array([0.0])).tolist() == [0]
    for format in FLOATS:
        assert format.encode(np.array([-0.0])).tolist() == [1 << (format.bits - 1)]


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


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match="format='fp31' is unknown; choose one of fp32, bf16, fp16, int8"):
        format_named("fp31")


@pytest.mark.parametrize(
    ("bits", "exponent_bits", "mantissa_bits", "message"),
    [
        (16, 8, 8, r"bits=16 of format 'own' must be 1 \+ exponent_bits \+ mantissa_bits = 17"),
        (8, 0, 8, r"bits=8 of format 'own' must be 1 \+ exponent_bits \+ mantissa_bits = 9"),
        (
            64,
            11,
            52,
            r"format 'own' needs bits in 2\.\.32 and exponent_bits 0 \(an integer\) or in 2\.\.10, not bits=64",
        ),
        (1, 0, 0, "bits=1"),
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
