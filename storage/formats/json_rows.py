"""Files of JSON rows, one list or one row a line: read whole, written whole or not at all."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storage.errors import FormatError


def read_rows(path: Path) -> list[Any]:
    """The rows of a JSON list, or of JSON lines; which of both it is, its first character says.

    Raises FormatError for a file that cannot be read, is not JSON, or holds no row.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read as a UTF-8 text file: {error}.") from error
    # Not splitlines, which also cuts at characters that JSON allows inside a string.
    lines = [line for line in text.split("\n") if line.strip()]
    rows = (
        _decode(text, str(path))
        if text.startswith("[")
        else [_decode(line, f"{path} row {number}") for number, line in enumerate(lines, start=1)]
    )
    if not rows:
        raise FormatError(f"{path}: is empty; write one JSON list of rows, or one row a line.")
    return list(rows)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines where the name ends in .jsonl, else as one list. Keys without a value are left out.

    Raises FormatError for a text that cannot be written as UTF-8 (half of a surrogate pair).
    """
    lines = path.suffix == ".jsonl"
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write("" if lines else "[\n")
            for number, row in enumerate(rows):
                file.write(("" if lines else ",\n") if number else "")
                file.write(
                    json.dumps({key: value for key, value in row.items() if value is not None}, ensure_ascii=False)
                )
                file.write("\n" if lines else "")
            file.write("" if lines else "\n]\n")
        os.replace(temporary, path)
    except UnicodeEncodeError as error:
        raise FormatError(f"{path}: a text holds half of a surrogate pair, which cannot be stored: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def text_of(raw: dict[str, Any], key: str, where: str, *, empty: bool = False) -> str | None:
    """The text under `key`, None where there is none. Raises FormatError for no text and, unless `empty`, a blank."""
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not (empty or value.strip()):
        raise FormatError(f"{where}: {key} must be a text, not {value!r}.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise FormatError(f"{where}: {key} holds half of a surrogate pair, which cannot be stored; correct it.")
    return value


def check_keys(raw: Any, known: Iterable[str], where: str, hint: str = "") -> dict[str, Any]:
    """`raw` as an object whose keys are all known. Raises FormatError that names the others and the known."""
    known = list(known)
    if not isinstance(raw, dict):
        raise FormatError(f"{where}: is a {type(raw).__name__}, not a JSON object; {known_keys(known)}.")
    unknown = [key for key in raw if key not in known]
    if unknown:
        raise FormatError(f"{where}: unknown key {', '.join(unknown)}; {known_keys(known)}.{hint}")
    return raw


def known_keys(keys: Iterable[str]) -> str:
    """For the end of an error: which keys there are."""
    return f"known keys are {', '.join(keys)}"


def _decode(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{where}: not JSON: {error}. A file is one JSON list, or one JSON row a line.") from error
