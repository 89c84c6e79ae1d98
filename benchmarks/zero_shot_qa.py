"""Zero-shot open question answering, graded by an LLM judge: MSVD-QA, MSRVTT-QA, TGIF-QA and ActivityNet-QA.

The judge says whether a prediction matches the answer, and gives it 0 to 5. The protocols ask it the same and read its
reply differently:

"official" is Video-ChatGPT's evaluate_activitynet_qa.py: the whole reply must be a Python dictionary; the score is
    cut to a whole number and not clipped; "yes" and then "no" are looked for anywhere in 'pred', so "unknown" is a
    no, and what has neither counts in the mean score alone. A reply that it would ask for again for ever, or that
    would stop it, is "no verdict" and in no number.
"video_llava" goes on where a kept reply would stop that script: the reply counts in the mean, as 0 unless its score
    can be read, and has no verdict.
"vlm_rlaif" shows the judge the question as VLM-RLAIF stores it, with "<image>\\n" in front; a "</s>" that ends a
    prediction in its files is shown too. A reply that lacks a key is left out.
"lmms_eval" (ActivityNet-QA alone; lmms-eval has no task for the others) reads the first {...}; a 'pred' with neither
    "yes" nor "no" in it counts in the mean alone. Where it would stop, "no verdict". It asks in a way of its own: see
    `question`.
"llava_hound" cuts predictions to 256 words, takes the first digits behind 'score', and looks for "yes" and then "no"
    in the whole reply; each number leaves out the replies that it finds nothing in.
"strict" shows the prediction without "</s>", reads the reply rightly (benchmarks.judge_replies.strict_qa) and counts
    every item: one without prediction, reply or readable verdict, or with a score outside 0 to 5, is wrong and has 0
    points.

The wording of the judge's prompt is ours: benchmarks/prompts/README.md.
A score outside 0 to 5 that a protocol counts has the status "off the scale".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from benchmarks import judge_replies, judging
from benchmarks.benchmark import check_protocol
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Item, Prediction, Predictions, Request, Shown
from benchmarks.metrics import ALL_DIGITS, Metric
from benchmarks.qa_files import IMAGE, read_qa, read_qa_predictions, write_qa

_ONE_WORD = " Answer the question using a single word or phrase."


@dataclass(frozen=True)
class ZeroShotQa:
    """What the four have in common.

    Attributes:
        question: how the model is asked: "plain" as the file has it (Video-ChatGPT, Video-LLaVA, VLM-RLAIF,
            LLaVA-Hound); "lmms_eval" with a capital, a question mark and the wish for a single word or phrase; go with
            it there 64 new tokens and temperature 0.
        prompts: folder with texts for the judge that stand in for ours; "" for none.
    """

    question: Literal["plain", "lmms_eval"] = "plain"
    prompts: str = ""

    name: ClassVar[str]
    source: ClassVar[str] = "https://github.com/mbzuai-oryx/Video-ChatGPT"
    protocols: ClassVar[tuple[str, ...]] = ("official", "video_llava", "vlm_rlaif", "llava_hound", "strict")
    files: ClassVar[Mapping[str, str]] = {
        "questions": "list of questions, such as test_q.json; or one list that has the answers too",
        "answers": "list of answers, such as test_a.json; not needed where the questions have them",
    }
    max_new_tokens: ClassVar[int] = 512  # As VLM-RLAIF, and its temperature.
    temperature: ClassVar[float] = 0.2
    revision: ClassVar[int] = 2

    @property
    def texts(self) -> Mapping[str, str]:
        asked = "{question}" if self.question == "plain" else "{Question}?" + _ONE_WORD
        return {"question": asked} | {name: judging.prompt(name, self.prompts) for name in ("qa_system", "qa_user")}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        return read_qa(files)

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:  # noqa: ARG002 - it asks the same of all
        question = item.questions[0]
        return (Request(question if self.question == "plain" else question.capitalize() + "?" + _ONE_WORD),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:  # noqa: ARG002
        check_protocol(self, protocol)
        strict = protocol == "strict"
        if prediction is None or not prediction.replies:
            return judging.wrong("missing") if strict else Grade("missing")
        question, reply = item.questions[0], prediction.replies[0]
        if strict:
            reply = judging.without_end(reply)
            if not reply:
                return judging.wrong("empty")
        if protocol == "vlm_rlaif":
            question = IMAGE + question
        if protocol == "llava_hound":
            reply = first_words(reply)
        said = {"question": question, "answer": item.answer, "prediction": reply}
        return judging.call("qa_system", "qa_user", self.prompts, **said)

    def judged(self, item: Item, aspect: str, reply: str, protocol: str) -> Grade:  # noqa: ARG002 - the reply says all
        check_protocol(self, protocol)
        return _READERS[protocol](reply)

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """Accuracy and mean score, over all items and by group; the scripts print the first two."""
        check_protocol(self, protocol)
        strict = protocol == "strict"
        right = judging.strict_verdict if strict else judging.verdict
        points = judging.strict_points if strict else judging.points
        digits, scale = _PRINTED[protocol]
        found = []
        for group, members in judging.by_group(graded).items():
            found.append(judging.mean_of("accuracy", group, members, right, digits=digits, scale=scale))
            found.append(judging.mean_of("score", group, members, points, digits=digits))
        return found

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        return write_qa(folder, items, predictions)

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        return read_qa_predictions(files, items)


def first_words(text: str, most: int = 256) -> str:
    """The first words of a text that has more than `most`; else the text as it is."""
    words = text.split()
    return " ".join(words[:most]) if len(words) > most else text


def _video_chatgpt(reply: str) -> Grade:
    read = judge_replies.video_chatgpt_qa(reply)
    if read.stage != "ok":
        return Grade("no verdict", judged=True)
    return _graded(read.verdict, read.score)


def _video_llava(reply: str) -> Grade:
    read = judge_replies.video_chatgpt_qa(reply)
    if read.stage == "aggregate":
        return Grade("unparsed", None, judging.as_points(read.score) or 0.0, judged=True)
    return Grade("no verdict", judged=True) if read.stage == "parse" else _graded(read.verdict, read.score)


def _lmms_eval(reply: str) -> Grade:
    read = judge_replies.lmms_activitynet(reply)
    if read is None:
        return Grade("no verdict", judged=True)
    correct = {"yes": True, "no": False}.get(read[0])
    return Grade(judging.status_of(read[1]), correct, judging.as_points(read[1]), read[0], judged=True)


def _llava_hound(reply: str) -> Grade:
    verdict, score = judge_replies.hound_verdict(reply), judge_replies.hound_extract_score(reply)
    # The script takes whatever reply it gets: nothing is asked again.
    return Grade("unparsed", judged=True) if verdict is None and score is None else _graded(verdict, score)


def _strict(reply: str) -> Grade:
    said = judge_replies.strict_qa(reply)
    if said.fault or said.score is None:
        return judging.wrong(said.fault or "no verdict", parsed=_shown(said.verdict, said.score), judged=True)
    return _graded(said.verdict, said.score)


def _graded(verdict: str | None, score: float | None) -> Grade:
    correct = None if verdict is None else verdict == "yes"
    return Grade(judging.status_of(score), correct, judging.as_points(score), _shown(verdict, score), judged=True)


def _shown(verdict: str | None, score: float | None) -> str | None:
    """What was read, as "yes 4"."""
    parts = [verdict or "", "" if score is None else f"{float(judging.as_points(score) or 0):g}"]
    return " ".join(part for part in parts if part) or None


_READERS = {
    "official": _video_chatgpt,
    "video_llava": _video_llava,
    "vlm_rlaif": _video_chatgpt,
    "lmms_eval": _lmms_eval,
    "llava_hound": _llava_hound,
    "strict": _strict,
}
# Digits of both numbers as the script prints them, and the scale of the accuracy.
_PRINTED: dict[str, tuple[int | None, float]] = {
    "official": (ALL_DIGITS, 1.0),
    "video_llava": (ALL_DIGITS, 1.0),
    "vlm_rlaif": (ALL_DIGITS, 1.0),
    "lmms_eval": (None, 100.0),
    "llava_hound": (2, 100.0),
    "strict": (None, 1.0),
}


class MsvdQa(ZeroShotQa):
    """MSVD-QA."""

    name = "msvd_qa"


class MsrvttQa(ZeroShotQa):
    """MSRVTT-QA."""

    name = "msrvtt_qa"


class TgifQa(ZeroShotQa):
    """TGIF-QA (FrameQA)."""

    name = "tgif_qa"


class ActivityNetQa(ZeroShotQa):
    """ActivityNet-QA. Its questions are small letters without a question mark; scores come by type of question too."""

    name = "activitynet_qa"
    protocols: ClassVar[tuple[str, ...]] = (
        "official",
        "video_llava",
        "vlm_rlaif",
        "lmms_eval",
        "llava_hound",
        "strict",
    )
