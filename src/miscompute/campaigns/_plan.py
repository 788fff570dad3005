"""Plans: which faults of a population to try, and what the trials then say of all of them.

A plan is chosen before the campaign and recorded with it, since the interval that is right depends on it. It asks for
trials batch by batch. What a batch is depends on population, seed and the outcomes of the batches before it, never on
the order in which trials end; so nothing of a plan's progress is kept. From the outcomes the batches are computed again
from the first, and the first that is not complete is the next.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import takewhile
from types import MappingProxyType
from typing import Any, NamedTuple, final

from .. import analysis
from .._invalid import InvalidInput
from ..analysis import Estimate, StoppingRule, confidence_sequence, deal, leveugle, neyman, rate, stratified_rate
from ..fault import FaultSpace, Stratum
from ..outcome import OUTCOMES

FAILED = "failed"
"""The outcome of a trial that gave none: its machine broke, say."""

_PILOT = 2  # trials of each stratum at least, so that one event does not look like a rate of 1
_ENDLESS = 10**15  # faults: as good as infinitely many for the size of a sample

Outcomes = Mapping[int, str]
Names = Sequence[str] | None
Rates = dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """Which faults to try next, given what came out so far; and their population's rates.

    Outcomes are names, by the fault's index in the space. Wherever one is asked for, by a plan's ``outcome`` or among
    the ``names`` of rates, a family of `miscompute.outcome.OUTCOMES` stands for all its classes. Trials that are
    ``failed`` are left out of the rates of the others, which are then those of the faults whose trials do not fail; how
    often they do is a rate of its own, of all trials. Each interval holds by itself, not all of them at once.

    Trials count in the order in which the plan asked for them, up to the first that has no outcome: those that merely
    ended early, as crashes do, would be no fair sample.
    """

    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise InvalidInput(f"plan.confidence={self.confidence} must be between 0 and 1, for example 0.95")

    @abstractmethod
    def batches(self, space: FaultSpace, seed: int, outcomes: Outcomes) -> Iterator[tuple[int, ...]]:
        """Give batch after batch, each from the outcomes of those before, which must all be there to go on.

        Raises:
            InvalidInput: if the plan is not for such a space.
        """

    def batch(self, space: FaultSpace, seed: int, outcomes: Outcomes) -> tuple[int, ...]:
        """Give the faults to try next, also those of the batch that have an outcome already; none when done."""
        return next((b for b in self.batches(space, seed, outcomes) if not all(i in outcomes for i in b)), ())

    @abstractmethod
    def rates(self, space: FaultSpace, seed: int, outcomes: Outcomes, names: Names = None) -> Rates:
        """Estimate the rate over the whole space of each outcome named, seen or not; None: of each that was seen.

        Raises:
            InvalidInput: if too little is known yet.
        """

    @abstractmethod
    def rates_by(
        self, space: FaultSpace, seed: int, outcomes: Outcomes, axis: str, names: Names = None
    ) -> dict[object, Rates]:
        """Estimate the rates for each label of an axis that was tried; faults without one have None.

        Raises:
            InvalidInput: if the space has no such axis, or the plan says nothing about it.
        """


class _Uniform(Plan):
    """All faults are equally likely; in a space with weights, by weight."""

    def rates(self, space: FaultSpace, seed: int, outcomes: Outcomes, names: Names = None) -> Rates:
        return self._rates(space, self._tried(space, seed, outcomes), outcomes, space.size, names)

    def rates_by(
        self, space: FaultSpace, seed: int, outcomes: Outcomes, axis: str, names: Names = None
    ) -> dict[object, Rates]:
        strata = space.strata((axis,))
        tried: dict[object, list[int]] = {stratum.key[0]: [] for stratum in strata}
        for index in self._tried(space, seed, outcomes):
            tried[space.labels(index).get(axis)].append(index)
        return {
            stratum.key[0]: self._rates(space, tried[stratum.key[0]], outcomes, stratum.size, names)
            for stratum in strata
            if tried[stratum.key[0]]
        }

    def _tried(self, space: FaultSpace, seed: int, outcomes: Outcomes) -> list[int]:
        asked = (index for batch in self.batches(space, seed, outcomes) for index in batch)
        return list(takewhile(outcomes.__contains__, asked))

    def _rates(self, space: FaultSpace, tried: Sequence[int], outcomes: Outcomes, size: int, names: Names) -> Rates:
        def estimate(events: int, trials: int) -> Estimate:
            # With weights they were drawn with replacement. Failed faults are no part of the population of the others.
            return self._estimate(events, trials, None if space.is_weighted else size - (len(tried) - trials))

        return _each(tried, outcomes, names, lambda name, ran: estimate(_events(name, ran, outcomes), len(ran)))

    @abstractmethod
    def _estimate(self, events: int, trials: int, population: int | None) -> Estimate: ...


@final
@dataclass(frozen=True, kw_only=True)
class Exhaustive(_Uniform):
    """Every fault, in random order: until all are tried it is a sample, then rates are exact.

    In a space with weights, rates are by weight, and there are none before all are tried.
    """

    def batches(self, space: FaultSpace, seed: int, outcomes: Outcomes) -> Iterator[tuple[int, ...]]:
        yield space.sample(space.size, seed)

    def _rates(self, space: FaultSpace, tried: Sequence[int], outcomes: Outcomes, size: int, names: Names) -> Rates:
        if not space.is_weighted:
            return super()._rates(space, tried, outcomes, size, names)
        if len(tried) < size:
            raise InvalidInput(
                f"plan.kind='exhaustive' of weighted faults has no rates until all {size:,} are tried, not "
                f"{len(tried):,}; 'fixed' has"
            )

        def exact(name: str, ran: Sequence[int]) -> Estimate:
            events = [i for i in ran if _is(outcomes[i], name)]
            best = math.fsum(map(space.weight, events)) / math.fsum(map(space.weight, ran))
            return Estimate(
                low=best,
                best=best,
                high=best,
                events=len(events),
                trials=len(ran),
                confidence=self.confidence,
                method="exact, by weight",
            )

        return _each(tried, outcomes, names, exact)

    def _estimate(self, events: int, trials: int, population: int | None) -> Estimate:
        return rate(events, trials, confidence=self.confidence, population=population)


@final
@dataclass(frozen=True, kw_only=True)
class Fixed(_Uniform):
    """A random sample of a size that is fixed beforehand, without replacement; by weight, with it.

    Args:
        trials: how many; or
        margin: to within what on both sides, by the formula of fault-injection papers (`miscompute.analysis.leveugle`),
        p: at this rate. The interval that is reported does not rest on it.
    """

    trials: int | None = None
    margin: float | None = None
    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.trials is None) == (self.margin is None):
            raise InvalidInput(
                f"plan.trials={self.trials} and plan.margin={self.margin}: give one of them, for example trials=2000"
            )
        _check_least("trials", self.trials)
        for name, value in (("margin", self.margin), ("p", self.p)):
            if value is not None and not 0 < value < 1:
                raise InvalidInput(f"plan.{name}={value} must be between 0 and 1")

    def batches(self, space: FaultSpace, seed: int, outcomes: Outcomes) -> Iterator[tuple[int, ...]]:
        trials = self.trials
        if trials is None:
            assert self.margin is not None
            population = _ENDLESS if space.is_weighted else space.size
            trials = leveugle(population, margin=self.margin, confidence=self.confidence, rate=self.p)
        if space.is_weighted:
            yield space.draws(trials, seed)
        else:
            _check_most("trials", trials, space)
            yield space.sample(trials, seed)

    def _estimate(self, events: int, trials: int, population: int | None) -> Estimate:
        return rate(events, trials, confidence=self.confidence, population=population)


@final
@dataclass(frozen=True, kw_only=True)
class Sequential(_Uniform):
    """A random sample that grows until the interval of one outcome's rate is narrow enough.

    Intervals are confidence sequences (`miscompute.analysis.confidence_sequence`): they hold at all looks at once, so
    neither this rule nor stopping by hand makes them wrong.

    Args:
        outcome: whose rate; a class, or a family for all its classes.
        width: of its interval, from limit to limit, at which to stop.
        most: trials at which to stop at the latest; all faults, if they are fewer.
        batch_trials: trials between two looks.
    """

    outcome: str
    width: float
    most: int
    batch_trials: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.width < 1:
            raise InvalidInput(f"plan.width={self.width} must be between 0 and 1: it is a difference of two rates")
        _check_least("most", self.most)
        _check_least("batch_trials", self.batch_trials)

    def batches(self, space: FaultSpace, seed: int, outcomes: Outcomes) -> Iterator[tuple[int, ...]]:
        most = self.most if space.is_weighted else min(self.most, space.size)
        events = trials = failed = 0
        for begin in range(0, most, self.batch_trials):
            end = min(begin + self.batch_trials, most)
            batch = (space.draws if space.is_weighted else space.sample)(end, seed)[begin:]
            yield batch
            events += _events(self.outcome, batch, outcomes)
            failed += sum(outcomes[index] == FAILED for index in batch)
            trials = end - failed
            rule = StoppingRule(
                width=self.width,
                confidence=self.confidence,
                population=None if space.is_weighted else max(1, space.size - failed),
            )
            if rule.is_met(events, trials):
                return

    def _estimate(self, events: int, trials: int, population: int | None) -> Estimate:
        return confidence_sequence(events, trials, confidence=self.confidence, population=population)


class _Part(NamedTuple):
    """Faults of one stratum, and the random sample of them that was tried."""

    key: tuple[object, ...]
    size: int
    tried: Sequence[int]


class _Split(Plan):
    """Strata get trials of their own. The space must not have weights."""

    @abstractmethod
    def _axes(self) -> tuple[str, ...]: ...

    @abstractmethod
    def _parts(self, space: FaultSpace, seed: int, outcomes: Outcomes) -> list[_Part]: ...

    def rates(self, space: FaultSpace, seed: int, outcomes: Outcomes, names: Names = None) -> Rates:
        return self._rates(self._parts(space, seed, outcomes), outcomes, names)

    def rates_by(
        self, space: FaultSpace, seed: int, outcomes: Outcomes, axis: str, names: Names = None
    ) -> dict[object, Rates]:
        by = self._axes()
        if axis not in by:
            raise InvalidInput(
                f"axis={axis!r} is not in plan.by={', '.join(by)}, whose strata have shares of their own; rates go by "
                "those, or add it there"
            )
        grouped: dict[object, list[_Part]] = defaultdict(list)
        for part in self._parts(space, seed, outcomes):
            grouped[part.key[by.index(axis)]].append(part)
        return {label: self._rates(parts, outcomes, names) for label, parts in grouped.items()}

    def _strata(self, space: FaultSpace) -> tuple[Stratum, ...]:
        if space.is_weighted:
            raise InvalidInput(
                f"plan.by={', '.join(self._axes())} is for faults of equal weight, and these have several; use "
                "plan.kind='fixed', which draws by weight"
            )
        return space.strata(self._axes())

    def _rates(self, parts: Sequence[_Part], outcomes: Outcomes, names: Names) -> Rates:
        def estimate(name: str, _: Sequence[int]) -> Estimate:
            strata = [self._stratum(part, outcomes, name) for part in parts]
            return stratified_rate([s for s in strata if s], confidence=self.confidence)

        return _each([index for part in parts for index in part.tried], outcomes, names, estimate)

    def _stratum(self, part: _Part, outcomes: Outcomes, name: str) -> analysis.Stratum | None:
        ran = [index for index in part.tried if name == FAILED or outcomes[index] != FAILED]
        size = part.size - (len(part.tried) - len(ran))
        if not ran and size:
            which = ", ".join(f"{axis} {label}" for axis, label in zip(self._axes(), part.key, strict=True))
            state = "all failed" if part.tried else "have no outcome yet"
            raise InvalidInput(f"outcomes: the trials of {which} {state}, and without them the strata give no rate")
        return analysis.Stratum(size=size, events=_events(name, ran, outcomes), trials=len(ran)) if ran else None


@final
@dataclass(frozen=True, kw_only=True)
class Stratified(_Split):
    """A pilot in proportion to the strata's sizes, then the other trials where they lower the variance most (`neyman`).

    How many those are depends on what the pilot gave, so pilot and other trials of a stratum are not one sample of a
    size fixed beforehand, and the share of events in both together is not without bias. Given the pilot, the
    others are a random sample of the faults that the pilot left. So rates are of two parts, the pilot's faults, which
    are known, and the rest, estimated from the others alone: without bias, and with the confidence that is stated. The
    price is what the pilot says about the rest; let it be a small part of the trials.

    Args:
        by: axes of the space; each combination of labels is a stratum.
        trials: of the campaign, the pilot's included.
        pilot: how many of them are the pilot's, at least 2 a stratum.
        outcome: the one whose rate is to be known best; a class, or a family for all its classes.
    """

    by: tuple[str, ...]
    trials: int
    pilot: int
    outcome: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.by:
            raise InvalidInput("plan.by=() must name at least one axis, such as 'bit'")
        _check_least("pilot", self.pilot)
        if self.trials <= self.pilot:
            raise InvalidInput(f"plan.trials={self.trials} must be more than plan.pilot={self.pilot}, which is a part")

    def _axes(self) -> tuple[str, ...]:
        return self.by

    def batches(self, space: FaultSpace, seed: int, outcomes: Outcomes) -> Iterator[tuple[int, ...]]:
        strata, pilot = self._pilot(space)
        yield _samples(strata, seed, pilot)
        rest = self._rest(strata, pilot, seed, outcomes)
        yield tuple(
            index
            for stratum, few, more in zip(strata, pilot, rest, strict=True)
            for index in stratum.sample(few + more, seed)[few:]
        )

    def _pilot(self, space: FaultSpace) -> tuple[tuple[Stratum, ...], list[int]]:
        strata = self._strata(space)
        _check_most("trials", self.trials, space)
        sizes = [stratum.size for stratum in strata]
        least = sum(min(_PILOT, size) for size in sizes)
        if self.pilot < least:
            raise InvalidInput(
                f"plan.pilot={self.pilot} must be at least {least}: {_PILOT} for each of {len(strata)} strata"
            )
        pilot = deal(sizes, [float(size) for size in sizes], self.pilot, _PILOT)
        others = sum(few < size for few, size in zip(pilot, sizes, strict=True))
        if self.trials - self.pilot < others:
            raise InvalidInput(
                f"plan.trials={self.trials} must be at least {self.pilot + others}: after the pilot, 1 for each of "
                f"{others} strata"
            )
        return strata, pilot

    def _rest(self, strata: Sequence[Stratum], pilot: Sequence[int], seed: int, outcomes: Outcomes) -> list[int]:
        """Deal the other trials by what the pilot gave."""
        rates, sizes = [], []
        for stratum, few in zip(strata, pilot, strict=True):
            tried = stratum.sample(few, seed)
            events, failed = (_events(name, tried, outcomes) for name in (self.outcome, FAILED))
            # The half is why a stratum without events still has a spread.
            rates.append((events + 0.5) / (few - failed + 1))
            sizes.append(stratum.size - few)
        left = [h for h, size in enumerate(sizes) if size]
        dealt = neyman([sizes[h] for h in left], [rates[h] for h in left], trials=self.trials - self.pilot)
        rest = dict(zip(left, dealt, strict=True))
        return [rest.get(h, 0) for h in range(len(strata))]

    def _parts(self, space: FaultSpace, seed: int, outcomes: Outcomes) -> list[_Part]:
        strata, pilot = self._pilot(space)
        first = [
            _Part(s.key, s.size, _known(s.sample(few, seed), outcomes)) for s, few in zip(strata, pilot, strict=True)
        ]
        if not all(len(part.tried) == few for part, few in zip(first, pilot, strict=True)):
            return first
        rest = self._rest(strata, pilot, seed, outcomes)
        second = [
            _Part(s.key, s.size - few, _known(s.sample(few + more, seed)[few:], outcomes))
            for s, few, more in zip(strata, pilot, rest, strict=True)
            if more
        ]
        if not all(part.tried for part in second):
            return first
        return [part._replace(size=len(part.tried)) for part in first] + second


@final
@dataclass(frozen=True, kw_only=True)
class Importance(_Split):
    """Trials by the shares that one expects to be worth it: more on high bits than on low ones, say.

    It is the data-aware sampling of fault-injection papers (Ruospo et al., DATE 2023): shares come from what is known
    of the data before the campaign. Rates weigh each stratum by its size, so shares change their variance, not what
    they estimate. Within a stratum it samples without replacement.

    Args:
        by: an axis of the space.
        shares: of the trials, by label, written as in a fault string; ``*`` is that of all labels not named, which they
            have by size. They sum to 1; every label has at least one trial.
        trials: of the campaign.
    """

    by: str
    shares: Mapping[str, float]
    trials: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_least("trials", self.trials)
        shares = {str(label): float(share) for label, share in self.shares.items()}
        if not all(share > 0 for share in shares.values()) or abs(math.fsum(shares.values()) - 1) > 1e-6:
            raise InvalidInput(f"plan.shares={shares} must each be above 0 and sum to 1; '*' is for all other labels")
        object.__setattr__(self, "shares", MappingProxyType(shares))

    def __hash__(self) -> int:
        return hash((self.by, tuple(sorted(self.shares.items())), self.trials, self.confidence))

    def _axes(self) -> tuple[str, ...]:
        return (self.by,)

    def batches(self, space: FaultSpace, seed: int, outcomes: Outcomes) -> Iterator[tuple[int, ...]]:
        strata, dealt = self._dealt(space)
        yield _samples(strata, seed, dealt)

    def _dealt(self, space: FaultSpace) -> tuple[tuple[Stratum, ...], list[int]]:
        strata = self._strata(space)
        _check_most("trials", self.trials, space)
        if self.trials < len(strata):
            raise InvalidInput(f"plan.trials={self.trials} must be at least {len(strata)}: 1 for each {self.by}")
        labels = [str(stratum.key[0]) for stratum in strata]
        unknown = [label for label in self.shares if label not in {*labels, "*"}]
        others = sum(s.size for s, label in zip(strata, labels, strict=True) if label not in self.shares)
        if unknown or bool(others) != ("*" in self.shares):
            raise InvalidInput(
                f"plan.shares={dict(self.shares)} must be for each {self.by} once, '*' for those not named: "
                f"{', '.join(labels[:40])}"
            )
        shares = [
            self.shares.get(label) or self.shares["*"] * (stratum.size / others)
            for stratum, label in zip(strata, labels, strict=True)
        ]
        return strata, deal([s.size for s in strata], shares, self.trials, 1)

    def _parts(self, space: FaultSpace, seed: int, outcomes: Outcomes) -> list[_Part]:
        return [
            _Part(s.key, s.size, _known(s.sample(many, seed), outcomes))
            for s, many in zip(*self._dealt(space), strict=True)
        ]


PLANS: Mapping[str, type[Plan]] = MappingProxyType(
    {
        "exhaustive": Exhaustive,
        "fixed": Fixed,
        "stratified": Stratified,
        "importance": Importance,
        "sequential": Sequential,
    }
)
"""Every plan, by the word for its kind."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _are_shares(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_number(share) for share in value.values())


