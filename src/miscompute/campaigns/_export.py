"""Trials as a table for other programs."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import polars as pl

from .._invalid import InvalidInput
from ._store import Store

_WRITERS: Mapping[str, str] = MappingProxyType({".parquet": "write_parquet", ".csv": "write_csv"})


def frame(store: Store) -> pl.DataFrame:
    """Give a store's trials, a row each without its curve, in the order of the population; axes by their names."""
    names, rows = store.table()
    return pl.DataFrame(list(rows), schema=list(names), orient="row", infer_schema_length=None)


def export(store: Store, path: Path) -> int:
    """Write a store's trials as Parquet or CSV, by the file's suffix; say how many there are.

    Raises:
        InvalidInput: for another suffix, or a file that cannot be written.
    """
    if path.suffix not in _WRITERS:
        raise InvalidInput(f"file={str(path)!r} must end in {' or '.join(_WRITERS)}")
    trials = frame(store)
    try:
        getattr(trials, _WRITERS[path.suffix])(path)
    except OSError as error:
        raise InvalidInput(f"file={str(path)!r} cannot be written ({error.strerror or error}); name another") from error
    return trials.height
