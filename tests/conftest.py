"""What all tests share: shapes and dtypes are checked, generated tests are the same every time, and the RTL vectors."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from miscompute.tasks import DataSet

# Before anything imports miscompute: modules imported earlier stay unchecked.
jaxtyping.install_import_hook("miscompute", "beartype.beartype")

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("ci")

_VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors"


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of stimulus and faulty outputs from cycle-accurate simulation, which is not part of the repository."""
    if not _VECTORS.is_dir():
        pytest.skip(f"RTL vectors are not at {_VECTORS}")
    return _VECTORS


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Types go unchecked, as they do for users: for tests of what is said about a value of the wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On small tensors, torch spends most of its time in waking its threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> "DataSet":
    """The embedded data set, which takes seconds to make."""
    from miscompute.tasks import load_data

    return load_data("cluttered_digits")


@pytest.fixture(scope="session")
def few_digits(digits: "DataSet") -> "DataSet":
    """A hundred of the embedded images to train on, fifty to validate."""
    from dataclasses import replace

    return replace(
        digits,
        train_images=digits.train_images[:100],
        train_labels=digits.train_labels[:100],
        validation_images=digits.validation_images[:50],
        validation_labels=digits.validation_labels[:50],
    )
