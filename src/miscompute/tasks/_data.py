"""What a data set is; data sets of 32 x 32 images: one that is embedded, and CIFAR-10."""

import hashlib
import http.client
import os
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .._invalid import InvalidInput

Reads = Literal["images", "tokens"]
"""What an example of a data set is, and what a model takes: an image, or a window of tokens of a text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """Examples and their labels, in memory.

    Of images, an example is one image and its label one class: images are uint8, (n, channels, 32, 32), labels int64,
    (n,). ``mean`` and ``std`` are those of the training images scaled to 0..1, one a channel. ``augment``: whether
    training crops and mirrors.

    Of tokens, an example is a window of a text and its labels are the tokens that follow each of it: both
    int64, (n, context), the windows in the ``images`` fields. ``classes`` is the vocabulary; there is no ``mean``,
    ``std`` or augmentation.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: bool
    reads: Reads = "images"

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour; 0 for tokens."""
        return len(self.mean)

    @property
    def sizes(self) -> dict[str, int]:
        """What a model must know of the data, as `build_model` takes it."""
        size = {"channels": self.channels} if self.reads == "images" else {"context": self.train_images.shape[1]}
        return {**size, "classes": len(self.classes)}

    @property
    def labels_per_example(self) -> int:
        """1 for an image; as many as there are tokens for a window."""
        return self.train_labels[0].numel()

    def validated_on(self, examples: int | None) -> "DataSet":
        """Give the data set with only the first so many validation examples; None: all."""
        if examples is None:
            return self
        images, labels = self.validation_images[:examples], self.validation_labels[:examples]
        return replace(self, validation_images=images, validation_labels=labels)

    def normalised(self, images: Tensor) -> Tensor:
        """Give what a model takes of examples as they are stored.

        Images, any (n, channels, 32, 32), are scaled to zero mean and unit variance: uint8 -> float32. Tokens stay what
        they are, as int64.
        """
        if self.reads == "tokens":
            return images.long()
        mean = torch.tensor(self.mean).view(-1, 1, 1) * 255
        std = torch.tensor(self.std).view(-1, 1, 1) * 255
        return (images.float() - mean) / std


def crop_and_mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to 4 pixels either way (zeros come in) and mirror half of them: the usual for CIFAR-10."""
    n, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4))
    down, right = torch.randint(0, 9, (2, n), generator=generator)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # -> (n, channels, 9, 9, height, width)
    cropped = windows[torch.arange(n), :, down, right]
    mirrored = torch.rand(n, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], cropped.flip(3), cropped)


DIGITS = tuple("0123456789")


