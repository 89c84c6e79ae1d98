"""A small benchmark of its own for the tests of the evaluation, and videos and questions for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.files import json_of_file
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Fault, Item, Prediction, Predictions, Request, Shown
from benchmarks.metrics import Metric, mean
from miniature.dataset import encode
from miniature.world import QUESTIONS, Scene, render, sample_scene
from tasks.evaluation.answers import answers
from tasks.evaluation.config import AnswersConfig, ScoredBenchmark
from tasks.evaluation.questions import questions
from tasks.frames import FramesConfig, FrameSet, frames
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, StageResult
from tasks.videos import VideosConfig, videos
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

MODULE = "toy"
CRASH = "crash the reader"  # A judge's reply that takes the grading of its item down.
SETS = (FrameSet(name="policy", n=4), FrameSet(name="few", n=2))


@dataclass(frozen=True)
class Toy:
    """Questions with a right answer, by exact match ("official") or as a judge says, yes or no and 0 to 5."""

    judged_by: str = "rules"
    system: str | None = None
    begin: str = ""
    prompt: str = "{question}"

    name: ClassVar[str] = "toy"
    source: ClassVar[str] = "https://example.org"
    protocols: ClassVar[tuple[str, ...]] = ("official", "strict")
    files: ClassVar[Mapping[str, str]] = {"": "a JSON list"}
    max_new_tokens: ClassVar[int] = 8
    temperature: ClassVar[float] = 0.0
    revision: ClassVar[int] = 1

    @property
    def texts(self) -> Mapping[str, str]:
        return {"prompt": self.prompt, "system": self.system or "", "begin": self.begin}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        items, faults, seen = list[Item](), list[Fault](), set[str]()
        for number, row in enumerate(json_of_file(files[""])):
            where = f"{files[''].name} row {number + 1}"
            if not row.get("answer"):
                faults.append(Fault("no answer", where, "it has no answer"))
            elif row["id"] in seen:
                faults.append(Fault("duplicate", where, f"a second {row['id']}"))
            else:
                seen.add(row["id"])
                items.append(_item(row))
        return Annotations(tuple(items), tuple(faults))

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:
        said = "" if not shown.subtitles else " ".join(shown.subtitles)
        texts = [f"{said}{self.prompt}".format(question=question) for question in item.questions]
        return tuple(Request(text, self.system, self.begin, item.options) for text in texts)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:
        if prediction is None:
            return Grade("missing", correct=False if protocol == "strict" else None)
        if prediction.scores:
            said = item.options[int(np.argmax(prediction.scores))]
            return Grade("ok", said == item.answer, parsed=said)
        if self.judged_by == "rules":
            return Grade("ok", item.answer in prediction.replies, parsed=prediction.replies[0])
        return Call(f"Q: {item.questions[0]} A: {item.answer} P: {prediction.replies[0]}", f"Grade {aspect}.")

    def judged(self, item: Item, aspect: str, reply: str, protocol: str) -> Grade:
        del item, aspect
        if reply == CRASH:
            raise RuntimeError(reply)
        try:
            score = int(reply)
        except ValueError:
            return Grade("no verdict", correct=False if protocol == "strict" else None, judged=True)
        if not 0 <= score <= 5:
            return Grade("out of range", correct=False if protocol == "strict" else None, parsed=reply, judged=True)
        return Grade("ok", score >= 3, float(score), reply, judged=True)

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        del protocol
        right = [None if each.grade.correct is None else float(each.grade.correct) for each in graded]
        videos = [each.item.video for each in graded]
        found = [mean("accuracy", "overall", right, videos, digits=1, scale=100.0)]
        kinds = sorted({each.item.groups["kind"] for each in graded})
        for kind in kinds:
            only = [
                value if each.item.groups["kind"] == kind else None for value, each in zip(right, graded, strict=True)
            ]
            found.append(mean("accuracy", f"kind: {kind}", only, videos))
        return found

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        path = folder / "toy.json"
        known = [item for item in items if item.id in predictions]
        path.write_text(json.dumps([{**item.source, "pred": list(predictions[item.id].replies)} for item in known]))
        return [path]

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        raise NotImplementedError


def _item(row: Mapping[str, Any]) -> Item:
    return Item(
        id=row["id"],
        video=row["video"],
        questions=tuple(row["questions"]),
        answer=row["answer"],
        options=tuple(row.get("options", ())),
        window=tuple(row["window"]) if "window" in row else None,
        aspects=tuple(row.get("aspects", ("",))),
        groups={"kind": row.get("kind", "plain")},
        source=dict(row),
    )


@dataclass(frozen=True)
class World:
    """A folder of videos of the tiny world, and the scenes that they show by name."""

    folder: Path
    scenes: dict[str, Scene]

    @property
    def videos(self) -> Path:
        return self.folder / "videos"

    def questions(self) -> list[dict[str, Any]]:
        """A row of each of the first questions of the world for each video."""
        return [
            {
                "id": f"{Path(video).stem}-{n}",
                "video": Path(video).stem,
                "questions": [q.text],
                "answer": q.answer(scene),
                "kind": q.kind,
            }
            for video, scene in self.scenes.items()
            for n, q in enumerate(QUESTIONS[:3])
        ]

    def scored(self, rows: Sequence[Mapping[str, Any]], name: str = "toy.json", **more: Any) -> ScoredBenchmark:
        """The benchmark with these rows in its file."""
        (self.folder / name).write_text(json.dumps(list(rows)))
        about = {"benchmark": MODULE, "files": {"": str(self.folder / name)}, "videos": str(self.videos), **more}
        return ScoredBenchmark.model_validate(about)


def world(folder: Path, count: int = 2) -> World:
    """Videos of the tiny world, two seconds each."""
    rng = np.random.default_rng(5)
    scenes = {f"v_{number}.mp4": sample_scene(rng) for number in range(count)}
    (folder / "videos").mkdir(parents=True)
    for name, scene in scenes.items():
        encode(render(scene), folder / "videos" / name)
    return World(folder, scenes)


@dataclass(frozen=True)
class Looked:
    """A benchmark's questions, with the frames and visual tokens of their videos."""

    scored: ScoredBenchmark
    asked: StageResult
    sampled: StageResult
    tokens: StageResult


def looked_at(ctx: RunContext, scored: ScoredBenchmark, model: ModelRef, sets: Sequence[FrameSet] = SETS) -> Looked:
    """Runs the stages before the answers."""
    source = VideosConfig(folder=scored.folder)
    listed = videos(ctx, source)
    asked = questions(ctx, scored, listed, "mine")
    config = FramesConfig(sets=tuple(sets), image_format="png")
    sampled = frames(ctx, config, listed, source, {scored.frame_set: [asked]})
    return Looked(scored, asked, sampled, visual_tokens(ctx, VisualTokensConfig(), sampled, model))


def answered(ctx: RunContext, seen: Looked, model: ModelRef, checkpoint: str = "base", **how: Any) -> StageResult:
    """What the model says to the questions."""
    config = AnswersConfig(**{"shard_size": 4, **how})
    return answers(ctx, config, seen.scored, seen.asked, seen.sampled, seen.tokens, model, checkpoint, "mine")
