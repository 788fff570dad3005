"""Text to learn character by character."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._invalid import InvalidInput
from ._data import DataSet, look_for, named_folder
from ._sonnets import SONNETS

CONTEXT = 64
"""How many characters a window has."""

CHARACTERS = tuple("\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""The 65 characters of tiny Shakespeare, in the order of their codes: a character's place is its token."""

_FILE = "tinyshakespeare.txt"
_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_VALIDATION_WINDOWS = 256


def tiny_shakespeare(folder: Path | None = None) -> DataSet:
    """Load tiny Shakespeare: a million characters of plays, to predict each from up to 64 before it.

    The first nine tenths train: an example is any window of 64 characters. The last tenth validates, in windows at even
    distances that do not overlap, 257 of them.

    It is looked for as ``tinyshakespeare.txt`` where `cifar10` looks. Found nowhere, forty sonnets that are embedded
    (24,651 characters, 38 windows to validate) take its place, the data set's name says so, and a warning is given:
    enough to see a model learn, too little to train one well.

    Source: A. Karpathy, char-rnn, 2015 (MIT), from William Shakespeare's plays, which are in the public domain.
    Nothing of it is stored here but the sonnets.

    Raises:
        InvalidInput: if a folder was named and it is not there, or if it is not such a text.
    """
    found = look_for(_FILE, folder=folder)
    if found is not None:
        try:
            return text("tiny_shakespeare", found.read_text("ascii"))
        except (OSError, UnicodeDecodeError, InvalidInput) as error:
            raise InvalidInput(f"data file {str(found)!r} is damaged ({error}); remove it or name another") from error
    if named := named_folder(folder):
        raise InvalidInput(
            f"data folder {str(named)!r} does not hold {_FILE}; download {_URL} into it under that name, or name no "
            "folder for the embedded text"
        )
    warnings.warn(
        f"{_FILE} was not found, so the {len(SONNETS):,} characters of embedded sonnets are learnt instead; for tiny "
        f"Shakespeare, download {_URL} under that name and set MISCOMPUTE_DATA to its folder",
        stacklevel=2,
    )
    return text("tiny_shakespeare (embedded sonnets)", SONNETS)


def text(name: str, characters: str) -> DataSet:
    """Make a data set of a text: windows of 64 of the 65 `CHARACTERS`, and the character that follows each.

    >>> data = text("hours", "Tomorrow, and tomorrow, and tomorrow, " * 40)
    >>> "".join(CHARACTERS[token] for token in data.train_images[5][:15]), CHARACTERS[data.train_labels[5][14]]
    ('row, and tomorr', 'o')

    Raises:
        InvalidInput: if a character is none of the 65, or there are not enough for one window to validate on.
    """
    foreign = sorted(set(characters) - set(CHARACTERS))
    if foreign:
        raise InvalidInput(f"text holds {foreign[0]!r}, which is none of its {len(CHARACTERS)} characters")
    split = len(characters) * 9 // 10
    if len(characters) - split <= CONTEXT:
        raise InvalidInput(f"text has {len(characters)} characters; it must have more than {10 * CONTEXT}")
    places = np.zeros(128, np.int64)
    places[[ord(character) for character in CHARACTERS]] = np.arange(len(CHARACTERS))
    tokens = torch.from_numpy(places[np.frombuffer(characters.encode(), np.uint8)])
    train, validation = tokens[:split], tokens[split:]
    train_windows, train_labels = _windows(train, 1)
    windows, labels = _windows(validation, max(CONTEXT, len(validation) // _VALIDATION_WINDOWS))
    return DataSet(
        name=name,
        train_images=train_windows,
        train_labels=train_labels,
        validation_images=windows,
        validation_labels=labels,
        classes=CHARACTERS,
        mean=(),
        std=(),
        augment=False,
        reads="tokens",
    )


def _windows(tokens: Tensor, distance: int) -> tuple[Tensor, Tensor]:
    """Give all windows and the tokens that follow theirs, as views: a window for every place takes no memory."""
    return tokens[:-1].unfold(0, CONTEXT, distance), tokens[1:].unfold(0, CONTEXT, distance)
