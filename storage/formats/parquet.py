"""Parquet files written and read a few rows at a time, whole or not at all."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import FormatError


def write_parquet(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]], rows_in_memory: int) -> None:
    """Write rows; `rows_in_memory` is the size of the file's row groups, too."""
    temporary = path.with_name(f".{path.name}.tmp")
    waiting = iter(rows)
    try:
        with pq.ParquetWriter(temporary, schema) as writer:
            while some := list(islice(waiting, rows_in_memory)):
                writer.write_table(pa.Table.from_pylist(some, schema=schema))
        os.replace(temporary, path)
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise FormatError(f"{path}: a row does not fit its columns: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_parquet(path: Path, rows_in_memory: int, unpacked: bytes | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file, of its `unpacked` bytes where it is packed. Raises FormatError when it cannot be read."""
    try:
        with pq.ParquetFile(path if unpacked is None else pa.BufferReader(unpacked)) as file:
            for batch in file.iter_batches(rows_in_memory):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise FormatError(f"{path}: cannot be read as a Parquet file: {error}.") from error
