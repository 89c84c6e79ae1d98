"""Video-ChatGPT's generative benchmark (VCGBench): five scores of 0 to 5 by an LLM judge, and their plain mean.

One answer to a question of generic_qa.json is scored for correctness, detail and context; one of temporal_qa.json for
the order of events; the two answers to the questions of consistency_qa.json for agreeing with the truth and each other.

"official" is quantitative_evaluation/evaluate_benchmark_1..5_*.py: the whole reply must be a Python dictionary, its
    score is cut to a whole number and not clipped. A reply that it would ask for again for ever, or that would stop it,
    is "no verdict" and in no number.
"vlm_rlaif" shows the judge of consistency question 1 twice, as VLM-RLAIF's copy does (so did Video-ChatGPT's own script
    at first; its later version shows both).
"lmms_eval": every failure is a score of 0, at once, and in the mean. It pairs answers for consistency by their video
    alone; here they are those of one row (docs/official_defects.md).
"strict" reads the reply rightly (benchmarks.judge_replies.strict_score) and counts every item: one without prediction,
    reply or readable score, or with a score outside 0 to 5, has 0 points.

The wording of the judge's prompts is ours: benchmarks/prompts/README.md.
A score outside 0 to 5 that a protocol counts has the status "off the scale".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import judge_replies, judging
from benchmarks.benchmark import check_protocol
from benchmarks.files import write_rows
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Item, Prediction, Predictions, Request, Shown, predicted
from benchmarks.metrics import ALL_DIGITS, Floats, Metric
from benchmarks.rows import ITEM_ID, ItemRows, Places, PredictionRows, rows_of_file, text_of
from storage.errors import FormatError

# By the annotation file that asks for them; in the order of the scripts and of the published tables.
ASPECTS = {"generic": ("correctness", "detail", "context"), "temporal": ("temporal",), "consistency": ("consistency",)}
_ALL = tuple(aspect for aspects in ASPECTS.values() for aspect in aspects)
# The scripts' keys of the replies, by the number of questions.
_REPLIES = {1: ("pred",), 2: ("pred1", "pred2")}
_CALLED = {
    "correctness": "factual accuracy",
    "detail": "detail orientation",
    "context": "contextual understanding",
    "temporal": "temporal accuracy",
    "consistency": "consistency",
}


@dataclass(frozen=True)
class VideoChatGpt:
    """Video-ChatGPT's generative benchmark.

    Attributes:
        prompts: folder with texts for the judge that stand in for ours; "" for none.
    """

    prompts: str = ""

    name: ClassVar[str] = "video_chatgpt"
    source: ClassVar[str] = "https://github.com/mbzuai-oryx/Video-ChatGPT"
    protocols: ClassVar[tuple[str, ...]] = ("official", "vlm_rlaif", "lmms_eval", "strict")
    files: ClassVar[Mapping[str, str]] = {
        "generic": "generic_qa.json: correctness, detail and context",
        "temporal": "temporal_qa.json",
        "consistency": "consistency_qa.json: two questions with one answer",
    }
    max_new_tokens: ClassVar[int] = 512  # As VLM-RLAIF, and its temperature.
    temperature: ClassVar[float] = 0.2
    revision: ClassVar[int] = 2

    @property
    def texts(self) -> Mapping[str, str]:
        names = [*(f"score_system_{aspect}" for aspect in _ALL), "score_user", "score_user_consistency"]
        return {"question": "{question}"} | {name: judging.prompt(name, self.prompts) for name in names}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        """The items of the files that are given; an aspect whose file is not has no score."""
        kinds = [kind for kind in ASPECTS if kind in files]
        if not kinds:
            raise FormatError(f"No file of questions is given: name some of {', '.join(ASPECTS)}.")
        found = ItemRows()
        for kind in kinds:
            seen: dict[str, int] = {}
            for where, row in found.objects(rows_of_file(files[kind], "questions")):
                video = text_of(row, "video_name")
                seen[video] = seen.get(video, -1) + 1
                found.add(where, _item(kind, f"{kind}/{video}_{seen[video]}", row))
        return found.annotations

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:  # noqa: ARG002 - it asks the same of all
        return tuple(Request(question) for question in item.questions)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:
        check_protocol(self, protocol)
        strict = protocol == "strict"
        if prediction is None or len(prediction.replies) != len(item.questions):
            return judging.wrong("missing") if strict else Grade("missing")
        replies = prediction.replies
        if strict:
            replies = tuple(judging.without_end(reply) for reply in replies)
            if not all(replies):
                return judging.wrong("empty")
        said = {"aspect": _CALLED[aspect], "answer": item.answer, **_shown(item.questions, replies)}
        if aspect == "consistency" and protocol == "vlm_rlaif":
            said["question_2"] = said["question_1"]
        user = "score_user_consistency" if aspect == "consistency" else "score_user"
        return judging.call(f"score_system_{aspect}", user, self.prompts, **said)

    def judged(self, item: Item, aspect: str, reply: str, protocol: str) -> Grade:  # noqa: ARG002 - the reply says all
        check_protocol(self, protocol)
        if protocol == "strict":
            said = judge_replies.strict_score(reply)
            if said.fault or said.score is None:
                return judging.wrong(said.fault or "no verdict", parsed=_parsed(said.score), judged=True)
            return _scored(said.score)
        read = judge_replies.video_chatgpt_score(reply)
        if protocol == "lmms_eval":
            # Not asked again: a failure is a score. Its status still shows it.
            score = judging.as_points(judge_replies.lmms_videochatgpt(reply))
            status = judging.status_of(score) if read.stage == "ok" else "unparsed"
            return Grade(status, None, score, _parsed(score), judged=True)
        return Grade("no verdict", judged=True) if read.score is None else _scored(read.score)

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """The score of each aspect, and the plain mean of the five where all five are asked for."""
        check_protocol(self, protocol)
        points = _POINTS.get(protocol, judging.points)
        digits = None if protocol in ("strict", "lmms_eval") else ALL_DIGITS
        asked = [aspect for aspect in _ALL if any(one.aspect == aspect for one in graded)]
        found = []
        for aspect in asked:
            each = [one for one in graded if one.aspect == aspect]
            found.append(judging.mean_of("score", f"aspect: {aspect}", each, points, digits=digits))
        return [*found, _mean_of_five(graded, points)] if len(asked) == len(_ALL) else found

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        """One file of each kind: the annotation's records with "pred", or "pred1" and "pred2"."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for item, prediction in predicted(items, predictions):
            kind = item.id.partition("/")[0]
            said = dict(zip(_REPLIES[len(item.questions)], prediction.replies, strict=False))
            rows.setdefault(kind, []).append({**item.source, **said, ITEM_ID: item.id})
        return [path for kind, each in rows.items() for path in write_rows(folder / f"{kind}_qa.json", each)]

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        """Records as `write` writes them, as lists or JSON lines. One without our id is the next of its video and
        questions.
        """
        found = PredictionRows(items)
        places = _places(items)
        for path in files:
            rows = list(found.objects(rows_of_file(path, "predictions")))
            kind = _kind_of([_key(row) for _, row in rows], places)
            for where, row in rows:
                id = text_of(row, ITEM_ID) or places[kind].next(_key(row))
                asked = 2 if (id or kind).startswith("consistency") else 1
                found.add(where, id, *map(row.get, _REPLIES[asked]))
        return found.predictions


