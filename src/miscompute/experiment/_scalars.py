"""Scalars for TensorBoard, an extra: the one place that knows how they are written."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._invalid import InvalidInput

Write = Callable[[int, Mapping[str, float]], None]
"""Writes values by their names, at a step."""


@contextmanager
def scalars(folder: Path | None, *, after: int = 0) -> Iterator[Write]:
    """Give what writes scalars into a folder that TensorBoard reads; for no folder, what writes nothing.

    Args:
        folder: made if it is not there; what it holds of another time stays.
        after: the step up to which it holds what counts; what was written of later ones is superseded.

    Raises:
        InvalidInput: if TensorBoard is not installed.
    """
    if folder is None:
        yield lambda step, values: None  # noqa: ARG005
        return
    writer = _writer()(str(folder), purge_step=after + 1)
    try:
        yield lambda step, values: _write(writer, step, values)
    finally:
        writer.close()


def check_tensorboard() -> None:
    """Raise `InvalidInput` unless scalars can be written, which is better said before hours of work."""
    _writer()


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InvalidInput(
            f"tensorboard=True needs TensorBoard, which does not load ({error}): pip install 'miscompute[tensorboard]'"
        ) from error
    return SummaryWriter


def _write(writer: Any, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, step)
    writer.flush()
