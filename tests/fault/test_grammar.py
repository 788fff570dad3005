"""The fault string: every fault's parses back, and a wrong one says which word."""

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from miscompute import (
    PERMANENT,
    Fault,
    Flip,
    Intermittent,
    InvalidInput,
    StuckAt,
    Transient,
    WeightRegister,
    parse_fault,
)
from miscompute import fault as names
from miscompute.fault import (
    EFFECTS,
    SITES,
    TIMINGS,
    WORD_EFFECTS,
    Arrivals,
    Bursts,
    CycleBursts,
    DutyCycle,
    Effect,
    Memory,
    Moved,
    RandomFlips,
    RandomWord,
    SetTo,
    Site,
    Timing,
    When,
)
from miscompute.hardware import PASSES

numbers = st.integers(0, 10**6)
positive = numbers.map(lambda n: n + 1)
bits = st.integers(0, 63)
# A layer's or a parameter's name is whatever a model calls it, less blanks (and what ends an index).
layers = st.text(min_size=1, max_size=12).filter(lambda name: name.split() == [name])
stored = layers.filter(lambda name: not set(name) & set(",]"))


@st.composite
def sites(draw: st.DrawFn) -> Site:
    spelling = draw(st.sampled_from(list(SITES.values())))
    kinds: dict[str, st.SearchStrategy[object]] = {"name": stored, "state": stored, "length": positive}
    given = spelling.indices[: len(spelling.indices) - draw(st.integers(0, spelling.optional))]
    site: Site = spelling.build(**{name: draw(kinds.get(name, numbers)) for name in given})
    return site


EFFECT_STRATEGIES: dict[str, st.SearchStrategy[Effect]] = {
    "stuck-at": st.builds(StuckAt, bit=bits, value=st.integers(0, 1)),
    "flip": st.builds(Flip, bits=st.lists(bits, min_size=1, max_size=5, unique=True).map(tuple)),
    "set-to": st.builds(SetTo, value=st.floats()),
    "random-word": st.builds(RandomWord, seed=numbers),
    "random-finite": st.builds(RandomWord, seed=numbers, finite=st.just(value=True)),
    "random-flips": st.builds(
        RandomFlips, seed=numbers, weights=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=4).map(tuple)
    ),
    "moved": st.builds(Moved, by=st.integers(-99, 99).filter(bool)),
}
effects = st.sampled_from([*EFFECTS, *WORD_EFFECTS]).flatmap(EFFECT_STRATEGIES.__getitem__)
conditions = st.tuples(st.integers(1, 2**20), st.integers(0, 2**20))


@st.composite
def conditional_effects(draw: st.DrawFn) -> Effect:
    effect: Effect = draw(effects)
    for mask, pattern in draw(st.lists(conditions, max_size=2)):
        effect = When(effect=effect, mask=mask, pattern=pattern & mask)
    return effect


TIMING_STRATEGIES: dict[str, st.SearchStrategy[Timing]] = {
    "permanent": st.just(PERMANENT),
    "transient": st.builds(Transient, step=numbers, pass_=st.none() | st.sampled_from(PASSES), layer=st.none() | layers)
    | st.builds(
        Transient,
        step=numbers,
        pass_=st.sampled_from(PASSES),
        layer=layers,
        cycle=numbers,
        until=st.sampled_from(["cycle", "reload"]),
    ),
    "intermittent": st.builds(Intermittent, on=positive, off=st.integers(1, 99), start=numbers),
    "bursts": st.builds(Bursts, mean_on=st.floats(1, 1e9), mean_off=st.floats(1, 1e9), seed=numbers),
    "cycle-bursts": st.builds(CycleBursts, mean_on=st.floats(1, 1e9), mean_off=st.floats(1, 1e9), seed=numbers),
    "duty-cycle": st.builds(DutyCycle, part=st.floats(1e-12, 1), seed=numbers),
    "arrivals": st.builds(Arrivals, faults_per_step=st.floats(1e-30, 1e9), seed=numbers),
}
faults = st.builds(
    Fault,
    site=sites(),
    effect=conditional_effects(),
    timing=st.sampled_from(list(TIMINGS)).flatmap(TIMING_STRATEGIES.__getitem__),
)


@settings(max_examples=150)
@given(faults)
@example(
    Fault(
        site=Memory(store="optimizer", name="blocks[0.fc", state="m[v", index=3),
        effect=SetTo(value=1e300),
        timing=Transient(step=0, pass_="forward", layer="cycle", cycle=1),
    )
)
@example(
    Fault(
        site=WeightRegister(row=0, col=0),
        effect=Flip(bits=(0,)),
        timing=Transient(step=0, pass_=None, layer="blocks[0].fc[1"),
    )
)
def test_a_faults_string_parses_back_and_its_repr_evaluates_back(fault: Fault) -> None:
    assert parse_fault(str(fault)) == fault
    assert eval(repr(fault), vars(names)) == fault


