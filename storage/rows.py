"""Rows on their way into a table, checked against its schema; and the digest that compares tables."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import LakeError
from storage.schemas import REQUIRED, SCHEMAS


def arrow_rows(name: str, rows: list[dict[str, Any]] | pa.Table, fill: dict[str, Any]) -> pa.Table:
    """Return `rows` in the columns of table `name`, with the constant columns of `fill` filled in.

    Raises LakeError that names the column (and the item) for an unknown column, a value of the wrong type, a missing
    required value, a status other than ok and quarantined, and a quarantined row without a reason.
    """
    schema = SCHEMAS[name]
    columns = dict(_columns(rows)) if isinstance(rows, pa.Table) else _columns_of_dicts(name, rows)
    unknown = sorted(set(columns) - set(schema.names))
    if unknown:
        raise LakeError(f"Table {name} has no column {', '.join(unknown)}; its columns are {', '.join(schema.names)}.")
    for column, value in fill.items():
        given = columns.get(column, [])
        if any(other not in (None, value) for other in (given if isinstance(given, list) else given.to_pylist())):
            raise LakeError(f"Table {name}: rows for {column} {value!r} hold another {column}; leave that column out.")
        columns[column] = [value] * len(rows)
    arrays = [_array(name, field, columns.get(field.name), len(rows)) for field in schema]
    table = pa.Table.from_arrays(arrays, schema=schema)
    _check_values(name, table)
    return table


def _columns(rows: pa.Table) -> Iterator[tuple[str, pa.Array]]:
    return ((column, rows[column].combine_chunks()) for column in rows.column_names)


def _columns_of_dicts(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {column: [row.get(column) for row in rows] for column in {key: None for row in rows for key in row}}
    for field in SCHEMAS[name]:
        if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
            _check_structs(
                f"{name}.{field.name}", {part.name for part in field.type.value_type}, columns.get(field.name)
            )
    return columns


def _check_structs(where: str, expected: set[str], values: list[list[dict[str, Any]] | None] | None) -> None:
    # Arrow drops an unknown key of a struct without a word, and fills a missing one with null.
    for parts in values or ():
        for part in parts or ():
            if set(part) != expected:
                raise LakeError(f"Column {where} takes parts with the keys {sorted(expected)}, not {sorted(part)}.")


def _array(name: str, field: pa.Field, values: list[Any] | pa.Array | None, length: int) -> pa.Array:
    if values is None:
        return pa.nulls(length, field.type)
    try:
        return values.cast(field.type) if isinstance(values, pa.Array) else pa.array(values, type=field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise LakeError(f"Column {name}.{field.name} holds {field.type}: {error}. Correct the stage's rows.") from error


def _check_values(name: str, table: pa.Table) -> None:
    ok = pa.array([True] * len(table))
    if "status" in table.column_names:
        ok = pc.equal(table["status"], "ok")
        quarantined = pc.equal(table["status"], "quarantined")
        _refuse(name, table, pc.invert(pc.or_kleene(ok, quarantined)), "status must be 'ok' or 'quarantined'")
        unexplained = pc.and_(quarantined, pc.equal(pc.fill_null(table["reason"], ""), ""))
        _refuse(name, table, unexplained, "a quarantined row needs a reason")
    for field in table.schema:
        missing = pc.is_null(table[field.name])
        if not field.nullable:
            _refuse(name, table, missing, f"column {field.name} is missing")
        elif field.name in REQUIRED[name]:
            _refuse(name, table, pc.and_(missing, ok), f"column {field.name} is missing")


def _refuse(name: str, table: pa.Table, bad: Any, what: str) -> None:
    if pc.any(pc.fill_null(bad, True)).as_py():
        row = table.slice(pc.index(pc.fill_null(bad, True), True).as_py(), 1)
        label = row["item_id"][0].as_py() if "item_id" in row.column_names else row["event_id"][0].as_py()
        raise LakeError(f"Table {name}, row {label!r}: {what}. Correct the stage that makes these rows.")


def row_digest(table: pa.Table, ignore: Iterable[str] = ()) -> str:
    """SHA-256 over the sorted rows: equal for tables with equal rows, whatever their order, files and versions."""
    kept = sorted(set(table.column_names) - set(ignore))
    lines = sorted(json.dumps(row, sort_keys=True, default=_plain) for row in table.select(kept).to_pylist())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"row_digest cannot write a {type(value).__name__}")


def one_by_one(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table as dicts, of which only a few are there at once."""
    for batch in table.to_batches(max_chunksize=256):
        yield from batch.to_pylist()
