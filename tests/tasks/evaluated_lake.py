"""An evaluation as its stages leave it in a lake, written by hand through the real storage classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from labels import complete, provenance
from quiz import Quiz
from small import committed

from benchmarks.grades import Grade, Graded
from benchmarks.items import Item, Prediction
from storage.lake import Lake
from tasks.evaluation.entries import Entry, Scores
from tasks.evaluation.file_scores import grades_of
from tasks.evaluation.items import question_row
from tasks.evaluation.measured import measured
from tasks.stage import StageResult

JUDGE = "judge-1@abc"


class Answered:
    """Checkpoints that answered the quiz: each under "official" and "strict", and with a judge where asked."""

    def __init__(self, lake: Lake, items: Sequence[Item], frames: StageResult | None = None) -> None:
        self.lake = lake
        self.items = items
        self.frames = frames
        self.entries: list[Entry] = []
        rows = [{**provenance(each.id), **question_row(each, n, "quiz", each.video)} for n, each in enumerate(items)]
        lost = {**provenance("q-lost"), "status": "quarantined", "reason": "q-lost: there is no video of it"}
        self.questions = committed(lake.table("questions"), [*rows, lost], "questions-quiz")

    def checkpoint(self, name: str, replies: dict[str, str], judge: dict[str, str] | None = None) -> None:
        """Its replies by item, and what a judge replied to them."""
        said = {item: Prediction((reply,)) for item, reply in replies.items()}
        rows = [
            {**provenance(each.id), **self._said(name, each, said[each.id])} for each in self.items if each.id in said
        ]
        predictions = committed(self.lake.table("predictions"), rows, f"predictions-{name}")
        complete(self.lake, predictions, {}, inputs=(self.questions, *([self.frames] if self.frames else [])))
        for protocol in ("official", "strict"):
            self._graded(name, protocol, grades_of(Quiz(), self.items, said, protocol), {})
        if judge is not None:
            self._graded(name, "judged", self._by_judge(said, judge), judge)

    def scores(self) -> Scores:
        return Scores("night", tuple(self.entries))

    def _by_judge(self, said: dict[str, Prediction], judge: dict[str, str]) -> list[Graded]:
        found = []
        for each in self.items:
            grade = Grade("missing", correct=False)
            if each.id in said:
                grade = Quiz().judged(each, "", judge.get(each.id, ""), "judged")
            found.append(Graded(each, "", said.get(each.id), grade))
        return found

    def _said(self, name: str, item: Item, said: Prediction) -> dict[str, Any]:
        what = {"requests": [item.questions[0]], "replies": [*said.replies], "finished": [True], "scores": []}
        shown = {"frame_set": "policy", "n_frames": 8, "n_tokens": [1], "preferred": []}
        return {"benchmark": "quiz", "checkpoint": name, "question": item.id, "video": item.video, **shown, **what}

    def _graded(self, name: str, protocol: str, graded: list[Graded], judge: dict[str, str]) -> None:
        key = f"grades-{name}-{protocol}"
        rows = [
            {
                **provenance(each.item.id),
                "benchmark": "quiz",
                "checkpoint": name,
                "question": each.item.id,
                "video": each.item.video,
                "aspect": each.aspect,
                "protocol": protocol,
                "judge": JUDGE if each.grade.judged else None,
                "outcome": each.grade.status,
                "correct": each.grade.correct,
                "score": each.grade.score,
                "parsed": each.grade.parsed,
                "reply": judge.get(each.item.id),
                "attempts": int(each.grade.judged),
            }
            for each in graded
        ]
        complete(self.lake, committed(self.lake.table("grades"), rows, key), {"settings": {"loud": True}})
        statuses: dict[str, int] = {}
        for each in graded:
            statuses[each.grade.status] = statuses.get(each.grade.status, 0) + 1
        stages = {"questions": "questions-quiz", "predictions": f"predictions-{name}", "grades": key}
        self.entries += entries_of(name, protocol, graded, JUDGE if judge else "", statuses, stages)


def entries_of(
    name: str,
    protocol: str,
    graded: list[Graded],
    judge: str = "",
    statuses: dict[str, int] | None = None,
    stages: dict[str, str] | None = None,
) -> list[Entry]:
    """The numbers of a checkpoint, as a run writes them into scores.json."""
    blank = Entry(
        benchmark="quiz",
        registry="quiz",
        split="val",
        checkpoint=name,
        model=f"{name}@0123",
        protocol=protocol,
        judge=judge,
        prompt_hash="feedbeef",
        frames="policy",
        n_frames=8,
        decoding={"temperature": 0.0, "max_new_tokens": 4},
        settings={},
        limit=None,
        metric="",
        group="",
        value=None,
        low=None,
        high=None,
        n=0,
        left_out=0,
        printed="",
        scale=1.0,
        digits=None,
        statuses=statuses or {},
        faults={"no video": 1},
        stages=stages or {},
    )
    found = []
    for each in (measured(metric) for metric in Quiz().metrics(graded, protocol)):
        low, high = (each.interval.low, each.interval.high) if each.interval else (None, None)
        about = {"metric": each.metric.name, "group": each.metric.group, "value": each.value, "low": low, "high": high}
        counts = {"n": each.metric.n, "left_out": each.metric.left_out, "printed": each.metric.printed}
        said = {"scale": each.metric.scale, "digits": each.metric.digits}
        found.append(replace(blank, **about, **counts, **said))
    return found
