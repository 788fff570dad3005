"""Sites: what a word feeds on an array of any size, and the places that are not there."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miscompute import ActivationRegister, InvalidInput, WeightBus, WeightRegister
from miscompute.fault import SITES, Exposure, Site

ROWS, COLS = 8, 4


def build(word: str, **place: int) -> Site:
    spelling = SITES[word]
    return spelling.build(**{name: place.get(name, 0) for name in spelling.indices})


def exposed(operand: str, row: int, cols: range, *, gated: bool = True) -> Exposure:
    return Exposure(operand=operand, row=row, cols=cols, behind_zero_detector=gated)  # type: ignore[arg-type]


# From HARDWARE.md, "From site to tensor elements": at row 5 (and column 3, where the site has one) of an 8 x 4 array.
# One row a word of SITES, so that a new one does not go untested.
GOLDEN = {
    "weight": exposed("stationary", 5, range(3, 4)),
    "weight-shadow": exposed("stationary", 5, range(3, 4)),
    "weight-bus": exposed("stationary", 5, range(4)),
    "weight-bus-half": exposed("stationary", 5, range(2, 4)),
    "weight-bus-before-detector": exposed("stationary", 5, range(4), gated=False),
    "activation": exposed("streaming", 5, range(3, 4)),
    "activation-half": exposed("streaming", 5, range(2, 4)),
    "activation-all": exposed("streaming", 5, range(4)),
}


@pytest.mark.parametrize("word", SITES)
def test_what_a_site_feeds(word: str) -> None:
    assert build(word, row=5, col=3).exposure(rows=ROWS, cols=COLS) == GOLDEN[word]


@pytest.mark.parametrize("word", SITES)
@given(row=st.integers(0, ROWS - 1), col=st.integers(0, COLS - 1))
def test_a_site_lies_on_the_array_feeds_its_own_column_and_evaluates_back(word: str, row: int, col: int) -> None:
    site = build(word, row=row, col=col)
    exposure = site.exposure(rows=ROWS, cols=COLS)
    assert exposure.row == row
    assert set(exposure.cols) <= set(range(COLS))
    assert col in exposure.cols
    assert eval(repr(site)) == site


@pytest.mark.parametrize("word", SITES)
def test_a_site_is_spelled_as_in_the_catalogue(word: str) -> None:
    place = {"row": 5, "col": 3}
    indices = ",".join(str(place[name]) for name in SITES[word].indices)
    assert str(build(word, **place)) == f"{word}[{indices}]"


@pytest.mark.parametrize("word", SITES)
def test_a_site_off_the_array_is_refused(word: str) -> None:
    with pytest.raises(InvalidInput, match=r"row=8 is outside the 8 x 4 array \(rows 0\.\.7\)"):
        build(word, row=8).exposure(rows=ROWS, cols=COLS)
    with pytest.raises(InvalidInput, match=r"row=-1 is outside the 8 x 4 array \(rows 0\.\.7\)"):
        build(word, row=-1).exposure(rows=ROWS, cols=COLS)
    if "col" in SITES[word].indices:
        with pytest.raises(InvalidInput, match=r"col=4 is outside the 8 x 4 array \(cols 0\.\.3\)"):
            build(word, col=4).exposure(rows=ROWS, cols=COLS)


@pytest.mark.parametrize("site", [WeightBus(row=0, reach="half"), ActivationRegister(row=0, reach="half")])
def test_half_of_an_odd_array_is_refused(site: Site) -> None:
    with pytest.raises(InvalidInput, match="reach='half' needs an array with an even number of columns, not 5"):
        site.exposure(rows=8, cols=5)


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
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_site_that_cannot_be_is_refused(build: Callable[[], Site], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        build()
