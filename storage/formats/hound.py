"""LLaVA-Hound's preferences (https://github.com/RifleZhang/LLaVA-Hound-DPO), one a line of JSON.

{"id", "video", "prompt", "chosen", "rejected"}, in its published data also "answer" (a reference), "chosen_score" and
"rejected_score" (1 to 5, from a judge). `video` is a folder of frames or a file below the folder of videos.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.errors import FormatError
from storage.formats import json_rows
from storage.formats.json_rows import check_keys, known_keys, text_of
from storage.formats.pairs import Pair, folder_of

FILE = "train.jsonl"
LOAD = f"""\
Give LLaVA-Hound's DPO script `--data_path <this folder>/{FILE} --video_folder <this folder>`: `video` is the folder of
a video's frames below it. There is no `chosen_score` and `rejected_score`: the judge's p(A) stands in rows.parquet.
"""
KEYS = ("id", "video", "prompt", "answer", "chosen", "rejected", "chosen_score", "rejected_score")


@dataclass(frozen=True)
class HoundRow:
    """A preference as it stands in a file."""

    id: str
    video: str
    prompt: str
    chosen: str
    rejected: str
    answer: str | None = None
    chosen_score: float | None = None
    rejected_score: float | None = None


def read_hound(path: Path) -> list[HoundRow]:
    """The rows of a file, in its order. Raises FormatError that names file, row (counted from 1) and fault."""
    return [_parse(raw, f"{path} row {number}") for number, raw in enumerate(json_rows.read_rows(path), start=1)]


def write_hound(path: Path, rows: Iterable[HoundRow]) -> None:
    """Write rows so that `read_hound` returns equal ones."""
    json_rows.write_rows(path, ({key: asdict(row)[key] for key in KEYS} for row in rows))


def write(folder: Path, pairs: Iterable[Pair]) -> None:
    """Write preferences."""
    rows = (HoundRow(pair.id, folder_of(pair), pair.question, pair.chosen, pair.rejected) for pair in pairs)
    write_hound(folder / FILE, rows)


def read(folder: Path) -> Iterator[Pair]:
    """The preferences that `write` wrote; `media` is the folder of the frames where it was that."""
    for row in read_hound(folder / FILE):
        yield Pair(row.id, row.prompt, row.chosen, row.rejected, row.video)


def _parse(raw: Any, where: str) -> HoundRow:
    raw = check_keys(raw, KEYS, where)
    texts = {key: text_of(raw, key, where) for key in ("id", "video", "prompt", "chosen", "rejected")}
    missing = [key for key, text in texts.items() if text is None]
    if missing:
        raise FormatError(f"{where}: has no {', '.join(missing)}; {known_keys(KEYS)}.")
    scores = {key: _number(raw, key, where) for key in ("chosen_score", "rejected_score")}
    return HoundRow(**texts, answer=text_of(raw, "answer", where, empty=True), **scores)  # type: ignore[arg-type]


def _number(raw: dict[str, Any], key: str, where: str) -> float | None:
    value = raw.get(key)
    if value is not None and type(value) not in (int, float):
        raise FormatError(f"{where}: {key} must be a number, not {value!r}.")
    return value
