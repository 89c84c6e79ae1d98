"""LLaMA-Factory (https://github.com/hiyouga/LLaMA-Factory): rows in the shape of its demo files, and preferences.

A row: {"messages": [{"role": "user", "content": "<video>..."}, ...], "videos": [...]}, also with "images" and "audios",
one <video>, <image> or <audio> in the texts for each. Preferences end with a user's turn and have "chosen" and
"rejected" messages; dataset_info.json says so (`ranking`). A video is a path, or a list of the paths of its frames.
Paths are relative to the folder of dataset_info.json (`media_dir`).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import FormatError
from storage.formats import json_rows
from storage.formats.json_rows import check_keys, known_keys
from storage.formats.pairs import Pair, asked, media_of, question_in

FILE = "train.json"
NAME = "rlaif_preferences"  # In dataset_info.json.
INFO = {
    NAME: {
        "file_name": FILE,
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected", "videos": "videos"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
}
LOAD = f"""\
Start `llamafactory-cli train` with `dataset_dir: <this folder>`, `media_dir: <this folder>`, `dataset: {NAME}` and
`stage: dpo` (or `rm`). `dataset_info.json` names the columns.
"""
_KEYS = ("id", "messages", "videos", "images", "audios", "chosen", "rejected")
_ROLES = ("system", "user", "assistant", "function_call", "observation")

Media = tuple[str | tuple[str, ...], ...]


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: str
    content: str


@dataclass(frozen=True)
class FactoryRow:
    """A row as it stands in a file. None where it has no such key."""

    messages: tuple[Message, ...]
    videos: Media | None = None
    images: Media | None = None
    audios: Media | None = None
    chosen: Message | None = None
    rejected: Message | None = None
    id: str | None = None


def read_rows(path: Path) -> list[FactoryRow]:
    """The rows of a file. Raises FormatError that names file, row (counted from 1) and fault."""
    return [_parse(raw, f"{path} row {number}") for number, raw in enumerate(json_rows.read_rows(path), start=1)]


def write_rows(path: Path, rows: Iterable[FactoryRow]) -> None:
    """Write rows so that `read_rows` returns equal ones."""
    json_rows.write_rows(path, map(_unparse, rows))


def write(folder: Path, pairs: Iterable[Pair]) -> None:
    """Write preferences and their dataset_info.json."""
    write_rows(folder / FILE, (_row(pair) for pair in pairs))
    (folder / "dataset_info.json").write_text(json.dumps(INFO, indent=2) + "\n")


def read(folder: Path) -> Iterator[Pair]:
    """The preferences that `write` wrote. Raises FormatError for rows of another shape."""
    for number, row in enumerate(read_rows(folder / FILE), start=1):
        yield _pair(row, f"{folder / FILE} row {number}")


def _row(pair: Pair) -> FactoryRow:
    return FactoryRow(
        (Message("user", asked(pair.question)),),
        videos=(pair.media,),
        chosen=Message("assistant", pair.chosen),
        rejected=Message("assistant", pair.rejected),
        id=pair.id,
    )


def _pair(row: FactoryRow, where: str) -> Pair:
    if row.id is None or row.chosen is None or row.rejected is None:
        raise FormatError(f"{where}: a preference has an id, a chosen and a rejected message.")
    if [message.role for message in row.messages] != ["user"] or row.videos is None or len(row.videos) != 1:
        raise FormatError(f"{where}: a preference has one user's message and one video.")
    question = question_in(row.messages[0].content, where)
    return Pair(row.id, question, row.chosen.content, row.rejected.content, row.videos[0])


def _parse(raw: Any, where: str) -> FactoryRow:
    raw = check_keys(raw, _KEYS, where)
    messages = raw.get("messages")
    if not isinstance(messages, list) or not messages:
        raise FormatError(f"{where}: messages must be a list of messages; {known_keys(_KEYS)}.")
    return FactoryRow(
        tuple(_message(message, f"{where} message {number}") for number, message in enumerate(messages, start=1)),
        videos=_media(raw, "videos", where),
        images=_media(raw, "images", where),
        audios=_media(raw, "audios", where),
        chosen=None if raw.get("chosen") is None else _message(raw["chosen"], f"{where} chosen"),
        rejected=None if raw.get("rejected") is None else _message(raw["rejected"], f"{where} rejected"),
        id=json_rows.text_of(raw, "id", where),
    )


def _message(raw: Any, where: str) -> Message:
    raw = check_keys(raw, ("role", "content"), where)
    content = json_rows.text_of(raw, "content", where, empty=True)
    if raw.get("role") not in _ROLES or content is None:
        raise FormatError(f"{where}: has a role ({', '.join(_ROLES)}) and a content, not {raw!r}.")
    return Message(raw["role"], content)


def _media(raw: dict[str, Any], key: str, where: str) -> Media | None:
    if raw.get(key) is None:
        return None
    if not isinstance(raw[key], list):
        raise FormatError(f"{where}: {key} must be a list, not {raw[key]!r}.")
    return tuple(media_of(each, f"{where} {key}") for each in raw[key])


def _unparse(row: FactoryRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "messages": [vars(message) for message in row.messages],
        "chosen": None if row.chosen is None else vars(row.chosen),
        "rejected": None if row.rejected is None else vars(row.rejected),
        "images": _values(row.images),
        "videos": _values(row.videos),
        "audios": _values(row.audios),
    }


def _values(media: Media | None) -> list[Any] | None:
    return None if media is None else [each if isinstance(each, str) else list(each) for each in media]
