"""Instruction files in the row format of VLM-RLAIF (https://github.com/snumprlab/vlm-rlaif), JSON list or JSON lines.

A row: {"id", "src_data", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}], "images": [...]};
here also "video" (an mp4 file) in place of "images", and "kind" (of question). "uid", a row number that the official
trainer wants, may be there and is not kept.
"""

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from storage.errors import FormatError

_ROW_KEYS = ["id", "src_data", "conversations", "images", "image", "video", "uid", "kind"]
_TURN_KEYS = ["from", "role", "value"]
_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "llm": "gpt"}
_PLACEHOLDER = re.compile(r"<(?:image|video)>")
_NOTICES = {
    "role": "rows name a turn's speaker 'role' instead of 'from': read as the same",
    "images": "rows name frame images: the folder of the frames is taken as the video",
}


@dataclass(frozen=True)
class Instruction:
    """A question about a video; `video` is a path relative to the data folder (of a file, or a folder of frames)."""

    id: str
    video: str
    question: str
    answer: str | None = None
    kind: str | None = None
    source: str | None = None


def read_instructions(path: Path) -> tuple[list[Instruction], list[str]]:
    """Return the instructions of a file in its order, and notices about what was read otherwise than it stands there.

    Raises FormatError that names the file, the row (counted from 1), the fault and the known keys.
    """
    rows: list[Instruction] = []
    rows_by_id: dict[str, int] = {}
    oddities: Counter[str] = Counter()
    for number, raw in enumerate(_load(path), start=1):
        row = _parse(raw, f"{path} row {number}", oddities)
        if row.id in rows_by_id:
            first = rows_by_id[row.id]
            raise FormatError(f"{path} row {number} (id {row.id!r}): row {first} has this id too; make ids unique.")
        rows_by_id[row.id] = number
        rows.append(row)
    return rows, [f"{path}: {count} {_NOTICES[oddity]}." for oddity, count in sorted(oddities.items()) if count]


def write_instructions(path: Path, rows: list[Instruction]) -> None:
    """Write instructions so that `read_instructions` returns equal ones; JSON lines where the name ends in .jsonl.

    Raises FormatError for no rows, an id used twice, or a row that would not come back as it is (a text that is empty,
    begins or ends with white space, or holds <image> or <video>).
    """
    if not rows:
        raise FormatError(f"{path}: there are no instructions to write.")
    repeated = [identity for identity, count in Counter(row.id for row in rows).items() if count > 1]
    if repeated:
        raise FormatError(f"{path}: the ids {repeated[:3]} are used more than once; make ids unique.")
    raws = [_unparse(row) for row in rows]
    for number, (row, raw) in enumerate(zip(rows, raws, strict=True), start=1):
        if _parse(raw, f"{path} row {number}", Counter()) != row:
            raise FormatError(
                f"{path} row {number} (id {row.id!r}): would be read back otherwise. Its texts must not be empty, "
                "begin or end with white space, or hold <image> or <video>."
            )
    lines = [json.dumps(raw, ensure_ascii=False) for raw in raws]
    text = "\n".join(lines) if path.suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]"
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text + "\n", encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def _load(path: Path) -> list[Any]:
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
        raise FormatError(f"{path}: is empty; write one JSON list of instruction rows, or one row a line.")
    return list(rows)


