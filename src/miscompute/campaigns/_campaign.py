"""A campaign: a population of faults under one setting or several, carried out trial by trial into a store."""

import fcntl
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .._invalid import InvalidInput
from ..analysis import Estimate, rate
from ..experiment import GoldenRun, Run, Write, environment, execute, record_golden, run_trial, scalars, usable
from ..fault import Extent, FaultSpace
from ..hardware import Array, array_named
from ..injection import trace
from ..outcome import FAMILIES, OUTCOMES, Trajectory, classify
from ..tasks import (
    DATA_SETS,
    MODEL_FORMAT,
    DataSet,
    Recipe,
    build_model,
    check_fits,
    load_data,
    recipe_for,
    states_kept,
)
from ._engine import Done, Engine, Job, engine_named
from ._plan import FAILED, Plan, plan_of
from ._rounds import carry_out
from ._spec import Spec, load_spec, settings_of, spec_of
from ._store import STORE_FILE, Label, Record, Store

_LEAST_TIMEOUT_SECONDS = 120.0
_TIMEOUT_FACTOR = 30  # times what the slowest golden run took
_TRIAL = "trial"
_MOST_SCALARS = 500  # of a name, of one batch of trials


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A recipe and an array that faults are tried under; ``labels`` tell it from the campaign's others."""

    recipe: Recipe
    array: Array
    labels: Mapping[str, Label] = field(default_factory=dict)

    def extent(self) -> Extent:
        """Say what ``*`` stands for in fault strings, from the model that is trained."""
        source = DATA_SETS[self.recipe.data]
        model = build_model(self.recipe.model, **source.sizes, width=self.recipe.width)
        parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
        return Extent(
            array=self.array,
            format=MODEL_FORMAT,
            layers=trace(model, source.zeros(self.recipe.batch_size)),
            steps=self.recipe.steps,
            parameters=parameters,
            buffers={name: buffer.numel() for name, buffer in model.named_buffers() if buffer.dim()},
            states=states_kept(self.recipe),
            setting=self.labels,
        )

    def golden(self, seeds: int) -> tuple[Run, ...]:
        """Give the fault-free runs, the one that trials share first."""
        first = self.recipe.seed
        return tuple(
            Run(name=f"golden-{seed}", recipe=replace(self.recipe, seed=seed)) for seed in range(first, first + seeds)
        )


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """A population of faults, some of which are tried, each as a training of its own.

    ``space`` has one extent for each of the ``settings``, in their order. Made from a spec by `campaign_of`.
    """

    spec: Spec
    settings: tuple[Setting, ...]
    space: FaultSpace
    plan: Plan

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the campaign, as plain values."""
        return json.loads(json.dumps(self.spec.words()))  # type: ignore[no-any-return]

    @property
    def steering(self) -> str | None:
        """The outcome, a class or a family, that decides what the plan tries; None if none does."""
        return getattr(self.plan, "outcome", None)

    def run(self, place: int) -> Run:
        """Give the trial at a place of the population."""
        setting = self.settings[self.space.setting(place)]
        return Run(name=_TRIAL, recipe=setting.recipe, array=setting.array, fault=self.space.fault(place))


def campaign_of(spec: Spec | Mapping[str, Any] | Path | str) -> Campaign:
    """Make a campaign from its spec, or the spec's words or file: build the settings, and count the population.

    Raises:
        InvalidInput: if the spec has a mistake, a setting cannot be trained, or a fault is not on its array or in its
            model.
    """
    if isinstance(spec, Path | str):
        spec = load_spec(spec)
    elif not isinstance(spec, Spec):
        spec = spec_of(spec)
    settings = []
    for labels, task, array in settings_of(spec):
        words = dict(task)
        recipe = recipe_for(words.pop("data", "cluttered_digits"), **words)
        options = dict(array)
        place = array_named(options.pop("name", "nvdla-small"), **options)
        settings.append(Setting(recipe=recipe, array=place, labels=labels))
    space = FaultSpace.parse(spec.faults, *(setting.extent() for setting in settings))
    plan = plan_of(spec.plan)
    made = Campaign(spec=spec, settings=tuple(settings), space=space, plan=plan)
    if made.steering is not None and made.steering not in {*OUTCOMES, *FAMILIES}:
        raise InvalidInput(
            f"plan.outcome={made.steering!r} is no outcome; choose one of {', '.join(OUTCOMES)}, or a family of them: "
            f"{', '.join(FAMILIES)}"
        )
    return made


def key_of(run: Run) -> str:
    """Give the identity of a run by content: the digest of everything that decides its result."""
    words = json.dumps({**run.identity(), "threads": 1}, sort_keys=True)
    return sha256(words.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class CampaignResult:
    """What a campaign found, complete or not: outcomes by place in the population, and what its plan says of them.

    Of a campaign that is not complete, rates are of its first trials in the order of the plan. All rates raise
    `InvalidInput` where the plan cannot give any yet.
    """

    campaign: Campaign
    outcomes: Mapping[int, str]
    store: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What rates are given of: the families of outcomes, then each class that was seen or that the plan asks for.

        Families are there whether seen or not: none in so many trials has an upper limit too.
        """
        seen = dict.fromkeys([*self.outcomes.values(), *filter(None, [self.campaign.steering])])
        return tuple(dict.fromkeys([*FAMILIES, *(name for name in OUTCOMES if name in seen), *seen]))

    @cached_property
    def rates(self) -> Mapping[str, Estimate]:
        """The rate over the population of each of `names`."""
        of = self.campaign
        return of.plan.rates(of.space, of.spec.seed, self.outcomes, self.names)

    def rates_by(self, axis: str) -> Mapping[object, Mapping[str, Estimate]]:
        """Give the rates for each value of an axis of the population."""
        of = self.campaign
        return of.plan.rates_by(of.space, of.spec.seed, self.outcomes, axis, self.names)

    @property
    def failed(self) -> int:
        """How many trials could not be carried out."""
        return sum(outcome == FAILED for outcome in self.outcomes.values())

    @cached_property
    def left(self) -> int:
        """How many trials the plan still asks for, as far as it knows now; 0: the campaign is complete."""
        of = self.campaign
        return sum(place not in self.outcomes for place in set(of.plan.batch(of.space, of.spec.seed, self.outcomes)))


