"""The command: trains, counts, prints tables, continues, and refuses in one line."""

from pathlib import Path
from typing import Any

import polars
import pytest

import miscompute.__main__ as command_line
from miscompute.tasks import DataSet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], few_digits: DataSet) -> Any:
    monkeypatch.setattr("miscompute.pvf._task.load_data", lambda *_, **__: few_digits)

    def run(*arguments: str) -> tuple[int, str, str]:
        command = arguments if arguments[0] == "damage" else ("vulnerability", "--workers", "1", *arguments)
        monkeypatch.setattr("sys.argv", ["miscompute", *command, "--quiet"])
        with pytest.raises(SystemExit) as stopped:
            command_line.main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return run


def test_tables_by_layer_and_field(run: Any, tmp_path: Path) -> None:
    arguments = ("--width", "0.3", "--steps", "2", "--layer", "conv2", "--trials", "60", "--out", str(tmp_path))
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    for word in ("top1: 50 inferences", "label: 50 inferences", "conv2", "mantissa", "exponent", "proved to keep"):
        assert word in out
    assert str(tmp_path) in out.replace("\n", "")
    assert run(*arguments)[1] == out
    for kind in ("csv", "parquet"):
        status, out, _ = run(*arguments, "--export", str(tmp_path / f"faults.{kind}"))
        assert status == 0
        assert "60 faults" in out
    assert polars.read_csv(tmp_path / "faults.csv").equals(polars.read_parquet(tmp_path / "faults.parquet"))


def test_exhaustive_without_a_folder_gets_one_of_its_own(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(
        "--width", "0.3", "--steps", "1", "--layer", "conv1.bias", "--format", "fp8_e5m2", "--exhaustive"
    )
    assert status == 0
    assert "16" in out  # two biases of eight bits
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("pvf-lenet5-cluttered-digits-")


def test_the_most_dangerous_are_shown_and_drawn(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def write(chart: Any, stem: Path) -> tuple[Path, Path]:
        drawn[stem.name] = chart.to_dict()["title"]["text"]
        return stem.with_suffix(".png"), stem.with_suffix(".html")

    monkeypatch.setattr("miscompute.report.write_chart", write)
    arguments: tuple[str, ...] = (
        "--width",
        "0.3",
        "--steps",
        "2",
        "--layer",
        "conv1",
        "--out",
        str(tmp_path),
        "--worst",
        "3",
    )
    arguments = (*arguments, "--exhaustive", "--format", "fp8_e5m2", "--draw", str(tmp_path / "fig"))
    status, out, _ = run(*arguments, "--protect", "0.01", "--fit-per-megabit", "1048576", "--exposure", "0.5")
    assert status == 0
    titles = ["PVF by layer and bit", "The 3 most dangerous parameters", "What protection costs"]
    assert drawn == dict(zip(["fig-bits", "fig-worst", "fig-protect"], titles, strict=True))
    (again,) = (line.split("│")[3] for line in out.splitlines() if "measured again" in line)
    assert float(again) <= 0.01
    assert "to protect for a PVF of 0.01 %" in out
    raws = [line.split("│")[3].strip() for line in out.splitlines() if line.startswith("│ model")]
    assert "208" in raws  # half of 416 bits, at a FIT a bit
    assert out.count("conv1.weight[") == 3
    assert "fig-bits.html" in out.replace("\n", "")


def test_neurons_and_bit_error_rates(run: Any, tmp_path: Path) -> None:
    arguments = ("--width", "0.3", "--steps", "2", "--layer", "fc3", "--trials", "4", "--out", str(tmp_path))
    status, out, err = run(*arguments, "--neurons")
    assert (status, err) == (0, "")
    assert "run in whole from the faulty operator on; no faster way for fc3" in out.replace("\n", " ")
    status, out, err = run(*arguments, "--bit-error-rate", "0.01")
    assert (status, err) == (0, "")
    for word in ("bit error rate 0.01: 4 draws", "top1", "label", "any of 50 does"):
        assert word in out


def test_the_damage_of_one_word_is_drawn(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_digits: DataSet
) -> None:
    monkeypatch.setattr("miscompute.tasks.load_data", lambda *_, **__: few_digits)
    monkeypatch.setattr("miscompute.report.write_chart", lambda _, stem, **__: (f"{stem}.png", f"{stem}.html"))
    arguments = ("damage", "--width", "0.3", "--steps", "2", "--out", str(tmp_path), "--draw", "here")
    status, out, err = run(*arguments, "--image", "4")
    assert (status, err) == (0, "")
    for word in ("weight-memory[conv1.weight,0] bit 30 flip", "conv2", "fc2", "scores", "here.html"):
        assert word in out
    status, out, err = run(*arguments, "--image", "50")
    assert (status, out) == (2, "")
    assert "image=50 is not there; cluttered_digits has 50 (0..49)" in err
    status, _, err = run(*arguments, "--fault", "weight[0,0] bit 1 flip")
    assert status == 2
    assert "is not in a parameter" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kind", "flop"], "kind='flop' is unknown"),
        (["--format", "fp12"], "format='fp12' is unknown"),
        (["--layer", "conv9"], "parameter 'conv9' is not there"),
        (["--criterion", "best"], "criterion='best' is unknown"),
        (["--plan", "random"], "plan='random' is unknown; choose from uniform, data-aware"),
        (["--plan", "data-aware", "--trials", "319"], "trials=319 must be at least 320 with plan='data-aware'"),
        (["--plan", "data-aware", "--exhaustive"], "plan='data-aware' is of faults that are drawn, and all are asked"),
        (["--trials", "0"], "trials=0 must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_training(
    run: Any, tmp_path: Path, arguments: list[str], said: str
) -> None:
    status, out, err = run("--width", "0.3", "--steps", "1000", "--trials", "5", "--out", str(tmp_path), *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "lenet"], "model='lenet' is unknown"),
        (["--protect", "101"], "protect=101 must be from 0 to 100"),
        (["--protect", "1", "--protect-by", "row"], "protect-by='row' is unknown; choose from bit, channel"),
        (["--bit-error-rate", "0.1", "--exhaustive"], "exhaustive is of single faults, not of a bit error rate"),
        (["--bit-error-rate", "0.1", "--protect", "0"], "protect is of single faults, not of a bit error rate"),
        (["--bit-error-rate", "0.1", "--draw", "figure"], "draw is of single faults, not of a bit error rate"),
        (["--bit-error-rate", "0.1", "--worst", "3"], "worst is of single faults, not of a bit error rate"),
        (["--export", "faults.xlsx"], "export='faults.xlsx' must end in .parquet or .csv"),
        (["--bit-error-rate", "2"], "rate=2.0 must be above 0 and at most 1"),
        (["--bit-error-rate", "0.1", "--neurons"], "neurons is of single faults, not of a bit error rate"),
        (["--bit-error-rate", "0.1", "--workers", "2"], "workers=2 share faults of stored parameters"),
        (["--neurons", "--plan", "data-aware"], "plan is of stored parameters, not of neurons"),
        (["--neurons", "--protect", "1"], "protect is of stored parameters, not of neurons"),
        (["--neurons", "--layer", "conv9"], "layer 'conv9' is not there; choose from conv1"),
        (["--checkpoint", "none.pt"], "checkpoint='none.pt' is not there"),
    ],
)
def test_bad_input_is_one_line(run: Any, tmp_path: Path, arguments: list[str], said: str) -> None:
    status, out, err = run("--width", "0.3", "--steps", "1", "--trials", "5", "--out", str(tmp_path), *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
