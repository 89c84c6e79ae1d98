"""Answers and grades of a checkpoint as the lake keeps them, put together for whoever compares or shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Graded
from benchmarks.registry import benchmark
from tasks.evaluation.entries import Entry
from tasks.evaluation.items import Row, grade_of, item_of, prediction_of
from tasks.label_versions import made_from

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.stage import StageResult


@dataclass(frozen=True)
class Shown:
    """What of a video a checkpoint was shown: the lake's name of the video, and the frame set."""

    video: str
    frame_set: str


@dataclass(frozen=True)
class Answers:
    """What one checkpoint said on one benchmark, and what it was worth by one protocol.

    Attributes:
        graded: in the order of the questions.
        replies: of the judge, by question and aspect, where one was asked.
        shown: by question, where it was asked.
        frames: the stage that sampled the frames; None where the lake does not say.
    """

    graded: Sequence[Graded]
    replies: dict[tuple[str, str], str]
    shown: dict[str, Shown]
    frames: StageResult | None


def answers_of(lake: Lake, entry: Entry) -> Answers | None:
    """The answers behind a number; None where the entry names no stages."""
    if not {"questions", "predictions", "grades"} <= set(entry.stages):
        return None
    questions = sorted(_ok(lake, "questions", entry), key=lambda row: int(row["place"]))
    said = {row["question"]: row for row in _ok(lake, "predictions", entry)}
    predictions = {name: prediction_of(row) for name, row in said.items()}
    grades = {(row["question"], row["aspect"]): row for row in _ok(lake, "grades", entry)}
    return Answers(
        [
            Graded(item, aspect, predictions.get(item.id), grade_of(row))
            for item in map(item_of, questions)
            for aspect in item.aspects
            if (row := grades.get((item.id, aspect))) is not None
        ],
        {key: row["reply"] for key, row in grades.items() if row["reply"]},
        {name: Shown(row["video"], row["frame_set"]) for name, row in said.items()},
        made_from(lake, entry.stages["predictions"]).get("frames"),
    )


def benchmark_of(lake: Lake, entry: Entry) -> Benchmark:
    """The benchmark of a number, with the settings that it was graded with."""
    rows = lake.table("stages").read(entry.stages["grades"]).to_pylist()
    config = json.loads(rows[0]["config"]) if rows else {}
    return benchmark(entry.registry, **config.get("settings", {}))


def _ok(lake: Lake, table: str, entry: Entry) -> list[Row]:
    rows: list[Row] = lake.table(table).read(entry.stages[table]).to_pylist()
    return [row for row in rows if row["status"] == "ok"]
