"""What all tests share: shapes and dtypes are checked, generated tests are the same every time, and the RTL vectors."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import jaxtyping
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from miscompute.tasks import DataSet

# Before anything imports torch: tests run one a core (`make test`), and on small tensors torch spends most of its time
# in waking its threads. A process that a test starts does likewise.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_checked = jaxtyping.jaxtyped
_made: Counter[CodeType] = Counter()


def _jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """Check a function; one that is defined in another is made anew at each call of that, and checked eight times.

    To wrap it costs more than what most do: four fifths of the time of tests of injection.
    """

    def decorate(function: Any) -> Any:
        if "<locals>" not in function.__qualname__ or not hasattr(function, "__code__"):
            return _checked(typechecker=typechecker)(function)
        _made[function.__code__] += 1
        return _checked(typechecker=typechecker)(function) if _made[function.__code__] <= 8 else function

    return decorate


jaxtyping.jaxtyped = _jaxtyped  # type: ignore[assignment]

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
    """One thread whatever the environment says: for tests of what rounding or time depends on."""
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
