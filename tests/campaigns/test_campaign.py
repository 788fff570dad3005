"""Campaigns: rows depend on neither engine, workers, order, shortcuts nor interruptions."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.campaigns.made_up import Here, results

from miscompute import InvalidInput
from miscompute.campaigns import (
    FAILED,
    CampaignResult,
    Job,
    Store,
    campaign,
    campaign_of,
    export,
    load_spec,
    replay,
    schema,
    spec_of,
)
from miscompute.campaigns import _campaign as module
from miscompute.outcome import FAMILIES, OUTCOMES
from miscompute.report import rates_by_table, rates_table, record_table
from miscompute.tasks import DataSet

SPEC: dict[str, Any] = {
    "name": "made up",
    "faults": [
        "weight|activation[0..7,0] bit 1|22|30 flip transient step * pass * layer conv1|fc3",
        "weight[0,0] bit 28 stuck-at 0",
    ],
    "plan": {"kind": "fixed", "trials": 12},
    "golden_seeds": 2,
    "task": {"model": "lenet5", "steps": 4, "batch_size": 8, "evaluate_every": 2, "optimizer": ["adam", "sgd"]},
    "array": {"name": "nvdla-small"},
}


@pytest.fixture(scope="module")
def patched(few_digits: DataSet) -> Iterator[None]:
    def load(*_: object, **__: object) -> DataSet:
        return few_digits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_data", load)
        patch.setattr(module, "_data", load)
        yield


@pytest.fixture(scope="module")
def whole(patched: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    campaign(spec_of(SPEC), folder, engine=Here(), quiet=True)
    return folder


def test_the_population_is_that_of_all_settings(patched: None) -> None:
    wanted = campaign_of(SPEC)
    assert wanted.space.size == 2 * (2 * 8 * 3 * 4 * 3 * 2 + 1)
    assert {setting.recipe.optimizer for setting in wanted.settings} == {"adam", "sgd"}
    assert [wanted.run(place).recipe.optimizer for place in (0, wanted.space.size - 1)] == ["adam", "sgd"]
    assert wanted.space.labels(0)["optimizer"] == "adam"


def test_rows_say_what_was_tried_and_what_came_of_it(whole: Path) -> None:
    rows = results(whole)
    assert len(rows) == 12
    assert {row.labels["optimizer"] for row in rows} == {"adam", "sgd"}
    assert len({row.key for row in rows}) == 12
    for row in rows:
        assert row.trajectory is not None
        assert (row.family == "crash") == (row.trajectory.crash is not None)
        assert row.family == OUTCOMES[row.outcome].family
        assert (row.outcome == "not activated") <= (row.trajectory.changed == 0)
        assert row.labels["bit"] in (1, 22, 28, 30)


def test_without_shortcuts_rows_are_the_same(whole: Path, tmp_path: Path) -> None:
    campaign(spec_of(SPEC), str(tmp_path), engine=Here(), shortcuts=False, quiet=True)
    assert results(tmp_path) == results(whole)


class _Interrupted(Here):
    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def _result(self, handle: Any, job: Job) -> tuple[Any, str | None, bool]:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super()._result(handle, job)


def test_interrupted_and_taken_up_again_rows_are_the_same(whole: Path, tmp_path: Path) -> None:
    interruptions = 0
    for _ in range(20):
        try:
            campaign(spec_of(SPEC), tmp_path, engine=_Interrupted(after=7), quiet=True)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions > 1
    assert results(tmp_path) == results(whole)


def test_tables_and_export_show_all_trials(whole: Path, tmp_path: Path, patched: None) -> None:
    result = campaign(spec_of(SPEC), whole, engine=Here(), quiet=True)  # nothing is left to do
    assert sum(result.rates[family].events or 0 for family in FAMILIES) == 12
    assert sum(found.events or 0 for name, found in result.rates.items() if name in OUTCOMES) == 12
    assert (result.left, result.failed) == (0, 0)
    assert rates_table(result).row_count == len(result.rates)
    assert rates_by_table(result, "optimizer").row_count == 2
    with Store(whole / "store.sqlite", read_only=True) as store:
        facts, curve = record_table(next(store.records()))
        assert facts.row_count > 10
        assert curve.row_count in (0, 1, 2)
        assert export(store, tmp_path / "trials.csv") == 12
        assert export(store, tmp_path / "trials.parquet") == 12
        with pytest.raises(InvalidInput, match=re.escape("must end in .parquet or .csv")):
            export(store, tmp_path / "trials.xls")
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert len(lines) == 13
    assert "optimizer" in lines[0]


def test_a_replay_is_equal_to_the_record_with_a_finer_curve(
    whole: Path, tmp_path: Path, few_digits: DataSet, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr("miscompute.campaigns._replay.load_data", lambda *_, **__: few_digits)
    wanted = campaign_of(SPEC)
    with Store(whole / "store.sqlite", read_only=True) as store:
        for place, outcome in store.outcomes().items():
            found = replay(wanted, store, str(place), tmp_path / str(place))
            assert found.difference == ""
            assert OUTCOMES[outcome].family == "crash" or len(found.trajectory.points) == 4
        with pytest.raises(InvalidInput, match="every=3 must divide the campaign's evaluate_every=2"):
            replay(wanted, store, str(place), tmp_path, every=3)


def test_another_campaign_is_not_mixed_in(whole: Path, patched: None) -> None:
    other = {**SPEC, "golden_seeds": 3}
    with pytest.raises(InvalidInput, match="holds another campaign: golden_seeds is 2, not 3"):
        campaign(spec_of(other), whole, engine=Here(), quiet=True)


def test_two_at_work_in_one_folder_are_refused(tmp_path: Path, patched: None) -> None:
    with (
        module._alone_in(tmp_path),
        pytest.raises(InvalidInput, match="is being worked in by another process; wait for it to end"),
    ):
        campaign(spec_of(SPEC), tmp_path, engine=Here(), quiet=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": {"lr": "fast"}}, "spec: task.lr.0='fast': input should be a valid number"),
        ({"task": {"learning_rate": 1.0}}, "spec: task.learning_rate is unknown; choose one of data, model, width"),
        ({"array": {"rows": 8}}, "spec: array.rows is unknown; choose one of name, format"),
        ({"fault": "x"}, "spec: fault is unknown; choose one of name, about, faults"),
        ({"plan": {"kind": "all"}}, "spec: plan.kind='all' is not known; choose from exhaustive"),
        ({"golden_seeds": 1}, "spec: golden_seeds=1: input should be greater than or equal to 2"),
        ({"name": ""}, "spec: name='': string should match pattern"),
    ],
)
def test_a_mistake_in_a_spec_is_named_by_its_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        spec_of({**SPEC, **change})


def test_a_plan_is_steered_by_an_outcome_that_there_is(patched: None) -> None:
    plan = {"kind": "sequential", "outcome": "broken", "width": 0.1, "most": 100}
    with pytest.raises(InvalidInput, match=r"plan\.outcome='broken' is no outcome; choose one of immediate.* family"):
        campaign_of({**SPEC, "plan": plan})
    assert campaign_of({**SPEC, "plan": {**plan, "outcome": "silent corruption"}}).steering == "silent corruption"


def test_what_was_never_seen_has_a_row_with_its_limit(patched: None, tmp_path: Path) -> None:
    wanted = campaign_of({**SPEC, "plan": {**SPEC["plan"], "trials": 100}})
    places = wanted.plan.batch(wanted.space, wanted.spec.seed, {})
    outcomes = {place: "masked" if n % 4 else "not activated" for n, place in enumerate(places[:60])}
    result = CampaignResult(campaign=wanted, outcomes=outcomes, store=tmp_path)
    assert result.left == 40
    first, *_ = rates_table(result).columns
    assert list(first.cells) == ["crash", "silent corruption", "nothing", "  not activated", "  masked"]
    assert list(rates_table(result).columns[1].cells) == ["0", "0", "60", "15", "45"]
    assert str(result.rates["silent corruption"]) == "0 % (0..6 %, 95 %, 0 of 60)"
    headings = [column.header for column in rates_by_table(result, "optimizer").columns]
    assert headings == ["optimizer", "trials", "crash", "silent corruption", "not activated", "masked"]
    with pytest.raises(InvalidInput, match="the plan's first trial has none"):
        _ = CampaignResult(campaign=wanted, outcomes={}, store=tmp_path).rates


def test_rates_are_written_as_trials_end(tmp_path: Path) -> None:
    written: dict[int, Mapping[str, float]] = {}
    with (
        Store(tmp_path / "store.sqlite", axes=("bit",)) as store,
        module._Watch(store, quiet=True, write=written.__setitem__) as watch,
    ):
        watch.begin("trials", 4)
        for outcome in ("masked", "late INF/NaN", FAILED, "masked"):
            watch.advance(outcome)
    assert list(written) == [1, 2, 3, 4]
    last = {name: round(value, 4) for name, value in written[4].items() if name.endswith(("rate", "high"))}
    assert {name: value for name, value in last.items() if name.endswith("rate")} == {
        "crash/rate": 0.3333,
        "silent corruption/rate": 0.0,
        "nothing/rate": 0.6667,
        "masked/rate": 0.6667,
        "late INF/NaN/rate": 0.3333,
    }
    assert last["silent corruption/high"] == 0.7076  # none of three: 1 - 0.025 ** (1 / 3)


@pytest.mark.parametrize("width", [60, 200])
def test_progress_shows_bar_time_left_and_rates_on_any_terminal(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = StringIO()
    terminal = Console(file=shown, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(module, "Console", lambda **_: terminal)
    with (
        Store(tmp_path / "store.sqlite", axes=("bit",)) as store,
        module._Watch(store, quiet=False, write=lambda *_: None) as watch,
    ):
        watch.begin("trials", 40)
        for outcome in ["masked"] * 8 + ["adapted", FAILED]:
            watch.advance(outcome)
    text = " ".join(shown.getvalue().split())
    assert "10/40" in text
    assert "left" in text
    assert "crash 0.0 % (0.0..33.6), silent corruption 11.1 % (0.3..48.2), nothing 88.9 % (51.8..99.7); " in text
    assert "adapted 11.1 % (0.3..48.2), masked 88.9 % (51.8..99.7); 1 failed" in text


def test_what_is_no_toml_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"spec '.*absent.toml' cannot be read \(No such file or directory\)"):
        load_spec(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(InvalidInput, match="is no TOML: Invalid value"):
        load_spec(tmp_path / "bad.toml")
    with pytest.raises(InvalidInput, match="spec: faults: field required"):
        spec_of({"name": "x", "plan": {"kind": "exhaustive"}})


SPECS = sorted((Path(__file__).parents[2] / "campaigns").glob("*.toml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_specs_that_come_along_can_be_carried_out(path: Path) -> None:
    wanted = campaign_of(str(path))
    assert wanted.plan.batch(wanted.space, wanted.spec.seed, {})
    assert spec_of(wanted.spec.words()) == wanted.spec
    assert spec_of(tomllib.loads(wanted.spec.toml())) == wanted.spec


def test_the_schema_is_one_for_editors() -> None:
    import jsonschema  # type: ignore[import-untyped]

    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(SPEC, schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**SPEC, "task": {"lr": "fast"}}, schema())
