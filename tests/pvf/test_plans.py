"""Intervals of drawn faults hold what all faults say, over repeated draws of the counted outcomes of a small model."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import miscompute as mc
from miscompute.analysis import Stratum, neyman, rate, stratified_rate
from miscompute.formats import FORMATS
from miscompute.pvf import Faults, Vulnerability, effects_of

pytestmark = pytest.mark.usefixtures("one_thread")

REPETITIONS = 1000


class Counted(NamedTuple):
    result: Vulnerability
    failures: NDArray[np.int64]
    severity: NDArray[np.float64]
    """How much each fault changes its word, as a share of the parameter's root mean square: known before any trial."""


@pytest.fixture(scope="module")
def counted() -> Counted:
    torch.manual_seed(0)
    centres = 2 * torch.randn(4, 8)
    labels = torch.arange(240) % 4
    examples = centres[labels] + torch.randn(240, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(examples[:200]), labels[:200]))
        optimizer.step()
    result = mc.vulnerability(model, examples[200:], criteria=("top1",))
    severity = []
    effects = effects_of(["flip"], FORMATS["fp32"])
    for name, parameter in model.named_parameters():
        stored = parameter.detach().flatten()
        faults = Faults(parameter=name, elements=tuple(range(len(stored))), effects=effects)
        change = (faults.values(parameter, FORMATS["fp32"]) - stored[:, None]).abs().nan_to_num(nan=torch.inf)
        severity.append((change / stored.square().mean().sqrt()).flatten().double().numpy())
    failures = torch.cat([one.flatten() for one in result.failures().values()]).numpy()
    return Counted(result, failures, np.concatenate(severity))


def test_uniform_draws_cover_pvf_and_critical(counted: Counted) -> None:
    population = len(counted.failures)
    pvf, critical = counted.failures.mean() / counted.result.inferences, (counted.failures > 0).mean()
    random = np.random.default_rng(0)
    held = np.zeros(2, int)
    for _ in range(REPETITIONS):
        drawn = counted.failures[random.choice(population, 200, replace=False)]
        row = counted.result._row("model", drawn, population, 0.95)
        held += [pvf in row.pvf, critical in row.critical]
    assert (held >= 0.94 * REPETITIONS).all()


def test_data_aware_draws_cover_and_need_two_thirds_of_the_trials(counted: Counted) -> None:
    """Strata by what the weights say, dealt by guesses: low bits of the mantissa get few trials, exponents many."""
    events, trials = counted.failures > 0, 300
    strata = np.digitize(counted.severity, [0.05, 0.2, 0.5, 2.0])
    places = [np.flatnonzero(strata == number) for number in range(5)]
    dealt = neyman([len(one) for one in places], [0.01, 0.1, 0.5, 0.8, 0.8], trials=trials, least=2)
    random = np.random.default_rng(1)
    found, usual = [], []
    for _ in range(REPETITIONS // 4):
        drawn = [random.choice(one, many, replace=False) for one, many in zip(places, dealt, strict=True)]
        found.append(
            stratified_rate(
                [
                    Stratum(size=len(one), events=int(events[mine].sum()), trials=len(mine))
                    for one, mine in zip(places, drawn, strict=True)
                ]
            )
        )
        usual.append(
            rate(int(events[random.choice(len(events), 3 * trials // 2, replace=False)].sum()), 3 * trials // 2)
        )
    assert np.mean([events.mean() in one for one in found]) >= 0.94
    assert np.mean([one.width for one in found]) < np.mean([one.width for one in usual])