def cluttered_digits(*, seed: int = 0, validation_images: int = 2_000) -> DataSet:
    """Make cluttered digits: real handwritten digits that must be found among fragments of others.

    A 32 x 32 canvas carries three 8 x 8 fragments of scikit-learn's 1,797 real 8 x 8 digits, each doubled to 16 x 16
    before it is cut, and over them one whole doubled digit, all at random places. 80,000 canvases to train on and 2,000
    (or ``validation_images``) to validate, from different digits. Made in a few seconds; the same seed gives the same
    bits.

    Source: the test part of E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI Machine
    Learning Repository, 1998 (CC BY 4.0), as scikit-learn ships it; nothing of it is stored here.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.default_rng(seed)
    doubled = np.kron(np.minimum(digits.images * 16, 255).astype(np.uint8), np.ones((1, 2, 2), np.uint8))
    order = random.permutation(len(doubled))

    def paste(canvases: NDArray[np.uint8], pieces: NDArray[np.uint8]) -> None:
        n, size = pieces.shape[:2]
        down, across = random.integers(0, 33 - size, (2, n, 1, 1))
        place = np.arange(n)[:, None, None], down + np.arange(size)[:, None], across + np.arange(size)
        canvases[place] = pieces

    def cut(pieces: NDArray[np.uint8]) -> NDArray[np.uint8]:
        n = len(pieces)
        down, across = random.integers(0, 9, (2, n, 1, 1))
        place = np.arange(n)[:, None, None], down + np.arange(8)[:, None], across + np.arange(8)
        return np.asarray(pieces[place], np.uint8)

    def canvases(chosen: NDArray[np.int64], number: int) -> tuple[Tensor, Tensor]:
        images = np.zeros((number, 32, 32), np.uint8)
        for _ in range(3):
            paste(images, cut(doubled[random.choice(chosen, number)]))
        subjects = random.choice(chosen, number)
        paste(images, doubled[subjects])
        return torch.from_numpy(images[:, None]), torch.from_numpy(digits.target[subjects].astype(np.int64))

    train_images, train_labels = canvases(order[:1297], 80_000)
    held_images, held_labels = canvases(order[1297:], validation_images)
    mean, std = _mean_and_std(train_images.numpy().reshape(-1))
    return DataSet(
        name="cluttered_digits",
        train_images=train_images,
        train_labels=train_labels,
        validation_images=held_images,
        validation_labels=held_labels,
        classes=DIGITS,
        mean=(mean,),
        std=(std,),
        augment=False,
    )


def _mean_and_std(values: NDArray[np.uint8]) -> tuple[float, float]:
    """Give ``(values / 255).mean()`` and ``.std()`` as numpy rounds them, without that array of floats.

    numpy adds float32 by halves of halves (in its source: ``pairwise_sum``). Cut where it cuts, the parts add up to the
    same bits.
    """

    def added(part: NDArray[np.uint8], term: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> np.float32:
        if len(part) <= 1 << 20:
            return np.float32(np.add.reduce(term(part.astype(np.float32) / np.float32(255))))
        half = len(part) // 2
        half -= half % 8
        return added(part[:half], term) + added(part[half:], term)

    mean = np.float32(added(values, lambda scaled: scaled) / len(values))
    variance = np.float32(added(values, lambda scaled: np.square(scaled - mean)) / len(values))
    return float(mean), float(np.sqrt(variance))


_CHECKOUT_DATA = Path(__file__).resolve().parents[4] / "shared" / "data"  # beside a development checkout


def named_folder(folder: Path | None) -> Path | None:
    """Give the data folder that somebody named: ``folder``, or else what the variable MISCOMPUTE_DATA says."""
    return folder or (Path(os.environ["MISCOMPUTE_DATA"]) if os.environ.get("MISCOMPUTE_DATA") else None)


def look_for(*paths: str, folder: Path | None) -> Path | None:
    """Find the first of some files: in the folder that was named and no other, or else in the usual places.

    These are ``../shared/data`` beside a development checkout and the user's cache.
    """
    named = named_folder(folder)
    for place in [named] if named else [_CHECKOUT_DATA, _cache()]:
        for path in paths:
            if (place / path).is_file():
                return place / path
    return None


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "miscompute"


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
_CIFAR10_URL = f"https://www.cs.toronto.edu/~kriz/{_CIFAR10_ARCHIVE}"
_CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as published on the data set's page


def cifar10(folder: Path | None = None) -> DataSet:
    """Load CIFAR-10 (Krizhevsky, 2009): 50,000 colour photographs to train on, 10,000 to validate, ten classes.

    It is looked for in ``folder``, in the folder that the environment variable MISCOMPUTE_DATA names, in
    ``../shared/data`` beside a development checkout and in the user's cache; a folder holds it as the official
    ``cifar-10-binary.tar.gz`` or as ``cifar10/`` with tiled images. Found nowhere, the official archive is downloaded
    to the cache and checked.

    Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. Its page states no licence and
    asks that the report be cited. Nothing of it is stored here.

    Raises:
        InvalidInput: if a folder was named and it is not there, a file is damaged, or the download fails.
    """
    found = look_for("cifar10/labels.npz", _CIFAR10_ARCHIVE, folder=folder)
    if found is None:
        if named := named_folder(folder):
            raise InvalidInput(
                f"data folder {str(named)!r} holds neither cifar10/labels.npz nor {_CIFAR10_ARCHIVE}; "
                f"download {_CIFAR10_URL} into it"
            )
        found = _download(_cache() / _CIFAR10_ARCHIVE)
    return _cifar10_from(*(_read_archive(found) if found.name == _CIFAR10_ARCHIVE else _read_tiles(found.parent)))


_Arrays = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]


def _cifar10_from(
    train_images: NDArray[np.uint8],
    train_labels: NDArray[np.int64],
    validation_images: NDArray[np.uint8],
    validation_labels: NDArray[np.int64],
) -> DataSet:
    return DataSet(
        name="cifar10",
        train_images=torch.from_numpy(train_images),
        train_labels=torch.from_numpy(train_labels),
        validation_images=torch.from_numpy(validation_images),
        validation_labels=torch.from_numpy(validation_labels),
        classes=CIFAR10_CLASSES,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        augment=True,
    )


def _read_tiles(folder: Path) -> _Arrays:
    from PIL import Image

    def images(name: str) -> NDArray[np.uint8]:
        with Image.open(folder / f"{name}.webp") as picture:
            grid = np.asarray(picture.convert("RGB")).reshape(100, 32, 100, 32, 3)  # 100 x 100 tiles of 32 x 32
        return np.ascontiguousarray(grid.transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32))

    try:
        with np.load(folder / "labels.npz", allow_pickle=False) as labels:
            train_labels, validation_labels = labels["ytr"].astype(np.int64), labels["yte"].astype(np.int64)
        train_images, validation_images = np.concatenate([images(f"tr{part}") for part in range(5)]), images("te0")
        if (len(train_labels), len(validation_labels)) != (len(train_images), len(validation_images)):
            raise ValueError("there are more or fewer labels than images")
        return train_images, train_labels, validation_images, validation_labels
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"data folder {str(folder)!r} is damaged ({error}); remove it or name another") from error


def _read_archive(archive: Path) -> _Arrays:
    if hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest() != _CIFAR10_MD5:
        raise InvalidInput(
            f"data file {str(archive)!r} is damaged (its MD5 is not {_CIFAR10_MD5}); remove it to download it again"
        )

    def read(tar: tarfile.TarFile, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        member = tar.extractfile(f"cifar-10-batches-bin/{name}.bin")
        assert member is not None
        records = np.frombuffer(member.read(), np.uint8).reshape(-1, 1 + 3 * 32 * 32)  # a label, then a planar image
        return records[:, 1:].reshape(-1, 3, 32, 32).copy(), records[:, 0].astype(np.int64)

    with tarfile.open(archive) as tar:
        parts = [read(tar, f"data_batch_{part}") for part in range(1, 6)]
        validation_images, validation_labels = read(tar, "test_batch")
    return (
        np.concatenate([images for images, _ in parts]),
        np.concatenate([labels for _, labels in parts]),
        validation_images,
        validation_labels,
    )


def _download(to: Path) -> Path:
    from rich.progress import wrap_file

    partial = to.with_suffix(".partial")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(_CIFAR10_URL, timeout=30) as response, partial.open("wb") as file:
            size = int(response.headers.get("Content-Length", 0))
            with wrap_file(response, size, description="downloading CIFAR-10") as stream:
                while block := stream.read(1 << 20):
                    file.write(block)
    except (OSError, http.client.HTTPException) as error:
        partial.unlink(missing_ok=True)
        raise InvalidInput(
            f"data=cifar10 was not found and could not be downloaded ({error}); download {_CIFAR10_URL} "
            "and name its folder with --data-folder or MISCOMPUTE_DATA"
        ) from error
    return partial.rename(to)
