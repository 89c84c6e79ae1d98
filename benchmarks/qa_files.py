"""Files of open question answering: questions and answers in the forms of five repositories, and predictions likewise.

Annotations:
    ActivityNet-QA, Video-ChatGPT, Video-LLaVA: two lists, {"video_name", "question", "question_id"} and {"answer",
        "type", "question_id"}. Their scripts pair them by place; here the ids pair them (the n-th answer of an id
        with its n-th question), and places only where the answers have no ids.
    VLM-RLAIF: one list, {"video_name", "question_id", "question", "answer"}.
    LLaVA-Hound: one list, {"id", "video", "conversations": [{"value": question}, {"value": answer}]}.
Predictions:
    video_chatgpt.json: a list of {"video_name", "Q", "A", "pred"}, as evaluate_activitynet_qa.py reads them.
    video_llava.jsonl: {"id", "question", "answer", "pred"} a line, as eval_video_qa.py reads them; the inference of
        Video-ChatGPT writes the same as a list, which its own scorer cannot read.
    vlm_rlaif.json: the same as a list, "<image>\\n" in front of the question, as gpt_eval.py reads them.
    llava_hound.jsonl: {"id", "query", "answer", ..., "model_prediction": {"status", "message"}} a line.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from benchmarks.files import write_rows
from benchmarks.items import Annotations, Item, Prediction, Predictions, replied
from benchmarks.rows import ItemRows, Places, PredictionRows, Row, rows_of_file, text_of
from storage.errors import FormatError

IMAGE = "<image>\n"
_TOKENS = ("<video>", "<image>")
_ID = ("question_id", "id", "idx")

# Of ActivityNet-QA's answers (https://github.com/MILVLG/activitynet-qa, dataset/README.md), as its scorer prints them.
TYPES = {
    0: "Motion",
    1: "Spatial Relation",
    2: "Temporal Relation",
    3: "Yes/No",
    4: "Color",
    5: "Object",
    6: "Location",
    7: "Number",
    8: "Other",
}


def plain(text: str) -> str:
    """A question without the tokens that stand for a video."""
    for token in _TOKENS:
        text = text.replace(token, "")
    return text.strip()


def read_qa(files: Mapping[str, Path]) -> Annotations:
    """The items of {"questions": file} with {"answers": file} beside it, or of one file that has both.

    Raises:
        FormatError: no file of questions, or one that cannot be read.
    """
    path = files.get("questions") or files.get("")
    if path is None:
        raise FormatError('A file of questions is missing: name it under "questions", and its answers under "answers".')
    found, rows = ItemRows(), rows_of_file(path, "questions")
    answers = _Answers(files["answers"], len(rows), found) if files.get("answers") else None
    seen: dict[str, int] = {}
    for place, (where, raw) in enumerate(rows):
        if not found.is_object(raw, where):
            continue
        row = _turns(raw)
        video = text_of(row, "video_name", "video", "video_id")
        seen[video] = seen.get(video, -1) + 1
        id = text_of(row, *_ID) or f"{video}_{seen[video]}"
        asked = video, text_of(row, "question", "Q")
        found.add(where, _item({**row, **(answers.of(id, place, asked) if answers else {})}, id, video))
    if answers:
        answers.report_unasked(found)
    return found.annotations


def _turns(row: Row) -> Row:
    """A row of LLaVA-Hound's form with its turns as question and answer; another as it is."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns):
        return row
    return {"question": turns[0].get("value"), "answer": turns[1].get("value"), **row}


def _item(row: Row, id: str, video: str) -> Item:
    kind = row.get("type")
    groups = {"type": TYPES.get(kind, str(kind))} if isinstance(kind, int) and not isinstance(kind, bool) else {}
    question, answer = plain(text_of(row, "question", "Q")), text_of(row, "answer", "A")
    return Item(id, video, (question,), answer, groups=groups, source=row)


