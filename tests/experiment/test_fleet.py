"""Fleets: one process gives the bits that real processes give, and real processes never outlive the one that asked."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.experiment.test_experiment import lives
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.parallel import DistributedDataParallel

from miscompute import Fault, InvalidInput, inject, nvdla_small, parse_fault
from miscompute.experiment import (
    Fleet,
    FleetExperiment,
    Run,
    average_in_rank_order,
    execute,
    execute_distributed,
    train_fleet,
)
from miscompute.experiment._distributed import run_replicas
from miscompute.experiment._fleet import fleet_gradients
from miscompute.outcome import Trajectory
from miscompute.tasks import DataSet, Recipe, Training

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(data="cluttered_digits", model="lenet5", batch_size=16, steps=4, evaluate_every=2, lr=1e-3, seed=5)
SHORT = replace(RECIPE, steps=1)
NORMALISED = replace(RECIPE, model="resnet20", width=0.15)  # with batch normalisation, whose statistics are buffers
STUCK = parse_fault("weight[0,0] bit 28 stuck-at 0")


def run_on(fleet: Fleet | None, *, recipe: Recipe = RECIPE, fault: Fault | None = STUCK) -> Run:
    return Run(name="run", recipe=recipe, array=nvdla_small(), fault=fault, fleet=fleet)


def trained(run: Run, data: DataSet, folder: Path) -> dict[str, Tensor]:
    """Carry a run out in this process and give what it ends with."""
    execute(run, data, folder)
    model: dict[str, Tensor] = torch.load(folder / "checkpoint.pt", weights_only=True)["training"]["model"]
    return model


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def parameters_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.endswith((".weight", ".bias"))}


def test_what_is_no_fleet_is_refused() -> None:
    with pytest.raises(InvalidInput, match="replicas=0 must be at least 1"):
        Fleet(replicas=0)
    with pytest.raises(InvalidInput, match=r"faulty=4 is not a rank of 4 replicas; choose 0\.\.3"):
        Fleet(replicas=4, faulty=4)
    with pytest.raises(InvalidInput, match="replicas=3 does not divide batch_size=16; choose one that does"):
        run_on(Fleet(replicas=3))


@pytest.mark.parametrize("fault", [None, STUCK])
def test_a_fleet_of_one_is_one_chip(few_digits: DataSet, tmp_path: Path, fault: Fault | None) -> None:
    alone = trained(run_on(None, fault=fault), few_digits, tmp_path / "alone")
    assert equal(trained(run_on(Fleet(replicas=1), fault=fault), few_digits, tmp_path / "fleet"), alone)
    curves = [(tmp_path / folder / "trajectory.json").read_text() for folder in ("alone", "fleet")]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("replicas", [2, 4, 16])
def test_a_healthy_fleet_is_one_chip_up_to_rounding(few_digits: DataSet, replicas: int) -> None:
    alone, fleet = Training(RECIPE, few_digits), Training(RECIPE, few_digits)
    for _ in range(3):
        loss, right = alone.gradients()
        fleet_loss, fleet_right = fleet_gradients(fleet, Fleet(replicas=replicas), None)
        assert right == fleet_right
        assert float(fleet_loss) == pytest.approx(float(loss), rel=1e-6)
        for one, other in zip(alone.model.parameters(), fleet.model.parameters(), strict=True):
            assert one.grad is not None
            assert other.grad is not None
            assert float((one.grad - other.grad).norm()) < 1e-5 * float(one.grad.norm())
        alone.update()
        fleet.model.load_state_dict(alone.model.state_dict())  # else Adam makes rounding into steps of lr
        fleet.step = alone.step


def test_it_is_as_many_models_with_optimizers_of_their_own(few_digits: DataSet, tmp_path: Path) -> None:
    """Against replicas that are really there, and their gradients averaged by hand, one of them under injection."""
    fleet = Fleet(replicas=4, faulty=2)
    batches = Training(RECIPE, few_digits)
    models = [deepcopy(batches.model) for _ in range(fleet.replicas)]
    optimizers = [torch.optim.Adam(model.parameters(), RECIPE.lr) for model in models]
    for _ in range(RECIPE.steps):
        images, labels = batches.batch()
        for rank, model in enumerate(models):
            part = slice(4 * rank, 4 * rank + 4)
            model.zero_grad()
            with inject(model, STUCK, array=nvdla_small()) if rank == 2 else nullcontext():
                F.cross_entropy(model(images[part]), labels[part]).backward()  # type: ignore[no-untyped-call]
        for same in zip(*(model.parameters() for model in models), strict=True):
            a, b, c, d = (parameter.grad / 4 for parameter in same if parameter.grad is not None)
            for parameter in same:
                parameter.grad = ((a + b) + c) + d
        for optimizer in optimizers:
            optimizer.step()
        batches.step += 1
    found = trained(run_on(fleet), few_digits, tmp_path)
    for model in models:
        assert equal(found, model.state_dict())


def test_real_processes_give_the_same_bits(few_digits: DataSet, tmp_path: Path) -> None:
    """DistributedDataParallel over gloo, four ranks, one faulty, with batch normalisation."""
    run = run_on(Fleet(replicas=4, faulty=1), recipe=NORMALISED)
    ranks = execute_distributed(run, few_digits)
    assert len(ranks) == 4
    simulated = trained(run, few_digits, tmp_path / "faulty")
    assert equal(ranks[0], simulated)  # the statistics too
    for rank in ranks[1:]:
        assert equal(parameters_of(rank), parameters_of(simulated))
        assert not torch.equal(rank["bn1.running_mean"], simulated["bn1.running_mean"])  # of another part of the batch
    # What the faulty chip computed is in the weights of all, also in those that its stuck register never holds.
    healthy = trained(run_on(run.fleet, recipe=NORMALISED, fault=None), few_digits, tmp_path / "healthy")
    for name, weights in parameters_of(ranks[3]).items():
        assert not torch.equal(weights, healthy[name])
    assert bool((ranks[3]["layer3.0.conv1.weight"][1::8, 1::8] != healthy["layer3.0.conv1.weight"][1::8, 1::8]).any())


def both_ways(rank: int) -> None:
    """With two ranks: the wrapped model or the module inside under injection, with the hook or gloo's own sum."""
    from tests.experiment.made_up import made_up

    data, fault = made_up(), parse_fault("weight[0,0] bit 28 stuck-at 0")
    ends: list[Any] = []
    for wrapped in (False, True):
        for hook in (False, True):
            training = Training(RECIPE, data)
            model = DistributedDataParallel(training.model)
            if hook:
                model.register_comm_hook(None, average_in_rank_order)
            target = model if wrapped else training.model
            with inject(target, fault, array=nvdla_small()) if rank == 1 else nullcontext() as injection:
                for _ in range(3):
                    images, labels = (whole.chunk(2)[rank] for whole in training.batch())
                    training.optimizer.zero_grad()
                    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
                    training.update()
                if injection is not None:
                    assert injection.step == 3
                    rows = [replace(row, layer=row.layer.removeprefix("module.")) for row in injection.log]
                    assert {row.layer for row in rows} == {"conv1", "conv2", "fc1", "fc2", "fc3"}
                    assert all(row.executions == 3 for row in rows)
                    ends.append(rows)
            ends.append(training.model.state_dict())
    each = len(ends) // 4
    for other in range(each, len(ends), each):
        assert ends[: each - 1] == ends[other : other + each - 1]
        assert equal(ends[each - 1], ends[other + each - 1])


