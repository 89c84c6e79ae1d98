"""Rows of annotation and prediction files: what can be read is kept, what cannot is a fault, nothing goes unseen."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from benchmarks.files import json_of_file, text_of_file
from benchmarks.items import Annotations, Fault, FaultKind, Item, Prediction, Predictions
from storage.errors import FormatError


class BrokenLine(str):
    """A line of a file of JSON lines that is not JSON."""


def rows_of_file(path: Path, what: str) -> list[tuple[str, Any]]:
    """The rows of a JSON list or of JSON lines, each with where it stands; `what` they are, for the error.

    Of JSON lines, one that is broken costs no other: it is a row of its own, a `BrokenLine`.

    Raises:
        FormatError: the file cannot be read, or holds no list.
    """
    rows = _lines(path) or json_of_file(path)
    if not isinstance(rows, list):
        raise FormatError(f"{path}: holds a {type(rows).__name__}, not a list of {what}: give a list, or JSON lines.")
    return [(f"{path.name} row {number}", row) for number, row in enumerate(rows, start=1)]


def _lines(path: Path) -> list[Any]:
    """The rows of JSON lines; none for another file. One line alone may be either: the file's name says."""
    lines = [line for line in text_of_file(path).split("\n") if line.strip()]
    if not all(line.lstrip().startswith("{") for line in lines) or (len(lines) == 1 and ".jsonl" not in path.name):
        return []
    rows = [_parsed(line) for line in lines]
    return rows if any(isinstance(row, dict) for row in rows) else []


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return BrokenLine(line)


def text_of(row: Mapping[str, Any], *keys: str) -> str:
    """The first text (or whole number) under `keys` that is not blank, as a text; "" for none."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return ""


class Rows:
    """Rows of files, and the faults in them."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(self, kind: FaultKind, where: str, reason: str) -> None:
        self.faults.append(Fault(kind, where, reason))

    def is_object(self, row: object, where: str) -> TypeGuard[dict[str, Any]]:
        """Whether a row is a JSON object; else it is a fault."""
        if not isinstance(row, dict):
            said = "is not JSON" if isinstance(row, BrokenLine) else f"is a {type(row).__name__}, not a JSON object"
            self.fault("malformed", where, said)
        return isinstance(row, dict)

    def objects(self, rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows that are JSON objects; others are faults."""
        return ((where, row) for where, row in rows if self.is_object(row, where))


class ItemRows(Rows):
    """Items as rows give them. The first of an id counts."""

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
        if self.lacks(where, item):
            return
        if item.id in self._items:
            self.fault("duplicate", where, f"a second row of id {item.id!r}: the first counts")
            return
        self._items[item.id] = item

    @property
    def annotations(self) -> Annotations:
        return Annotations(tuple(self._items.values()), tuple(self.faults))


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
    """Predictions as rows give them. The first of an item counts."""

    def __init__(self, items: Sequence[Item]) -> None:
        super().__init__()
        self._items = {item.id: item for item in items}
        self._found: dict[str, Prediction] = {}

    def add(self, where: str, id: str | None, *replies: object) -> None:
        """Keeps the replies to an item; a reply that is no text is a fault, and so is a second row of an item."""
        texts = tuple(reply for reply in replies if isinstance(reply, str))
        if id is None or id not in self._items:
            self.fault("unknown", where, "is about no item of the annotation files" + (f": {id!r}" if id else ""))
        elif len(texts) != len(replies):
            self.fault("malformed", where, "has no reply (a text; an empty one counts as a reply)")
        elif id in self._found:
            self.fault("duplicate", where, f"a second prediction for {id!r}: the first counts")
        else:
            self._found[id] = Prediction(texts)

    @property
    def predictions(self) -> Predictions:
        """All that was found; each item without a prediction is a fault too."""
        missing = [Fault("missing", id, "has no prediction") for id in self._items if id not in self._found]
        return Predictions(dict(self._found), (*self.faults, *missing))
