"""Ranges and regions against indices listed one by one."""

import itertools
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miscompute import InvalidInput, Range, Region

small = st.integers(0, 30)
ranges = st.builds(
    lambda start, stop, step, less: Range(start=start, stop=stop, step=step, width=max(1, step - less)),
    small,
    st.integers(-3, 60),
    st.integers(1, 12),
    st.integers(0, 12),
)


@given(ranges)
def test_a_range_has_the_indices_its_definition_says(range_: Range) -> None:
    listed = [
        index
        for index in range(range_.start, max(range_.start, range_.stop))
        if (index - range_.start) % range_.step < range_.width
    ]
    assert list(range_) == listed
    assert len(range_) == len(listed)
    assert eval(repr(range_)) == range_


@given(small, st.integers(0, 60), st.integers(1, 12))
def test_a_range_of_width_1_is_pythons(start: int, stop: int, step: int) -> None:
    assert list(Range(start=start, stop=stop, step=step)) == list(range(start, stop, step))


@given(st.lists(ranges, max_size=3))
def test_a_region_has_the_product_of_its_ranges(ranges: list[Range]) -> None:
    region = Region(dims=tuple("xyz"[: len(ranges)]), ranges=tuple(ranges))
    assert region.elements == len(list(itertools.product(*ranges)))
    assert [region.range(dim) for dim in region.dims] == ranges
    assert eval(repr(region)) == region


@pytest.mark.parametrize(
    ("range_", "text"),
    [
        (Range(start=0, stop=5), "0:5"),
        (Range(start=1, stop=10, step=4), "1:10:4"),
        (Range(start=1, stop=10, step=4, width=2), "1:10:4 width 2"),
        (Range(start=0, stop=8, step=4, width=4), "0:8"),  # runs that touch
    ],
)
def test_a_range_reads_as_a_slice(range_: Range, text: str) -> None:
    assert str(range_) == text


def test_a_region_names_its_dimensions() -> None:
    region = Region(dims=("oc", "ic"), ranges=(Range(start=2, stop=24, step=8), Range(start=0, stop=3)))
    assert str(region) == "[oc 2:24:8, ic 0:3]"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Range(start=-1, stop=4),
            "Range needs start >= 0 and 1 <= width <= step, not start=-1, width=1, step=1",
        ),
        (lambda: Range(start=0, stop=4, step=0), "not start=0, width=1, step=0"),
        (lambda: Range(start=0, stop=4, step=2, width=3), "not start=0, width=3, step=2"),
        (lambda: Range(start=0, stop=4, step=2, width=0), "not start=0, width=0, step=2"),
        (
            lambda: Region(dims=("n", "oc"), ranges=(Range(start=0, stop=4),)),
            "a Region needs as many ranges as dims, not 1 for ('n', 'oc')",
        ),
    ],
)
def test_what_cannot_be_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        build()