def test_wrapped_or_not_the_fault_is_the_same() -> None:
    run_replicas(both_ways, 2)


def test_stopped_and_continued_it_is_the_same_to_the_bit(few_digits: DataSet, tmp_path: Path) -> None:
    run = run_on(Fleet(replicas=2, faulty=1), recipe=replace(NORMALISED, steps=3))
    whole = trained(run, few_digits, tmp_path / "whole")
    reached: list[int] = []
    execute(run, few_digits, tmp_path / "stopped", report=reached.append, stop=partial(has_reached, reached, 1))
    assert reached[-1] == 1
    assert equal(trained(run, few_digits, tmp_path / "stopped"), whole)


def has_reached(reached: Sequence[int], step: int) -> bool:
    return reached[-1] == step


def test_another_fleets_checkpoint_is_refused(few_digits: DataSet, tmp_path: Path) -> None:
    execute(run_on(Fleet(replicas=2)), few_digits, tmp_path)
    for other, words in (
        (Fleet(replicas=4), "'4 replicas, rank 0 faulty'"),
        (Fleet(replicas=2, faulty=1), "'2 replicas, rank 1 faulty'"),
        (None, "None"),
    ):
        with pytest.raises(InvalidInput, match=f"its fleet is '2 replicas, rank 0 faulty', not {words}; choose"):
            execute(run_on(other), few_digits, tmp_path)


