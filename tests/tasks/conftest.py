"""What the tests of tasks share."""

from pathlib import Path

import pytest

from miscompute.tasks import DataSet, load_data


@pytest.fixture(scope="session")
def development_data() -> Path:
    """The folder of data sets that may not be given on, which is not part of the repository."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"data sets are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def cifar10_data(development_data: Path) -> DataSet:
    """CIFAR-10, which takes seconds to read."""
    return load_data("cifar10", folder=development_data)
