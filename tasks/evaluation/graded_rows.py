"""Questions, predictions and grades as the lake keeps them, put together again for whoever compares or shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.grades import Grade, Graded
from benchmarks.items import Item, Prediction
from tasks.evaluation.entries import Entry
from tasks.label_versions import made_from

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.stage import StageResult


@dataclass(frozen=True)
class Answers:
    """What one checkpoint said on one benchmark, and what it was worth.

    Attributes:
        graded: in the order of the questions.
        replies: of the judge, by question and aspect, where one was asked.
        videos: names that the lake has for the videos, by question.
        frame_set: that the checkpoint was shown.
        frames: the stage that sampled it; None where the lake does not say.
    """

    graded: Sequence[Graded]
    replies: dict[tuple[str, str], str]
    videos: dict[str, str]
    frame_set: str
    frames: StageResult | None


def answers_of(lake: Lake, entry: Entry) -> Answers | None:
    """The answers behind a number; None where the entry names no stages, or the lake has lost them."""
    if not {"questions", "predictions", "grades"} <= set(entry.stages):
        return None
    items = _items(lake, entry.stages["questions"], entry.benchmark)
    said = _of(lake, "predictions", entry)
    grades = [row for row in _of(lake, "grades", entry) if row["protocol"] == entry.protocol]
    predictions = {row["question"]: _prediction(row) for row in said}
    graded = [
        Graded(items[row["question"]], row["aspect"], predictions.get(row["question"]), _grade(row))
        for row in grades
        if row["question"] in items
    ]
    places = {name: place for place, name in enumerate(items)}
    return Answers(
        sorted(graded, key=lambda each: (places[each.item.id], each.aspect)),
        {(row["question"], row["aspect"]): row["reply"] for row in grades if row["reply"]},
        {row["question"]: row["video"] for row in said},
        said[0]["frame_set"] if said else entry.frames,
        made_from(lake, entry.stages["predictions"]).get("frames"),
    )


def _of(lake: Lake, table: str, entry: Entry) -> list[dict[str, Any]]:
    """The ok rows of the entry's checkpoint and benchmark."""
    rows = lake.table(table).read(entry.stages[table]).to_pylist()
    own = (entry.benchmark, entry.checkpoint)
    return [row for row in rows if row["status"] == "ok" and (row["benchmark"], row["checkpoint"]) == own]


def _items(lake: Lake, key: str, benchmark: str) -> dict[str, Item]:
    rows = lake.table("questions").read(key).to_pylist()
    return {row["item_id"]: _item(row) for row in rows if row["status"] == "ok" and row["benchmark"] == benchmark}


def _item(row: dict[str, Any]) -> Item:
    return Item(
        id=row["item_id"],
        video=row["video"],
        questions=tuple(row["questions"]),
        answer=row["answer"],
        options=tuple(row["options"]),
        window=None if row["start"] is None or row["end"] is None else (row["start"], row["end"]),
        aspects=tuple(row["aspects"]),
        groups=json.loads(row["groups"]),
        source=json.loads(row["source"]),
    )


def _prediction(row: dict[str, Any]) -> Prediction:
    return Prediction(tuple(row["replies"]), tuple(row["scores"]), tuple(row["n_tokens"]), tuple(row["preferred"]))


def _grade(row: dict[str, Any]) -> Grade:
    return Grade(row["outcome"], row["correct"], row["score"], row["parsed"], judged=row["judge"] is not None)
