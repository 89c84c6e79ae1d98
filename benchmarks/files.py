"""Annotation and prediction files: JSON lists or trees, JSON lines or CSV, gzipped, zipped or plain."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from storage.errors import FormatError
from storage.formats import json_rows

MORE = "\0"  # In a row of a CSV file: the cells for which the header has no column.


def one_file(name: str, files: Mapping[str, Path], *others: str) -> Path:
    """The file that benchmark `name` cannot do without, given under "" or under any name but those of `others`.

    Raises:
        FormatError: there is none, or several.
    """
    left = {key: path for key, path in files.items() if key not in others}
    if len(left) != 1:
        raise FormatError(f"{name}: wants one annotation file or folder; given: {', '.join(map(str, left.values()))}.")
    return next(iter(left.values()))


def kind_of_file(path: Path) -> str:
    """The ending of a file's name that says what it holds, lower case: of "a.csv.gz" it is ".csv"."""
    inner = path.with_suffix("") if path.suffix.lower() in {".gz", ".zip"} else path
    return inner.suffix.lower()


def text_of_file(path: Path) -> str:
    """The text of a file, unpacked where it is gzipped or a zip archive of one file.

    Raises:
        FormatError: it cannot be read, is damaged, holds several files, or is not UTF-8.
    """
    try:
        packed = path.read_bytes()
        if packed[:2] == b"\x1f\x8b":
            packed = gzip.decompress(packed)
        elif packed[:4] == b"PK\x03\x04":
            packed = _one_file(path, packed)
        return packed.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{path}: cannot be read: {error}. Give a text file (UTF-8), or one in .gz or .zip."
        ) from error


def _one_file(path: Path, packed: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
        if len(names) != 1:
            raise FormatError(f"{path}: holds {len(names)} files ({', '.join(names[:5])}): unpack it and name one.")
        return archive.read(names[0])


def json_of_file(path: Path) -> Any:
    """The JSON value of a file; of JSON lines, a list.

    Raises:
        FormatError: as `text_of_file`; or it is not JSON: the text says where, and names a comma too many.
    """
    return _json(path, text_of_file(path).strip())


def json_pairs_of_file(path: Path) -> list[tuple[str, Any]]:
    """The keys and values of a file of one JSON object, in order, repeated keys too.

    Raises:
        FormatError: as `json_of_file`; or the file holds something else.
    """
    value = json_of_file(path)
    if not isinstance(value, dict):
        raise FormatError(f"{path}: holds a {type(value).__name__}, not one JSON object of values by name.")
    pairs: list[tuple[str, Any]] = []
    # The outermost object ends last: what the hook sees then are the file's own keys.
    json.loads(text_of_file(path), object_pairs_hook=lambda found: pairs.__setitem__(slice(None), found) or dict(found))
    return pairs


def json_files(path: Path) -> dict[str, Any]:
    """The JSON values of a folder, of a zip archive or of one file, by the files' names without endings, sorted.

    Raises:
        FormatError: as `json_of_file`, for any of them; or there is none.
    """
    if path.is_dir():
        paths = sorted(each for each in path.iterdir() if each.name.endswith((".json", ".json.gz", ".json.zip")))
        found = {each.name.split(".")[0]: json_of_file(each) for each in paths}
    elif zipfile.is_zipfile(path):
        found = _json_archive(path)
    else:
        found = {path.name.split(".")[0]: json_of_file(path)}
    if not found:
        raise FormatError(f"{path}: holds no .json file.")
    return found


def _json_archive(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__MACOSX")]
            texts = {Path(name): archive.read(name).decode("utf-8-sig") for name in sorted(names)}
    except (OSError, EOFError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise FormatError(f"{path}: cannot be read: {error}. Unpack it and name the folder.") from error
    return {name.stem: _json(path / name, text.strip()) for name, text in texts.items()}


def _json(path: Path, text: str) -> Any:
    if not text:
        raise FormatError(f"{path}: is empty.")
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines):
            return [_line(path, number, line) for number, line in enumerate(lines, start=1)]
        raise FormatError(f"{path}: not JSON: {error}.{_hint(text, error)}") from error


def _hint(text: str, error: Exception) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return ""
    before = text[: error.pos].rstrip()
    if before.endswith(",") and text[error.pos : error.pos + 1] in "]}":
        line = text.count("\n", 0, len(before)) + 1
        return f" There is a comma before a closing bracket at line {line}: take it out."
    return " A file is one JSON value, or one JSON object a line."


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{path} row {number}: not JSON: {error}.") from error


def csv_of_file(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header. A cell that is not there is ""; a list of those too many is under `MORE`.

    Raises:
        FormatError: as `text_of_file`; or it has no header.
    """
    reader = csv.DictReader(io.StringIO(text_of_file(path), newline=""), restkey=MORE, restval="")
    if not reader.fieldnames:
        raise FormatError(f"{path}: is empty; its first line must name the columns.")
    return list(reader)


def write_json(path: Path, value: Any) -> list[Path]:
    """Writes one JSON value, whole or not at all, in a folder that is made where it is missing; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, path)
    return [path]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> list[Path]:
    """Writes rows as `storage.formats.json_rows` does, likewise; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    json_rows.write_rows(path, rows)
    return [path]
