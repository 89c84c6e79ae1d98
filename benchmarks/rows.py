"""Rows of annotation and prediction files: what can be read is kept, what cannot is a fault, nothing goes unseen."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeGuard

from benchmarks.files import MORE, bytes_of_file, csv_of_file, json_of_file, kind_of_file, text_of_file
from benchmarks.items import Annotations, Fault, FaultKind, Item, Prediction, Predictions
from storage.errors import FormatError

Row = dict[str, Any]

# Our key in files of official forms that have no ids: the scripts pass over it.
ITEM_ID = "item_id"

_ROWS_IN_MEMORY = 4096  # Of a Parquet file, as columns.


class Broken(str):
    """What stands in the place of a row that could not be read: what is wrong with it, and what to do."""


class RowError(ValueError):
    """A row is no item or no prediction: which kind of fault, and what to do."""

    def __init__(self, kind: FaultKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: FaultKind = kind


def rows_of_file(path: Path, what: str) -> list[tuple[str, Any]]:
    """The rows of a CSV file with a header, of a Parquet file, of a JSON list or of JSON lines, each with where it
    stands; `what` they are, for the error. A row that cannot be read costs no other: `Broken` stands in its place.

    Raises:
        FormatError: the file cannot be read, or holds no list.
    """
    if kind_of_file(path) == ".csv":
        return csv_rows(path)
    if kind_of_file(path) == ".parquet":
        return _parquet_rows(path)
    text = text_of_file(path).strip()
    by_name = kind_of_file(path) == ".jsonl"
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        lines = _lines(path, text) if by_name or text.startswith("{") else []
        if any(isinstance(row, dict) for _, row in lines):
            return lines
        rows = json_of_file(path)  # It says what is wrong.
    if by_name and isinstance(rows, dict):
        rows = [rows]
    if not isinstance(rows, list):
        raise FormatError(
            f"{path}: holds a {type(rows).__name__}, not a list of {what}: give a JSON list, JSON lines, CSV or "
            "Parquet."
        )
    return [(f"{path.name} row {number}", row) for number, row in enumerate(rows, start=1)]


def csv_rows(path: Path) -> list[tuple[str, Any]]:
    """The rows of a CSV file, as `rows_of_file`. Their numbers are the rows' own: a cell may hold line breaks."""
    odd = Broken("has more cells than the header has columns: put cells with commas in quotes.")
    rows = enumerate(csv_of_file(path), start=1)
    return [(f"{path.name} row {number}", odd if MORE in row else row) for number, row in rows]


def _parquet_rows(path: Path) -> list[tuple[str, Any]]:
    from storage.formats.parquet import read_parquet  # Its library is slow to load.

    rows = enumerate(read_parquet(path, _ROWS_IN_MEMORY, bytes_of_file(path)), start=1)
    return [(f"{path.name} row {number}", json.loads(json.dumps(row, default=_as_json))) for number, row in rows]


def _as_json(value: object) -> str | None:
    """What of a Parquet file's cell stands in JSON: dates and such as texts; bytes, as of pictures, do not."""
    return None if isinstance(value, bytes) else str(value)


def _lines(path: Path, text: str) -> list[tuple[str, Any]]:
    lines = enumerate(text.split("\n"), start=1)
    return [(f"{path.name} row {number}", _parsed(line)) for number, line in lines if line.strip()]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Broken(f"is not JSON: {error}. Write one JSON object a line.")


def text_of(row: Mapping[str, Any], *keys: str) -> str:
    """The first text (or whole number) under `keys` that is not blank, as it stands; "" for none."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return ""


def cell(row: Mapping[str, Any], *keys: str) -> str:
    """The first text or number under `keys` that is not blank, without blanks around it; "" for none.

    Raises:
        RowError: there is a list, an object or a truth value, where a text or a number is wanted.
    """
    for key in keys:
        value = row.get(key)
        if isinstance(value, list | dict | bool):
            raise RowError("malformed", f"its {key!r} is no text but {str(value)[:60]!r}: put it in quotes.")
        if value is not None and str(value).strip():
            return str(value).strip()
    return ""


def wanted(row: Mapping[str, Any], kind: FaultKind, *keys: str) -> str:
    """As `cell`, for what a row must have.

    Raises:
        RowError: of that kind, where the row has none of these.
    """
    found = cell(row, *keys)
    if not found:
        others = f" (or {', '.join(keys[1:])})" if keys[1:] else ""
        raise RowError(kind, f"has no {keys[0]!r}{others}: fill it in.")
    return found


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


def content_name(*texts: str) -> str:
    """A name for what has none in its file: of its content, so that it stays when rows are added or moved."""
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()[:12]


class Rows:
    """Rows of files, and the faults in them."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(self, kind: FaultKind, where: str, reason: str) -> None:
        self.faults.append(Fault(kind, where, reason))

    def is_object(self, row: object, where: str) -> TypeGuard[Row]:
        """Whether a row is a JSON object; else it is a fault."""
        if not isinstance(row, dict):
            said = str(row) if isinstance(row, Broken) else f"is a {type(row).__name__}, not a JSON object: {row!r:.60}"
            self.fault("malformed", where, said)
        return isinstance(row, dict)

    def objects(self, rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Row]]:
        """The rows that are JSON objects; others are faults."""
        return ((where, row) for where, row in rows if self.is_object(row, where))


def occurrence(id: str, number: int) -> str:
    """The id of the n-th item, from 0, of those that share one in their files: "x", "x#2", "x#3"."""
    return id if number == 0 else f"{id}#{number + 1}"


