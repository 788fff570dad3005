"""Plans: which faults they ask for, and that what they estimate is right, on a made-up population."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from miscompute import InvalidInput, nvdla
from miscompute.campaigns import (
    PLANS,
    Exhaustive,
    Fixed,
    Importance,
    Plan,
    Sequential,
    Stratified,
    plan_of,
    words_of,
)
from miscompute.fault import Extent, FaultSpace
from miscompute.formats import FORMATS

EXTENT = Extent(array=nvdla(rows=8, cols=2), format=FORMATS["bf16"])
SPACE = FaultSpace.parse("weight[*,*] bit * stuck-at *", EXTENT)  # 512 faults
WEIGHTED = FaultSpace.parse({"weight[*,*] bit 0..3 flip": 1.0, "weight[*,*] bit 14 flip": 9.0}, EXTENT)  # 80


def made_up(space: FaultSpace) -> dict[int, str]:
    """High bits crash often, and low ones never."""
    chances = {bit: 0.7 if bit >= 14 else 0.3 if bit >= 11 else 0.02 for bit in range(16)}
    draws = np.random.default_rng(0).random(space.size)
    bits = [space.labels(index)["bit"] for index in range(space.size)]
    return {i: "crash" if draws[i] < chances[bit] else "masked" for i, bit in enumerate(bits)}  # type: ignore[index]


TRUE = made_up(SPACE)
CRASHES = sum(outcome == "crash" for outcome in TRUE.values()) / SPACE.size
SHARES = {"14": 0.25, "15": 0.25, "*": 0.5}

EVERY: dict[str, Plan] = {
    "exhaustive": Exhaustive(),
    "fixed": Fixed(trials=90),
    "stratified": Stratified(by=("value", "bit"), trials=150, pilot=64, outcome="crash"),
    "importance": Importance(by="bit", shares=SHARES, trials=90),
    "sequential": Sequential(outcome="crash", width=0.2, most=400, batch_trials=40),
}


def walk(
    plan: Plan, space: FaultSpace, seed: int, true: dict[int, str]
) -> tuple[list[tuple[int, ...]], dict[int, str]]:
    """Run a campaign as its engine does."""
    batches: list[tuple[int, ...]] = []
    outcomes: dict[int, str] = {}
    while batch := plan.batch(space, seed, outcomes):
        batches.append(batch)
        outcomes.update((index, true[index]) for index in batch)
    return batches, outcomes


@pytest.mark.parametrize("kind", PLANS)
def test_batches_do_not_depend_on_the_order_in_which_trials_end(kind: str) -> None:
    plan = EVERY[kind]
    batches, outcomes = walk(plan, SPACE, 3, TRUE)
    asked = [index for batch in batches for index in batch]
    assert len(set(asked)) == len(asked) <= SPACE.size
    done: list[int] = []
    for batch in batches:
        # Resumed with the last of the batch ended first, the same batch is asked for, whole.
        some = {index: TRUE[index] for index in reversed([*done, *batch[1:]])}
        assert plan.batch(SPACE, 3, some) == batch
        done.extend(batch)
    assert plan.batch(SPACE, 3, outcomes) == ()
    assert plan.batch(SPACE, 4, {}) != plan.batch(SPACE, 3, {})
    assert len(batches) == {"stratified": 2, "sequential": len(batches)}.get(kind, 1)


@pytest.mark.parametrize(
    "plan",
    [
        Fixed(trials=60, confidence=0.8),
        Stratified(by=("value",), trials=60, pilot=12, outcome="crash", confidence=0.8),
        Stratified(by=("bit",), trials=80, pilot=32, outcome="crash", confidence=0.8),
        Importance(by="bit", shares=SHARES, trials=60, confidence=0.8),
        Importance(by="value", shares={"0": 0.8, "1": 0.2}, trials=60, confidence=0.8),
    ],
    ids=str,
)
def test_without_bias_and_with_the_stated_confidence(plan: Plan) -> None:
    campaigns = 12
    found = [plan.rates(SPACE, seed, TRUE)["crash"] for seed in range(campaigns)]
    best = np.array([estimate.best for estimate in found])
    assert abs(best.mean() - CRASHES) < 4 * best.std() / math.sqrt(campaigns)  # four sigma
    missed = sum(CRASHES not in estimate for estimate in found)
    assert missed <= 0.2 * campaigns + 3 * math.sqrt(0.2 * 0.8 * campaigns)  # three sigma


def test_sequences_hold_while_one_looks_all_the_time() -> None:
    plan, campaigns = Sequential(outcome="crash", width=0.01, most=200, batch_trials=20, confidence=0.8), 6
    missed = 0
    for seed in range(campaigns):
        outcomes: dict[int, str] = {}
        looks = []
        for batch in plan.batches(SPACE, seed, TRUE):
            outcomes.update((index, TRUE[index]) for index in batch)
            looks.append(1 - CRASHES in plan.rates(SPACE, seed, outcomes)["masked"])
        assert len(looks) == 10
        missed += not all(looks)
    assert missed <= 0.2 * campaigns + 3 * math.sqrt(0.2 * 0.8 * campaigns)  # three sigma


def test_sequential_stops_when_narrow_enough_and_not_before() -> None:
    plan = Sequential(outcome="crash", width=0.2, most=400, batch_trials=20)
    batches, outcomes = walk(plan, SPACE, 0, TRUE)
    assert plan.rates(SPACE, 0, outcomes)["crash"].width <= 0.2
    before = {index: TRUE[index] for batch in batches[:-1] for index in batch}
    assert plan.rates(SPACE, 0, before)["crash"].width > 0.2
    assert len(walk(replace(plan, most=50), SPACE, 0, TRUE)[1]) == 50
    assert len(walk(replace(plan, width=0.001, most=9_999), SPACE, 0, TRUE)[1]) == SPACE.size


def test_exhaustive_is_exact_and_a_sample_before() -> None:
    plan = Exhaustive()
    order = plan.batch(SPACE, 0, {})
    assert sorted(order) == list(range(SPACE.size))
    found = plan.rates(SPACE, 0, TRUE)["crash"]
    assert found.low == found.best == found.high == CRASHES
    part = plan.rates(SPACE, 0, {index: TRUE[index] for index in order[:100]})["crash"]
    assert part.trials == 100
    assert part.width > 0
    by_bit = plan.rates_by(SPACE, 0, TRUE, "bit")
    assert list(by_bit) == list(range(16))
    assert sum(rates["crash"].best for rates in by_bit.values() if "crash" in rates) / 16 == pytest.approx(CRASHES)


def test_trials_count_up_to_the_first_without_outcome() -> None:
    plan = Fixed(trials=50)
    order = plan.batch(SPACE, 0, {})
    early = {index: TRUE[index] for index in order if index != order[20]}
    assert plan.rates(SPACE, 0, early)["masked"].trials == 20
    # What the plan did not ask for does not count either.
    assert sum(rates.events or 0 for rates in plan.rates(SPACE, 0, TRUE).values()) == 50


@pytest.mark.parametrize("kind", PLANS)
def test_a_family_stands_for_its_classes_and_what_was_never_seen_has_a_limit(kind: str) -> None:
    classes = {
        i: "late INF/NaN" if o == "crash" and i % 2 else "immediate INF/NaN" if o == "crash" else o
        for i, o in TRUE.items()
    }
    batches, outcomes = walk(EVERY[kind], SPACE, 5, classes)
    assert (batches, outcomes.keys()) == (walk(EVERY[kind], SPACE, 5, TRUE)[0], outcomes.keys())  # which crash steers
    found = EVERY[kind].rates(SPACE, 5, outcomes, ("crash", "nothing", "silent corruption"))
    expected = EVERY[kind].rates(SPACE, 5, {i: TRUE[i] for i in outcomes})
    assert (found["crash"], found["nothing"]) == (expected["crash"], expected["masked"])
    never = found["silent corruption"]
    assert (never.best, never.low) == (0, 0)
    assert (never.high > 0) == (kind != "exhaustive")
    by_value = EVERY[kind].rates_by(SPACE, 5, outcomes, "bit" if kind == "importance" else "value", ("adapted",))
    assert all(rates["adapted"].best == 0 for rates in by_value.values())


def test_rates_by_label_hold() -> None:
    campaigns = 2
    for plan, axis in ((Fixed(trials=100, confidence=0.8), "value"), (EVERY["importance"], "bit")):
        true = {k: [TRUE[i] for i in s] for s in SPACE.strata((axis,)) for k in s.key}
        missed = looked = 0
        for seed in range(campaigns):
            for label, rates in plan.rates_by(SPACE, seed, TRUE, axis).items():
                share = true[label].count("crash") / len(true[label])
                missed += "crash" in rates and share not in rates["crash"]
                looked += 1
        error = 1 - plan.confidence
        assert missed <= error * looked + 3 * math.sqrt(error * (1 - error) * looked)  # three sigma
    # A stratum's interval knows how many faults the stratum has: of bit 15, with 32, 22 or more were tried.
    few = EVERY["importance"].rates_by(SPACE, 0, TRUE, "bit")[15]["crash"]
    assert few.trials is not None
    assert few.trials >= 22
    both = EVERY["stratified"].rates_by(SPACE, 0, TRUE, "value")
    assert set(both) == {0, 1}


def test_weighted_faults_are_drawn_by_weight() -> None:
    true = made_up(WEIGHTED)
    total = math.fsum(WEIGHTED.weight(i) for i in true)
    share = math.fsum(WEIGHTED.weight(i) for i, outcome in true.items() if outcome == "crash") / total
    exact = Exhaustive().rates(WEIGHTED, 0, true)["crash"]
    assert exact.low == exact.high == pytest.approx(share)
    campaigns = 16
    plans: tuple[Plan, ...] = (
        Fixed(trials=100, confidence=0.8),
        Sequential(outcome="crash", width=0.01, most=100, confidence=0.8),
    )
    for plan in plans:
        found = [plan.rates(WEIGHTED, seed, true)["crash"] for seed in range(campaigns)]
        best = np.array([estimate.best for estimate in found])
        assert {estimate.trials for estimate in found} == {100}
        assert abs(best.mean() - share) < 4 * best.std() / math.sqrt(campaigns)  # four sigma
        missed = sum(share not in estimate for estimate in found)
        assert missed <= 0.2 * campaigns + 3 * math.sqrt(0.2 * 0.8 * campaigns)  # three sigma


@pytest.mark.parametrize("kind", PLANS)
def test_failed_trials_are_left_out_and_counted(kind: str) -> None:
    true = {index: "failed" if index % 7 == 0 else outcome for index, outcome in TRUE.items()}
    plan = EVERY[kind]
    batches, outcomes = walk(plan, SPACE, 1, true)
    asked = [index for batch in batches for index in batch]
    rates = plan.rates(SPACE, 1, outcomes)
    failed = sum(true[index] == "failed" for index in asked)
    assert (rates["failed"].events, rates["failed"].trials) == (failed, len(asked))
    assert rates["crash"].trials == rates["masked"].trials == len(asked) - failed
    assert rates["crash"].best + rates["masked"].best == pytest.approx(1)
    if kind == "exhaustive":
        assert rates["crash"].width == 0


def test_margin_is_leveugles() -> None:
    assert len(Fixed(margin=0.05).batch(SPACE, 0, {})) == 220
    assert len(Fixed(margin=0.05, p=0.1).batch(SPACE, 0, {})) == 110
    assert len(Fixed(margin=0.05).batch(WEIGHTED, 0, {})) == 385  # with replacement


def test_shares_are_of_the_trials() -> None:
    tried = Counter(SPACE.labels(i)["bit"] for i in Importance(by="bit", shares=SHARES, trials=112).batch(SPACE, 0, {}))
    assert tried == {bit: 28 if bit >= 14 else 4 for bit in range(16)}
    # More than a stratum has go to the others.
    tried = Counter(SPACE.labels(i)["bit"] for i in Importance(by="bit", shares=SHARES, trials=260).batch(SPACE, 0, {}))
    assert tried[14] == tried[15] == 32
    assert sum(tried.values()) == 260


def test_the_rest_goes_where_the_pilot_saw_events() -> None:
    plan = Stratified(by=("bit",), trials=200, pilot=48, outcome="crash")
    pilot, rest = plan.batches(SPACE, 0, TRUE)
    assert set(Counter(SPACE.labels(i)["bit"] for i in pilot).values()) == {3}
    dealt = Counter(SPACE.labels(i)["bit"] for i in rest)
    assert (len(pilot), len(rest), len(dealt)) == (48, 152, 16)
    assert min(dealt[11], dealt[13], dealt[14]) > max(dealt[bit] for bit in range(4))
    # Before the rest, the pilot alone tells.
    assert plan.rates(SPACE, 0, {i: TRUE[i] for i in pilot})["masked"].trials == 48


@pytest.mark.parametrize("plan", [*EVERY.values(), Fixed(margin=0.01, confidence=0.9)], ids=str)
def test_words_are_read_back(plan: Plan) -> None:
    assert plan_of(words_of(plan)) == plan
    assert hash(plan_of(words_of(plan))) == hash(plan)


def test_importance_is_read_from_a_file() -> None:
    words = {"kind": "importance", "by": "bit", "shares": {"14": 0.25, "15": 0.25, "*": 0.5}, "trials": 90}
    assert plan_of(words) == EVERY["importance"]
    words = {"kind": "stratified", "by": ["value", "bit"], "trials": 150, "pilot": 64, "outcome": "crash"}
    assert plan_of(words) == EVERY["stratified"]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: plan_of({"kind": "random"}), "plan.kind='random' is not known; choose from exhaustive, fixed, strat"),
        (lambda: plan_of({"trials": 5}), "plan.kind=None is not known"),
        (
            lambda: plan_of({"kind": "fixed", "pilot": 5}),
            "plan.pilot=5 is not of plan.kind='fixed'; it has confidence,",
        ),
        (
            lambda: plan_of({"kind": "fixed", "trials": "many"}),
            "plan.trials='many' of plan.kind='fixed' must be a whole",
        ),
        (lambda: plan_of({"kind": "fixed", "trials": True}), "plan.trials=True of .* must be a whole number"),
        (lambda: plan_of({"kind": "fixed", "margin": "5 %"}), "plan.margin='5 %' of .* must be a number"),
        (lambda: plan_of({"kind": "stratified", "by": "bit"}), "plan.by='bit' of .* must be a list of words"),
        (
            lambda: plan_of({"kind": "importance", "shares": [1]}),
            r"plan.shares=\[1\] of .* a table from label to number",
        ),
        (lambda: plan_of({"kind": "sequential", "outcome": 3}), "plan.outcome=3 of .* must be a word"),
        (
            lambda: plan_of({"kind": "sequential", "outcome": "crash"}),
            "plan.width is missing: plan.kind='sequential' needs width, most",
        ),
        (lambda: Fixed(), "plan.trials=None and plan.margin=None: give one of them"),
        (lambda: Fixed(trials=5, margin=0.1), "plan.trials=5 and plan.margin=0.1: give one of them"),
        (lambda: Fixed(trials=0), "plan.trials=0 must be at least 1"),
        (lambda: Fixed(margin=1.5), "plan.margin=1.5 must be between 0 and 1"),
        (lambda: Fixed(trials=5, confidence=95.0), "plan.confidence=95.0 must be between 0 and 1, for example 0.95"),
        (lambda: Sequential(outcome="crash", width=2.0, most=9), "plan.width=2.0 must be between 0 and 1"),
        (lambda: Sequential(outcome="crash", width=0.1, most=0), "plan.most=0 must be at least 1"),
        (lambda: Stratified(by=(), trials=9, pilot=4, outcome="crash"), r"plan.by=\(\) must name at least one axis"),
        (
            lambda: Stratified(by=("bit",), trials=9, pilot=9, outcome="crash"),
            "plan.trials=9 must be more than plan.pilot=9, which is a part",
        ),
        (lambda: Importance(by="bit", shares={"3": 0.5}, trials=9), r"plan.shares=\{'3': 0.5\} must each .* sum to 1"),
        (lambda: Importance(by="bit", shares={"3": 1.0, "*": 0.0}, trials=9), "must each be above 0 and sum to 1"),
        (
            lambda: Fixed(trials=600).batch(SPACE, 0, {}),
            "plan.trials=600 must be at most 512, all faults; plan.kind='ex",
        ),
        (
            lambda: Stratified(by=("bit",), trials=90, pilot=20, outcome="crash").batch(SPACE, 0, {}),
            "plan.pilot=20 must be at least 32: 2 for each of 16 strata",
        ),
        (
            lambda: Stratified(by=("bit",), trials=40, pilot=32, outcome="crash").batch(SPACE, 0, {}),
            "plan.trials=40 must be at least 48: after the pilot, 1 for each of 16 strata",
        ),
        (
            lambda: Importance(by="bit", shares=SHARES, trials=9).batch(SPACE, 0, {}),
            "plan.trials=9 must be at least 16: 1 for each bit",
        ),
        (
            lambda: Importance(by="bit", shares={"16": 0.5, "*": 0.5}, trials=90).batch(SPACE, 0, {}),
            r"plan.shares=\{'16': 0.5, .* must be for each bit once, '\*' for those not named: 0, 1, 2",
        ),
        (lambda: Importance(by="bit", shares={"3": 1.0}, trials=90).batch(SPACE, 0, {}), "must be for each bit once"),
        (
            lambda: Importance(by="bit", shares=SHARES, trials=9).batch(WEIGHTED, 0, {}),
            "plan.by=bit is for faults of equal weight, and these have several; use plan.kind='fixed'",
        ),
        (
            lambda: EVERY["importance"].rates_by(SPACE, 0, TRUE, "row"),
            "axis='row' is not in plan.by=bit, whose strata have shares of their own",
        ),
        (lambda: Fixed(trials=9).rates_by(SPACE, 0, TRUE, "rows"), r"by=\['rows'\] of strata must be of this space's"),
        (lambda: Fixed(trials=9).rates(SPACE, 0, {}), "outcomes: the plan's first trial has none"),
        (lambda: EVERY["stratified"].rates(SPACE, 0, {}), "outcomes: the plan's first trial has none"),
        (
            lambda: EVERY["importance"].rates(
                SPACE, 0, {i: TRUE[i] for i in EVERY["importance"].batch(SPACE, 0, {})[:1]}
            ),
            "outcomes: the trials of bit 1 have no outcome yet, and without them the strata give no rate",
        ),
        (
            lambda: EVERY["importance"].rates(
                SPACE, 0, {i: "failed" if SPACE.labels(i)["bit"] == 3 else o for i, o in TRUE.items()}
            ),
            "outcomes: the trials of bit 3 all failed",
        ),
        (
            lambda: Exhaustive().rates(WEIGHTED, 0, dict.fromkeys(Exhaustive().batch(WEIGHTED, 0, {})[:20], "masked")),
            "plan.kind='exhaustive' of weighted faults has no rates until all 80 are tried, not 20; 'fixed' has",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(action: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as raised:
        action()
    assert "\n" not in str(raised.value)
