"""The catalogue of data sets."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from .._invalid import InvalidInput
from ._data import CIFAR10_CLASSES, DIGITS, DataSet, Reads, cifar10, cluttered_digits
from ._text import CHARACTERS, CONTEXT, tiny_shakespeare


class Source(NamedTuple):
    """How a data set is had, and what a model for it must know beforehand.

    ``load`` takes a folder to look in, if any. Images have ``channels``, tokens a ``context``; the other is 0. What is
    ``embedded`` needs no folder.
    """

    load: Callable[[Path | None], DataSet]
    channels: int
    classes: tuple[str, ...]
    context: int = 0
    embedded: bool = False

    @property
    def reads(self) -> Reads:
        """What an example is."""
        return "tokens" if self.context else "images"

    @property
    def sizes(self) -> dict[str, int]:
        """What a model must know of the data, as `build_model` takes it."""
        size = {"context": self.context} if self.context else {"channels": self.channels}
        return {**size, "classes": len(self.classes)}

    def zeros(self, examples: int) -> Tensor:
        """Make a batch that a model for this data takes."""
        if self.context:
            return torch.zeros(examples, self.context, dtype=torch.int64)
        return torch.zeros(examples, self.channels, 32, 32)


DATA_SETS: Mapping[str, Source] = MappingProxyType(
    {
        "cluttered_digits": Source(lambda folder: cluttered_digits(), 1, DIGITS, embedded=True),  # noqa: ARG005
        "cifar10": Source(cifar10, 3, CIFAR10_CLASSES),
        "tiny_shakespeare": Source(tiny_shakespeare, 0, CHARACTERS, context=CONTEXT),
    }
)
"""Every data set, by the word used in specs and on the command line."""


def load_data(name: str, *, folder: Path | None = None) -> DataSet:
    """Load a data set by name, from a folder or from where it usually is.

    Raises:
        InvalidInput: if there is no such data set, a folder is named for one that is embedded, or it cannot be had.
    """
    if name not in DATA_SETS:
        raise InvalidInput(f"data={name!r} is unknown; choose one of {', '.join(DATA_SETS)}")
    source = DATA_SETS[name]
    if folder is not None and source.embedded:
        raise InvalidInput(f"data folder {str(folder)!r} is of no use: data={name} is embedded; leave it out")
    return source.load(folder)
