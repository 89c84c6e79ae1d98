"""The rows of VLM-RLAIF's official files (https://github.com/yonseivnl/vlm-rlaif), kept as they stand.

SFT_short, SFT_long and PPO_init: {"id", "src_data", "conversations": [{"from": "human", "value"}, ...], "images":
[...]}, in as many turns as there are. RL rows have a "uid" (a row number that the official trainer wants) besides. RM
rows have "output_1", "output_2" ({"value": text}) and "preference" (1 or 2: the better one). The data's own README
writes "role" where its code wants "from". Here also "video" (a file) in place of "images", and "kind" (of question).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from storage.errors import FormatError
from storage.formats import json_rows
from storage.formats.json_rows import check_keys, known_keys, text_of

ROW_KEYS = ("id", "src_data", "conversations", "images", "image", "video", "uid", "kind")
RM_KEYS = ("output_1", "output_2", "preference")
TURN_KEYS = ("from", "role", "value")
SPEAKERS: dict[str, Literal["human", "gpt"]] = {
    "human": "human",
    "user": "human",
    "gpt": "gpt",
    "assistant": "gpt",
    "llm": "gpt",
}


@dataclass(frozen=True)
class Turn:
    """What is said once. `name` and `key` ("from" or "role") are how the file names who says it; an output may not."""

    value: str
    name: str | None = None
    key: Literal["from", "role"] = "from"

    @property
    def speaker(self) -> Literal["human", "gpt"] | None:
        """Who says it, whatever the file calls them."""
        return None if self.name is None else SPEAKERS[self.name]


@dataclass(frozen=True)
class OfficialRow:
    """A row of any of the five files. Texts stand as in the file, <image> included; a null is as good as no key."""

    id: str | int
    conversations: tuple[Turn, ...]
    images: tuple[str, ...] | None = None
    image: str | None = None
    video: str | None = None
    src_data: str | None = None
    uid: int | None = None
    kind: str | None = None
    output_1: Turn | None = None
    output_2: Turn | None = None
    preference: Literal[1, 2] | None = None


def read_official(path: Path) -> list[OfficialRow]:
    """The rows of a file, in its order. Raises FormatError that names file, row (counted from 1) and fault."""
    return [
        parse(raw, f"{path} row {number}", (*ROW_KEYS, *RM_KEYS))
        for number, raw in enumerate(json_rows.read_rows(path), start=1)
    ]


def write_official(path: Path, rows: Iterable[OfficialRow]) -> None:
    """Write rows so that `read_official` returns equal ones; JSON lines where the name ends in .jsonl."""
    json_rows.write_rows(path, map(unparse, rows))


def parse(raw: Any, where: str, keys: tuple[str, ...] = ROW_KEYS) -> OfficialRow:
    """One row from its JSON value. Raises FormatError that begins with `where`."""
    if isinstance(raw, dict) and "id" in raw:
        where = f"{where} (id {raw['id']!r})"
    hint = " This is a row for a reward model." if isinstance(raw, dict) and set(RM_KEYS[:2]) <= set(raw) else ""
    raw = check_keys(raw, keys, where, hint)
    identity = raw["id"] if type(raw.get("id")) is int else text_of(raw, "id", where)
    if identity is None:
        raise FormatError(f"{where}: has no id; {known_keys(keys)}.")
    turns = raw.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise FormatError(f"{where}: conversations must be a list of turns; {known_keys(TURN_KEYS)}.")
    given = [key for key in ("video", "images", "image") if raw.get(key)]
    if len(given) != 1:
        found = "no video" if not given else f"both {' and '.join(given)}"
        raise FormatError(f"{where}: names {found}; give one of video, images and image; {known_keys(keys)}.")
    return OfficialRow(
        identity,
        tuple(_turn(turn, f"{where} turn {number}") for number, turn in enumerate(turns, start=1)),
        _images(raw, where),
        text_of(raw, "image", where),
        text_of(raw, "video", where),
        text_of(raw, "src_data", where),
        _whole_number(raw, "uid", where),
        text_of(raw, "kind", where),
        _output(raw, "output_1", where),
        _output(raw, "output_2", where),
        _preference(raw, where),
    )


def unparse(row: OfficialRow) -> dict[str, Any]:
    """The row's JSON value."""
    outputs = {key: None if turn is None else _said(turn) for key, turn in _outputs(row)}
    return {
        "id": row.id,
        "src_data": row.src_data,
        "uid": row.uid,
        "video": row.video,
        "images": None if row.images is None else list(row.images),
        "image": row.image,
        "kind": row.kind,
        "conversations": [_said(turn) for turn in row.conversations],
        **outputs,
        "preference": row.preference,
    }


def _outputs(row: OfficialRow) -> list[tuple[str, Turn | None]]:
    return [("output_1", row.output_1), ("output_2", row.output_2)]


def _said(turn: Turn) -> dict[str, str]:
    return {**({} if turn.name is None else {turn.key: turn.name}), "value": turn.value}


def _turn(raw: Any, where: str, *, named: bool = True) -> Turn:
    raw = check_keys(raw, TURN_KEYS, where)
    keys: list[Literal["from", "role"]] = [key for key in ("from", "role") if key in raw]  # type: ignore[misc]
    if len(keys) > 1 or (named and not keys):
        raise FormatError(f"{where}: a turn must name its speaker once; {known_keys(TURN_KEYS)}.")
    if not keys:
        return Turn(_value(raw, where))
    name = str(raw[keys[0]])
    if name not in SPEAKERS:
        raise FormatError(f"{where}: unknown speaker in {raw}; known are {', '.join(SPEAKERS)}.")
    return Turn(_value(raw, where), name, keys[0])


def _output(raw: dict[str, Any], key: str, where: str) -> Turn | None:
    return None if raw.get(key) is None else _turn(raw[key], f"{where} {key}", named=False)


def _value(turn: dict[str, Any], where: str) -> str:
    value = text_of(turn, "value", where, empty=True)
    if value is None:
        raise FormatError(f"{where}: a turn has no value; {known_keys(TURN_KEYS)}.")
    return value


def _images(raw: dict[str, Any], where: str) -> tuple[str, ...] | None:
    images = raw.get("images")
    if images is None:
        return None
    if not isinstance(images, list):
        raise FormatError(f"{where}: images must be a list of paths of frame images, not {images!r}.")
    for image in images:
        if not isinstance(image, str):
            raise FormatError(f"{where}: images must hold paths of frame images, not {image!r}.")
        text_of({"images": image}, "images", where)
    return tuple(images)


def _whole_number(raw: dict[str, Any], key: str, where: str) -> int | None:
    value = raw.get(key)
    if value is not None and type(value) is not int:
        raise FormatError(f"{where}: {key} must be a whole number, not {value!r}.")
    return value


def _preference(raw: dict[str, Any], where: str) -> Literal[1, 2] | None:
    value = raw.get("preference")
    if value is not None and (type(value) is not int or value not in (1, 2)):
        raise FormatError(f"{where}: preference must be 1 or 2 (the better output), not {value!r}.")
    return None if value is None else 1 if value == 1 else 2
