"""The page: what it says is what store and run directory hold, and it needs nothing but itself."""

import base64
import json
import os
import re
import shutil
import subprocess
import zlib
from dataclasses import asdict, replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from miscompute import InvalidInput
from miscompute.analysis import Estimate
from miscompute.campaigns import Campaign, CampaignResult, Record, Store, campaign_of, key_of, load_spec, result_of
from miscompute.experiment import Experiment
from miscompute.experiment._experiment import identity_of
from miscompute.fault import parse_fault
from miscompute.hardware import nvdla_small
from miscompute.outcome import OUTCOMES, Crash, Point, Trajectory
from miscompute.report import _page as module
from miscompute.report import write_report
from miscompute.tasks import recipe_for

ATTACK = "</script><script>document.title = 'attacked'</script>"
SPEC: dict[str, Any] = {
    "name": "made up",
    "about": f"Is {ATTACK} a text?",
    "faults": "weight[0,0] bit 1|22|30 flip transient step 0..7 pass forward layer conv1",
    "plan": {"kind": "fixed", "trials": 20},
    "golden_seeds": 2,
    "task": {"model": "lenet5", "steps": 40, "evaluate_every": 10},
}


def trajectory(*accuracies: float, crash: Crash | None = None, changed: int | None = 7) -> Trajectory:
    points = (
        Point(
            step=10 * (n + 1), train_loss=1 / (3 + n), train_accuracy=a / 2, faulty_accuracy=a, healthy_accuracy=a / 3
        )
        for n, a in enumerate(accuracies)
    )
    acted = None if changed is None else 3
    run = Trajectory(points=tuple(points), validation_images=1_000, changed=changed, crash=crash, activated_at=acted)
    return replace(run, training_labels=640)


def record(campaign: Campaign, place: int) -> Record:
    """Bit 30 crashes in even steps, in a tensor whose name is no good."""
    labels: dict[str, Any] = campaign.space.labels(place)
    crashes = labels["bit"] == 30 and labels["step"] % 2 == 0
    name = "immediate INF/NaN" if crashes else "within spread"
    crash = Crash(step=3, tensor=ATTACK) if crashes else None
    return Record(
        key=key_of(campaign.run(place)),
        place=place,
        fault=str(campaign.space.fault(place)),
        outcome=name,
        family=OUTCOMES[name].family,
        labels={axis: label if isinstance(label, int) else str(label) for axis, label in labels.items()},
        trajectory=trajectory(*(() if crashes else (0.1, 0.2, 0.3 + place / 1_000, 0.123456))[:4], crash=crash),
    )


@pytest.fixture(scope="module")
def campaign() -> Campaign:
    return campaign_of(SPEC)


def write_store(campaign: Campaign, folder: Path, trials: int) -> Path:
    folder.mkdir(exist_ok=True)
    with Store(folder / "store.sqlite", axes=campaign.space.axes) as store:
        store.describe("campaign", campaign.identity)
        store.note("made", {"command": ["/x/miscompute", "campaign", "a b.toml"], "environment": {"torch": "9.9"}})
        for run in campaign.settings[0].golden(2):
            words = {**run.identity(), "torch": "1.0"}  # of other software: its key is not what it would be here
            store.add_golden(f"{run.recipe.seed:064x}", words, trajectory(0.2, 0.3, 0.4, 0.5, changed=None))
        places = campaign.plan.batch(campaign.space, 0, {})[:trials]
        store.add(record(campaign, place) for place in places)
    return folder


