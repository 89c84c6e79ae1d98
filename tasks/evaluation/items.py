"""Items, predictions and grades of benchmarks as rows of the lake, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.grades import Grade, Graded
from benchmarks.items import Item, Prediction
from storage.lake import Lake
from tasks.stage import StageRef

Row = dict[str, Any]
NO_VIDEO = "no video"


def question_row(item: Item, place: int, benchmark: str, video: str) -> Row:
    """The columns of an item in table `questions`."""
    start, end = item.window or (None, None)
    return {
        "benchmark": benchmark,
        "place": place,
        "video": video,
        "named": item.video,
        "questions": list(item.questions),
        "answer": item.answer,
        "options": list(item.options),
        "start": start,
        "end": end,
        "aspects": list(item.aspects),
        "groups": json.dumps(dict(item.groups), ensure_ascii=False),
        "source": json.dumps(dict(item.source), ensure_ascii=False),
    }


def item_of(row: Mapping[str, Any]) -> Item:
    """The item that a row of table `questions` holds."""
    return Item(
        id=row["item_id"],
        video=row["named"],
        questions=tuple(row["questions"]),
        answer=row["answer"],
        options=tuple(row["options"]),
        window=None if row["start"] is None else (row["start"], row["end"]),
        aspects=tuple(row["aspects"]),
        groups=json.loads(row["groups"]),
        source=json.loads(row["source"]),
    )


def prediction_of(row: Mapping[str, Any]) -> Prediction:
    """The prediction that a row of table `predictions` holds."""
    scored = row["scores"]
    return Prediction(
        replies=tuple(row["replies"]),
        scores=tuple(scored),
        n_tokens=tuple(row["n_tokens"]) if scored else (),
        preferred=tuple(row["preferred"]),
    )


def grade_of(row: Mapping[str, Any]) -> Grade:
    """The grade that a row of table `grades` holds."""
    return Grade(row["outcome"], row["correct"], row["score"], row["parsed"], row["judge"] is not None)


def graded_items(
    items: Iterable[Item], predictions: Mapping[str, Prediction], grades: Iterable[Mapping[str, Any]], protocol: str
) -> list[Graded]:
    """Every aspect of every item in their order, with its grade.

    Where the grading of an item failed (its worker died, say), its row is quarantined and nothing was decided. Such a
    grade is one without a verdict: wrong under "strict", and elsewhere what the protocol makes of a judge that failed.

    Args:
        items: of the benchmark.
        predictions: by the id of the item.
        grades: rows of table `grades`.
        protocol: by which was graded.
    """
    known = {(row["question"], row["aspect"]): grade_of(row) for row in grades if row["status"] == "ok"}
    failed = Grade("no verdict", correct=False, score=0.0) if protocol == "strict" else Grade("no verdict")
    return [
        Graded(item, aspect, predictions.get(item.id), known.get((item.id, aspect), failed))
        for item in items
        for aspect in item.aspects
    ]


def asked_rows(lake: Lake, questions: StageRef) -> list[Row]:
    """The questions of a stage that are items, in the order of their file."""
    rows = lake.table(questions.table).read(questions.key).to_pylist()
    return sorted((row for row in rows if row["status"] == "ok"), key=lambda row: int(row["place"]))


def predictions_by_question(lake: Lake, predictions: StageRef) -> dict[str, Prediction]:
    """What was predicted, by the id of the item; none where an item could not be asked."""
    columns = ["item_id", "status", "replies", "scores", "n_tokens", "preferred"]
    rows = lake.table(predictions.table).read(predictions.key, columns=columns).to_pylist()
    return {row["item_id"]: prediction_of(row) for row in rows if row["status"] == "ok"}
