"""Populations of faults: every law on small ones that are enumerated, and counts of large ones."""

import math
import pickle
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from miscompute import InvalidInput, Layer, hardware, nvdla, nvdla_large, nvdla_small, parse_fault
from miscompute.fault import Extent, FaultSpace
from miscompute.formats import FORMATS, Format
from miscompute.hardware import OutputStationary, simd, systolic

CONV = Layer(name="conv", n=2, ic=3, oc=4, size=(4, 4), kernel=(3, 3))
FC = Layer(name="fc", n=2, ic=8, oc=3)
EXTENT = Extent(
    array=nvdla(rows=4, cols=2),
    format=FORMATS["bf16"],
    layers=(CONV, FC),
    steps=3,
    parameters={"conv.weight": 108, "fc.bias": 3},
    buffers={"bn.running_mean": 4},
    states=("exp_avg", "exp_avg_sq"),
)

# What may be written for a choice, and what it stands for.
CHOICES: dict[str, list[tuple[str, list[str]]]] = {
    "row": [("*", ["0", "1", "2", "3"]), ("1..2", ["1", "2"]), ("3|0", ["3", "0"]), ("2", ["2"])],
    "col": [("*", ["0", "1"]), ("1", ["1"])],
    "bit": [("*", [str(bit) for bit in range(16)]), ("3..5|9", ["3", "4", "5", "9"]), ("14", ["14"])],
    "value": [("*", ["0", "1"]), ("1", ["1"]), ("0|1", ["0", "1"])],
    "step": [("*", ["0", "1", "2"]), ("0..1", ["0", "1"]), ("2", ["2"])],
    "pass": [("*", ["forward", "grad_input", "grad_weight"]), ("forward|grad_weight", ["forward", "grad_weight"])],
    "layer": [("*", ["conv", "fc"]), ("fc", ["fc"])],
    "word": [
        ("weight|activation", ["weight", "activation"]),
        ("weight", ["weight"]),
        ("weight-shadow", ["weight-shadow"]),
    ],
}


@st.composite
def patterns(draw: st.DrawFn) -> tuple[str, set[str]]:
    """Draw a pattern, and by other means the strings of all its faults."""
    template = draw(
        st.sampled_from(
            [
                "{word}[{row},{col}] bit {bit} stuck-at {value}",
                "{word}[{row},{col}] bit {bit} flip transient step {step} pass {pass} layer {layer}",
                "weight[{row},{col}] bit {bit} flip transient step {step}",
                "weight[{row},{col}] set-to 1.0 transient pass {pass} step {step}",
            ]
        )
    )
    names = [name for name in CHOICES if "{" + name + "}" in template]
    texts, values = zip(*(draw(st.sampled_from(CHOICES[name])) for name in names), strict=True)
    pattern = template.format(**dict(zip(names, texts, strict=True)))
    faults = {str(parse_fault(template.format(**dict(zip(names, chosen, strict=True))))) for chosen in product(*values)}
    return pattern, faults


@settings(max_examples=8)
@given(patterns(), st.data())
def test_the_laws(drawn: tuple[str, set[str]], data: st.DataObject) -> None:
    pattern, enumerated = drawn
    space = FaultSpace.parse(pattern, EXTENT)
    assert space.size == len(space) == len(enumerated)
    some = data.draw(st.lists(st.integers(0, space.size - 1), max_size=20))
    for index in some:
        fault = space.fault(index)
        assert str(fault) in enumerated
        assert fault in space
        assert space.index(fault) == index == space.index(parse_fault(str(fault)))
        labels = space.labels(index)
        assert set(labels) == set(space.axes)
    if space.size <= 100:
        assert {str(fault) for fault in space} == enumerated
    assert FaultSpace.parse(str(space), EXTENT) == space
    assert pickle.loads(pickle.dumps(space)) == space

    by = data.draw(st.lists(st.sampled_from(space.axes), min_size=1, max_size=3, unique=True))
    strata = space.strata(by)
    assert sum(stratum.size for stratum in strata) == space.size
    assert math.isclose(sum(stratum.total_weight for stratum in strata), space.total_weight)
    if space.size <= 500:
        assert sorted(index for stratum in strata for index in stratum) == list(range(space.size))
    for stratum in strata[:5]:
        for index in stratum.sample(min(3, stratum.size), 0):
            assert tuple(space.labels(index)[name] for name in by) == stratum.key

    n, seed = data.draw(st.integers(0, min(space.size, 200))), data.draw(st.integers(0, 3))
    sample = space.sample(n, seed)
    assert len(set(sample)) == n
    assert all(0 <= index < space.size for index in sample)
    m = data.draw(st.integers(0, n))
    assert space.sample(m, seed) == sample[:m]
    assert space.draws(m, seed) == space.draws(n, seed)[:m]


