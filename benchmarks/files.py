"""Annotation and prediction files: JSON lists or trees, JSON lines, CSV or Parquet, gzipped, zipped or plain."""

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
    """The ending of the name that says what a file holds, lower case: ".csv" of "a.csv.gz", and of "a.zip" with nothing
    but "b.csv" in it.
    """
    inner = path.with_suffix("") if path.suffix.lower() in {".gz", ".zip"} else path
    if path.suffix.lower() == ".zip":
        inner = next((name for name in [_only_name(path)] if name.suffix), inner)
    return inner.suffix.lower()


def _only_name(path: Path) -> Path:
    """The name of the one file in a zip archive; none of an archive that is broken or holds others: reading says so."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = _names(archive)
    except (OSError, zipfile.BadZipFile):
        return Path()
    return Path(names[0]) if len(names) == 1 else Path()


def bytes_of_file(path: Path) -> bytes:
    """What a file holds, unpacked where it is gzipped or a zip archive of one file.

    Raises:
        FormatError: it cannot be read, is damaged, or holds several files.
    """
    try:
        packed = path.read_bytes()
        if packed[:2] == b"\x1f\x8b":
            return gzip.decompress(packed)
        return _one_file(path, packed) if packed[:4] == b"PK\x03\x04" else packed
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path}: cannot be read: {error}. Give a plain file, or one in .gz or .zip.") from error


def text_of_file(path: Path) -> str:
    """The text of a file, unpacked likewise.

    Raises:
        FormatError: as `bytes_of_file`; or it is not UTF-8.
    """
    try:
        return bytes_of_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}: cannot be read: {error}. Give a text file (UTF-8), or one in .gz or .zip."
        ) from error


def _one_file(path: Path, packed: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = _names(archive)
        if len(names) != 1:
            raise FormatError(f"{path}: holds {len(names)} files ({', '.join(names[:5])}): unpack it and name one.")
        return archive.read(names[0])


def _names(archive: zipfile.ZipFile) -> list[str]:
    """The files of an archive, without folders and what macOS adds."""
    return [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]


def json_of_file(path: Path) -> Any:
    """The JSON value of a file; of JSON lines, a list.

    Raises:
        FormatError: as `text_of_file`; or it is not JSON: the text says where, and names a comma too many.
    """
    return _json(path, text_of_file(path).strip())


class Pairs(list[tuple[str, Any]]):
    """A JSON object: its keys and values in order, repeated keys too."""


def json_pairs_of_file(path: Path) -> Pairs:
    """A file of one JSON object; it and all objects in it are `Pairs`.

    Raises:
        FormatError: as `json_of_file`; or the file holds something else.
    """
    value = _json(path, text_of_file(path).strip(), Pairs)
    if not isinstance(value, Pairs):
        raise FormatError(f"{path}: holds a {type(value).__name__}, not one JSON object of values by name.")
    return value


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


def _json(path: Path, text: str, objects: type[Pairs] | None = None) -> Any:
    """The value of a text; its objects are dictionaries, or what `objects` makes of their pairs."""
    if not text:
        raise FormatError(f"{path}: is empty.")
    try:
        return json.loads(text, object_pairs_hook=objects)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
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
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        raise FormatError(f"{path} row {number}: not JSON: {error}.") from error


def csv_of_file(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header. A cell that is not there is ""; a list of those too many is under `MORE`.

    Raises:
        FormatError: as `text_of_file`; or it is no CSV, has no header, or two columns of one name.
    """
    reader = csv.DictReader(io.StringIO(text_of_file(path), newline=""), restkey=MORE, restval="")
    try:
        names = [name for name in reader.fieldnames or () if name.strip()]
        rows = list(reader)
    except csv.Error as error:
        raise FormatError(f"{path}: cannot be read as CSV after line {reader.line_num}: {error}.") from error
    if not names:
        raise FormatError(f"{path}: is empty; its first line must name the columns.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FormatError(f"{path}: has several columns {', '.join(twice)}: leave one of each name.")
    return rows


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
