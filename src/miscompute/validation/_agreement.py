"""How often two computations of the same thing agree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How many cases of one kind agree in every bit.

    Args:
        source: what they come from: a file, an array.
        kind: the site, or whatever the source sorts its cases by.
        agreeing: cases that agree.
        cases: all cases.
        example: the first case that does not agree, in words; empty if all do.
    """

    source: str
    kind: str
    agreeing: int
    cases: int
    example: str = ""

    @property
    def is_full(self) -> bool:
        """Whether all cases agree."""
        return self.agreeing == self.cases


def summed_up(agreements: Sequence[Agreement], *, source: str) -> Agreement:
    """Take agreements of several kinds as one; its example is the first there is."""
    return Agreement(
        source=source,
        kind="all",
        agreeing=sum(agreement.agreeing for agreement in agreements),
        cases=sum(agreement.cases for agreement in agreements),
        example=next((agreement.example for agreement in agreements if agreement.example), ""),
    )


Report = Callable[[int, int], None]
"""Told how much is done, of how much."""


def silent(done: int, total: int) -> None:
    """Tell nobody how much is done."""


class Tally:
    """Counts cases by kind, in the order in which kinds are met."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._counts: dict[str, list[int]] = {}
        self._examples: dict[str, str] = {}

    def add(self, kind: str, case: str, *, agrees: bool) -> None:
        """Count a case."""
        counts = self._counts.setdefault(kind, [0, 0])
        counts[0] += agrees
        counts[1] += 1
        if not agrees:
            self._examples.setdefault(kind, case)

    def agreements(self) -> tuple[Agreement, ...]:
        """Give what was counted."""
        return tuple(
            Agreement(
                source=self._source,
                kind=kind,
                agreeing=agreeing,
                cases=cases,
                example=self._examples.get(kind, ""),
            )
            for kind, (agreeing, cases) in self._counts.items()
        )
