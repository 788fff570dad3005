"""Timings: when a fault is active."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miscompute import PERMANENT, Intermittent, InvalidInput, Transient, parse_fault
from miscompute.fault import TIMINGS, Permanent, Timing
from miscompute.hardware import PASSES

steps = st.integers(0, 1000)


@given(steps)
def test_permanent_is_always(step: int) -> None:
    assert all(PERMANENT.active(step=step, pass_=pass_, layer="fc") for pass_ in PASSES)
    assert Permanent() == PERMANENT


@given(steps, steps)
def test_transient_is_one_step(step: int, other: int) -> None:
    for pass_ in PASSES:
        assert Transient(step=step).active(step=other, pass_=pass_, layer="fc") == (step == other)


def test_transient_may_name_its_pass_and_layer() -> None:
    transient = Transient(step=7, pass_="grad_input", layer="fc")
    active = [
        (step, pass_, layer)
        for step in range(10)
        for pass_ in PASSES
        for layer in ("fc", "conv")
        if transient.active(step=step, pass_=pass_, layer=layer)
    ]
    assert active == [(7, "grad_input", "fc")]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 20))
def test_intermittent_is_on_and_off_in_turn(on: int, off: int, start: int) -> None:
    timing = Intermittent(on=on, off=off, start=start)
    active = [timing.active(step=step, pass_="forward", layer="fc") for step in range(start + 3 * (on + off))]
    assert active == [False] * start + 3 * ([True] * on + [False] * off)


# One row a word of TIMINGS, so that a new one does not go untested.
SPELLED: dict[str, dict[str, Timing]] = {
    "permanent": {"permanent": PERMANENT},
    "transient": {
        "transient step 0": Transient(step=0),
        "transient step 7 pass grad_weight": Transient(step=7, pass_="grad_weight"),
        "transient step 7 layer blocks[0].fc": Transient(step=7, layer="blocks[0].fc"),
        "transient step 7 pass forward layer fc": Transient(step=7, pass_="forward", layer="fc"),
    },
    "intermittent": {
        "intermittent on 1 off 2": Intermittent(on=1, off=2),
        "intermittent on 1 off 2 start 3": Intermittent(on=1, off=2, start=3),
    },
}


@pytest.mark.parametrize("word", TIMINGS)
def test_the_catalogue_is_spelled_parsed_and_evaluates_back(word: str) -> None:
    for text, timing in SPELLED[word].items():
        assert type(timing) is TIMINGS[word]
        assert str(timing) == text
        assert parse_fault(f"weight[0,0] bit 0 flip {text}").timing == timing
        assert eval(repr(timing)) == timing


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Transient(step=-1), "step=-1 of Transient must not be negative; the first step is 0"),
        (
            lambda: Transient(step=0, pass_="backward"),  # type: ignore[arg-type]
            "pass_='backward' of Transient is unknown; choose one of forward, grad_input, grad_weight",
        ),
        (lambda: Transient(step=0, layer="a b"), "layer='a b' of Transient must be a name without blanks"),
        (lambda: Transient(step=0, layer=""), "layer='' of Transient must be a name without blanks"),
        (
            lambda: Intermittent(on=0, off=1),
            "Intermittent needs on >= 1, off >= 1 and start >= 0 steps, not on=0, off=1, start=0",
        ),
        (lambda: Intermittent(on=1, off=0), "not on=1, off=0, start=0"),
        (lambda: Intermittent(on=1, off=1, start=-1), "not on=1, off=1, start=-1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_timing_that_cannot_be_is_refused(build: Callable[[], Timing], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        build()
