# ruff: noqa: ARG002  (a benchmark gives more than this one needs)
"""A small benchmark for tests of what stands around benchmarks: yes/no questions, with points by a judge on request."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks.files import csv_of_file, json_of_file
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Fault, Item, Prediction, Predictions, Request, Shown
from benchmarks.metrics import Metric, mean, members
from benchmarks.registry import KNOWN


@dataclass(frozen=True)
class Quiz:
    """Official leaves empty replies out and prints per cent with two digits; "judged" asks a judge for points."""

    name: ClassVar[str] = "quiz"
    source: ClassVar[str] = "https://example.org/quiz"
    protocols: ClassVar[tuple[str, ...]] = ("official", "strict", "judged")
    files: ClassVar[Mapping[str, str]] = {"": "questions, CSV"}
    max_new_tokens: ClassVar[int] = 4
    temperature: ClassVar[float] = 0.0
    revision: ClassVar[int] = 1

    loud: bool = False

    @property
    def texts(self) -> Mapping[str, str]:
        return {}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        rows = csv_of_file(files[""])
        kept = [row for row in rows if row["answer"]]
        faults = [Fault("no answer", row["id"], "there is nothing to score against") for row in rows if row not in kept]
        return Annotations(tuple(map(item, kept)), tuple(faults))

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:
        return (Request(item.questions[0]),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:
        reply = prediction.replies[0] if prediction else ""
        if protocol == "judged" and reply:
            return Call(f"{item.questions[0]} {reply}")
        if not reply:
            status = "empty" if prediction else "missing"
            return Grade(status, correct=None if protocol == "official" else False)
        return Grade("ok", correct=reply == item.answer, parsed=reply)

    def judged(self, item: Item, aspect: str, reply: str, protocol: str) -> Grade:
        if not reply.isdecimal():
            return Grade("no verdict", correct=False, judged=True)
        if int(reply) > 5:
            return Grade("out of range", correct=False, judged=True)
        return Grade("ok", correct=int(reply) > 2, score=float(reply), judged=True)

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        shown = {"digits": 2, "scale": 100.0} if protocol == "official" else {}
        groups = [("overall", each) for each in graded]
        groups += [(f"kind: {each.item.groups['kind']}", each) for each in graded]
        found = [
            mean(
                "accuracy",
                group,
                [None if each.grade.correct is None else float(each.grade.correct) for each in part],
                [each.item.video for each in part],
                **shown,  # type: ignore[arg-type]
            )
            for group, part in members(groups).items()
        ]
        if protocol == "judged":
            found.append(
                mean("score", "overall", [each.grade.score for each in graded], [e.item.video for e in graded])
            )
        return found

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        path = folder / "quiz.json"
        path.write_text(json.dumps({name: each.replies[0] for name, each in predictions.items()}))
        return [path]

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        said = {name: reply for file in files for name, reply in json_of_file(file).items()}
        known = {each.id for each in items}
        faults = [Fault("unknown", name, "no question has this id") for name in said if name not in known]
        faults += [Fault("missing", name, "there is no reply to it") for name in sorted(known - set(said))]
        return Predictions({name: Prediction((said[name],)) for name in said if name in known}, tuple(faults))


def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quiz is among the benchmarks while a test runs."""
    monkeypatch.setitem(sys.modules, "benchmarks.quiz", sys.modules[__name__])
    monkeypatch.setitem(KNOWN, "quiz", ("quiz", "Quiz"))


def item(row: Mapping[str, str]) -> Item:
    return Item(row["id"], row["video"], (row["question"],), row["answer"], groups={"kind": row["kind"]}, source=row)


def questions(count: int, per_video: int = 2) -> list[Item]:
    """Items with the answers yes and no in turn, of two kinds."""
    return [
        item(
            {
                "id": f"q{n:03d}",
                "video": f"v{n // per_video}",
                "question": f"is it {n}?",
                "answer": "yes" if n % 2 else "no",
                "kind": "odd" if n % 3 else "even",
            }
        )
        for n in range(count)
    ]


def write_csv(path: Path, items: Sequence[Item]) -> Path:
    lines = [",".join(str(value) for value in each.source.values()) for each in items]
    path.write_text("\n".join(["id,video,question,answer,kind", *lines]) + "\n")
    return path