@pytest.mark.parametrize(
    "pattern",
    [
        "weight-memory[*,*] bit * flip transient step *",
        "optimizer-memory[*,*,*,2] bit 3|5 flip transient step *",
        "statistics-memory[*,*] set-to nan|inf|1.5 transient step 0",
        "activation-memory[*,*] bits 4,3|5 flip transient step 1",
        "weight-elements[*,1] bit 14 flip transient step 0 pass forward layer *",
        "result-elements[*,5] bit 14 flip transient step 0 pass * layer *",
        "weight[*,*] bit 14 flip transient step 0 pass * layer * cycle *",
        "adder[*,*,*] bit * flip",
        "accumulator-entry[0..3,*] bit * stuck-at *",
        "weight-bus-half[*,*] random-word seed 0..3 bursts mean_on 1.5|2.5 mean_off 2.0 seed 7..9",
        "valid[*,*] bit * stuck-at *",
        "input-elements[0..2,1|2] moved by -2..-1 intermittent on 1..2 off 3",
        "weight[*,*] bit 3 flip when 1|3 is 1",
        "gradient-memory[conv.weight|fc.bias,0..2] random-flips seed 3 weights 0.5,0.5|1.0",
    ],
)
def test_dependent_choices_expand_into_blocks(pattern: str) -> None:
    space = FaultSpace.parse(pattern, EXTENT)
    indices = {0, space.size - 1, *space.sample(min(60, space.size), 0)}
    if space.size <= 300:
        indices = set(range(space.size))
    faults = {index: space.fault(index) for index in indices}
    assert len({str(fault) for fault in faults.values()}) == len(indices)
    for index, fault in faults.items():
        fault.check(EXTENT.array, EXTENT.format)
        assert space.index(fault) == index
        assert space.index(parse_fault(str(fault))) == index
    assert FaultSpace.parse(str(space), EXTENT) == space


def test_counts() -> None:
    def size(pattern: str, extent: Extent = EXTENT) -> int:
        return FaultSpace.parse(pattern, extent).size

    assert size("weight-memory[*,*] bit * flip transient step *") == (108 + 3) * 16 * 3
    assert size("optimizer-memory[*,*,*,2] bit 3|5 flip") == 2 * (107 + 2) * 2
    assert size("activation-memory[*,*] bit 1 flip") == CONV.elements("input") + FC.elements("input")
    assert size("result-elements[*,1] bit 1 flip transient step 0 pass * layer *") == (
        2 * 4 * 2 * 2 + 2 * 3 * 4 * 4 + 108 + 2 * 3 + 2 * 8 + 24
    )
    assert size("weight[*,*] bit 1 flip transient step 0 pass forward layer fc cycle *") == (
        8 * EXTENT.array.schedule(FC, "forward").cycles
    )
    # Four lanes meet in two nodes at level 1 and one at level 2; of words in fp32, since the array sums so.
    assert size("adder[*,*,*] bit * flip") == (2 + 1) * 2 * 32
    assert size("adder[*,*] bit * flip") == 2 * 2 * 32
    assert size("adder[0..3,*] bit * flip") == 4 * 2 * 32  # what is spelled out is taken as it is
    assert size("weight-bus-half[*,*] bit 1 flip") == 4 * 2
    assert size("valid[*,*] bit * stuck-at *") == 8 * 2
    assert size("accumulator-pe[*,*] bit 0 flip") == 2
    assert size("accumulator-pe[*,*] bit 0 flip", Extent(array=OutputStationary(rows=3, cols=2))) == 6
    assert size("adder[*,*] bit 0 flip", Extent(array=systolic(rows=3, cols=2))) == 6
    assert size("accumulator[*] bit * flip", Extent(array=simd(lanes=4))) == 4 * 32
    int8 = Extent(array=nvdla_small(format="int8"))
    assert size("product[*,*] bit * stuck-at *", int8) == 64 * 18 * 2
    assert size("accumulator[*] bit * stuck-at *", int8) == 8 * 34 * 2
    assert size("weight[*,*] bit * stuck-at *", int8) == 64 * 8 * 2