def test_every_row_of_every_catalogue_is_generated() -> None:
    assert set(EFFECT_STRATEGIES) == {*EFFECTS, *WORD_EFFECTS}
    assert set(TIMING_STRATEGIES) == set(TIMINGS)


@pytest.mark.parametrize(
    "text",
    [
        "weight[0,3] bit 28 stuck-at 0",
        "  weight[0,3]   bit  28 stuck-at 0 ",
        "weight[0, 3] bit 28 stuck-at 0",
        "weight [ 0 , 3 ] bit 28 stuck-at 0",
        "weight[0,3] bits 28 stuck-at 0 permanent",
        "weight[0,3]\tbit 28 stuck-at 0",
    ],
)
def test_blanks_and_the_word_permanent_may_be_there(text: str) -> None:
    assert parse_fault(text) == Fault(site=WeightRegister(row=0, col=3), effect=StuckAt(bit=28, value=0))


def test_the_words_of_a_timing_come_in_any_order() -> None:
    fault = parse_fault("weight[0,0] bit 1 flip transient layer fc pass forward step 7")
    assert fault.timing == Transient(step=7, pass_="forward", layer="fc")


def test_the_words_of_an_effect_come_in_any_order_too() -> None:
    fault = parse_fault("weight[0,0] random-flips weights 1,3 seed 7 arrivals seed 2 faults_per_step 0.5")
    assert fault.effect == RandomFlips(seed=7, weights=(1.0, 3.0))
    assert fault.timing == Arrivals(faults_per_step=0.5, seed=2)


def test_a_number_of_numpys_is_spelled_as_a_number() -> None:
    effects = SetTo(value=np.float64(0.5)), RandomFlips(seed=1, weights=(np.float64(0.5),))
    timings = (
        Bursts(mean_on=np.float64(2), mean_off=np.float64(2), seed=1),
        DutyCycle(part=np.float64(0.5), seed=1),
        Arrivals(faults_per_step=np.float64(0.5), seed=1),
    )
    for effect in effects:
        for timing in timings:
            fault = Fault(site=WeightRegister(row=0, col=0), effect=effect, timing=timing)
            assert parse_fault(str(fault)) == fault


NO_SITE = f"expected a site with its place in brackets, one of {', '.join(SITES)}"
NO_EFFECT = f"expected 'bit', 'bits', {' or '.join(map(repr, WORD_EFFECTS))}"
NO_TIMING = f"expected {', '.join(TIMINGS)} or the end"
NO_BITS = "expected a bit number, or several with commas between"
NO_NAME = "name='a b' of Memory must be a name without blanks, commas and closing brackets"
NO_MASK = "mask=1 of When must be positive and hold all bits of pattern=2"
NO_FLIP = "bits=(1, 1) of Flip must be one or more different bits, none negative"
NO_CYCLE = "cycle=2 of Transient needs a pass and a layer: cycles count within one pass"
NO_PART = "DutyCycle needs 0 < part <= 1 and seed >= 0, not part=2.0, seed=1"
NO_STEPS = "Intermittent needs on >= 1, off >= 1 and start >= 0 steps, not on=0, off=1, start=0"


