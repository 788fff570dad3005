"""Random layers and faults against the reference: all agree, and what is wrong is noticed."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from miscompute import InvalidInput, nvdla
from miscompute.fault import SITES, Site, WeightRegister
from miscompute.hardware import Array, OutputStationary, WeightStationary, array_named, simd, systolic
from miscompute.injection import _sums
from miscompute.validation import Agreement, check_array, summed_up
from miscompute.validation._array import _draw

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked")

ARRAYS: dict[str, Array] = {
    "nvdla": nvdla(rows=4, cols=4),
    "nvdla B, odd": nvdla(rows=5, cols=3, grad_weight="B"),
    "nvdla, images": nvdla(rows=4, cols=4, image_mode="first"),
    "nvdla, two kernels a cell": nvdla(rows=4, cols=2, packs_two=True),
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


def test_the_other_kernel_of_a_cell_is_noticed() -> None:
    parts = Site._parts

    def swapped(self: Site, *args: Any) -> Any:
        return parts(self, *args)[::-1]

    with patch.object(Site, "_parts", swapped):
        agreements = check_array(nvdla(rows=4, cols=2, packs_two=True), cases=90, seed=3)
    wrong = {agreement.kind for agreement in agreements if not agreement.is_full}
    assert {"valid", "output"} <= wrong
    assert not wrong & {"activation", "activation-half", "activation-all"}  # one word, which both read


def test_agreements_sum_up() -> None:
    found = [
        Agreement(source="Nvdla", kind="weight", agreeing=2, cases=2),
        Agreement(source="Nvdla", kind="product", agreeing=1, cases=3, example="one"),
        Agreement(source="Nvdla", kind="adder", agreeing=0, cases=1, example="another"),
    ]
    total = Agreement(source="nvdla-2x2", kind="all", agreeing=3, cases=6, example="one")
    assert summed_up(found, source="nvdla-2x2") == total
    assert summed_up(found[:1], source="nvdla-2x2").is_full


def test_faults_and_layers_come_to_the_edges_of_a_large_array() -> None:
    random, array = np.random.default_rng(0), systolic(rows=128, cols=64)
    drawn = [case for case in (_draw(random, array) for _ in range(400)) if case is not None]
    places = [(site.row, site.col) for case in drawn if isinstance(site := case.fault.site, WeightRegister)]
    assert [max(of_one) for of_one in zip(*places, strict=True)] == [127, 63]
    assert max(case.layer.ic for case in drawn) > 128
    assert max(case.layer.oc for case in drawn) > 64
    few = [case for case in drawn if max(case.layer.n, case.layer.ic, case.layer.oc) <= 13]
    assert len(few) > 0.9 * len(drawn)


@pytest.mark.parametrize("kind", [WeightStationary, OutputStationary])
def test_a_word_that_is_not_passed_on_is_noticed_where_most_layers_are_smaller(kind: Any) -> None:
    reach, array = kind.reach, systolic(rows=40, cols=40, dataflow=DATAFLOWS[kind])
    with patch.object(kind, "reach", lambda *args, **kwargs: reach(*args, **(kwargs | {"passes_on": False}))):
        wrong = {found.kind for found in check_array(array, cases=450, seed=1) if not found.is_full}
    assert "activation" in wrong
    assert wrong <= {"activation", "activation-all", "weight", "weight-shadow"}


DATAFLOWS: Any = {WeightStationary: "weight-stationary", OutputStationary: "output-stationary"}


def test_progress_is_told_and_no_cases_are_refused() -> None:
    told: list[tuple[int, int]] = []
    check_array(nvdla(rows=2, cols=2), cases=9, seed=1, report=lambda done, total: told.append((done, total)))
    assert told[-1] == (9, 9)
    with pytest.raises(InvalidInput, match="cases=0 must be at least 1"):
        check_array(nvdla(rows=2, cols=2), cases=0)
