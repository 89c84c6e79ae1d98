"""Answers and grades of a checkpoint as the lake keeps them, put together for whoever compares or shows them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Graded
from benchmarks.items import Item, Prediction
from benchmarks.registry import benchmark
from tasks.evaluation.entries import Entry
from tasks.evaluation.items import Row, graded_items, item_of, prediction_of
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


class AnsweredRows:
    """Reads answers from the lake; what several checkpoints and protocols share, questions and replies, once.

    It keeps all that it has read: one for each benchmark is enough.
    """

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self._kept: dict[tuple[str, ...], Any] = {}

    def answers(self, entry: Entry) -> Answers | None:
        """The answers behind a number; None where the entry names no stages."""
        if not {"questions", "predictions", "grades"} <= set(entry.stages):
            return None
        keys = tuple(entry.stages[table] for table in ("questions", "predictions", "grades"))
        return cast("Answers", self._once(keys, lambda: self._put_together(entry)))

    def _put_together(self, entry: Entry) -> Answers:
        said = self._once(("predictions", entry.stages["predictions"]), lambda: self._said(entry))
        items = self._once(("questions", entry.stages["questions"]), lambda: self._items(entry))
        grades = _rows(self.lake, "grades", entry)
        predictions = {name: prediction for name, (prediction, _) in said.items()}
        return Answers(
            graded_items(items, predictions, grades, entry.protocol),
            {(row["question"], row["aspect"]): row["reply"] for row in grades if row["reply"]},
            {name: shown for name, (_, shown) in said.items()},
            made_from(self.lake, entry.stages["predictions"]).get("frames"),
        )

    def _items(self, entry: Entry) -> list[Item]:
        return [item_of(row) for row in sorted(_ok(self.lake, "questions", entry), key=lambda row: int(row["place"]))]

    def _said(self, entry: Entry) -> dict[str, tuple[Prediction, Shown]]:
        rows = _ok(self.lake, "predictions", entry)
        return {row["question"]: (prediction_of(row), Shown(row["video"], row["frame_set"])) for row in rows}

    def _once(self, key: tuple[str, ...], read: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = read()
        return self._kept[key]


def benchmark_of(lake: Lake, entry: Entry) -> Benchmark:
    """The benchmark of a number, with the settings that it was graded with."""
    rows = lake.table("stages").read(entry.stages["grades"]).to_pylist()
    config = json.loads(rows[0]["config"]) if rows else {}
    return benchmark(entry.registry, **config.get("settings", {}))


def _ok(lake: Lake, table: str, entry: Entry) -> list[Row]:
    return [row for row in _rows(lake, table, entry) if row["status"] == "ok"]


def _rows(lake: Lake, table: str, entry: Entry) -> list[Row]:
    rows: list[Row] = lake.table(table).read(entry.stages[table]).to_pylist()
    return rows
