"""What worker processes of every kind need: an end with their parent, quiet at Ctrl-C, a failure in one line."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread


def end_with_parent() -> None:
    """End this worker once its parent is gone: nobody would, and who goes on with the work writes the same files."""

    def end() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    Thread(target=end, daemon=True).start()


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started inside, which inherit it: the parent decides when they stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def one_line(error: BaseException) -> str:
    """Say what was raised in one line: its kind, and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
