"""ms-swift (https://github.com/modelscope/ms-swift): JSON lines with `messages`, `rejected_response` and `videos`.

The last message is the preferred answer. A video is a path, or a list of the paths of its frames (the templates of
Qwen's families take both), relative to the folder that ms-swift is started in.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from storage.errors import FormatError
from storage.formats import json_rows
from storage.formats.json_rows import check_keys, text_of
from storage.formats.pairs import Pair, asked, media_of, media_value, question_in

FILE = "train.jsonl"
LOAD = f"""\
Start `swift rlhf --rlhf_type dpo --dataset {FILE}` in this folder: the paths of the frames are relative to it.
"""


def write(folder: Path, pairs: Iterable[Pair]) -> None:
    """Write preferences. Raises FormatError for a pair whose answers are equal, which ms-swift refuses."""
    json_rows.write_rows(folder / FILE, map(_row, pairs))


def read(folder: Path) -> Iterator[Pair]:
    """The preferences that `write` wrote. Raises FormatError for rows of another shape."""
    for number, raw in enumerate(json_rows.read_rows(folder / FILE), start=1):
        yield _pair(raw, f"{folder / FILE} row {number}")


def _row(pair: Pair) -> dict[str, Any]:
    messages = [{"role": "user", "content": asked(pair.question)}, {"role": "assistant", "content": pair.chosen}]
    return {
        "id": pair.id,
        "messages": messages,
        "rejected_response": pair.rejected,
        "videos": [media_value(pair)],
    }


def _pair(raw: Any, where: str) -> Pair:
    raw = check_keys(raw, ("id", "messages", "rejected_response", "videos"), where)
    messages, videos = raw.get("messages"), raw.get("videos")
    if not isinstance(messages, list) or [turn.get("role") for turn in messages] != ["user", "assistant"]:
        raise FormatError(f"{where}: messages must be a user's and an assistant's, not {messages!r}.")
    if not isinstance(videos, list) or len(videos) != 1:
        raise FormatError(f"{where}: videos must name one video, not {videos!r}.")
    question, chosen = (text_of(turn, "content", where) for turn in messages)
    identity, rejected = text_of(raw, "id", where), text_of(raw, "rejected_response", where)
    if identity is None or question is None or chosen is None or rejected is None:
        raise FormatError(f"{where}: a preference has an id, a question, an answer and a rejected_response.")
    return Pair(identity, question_in(question, where), chosen, rejected, media_of(videos[0], where))