@pytest.fixture(scope="module")
def folder(campaign: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_store(campaign, tmp_path_factory.mktemp("campaign"), 20)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def result(campaign: Campaign, folder: Path) -> CampaignResult:
    with Store(folder / "store.sqlite", read_only=True) as store:
        return result_of(campaign, store)


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes long and is the same in every page."""
    monkeypatch.setattr(module, "_vega", str)
    monkeypatch.setattr(module, "write_png", lambda *_: None)
    monkeypatch.setattr("vl_convert.vegalite_to_svg", lambda *_, **__: "")


def cells(page: str, table: str) -> list[list[str]]:
    """Give what a table of the page shows."""
    match = re.search(rf'<table id="{table}".*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert match
    rows = re.findall("<tr.*?>(.*?)</tr>", match[1], re.DOTALL)
    return [
        [unescape(re.sub("<.*?>", "", c)).strip() for c in re.findall("<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows
    ]


def unpacked(page: str) -> dict[str, Any]:
    match = re.search('<script id="data" type="text/plain">(.*?)</script>', page)
    assert match
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(match[1])))
    return found


def said(found: Estimate) -> list[str]:
    low, best, high = (f"{100 * value:.1f}" for value in (found.low, found.best, found.high))
    return [str(found.events), best, f"{low}..{high}"]


def test_rates_are_the_results(page: str, result: CampaignResult) -> None:
    rows = {name: rest for name, *rest in cells(page, "outcomes")}
    assert rows == {name: said(found) for name, found in result.rates.items()}
    assert list(rows) == ["crash", "immediate INF/NaN", "silent corruption", "nothing", "within spread"]
    assert rows["silent corruption"][:2] == ["0", "0.0"]
    assert result.rates["silent corruption"].high > 0


@pytest.mark.parametrize("axis", ["bit", "step"])
def test_rates_by_each_axis_are_the_results(axis: str, page: str, result: CampaignResult) -> None:
    shown = {label: rest for label, *rest in cells(page, f"by-{axis}")}
    expected = {}
    for label, found in result.rates_by(axis).items():
        names = ["crash", "immediate INF/NaN", "silent corruption", "nothing", "within spread"]
        words = [said(found[name]) for name in names]
        expected[str(label)] = [str(found["crash"].trials), *(f"{best} ({limits})" for _, best, limits in words)]
    assert shown == expected
    (rows,) = unpacked(page)["charts"]["by"][axis]["datasets"].values()
    assert {(str(row["label"]), row["outcome"]): (row["low"], row["best"], row["high"]) for row in rows} == {
        (str(label), name): (one.low, one.best, one.high)
        for label, found in result.rates_by(axis).items()
        for name, one in found.items()
    }


def test_trials_and_curves_are_the_stores(page: str, folder: Path) -> None:
    data = unpacked(page)
    with Store(folder / "store.sqlite", read_only=True) as store:
        records = list(store.records())
        golden = list(store.golden().values())
    columns = {column["name"]: column for column in data["columns"]}
    outcomes = columns["outcome"]
    assert columns["trial"]["cells"] == [row.place for row in records]
    assert [outcomes["words"][place] for place in outcomes["cells"]] == [row.outcome for row in records]
    assert columns["fault"]["cells"] == [row.fault for row in records]
    assert columns["bit"]["cells"] == [row.labels["bit"] for row in records]

    def drawn(curve: int) -> list[tuple[float, ...]]:
        steps, *values = data["curves"][curve]
        return list(zip(data["steps"][steps], *values, strict=True))

    def kept(run: Trajectory | None) -> Any:
        assert run is not None
        return [
            pytest.approx((p.step, p.train_accuracy, p.faulty_accuracy, p.healthy_accuracy, p.train_loss), rel=1e-4)
            for p in run.points
        ]

    assert [drawn(curve) for curve in data["curve"]] == [kept(row.trajectory) for row in records]
    assert data["setting"] == [0] * 20
    assert [drawn(curve) for curve in data["golden"][0].values()] == [kept(run) for run in golden]


def test_nothing_in_the_data_becomes_part_of_the_page(page: str, folder: Path) -> None:
    assert ATTACK not in page
    assert "Is &lt;/script&gt;" in page
    assert ATTACK in json.dumps(unpacked(page))
    assert len(re.findall("<script", re.sub(r"<script>\n.{100000,}?</script>", "", page, flags=re.DOTALL))) == 2


def test_the_page_needs_no_network_and_says_how_it_was_made(page: str, folder: Path) -> None:
    assert not re.search(r"<(script|link|iframe)\b[^>]*\b(src|href)=", page)
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "miscompute campaign &#39;a b.toml&#39;" in page
    assert f"miscompute store replay {folder} " in unescape(page)
    assert f"miscompute campaign {folder / 'report' / 'spec.toml'} --out NEW-FOLDER" in unescape(page)
    assert "torch 9.9" in page
    assert "Complete: 20 trials of 24 faults" in page


def test_figures_and_the_spec_are_beside_it(folder: Path, campaign: Campaign) -> None:
    names = {path.name for path in (folder / "report").iterdir()}
    figures = [f"{name}.{kind}" for name in ("rates", "rates-by-bit") for kind in ("png", "svg")]
    assert names == {"index.html", "spec.toml", *figures}
    assert (folder / "report" / "rates.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "silent corruption" in (folder / "report" / "rates-by-bit.svg").read_text()
    assert load_spec(folder / "report" / "spec.toml") == campaign.spec


def test_an_unfinished_campaign_says_so(campaign: Campaign, tmp_path: Path, without_charts: None) -> None:
    write_report(write_store(campaign, tmp_path / "some", 13), tmp_path / "page")
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Unfinished: 13 trials of 24 faults so far; the plan &#39;fixed&#39; asks for 7 more." in page
    assert sum(int(row[1]) for row in cells(page, "outcomes") if row[0] in ("crash", "nothing")) == 13
    write_report(write_store(campaign, tmp_path / "none", 0), tmp_path / "empty")
    page = (tmp_path / "empty" / "index.html").read_text()
    assert "Unfinished: 0 trials" in page
    assert "No rates yet: outcomes: the plan&#39;s first trial has none" in page


def test_an_axis_with_many_values_is_left_to_the_table(
    campaign: Campaign, tmp_path: Path, without_charts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_LABELS", 3)
    write_report(write_store(campaign, tmp_path, 20))
    page = (tmp_path / "report" / "index.html").read_text()
    assert "8 values of step were tried; rates are given for at most 3" in page
    assert "by-step" not in page
    assert len(cells(page, "by-bit")) == 3


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run directory of two golden runs, a faulty one that adapted, and one that has not ended."""
    experiment = Experiment(
        recipe=recipe_for("cluttered_digits", model="lenet5", steps=50, evaluate_every=10),
        array=nvdla_small(),
        fault=parse_fault("weight[0,0] bit 28 stuck-at 0"),
        golden_seeds=4,
    )
    record = {
        "command": ["/x/miscompute", "train", "--out", "here", "--resume", "--model", "lenet5"],
        "runs": identity_of(experiment.runs()),
        "environment": {"torch": "9.9", "machine": "a machine"},
    }
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "experiment.json").write_text(json.dumps(record))
    for run in experiment.runs():
        accuracies = (0.6, 0.7, 0.8, 0.9, 0.9)[: 3 if run.name == "swizzled-step" else 5]
        found = trajectory(*accuracies, changed=7 if run.fault else None)
        if run.fault is None:
            found = replace(found, points=tuple(replace(p, healthy_accuracy=p.faulty_accuracy) for p in found.points))
        (folder / run.name).mkdir()
        (folder / run.name / "trajectory.json").write_text(json.dumps(asdict(found)))
    return folder


