"""The command line: what it prints, and one clear line with exit status 2 for each kind of bad input."""

import json
import re
import subprocess
import sys
import urllib.error
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

import miscompute.__main__ as command_line
from miscompute.commands._options import run_folder
from miscompute.experiment import Run, execute
from miscompute.hardware import ARRAYS
from miscompute.outcome import Trajectory
from miscompute.tasks import DataSet, recipe_for

TINY = ["--steps", "2", "--evaluate-every", "2", "--width", "0.05", "--golden-seeds", "2", "--quiet"]


class Ran:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Ran:
        monkeypatch.setattr("sys.argv", ["miscompute", *arguments])
        with pytest.raises(SystemExit) as stopped:
            command_line.main()
        printed = capsys.readouterr()
        return Ran(int(stopped.value.code or 0), printed.out, printed.err)

    return run


def refused(ran: Ran, *words: str) -> bool:
    lines = ran.err.splitlines()
    return (
        ran.status == 2 and len(lines) == 1 and lines[0].startswith("miscompute: ") and all(w in ran.err for w in words)
    )


BAD = {
    "unknown command": (["trian"], "trian"),
    "unknown option": (["train", "--colour", "red"], "--colour"),
    "option without a value": (["train", "--steps"], "--steps"),
    "not a number": (["train", "--steps", "many"], "--steps='many'"),
    "unknown model": (["train", "--model", "vgg"], "model='vgg' is unknown; choose one of alexnet, lenet5"),
    "unknown data": (["train", "--data", "mnist"], "data='mnist' is unknown; choose one of cluttered_digits, cifar10"),
    "unknown array": (["train", "--array", "tpu"], "array='tpu' is unknown; choose one of nvdla-small, "),
    "nothing to report": (["report", "no/such/folder"], "folder='no/such/folder' is not there; name one that"),
    "bit outside the format": (
        ["train", "--fault", "weight[0,0] bit 40 stuck-at 0"],
        "bit=40 is outside fp32 (0..31; 31 is the sign)",
    ),
    "row outside": (["train", "--fault", "weight[8,0] bit 1 flip"], "row=8 is outside the 8 x 8 array (rows 0..7)"),
    "col outside": (["train", "--fault", "weight[0,9] bit 1 flip"], "col=9 is outside the 8 x 8 array (cols 0..7)"),
    "unknown site": (["train", "--fault", "wieght[0,0] bit 1 flip"], ">>wieght[0,0]<<"),
    "malformed effect": (["train", "--fault", "weight[0,0] bit 28 stack-at 0"], ">>stack-at<<"),
    "stuck at two": (["train", "--fault", "weight[0,0] bit 28 stuck-at 2"], ">>2<<"),
    "unfinished fault": (["train", "--fault", "weight[0,0] bit 28"], ">> <<"),
    "unknown swizzle": (["train", "--swizzle", "shuffle"], "swizzle='shuffle' is unknown; choose one of none, step"),
    "unknown optimizer": (["train", "--optimizer", "lion"], "optimizer='lion' is unknown; choose one of adam"),
    "unknown schedule": (["train", "--schedule", "linear"], "schedule='linear' is unknown; choose one of constant"),
    "no steps": (["train", "--steps", "0"], "steps=0 must be at least 1"),
    "negative seed": (["train", "--seed", "-1"], "seed=-1 must not be negative"),
    "no width": (["train", "--width", "0"], "width=0.0 must be greater than 0 and finite"),
    "infinite learning rate": (["train", "--lr", "inf"], "lr=inf must be greater than 0 and finite"),
    "one golden seed": (["train", "--golden-seeds", "1"], "golden_seeds=1 must be at least 2"),
    "unknown mapping": (["train", "--grad-weight", "C"], "grad_weight='C' is unknown; choose one of A, B"),
    "infinite width": (["train", "--width", "inf"], "width=inf must be greater than 0 and finite"),
    "momentum is no number": (["train", "--momentum", "nan"], "momentum=nan must not be negative, and must be finite"),
    "seed beyond 64 bits": (["train", "--seed", str(1 << 64)], "must be less than 2**63"),
    "no workers": (["train", "--workers", "0"], "see 'miscompute train --help'"),
    "array without rows": (["train", "--array", "nvdla-0x8"], "rows=0 of an array must be at least 1"),
    "one swizzle twice": (["train", "--swizzle", "step", "--swizzle", "step"], "name each once"),
    "no brackets": (["train", "--fault", "weight bit 1 flip"], ">>weight<< bit 1 flip"),
    "one index": (["train", "--fault", "weight[0] bit 1 flip"], "expected weight[row,col] with numbers"),
    "empty fault": (["train", "--fault", ""], "a site such as weight[0,0] is missing"),
    "bits for one": (["train", "--fault", "weight[0,0] bits 1,2 stuck-at 1"], "stuck-at takes one bit"),
    "transient without a step": (["train", "--fault", "weight[0,0] bit 1 flip transient"], "needs 'step N'"),
    "a word too many": (["train", "--fault", "weight[0,0] bit 1 flip today"], ">>today<<"),
    "momentum of adam": (
        ["train", "--momentum", "0.5"],
        "momentum=0.5 is of sgd, not of adam; leave it out or add --optimizer sgd",
    ),
    "a layer that is not there": (
        ["train", "--fault", "weight[0,0] bit 1 flip transient step 1 layer conv9"],
        "layer='conv9' of Transient is no layer that the fault can be in; choose one of conv1, conv2",
    ),
    "a step that never comes": (
        ["train", "--fault", "weight[0,0] bit 1 flip transient step 9999"],
        "step=9999 of Transient is after the training",
    ),
    "lower: a layer that is not there": (
        ["lower", "--fault", "weight[0,0] bit 1 flip transient step 1 layer conv9"],
        "layer='conv9' of Transient is no layer that the fault can be in; choose one of conv1, conv2",
    ),
    "lower: a tensor that is not there": (
        ["lower", "--fault", "weight-memory[conv9.weight,0] bit 1 flip"],
        "name='conv9.weight' of weight-memory is no parameter of the model",
    ),
    "an argument too many": (["train", "now"], "now"),
    "lower: bit outside": (["lower", "--fault", "weight[0,0] bit 32 flip"], "bit=32 is outside fp32 (0..31"),
    "lower: unknown swizzle": (["lower", "--swizzle", "no"], "swizzle='no' is unknown"),
    "lower: negative step": (["lower", "--step", "-1"], "see 'miscompute lower --help'"),
    "lower: unknown model": (["lower", "--model", "vgg"], "model='vgg' is unknown"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line(ran: Any, kind: str, tmp_path: Path) -> None:
    arguments, words = BAD[kind]
    out = ["--out", str(tmp_path / "run")] if arguments[0] == "train" and arguments[-1] != "--steps" else []
    found = ran(*arguments, *out)
    assert refused(found, words), found.err
    assert not (tmp_path / "run").exists()


def test_an_out_that_is_no_directory(ran: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refused(ran("train", *TINY, "--out", str(tmp_path / "file" / "run")), "out=", "name another")


def test_a_data_folder_without_the_data(ran: Any, tmp_path: Path) -> None:
    found = ran("train", "--data", "cifar10", "--data-folder", str(tmp_path), "--out", str(tmp_path / "run"))
    assert refused(found, "data folder", "cifar-10-binary.tar.gz"), found.err


def test_a_damaged_data_folder(ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "labels.npz").write_bytes(b"no archive")
    monkeypatch.setenv("MISCOMPUTE_DATA", str(tmp_path))
    assert refused(ran("train", "--data", "cifar10", "--out", str(tmp_path / "run")), "is damaged", "name another")


def test_a_damaged_archive(ran: Any, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"half of it")
    found = ran("train", "--data", "cifar10", "--data-folder", str(tmp_path), "--out", str(tmp_path / "run"))
    assert refused(found, "is damaged", "MD5", "remove it"), found.err


def test_no_data_and_no_network(ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.delenv("MISCOMPUTE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("miscompute.tasks._data._CHECKOUT_DATA", tmp_path / "nothing")
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    found = ran("train", "--data", "cifar10", "--out", str(tmp_path / "run"))
    assert refused(found, "no network", "--data-folder", "MISCOMPUTE_DATA"), found.err


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, few_digits: DataSet) -> None:
    """Runs are carried out here, one after the other, on a few images: how workers end is another test's matter."""

    def execute_all(runs: list[Run], out: Path, *_: object, **__: object) -> dict[str, Trajectory]:
        return {run.name: execute(run, few_digits, out / run.name) for run in runs}

    monkeypatch.setattr("miscompute.experiment._experiment._execute_all", execute_all)
    monkeypatch.setattr("miscompute.experiment._experiment.load_data", lambda *_, **__: few_digits)


@pytest.mark.usefixtures("in_process", "one_thread")
def test_train_end_to_end_and_what_is_refused_of_its_directory(ran: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = ran("train", *TINY, "--out", str(out), "--resume")  # of nothing: it begins, as `make run` does
    assert found.status == 0, found.err
    assert "accuracy at the end" in found.out
    assert str(out / "curves.png") in found.out
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "http" not in [word[:4] for word in (out / "curves.html").read_text().split('src="')[1:]]
    assert set(json.loads((out / "outcome.json").read_text())["outcomes"]) == {"faulty", "swizzled-step"}
    kept = (out / "faulty" / "trajectory.json").read_text()

    assert refused(ran("train", *TINY, "--out", str(out)), "already holds an experiment", "--resume")
    assert refused(
        ran("train", *TINY, "--lr", "0.1", "--out", str(out), "--resume"),
        f"other settings: lr of recipe is {recipe_for('cluttered_digits').lr}, not 0.1",
    )
    assert ran("train", *TINY, "--out", str(out), "--resume").status == 0
    assert (out / "faulty" / "trajectory.json").read_text() == kept

    checkpoint = out / "faulty" / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"\x00" * 100):
        checkpoint.write_bytes(damaged)
        assert refused(ran("train", *TINY, "--out", str(out), "--resume"), "checkpoint.pt", "is damaged", "remove it")
    for damage in (b"{", b"[]", b"null", b"\xff\xfe\x00", b""):
        (out / "experiment.json").write_bytes(damage)
        found = ran("train", *TINY, "--out", str(out), "--resume")
        assert refused(found, "experiment.json", "is damaged", "name another --out"), found.err


@pytest.mark.usefixtures("in_process", "one_thread")
def test_experiments_that_differ_have_directories_that_differ(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--lr", "0.0031"], ["--swizzle", "none"], ["--golden-seeds", "3"], ["--grad-weight", "B"]):
        found = ran("train", *TINY, *more)
        assert found.status == 0, found.err
    assert len(list((tmp_path / "runs").iterdir())) == 5
    assert refused(ran("train", *TINY), "already holds an experiment")
    assert ran("train", *TINY, "--resume").status == 0


def test_a_usual_experiment_has_no_hash_in_its_name() -> None:
    usual = {"lr": 0.1, "steps": 10}
    assert run_folder("AlexNet-weight[0,0]", usual, usual) == Path("runs/alexnet-weight-0-0-")
    name = run_folder("a", {"lr": 0.2, "steps": 10}, usual).name
    assert name == "a-" + sha256(b'{"lr": 0.2}').hexdigest()[:6]


def test_make_run_may_be_repeated() -> None:
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text()
    (command,) = re.findall(r"^\t\$\(BIN\)/miscompute train .*$", makefile, re.MULTILINE)
    assert "--resume" in command.split()


def test_lower_prints_the_elements(ran: Any) -> None:
    found = ran("lower", "--data", "cifar10", "--fault", "weight[0,0] bit 28 stuck-at 0")
    assert found.status == 0
    row = next(line for line in found.out.splitlines() if "conv3" in line and "forward" in line)
    assert "10,368" in row  # 48 of 384 filters, 24 of 192 channels, 3 x 3
    assert "663,552" in row


def test_lower_of_a_layer_by_hand(ran: Any) -> None:
    """The last layer of lenet5, 84 to 10, for 16 images: cell 1 computes 1 and 9, lane 2 carries 2, 10 and so on."""
    found = ran(
        "lower", "--model", "lenet5", "--width", "1", "--batch-size", "16", "--fault", "weight[2,1]  bit 28 stuck-at 0"
    )
    assert found.out.startswith("weight[2,1] bit 28 stuck-at 0 on nvdla-small, lenet5, batch 16\n")
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in found.out.splitlines() if line[:1] == "│"]
    assert [row[1:] for row in rows if row[0] == "fc3"] == [
        ["forward", "weight", "22", "840", "2.62", "100", "[oc 1:10:8, ic 2:84:8]"],  # 2 x 11
        ["grad_input", "weight", "11", "840", "1.31", "100", "[oc 2:10:8, ic 1:84:8]"],  # 1 x 11
        ["grad_weight", "grad_output", "4", "160", "2.50", "100", "[n 2:16:8, oc 1:10:8]"],  # 2 x 2
    ]


def test_lower_shows_a_transient_where_it_is_active(ran: Any) -> None:
    fault = "weight[0,0] bit 3 flip transient step 5 pass forward layer conv2"
    for more, active in (([], 1), (["--step", "5"], 1), (["--step", "6"], 0)):
        found = ran("lower", "--model", "lenet5", "--fault", fault, *more)
        rows = [line for line in found.out.splitlines() if line[:1] == "│"]
        assert sum("not active" not in row for row in rows) == active
        assert len(rows) == 15


def test_validate_of_every_array_is_a_row_each(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "miscompute.hardware.ARRAYS",
        {name: ARRAYS[name] for name in ("nvdla-small", "systolic-os", "simd", "matrix-unit")},
    )
    found = ran("validate", "--all", "--cases", "6", "--quiet")
    assert found.status == 0, found.err
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in found.out.splitlines() if line[:1] == "│"]
    each = [[name, "all", "6", "6", "100"] for name in ("nvdla-small", "systolic-os", "simd")]
    assert rows == [*each, ["all", "", "18", "18", "100"]]


@pytest.mark.parametrize("named", [[], ["nvdla-small", "--all"], ["--all", "--vectors", "folder"]])
def test_validate_takes_one_of_three(ran: Any, named: list[str]) -> None:
    assert refused(ran("validate", *named), "name one: an array, such as nvdla-small, or --vectors FOLDER, or --all")


def test_no_arguments_give_help(ran: Any) -> None:
    found = ran()
    assert (found.status, found.err) == (0, "")
    assert found.out == ran("--help").out


def test_help_names_every_command_and_option(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name, command in typer.main.get_command(command_line.app).commands.items():  # type: ignore[attr-defined]
        assert name in ran("--help").out
        said = ran(name, "--help").out
        for parameter in command.params:
            assert parameter.help, parameter.name
            assert all(option in said for option in parameter.opts), parameter.name


def test_it_says_its_version(ran: Any) -> None:
    found = ran("--version")
    assert (found.status, found.out) == (0, f"miscompute {version('miscompute')}\n")


def test_as_a_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "miscompute", "lower", "--fault", "weight[0,0] bit 40 flip"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "miscompute: bit=40 is outside fp32 (0..31; 31 is the sign)\n"