def _item(kind: str, id: str, row: dict[str, Any]) -> Item:
    keys = ("Q1", "Q2") if kind == "consistency" else ("Q",)
    questions = tuple(text_of(row, key) for key in keys)
    return Item(id, text_of(row, "video_name"), questions, text_of(row, "A"), aspects=ASPECTS[kind], source=row)


Key = tuple[str, ...]


def _key(row: Mapping[str, Any]) -> Key:
    return tuple(text_of(row, key) for key in ("video_name", "Q", "Q1", "Q2", "A"))


def _places(items: Sequence[Item]) -> dict[str, Places]:
    keyed = [(item.id.partition("/")[0], _key(item.source), item.id) for item in items]
    return {kind: Places((key, id) for each, key, id in keyed if each == kind) for kind in ASPECTS}


def _kind_of(keys: Sequence[Key], places: Mapping[str, Places]) -> str:
    """Of which annotation file most of the records are: a question may stand in several."""
    return max(places, key=lambda kind: sum(key in places[kind] for key in keys))


def _shown(questions: Sequence[str], replies: Sequence[str]) -> dict[str, str]:
    """Questions and predictions by the names that the judge's texts have for them."""
    if len(questions) == 1:
        return {"question": questions[0], "prediction": replies[0]}
    pairs = enumerate(zip(questions, replies, strict=True), start=1)
    return {
        f"{name}_{n}": text for n, pair in pairs for name, text in zip(("question", "prediction"), pair, strict=True)
    }


def _scored(score: float) -> Grade:
    points = judging.as_points(score)
    return Grade(judging.status_of(score), score=points, parsed=_parsed(points), judged=True)


def _parsed(score: float | None) -> str | None:
    return None if score is None else f"{score:g}"


def _mean_of_five(graded: Sequence[Graded], points: judging.Value) -> Metric:
    """The mean of five means: sums and counts of each aspect [N, 10]."""
    parts = np.zeros((len(graded), 2 * len(_ALL)))
    for row, one in zip(parts, graded, strict=True):
        value = points(one.grade)
        if value is not None:
            at = 2 * _ALL.index(one.aspect)
            row[at : at + 2] = value, 1
    counted = int(parts[:, 1::2].sum())
    videos = tuple(one.item.video for one in graded)
    left_out = len(graded) - counted
    return Metric("score", "overall", parts, videos, _five, n=counted, left_out=left_out)


def _lmms_points(grade: Grade) -> float | None:
    return None if grade.status == "missing" else grade.score or 0.0


_POINTS: dict[str, judging.Value] = {"lmms_eval": _lmms_points, "strict": judging.strict_points}


def _five(sums: Floats) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums[..., 0::2] / sums[..., 1::2]).mean(-1)