def campaign(
    what: Campaign | Spec | Mapping[str, Any] | Path | str,
    out: Path | str,
    *,
    engine: str | Engine = "pool",
    workers: int | None = None,
    timeout_seconds: float | None = None,
    data_folder: Path | None = None,
    shortcuts: bool = True,
    retry_failed: bool = False,
    tensorboard: bool = False,
    quiet: bool = False,
) -> CampaignResult:
    """Carry a campaign out, or go on with what its folder holds.

    The folder holds ``store.sqlite``, a row a trial, and ``golden/``, the fault-free runs with their snapshots. Ctrl-C,
    a kill or a full disk lose the trials in flight at most; calling again goes on. Results depend neither on the
    engine nor on the number of workers nor on interruptions.

    Args:
        what: to do: a campaign, or its spec as `campaign_of` takes it.
        out: the folder.
        engine: ``pool`` of processes here, or ``ray``; or one of your own, which is not ended.
        workers: trials at once, each with one thread; None: one a processor.
        timeout_seconds: after which a trial counts as hung; None: thirty times the slowest golden run, two minutes at
            least.
        data_folder: where the data set is, if not in the usual places.
        shortcuts: whether trials share what they can with the golden run; the results are the same without.
        retry_failed: try again what is in the store as failed.
        tensorboard: write the rates of outcomes over the trials done as scalars too, into the folder's ``tensorboard``.
        quiet: no progress.

    Raises:
        InvalidInput: if the folder cannot be used or holds another campaign, the data set cannot be had, a golden run
            crashes, or another process is at work in the folder.
        KeyboardInterrupt: after Ctrl-C; the store is whole.
    """
    wanted, out = what if isinstance(what, Campaign) else campaign_of(what), Path(out)
    for setting in wanted.settings:
        # Downloads once, and says what is wrong before any run.
        check_fits(setting.recipe, _data(setting.recipe.data, folder=data_folder))
    with _alone_in(out), Store(out / STORE_FILE, axes=wanted.space.axes) as store:
        store.describe("campaign", wanted.identity)
        store.note("made", {"command": sys.argv, "environment": environment()})
        done = store.trials()
        with (
            scalars(out / "tensorboard" if tensorboard else None, after=done) as write,
            _Watch(store, quiet=quiet, write=write) as watch,
            _started(engine, workers) as started,
        ):
            goldens, seconds = _golden(wanted, store, out, started, data_folder, watch)
            limit = timeout_seconds or max(_LEAST_TIMEOUT_SECONDS, _TIMEOUT_FACTOR * seconds)
            _trials(wanted, store, goldens, started, data_folder, watch, shortcuts, retry_failed, limit)
        return result_of(wanted, store)


