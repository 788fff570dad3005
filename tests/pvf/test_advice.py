"""What to protect: against every choice there is, and by measuring again with it protected."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import miscompute as mc
from miscompute._invalid import InvalidInput
from miscompute.formats import FORMATS
from miscompute.pvf import UNITS, Faults, Protection, Vulnerability, advise, effects_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def measure() -> Callable[..., Vulnerability]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    inputs = torch.randn(40, 3)

    def measured(**options: Any) -> Vulnerability:
        return mc.vulnerability(model, inputs, **{"format": "fp8_e5m2", **options})

    return measured


@pytest.fixture(scope="module")
def whole(measure: Callable[..., Vulnerability]) -> Vulnerability:
    return measure()


@pytest.mark.parametrize("by", UNITS)
@pytest.mark.parametrize("part", [0.4, 0.0])
def test_measured_again_with_it_protected_exactly_the_rest_is_left(
    measure: Callable[..., Vulnerability], whole: Vulnerability, by: str, part: float
) -> None:
    target = part * whole.rows("model")[0].pvf.best
    advice = advise(whole, target, by=by)
    again = measure(protection=advice.protection).rows("model")[0]
    assert again.pvf.best == pytest.approx(advice.remaining, abs=1e-12)
    assert advice.remaining <= target + 1e-12 < advice.pvf
    assert advice.at_least <= advice.bits <= advice.at_least + max(step.bits for step in advice.steps)
    assert advice.bits == sum(bin(mask).count("1") for masks in advice.protection.masks.values() for mask in masks)
    assert advice.stored_bits == 8 * (12 + 4 + 8)
    costs, rest = zip(*advice.curve, strict=True)
    assert list(costs) == sorted(costs)
    assert list(rest) == sorted(rest, reverse=True)
    assert rest[-1] == pytest.approx(0)


def test_no_choice_of_channels_is_cheaper_than_the_bound(whole: Vulnerability) -> None:
    target = 0.3 * whole.rows("model")[0].pvf.best
    advice = advise(whole, target, by="channel")
    rows = whole.rows("channel")
    total = sum(row.inferences for row in rows)
    best = min(
        sum(row.population for row in chosen)
        for size in range(len(rows) + 1)
        for chosen in combinations(rows, size)
        if (sum(row.failures for row in rows) - sum(row.failures for row in chosen)) / total <= target
    )
    assert advice.at_least <= best <= advice.bits


def test_finer_items_cost_less(whole: Vulnerability) -> None:
    bits = {by: advise(whole, 0.002, by=by).bits for by in UNITS}
    assert bits["cell"] <= bits["word"] <= bits["channel"]
    assert bits["cell"] <= bits["bit"] < 0.5 * whole.format.bits * 24


def test_of_drawn_faults_the_rest_is_measured_with_others(measure: Callable[..., Vulnerability]) -> None:
    drawn = measure(format="fp32", trials=150)
    advice = advise(drawn, 0.005)
    other = measure(format="fp32", trials=150, seed=1, protection=advice.protection).rows("model")[0]
    truth = measure(format="fp32", protection=advice.protection).rows("model")[0]
    assert truth.pvf.best in other.pvf
    assert other.pvf.best < drawn.rows("model")[0].pvf.low


def test_faults_of_several_bits_spare_only_what_is_protected(measure: Callable[..., Vulnerability]) -> None:
    kinds = ("burst:2",)
    faults = Faults(parameter="w", elements=(0, 1), effects=effects_of(kinds, FORMATS["fp8_e5m2"])[:1])
    values = replace(faults, protected=(0b01, 0b11)).values(torch.tensor([1.0, 1.0]), FORMATS["fp8_e5m2"])
    assert values.flatten().tolist() == [1.5, 1.0]
    result = measure(kinds=kinds)
    with pytest.raises(InvalidInput, match="by='bit' is for faults of one bit, and these have others"):
        advise(result, 0.01)
    advice = advise(result, 0.01, by="word")
    again = measure(kinds=kinds, protection=advice.protection).rows("model")[0]
    assert again.pvf.best == pytest.approx(advice.remaining, abs=1e-12)


def test_a_folder_tells_protected_faults_from_others(measure: Callable[..., Vulnerability], tmp_path: Path) -> None:
    before = measure(out=tmp_path).rows("model")[0]
    advice = advise(measure(out=tmp_path), 0.001)
    assert measure(out=tmp_path, protection=advice.protection).rows("model")[0].failures < before.failures
    assert measure(out=tmp_path).rows("model")[0] == before


def test_what_cannot_be(whole: Vulnerability) -> None:
    with pytest.raises(InvalidInput, match=r"target=1\.5 must be a share from 0 to 1"):
        advise(whole, 1.5)
    with pytest.raises(InvalidInput, match="by='row' is unknown; choose from bit, channel, word, cell"):
        advise(whole, 0.1, by="row")
    assert advise(whole, 1.0).steps == ()
    with pytest.raises(InvalidInput, match="masks of 'w' of Protection must not be negative"):
        Protection(masks={"w": (-1,)})
    with pytest.raises(InvalidInput, match="masks of 'w' of Protection are 1, but element 3 is asked for"):
        Protection(masks={"w": (1,)}).of("w", (3,))
    with pytest.raises(InvalidInput, match="protected of 'w' must be a mask for each of 2 elements, or none"):
        Faults(parameter="w", elements=(0, 1), effects=effects_of(["flip"], FORMATS["fp32"]), protected=(1,))
