"""NVDLA's block form of fp16: every word of it against numpy, and what is refused."""

import numpy as np
import pytest

from miscompute import InvalidInput
from miscompute.formats import FORMATS, to_block

ALL = np.arange(1 << 16, dtype=np.uint64)
FINITE = ALL[(ALL >> np.uint64(10)) & np.uint64(31) != 31]


def test_every_finite_word_keeps_its_value() -> None:
    expected = FINITE.astype(np.uint16).view(np.float16).astype(np.float64)
    np.testing.assert_array_equal(to_block(FINITE).values, expected)


def test_registers_hold_what_the_word_spells() -> None:
    block = to_block(FINITE)
    assert (block.mantissa < 1 << 16).all()
    assert (block.mantissa & np.uint64(1 << 14) == 0).all()
    np.testing.assert_array_equal(block.mantissa >> np.uint64(15), FINITE >> np.uint64(15))
    np.testing.assert_array_equal(block.exponent, FINITE >> np.uint64(12) & np.uint64(7))
    np.testing.assert_array_equal(block.nonzero, FINITE & np.uint64(0x7FFF) != 0)


def test_shape_is_kept() -> None:
    for shape in ((), (0,), (2, 3, 4)):
        block = to_block(np.full(shape, 0x3C00, dtype=np.uint64))
        assert block.mantissa.shape == block.exponent.shape == block.nonzero.shape == block.values.shape == shape


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinities_and_nan_are_refused(value: float) -> None:
    with pytest.raises(InvalidInput, match="words must be finite fp16 numbers: infinities and NaN have no block form"):
        to_block(FORMATS["fp16"].encode(np.array([1.0, value])))


def test_a_word_that_is_too_wide_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"words must be below 2\*\*16 to be fp16"):
        to_block(np.array([1 << 16], dtype=np.uint64))