def result_of(campaign: Campaign, store: Store) -> CampaignResult:
    """Say what the trials of a store found, be the campaign complete or not."""
    return CampaignResult(campaign=campaign, outcomes=store.outcomes(), store=store.path)


def _started(engine: str | Engine, workers: int | None) -> AbstractContextManager[Engine]:
    return nullcontext(engine) if isinstance(engine, Engine) else engine_named(engine, workers=workers)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Make a folder and keep others from working in it."""
    with usable(out):
        lock = (out / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidInput(f"out={str(out)!r} is being worked in by another process; wait for it to end") from error
        yield


@dataclass(frozen=True, kw_only=True)
class _Goldens:
    """Of one setting: the runs to judge by, and where the one that trials share is kept."""

    trajectories: tuple[Trajectory, ...]
    folder: Path


def _golden(
    campaign: Campaign, store: Store, out: Path, engine: Engine, data_folder: Path | None, watch: "_Watch"
) -> tuple[list[_Goldens], float]:
    """Carry the settings' golden runs out; give them by setting, and how many seconds the slowest took."""
    seeds = campaign.spec.golden_seeds
    runs = {key_of(run): run for setting in campaign.settings for run in setting.golden(seeds)}
    shared = {key_of(setting.golden(seeds)[0]) for setting in campaign.settings}
    known = store.golden()
    jobs = [
        Job(name=key, work=_work_golden, args=(run, out / "golden" / key[:16], key in shared, data_folder))
        for key, run in runs.items()
        if key not in known or key in shared  # the snapshots may be gone, and are soon found where they are not
    ]
    seconds = 0.0
    watch.begin("golden runs", len(jobs))
    for done in engine.run(jobs):
        if done is None:
            continue
        if done.failure is not None:
            raise InvalidInput(f"golden run {runs[done.job.name].name!r} failed: {done.failure}")
        trajectory, took = done.value
        seconds = max(seconds, took)
        run = runs[done.job.name]
        if trajectory.crash is not None:
            raise InvalidInput(
                f"run {run.name!r} has no fault and crashed in step {trajectory.crash.step} "
                f"({trajectory.crash.tensor}): there is nothing to judge faults by; choose a lower task.lr or another "
                "task.seed"
            )
        store.add_golden(done.job.name, run.identity(), trajectory)
        watch.advance()
    known = store.golden()
    return [
        _Goldens(
            trajectories=tuple(known[key_of(run)] for run in setting.golden(seeds)),
            folder=out / "golden" / key_of(setting.golden(seeds)[0])[:16],
        )
        for setting in campaign.settings
    ], seconds


def _trials(
    campaign: Campaign,
    store: Store,
    goldens: Sequence[_Goldens],
    engine: Engine,
    data_folder: Path | None,
    watch: "_Watch",
    shortcuts: bool,
    retry_failed: bool,
    timeout_seconds: float,
) -> None:
    """Try batch after batch of the plan's, leaving out what the store has."""
    space = campaign.space

    def job(place: int) -> Job:
        run, setting = campaign.run(place), space.setting(place)
        golden = _fault_free(run)
        args = (run, golden, goldens[setting].folder, data_folder, shortcuts)
        return Job(name=place, work=_work_trial, args=args, timeout_seconds=timeout_seconds)

    def record(done: Done) -> Record:
        run, place = done.job.args[0], done.job.name
        common: dict[str, Any] = {
            "key": key_of(run),
            "place": place,
            "fault": str(run.fault),
            "labels": _labels(space.labels(place)),
            "attempts": done.attempts,
        }
        if done.failure is not None:
            return Record(**common, outcome=FAILED, family=FAILED, failure=done.failure)
        trajectory, seconds = done.value
        found = classify(trajectory, goldens[space.setting(place)].trajectories)
        return Record(**common, outcome=found.name, family=found.family, trajectory=trajectory, seconds=seconds)

    carry_out(
        campaign.plan,
        space,
        campaign.spec.seed,
        store,
        engine,
        job=job,
        record=record,
        watch=watch,
        retry_failed=retry_failed,
    )


