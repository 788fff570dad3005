"""The fault string: every fault's parses back, and a wrong one says which word."""

import re

import pytest
from hypothesis import example, given
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
from miscompute.fault import EFFECTS, SITES, TIMINGS, Effect, Site, Timing
from miscompute.hardware import PASSES

numbers = st.integers(0, 10**6)
bits = st.integers(0, 63)


@st.composite
def sites(draw: st.DrawFn) -> Site:
    spelling = draw(st.sampled_from(list(SITES.values())))
    site: Site = spelling.build(**{name: draw(numbers) for name in spelling.indices})
    return site


# A layer's name is whatever a model calls it, less blanks.
layers = st.text(min_size=1, max_size=12).filter(lambda name: name.split() == [name])

EFFECT_STRATEGIES: dict[str, st.SearchStrategy[Effect]] = {
    "stuck-at": st.builds(StuckAt, bit=bits, value=st.integers(0, 1)),
    "flip": st.builds(Flip, bits=st.lists(bits, min_size=1, max_size=5, unique=True).map(tuple)),
}
TIMING_STRATEGIES: dict[str, st.SearchStrategy[Timing]] = {
    "permanent": st.just(PERMANENT),
    "transient": st.builds(
        Transient, step=numbers, pass_=st.none() | st.sampled_from(PASSES), layer=st.none() | layers
    ),
    "intermittent": st.builds(Intermittent, on=numbers.map(lambda n: n + 1), off=st.integers(1, 99), start=numbers),
}
faults = st.builds(
    Fault,
    site=sites(),
    effect=st.sampled_from(list(EFFECTS)).flatmap(EFFECT_STRATEGIES.__getitem__),
    timing=st.sampled_from(list(TIMINGS)).flatmap(TIMING_STRATEGIES.__getitem__),
)


@given(faults)
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
    assert set(EFFECT_STRATEGIES) == set(EFFECTS)
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


NO_SITE = f"expected a site with its place in brackets, one of {', '.join(SITES)}"
NO_BITS = "expected a bit number, or several with commas between"
NO_FLIP = "bits=(1, 1) of Flip must be one or more different bits, none negative"
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
        (">>weight-bus[0,1]<< bit 1 flip", "expected weight-bus[row] with numbers"),
        ("weight[0,0] >> <<", "'bit' is missing at the end"),
        ("weight[0,0] >>but<< 1 flip", "expected 'bit' or 'bits'"),
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
        ("weight[0,0] bit 1 flip >>now<<", "expected permanent, transient, intermittent or the end"),
        ("weight[0,0] bit 1 flip permanent >>x<<", "expected the end"),
        ("weight[0,0] bit 1 flip transient >> <<", "transient needs 'step N', missing at the end"),
        ("weight[0,0] bit 1 flip transient step >> <<", "step is missing at the end"),
        ("weight[0,0] bit 1 flip transient step >>x<<", "expected step, a number"),
        ("weight[0,0] bit 1 flip transient >>when<< 1", "expected step or pass or layer"),
        ("weight[0,0] bit 1 flip transient step 1 >>step<< 2", "expected pass or layer"),
        (
            "weight[0,0] bit 1 flip transient pass >>back<< step 1",
            "expected a pass, one of forward, grad_input, grad_weight",
        ),
        ("weight[0,0] bit 1 flip intermittent on 1 >> <<", "intermittent needs 'off N', missing at the end"),
        ("weight[0,0] bit 1 flip intermittent on 0 off >>1<<", NO_STEPS),
    ],
)
def test_a_wrong_word_is_pointed_at(marked: str, problem: str) -> None:
    text = marked.replace(">>", "").replace("<<", "")
    with pytest.raises(InvalidInput, match="^" + re.escape(f"fault: {problem}: {marked}") + "$"):
        parse_fault(text)


WORDS = ["weight[0,0]", "weight[ 0 ]", "bit", "bits", "1", "1,2", "stuck-at", "flip", "transient", "step", "on", "off"]


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