class ItemRows(Rows):
    """Items as rows give them. Different questions that share an id are items of their own: "x", "x#2"."""

    def __init__(self) -> None:
        super().__init__()
        self._items: dict[str, Item] = {}

    def lacks(self, where: str, item: Item) -> bool:
        """Whether a row has no question, video or answer: then it is a fault."""
        if not all(question.strip() for question in item.questions):
            self.fault("malformed", where, "has no question (a text that is not blank)")
        elif not item.video:
            self.fault("no video", where, "names no video")
        elif not item.answer.strip():
            self.fault("no answer", where, "has no answer to score against")
        else:
            return False
        return True

    def add(self, where: str, item: Item) -> None:
        """Keeps an item that has all it needs, unless its id is taken."""
        if not self.lacks(where, item):
            self._keep(where, item)

    def read(self, rows: Iterable[tuple[str, Any]], item_of: Callable[[Row], Item]) -> Annotations:
        """The items of rows. What is no JSON object is a fault, and so is that of which `item_of` raises RowError."""
        for where, row in self.objects(rows):
            try:
                self._keep(where, item_of(row))
            except RowError as error:
                self.fault(error.kind, where, str(error))
        return self.annotations

    def _keep(self, where: str, item: Item) -> None:
        for number in count():
            id = occurrence(item.id, number)
            if id not in self._items:
                self._items[id] = replace(item, id=id)
                return
            if _asks(self._items[id]) == _asks(item):
                self.fault("duplicate", where, f"a second row of id {item.id!r}: the first counts")
                return

    @property
    def annotations(self) -> Annotations:
        return Annotations(tuple(self._items.values()), tuple(self.faults))


def _asks(item: Item) -> tuple[object, ...]:
    """What is asked, and what is right: rows that differ in neither are one item."""
    return item.video, item.questions, item.answer, item.options, item.window


class Places:
    """Finds items by what a row says of them, where it names no id: the n-th row of a key is the n-th item of it."""

    def __init__(self, keyed: Iterable[tuple[Hashable, str]]) -> None:
        self._ids: defaultdict[Hashable, list[str]] = defaultdict(list)
        for key, id in keyed:
            self._ids[key].append(id)
        self._seen: defaultdict[Hashable, int] = defaultdict(int)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._ids

    def next(self, key: Hashable) -> str | None:
        """The item of the next row of `key`; the last again where there are more rows than items; None for no item."""
        ids = self._ids.get(key)
        if not ids:
            return None
        number = self._seen[key]
        self._seen[key] += 1
        return ids[min(number, len(ids) - 1)]


class PredictionRows(Rows):
    """Predictions as rows give them. The first of an item that can be read counts."""

    def __init__(self, items: Sequence[Item]) -> None:
        super().__init__()
        self._items = {item.id: item for item in items}
        self._seen: set[str] = set()
        self._rows: defaultdict[str, int] = defaultdict(int)  # of an id that several items share
        self._found: dict[str, Prediction] = {}

    def add(self, where: str, id: str | None, *replies: object) -> None:
        """Keeps the replies to an item; a reply that is no text is a fault."""
        self.read(where, id, lambda _: _of_replies(replies))

    def read(self, where: str, id: str | None, prediction_of: Callable[[Item], Prediction | None]) -> None:
        """Keeps what a row says of the item of that id ("": it names none; None: it is about none), unless there was a
        row before.

        Args:
            where: the row stands.
            id: of its item.
            prediction_of: reads the row; gives None where it says that there is no prediction, raises RowError where
                it is none.
        """
        if id == "":
            self.fault("malformed", where, "names no item: give it the id of its question")
        elif id is None or id not in self._items:
            self.fault("unknown", where, "is about no item of the annotation files" + (f": {id!r}" if id else ""))
        elif id in self._seen:
            self.fault("duplicate", where, f"a second prediction for {id!r}: the first counts")
        else:
            try:
                prediction = prediction_of(self._items[id])
            except RowError as error:
                self.fault(error.kind, where, str(error))
                return
            self._seen.add(id)
            if prediction is not None:
                self._found[id] = prediction

    def of(self, id: str) -> str:
        """The item of the next row that names an id: where several items share it in their files, the n-th."""
        if occurrence(id, 1) not in self._items:
            return id
        self._rows[id] += 1
        number = self._rows[id] - 1
        while occurrence(id, number) not in self._items:  # More rows than items: the last again.
            number -= 1
        return occurrence(id, number)

    @property
    def predictions(self) -> Predictions:
        """All that was found; each item without a prediction is a fault too."""
        missing = [Fault("missing", id, "has no prediction") for id in self._items if id not in self._found]
        return Predictions(dict(self._found), (*self.faults, *missing))


def _of_replies(replies: Sequence[object]) -> Prediction:
    texts = tuple(reply for reply in replies if isinstance(reply, str))
    if len(texts) != len(replies):
        raise RowError("malformed", "has no reply (a text; an empty one counts as a reply)")
    return Prediction(texts)


def predictions_of_files(
    files: Sequence[Path], items: Sequence[Item], prediction_of: Callable[[Row, Item], Prediction]
) -> Predictions:
    """Predictions of our own files, rows that name their item as "id"; all else is a fault, as in the Protocol.

    Raises:
        FormatError: a file cannot be read at all.
    """
    found = PredictionRows(items)
    for path in files:
        for where, row in found.objects(rows_of_file(path, "predictions")):
            found.read(where, found.of(text_of(row, "id").strip()), partial(prediction_of, row))
    return found.predictions
