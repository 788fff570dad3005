"""Intervals of drawn faults hold what all faults say, over repeated draws of the counted outcomes of a small model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import miscompute as mc
from miscompute import InvalidInput
from miscompute.analysis import weighted_mean
from miscompute.formats import FORMATS
from miscompute.pvf import Faults, Protection, Vulnerability, advise
from miscompute.pvf._draws import Allocation, allocate
from miscompute.pvf._result import _Group

pytestmark = pytest.mark.usefixtures("one_thread")

REPETITIONS = 1000
HELD = 0.95 * REPETITIONS - 3 * (0.95 * 0.05 * REPETITIONS) ** 0.5  # three sigma; Clopper-Pearson's is hardly wider


class Counted(NamedTuple):
    model: nn.Module
    examples: Tensor
    result: Vulnerability
    """Of all faults."""
    tables: dict[str, np.ndarray]
    failures: np.ndarray

    @property
    def truth(self) -> tuple[float, float]:
        return float(self.failures.mean()) / self.result.inferences, float((self.failures > 0).mean())

    def allocation(self, trials: int, protection: Protection | None = None) -> Allocation:
        formats = dict.fromkeys(self.result.shapes, FORMATS["fp32"])
        return allocate(self.model, formats, self.result.effects, trials=trials, protection=protection)

    def draw(self, allocation: Mapping[str, np.ndarray], random: np.random.Generator) -> _Group:
        failures, weights = [], []
        for name, table in self.tables.items():
            for mine, number in zip(table.T, allocation[name].tolist(), strict=True):
                failures.append(random.choice(mine, number, replace=False) if mine.any() else mine[:number])
                weights.append(np.full(number, len(mine) / number))
        joined = np.concatenate(weights)
        return _Group(np.concatenate(failures), joined, len(self.failures), float(joined.max()), is_split=False)


@pytest.fixture(scope="module")
def counted() -> Counted:
    torch.manual_seed(0)
    centres = 2 * torch.randn(4, 16)
    labels = torch.arange(240) % 4
    examples = centres[labels] + torch.randn(240, 16)
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(examples[:200]), labels[:200]))
        optimizer.step()
    result = mc.vulnerability(model, examples[200:], criteria=("top1",))
    tables = {name: table.numpy() for name, table in result.failures().items()}
    return Counted(model, examples[200:], result, tables, np.concatenate([table.ravel() for table in tables.values()]))


def test_uniform_draws_cover_pvf_and_critical(counted: Counted) -> None:
    failures, truth = counted.failures, counted.truth
    random = np.random.default_rng(0)
    drawn = replace(counted.result, exhaustive=False)
    held = np.zeros(2, int)
    for _ in range(REPETITIONS):
        mine = random.choice(failures, 200, replace=False)
        group = _Group(mine, np.ones(200), len(failures), 1.0, is_split=False)
        row = drawn._row("model", group, 0.95)
        held += [truth[0] in row.pvf, truth[1] in row.critical]
    assert held[0] >= 0.94 * REPETITIONS
    assert held[1] >= HELD


def test_data_aware_draws_cover_pvf_and_critical(counted: Counted) -> None:
    allocation, truth = counted.allocation(500), counted.truth
    drawn = replace(counted.result, exhaustive=False, allocation=allocation)
    random = np.random.default_rng(1)
    held = np.zeros(2, int)
    for _ in range(REPETITIONS):
        row = drawn._row("model", counted.draw(allocation, random), 0.95)
        held += [truth[0] in row.pvf, truth[1] in row.critical]
    assert held[0] >= 0.94 * REPETITIONS
    assert held[1] >= HELD


def test_data_aware_draws_need_a_quarter_of_the_faults_for_the_same_width(counted: Counted) -> None:
    trials, repetitions, population = 2000, 20, len(counted.failures)
    allocation = counted.allocation(trials)
    aware = replace(counted.result, exhaustive=False, allocation=allocation)
    uniform = replace(counted.result, exhaustive=False)
    random = np.random.default_rng(2)
    few = [aware._row("model", counted.draw(allocation, random), 0.95).pvf.width for _ in range(repetitions)]
    usual = []
    for _ in range(repetitions):
        mine = random.choice(counted.failures, 4 * trials, replace=False)
        group = _Group(mine, np.ones(len(mine)), population, 1.0, is_split=False)
        usual.append(uniform._row("model", group, 0.95).pvf.width)
    assert np.mean(few) < np.mean(usual)


def test_what_a_data_aware_measurement_says_is_right_by_every_group(counted: Counted) -> None:
    exact = counted.result
    drawn = mc.vulnerability(counted.model, counted.examples, criteria=("top1",), trials=200, plan="data-aware", seed=4)
    counts = exact.failures()
    for name, table in drawn.failures().items():
        assert torch.equal(table[table >= 0], counts[name][table >= 0])
    assert sum(len(one.faults) for one in drawn.measured) == 200
    misses = 0
    for by in ("model", "layer", "parameter", "bit", "channel"):
        truths = {row.name: row for row in exact.rows(by)}
        for row in drawn.rows(by):
            truth = truths[row.name]
            assert row.population == truth.population
            misses += (truth.pvf.best not in row.pvf) + (truth.critical.best not in row.critical)
    assert misses <= 4  # of some 140 intervals
    # The estimates are of everything: they add up to the model's, whichever groups are summed.
    (whole,) = drawn.rows("model")
    for by in ("layer", "bit"):
        rows = drawn.rows(by)
        together = sum(row.pvf.best * row.population for row in rows) / whole.population
        assert together == pytest.approx(whole.pvf.best)
    frame = drawn.frame()
    weighed = (frame["weight"] * frame["top1"]).sum() / (whole.population * exact.inferences)
    assert weighed == pytest.approx(whole.pvf.best)
    assert frame["weight"].sum() == pytest.approx(whole.population)
    # Faults of one parameter and bit stand for as many, so they are as good as drawn alike.
    for row in drawn.cells("channel", "bit").values():
        if row.failures == 0 < row.faults < row.population:
            none = weighted_mean(np.zeros(row.faults), np.ones(row.faults), bound=1.0, normalised=True)
            assert row.pvf.high == pytest.approx(none.high)
    # What advice expects to prevent is the PVF that was estimated.
    assert advise(drawn, 0.0).pvf == pytest.approx(whole.pvf.best)


def test_a_frame_counts_what_was_tried_once(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, asked = mc.vulnerability(counted.model, counted.examples[:2], trials=60), []
    length = Faults.__len__
    monkeypatch.setattr(Faults, "__len__", lambda one: asked.append(one) or length(one))  # type: ignore[func-returns-value]
    assert drawn.frame()["weight"].to_list() == [len(counted.failures) / 60] * 60
    assert len(asked) <= 2 * len(drawn.measured) < 60 * 60


def test_protected_bits_get_few_trials(counted: Counted) -> None:
    masks = {name: (1 << 30,) * int(np.prod(shape)) for name, shape in counted.result.shapes.items()}
    usual, spared = counted.allocation(2000), counted.allocation(2000, Protection(masks=masks))
    for name in counted.result.shapes:
        assert spared[name][30] < usual[name][30]
        assert spared[name].min() >= 1
    assert sum(int(numbers.sum()) for numbers in spared.values()) == 2000


def test_what_cannot_be_drawn_is_refused(counted: Counted) -> None:
    def measured(**options: Any) -> None:
        mc.vulnerability(counted.model, counted.examples[:2], **options)

    with pytest.raises(
        InvalidInput, match="trials=127 must be at least 128 with plan='data-aware', one for each of 32"
    ):
        measured(trials=127, plan="data-aware")
    with pytest.raises(InvalidInput, match="plan='random' is unknown; choose from uniform, data-aware"):
        measured(trials=200, plan="random")
    with pytest.raises(
        InvalidInput, match="plan='data-aware' is of faults that are drawn, and all are asked for; give"
    ):
        measured(plan="data-aware")
    with pytest.raises(InvalidInput, match=r"trials=99999 exceed the 16256 faults that there are"):
        measured(trials=99_999, plan="data-aware")