def test_a_space_may_be_larger_than_a_machine_word() -> None:
    space = FaultSpace.parse(
        f"weight[*,*] random-word seed 0..{10**18 - 1} transient step 0..{10**12 - 1}", Extent(array=nvdla_small())
    )
    assert space.size == 64 * 10**30 > sys.maxsize
    for index in (0, 10**30 + 7, space.size - 1, *space.sample(5, 1), *space.draws(5, 1)):
        assert space.index(space.fault(index)) == index
    with pytest.raises(OverflowError):
        len(space)


def test_the_order_is_that_of_nested_loops_as_written() -> None:
    space = FaultSpace.parse("weight[0..1,0] bit 3|1 stuck-at *", EXTENT)
    assert [str(fault) for fault in space][:5] == [
        "weight[0,0] bit 3 stuck-at 0",
        "weight[0,0] bit 3 stuck-at 1",
        "weight[0,0] bit 1 stuck-at 0",
        "weight[0,0] bit 1 stuck-at 1",
        "weight[1,0] bit 3 stuck-at 0",
    ]
    assert space.labels(4) == {
        "site": "weight",
        "effect": "stuck-at",
        "timing": "permanent",
        "row": 1,
        "col": 0,
        "bit": 3,
        "value": 0,
    }


def test_a_sample_is_uniform() -> None:
    """Chi-square of which of 28 faults came in the first four places of 2,800 samples, 100 expected of each."""
    space = FaultSpace.parse("weight[0..3,0] bit 3..9 flip", EXTENT)
    assert space.size == 28
    first = np.zeros((4, 28))
    for seed in range(2_800):
        for place, index in enumerate(space.sample(4, seed)):
            first[place, index] += 1
    statistic = ((first - 100) ** 2 / 100).sum()
    assert stats.chi2.sf(statistic, 4 * 27) > 1e-4
    assert space.sample(28, 1) != tuple(range(28))
    assert space.sample(28, 0) != space.sample(28, 1)


def test_strata_of_a_pattern_without_the_choice_have_the_key_none() -> None:
    space = FaultSpace.parse(["weight[*,*] bit 0..3 flip", "weight[*,*] set-to 0.0"], EXTENT)
    assert [(s.key, s.size) for s in space.strata(("bit",))] == [((bit,), 8) for bit in range(4)] + [((None,), 8)]
    assert [s.key for s in space.strata(("effect",))] == [("flip",), ("set-to",)]


