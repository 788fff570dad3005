"""How many trials: Leveugle's published numbers, and the sizes that the exact intervals need."""

import math

import pytest

from miscompute import InvalidInput
from miscompute.analysis import leveugle, rate, trials_for

# For 4,063,170 faults and p = 0.5, as published: margin, confidence, sample size.
PUBLISHED = [(0.05, 0.95, 385), (0.05, 0.99, 663), (0.01, 0.95, 9_581), (0.001, 0.95, 776_792)]


@pytest.mark.parametrize(("margin", "confidence", "published"), PUBLISHED)
def test_published_sample_sizes(margin: float, confidence: float, published: int) -> None:
    # Unrounded they are 384.12, 663.47, 9,581.36 and 776,792.05 (t = 1.960 and 2.576): one was published rounded up,
    # the others down. No t makes one rule of that. Ours are rounded up.
    found = leveugle(4_063_170, margin=margin, confidence=confidence)
    assert published in (found - 1, found)
    assert (found == published) == (margin == 0.05 and confidence == 0.95)


def test_the_published_t_is_the_rounded_quantile() -> None:
    # The quantile itself, 1.959964, gives 776,768.96: the table was not made with it.
    for t, published in ((1.96, 776_792), (1.959963985, 776_768)):
        assert math.floor(4_063_170 / (1 + 0.001**2 * 4_063_169 / (t**2 * 0.25))) == published


def test_few_faults_are_all_tried_and_many_need_no_more() -> None:
    assert leveugle(1, margin=0.01) == 1
    assert leveugle(100, margin=0.001) == 100
    assert leveugle(10**12, margin=0.01) == math.ceil(1.96**2 / 4 / 0.01**2)
    assert leveugle(10**6, margin=0.01, rate=0.01) < leveugle(10**6, margin=0.01) / 20


@pytest.mark.parametrize("at_rate", [0.0, 0.012, 0.5])
@pytest.mark.parametrize("population", [None, 5_000])
def test_trials_for_a_width(at_rate: float, population: int | None) -> None:
    trials = trials_for(0.02, at_rate=at_rate, population=population)
    assert rate(round(at_rate * trials), trials, population=population).width <= 0.02
    before = round(at_rate * (trials - 1))
    assert rate(before, trials - 1, population=population).width > 0.02


def test_a_width_of_zero_events_is_the_rule_of_three_for_two_sides() -> None:
    # -log(0.025) = 3.689; Blaker's needs fewer.
    assert trials_for(0.001, at_rate=0.0) == pytest.approx(3_689, abs=3)
    assert trials_for(0.001, at_rate=0.0, method="at-most") == pytest.approx(2_996, abs=3)
    assert trials_for(0.001, at_rate=0.0, method="blaker") < 3_680


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, "margin=0.0 must be between 0 and 1"),
        ({"margin": 0.1, "rate": 1.0}, "rate=1.0 must be between 0 and 1; 0.5 needs the most"),
        ({"margin": 0.1, "confidence": 95.0}, "confidence=95.0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        leveugle(100, **options)


def test_more_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match="population=0 must be at least 1"):
        leveugle(0, margin=0.1)
    with pytest.raises(InvalidInput, match=r"width=1.0 must be between 0 and 1"):
        trials_for(1.0, at_rate=0.1)
    with pytest.raises(InvalidInput, match=r"at_rate=-0.1 must be from 0 to 1"):
        trials_for(0.1, at_rate=-0.1)
    with pytest.raises(InvalidInput, match=r"at_rate=0.1 never|method='wald'"):
        trials_for(0.1, at_rate=0.1, method="wald")
