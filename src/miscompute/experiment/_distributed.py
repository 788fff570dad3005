"""A fleet as it really is: a process a replica, `DistributedDataParallel` over gloo."""

import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .._invalid import InvalidInput
from .._workers import end_with_parent, one_line
from ..injection import inject
from ..tasks import DataSet, Training
from ._fleet import Fleet, average_in_rank_order, replica_gradients
from ._run import Run

_HOST = "127.0.0.1"
_INSTEAD = "`execute` gives the same bits in one process"


def execute_distributed(
    run: Run, data: DataSet, *, port: int = 0, timeout_seconds: float = 300.0
) -> tuple[dict[str, Tensor], ...]:
    """Carry a fleet's run out in as many processes as it has replicas, the fault in the faulty one's alone.

    What `execute` computes in one process, this does as fleets do it: `DistributedDataParallel` over gloo on this
    machine, gradients averaged by `average_in_rank_order`. It keeps no checkpoints and does not stop at INF or NaN. The
    processes, of one thread each, end with this one, however it ends. As always where Python starts processes, a script
    calls this under ``if __name__ == "__main__"``.

    Args:
        run: with a ``fleet``.
        data: what to train on.
        port: where the replicas meet; 0: one that is free.
        timeout_seconds: how long a replica waits for the others.

    Returns:
        For each rank its model's parameters and buffers at the end. Parameters are equal on all; buffers, such as the
        statistics of a batch normalisation, are each rank's own.

    Raises:
        InvalidInput: if the run has no fleet, or the replicas cannot meet or were killed.
    """
    if run.fleet is None:
        raise InvalidInput("run: it has no fleet; give it one, such as Fleet(replicas=4)")
    with TemporaryDirectory(prefix="miscompute-fleet-") as folder:
        torch.save(vars(data), Path(folder) / "data.pt")
        run_replicas(_train, run.fleet.replicas, (run, folder), port=port, timeout_seconds=timeout_seconds)
        return tuple(torch.load(_result(folder, rank), weights_only=True) for rank in range(run.fleet.replicas))


def run_replicas(
    target: Callable[..., None],
    replicas: int,
    args: tuple[Any, ...] = (),
    *,
    port: int = 0,
    timeout_seconds: float = 300.0,
) -> None:
    """Call ``target(rank, *args)`` in a process for each rank, in one gloo process group on this machine.

    Returns once all have ended. If one fails, or on Ctrl-C, none is left.

    Raises:
        InvalidInput: in one line, if there is no gloo, the port is in use, or a process failed or was killed.
    """
    if not (dist.is_available() and dist.is_gloo_available()):
        raise InvalidInput(f"replicas={replicas}: this PyTorch was built without gloo; {_INSTEAD}")
    store = _meeting_place(port, replicas, timeout_seconds)
    context = get_context("forkserver")  # which loads PyTorch once, not once a replica
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    with TemporaryDirectory(prefix="miscompute-fleet-") as folder:
        processes: list[BaseProcess] = [
            context.Process(
                target=_replica,
                args=(rank, replicas, store.port, timeout_seconds, folder, target, args),
                daemon=True,
            )
            for rank in range(replicas)
        ]
        try:
            for process in processes:
                process.start()
            _await(processes, folder)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()


def _meeting_place(port: int, replicas: int, timeout_seconds: float) -> Any:  # a TCPStore
    try:
        return dist.TCPStore(  # type: ignore[attr-defined]
            _HOST,
            port,
            replicas,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout_seconds),
        )
    except (RuntimeError, ValueError, OverflowError, TypeError) as error:
        raise InvalidInput(
            f"port={port} cannot be had on {_HOST} ({one_line(error)}); leave it at 0, for one that is free"
        ) from error


def _await(processes: Sequence[BaseProcess], folder: str) -> None:
    """Wait until all have ended well; raise as soon as one has not."""
    waiting = {process.sentinel: rank for rank, process in enumerate(processes)}
    while waiting:
        ended = [waiting.pop(sentinel) for sentinel in wait(list(waiting)) if isinstance(sentinel, int)]
        codes = {rank: _exit_code(processes[rank]) for rank in ended}
        # One that fails or is killed takes others with it, who then report that they lost it.
        for rank, code in sorted(codes.items(), key=lambda item: item[1]):
            if code < 0:
                raise InvalidInput(
                    f"replica {rank} was killed (signal {-code}), perhaps for want of memory; {_INSTEAD}"
                )
            if code > 0:
                path = _complaint(folder, rank)
                reason = path.read_text() if path.exists() else f"exit code {code}"
                raise InvalidInput(f"replica {rank} failed: {reason}; {_INSTEAD}")


def _exit_code(process: BaseProcess) -> int:
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _replica(
    rank: int,
    replicas: int,
    port: int,
    timeout_seconds: float,
    folder: str,
    target: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets it too, ends this
    end_with_parent()
    torch.set_num_threads(1)
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback is not None:  # else gloo takes the interface of the host's name
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    timeout = timedelta(seconds=timeout_seconds)
    try:
        store = dist.TCPStore(_HOST, port, replicas, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=replicas, timeout=timeout)
        target(rank, *args)
        dist.barrier()  # nobody leaves while another still talks to it
        dist.destroy_process_group()
    except Exception as error:  # whatever it was, the parent says it
        _complaint(folder, rank).write_text(one_line(error))
        os._exit(1)


def _train(rank: int, run: Run, folder: str) -> None:
    data = DataSet(**torch.load(Path(folder) / "data.pt", weights_only=True, mmap=True))
    training, fleet = Training(run.recipe, data), run.fleet
    assert fleet is not None
    model = DistributedDataParallel(training.model)
    model.register_comm_hook(None, average_in_rank_order)
    with _chip(run, fleet, training, rank):
        while training.step < run.recipe.steps:
            replica_gradients(model, training, fleet, training.batch(), rank=rank)
            training.update()
    torch.save(training.model.state_dict(), _result(folder, rank))


def _chip(run: Run, fleet: Fleet, training: Training, rank: int) -> Any:
    if run.fault is None or rank != fleet.faulty:
        return nullcontext()
    assert run.array is not None
    return inject(training.model, run.fault, array=run.array)


def _result(folder: str, rank: int) -> Path:
    return Path(folder) / f"replica-{rank}.pt"


def _complaint(folder: str, rank: int) -> Path:
    return Path(folder) / f"replica-{rank}.error"
