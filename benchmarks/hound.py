"""LLaVA-Hound's own video question answering (and i-SRT's, which is the same): a judge that reads a true caption.

The judge is shown the caption of the video, the question, the true answer and the prediction, and gives a score of 1 to
5. Accuracy is the share of scores of at least 3.

"official" is https://github.com/RifleZhang/LLaVA-Hound-DPO, eval_qa.py: the prediction is cut to 256 words; the score
    is the number behind "Score: ", else the commonest number of the reply, else 1; nothing is clipped or asked again
    (what is not 1 to 5 has the status "off the scale").
"strict" reads a line "Score: 4" alone, of 1 to 5, and counts every item: one without prediction, reply or readable
    score is wrong and has 0 points.

The wording of the judge's prompt is ours: benchmarks/prompts/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from benchmarks import judge_replies, judging
from benchmarks.benchmark import check_protocol
from benchmarks.files import write_rows
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Fault, Item, Prediction, Predictions, Request, Shown, replied
from benchmarks.metrics import Metric
from benchmarks.qa_files import hound_row, read_qa, read_qa_predictions
from benchmarks.rows import rows_of_file, text_of
from benchmarks.zero_shot_qa import first_words
from storage.errors import FormatError

_RIGHT = 3.0


@dataclass(frozen=True)
class LlavaHound:
    """LLaVA-Hound's own QA.

    Attributes:
        prompts: folder with texts for the judge that stand in for ours; "" for none.
    """

    prompts: str = ""

    name: ClassVar[str] = "llava_hound"
    source: ClassVar[str] = "https://github.com/RifleZhang/LLaVA-Hound-DPO"
    protocols: ClassVar[tuple[str, ...]] = ("official", "strict")
    files: ClassVar[Mapping[str, str]] = {
        "questions": 'rows of {"id", "video", "conversations"}, the second turn being the true answer',
        "captions": 'rows of {"video", "caption"}: the true captions',
    }
    max_new_tokens: ClassVar[int] = 1024
    temperature: ClassVar[float] = 0.0
    revision: ClassVar[int] = 2

    @property
    def texts(self) -> Mapping[str, str]:
        return {"question": "{question}", "hound_user": judging.prompt("hound_user", self.prompts)}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        """An item whose video has no caption is a fault: the scorer passes over it too."""
        if "captions" not in files:
            raise FormatError('A file of captions is missing: name it under "captions".')
        captions, faults = _captions(files["captions"])
        read = read_qa(files)
        items = []
        for item in read.items:
            caption = captions.get(_stem(item.video))
            if caption is None:
                faults.append(
                    Fault("no answer", item.id, f"no true caption of video {_stem(item.video)!r} to score by")
                )
            else:
                items.append(replace(item, source={**item.source, "caption": caption}))
        return Annotations(tuple(items), (*read.faults, *faults))

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:  # noqa: ARG002 - it asks the same of all
        return (Request(item.questions[0]),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:  # noqa: ARG002
        check_protocol(self, protocol)
        strict = protocol == "strict"
        if prediction is None or not prediction.replies:
            return judging.wrong("missing") if strict else Grade("missing")
        reply = prediction.replies[0]
        if strict:
            reply = judging.without_end(reply)
            if not reply:
                return judging.wrong("empty")
        said = {"caption": item.source["caption"], "question": item.questions[0], "answer": item.answer}
        return judging.call("", "hound_user", self.prompts, prediction=first_words(reply), **said)

    def judged(self, item: Item, aspect: str, reply: str, protocol: str) -> Grade:  # noqa: ARG002 - the reply says all
        check_protocol(self, protocol)
        if protocol == "official":
            return _scored(judge_replies.hound_get_score(reply))
        said = judge_replies.strict_explained(reply)
        if said.fault or said.score is None:
            parsed = None if said.score is None else f"{said.score:g}"
            return judging.wrong(said.fault or "no verdict", parsed=parsed, judged=True)
        return _scored(said.score)

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """Accuracy and mean score, as the scorer prints them ("acc/score")."""
        check_protocol(self, protocol)
        strict = protocol == "strict"
        right = judging.strict_verdict if strict else judging.verdict
        points = judging.strict_points if strict else judging.points
        digits, scale = (None, 1.0) if strict else (2, 100.0)
        return [
            judging.mean_of("accuracy", "overall", graded, right, digits=digits, scale=scale),
            judging.mean_of("score", "overall", graded, points, digits=digits),
        ]

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        rows = [hound_row(item, reply) for item, reply in replied(items, predictions)]
        return write_rows(folder / "predictions.jsonl", rows)

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        return read_qa_predictions(files, items)


def _captions(path: Path) -> tuple[dict[str, str], list[Fault]]:
    """Captions by video; the last of a video counts, as in the scorer."""
    captions, faults = {}, []
    for where, row in rows_of_file(path, "captions"):
        video, caption = (text_of(row, "video"), text_of(row, "caption")) if isinstance(row, dict) else ("", "")
        if not video or not caption:
            faults.append(Fault("malformed", where, 'is no row with "video" and "caption"'))
            continue
        if _stem(video) in captions:
            faults.append(Fault("duplicate", where, f"a second caption of video {_stem(video)!r}: the last counts"))
        captions[_stem(video)] = caption
    return captions, faults


def _stem(video: str) -> str:
    """How the scorer names a video: the end of its path, up to the first dot."""
    return video.rpartition("/")[2].partition(".")[0]


def _scored(score: float) -> Grade:
    points = judging.as_points(score)
    return Grade(judging.status_of(score, low=1.0), score >= _RIGHT, points, f"{points:g}", judged=True)