@pytest.mark.parametrize(
    ("marked", "problem"),
    [
        (">> <<", "a site such as weight[0,0] is missing at the end"),
        (">>wait[0,0]<< bit 1 flip", NO_SITE),
        (">>weight<< bit 1 flip", NO_SITE),
        (">>weight[0,0<<", NO_SITE),
        (">>weight[0]<< bit 1 flip", "expected weight[row,col] with numbers"),
        (">>weight[0,1,2]<< bit 1 flip", "expected weight[row,col] with numbers"),
        (">>weight[0,x]<< bit 1 flip", "expected weight[row,col] with numbers"),
        (">>weight[0,-1]<< bit 1 flip", "expected weight[row,col] with numbers"),
        (">>weight-memory[w,x]<< bit 1 flip", "expected weight-memory[name,index,length] with numbers"),
        (">>weight-memory[,0]<< bit 1 flip", "expected weight-memory[name,index,length] with numbers"),
        (">>weight-memory[a b,0]<< bit 1 flip", NO_NAME),
        (">>weight-elements[0,0]<< bit 1 flip", "Elements needs first >= 0 and length >= 1, not first=0, length=0"),
        (">>adder[0,0,1,1]<< bit 1 flip", "expected adder[row,col,level] with numbers"),
        (">>weight-bus[0,1]<< bit 1 flip", "expected weight-bus[row] with numbers"),
        ("weight[0,0] >> <<", "'bit' is missing at the end"),
        ("weight[0,0] >>but<< 1 flip", NO_EFFECT),
        ("weight[0,0] bit >> <<", "a bit is missing at the end"),
        ("weight[0,0] bit >>1,<< 2 flip", NO_BITS),
        ("weight[0,0] bit >>-1<< flip", NO_BITS),
        ("weight[0,0] bit 1 >> <<", "stuck-at or flip is missing at the end"),
        ("weight[0,0] bit 1 >>slip<<", "expected stuck-at or flip"),
        ("weight[0,0] bit 1 stuck-at >> <<", "the value of stuck-at, 0 or 1 is missing at the end"),
        ("weight[0,0] bit 1 stuck-at >>x<<", "expected the value of stuck-at, 0 or 1, a number"),
        ("weight[0,0] bit 1 stuck-at >>2<<", "value=2 of StuckAt must be 0 or 1"),
        ("weight[0,0] bits 1,2 stuck-at >>0<<", "stuck-at takes one bit and the value 0 or 1"),
        ("weight[0,0] bits 1,1 >>flip<<", NO_FLIP),
        ("weight[0,0] bit 1 flip >>now<<", NO_TIMING),
        ("weight[0,0] bit 1 flip permanent >>x<<", "expected the end"),
        ("weight[0,0] bit 1 flip transient >> <<", "transient needs 'step N', missing at the end"),
        ("weight[0,0] bit 1 flip transient step >> <<", "step is missing at the end"),
        ("weight[0,0] bit 1 flip transient step >>x<<", "expected step, a number"),
        ("weight[0,0] bit 1 flip transient >>when<< 1", "expected step or pass or layer or cycle or until"),
        ("weight[0,0] bit 1 flip transient step 1 >>step<< 2", "expected pass or layer or cycle or until"),
        (
            "weight[0,0] bit 1 flip transient pass >>back<< step 1",
            "expected a pass, one of forward, grad_input, grad_weight",
        ),
        ("weight[0,0] set-to >> <<", "a value is missing at the end"),
        ("weight[0,0] set-to >>x<<", "expected a value, a number"),
        ("weight[0,0] random-word >> <<", "random-word needs 'seed N', missing at the end"),
        ("weight[0,0] random-word seed >>x<<", "expected seed, a number"),
        ("weight[0,0] random-word seed >>-1<<", "seed=-1 must not be negative"),
        ("weight[0,0] random-word seed 1 >>seed<< 1", NO_TIMING),
        ("weight[0,0] random-flips seed 1 weights >>1,x<<", "expected weights, a number"),
        ("weight[0,0] moved by >>0<<", "by=0 of Moved moves nothing; choose another distance"),
        ("weight[0,0] bit 1 flip when >>x<< is 1", "expected a mask, a number"),
        ("weight[0,0] bit 1 flip when 1 >>be<< 1", "expected 'is'"),
        ("weight[0,0] bit 1 flip when 1 is >>2<<", NO_MASK),
        ("weight[0,0] bit 1 flip transient step 1 cycle >>2<<", NO_CYCLE),
        ("weight[0,0] bit 1 flip bursts mean_on 1 mean_off 2 >> <<", "bursts needs 'seed N', missing at the end"),
        ("weight[0,0] bit 1 flip duty-cycle seed 1 part >>2<<", NO_PART),
        ("weight[0,0] bit 1 flip arrivals seed 1 faults_per_step >>often<<", "expected faults_per_step, a number"),
        (f">>weight[0,{'9' * 5000}]<< bit 1 flip", "expected weight[row,col] with numbers"),
        (f"weight[0,0] bit >>{'9' * 5000}<< flip", NO_BITS),
        (f"weight[0,0] bit 1 flip transient step >>{'9' * 5000}<<", "expected step, a number"),
        ("weight[0,0] bit 1 flip intermittent on 1 >> <<", "intermittent needs 'off N', missing at the end"),
        ("weight[0,0] bit 1 flip intermittent on 0 off >>1<<", NO_STEPS),
    ],
)
def test_a_wrong_word_is_pointed_at(marked: str, problem: str) -> None:
    text = marked.replace(">>", "").replace("<<", "")
    with pytest.raises(InvalidInput, match="^" + re.escape(f"fault: {problem}: {marked}") + "$"):
        parse_fault(text)


WORDS = [
    "weight[0,0]",
    "weight[ 0 ]",
    "weight-memory[a,1]",
    "bit",
    "bits",
    "1",
    "1,2",
    "stuck-at",
    "flip",
    "when",
    "is",
]
WORDS += [
    *WORD_EFFECTS,
    *TIMINGS,
    "seed",
    "weights",
    "by",
    "step",
    "cycle",
    "pass",
    "layer",
    "until",
    "on",
    "off",
    "part",
]


@given(st.text(max_size=40) | st.lists(st.sampled_from(WORDS), max_size=10).map(" ".join))
def test_any_other_text_is_refused_and_never_crashes(text: str) -> None:
    try:
        fault = parse_fault(text)
    except InvalidInput as error:
        message = str(error)
    else:
        assert parse_fault(str(fault)) == fault
        return
    assert re.search(r">>.*<<", message, re.DOTALL)
