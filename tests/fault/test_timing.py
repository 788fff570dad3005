"""Timings: when a fault is active."""

import math
import re
from collections.abc import Callable
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miscompute import PERMANENT, Intermittent, InvalidInput, Transient, parse_fault
from miscompute.fault import TIMINGS, Arrivals, Bursts, CycleBursts, DutyCycle, Permanent, RandomWord, Timing
from miscompute.formats import FORMATS
from miscompute.hardware import PASSES, Pass

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


def test_a_cycle_is_in_its_step_pass_and_layer() -> None:
    transient = Transient(step=7, pass_="forward", layer="fc", cycle=12, until="reload")
    assert transient.active(step=7, pass_="forward", layer="fc")
    assert not transient.active(step=7, pass_="grad_input", layer="fc")
    assert not transient.active(step=7, pass_="forward", layer="conv")
    assert not transient.active(step=8, pass_="forward", layer="fc")


# Random timings.


def steps_of(timing: Timing, steps: int) -> list[bool]:
    return [timing.active(step=step, pass_="forward", layer="fc") for step in range(steps)]


@pytest.mark.parametrize(("mean_on", "mean_off"), [(4.0, 6.0), (1.0, 9.0), (2.5, 1.0)])
def test_bursts_are_as_long_as_they_say(mean_on: float, mean_off: float) -> None:
    runs = [
        (on, len(list(run)))
        for on, run in groupby(steps_of(Bursts(mean_on=mean_on, mean_off=mean_off, seed=3), 15_000))
    ]
    assert runs[0][0] is False  # it starts absent
    for state, mean in ((True, mean_on), (False, mean_off)):
        lengths = [length for on, length in runs[:-1] if on == state]  # the last is cut off
        sigma = math.sqrt(mean * (mean - 1) / len(lengths))  # of the mean of geometric lengths
        assert abs(np.mean(lengths) - mean) <= 5 * sigma
        assert abs(lengths.count(1) / len(lengths) - 1 / mean) <= 5 * math.sqrt((1 - 1 / mean) / mean / len(lengths))


@settings(max_examples=20)
@given(st.permutations(range(40)), st.integers(0, 5))
def test_bursts_do_not_depend_on_who_asks_when(order: list[int], seed: int) -> None:
    timing = Bursts(mean_on=2.0, mean_off=3.0, seed=seed)
    others = [Bursts(mean_on=2.0, mean_off=3.0, seed=100 + other) for other in range(70)]  # more than are kept
    expected = steps_of(timing, 40)
    for other in others:
        other.active(step=0, pass_="forward", layer="fc")
    found = {step: timing.active(step=step, pass_="grad_input", layer="conv") for step in order}
    assert [found[step] for step in range(40)] == expected


def cycles_of(timing: CycleBursts, total: int, step: int = 0, pass_: Pass = "forward", layer: str = "fc") -> list[int]:
    found: list[int] = timing.cycles(total, step=step, pass_=pass_, layer=layer).tolist()
    return found


@pytest.mark.parametrize(("mean_on", "mean_off"), [(4.0, 6.0), (1.0, 9.0), (2.5, 1.0)])
def test_bursts_of_cycles_are_as_long_as_they_say_from_the_first_cycle_on(mean_on: float, mean_off: float) -> None:
    timing = CycleBursts(mean_on=mean_on, mean_off=mean_off, seed=3)
    there = np.zeros((1000, 100), dtype=bool)
    for step in range(1000):
        there[step, cycles_of(timing, 100, step)] = True
    part = mean_on / (mean_on + mean_off)
    assert (abs(there.mean(axis=0) - part) < 5 * math.sqrt(part * (1 - part) / 1000)).all()  # in every cycle alike
    whole = np.zeros(30_000, dtype=bool)
    whole[cycles_of(timing, len(whole))] = True
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for on, run in groupby(whole.tolist()):
        lengths[on].append(len(list(run)))
    for on, mean in ((True, mean_on), (False, mean_off)):
        some = lengths[on][1:-1]  # those at the ends are cut off
        sigma = math.sqrt(mean * (mean - 1) / len(some))  # of the mean of geometric lengths
        assert abs(np.mean(some) - mean) <= 5 * sigma