def test_a_run_directory_is_shown_and_what_has_ended_is_judged(runs: Path, without_charts: None) -> None:
    written = write_report(runs)
    assert [path.name for path in written] == ["index.html", "curves.png", "curves.svg"]
    page = written[0].read_text()
    assert "Unfinished: 5 of 6 runs have ended" in page
    rows = {name: rest for name, *rest in cells(page, "outcomes")}
    assert rows["faulty"] == ["45.0", "90.0", "30.0 *", "silent corruption", "adapted"]
    assert rows["swizzled-step"][-2:] == ["under way", ""]
    assert rows["golden-124"] == ["45.0", "90.0", "90.0", "golden", ""]
    assert "miscompute train --model lenet5 --out NEW-FOLDER" in page
    data = unpacked(page)
    assert data["names"] == ["golden-123", "faulty", "swizzled-step", "golden-124", "golden-125", "golden-126"]
    assert [len(data["curves"][curve][1]) for curve in data["curve"]] == [5, 5, 3, 5, 5, 5]
    assert list(data["golden"][0]) == ["golden-123", "golden-124", "golden-125", "golden-126"]


def test_a_run_directory_just_begun_is_shown(runs: Path, without_charts: None) -> None:
    for path in runs.glob("*/trajectory.json"):
        path.unlink()
    (page,) = write_report(runs)
    assert "Runs are judged once all golden runs have ended." in page.read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), r"folder='.*' is not there; name one that `train` or `campaign` wrote"),
        (lambda folder: (folder / "store.sqlite").unlink(), r"holds neither experiment.json of a run nor store.sqlite"),
        (
            lambda folder: [(folder / "store.sqlite").unlink(), shutil.copytree(folder.parent / "run", folder / "a")],
            r"of a campaign, but .*/a do; name one",
        ),
        (
            lambda folder: (folder / "store.sqlite").write_bytes(b"x" * 9_999),
            r"cannot be used \(file is not a database\)",
        ),
        (lambda folder: spoil(folder, "UPDATE curves SET points = x'0102'"), r"cannot be used .*: it is damaged"),
        (lambda folder: spoil(folder, "UPDATE about SET value = '{'"), r"cannot be used .*: it is damaged; restore"),
        (lambda folder: spoil(folder, "DELETE FROM about"), r"holds no campaign; name one that `campaign` wrote"),
    ],
)
def test_what_cannot_be_reported_is_said(
    damage: Any, message: str, campaign: Campaign, runs: Path, without_charts: None
) -> None:
    folder = write_store(campaign, runs.parent / "campaign", 5)
    damage(folder)
    with pytest.raises(InvalidInput, match=message) as raised:
        write_report(folder)
    assert "\n" not in str(raised.value)