def test_one_chips_nan_stops_all(few_digits: DataSet, tmp_path: Path) -> None:
    fault = parse_fault("weight[0,0] bit 30 stuck-at 1 transient step 1 pass grad_input")
    run = run_on(Fleet(replicas=4, faulty=3), fault=fault)
    found = execute(run, few_digits, tmp_path)
    assert found.crash is not None
    assert found.crash.step == 1
    assert found.crash.tensor.startswith("gradient of the output of ")


def test_the_experiment_keeps_curves_by_size_and_seed(
    few_digits: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miscompute.experiment import _fleet_experiment

    experiment = FleetExperiment(recipe=SHORT, array=nvdla_small(), fault=STUCK, replicas=(1, 4), seeds=2)
    carried_out: list[str] = []

    def one_by_one(runs: Sequence[Run], out: Path, *_: object, **__: object) -> dict[str, Trajectory]:
        carried_out.extend(run.name for run in runs)
        return {run.name: execute(run, few_digits, out / run.name) for run in runs}

    monkeypatch.setattr(_fleet_experiment, "load_data", lambda *_, **__: few_digits)
    monkeypatch.setattr(_fleet_experiment, "_execute_all", one_by_one)
    result = train_fleet(experiment, tmp_path / "out")
    assert len(set(carried_out)) == len(carried_out) == 8
    for replicas in (1, 4):
        for place, seed in enumerate((5, 6)):
            for fault, found in ((None, result.healthy), (STUCK, result.faulty)):
                run = run_on(Fleet(replicas=replicas), recipe=replace(SHORT, seed=seed), fault=fault)
                assert found[replicas][place] == execute(run, few_digits, tmp_path / f"{replicas}-{seed}-{fault}")
    with pytest.raises(InvalidInput, match="already holds an experiment; resume it or name another"):
        train_fleet(experiment, tmp_path / "out")
    with pytest.raises(InvalidInput, match="holds an experiment with other settings; name another, or repeat them"):
        train_fleet(replace(experiment, faulty=0, replicas=(1, 2)), tmp_path / "out", resume=True)
    assert train_fleet(experiment, tmp_path / "out", resume=True) == result
    (tmp_path / "out" / "fleet.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"fleet.json' is damaged; name another directory"):
        train_fleet(experiment, tmp_path / "out", resume=True)


def test_what_cannot_be_is_refused_before_any_run(tmp_path: Path) -> None:
    experiment = FleetExperiment(recipe=RECIPE, array=nvdla_small(), fault=STUCK)
    with pytest.raises(InvalidInput, match=r"replicas=\(2, 2\) must differ; name at least one, and each once"):
        replace(experiment, replicas=(2, 2))
    with pytest.raises(InvalidInput, match="faulty=1 is not a rank of 1 replicas"):
        replace(experiment, faulty=1)
    with pytest.raises(InvalidInput, match="replicas=32 does not divide batch_size=16"):
        replace(experiment, replicas=(32,))
    with pytest.raises(InvalidInput, match="seeds=0 must be at least 1"):
        replace(experiment, seeds=0)
    with pytest.raises(InvalidInput, match="bit=40 is outside fp32"):
        replace(experiment, fault=parse_fault("weight[0,0] bit 40 stuck-at 0"))
    with pytest.raises(InvalidInput, match="workers=0 must be at least 1"):
        train_fleet(experiment, tmp_path, workers=0)
    with pytest.raises(InvalidInput, match=r"layer='conv9' of Transient is no layer that the fault can be in"):
        train_fleet(
            replace(experiment, fault=parse_fault(f"{STUCK.site} bit 3 flip transient step 1 layer conv9")), tmp_path
        )
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=r"cannot be used .*; name another"):
        train_fleet(experiment, tmp_path / "file")


def test_what_keeps_processes_from_meeting_is_said_in_one_line(
    few_digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput, match=r"run: it has no fleet; give it one, such as Fleet\(replicas=4\)"):
        execute_distributed(run_on(None), few_digits)
    taken = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match=rf"\Aport={taken.port} cannot be had on 127.0.0.1 \(.*EADDRINUSE.*free\Z"):
        execute_distributed(run_on(Fleet(replicas=2)), few_digits, port=taken.port)
    monkeypatch.setattr(dist, "is_gloo_available", lambda: False)
    with pytest.raises(InvalidInput, match="replicas=2: this PyTorch was built without gloo; `execute` gives the same"):
        execute_distributed(run_on(Fleet(replicas=2)), few_digits)