_WORDS: Mapping[object, tuple[Callable[[object], bool], str, Callable[[Any], object]]] = MappingProxyType(
    {
        float: (_is_number, "a number", float),
        float | None: (_is_number, "a number", float),
        int: (_is_whole, "a whole number", int),
        int | None: (_is_whole, "a whole number", int),
        str: (lambda value: isinstance(value, str), "a word", str),
        tuple[str, ...]: (_are_names, "a list of words", tuple),
        Mapping[str, float]: (
            _are_shares,
            "a table from label to number",
            lambda table: {str(label): float(share) for label, share in table.items()},
        ),
    }
)
# By a field's type: whether a value from a file is one, how to ask for one, and how it is kept.


def plan_of(words: Mapping[str, object]) -> Plan:
    """Read a plan as a specification spells it: its kind, then its fields.

    Raises:
        InvalidInput: for a kind or a field that is not known, or one that is missing or not of its type.

    >>> plan_of({"kind": "fixed", "trials": 2000})
    Fixed(confidence=0.95, trials=2000, margin=None, p=0.5)
    """
    kind = words.get("kind")
    if not isinstance(kind, str) or kind not in PLANS:
        raise InvalidInput(f"plan.kind={kind!r} is not known; choose from {', '.join(PLANS)}")
    plan = PLANS[kind]
    known = {field.name: field for field in fields(plan)}
    given: dict[str, Any] = {}
    for name, value in words.items():
        if name == "kind":
            continue
        if name not in known:
            raise InvalidInput(f"plan.{name}={value!r} is not of plan.kind={kind!r}; it has {', '.join(known)}")
        is_one, what, keep = _WORDS[known[name].type]
        if not is_one(value):
            raise InvalidInput(f"plan.{name}={value!r} of plan.kind={kind!r} must be {what}")
        given[name] = keep(value)
    missing = [f.name for f in known.values() if f.default is MISSING and f.name not in given]
    if missing:
        raise InvalidInput(f"plan.{missing[0]} is missing: plan.kind={kind!r} needs {', '.join(missing)}")
    return plan(**given)


