"""TempCompass's files: questions and predictions as trees {video: {dimension: [rows]}}, or lists as its data set has.

A row has "question" and "answer"; a prediction also "prediction" (or "response"), null where the model refused. Rows of
the data set on the Hub name their "video_id" and "dim" themselves, and captioning's have "mc_question" and "mc_answer".
meta_info.json says which fine aspect a dimension is of: [video]["eval_dim"][dimension]["type"].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.files import json_of_file, kind_of_file, write_json
from benchmarks.items import Annotations, Item, Prediction, Predictions, predicted
from benchmarks.rows import ITEM_ID, ItemRows, Places, PredictionRows, Row, rows_of_file, text_of
from storage.errors import FormatError

TASKS = ("multi-choice", "yes_no", "caption_matching", "captioning")


def read_tempcompass(files: Mapping[str, Path]) -> Annotations:
    """The items of the task kinds whose files are given.

    Raises:
        FormatError: none is given, or one cannot be read or is neither tree nor list.
    """
    tasks = [task for task in TASKS if task in files]
    if not tasks:
        raise FormatError(f"No file of questions is given: name some of {', '.join(TASKS)}.")
    found = ItemRows()
    aspects = _aspects(files["meta_info"]) if "meta_info" in files else None
    choices: dict[tuple[str, str], Row] = {}
    for task in tasks:
        for where, video, dim, number, row in _rows(files[task], found):
            if task == "multi-choice":
                choices.setdefault((video, dim), row)
            source = {**row, "task": task, "dim": dim}
            if task == "captioning":
                source |= _choice(row, choices.get((video, dim), {}))
            groups = {"task": task, "dim": dim}
            if aspects is not None:
                groups["aspect"] = "order" if dim == "order" else aspects.get((_stem(video), dim), "unknown")
            asked, id = (text_of(row, "question"),), f"{task}/{video}/{dim}/{number}"
            if task == "captioning" and not (source["mc_question"] and source["mc_answer"]):
                found.fault("no answer", where, "has no multiple choice to score a caption by: give multi-choice too")
                continue
            found.add(where, Item(id, video, asked, text_of(row, "answer"), groups=groups, source=source))
    return found.annotations


def _choice(row: Row, first: Row) -> Row:
    """The multiple choice that a judge answers by a caption: the row's own, else the first of video and dimension."""
    own = {"mc_question": text_of(row, "mc_question"), "mc_answer": text_of(row, "mc_answer")}
    return (
        own if all(own.values()) else {"mc_question": text_of(first, "question"), "mc_answer": text_of(first, "answer")}
    )


def _rows(path: Path, found: ItemRows | PredictionRows) -> Iterator[tuple[str, str, str, int, Row]]:
    """Where a row stands, its video, its dimension, its number there, and the row."""
    parquet = kind_of_file(path) == ".parquet"
    tree = [row for _, row in rows_of_file(path, "questions")] if parquet else json_of_file(path)
    if not isinstance(tree, (dict, list)):
        raise FormatError(
            f"{path}: holds a {type(tree).__name__}; questions are a tree by video and dimension, or a list."
        )
    numbers: dict[tuple[str, str], int] = {}
    for where, video, dim, row in _flat(path, tree) if isinstance(tree, list) else _branches(path, tree):
        if not isinstance(row, dict) or not video or not dim:
            found.fault("malformed", where, 'is no row with "question" of a video and a dimension')
            continue
        number = numbers.setdefault((video, dim), 0)
        numbers[video, dim] += 1
        yield where, video, dim, number, row


def _flat(path: Path, rows: list[Any]) -> Iterator[tuple[str, str, str, Any]]:
    for number, row in enumerate(rows, start=1):
        named = row if isinstance(row, dict) else {}
        yield f"{path.name} row {number}", text_of(named, "video_id", "video"), text_of(named, "dim"), row


def _branches(path: Path, tree: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    for video, dims in tree.items():
        for dim, rows in dims.items() if isinstance(dims, dict) else [("", dims)]:
            each = rows if isinstance(rows, list) else [rows]
            for number, row in enumerate(each):
                yield f"{path.name} {video} {dim} {number}".strip(), video, dim, row


def _aspects(path: Path) -> dict[tuple[str, str], str]:
    meta = json_of_file(path)
    if not isinstance(meta, dict):
        raise FormatError(f"{path}: holds a {type(meta).__name__}, not an object by video, as meta_info.json is.")
    found = {}
    for video, info in meta.items():
        dims = info.get("eval_dim") if isinstance(info, dict) else None
        for dim, about in (dims or {}).items() if isinstance(dims, dict) else []:
            if isinstance(about, dict) and isinstance(about.get("type"), str):
                found[video, dim] = about["type"]
    return found


def _stem(video: str) -> str:
    return video.replace(".jpg", "").replace(".mp4", "")


def write_trees(folder: Path, items: Iterable[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
    """Writes one tree a task kind, <task>.json, as the eval_*.py read them; items without a prediction are left out."""
    trees: dict[str, dict[str, dict[str, list[Row]]]] = {}
    for item, prediction in predicted(items, predictions):
        said = prediction.replies[0] if prediction.replies else None
        row = {"question": item.questions[0], "answer": item.answer, "prediction": said}
        row[ITEM_ID] = item.id
        dims = trees.setdefault(item.groups["task"], {}).setdefault(item.video, {})
        dims.setdefault(item.groups["dim"], []).append(row)
    return [path for task, tree in trees.items() for path in write_json(folder / f"{task}.json", tree)]


def read_trees(files: Sequence[Path], items: Sequence[Item]) -> Predictions:
    """Predictions of trees or lists. A row without our id is the next of its video, dimension and question."""
    found = PredictionRows(items)
    places = Places(((item.video, item.groups["dim"], item.questions[0]), item.id) for item in items)
    for path in files:
        for where, video, dim, _, row in _rows(path, found):
            id = text_of(row, ITEM_ID) or places.next((video, dim, text_of(row, "question")))
            if "prediction" not in row and "response" not in row:
                found.fault("malformed", where, 'has neither "prediction" nor "response"')
                continue
            said = row["prediction"] if "prediction" in row else row["response"]
            found.add(where, id, *([] if said is None else [said]))
    return found.predictions