def say_and_wait(rank: int, folder: str, fate: str) -> None:
    """Rank 1 meets its fate, rank 0 would wait for it for minutes."""
    partial_ = Path(folder) / f"{rank}.partial"
    partial_.write_text(str(os.getpid()))
    partial_.replace(Path(folder) / f"{rank}.pid")
    if rank == 1 and fate == "raise":
        pids_in(Path(folder))
        raise ZeroDivisionError("first line\nsecond line")
    if rank == 1 and fate == "kill":
        pids_in(Path(folder))
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1:
        time.sleep(600)
    dist.barrier()


def pids_in(folder: Path) -> list[int]:
    """Wait until both have started."""
    paths = [folder / f"{rank}.pid" for rank in range(2)]
    while not all(path.exists() for path in paths):
        time.sleep(0.01)
    return [int(path.read_text()) for path in paths]


@pytest.mark.parametrize(
    ("fate", "said"),
    [
        ("raise", r"\Areplica 1 failed: ZeroDivisionError: first line; `execute` gives the same bits in one process\Z"),
        ("kill", r"\Areplica 1 was killed \(signal 9\), perhaps for want of memory; .*\Z"),
    ],
)
def test_one_that_fails_leaves_none_behind(tmp_path: Path, fate: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        run_replicas(say_and_wait, 2, (str(tmp_path), fate))
    assert not any(map(lives, pids_in(tmp_path)))


def test_after_an_interrupt_none_is_left(tmp_path: Path) -> None:
    def interrupt() -> None:
        pids_in(tmp_path)
        os.kill(os.getpid(), signal.SIGINT)

    thread = Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_replicas(say_and_wait, 2, (str(tmp_path), "wait"))
    thread.join()
    assert not any(map(lives, pids_in(tmp_path)))


def test_none_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = (
        "from miscompute.experiment._distributed import run_replicas\n"
        "from tests.experiment.test_fleet import say_and_wait\n"
        f"run_replicas(say_and_wait, 2, ({str(tmp_path)!r}, 'wait'))"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE, text=True)
    pids = pids_in(tmp_path)
    process.kill()
    assert process.communicate(timeout=60)[1] == ""  # returns when all that have the pipe are gone
    assert not any(map(lives, pids))
