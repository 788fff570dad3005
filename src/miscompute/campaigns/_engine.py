"""Engines: carry jobs out in other processes, on this machine or on many, and lose none to a worker's end."""

import multiprocessing
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, final

from pebble import ProcessExpired, ProcessPool

from .._invalid import InvalidInput
from .._workers import end_with_parent, one_line, sigint_blocked

_RETRIES = 1
_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Job:
    """A call to be made in a worker: ``work(*args)``, both of which can be pickled. ``name`` is the caller's own.

    After ``timeout_seconds`` it counts as hung; None: never.
    """

    name: Any
    work: Callable[..., Any]
    args: tuple[Any, ...] = ()
    timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.timeout_seconds is not None and not self.timeout_seconds > 0:
            raise InvalidInput(f"timeout_seconds={self.timeout_seconds} must be positive, or left out for none")


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of a job: its value, or why there is none; after how many attempts."""

    job: Job
    value: Any = None
    failure: str | None = None
    attempts: int = 1


class Engine(ABC):
    """Workers for jobs; a context manager that ends them.

    A worker that ends or hangs costs the job it was at, which is tried once more and then given back as failed. What a
    job raises is not tried again: `InvalidInput` goes through to the caller, and anything else is its failure.

    Args:
        workers: how many jobs at once.
    """

    def __init__(self, *, workers: int) -> None:
        if workers < 1:
            raise InvalidInput(f"workers={workers} must be at least 1")
        self.workers = workers

    def run(self, jobs: Iterable[Job]) -> Iterator[Done | None]:
        """Carry jobs out, and give what came of each as soon as it is there, in any order.

        Now and then None, so that the caller can look after other things while all are at work.
        """
        waiting = iter(jobs)
        flying: dict[Any, tuple[Job, int]] = {}
        while True:
            while len(flying) < 2 * self.workers and (job := next(waiting, None)) is not None:
                flying[self._submit(job)] = job, 1
            if not flying:
                return
            ended = self._ended({handle: job for handle, (job, _) in flying.items()})
            for handle in ended:
                job, attempts = flying.pop(handle)
                value, failure, is_final = self._result(handle, job)
                if failure is not None and not is_final and attempts <= _RETRIES:
                    flying[self._submit(job)] = job, attempts + 1
                else:
                    yield Done(job=job, value=value, failure=failure, attempts=attempts)
            if not ended:
                yield None

    @abstractmethod
    def _submit(self, job: Job) -> Any:
        """Hand a job to a worker; give a handle, which can be hashed."""

    @abstractmethod
    def _ended(self, flying: Mapping[Any, Job]) -> list[Any]:
        """Wait a moment for jobs to end, and give the handles of those that have."""

    @abstractmethod
    def _result(self, handle: Any, job: Job) -> tuple[Any, str | None, bool]:
        """Give an ended job's value, or else why there is none and whether another attempt would be the same."""

    def __enter__(self) -> "Engine":
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@final
class Pool(Engine):
    """Processes on this machine (pebble's pool, which outlives the loss of a worker)."""

    def __init__(self, *, workers: int | None = None) -> None:
        super().__init__(workers=workers or os.cpu_count() or 1)
        self._pool = ProcessPool(
            self.workers, initializer=end_with_parent, context=multiprocessing.get_context("spawn")
        )

    def _submit(self, job: Job) -> "Future[Any]":
        with sigint_blocked():
            return self._pool.schedule(job.work, args=job.args, timeout=job.timeout_seconds)

    def _ended(self, flying: "Mapping[Future[Any], Job]") -> "list[Future[Any]]":
        return list(wait(flying, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED).done)

    def _result(self, handle: "Future[Any]", job: Job) -> tuple[Any, str | None, bool]:
        error = handle.exception()
        match error:
            case None:
                return handle.result(), None, True
            case InvalidInput():
                raise error
            case ProcessExpired():
                return None, f"the worker ended ({_how(error.exitcode)})", False
            case TimeoutError():
                return None, f"no end within {job.timeout_seconds:g} seconds", False
            case _:
                return None, one_line(error), True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._pool.close()  # type: ignore[no-untyped-call]
        else:
            self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


@final
class Ray(Engine):
    """Tasks of Ray, on as many machines as its cluster has; needs the extra ``ray``.

    Args:
        workers: how many jobs at once; None: as many as the cluster has processors.
        address: of a running cluster, ``auto`` for the one this machine belongs to; None: one on this machine only.
    """

    def __init__(self, *, workers: int | None = None, address: str | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise InvalidInput("engine='ray' needs Ray: pip install 'miscompute[ray]', or use the pool") from error
        self._ray: Any = ray
        self._was_running = ray.is_initialized()
        if not self._was_running:
            quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
            ray.init(address=address, **(quiet if address is None else {"log_to_driver": False}))
        super().__init__(workers=workers or max(1, int(self._ray.cluster_resources().get("CPU", 1))))
        self._task = ray.remote(num_cpus=1, max_retries=0)(_call)
        self._begun: dict[Any, float] = {}
        self._hung: set[Any] = set()

    def _submit(self, job: Job) -> Any:
        return self._task.remote(job.work, job.args)

    def _ended(self, flying: Mapping[Any, Job]) -> list[Any]:
        ended, _ = self._ray.wait(list(flying), num_returns=1, timeout=_POLL_SECONDS)
        self._cancel_hung(flying)
        return list(ended)

    def _cancel_hung(self, flying: Mapping[Any, Job]) -> None:
        """End what has been at work for too long; as many as there are workers are, the others wait."""
        now = time.monotonic()
        self._begun = {handle: self._begun.get(handle, now) for handle in list(flying)[: self.workers]}
        for handle, since in self._begun.items():
            limit = flying[handle].timeout_seconds
            if limit is not None and now - since > limit and handle not in self._hung:
                self._hung.add(handle)
                self._ray.cancel(handle, force=True)

    def _result(self, handle: Any, job: Job) -> tuple[Any, str | None, bool]:
        errors = self._ray.exceptions
        try:
            return self._ray.get(handle), None, True
        except errors.RayTaskError as error:
            if isinstance(error.cause, InvalidInput):
                raise error.cause from None
            return None, one_line(error.cause), True
        except errors.RayError as error:  # of the worker or its machine
            if handle in self._hung:
                return None, f"no end within {job.timeout_seconds:g} seconds", False
            return None, f"the worker ended ({type(error).__name__})", False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._was_running:
            self._ray.shutdown()


ENGINES: Mapping[str, type[Engine]] = MappingProxyType({"pool": Pool, "ray": Ray})
"""Every engine, by its word on the command line."""


def engine_named(name: str, *, workers: int | None = None) -> Engine:
    """Start an engine by its name.

    Raises:
        InvalidInput: if there is no such engine, or what it needs is not installed.
    """
    if name not in ENGINES:
        raise InvalidInput(f"engine={name!r} is unknown; choose one of {', '.join(ENGINES)}")
    return ENGINES[name](workers=workers)  # type: ignore[arg-type]


def _call(work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return work(*args)


def _how(exitcode: int) -> str:
    return f"signal {signal.Signals(-exitcode).name}" if exitcode < 0 else f"exit status {exitcode}"