def words_of(plan: Plan) -> dict[str, object]:
    """Spell a plan as `plan_of` reads it, in values that TOML and JSON have.

    >>> words_of(Fixed(trials=2000))
    {'kind': 'fixed', 'confidence': 0.95, 'trials': 2000, 'p': 0.5}
    """
    words: dict[str, object] = {"kind": next(kind for kind, cls in PLANS.items() if cls is type(plan))}
    for field in fields(plan):
        value = getattr(plan, field.name)
        if isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        if value is not None:
            words[field.name] = value
    return words


def _is(outcome: str, name: str) -> bool:
    """Whether an outcome is the named one, or a class of the named family."""
    return outcome == name or (outcome in OUTCOMES and OUTCOMES[outcome].family == name)


def _events(name: str, tried: Sequence[int], outcomes: Outcomes) -> int:
    found = Counter(outcomes[index] for index in tried)
    return sum(trials for outcome, trials in found.items() if _is(outcome, name))


def _each(
    tried: Sequence[int], outcomes: Outcomes, names: Names, estimate: Callable[[str, Sequence[int]], Estimate]
) -> dict[str, Estimate]:
    """Estimate each outcome's rate from the trials that did not fail, and that of failing from all."""
    if not tried:
        raise InvalidInput("outcomes: the plan's first trial has none, and nothing is known before it")
    ran = [index for index in tried if outcomes[index] != FAILED]
    if names is None:
        names = sorted({outcomes[index] for index in tried})
    return {name: estimate(name, tried if name == FAILED else ran) for name in names if ran or name == FAILED}


def _known(asked: Iterable[int], outcomes: Outcomes) -> list[int]:
    return list(takewhile(outcomes.__contains__, asked))


def _samples(strata: Sequence[Stratum], seed: int, many: Sequence[int]) -> tuple[int, ...]:
    return tuple(index for s, n in zip(strata, many, strict=True) for index in s.sample(n, seed))


def _check_least(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InvalidInput(f"plan.{name}={value} must be at least 1")


def _check_most(name: str, value: int, space: FaultSpace) -> None:
    if value > space.size:
        raise InvalidInput(
            f"plan.{name}={value} must be at most {space.size:,}, all faults; plan.kind='exhaustive' tries each once"
        )
