"""What all tests share: shapes and dtypes are checked, generated tests are the same every time, and the RTL vectors."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import wraps
from inspect import isgeneratorfunction
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

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

    To wrap it costs more than what most do: four fifths of the time of tests of injection. So does what jaxtyping does
    at each call to compare the sizes of arrays, where there are none: such a function is beartype's alone.
    """

    def decorate(function: Any) -> Any:
        if isinstance(function, type):
            init = vars(function).get("__init__")
            if is_dataclass(function) and isinstance(init, FunctionType) and not hasattr(init, "__wrapped__"):
                setattr(function, "__init__", decorate(init))  # noqa: B010
            return function
        if "<locals>" in function.__qualname__:
            _made[function.__code__] += 1
            if _made[function.__code__] > 8:
                return function
        hints = {name: _hint(said, function.__globals__) for name, said in function.__annotations__.items()}
        if isgeneratorfunction(function) or any(map(_has_array, hints.values())):
            return _checked(typechecker=typechecker)(function)
        return _without_arrays(function, hints, typechecker)

    return decorate


def _hint(said: object, names: dict[str, Any]) -> Any:
    """Say what an annotation means; what only type checkers can know means anything, as for jaxtyping."""

    def holder() -> None: ...

    holder.__annotations__ = {"said": said}
    try:
        return get_type_hints(holder, names, include_extras=True)["said"]
    except NameError:
        return Any


def _has_array(hint: Any) -> bool:
    if isinstance(hint, list):  # of a Callable's arguments
        return any(map(_has_array, hint))
    return isinstance(hint, type(jaxtyping.AbstractArray)) or any(map(_has_array, get_args(hint)))


def _without_arrays(function: Any, hints: dict[str, Any], typechecker: Any) -> Any:
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__, twin.__annotations__ = function.__kwdefaults__, hints
    twin.__module__, twin.__qualname__ = function.__module__, function.__qualname__
    checked, settings = typechecker(twin), jaxtyping.config

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (function if settings.jaxtyping_disable else checked)(*args, **kwargs)

    return call


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
