"""Sites: what a word feeds on an array of any size, and the places that are not there."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miscompute import InvalidInput
from miscompute import fault as names
from miscompute.fault import (
    SITES,
    STORES,
    ZERO,
    Accumulator,
    ActivationRegister,
    AnyExposure,
    Effect,
    ElementExposure,
    Elements,
    Exposure,
    Flip,
    Memory,
    MemoryExposure,
    OperandValid,
    Product,
    RandomWord,
    SetTo,
    Site,
    StuckAt,
    SumExposure,
    WeightBus,
    WeightRegister,
    parse_fault,
)
from miscompute.formats import FORMATS
from miscompute.hardware import OPERANDS, Array, nvdla, nvdla_small, simd, systolic

ROWS, COLS = 8, 4
PLACE: dict[str, Any] = {
    "row": 5,
    "col": 3,
    "level": 2,
    "address": 6,
    "name": "fc.weight",
    "state": "exp_avg",
    "index": 7,
    "first": 2,
    "length": 9,
}


def build(word: str, **place: Any) -> Site:
    spelling = SITES[word]
    return spelling.build(**{name: place.get(name, PLACE[name]) for name in spelling.indices})


def operand(which: str, cols: range, *, gated: bool = True, **more: bool) -> Exposure:
    return Exposure(operand=which, row=5, cols=cols, behind_zero_detector=gated, **more)  # type: ignore[arg-type]


def stored(store: str, state: str = "") -> MemoryExposure:
    return MemoryExposure(store=store, name="fc.weight", state=state, first=7, length=9)  # type: ignore[arg-type]


# From HARDWARE.md, "From site to tensor elements": at `PLACE` of an 8 x 4 array.
# One row a word of SITES, so that a new one does not go untested.
GOLDEN: dict[str, AnyExposure] = {
    "weight": operand("stationary", range(3, 4)),
    "weight-shadow": operand("stationary", range(3, 4)),
    "weight-bus": operand("stationary", range(4), of_one_load=True),
    "weight-bus-half": operand("stationary", range(2, 4), of_one_load=True),
    "weight-bus-before-detector": operand("stationary", range(4), gated=False, of_one_load=True),
    "activation": operand("streaming", range(3, 4)),
    "activation-half": operand("streaming", range(2, 4)),
    "activation-all": operand("streaming", range(4)),
    "valid": operand("stationary", range(3, 4), passes_on=False),
    "product": SumExposure(stage="product", row=5, col=3),
    "adder": SumExposure(stage="node", row=5, col=3, level=2),
    "cell": SumExposure(stage="partial_sum", col=3),
    "accumulator": SumExposure(stage="accumulator", col=3),
    "accumulator-pe": SumExposure(stage="accumulator", row=5, col=3),
    "accumulator-entry": SumExposure(stage="accumulator", col=3, address=6),
    "output": SumExposure(stage="output", col=3),
    "weight-memory": stored("weight"),
    "gradient-memory": stored("gradient"),
    "optimizer-memory": stored("optimizer", state="exp_avg"),
    "statistics-memory": stored("statistics"),
    "activation-memory": stored("activation"),
    "weight-elements": ElementExposure(of="weight", first=2, length=9),
    "input-elements": ElementExposure(of="input", first=2, length=9),
    "grad-output-elements": ElementExposure(of="grad_output", first=2, length=9),
    "result-elements": ElementExposure(of="result", first=2, length=9),
}
every = pytest.mark.parametrize("word", SITES)


@every
def test_what_a_site_feeds(word: str) -> None:
    assert build(word).exposure(rows=ROWS, cols=COLS) == GOLDEN[word]


def test_all_stores_and_operands_have_sites() -> None:
    exposures = [build(word).exposure(rows=ROWS, cols=COLS) for word in SITES]
    assert {exposure.store for exposure in exposures if isinstance(exposure, MemoryExposure)} == set(STORES)
    assert {exposure.of for exposure in exposures if isinstance(exposure, ElementExposure)} == {*OPERANDS, "result"}


@every
@given(row=st.integers(0, ROWS - 1), col=st.integers(0, COLS - 1))
def test_a_site_on_the_array_feeds_its_own_place(word: str, row: int, col: int) -> None:
    match build(word, row=row, col=col).exposure(rows=ROWS, cols=COLS):
        case Exposure() as exposure:
            assert exposure.row == row
            assert set(exposure.cols) <= set(range(COLS))
            assert col in exposure.cols
        case SumExposure() as exposure:
            assert exposure.col == col
            assert exposure.row == (row if "row" in SITES[word].indices else 0)
        case exposure:
            assert exposure == GOLDEN[word]  # wherever: it is not on the array


@every
def test_a_site_is_spelled_as_in_the_catalogue_parses_and_evaluates_back(word: str) -> None:
    indices = ",".join(str(PLACE[name]) for name in SITES[word].indices)
    site = build(word)
    assert str(site) == f"{word}[{indices}]"
    assert parse_fault(f"{site} bit 0 flip").site == site
    assert eval(repr(site), vars(names)) == site


@pytest.mark.parametrize("word", [word for word in SITES if SITES[word].optional])
def test_what_may_be_left_out_is_one(word: str) -> None:
    spelling = SITES[word]
    assert spelling.optional == 1
    left = ",".join(str(PLACE[name]) for name in spelling.indices[:-1])
    site = parse_fault(f"{word}[{left}] bit 0 flip").site
    assert site == build(word, **{spelling.indices[-1]: 1})
    assert str(site) == f"{word}[{left}]"


@every
def test_a_site_off_the_array_is_refused(word: str) -> None:
    for name, inside, size in (("row", "rows 0..7", ROWS), ("col", "cols 0..3", COLS)):
        for index in (size, -1):
            if name in SITES[word].indices:
                with pytest.raises(
                    InvalidInput, match=re.escape(f"{name}={index} is outside the 8 x 4 array ({inside})")
                ):
                    build(word, **{name: index}).exposure(rows=ROWS, cols=COLS)


@pytest.mark.parametrize("site", [WeightBus(row=0, reach="half"), ActivationRegister(row=0, reach="half")])
def test_half_of_an_odd_array_is_refused(site: Site) -> None:
    with pytest.raises(InvalidInput, match="reach='half' needs an array with an even number of columns, not 5"):
        site.exposure(rows=8, cols=5)


NVDLA, WS, OS = nvdla_small(), systolic(rows=8, cols=8), systolic(rows=8, cols=8, dataflow="output-stationary")


@pytest.mark.parametrize(
    ("text", "array", "message"),
    [
        ("accumulator-pe[1,0]", NVDLA, "row=1 of an accumulator: this array has one accumulator a column; use"),
        ("accumulator-pe[1,0]", WS, "row=1 of an accumulator: this array has one accumulator a column; use"),
        ("adder[0,0,4]", NVDLA, "level=4 is outside the adder tree of 8 lanes (1..3; 3 is the root)"),
        ("adder[0,0,2]", WS, "level=2 of an adder: a systolic column is a chain"),
        ("adder[0,0]", OS, "an output-stationary PE has no adder but its accumulator; use accumulator-pe[row,col]"),
        ("adder[0,0]", simd(lanes=8), "a vector lane has no adder but its accumulator; use accumulator[lane]"),
        ("cell[0]", OS, "an output-stationary array has no partial sum of a column; use product[row,col]"),
        ("output[0]", OS, "an output-stationary array has no output of a column; use product[row,col]"),
        ("accumulator-entry[1,0]", OS, "an output-stationary array has no accumulator of a column with addresses; use"),
        ("cell[0]", simd(lanes=8), "a vector lane has no partial sum; use product[0,lane]"),
        ("accumulator-entry[1,0]", simd(lanes=8), "a vector lane has no addresses; use product[0,lane]"),
        ("weight-bus[0]", OS, "site weight-bus[0]: OutputStationary passes words on from cell to cell; use"),
        ("weight-bus-half[0,0]", WS, "reach='half' is a place of NVDLA's core, not of WeightStationary; use another"),
        ("activation-half[0,0]", OS, "reach='half' is a place of NVDLA's core, not of OutputStationary; use another"),
    ],
)  # fmt: skip
def test_a_place_that_an_array_does_not_have_is_refused(text: str, array: Array, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{re.escape(message)}"):
        parse_fault(f"{text} bit 0 flip").check(array)


# Which words an effect meets.

INT8 = FORMATS["int8"]


@every
def test_bits_are_those_of_the_word_at_the_place(word: str) -> None:
    # HARDWARE.md, "Widths", on 8 lanes of int8: products 18, cell sums 19, accumulator 34, output 32 bits.
    bits = {"product": 18, "node": 19, "partial_sum": 19, "accumulator": 34, "output": 32}
    site = build(word)
    exposure = site.exposure(rows=ROWS, cols=COLS)
    width = bits[exposure.stage] if isinstance(exposure, SumExposure) else 1 if word == "valid" else 8
    array = nvdla(rows=ROWS, cols=COLS)
    site.check(StuckAt(bit=width - 1, value=0), array, INT8)
    with pytest.raises(InvalidInput, match=f"bit={width} is outside int{width} |the place holds one bit"):
        site.check(StuckAt(bit=width, value=0), array, INT8)


def test_the_valid_bit_at_0_takes_the_word_for_zero_and_at_1_does_nothing() -> None:
    site = OperandValid(row=0, col=0)
    assert site.acts(StuckAt(bit=0, value=0)) == site.acts(Flip(bits=(0,))) == ZERO
    assert site.acts(StuckAt(bit=0, value=1)) is None


@pytest.mark.parametrize("effect", [StuckAt(bit=1, value=0), Flip(bits=(0, 1)), SetTo(value=0.0), RandomWord(seed=1)])
def test_the_valid_bit_is_one_bit(effect: Effect) -> None:
    message = f"effect '{effect}' of valid[0,0]: the place holds one bit; use bit 0, stuck-at or flip"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        OperandValid(row=0, col=0).check(effect, nvdla_small(), INT8)


def test_other_sites_let_the_effect_act_as_it_is() -> None:
    effect = StuckAt(bit=0, value=1)
    assert all(build(word).acts(effect) == effect for word in SITES if word != "valid")


def test_the_word_of_a_sum_is_the_arrays() -> None:
    product = Product(row=0, col=0)
    product.check(StuckAt(bit=17, value=0), nvdla_small(), INT8)
    with pytest.raises(InvalidInput, match=r"bit=17 is outside int16 \(0\.\.15; 15 is the sign\)"):
        product.check(StuckAt(bit=17, value=0), systolic(rows=8, cols=8), INT8)
    product.check(StuckAt(bit=31, value=0), nvdla_small(), FORMATS["bf16"])  # fp32


# Words of two kernels, side by side.

FULL = nvdla(rows=ROWS, cols=COLS, format="int8", packs_two=True)


def cells(site: Site, effect: Effect) -> list[tuple[range, str]]:
    """Say which kernels a word feeds, and what becomes of each."""
    found = site.feeds(effect, FULL)
    return [
        (exposure.cols if isinstance(exposure, Exposure) else range(exposure.col, exposure.col + 1), str(part))
        for exposure, part in found
        if isinstance(exposure, Exposure | SumExposure)
    ]


@pytest.mark.parametrize(
    "word", [word for word, exposure in GOLDEN.items() if type(exposure) in (Exposure, SumExposure)]
)
def test_a_word_of_two_kernels_has_their_bits_side_by_side(word: str) -> None:
    site, exposure = build(word), GOLDEN[word]
    bits = {"product": 18, "node": 19, "partial_sum": 19, "accumulator": 34, "output": 32}
    width = bits[exposure.stage] if isinstance(exposure, SumExposure) else 1 if word == "valid" else 8
    if isinstance(exposure, Exposure) and exposure.operand == "streaming":  # one word, which both kernels read
        (fed,) = cells(site, StuckAt(bit=7, value=1))
        assert fed == (range(2 * exposure.cols.start, 2 * exposure.cols.stop), "bit 7 stuck-at 1")
        with pytest.raises(InvalidInput, match="bit=8 is outside int8 "):
            site.check(StuckAt(bit=8, value=1), FULL, INT8)
        return
    places = list(exposure.cols) if isinstance(exposure, Exposure) else [3]
    for kernel in (0, 1):
        bit = kernel * width + width - 1
        becomes = str(site.acts(StuckAt(bit=width - 1, value=0)))
        found = cells(site, StuckAt(bit=bit, value=0))
        assert found == [(range(2 * col + kernel, 2 * col + kernel + 1), becomes) for col in places]
    both = [
        (range(2 * col + kernel, 2 * col + kernel + 1), str(site.acts(Flip(bits=(0,)))))
        for col in places
        for kernel in (0, 1)
    ]
    assert cells(site, Flip(bits=(0, width))) == both
    message = (
        f"bit={2 * width} is outside the 2 words of {width} bits at {site} (0..{2 * width - 1}; {width} is bit 0 of"
    )
    with pytest.raises(InvalidInput, match=re.escape(message)):
        site.check(Flip(bits=(1, 2 * width)), FULL, INT8)
    message = f"effect 'set-to 1.0' of {site}: the word holds those of 2 kernels; use stuck-at or flip on its bits"
    with pytest.raises(InvalidInput, match=f"^{re.escape(message)}$"):
        site.check(SetTo(value=1.0), FULL, INT8)


def test_a_valid_bit_is_one_kernels() -> None:
    site = OperandValid(row=0, col=1)
    assert cells(site, StuckAt(bit=1, value=0)) == [(range(3, 4), "set-to 0.0")]
    assert cells(site, StuckAt(bit=1, value=1)) == []
    site.check(StuckAt(bit=1, value=1), FULL, INT8)


def test_memory_and_elements_hold_one_kernels_words() -> None:
    for word, exposure in GOLDEN.items():
        if isinstance(exposure, MemoryExposure | ElementExposure):
            assert build(word).feeds(SetTo(value=1.0), FULL) == ((exposure, SetTo(value=1.0)),)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: WeightRegister(row=0, col=0, stage="spare"),  # type: ignore[arg-type]
            "stage='spare' of WeightRegister is unknown; choose one of active, shadow",
        ),
        (
            lambda: ActivationRegister(row=0, reach="some"),  # type: ignore[arg-type]
            "reach='some' of ActivationRegister is unknown; choose one of cell, half, all",
        ),
        (
            lambda: ActivationRegister(row=0, col=2, reach="all"),
            "col=2 of ActivationRegister has no meaning with reach='all'; leave it out",
        ),
        (
            lambda: WeightBus(row=0, reach="cell"),  # type: ignore[arg-type]
            "reach='cell' of WeightBus is unknown; choose one of half, all",
        ),
        (lambda: WeightBus(row=0, col=2), "col=2 of WeightBus has no meaning with reach='all'; leave it out"),
        (
            lambda: WeightBus(row=0, reach="half", before_zero_detector=True),
            "before_zero_detector of WeightBus needs reach='all': it splits behind the detector",
        ),
        (lambda: Accumulator(col=0, address=-1), "address=-1 of Accumulator must not be negative"),
        (
            lambda: Accumulator(col=0, row=2, address=1),
            "row=2 of Accumulator has no meaning with an address; leave one of them out",
        ),
        (
            lambda: Memory(store="cache", name="w", index=0),  # type: ignore[arg-type]
            f"store='cache' of Memory is unknown; choose one of {', '.join(STORES)}",
        ),
        (
            lambda: Memory(store="weight", name="w", index=-1),
            "Memory needs index >= 0 and length >= 1, not index=-1, length=1",
        ),
        (lambda: Memory(store="weight", name="w", index=0, length=0), "not index=0, length=0"),
        (
            lambda: Memory(store="optimizer", name="w", index=0),
            "state='' of Memory belongs to store='optimizer' and must be given there, such as exp_avg",
        ),
        (lambda: Memory(store="weight", name="w", index=0, state="exp_avg"), "state='exp_avg' of Memory belongs to"),
        (
            lambda: Memory(store="weight", name="", index=0),
            "name='' of Memory must be a name without blanks, commas and closing brackets",
        ),
        (lambda: Memory(store="weight", name="a,b", index=0), "name='a,b' of Memory must be a name without blanks"),
        (lambda: Memory(store="weight", name="a]", index=0), "name='a]' of Memory must be a name without blanks"),
        (
            lambda: Memory(store="optimizer", name="w", index=0, state="a b"),
            "state='a b' of Memory must be a name without blanks",
        ),
        (
            lambda: Elements(of="bias", first=0),  # type: ignore[arg-type]
            "of='bias' of Elements is unknown; choose one of weight, input, grad_output, result",
        ),
        (
            lambda: Elements(of="weight", first=-1),
            "Elements needs first >= 0 and length >= 1, not first=-1, length=1",
        ),
        (lambda: Elements(of="weight", first=0, length=0), "not first=0, length=0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_site_that_cannot_be_is_refused(build: Callable[[], Site], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        build()
