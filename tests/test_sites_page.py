"""docs/sites.md: every site of the catalogue, the arrays that have it, and what its docstring says of its fidelity."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from miscompute import InvalidInput
from miscompute.fault import SITES, Site
from miscompute.hardware import ARRAYS

PAGE = (Path(__file__).parents[1] / "docs" / "sites.md").read_text()
ROWS = {
    line.split("`")[1].partition("[")[0]: [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| `")
}
PLACE: dict[str, Any] = {"name": "fc", "state": "exp_avg", "level": 1, "length": 1}
NAMES = {"lenet5": 4, "alexnet": 5}  # the columns of costs


def site_of(word: str) -> Site:
    place = {**PLACE, "row": int(word == "accumulator-pe")}  # row 0 is what arrays with one a column have
    return SITES[word].build(**{name: place.get(name, 0) for name in SITES[word].indices})


def kinds_of(word: str) -> str:
    """Name the kinds of arrays that have a site: those whose names all begin alike are one."""
    kinds: dict[str, list[bool]] = {}
    for name, build in ARRAYS.items():
        try:
            site_of(word).check_array(build())
            has = True
        except InvalidInput:
            has = False
        kinds.setdefault("nvdla" if name.startswith("nvdla-") else name, []).append(has)
    assert all(len(set(found)) == 1 for found in kinds.values())
    having = [kind for kind, found in kinds.items() if found[0]]
    return "all" if len(having) == len(kinds) else ", ".join(having)


def fidelity_of(kind: type[Site]) -> str:
    """Read what a class's docstring says after *Fidelity*, up to the end of the paragraph."""
    found = re.search(r"\*Fidelity\*: (.*?)(\n\n|$)", inspect.getdoc(kind) or "", re.DOTALL)
    assert found, kind
    return " ".join(found[1].split())


def in_short(kind: type[Site]) -> str:
    """Give the first sentence of it; of another class's, where it says so."""
    text = fidelity_of(kind)
    other = re.match(r"as `(\w+)`", text)
    if other:
        return in_short(next(type(site_of(word)) for word in SITES if type(site_of(word)).__name__ == other[1]))
    return re.split(r"\. (?=[A-Z])", text)[0].rstrip(".")


def test_every_site_has_a_row_and_no_other() -> None:
    assert list(ROWS) == list(SITES)


@pytest.mark.parametrize("word", SITES)
def test_a_row_says_what_the_catalogue_and_the_docstrings_say(word: str) -> None:
    site, what, arrays, fidelity, *costs = ROWS[word]
    spelling = SITES[word]
    needed = spelling.indices[: len(spelling.indices) - spelling.optional]
    assert site in (f"`{word}[{','.join(needed)}]`", f"`{word}[{','.join(spelling.indices)}]`")
    assert what
    assert arrays == kinds_of(word)
    assert fidelity == in_short(type(site_of(word)))
    assert len(costs) == len(NAMES)
    assert all(re.fullmatch(r"\d+\.\d\d|\d+|-", cost) for cost in costs)


def test_the_page_holds_every_statement_of_fidelity_whole() -> None:
    text = " ".join(PAGE.split())
    for kind in {type(site_of(word)) for word in SITES}:
        assert f"**{kind.__name__}**" in text
        assert fidelity_of(kind) in text


def test_the_readme_leads_there() -> None:
    assert "(docs/sites.md)" in (Path(__file__).parents[1] / "README.md").read_text()