def _decode(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{where}: not JSON: {error}. A file is one JSON list, or one JSON row a line.") from error


def _parse(raw: Any, where: str, oddities: Counter[str]) -> Instruction:
    if not isinstance(raw, dict):
        raise FormatError(f"{where}: is a {type(raw).__name__}, not a JSON object; {_known(_ROW_KEYS)}.")
    if "id" in raw:
        where = f"{where} (id {raw['id']!r})"
    unknown = [key for key in raw if key not in _ROW_KEYS]
    if unknown:
        hint = " This is a row for a reward model." if {"output_1", "output_2"} <= set(raw) else ""
        raise FormatError(f"{where}: unknown key {', '.join(unknown)}; {_known(_ROW_KEYS)}.{hint}")
    identity = str(raw["id"]) if type(raw.get("id")) is int else _text(raw, "id", where)
    if identity is None:
        raise FormatError(f"{where}: has no id; {_known(_ROW_KEYS)}.")
    video = _video(raw, where, oddities)
    question, answer = _question_and_answer(raw, where, oddities)
    return Instruction(identity, video, question, answer, _text(raw, "kind", where), _text(raw, "src_data", where))


def _video(raw: dict[str, Any], where: str, oddities: Counter[str]) -> str:
    given = [key for key in ("video", "images", "image") if raw.get(key)]
    if len(given) != 1:
        found = "no video" if not given else f"both {' and '.join(given)}"
        raise FormatError(f"{where}: names {found}; give one of video, images and image; {_known(_ROW_KEYS)}.")
    video = _text(raw, "video", where)
    if video is not None:
        return video
    frames = raw[given[0]]
    frames = frames if isinstance(frames, list) else [frames]
    if not all(isinstance(frame, str) for frame in frames):
        raise FormatError(f"{where}: {given[0]} must hold paths of frame images.")
    folders = {PurePosixPath(frame).parent.as_posix() for frame in frames}
    if len(folders) != 1 or folders == {"."}:
        raise FormatError(
            f"{where}: the frames must lie in one folder, which names the video; found {sorted(folders)}."
        )
    oddities["images"] += 1
    return _text({"video": folders.pop()}, "video", where) or ""


def _question_and_answer(raw: dict[str, Any], where: str, oddities: Counter[str]) -> tuple[str, str | None]:
    turns = raw.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise FormatError(f"{where}: conversations must be a list of turns; {_known(_TURN_KEYS)}.")
    oddities["role"] += any("role" in turn for turn in turns)
    said = [_turn(turn, where) for turn in turns]
    speakers = [speaker for speaker, _ in said]
    if "human" not in speakers:
        raise FormatError(f"{where}: has no human turn; {_known(_TURN_KEYS)}.")
    if speakers not in (["human"], ["human", "gpt"]):
        raise FormatError(f"{where}: turns are {speakers}; make it one row a question: a human turn, then a gpt turn.")
    texts = [text for _, text in said]
    if not texts[0]:
        raise FormatError(f"{where}: the human turn asks nothing; write the question in its value.")
    return texts[0], (texts[1] or None) if len(texts) > 1 else None


def _turn(turn: dict[str, Any], where: str) -> tuple[str, str]:
    unknown = [key for key in turn if key not in _TURN_KEYS]
    if unknown:
        raise FormatError(f"{where}: unknown key {', '.join(unknown)} in a turn; {_known(_TURN_KEYS)}.")
    if ("from" in turn) == ("role" in turn):
        raise FormatError(f"{where}: a turn must name its speaker once; {_known(_TURN_KEYS)}.")
    speaker = _SPEAKERS.get(str(turn.get("from", turn.get("role"))))
    if speaker is None:
        raise FormatError(f"{where}: unknown speaker in {turn}; known are {', '.join(_SPEAKERS)}.")
    return speaker, _PLACEHOLDER.sub("", _text(turn, "value", where, empty=True) or "").strip()


def _text(raw: dict[str, Any], key: str, where: str, empty: bool = False) -> str | None:
    """The text under `key`, None where there is none."""
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not (empty or value.strip()):
        raise FormatError(f"{where}: {key} must be a text, not {value!r}.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise FormatError(f"{where}: {key} holds half of a surrogate pair, which cannot be stored; correct it.")
    return value


def _unparse(row: Instruction) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<video>\n{row.question}"}]
    if row.answer is not None:
        turns.append({"from": "gpt", "value": row.answer})
    raw = {"id": row.id, "src_data": row.source, "video": row.video, "kind": row.kind, "conversations": turns}
    return {key: value for key, value in raw.items() if value is not None}


def _known(keys: list[str]) -> str:
    return f"known keys are {', '.join(keys)}"