class _Answers:
    """A file of answers, by the id of their question, or by place where they have none."""

    def __init__(self, path: Path, n_questions: int, found: ItemRows) -> None:
        rows = rows_of_file(path, "answers")
        self._by_place = not any(isinstance(row, dict) and "question_id" in row for _, row in rows)
        if self._by_place and len(rows) != n_questions:
            raise FormatError(
                f"{path}: {len(rows)} answers without question_id, but {n_questions} questions: they cannot be paired."
            )
        self._asked: defaultdict[str, list[Hashable]] = defaultdict(list)
        self._rows: defaultdict[str, list[tuple[str, Row]]] = defaultdict(list)
        for place, (where, row) in enumerate(rows):
            if found.is_object(row, where):
                self._rows[str(place) if self._by_place else text_of(row, "question_id")].append((where, row))

    def of(self, id: str, place: int, asked: Hashable) -> Row:
        """The answer to a question; {} for none. Of an id that several questions have, the n-th is to the n-th; one
        that was asked before, and has none of its own, has the same again.
        """
        key = str(place) if self._by_place else id
        rows, before = self._rows[key], self._asked[key]
        number = len(before) if len(before) < len(rows) or asked not in before else before.index(asked)
        before.append(asked)
        return rows[number][1] if number < len(rows) else {}

    def report_unasked(self, found: ItemRows) -> None:
        """Answers that no question took are faults."""
        for id, rows in self._rows.items():
            for where, _ in rows[len(self._asked[id]) :]:
                if self._asked[id]:
                    found.fault("duplicate", where, f"a second answer to {id!r}: the first counts")
                else:
                    found.fault("unknown", where, f"answers a question that is not asked: {id!r}")


def write_qa(folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
    """Writes predictions in all four forms; items without one are left out, as the scorers want it."""
    said = replied(items, predictions)
    forms = {
        "video_chatgpt.json": [_video_chatgpt(item, reply) for item, reply in said],
        "video_llava.jsonl": [_video_llava(item, item.questions[0], reply) for item, reply in said],
        "vlm_rlaif.json": [_video_llava(item, IMAGE + item.questions[0], reply) for item, reply in said],
        "llava_hound.jsonl": [hound_row(item, reply) for item, reply in said],
    }
    return [path for name, rows in forms.items() for path in write_rows(folder / name, rows)]


def _video_chatgpt(item: Item, reply: str) -> Row:
    """The scorer reads four keys; the id lets a prediction find its item without counting."""
    return {
        "video_name": item.video,
        "Q": item.questions[0],
        "A": item.answer,
        "pred": reply,
        "question_id": item.id,
        "type": item.source.get("type"),
    }


def _video_llava(item: Item, question: str, reply: str) -> Row:
    return {"id": item.id, "question": question, "answer": item.answer, "pred": reply}


def hound_row(item: Item, reply: str) -> Row:
    """A row as LLaVA-Hound's inference writes it; one of its scorers reads "video_path", the others "modal_path"."""
    return {
        "id": item.id,
        "modal_path": item.video,
        "video_path": item.video,
        "query": item.questions[0],
        "answer": item.answer,
        "modal_type": "VIDEO",
        "video_decode_backend": "frames",
        "model_prediction": {"status": "success", "message": reply},
    }


def read_qa_predictions(files: Sequence[Path], items: Sequence[Item]) -> Predictions:
    """Predictions in any of the forms, also mixed. A row without an id is the next of its video and question; one whose
    id several items share is the next of the id and its question.
    """
    found = PredictionRows(items)
    places = Places(((item.video, item.questions[0]), item.id) for item in items)
    shared = Places(((text_of(item.source, *_ID), item.questions[0]), item.id) for item in items)
    for path in files:
        for where, row in found.objects(rows_of_file(path, "predictions")):
            id = text_of(row, "id", "question_id") or None
            asked = plain(text_of(row, "Q", "question", "query"))
            if id is None:
                id = places.next((text_of(row, "video_name"), asked))
            else:
                id = shared.next((id, asked)) or found.of(id)
            if "model_prediction" in row:
                add_hound(found, where, id, row["model_prediction"])
            else:
                found.add(where, id, row.get("pred"))
    return found.predictions


def add_hound(found: PredictionRows, where: str, id: str | None, said: object) -> None:
    """Keeps LLaVA-Hound's {"status", "message"} where the status is "success"; else it is a fault, as there."""
    if not isinstance(said, dict) or said.get("status") != "success":
        status = said.get("status") if isinstance(said, dict) else said
        found.fault("malformed", where, f"is no prediction: its status is {status!r}, not 'success'")
        return
    found.add(where, id, said.get("message"))
