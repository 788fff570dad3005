"""Swizzles: every one deals channels to lanes one to one; which moves when, and how a name is read."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miscompute import InvalidInput
from miscompute.hardware import SWIZZLES, RandomEachStep, Swizzle, swizzle_named

EVERY = [*SWIZZLES.values(), RandomEachStep(seed=7)]
every = st.sampled_from(EVERY)
rows = st.integers(1, 70)
places = st.fixed_dictionaries({name: st.integers(0, 10_000) for name in ("step", "layer", "stripe")})


@given(every, rows, places)
def test_lanes_are_a_permutation_and_always_the_same(swizzle: Swizzle, rows: int, place: dict[str, int]) -> None:
    lanes = swizzle.lanes(rows, **place)
    assert sorted(lanes) == list(range(rows))
    assert swizzle_named(str(swizzle)).lanes(rows, **place) == lanes


@given(every, rows, places, st.integers(0, 10_000))
def test_stripes_matter_to_those_that_say_so_and_come_back(
    swizzle: Swizzle, rows: int, place: dict[str, int], stripe: int
) -> None:
    other = place | {"stripe": place["stripe"] + rows if swizzle.per_stripe else stripe}
    assert swizzle.lanes(rows, **place) == swizzle.lanes(rows, **other)


@pytest.mark.parametrize("name", SWIZZLES)
def test_the_catalogue_has_names_that_read_back(name: str) -> None:
    swizzle = SWIZZLES[name]
    assert str(swizzle) == name
    assert swizzle_named(name) == swizzle
    assert swizzle.hardware
    assert eval(repr(swizzle), {type(swizzle).__name__: type(swizzle)}) == swizzle


@pytest.mark.parametrize(
    ("name", "moves_with"),
    [
        ("none", set()),
        ("step", {"step"}),
        ("stripe", {"step", "stripe"}),
        ("layer", {"layer"}),
        ("random", {"step"}),
    ],
)
def test_what_moves_the_lanes(name: str, moves_with: set[str]) -> None:
    still = {"step": 0, "layer": 0, "stripe": 0}
    lanes = SWIZZLES[name].lanes
    moved = {word for word in still if lanes(8, **(still | {word: 3})) != lanes(8, **still)}
    assert moved == moves_with


@given(rows)
def test_a_rotation_meets_every_lane_once_a_turn(rows: int) -> None:
    for name, word in (("step", "step"), ("stripe", "stripe"), ("layer", "layer")):
        still = {"step": 0, "layer": 0, "stripe": 0}
        met = [SWIZZLES[name].lanes(rows, **(still | {word: turn}))[0] for turn in range(rows)]
        assert met == list(range(rows))


def test_rotation_by_one_by_hand() -> None:
    assert SWIZZLES["step"].lanes(4, step=1, layer=0, stripe=0) == (1, 2, 3, 0)
    assert SWIZZLES["stripe"].lanes(4, step=1, layer=0, stripe=2) == (3, 0, 1, 2)


def test_random_lanes_are_even() -> None:
    # Channel 0 meets each of 8 lanes with probability 1/8: within 5 sigma of 250 in 2000 steps.
    met = [SWIZZLES["random"].lanes(8, step=step, layer=0, stripe=0)[0] for step in range(2000)]
    sigma = math.sqrt(2000 * 1 / 8 * 7 / 8)
    assert all(abs(met.count(lane) - 250) < 5 * sigma for lane in range(8))


def test_seeds_differ() -> None:
    one, other = (
        [RandomEachStep(seed=seed).lanes(8, step=step, layer=0, stripe=0) for step in range(5)] for seed in (0, 1)
    )
    assert not set(one) & set(other)  # nor is one seed another's shifted by some steps
    assert str(RandomEachStep(seed=7)) == "random:7"


@pytest.mark.parametrize("name", ["never", "random:", "random:x", "random:-1", "step:2", ""])
def test_an_unknown_name_is_refused(name: str) -> None:
    message = f"swizzle={name!r} is unknown; choose one of none, step, stripe, layer, random, random:SEED"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        swizzle_named(name)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InvalidInput, match="seed=-1 of RandomEachStep must not be negative"):
        RandomEachStep(seed=-1)
