"""Rows of annotation and prediction files of no official form: CSV, JSON lists or JSON lines, one fault a bad row."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.files import json_of_file, text_of_file
from benchmarks.items import Annotations, Fault, FaultKind, Item, Prediction, Predictions
from storage.errors import FormatError


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file: its cells by the name of their column or key, and where it stands."""

    where: str
    cells: Mapping[str, Any]


class RowError(ValueError):
    """A row is no item or no prediction: which kind of fault, and what to do."""

    def __init__(self, kind: FaultKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: FaultKind = kind


def rows_of_file(path: Path, faults: list[Fault]) -> Iterator[Row]:
    """The rows of a file: CSV with a header, a JSON list of objects, or one JSON object a line; packed or not.

    Rows that are none are added to `faults`.

    Raises:
        FormatError: the file cannot be read at all.
    """
    if kind_of_file(path) == ".csv":
        return _csv_rows(path, faults)
    text = text_of_file(path).strip()
    if kind_of_file(path) == ".jsonl" or (text.startswith("{") and "\n{" in text):
        return _json_lines(path, text, faults)
    return _json_rows(path, json_of_file(path), faults)


def kind_of_file(path: Path) -> str:
    """The ending of a file's name that says what it holds, lower case: of "a.csv.gz" it is ".csv"."""
    inner = path.with_suffix("") if path.suffix.lower() in {".gz", ".zip"} else path
    return inner.suffix.lower()


def _csv_rows(path: Path, faults: list[Fault]) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text_of_file(path), newline=""), restval="")
    if not reader.fieldnames:
        raise FormatError(f"{path}: is empty; its first line must name the columns.")
    # The number is the row's own: a cell may hold line breaks.
    for number, cells in enumerate(reader, start=1):
        where = f"{path.name} row {number}"
        if None in cells:
            reason = f"has more cells than the header has columns ({len(reader.fieldnames)}): quote cells with commas."
            faults.append(Fault("malformed", where, reason))
        else:
            yield Row(where, cells)


def _json_lines(path: Path, text: str, faults: list[Fault]) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path.name} row {number}"
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            faults.append(Fault("malformed", where, f"is not JSON: {error}. Write one JSON object a line."))
            continue
        yield from _object(where, cells, faults)


def _json_rows(path: Path, value: Any, faults: list[Fault]) -> Iterator[Row]:
    if isinstance(value, dict):
        # A file of one line is JSON lines too.
        value = [value]
    if not isinstance(value, list):
        raise FormatError(f"{path}: is no list of objects. Give a JSON list, one JSON object a line, or a CSV.")
    for number, cells in enumerate(value, start=1):
        yield from _object(f"{path.name} row {number}", cells, faults)


def _object(where: str, cells: Any, faults: list[Fault]) -> Iterator[Row]:
    if isinstance(cells, dict):
        yield Row(where, cells)
    else:
        faults.append(Fault("malformed", where, f"is no JSON object but {str(cells)[:60]!r}."))


def cell(row: Row, *names: str) -> str:
    """The text of the first of these columns that the row fills, without blanks around it; "" where none does.

    Raises:
        RowError: it holds a list, an object or a truth value, where a text or a number is wanted.
    """
    for name in names:
        value = row.cells.get(name)
        if isinstance(value, list | dict | bool):
            raise RowError("malformed", f"its {name!r} is no text but {str(value)[:60]!r}: put it in quotes.")
        if value is not None and str(value).strip():
            return str(value).strip()
    return ""


def wanted(row: Row, kind: FaultKind, *names: str) -> str:
    """As `cell`, for what a row must have.

    Raises:
        RowError: of that kind, where the row has none of these.
    """
    found = cell(row, *names)
    if not found:
        others = f" (or {', '.join(names[1:])})" if names[1:] else ""
        raise RowError(kind, f"has no {names[0]!r}{others}: fill it in.")
    return found


def content_name(*texts: str) -> str:
    """A name for what has none in its file: of its content, so that it stays when rows are added or moved."""
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()[:12]


def items_of_rows(rows: Iterable[Row], item_of: Callable[[Row], Item], faults: list[Fault]) -> Annotations:
    """The items of rows; those that are none and those whose id was there before become faults. All faults are sorted
    into the annotations, those found while reading among them.
    """
    items: dict[str, Item] = {}
    for row in rows:
        try:
            item = item_of(row)
        except RowError as error:
            faults.append(Fault(error.kind, row.where, str(error)))
            continue
        if item.id in items:
            faults.append(Fault("duplicate", row.where, f"its id {item.id!r} was there before: the first row counts."))
        else:
            items[item.id] = item
    return Annotations(tuple(items.values()), tuple(faults))


def predictions_of_files(
    files: Sequence[Path], items: Sequence[Item], prediction_of: Callable[[Row, Item], Prediction]
) -> Predictions:
    """Predictions of our own files, rows that name their item as "id"; all else is a fault, as in the Protocol.

    Raises:
        FormatError: a file cannot be read at all.
    """
    known = {item.id: item for item in items}
    faults: list[Fault] = []
    found: dict[str, Prediction] = {}
    for row in (row for path in files for row in rows_of_file(path, faults)):
        try:
            name = wanted(row, "malformed", "id")
            _accept(row, name, known, found, prediction_of)
        except RowError as error:
            faults.append(Fault(error.kind, row.where, str(error)))
    return with_missing(found, items, faults)


def _accept(
    row: Row,
    name: str,
    known: Mapping[str, Item],
    found: dict[str, Prediction],
    prediction_of: Callable[[Row, Item], Prediction],
) -> None:
    if name not in known:
        raise RowError("unknown", f"is for {name!r}, which is no item of the benchmark.")
    if name in found:
        raise RowError("duplicate", f"is a second prediction for {name!r}: the first counts.")
    found[name] = prediction_of(row, known[name])


def with_missing(found: Mapping[str, Prediction], items: Sequence[Item], faults: list[Fault]) -> Predictions:
    """The predictions with a fault for each item that has none."""
    missing = [Fault("missing", item.id, "has no prediction.") for item in items if item.id not in found]
    return Predictions(found, tuple(faults + missing))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Writes one JSON object a line; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return [path]


def numbers(value: Any, what: str) -> tuple[float, ...]:
    """A list of numbers, infinities among them.

    Raises:
        RowError: it is none, or holds what is no number.
    """
    if not isinstance(value, list) or any(
        isinstance(one, bool) or not isinstance(one, int | float) or math.isnan(one) for one in value
    ):
        raise RowError("malformed", f"its {what!r} is no list of numbers but {str(value)[:60]!r}.")
    return tuple(float(one) for one in value)


def check_protocol(name: str, protocols: Sequence[str], protocol: str) -> None:
    """Raises ValueError where a benchmark is asked for a protocol that it does not know."""
    if protocol not in protocols:
        raise ValueError(f"{name} has no protocol {protocol!r}; it knows {', '.join(protocols)}.")


def main_file(name: str, files: Mapping[str, Path]) -> Path:
    """The file that every benchmark of one file reads, given under "" (or as the only one).

    Raises:
        FormatError: it was not given.
    """
    if "" in files:
        return files[""]
    if len(files) == 1:
        return next(iter(files.values()))
    raise FormatError(f"{name}: no annotation file was named; given: {', '.join(sorted(files)) or 'none'}.")