def test_bursts_of_cycles_are_drawn_for_each_execution_and_do_not_depend_on_its_length() -> None:
    timing = CycleBursts(mean_on=2.0, mean_off=3.0, seed=1)
    executions = [(step, pass_, layer) for step in range(2) for pass_ in PASSES for layer in ("fc", "conv")]
    found = [cycles_of(timing, 60, *execution) for execution in executions]
    assert len(set(map(tuple, found))) == len(executions)
    for total in (0, 1, 17):
        assert cycles_of(timing, total) == [cycle for cycle in found[0] if cycle < total]


def test_a_duty_cycle_hits_its_part_of_the_executions_each_by_itself() -> None:
    timing = DutyCycle(part=0.3, seed=1)
    hits = np.array(
        [
            [
                [timing.active(step=step, pass_=pass_, layer=layer) for layer in ("fc", "conv1", "conv2")]
                for pass_ in PASSES
            ]
            for step in range(1000)
        ]
    )
    assert abs(hits.mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / hits.size)
    flat = hits.reshape(1000, 9).astype(float)
    apart = np.corrcoef(flat, rowvar=False)[~np.eye(9, dtype=bool)]
    assert (abs(apart) < 5 / math.sqrt(1000)).all()  # no two executions of a step go together
    assert all(steps_of(DutyCycle(part=1.0, seed=1), 50))


@pytest.mark.parametrize("rate", [0.02, 0.7, 5.0])
def test_arrivals_come_at_their_rate(rate: float) -> None:
    hits, p = steps_of(Arrivals(faults_per_step=rate, seed=4), 8000), 1 - math.exp(-rate)
    assert abs(sum(hits) - 8000 * p) <= 5 * math.sqrt(8000 * p * (1 - p))


def test_an_arrival_hits_all_of_its_step() -> None:
    timing = Arrivals(faults_per_step=0.5, seed=4)
    for step in range(20):
        assert (
            len({timing.active(step=step, pass_=pass_, layer=layer) for pass_ in PASSES for layer in ("fc", "c")}) == 1
        )


def test_a_rare_arrival_is_as_rare_as_it_says_and_not_never() -> None:
    timing = Arrivals(faults_per_step=2e-3, seed=0)
    assert 1 <= sum(steps_of(timing, 7000)) <= 33  # 14, within 5 sigma


@pytest.mark.parametrize(
    "build", [lambda s: Bursts(mean_on=2.0, mean_off=2.0, seed=s), lambda s: DutyCycle(part=0.5, seed=s)]
)
def test_seeds_differ(build: Callable[[int], Timing]) -> None:
    one, other = steps_of(build(1), 400), steps_of(build(2), 400)
    assert 100 < sum(a != b for a, b in zip(one, other, strict=True)) < 300


@pytest.mark.parametrize("timing", [Arrivals(faults_per_step=0.02, seed=1), DutyCycle(part=0.02, seed=1)])
def test_that_a_step_is_hit_does_not_tell_which_word_comes_out(timing: Timing) -> None:
    # The seed is the effect's too, and effects are drawn by (step, pass, layer): here the first of each.
    hit = [step for step, is_hit in enumerate(steps_of(timing, 8000)) if is_hit]
    words = [RandomWord(seed=1).read(np.zeros(2, np.uint64), FORMATS["int8"], key=(step, 0, 0)) for step in hit]
    assert (abs(np.mean(words, axis=0) - 127.5) < 5 * 73.9 / math.sqrt(len(hit))).all()  # sigma of 0..255


LAYERS = ("fc", "c", "blocks.0.attention.scores")

# The timings that cannot tell: which layers there are is not theirs to know.
VAGUE = (CycleBursts, DutyCycle)


@pytest.mark.parametrize("word", TIMINGS)
def test_a_timing_says_exactly_whether_it_may_act(word: str) -> None:
    also = [
        Intermittent(on=2, off=3, start=4),
        Bursts(mean_on=2.0, mean_off=3.0, seed=5),
        DutyCycle(part=0.05, seed=2),
        Arrivals(faults_per_step=0.3, seed=2),
    ]
    for timing in [*SPELLED[word].values(), *(timing for timing in also if type(timing) is TIMINGS[word])]:
        for step in (*range(200), 10**4):
            layers = {*LAYERS, getattr(timing, "layer", None) or "fc"}
            active = [timing.active(step=step, pass_=pass_, layer=layer) for pass_ in PASSES for layer in layers]
            assert timing.may_act(step=step) or not any(active)  # never False for a step in which it acts
            if type(timing) not in VAGUE:
                assert timing.may_act(step=step) == any(active)


