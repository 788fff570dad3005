"""Scalars for TensorBoard: what is written is what was evaluated, and one line says what is missing."""

import sys
from pathlib import Path
from typing import Any

import pytest

from miscompute import InvalidInput, nvdla_small, parse_fault
from miscompute.experiment import Run, check_tensorboard, execute, scalars
from miscompute.experiment import _scalars as module
from miscompute.tasks import DataSet, recipe_for


class Written:
    """Stands in for TensorBoard's writer."""

    def __init__(self, folder: str, purge_step: int) -> None:
        self.begun = (Path(folder).name, purge_step)
        self.scalars: dict[tuple[int, str], float] = {}
        self.is_closed = False
        made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[step, name] = value

    def flush(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True


made: list[Written] = []


def test_evaluations_are_written_and_taken_up_where_a_run_goes_on(
    few_digits: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_writer", lambda: Written)
    made.clear()
    recipe = recipe_for("cluttered_digits", model="lenet5", steps=4, evaluate_every=2, batch_size=4)
    run = Run(name="faulty", recipe=recipe, array=nvdla_small(), fault=parse_fault("weight[0,0] bit 28 stuck-at 0"))
    stops = iter([False, False, True])
    execute(run, few_digits, tmp_path / "run", stop=lambda: next(stops), tensorboard=tmp_path / "board")
    whole = execute(run, few_digits, tmp_path / "run", tensorboard=tmp_path / "board")
    assert [one.begun for one in made] == [("board", 1), ("board", 3)]
    assert all(one.is_closed for one in made)
    assert [{step for step, _ in one.scalars} for one in made] == [{2}, {4}]
    for one, point in zip(made, whole.points, strict=True):
        named = {name: value for (_, name), value in one.scalars.items()}
        assert named.pop("fault/values changed") > 0
        assert named == {
            "training/loss": point.train_loss,
            "training/accuracy": point.train_accuracy,
            "validation/healthy machine": point.healthy_accuracy,
            "validation/faulty machine": point.faulty_accuracy,
        }


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with scalars(tmp_path) as write:
        write(1, {"a/b": 0.5})
        write(2, {"a/b": 9.0})
    with scalars(tmp_path, after=1) as write:  # step 2 again
        write(2, {"a/b": 0.25})
    found: Any = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("a/b")] == [(1, 0.5), (2, 0.25)]


def test_that_it_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        InvalidInput, match=r"tensorboard=True needs TensorBoard.*: pip install .miscompute\[tensorboard"
    ):
        check_tensorboard()
    with scalars(None) as write:
        write(1, {"a": 1.0})
    assert list(tmp_path.iterdir()) == []
