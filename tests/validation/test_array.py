"""Random layers and faults against the reference: all agree, and what is wrong is noticed."""

from unittest.mock import patch

import pytest

from miscompute import InvalidInput, nvdla
from miscompute.fault import SITES
from miscompute.hardware import Array, array_named, simd, systolic
from miscompute.injection import _sums
from miscompute.validation import check_array

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked")

ARRAYS: dict[str, Array] = {
    "nvdla": nvdla(rows=4, cols=4),
    "nvdla B, odd": nvdla(rows=5, cols=3, grad_weight="B"),
    "nvdla, images": nvdla(rows=4, cols=4, image_mode="first"),
    "nvdla rotated": nvdla(rows=4, cols=2, swizzle="stripe"),
    "weight-stationary": systolic(rows=3, cols=4),
    "output-stationary": systolic(rows=3, cols=4, dataflow="output-stationary"),
    "simd": simd(lanes=4),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_every_array_agrees_with_its_reference(name: str) -> None:
    agreements = check_array(ARRAYS[name], cases=120, seed=11)
    assert [str(agreement) for agreement in agreements if not agreement.is_full] == []
    assert sum(agreement.cases for agreement in agreements) == 120
    assert {agreement.kind for agreement in agreements} <= set(SITES)


def test_the_same_seed_draws_the_same_cases() -> None:
    def kinds(seed: int) -> list[tuple[str, int]]:
        return [(a.kind, a.cases) for a in check_array(array_named("nvdla-2x2"), cases=24, seed=seed)]

    assert kinds(1) == kinds(1)
    assert kinds(1) != kinds(2)


def test_a_wrong_sum_is_noticed() -> None:
    with patch.object(_sums, "_wrapped", lambda values, _: values):
        agreements = check_array(nvdla(rows=4, cols=4), cases=150, seed=3)
    wrong = [agreement for agreement in agreements if not agreement.is_full]
    assert wrong
    assert all(agreement.example for agreement in wrong)
    words = ("product", "adder", "cell", "accumulator", "accumulator-pe", "accumulator-entry", "output")
    assert {agreement.kind for agreement in wrong} <= set(words)


def test_progress_is_told_and_no_cases_are_refused() -> None:
    told: list[tuple[int, int]] = []
    check_array(nvdla(rows=2, cols=2), cases=9, seed=1, report=lambda done, total: told.append((done, total)))
    assert told[-1] == (9, 9)
    with pytest.raises(InvalidInput, match="cases=0 must be at least 1"):
        check_array(nvdla(rows=2, cols=2), cases=0)