# One row a word of TIMINGS, so that a new one does not go untested.
SPELLED: dict[str, dict[str, Timing]] = {
    "permanent": {"permanent": PERMANENT},
    "transient": {
        "transient step 0": Transient(step=0),
        "transient step 7 pass grad_weight": Transient(step=7, pass_="grad_weight"),
        "transient step 7 layer blocks[0].fc": Transient(step=7, layer="blocks[0].fc"),
        "transient step 7 pass forward layer fc": Transient(step=7, pass_="forward", layer="fc"),
        "transient step 7 pass forward layer fc cycle 12": Transient(step=7, pass_="forward", layer="fc", cycle=12),
        "transient step 7 pass forward layer fc cycle 12 until reload": Transient(
            step=7, pass_="forward", layer="fc", cycle=12, until="reload"
        ),
    },
    "bursts": {"bursts mean_on 2.0 mean_off 3.5 seed 1": Bursts(mean_on=2.0, mean_off=3.5, seed=1)},
    "cycle-bursts": {
        "cycle-bursts mean_on 2.0 mean_off 350.0 seed 1": CycleBursts(mean_on=2.0, mean_off=350.0, seed=1)
    },
    "duty-cycle": {"duty-cycle part 0.25 seed 1": DutyCycle(part=0.25, seed=1)},
    "arrivals": {"arrivals faults_per_step 1e-05 seed 1": Arrivals(faults_per_step=1e-5, seed=1)},
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
            lambda: Transient(step=0, layer="fc", cycle=3),
            "cycle=3 of Transient needs a pass and a layer: cycles count within one pass",
        ),
        (lambda: Transient(step=0, pass_="forward", cycle=3), "cycle=3 of Transient needs a pass and a layer"),
        (
            lambda: Transient(step=0, pass_="forward", layer="fc", cycle=-1),
            "cycle=-1 of Transient must not be negative; the first cycle is 0",
        ),
        (
            lambda: Transient(step=0, until="end"),  # type: ignore[arg-type]
            "until='end' of Transient is unknown; choose one of cycle, reload",
        ),
        (
            lambda: Transient(step=0, until="reload"),
            "until='reload' of Transient needs the cycle in which the register is upset",
        ),
        (
            lambda: Bursts(mean_on=0.5, mean_off=1, seed=0),
            "Bursts needs finite mean_on >= 1 and mean_off >= 1 steps and seed >= 0, not mean_on=0.5, mean_off=1, "
            "seed=0",
        ),
        (lambda: Bursts(mean_on=1, mean_off=math.inf, seed=0), "not mean_on=1, mean_off=inf, seed=0"),
        (lambda: Bursts(mean_on=math.nan, mean_off=1, seed=0), "not mean_on=nan, mean_off=1, seed=0"),
        (lambda: Bursts(mean_on=1, mean_off=1, seed=-1), "not mean_on=1, mean_off=1, seed=-1"),
        (
            lambda: CycleBursts(mean_on=0.5, mean_off=1, seed=0),
            "CycleBursts needs finite mean_on >= 1 and mean_off >= 1 cycles and seed >= 0, not mean_on=0.5, "
            "mean_off=1, seed=0",
        ),
        (lambda: CycleBursts(mean_on=1, mean_off=math.inf, seed=0), "not mean_on=1, mean_off=inf, seed=0"),
        (lambda: CycleBursts(mean_on=1, mean_off=1, seed=-1), "not mean_on=1, mean_off=1, seed=-1"),
        (lambda: DutyCycle(part=0, seed=0), "DutyCycle needs 0 < part <= 1 and seed >= 0, not part=0, seed=0"),
        (lambda: DutyCycle(part=1.1, seed=0), "not part=1.1, seed=0"),
        (lambda: DutyCycle(part=math.nan, seed=0), "not part=nan, seed=0"),
        (lambda: DutyCycle(part=1, seed=-1), "not part=1, seed=-1"),
        (
            lambda: Arrivals(faults_per_step=0, seed=0),
            "Arrivals needs finite faults_per_step > 0 and seed >= 0, not faults_per_step=0, seed=0",
        ),
        (lambda: Arrivals(faults_per_step=math.inf, seed=0), "not faults_per_step=inf, seed=0"),
        (lambda: Arrivals(faults_per_step=1, seed=-1), "not faults_per_step=1, seed=-1"),
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
