"""ActivityNet-QA by exact match: the numbers of its own scorer (https://github.com/MILVLG/activitynet-qa, eval.py).

Every answer of the file counts, so a missing prediction is wrong.

"official": an answer is right where it equals the true one, capitals and spaces included. The scorer's fault in "Free"
    (types 3 to 8) is repeated: it divides by the number of all questions but those of the three types that come first
    in the file of answers, whichever they are. On the published validation file, where yes or no comes first, it
    prints 0.7583.
"strict" divides by the number of questions of types 3 to 8: 0.5055 there. An answer is compared without the "</s>" that
    ends it in some files, without marks at its end, and in any case: "Yes." is "yes".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import judging
from benchmarks.benchmark import ByRules, check_protocol
from benchmarks.files import write_rows
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Item, Prediction, Predictions, Request, Shown, replied
from benchmarks.metrics import Metric, mean
from benchmarks.qa_files import TYPES
from benchmarks.rows import ItemRows, PredictionRows, rows_of_file, text_of
from storage.errors import FormatError

_FREE = range(3, 9)
_ONE_WORD = " Answer the question using a single word or phrase."
# The order in which the scorer prints: types, then Free and All, then the types of Free.
_PRINTED = (0, 1, 2, "Free", "All", 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class ActivityNetQaExact(ByRules):
    """ActivityNet-QA, exact match. How a model is asked is ours: its scorer is of classifiers."""

    name: ClassVar[str] = "activitynet_qa_exact"
    source: ClassVar[str] = "https://github.com/MILVLG/activitynet-qa"
    protocols: ClassVar[tuple[str, ...]] = ("official", "strict")
    files: ClassVar[Mapping[str, str]] = {
        "answers": "list of answers with their types, such as test_a.json",
        "questions": "list of questions, such as test_q.json; needed where a model is asked",
    }
    max_new_tokens: ClassVar[int] = 64
    temperature: ClassVar[float] = 0.0

    @property
    def texts(self) -> Mapping[str, str]:
        return {"question": "{Question}?" + _ONE_WORD}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        path = files.get("answers") or files.get("")
        if path is None:
            raise FormatError('A file of answers is missing: name it under "answers".')
        found = ItemRows()
        asked = _Questions(files["questions"], found) if files.get("questions") else None
        for number, (where, row) in enumerate(rows_of_file(path, "answers")):
            if not isinstance(row, dict) or not _typed(row) or not text_of(row, "question_id"):
                found.fault("malformed", where, f"is no answer with question_id and a type of 0 to {max(TYPES)}")
                continue
            id = text_of(row, "question_id")
            question = asked.of(id) if asked else {}
            if question is None:
                found.fault("malformed", where, f"answers a question that is not asked: {id!r}")
                continue
            found.add(where, _item(id, {**question, **row, "row": number}))
        return found.annotations

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:  # noqa: ARG002 - it asks the same of all
        if item.questions == (item.id,):
            raise FormatError(f"Question {item.id} has no text: name the file of questions too.")
        return (Request(item.questions[0].capitalize() + "?" + _ONE_WORD),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:  # noqa: ARG002
        check_protocol(self, protocol)
        if prediction is None or not prediction.replies:
            return judging.wrong("missing")
        strict = protocol == "strict"
        said, right = (_bare(text) if strict else text for text in (prediction.replies[0], item.answer))
        if not said:
            return judging.wrong("empty")
        return Grade("ok", said == right, float(said == right), said)

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """Accuracy by type, of Free and of All ("overall"), as the scorer prints them."""
        check_protocol(self, protocol)
        ordered = sorted(graded, key=lambda one: one.item.source["row"])
        found = []
        for what in _PRINTED:
            if what == "Free":
                found.append(_free(ordered, official=protocol == "official"))
                continue
            each = ordered if what == "All" else [one for one in ordered if one.item.source["type"] == what]
            values, videos = [_right(one) for one in each], [one.item.video for one in each]
            group = "overall" if what == "All" else f"type: {TYPES[int(what)]}"
            found.append(mean("accuracy", group, values, videos, digits=4))
        return found

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        rows = [{"question_id": item.id, "answer": reply} for item, reply in replied(items, predictions)]
        return write_rows(folder / "predictions.json", rows)

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        """Lists of {"question_id", "answer"}. The scorer would count each of two predictions for one question."""
        found = PredictionRows(items)
        for path in files:
            for where, row in found.objects(rows_of_file(path, "predictions")):
                found.add(where, found.of(text_of(row, "question_id")), row.get("answer"))
        return found.predictions


class _Questions:
    """A file of questions by id; of those that share one, the n-th is of the n-th answer."""

    def __init__(self, path: Path, found: ItemRows) -> None:
        self._rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._taken: defaultdict[str, int] = defaultdict(int)
        for where, row in rows_of_file(path, "questions"):
            id = text_of(row, "question_id") if isinstance(row, dict) else ""
            if not id or not text_of(row, "question"):
                found.fault("malformed", where, "is no question with question_id")
            else:
                self._rows[id].append(row)

    def of(self, id: str) -> dict[str, Any] | None:
        """The question of the next answer to an id; the last again where answers are more; None for none."""
        rows = self._rows.get(id)
        if not rows:
            return None
        self._taken[id] += 1
        return rows[min(self._taken[id], len(rows)) - 1]


def _typed(row: dict[str, Any]) -> bool:
    return isinstance(row.get("type"), int) and row["type"] in TYPES


def _item(id: str, row: dict[str, Any]) -> Item:
    """An id is "v_<video>_<number>"; it stands in for a question whose text is not given."""
    video = text_of(row, "video_name") or re.sub(r"^v_|_\d+$", "", id)
    question = text_of(row, "question") or id
    return Item(id, video, (question,), text_of(row, "answer"), groups={"type": TYPES[row["type"]]}, source=row)


def _bare(answer: str) -> str:
    """An answer without what does not tell it from another; one of nothing but marks as it stands."""
    text = judging.without_end(answer).casefold()
    return text.rstrip(".,;:!? ") or text


def _right(one: Graded) -> float:
    return judging.strict_verdict(one.grade)


def _free(ordered: Sequence[Graded], *, official: bool) -> Metric:
    """Right answers of types 3 to 8 over questions: of those types, or of all but the first three types to come."""
    types = [one.item.source["type"] for one in ordered]
    counted = list(dict.fromkeys(types))[3:] if official else _FREE
    parts = [[_right(one) * (kind in _FREE), float(kind in counted)] for one, kind in zip(ordered, types, strict=True)]
    videos = tuple(one.item.video for one in ordered)
    n = sum(kind in _FREE for kind in types)
    return Metric("accuracy", "type: Free", np.array(parts, np.float64).reshape(-1, 2), videos, n=n, digits=4)