def spoil(folder: Path, statement: str) -> None:
    import sqlite3

    with sqlite3.connect(folder / "store.sqlite") as db:
        db.execute(statement)
    db.close()


def test_a_damaged_run_directory_is_said(runs: Path) -> None:
    (runs / "faulty" / "trajectory.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"run file '.*/faulty/trajectory.json' is damaged; restore a copy"):
        write_report(runs)
    (runs / "experiment.json").write_text('{"runs": {}}')
    with pytest.raises(InvalidInput, match=r"run file '.*/experiment.json' is damaged; restore a copy"):
        write_report(runs)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the page in")
def test_a_browser_fills_the_page_without_errors_and_without_network(
    page: str, folder: Path, result: CampaignResult, tmp_path: Path
) -> None:
    """The trial is chosen by the address, as a click on its row writes it there.

    The page's own policy forbids all network, and what it forbids is an error on the console.
    """
    assert BROWSER is not None
    place = next(p for p, outcome in result.outcomes.items() if outcome == "within spread")
    ran = subprocess.run(
        [
            BROWSER,
            *("--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"),
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # which root cannot have
            f"--user-data-dir={tmp_path}",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--dump-dom",
            f"{(folder / 'report' / 'index.html').as_uri()}#trial={place}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    dom = ran.stdout
    assert "CONSOLE" not in ran.stderr
    assert 'data-ready="yes"' in dom
    assert "<title>made up</title>" in dom
    assert cells(dom, "outcomes") == cells(page, "outcomes")
    assert len(cells(dom, "rows")) == 20
    assert sorted(int(row[0]) for row in cells(dom, "rows")) == sorted(result.outcomes)
    assert {row[1] for row in cells(dom, "rows")} == {"immediate INF/NaN", "within spread"}
    curve = dom[dom.index('id="curve"') :]
    assert f"store replay {folder} {place}</code>" in curve
    assert {"training, on the faulty machine", "golden: validation"} <= set(
        re.findall(r"<text[^>]*>([^<]+)</text>", curve)
    )
    points = re.findall(r'aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="point"', curve)
    with Store(folder / "store.sqlite", read_only=True) as store:
        run = store.find(str(place)).trajectory
    assert run is not None
    labels = "; ".join(points)
    for point in run.points:
        assert (
            f"curve: validation, on a healthy machine; step: {point.step}; value: {point.healthy_accuracy:.4g}"
            in labels
        )