def _fault_free(run: Run) -> Run:
    """Give the fault-free run that a trial is compared with."""
    return Run(name="golden", recipe=run.recipe, fleet=run.fleet)


def _labels(labels: Mapping[str, object]) -> dict[str, Label]:
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in labels.items()}


_data = cache(load_data)


@cache
def _shared(golden: Run, folder: Path, data_folder: Path | None) -> GoldenRun:
    """Read the golden run that many trials of a worker share."""
    return record_golden(golden, _quiet_data(golden.recipe.data, data_folder), folder)


def _quiet_data(name: str, folder: Path | None) -> DataSet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parent has loaded it too, and said what there is to say
        return _data(name, folder=folder)


def _work_golden(run: Run, folder: Path, is_shared: bool, data_folder: Path | None) -> tuple[Trajectory, float]:
    torch.set_num_threads(1)
    began = time.monotonic()
    data = _quiet_data(run.recipe.data, data_folder)
    if is_shared:
        return record_golden(run, data, folder).trajectory, time.monotonic() - began
    return execute(run, data, folder), time.monotonic() - began


def _work_trial(
    run: Run, golden: Run, folder: Path, data_folder: Path | None, shortcuts: bool
) -> tuple[Trajectory, float]:
    torch.set_num_threads(1)
    began = time.monotonic()
    shared = _shared(golden, folder, data_folder)
    trajectory = run_trial(run, _quiet_data(run.recipe.data, data_folder), shared, shortcuts=shortcuts)
    return trajectory, time.monotonic() - began


class _Watch:
    """Shows how far a campaign is: trials, time left, and the outcomes so far with the intervals of their rates.

    These are of the trials that have ended, whatever the plan asked for first; the result's rates go by the plan.
    """

    def __init__(self, store: Store, *, quiet: bool, write: Write) -> None:
        self._write = write
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        self._progress = _Bars(*columns, console=console, disable=quiet or not console.is_terminal)
        self._says_lines = not quiet and not console.is_terminal
        self._found: Counter[str] = Counter(store.outcomes().values())
        self._bar: Any = None
        self._total = self._done = 0
        self._what = ""
        self._said = time.monotonic()

    def __enter__(self) -> "_Watch":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int, *, done: int = 0) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._progress.under = self._rates()
        self._bar = self._progress.add_task(what, total=total, completed=done)
        self._what, self._total, self._done = what, total, done

    def advance(self, outcome: str | None = None) -> None:
        self._done += 1
        if outcome is not None:
            self._found[outcome] += 1
            if self._done == self._total or self._done % max(1, self._total // _MOST_SCALARS) == 0:
                self._write(self._found.total(), self._scalars())
        if not self._progress.disable:
            self._progress.under = self._rates()
        self._progress.update(self._bar, advance=1)
        if self._says_lines and (time.monotonic() - self._said > 30 or self._done == self._total):
            self._said = time.monotonic()
            print(f"{self._done:,} of {self._total:,} {self._what}  {self._rates()}", file=sys.stderr, flush=True)

    def _scalars(self) -> dict[str, float]:
        """Give the rates of families and of classes seen, with their limits, as TensorBoard groups them."""
        rates = self._estimates()
        return {
            f"{name}/{what}": value
            for name, found in rates.items()
            for what, value in (("rate", found.best), ("low", found.low), ("high", found.high))
        }

    def _estimates(self) -> dict[str, Estimate]:
        trials = self._found.total() - self._found[FAILED]
        events = dict.fromkeys(FAMILIES, 0) | {name: self._found[name] for name in OUTCOMES if self._found[name]}
        for name, rule in OUTCOMES.items():
            events[rule.family] += self._found[name]
        return {name: rate(some, trials) for name, some in events.items()} if trials else {}

    def _rates(self) -> str:
        """Say the rates of families, seen or not, and after them those of the classes seen."""
        said = [
            f"{name} {100 * found.best:.1f} % ({100 * found.low:.1f}..{100 * found.high:.1f})"
            for name, found in self._estimates().items()
        ]
        failed = f"{self._found[FAILED]:,} failed" if self._found[FAILED] else ""
        return "; ".join(filter(None, [", ".join(said[: len(FAMILIES)]), ", ".join(said[len(FAMILIES) :]), failed]))


class _Bars(Progress):
    """Bars, and a text under them that may be longer than a line."""

    under = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        if self.under:
            yield Text(self.under)