def test_strata_join_what_blocks_have_apart() -> None:
    space = FaultSpace.parse("weight-memory[*,*] bit * flip transient step *", EXTENT)
    strata = space.strata(("bit", "step"))
    assert {stratum.size for stratum in strata} == {111}
    assert len(strata) == 48
    assert len({stratum.sample(3, 0)[0] // 48 for stratum in strata}) > 20  # each has an order of its own
    with pytest.raises(IndexError, match="place 111 is outside the stratum of 111 faults"):
        strata[0][111]
    assert space.index(strata[5].fault(7)) == strata[5][7]


def test_weights() -> None:
    space = FaultSpace.parse({"weight[*,*] bit * flip": 2.0, "activation[*,*] bit * flip": 0.5}, EXTENT)
    assert space.total_weight == 128 * 2.5
    assert (space.weight(0), space.probability(0)) == (2.0, 2 / 320)
    assert (space.weight(128), space.is_weighted) == (0.5, True)
    assert math.isclose(sum(map(space.probability, range(space.size))), 1)
    assert str(space) == "2.0 x weight[*,*] bit * flip\n0.5 x activation[*,*] bit * flip"
    assert FaultSpace.parse(str(space), EXTENT) == space
    by_site, by_bit = space.strata(("site",)), space.strata(("bit",))
    assert [stratum.total_weight for stratum in by_site] == [256, 64]
    assert not by_site[0].is_weighted
    assert by_bit[0].is_weighted
    drawn = np.array(space.draws(2_000, 3))
    # Four fifths of the weight: 1,600 of 2,000 draws, sigma 17.9.
    assert abs((drawn < 128).sum() - 1_600) < 4 * 17.9
    assert len(set(drawn[drawn < 128].tolist())) == 128  # the odds that one of them is never drawn are 0.0004


def test_repr_evaluates_back() -> None:
    space = FaultSpace.parse("weight[*,*] bit * flip", Extent(array=nvdla_small(), steps=4))
    names = {**vars(hardware), "Format": Format, "Extent": Extent, "FaultSpace": FaultSpace}
    assert eval(repr(space), names) == space


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("weight[*,*]", "faults: 'bit' is missing at the end"),
        ("weihgt[*,*] bit * flip", "expected a site with its place in brackets, one of .*: >>weihgt"),
        ("weight|weight[*,*] bit * flip", "several with | between: >>weight"),
        ("weight[*] bit * flip", r"expected weight\[row,col\]: >>weight"),
        ("weight[5..3,0] bit * flip", r"expected row as a range a..b with a <= b, both in it: >>weight"),
        ("weight[x,0] bit * flip", r"expected row, a number, a range a..b, alternatives x|y or \*: >>weight"),
        ("weight[0..4,0] bit * flip", r"row=4 is outside the 4 x 2 array \(rows 0..3\): >>weight\[0..4,0\]<<"),
        ("weight[0..4,0..7] bit 99 flip", r"bit=99 is outside bf16 .*>>99<<"),
        ("weight[*,*] bit 0..16 flip", r"bit=16 is outside bf16 .*: weight\[\*,\*\] bit >>0..16<< flip"),
        ("weight[*,*] bit 16 flip", r"bit=16 is outside bf16 .*: weight\[\*,\*\] bit >>16<< flip"),
        ("weight[*,*] bit 1|1 flip", r"alternatives of bit hold a value twice: .*>>1|1<<"),
        ("weight[*,*] bit 0..9999999|10000001 flip", "alternatives of bit are more than 1,000,000"),
        ("weight[*,*] bits 1..3 flip", "expected bits, a value, alternatives"),
        ("weight[*,*] bits 1,2 stuck-at 0", "expected flip, the effect on several bits at once: .*>>1,2<<"),
        ("weight[*,*] bit * stack-at 0", r"expected stuck-at or flip: .*>>stack-at<< 0"),
        ("weight[*,*] bit * stuck-at 0..2", r"value=2 of StuckAt must be 0 or 1: .*>>0..2<<"),
        ("weight[*,*] bit 3 stuck-at 2", r"value=2 of StuckAt must be 0 or 1: .*>>2<<"),
        ("weight[*,*] set-to *", r"\* of value has no end that the array or the model sets; give a range"),
        ("weight[*,*] random-word seed *", r"\* of seed has no end"),
        ("weight[*,*] flap", "expected 'bit', 'bits', 'set-to'"),
        ("weight[*,*] bit 1 flip when 3 if 1", "expected 'is': .*>>if<<"),
        ("weight[*,*] bit 1 flip when 3 is 1 when 5 is 1", "expected one condition only"),
        ("weight[*,*] bit 1 flip sometimes", "expected permanent, transient.*>>sometimes<<"),
        ("weight[*,*] bit 1 flip transient step 0..3", r"step=3 is outside the training \(0..2\): .*>>0..3<<"),
        ("weight[*,*] bit 1 flip transient pass forward", "transient needs 'step N', missing at the end: .*>> <<"),
        ("weight[*,*] bit 1 flip transient step 1 1", "expected pass or layer or cycle or until: .*>>1<<"),
        (
            "weight[*,*] bit 1 flip transient pass forward|back step 1",
            r"expected pass, one of forward, .* alternatives x.* pass >>forward\|back<< step 1",
        ),
        ("weight[*,*] bit 1 flip transient pass back step 1", r"expected pass, one of .* pass >>back<< step 1"),
        ("weight[*,*] bit 1 flip transient step 1 layer cnov", r"layer='cnov' is none of the model's \(conv, fc\)"),
        ("weight[*,*] bit 1 flip transient step 1 cycle *", r"\* of cycle needs a layer of the extent and a pass; add"),
        (
            "weight[*,*] bit 1 flip transient step 1 pass forward layer fc cycle 0..99999",
            r"cycle=99999 is outside forward of fc \(0..",
        ),
        ("weight-elements[*,1] bit 1 flip", r"\* of first needs a layer of the extent; add 'layer \*'"),
        ("weight-elements[*,9999] bit 1 flip transient step 0 layer *", "has no place in 'conv' of 108 elements"),
        ("weight-memory[conv.bias,*] bit 1 flip", r"\* of index needs the size of 'conv.bias'"),
        ("weight-memory[conv.bias,0] bit 1 flip", r"name='conv.bias' is none of the model's \(conv.weight, fc.bias\)"),
        ("weight-memory[fc.bias,0..3] bit 1 flip", "index=3 of fc.bias is outside its 3 elements, 1 being wanted"),
        ("weight-memory[*,*,4] bit 1 flip", "has no place in 'fc.bias' of 3 elements; make length shorter"),
        ("accumulator-entry[*,*] bit 1 flip", r"\* of address has no end"),
        (
            "optimizer-memory[fc.bias,exp_awg,0] bit 1 flip",
            r"state='exp_awg' is none of the optimizer's \(exp_avg, exp_avg_sq\)",
        ),
    ],
)
def test_errors_point_at_the_word(pattern: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        FaultSpace.parse([pattern], EXTENT)
    assert "\n" not in str(caught.value)
    assert ">>" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("weight[*,*] bit 1 flip transient step *", r"\* of step needs the extent's steps; give steps, or a range"),
        ("weight[*,*] bit 1 flip transient step 0 layer *", r"\* of layer needs the extent's layers"),
        ("weight-memory[*,0] bit 1 flip", r"\* of name needs the extent's parameters"),
        ("statistics-memory[*,0] bit 1 flip", r"\* of name needs the extent's buffers"),
        ("optimizer-memory[w,*,0] bit 1 flip", r"\* of state needs the extent's states"),
        ("adder[*,*] bit 1 flip", "a vector lane has no adder but its accumulator"),
    ],
)
def test_what_the_extent_does_not_say_is_not_made_up(pattern: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        FaultSpace.parse(pattern, Extent(array=simd(lanes=4)))


def test_the_bits_of_a_word_of_two_kernels() -> None:
    extent = Extent(array=nvdla(rows=4, cols=3, format="int8", packs_two=True))
    for pattern, many in (
        ("weight[*,*] bit * stuck-at *", 4 * 3 * 16 * 2),
        ("activation[*,*] bit * flip", 4 * 3 * 8),
        ("valid[*,*] bit * flip", 4 * 3 * 2),
        ("accumulator[*] bit * flip", 3 * 68),
    ):
        assert FaultSpace.parse(pattern, extent).size == many


def test_a_transposed_convolution_counts_its_own_elements_and_cycles() -> None:
    up = Layer(name="up", n=1, ic=2, oc=3, size=(6,), kernel=(2,), transposed=True)  # from 3 x 5 to 2 x 6
    extent = Extent(array=nvdla(rows=4, cols=2), layers=(up,), steps=1)
    for pattern, many in (
        ("input-elements[*,1] bit 1 flip transient step 0 pass forward layer up", 15),
        ("grad-output-elements[*,1] bit 1 flip transient step 0 pass grad_input layer up", 12),
        ("result-elements[*,1] bit 1 flip transient step 0 pass forward layer up", 12),
        ("result-elements[*,1] bit 1 flip transient step 0 pass grad_input layer up", 15),
        ("activation-memory[up,*] bit 1 flip", 15),
        ("weight[0,0] bit 1 flip transient step 0 pass forward layer up cycle *", 12),  # 6 pixels, 2 taps
        ("weight[0,0] bit 1 flip transient step 0 pass grad_input layer up cycle *", 20),  # 2 x 5 pixels, 2 taps
    ):
        assert FaultSpace.parse(pattern, extent).size == many


def test_a_fault_in_two_patterns_is_refused() -> None:
    both = ["weight[*,*] bit 0..3 stuck-at 1", "weight[0..1,*] bit 3..5 stuck-at *"]
    with pytest.raises(InvalidInput, match=r"'weight\[0,0\] bit 3 stuck-at 1' is in 'weight\[\*,\*\] bit 0..3"):
        FaultSpace.parse(both, EXTENT)
    # One place with two names.
    with pytest.raises(InvalidInput, match=r"'accumulator\[0\] bit 1 flip' is in"):
        FaultSpace.parse(["accumulator[*] bit 1 flip", "accumulator-pe[0,*] bit 0..1 flip"], EXTENT)
    assert FaultSpace.parse(["weight[*,*] bit 0..3 flip", "weight[*,*] bit 4..5 flip"], EXTENT).size == 48
    assert FaultSpace.parse(["weight[*,*] bit 0 flip", "weight[*,*] bits 0,1 flip"], EXTENT).size == 16


def test_more_that_cannot_be_is_refused() -> None:
    space = FaultSpace.parse("weight[*,*] bit * flip", EXTENT)
    for action, message in (
        (lambda: space.fault(128), r"index=128 is outside the space of 128 faults \(0..127\)"),
        (lambda: space.fault(-1), "index=-1 is outside"),
        (lambda: space.index(parse_fault("weight[0,0] bit 1 stuck-at 0")), "'weight.*' is not in the space of 128"),
        (lambda: space.sample(129, 0), "n=129 of a sample must be from 0 to 128, all there are"),
        (lambda: space.draws(-1, 0), "n=-1 of a sample must be from 0$"),
        (lambda: space.sample(1, -1), "seed=-1 must not be negative"),
        (lambda: space.strata(("bits",)), r"by=\['bits'\] of strata must be of this space's choices: site, effect"),
        (lambda: space.strata(()), r"by=\[\] of strata"),
        (
            lambda: FaultSpace.parse("weight[*,*] random-word seed 0..999999", EXTENT).strata(("seed",)),
            "makes more than 100,000 strata",
        ),
        (lambda: FaultSpace.parse([], EXTENT), r"patterns=\(\) of FaultSpace must be at least one"),
        (lambda: FaultSpace.parse({"weight[*,*] bit 1 flip": 0.0}, EXTENT), "weights=.* must be one for each of 1"),
        (lambda: FaultSpace.parse("1e5e x weight[0,0] bit 1 flip", EXTENT), "expected a weight, a number: >>1e5e<< x"),
        (lambda: Extent(array=EXTENT.array, steps=0), "steps=0 of Extent must be at least 1"),
        (lambda: Extent(array=EXTENT.array, parameters={"w": 0}), "parameters of Extent: 'w' has 0 elements"),
    ):
        with pytest.raises(InvalidInput, match=message):
            action()


def test_the_same_faults_under_several_settings() -> None:
    small = Extent(array=nvdla_small(), setting={"array": "small"})
    large = Extent(array=nvdla_large(), setting={"array": "large"})
    space = FaultSpace.parse(["weight[*,*] bit 0..3 flip", "valid[0,0] bit 0 stuck-at 0"], small, large)
    assert space.size == 64 * 4 + 1 + 2048 * 4 + 1
    assert {key: stratum.size for stratum in space.strata(("array",)) for key in stratum.key} == {
        "small": 257,
        "large": 8193,
    }
    for index in (0, 256, 257, space.size - 1):
        assert (
            space.labels(index)["array"] == ("small", "large")[space.setting(index)] == ("large", "small")[index < 257]
        )
    assert space.fault(256) == space.fault(space.size - 1)
    with pytest.raises(InvalidInput, match="of Extent: 'bit' names a choice of the faults already"):
        FaultSpace.parse("weight[*,*] bit * flip", Extent(array=nvdla_small(), setting={"bit": 1}))
    with pytest.raises(InvalidInput, match=r"extents=\(\) of FaultSpace must be at least one"):
        FaultSpace.parse("weight[*,*] bit * flip")
