"""NExT-QA, multiple choice (CVPR 2021): causal, temporal and descriptive questions with five options.

Official scorer: doc-doc/NExT-QA, eval_mc.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from benchmarks.benchmark import ByRules, check_protocol
from benchmarks.choices import LETTERS, parse_multi_choice_response
from benchmarks.files import Pairs, json_pairs_of_file, kind_of_file, one_file, write_json
from benchmarks.grades import Grade, Graded
from benchmarks.items import Annotations, Item, Prediction, Predictions, Request, Shown
from benchmarks.metrics import Metric
from benchmarks.multiple_choice import accuracies, lettered, reply_of, strict_grade
from benchmarks.rows import ItemRows, PredictionRows, Row, RowError, cell, csv_rows, occurrence, rows_of_file
from benchmarks.strict_choices import letter_of
from storage.errors import FormatError

INSTRUCTION = "Answer with the option's letter from the given choices directly."

# Types in the official table's order, as it prints them. TP (what came before) counts as TN (what comes next).
TYPES = {"CW": "Why", "CH": "How", "TN": "Bef&Aft", "TC": "When", "DC": "Cnt", "DL": "Loc", "DO": "Other"}
KINDS = {"C": "Acc_C", "T": "Acc_T", "D": "Acc_D"}
_COLUMNS = ("video", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4")
_NONE = -1  # In a file of predictions: a reply that names no option.
_PRINTED: dict[str, dict[str, Any]] = {
    "official": {"digits": 2, "scale": 100.0},
    "lmms_eval": {"digits": 4},
    "strict": {},
}


@dataclass(frozen=True)
class NextQa(ByRules):
    """NExT-QA with five options."""

    name: ClassVar[str] = "nextqa"
    source: ClassVar[str] = "https://github.com/doc-doc/NExT-QA"
    protocols: ClassVar[tuple[str, ...]] = ("official", "lmms_eval", "strict")
    files: ClassVar[Mapping[str, str]] = {"": "CSV or Parquet: video, question, answer (0 to 4), qid, type, a0 to a4"}
    max_new_tokens: ClassVar[int] = 16
    temperature: ClassVar[float] = 0.0

    @property
    def texts(self) -> Mapping[str, str]:
        return {"instruction": INSTRUCTION}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        """The questions of a CSV file, or of a Parquet file with its columns.

        Raises:
            FormatError: the file cannot be read at all, or lacks a column.
        """
        path = one_file(self.name, files)
        rows = rows_of_file(path, "questions") if kind_of_file(path) == ".parquet" else csv_rows(path)
        first: Row = next((row for _, row in rows if isinstance(row, dict)), {})
        lacking = [column for column in _COLUMNS if first and column not in first]
        if lacking:
            raise FormatError(f"{path}: has no column {', '.join(lacking)}; columns are {', '.join(_COLUMNS)}.")
        return ItemRows().read(rows, _item)

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:
        """lmms-eval's prompt: the official models were classifiers, and asked nothing."""
        del shown
        options = [f"{letter}. {text}" for letter, text in lettered(item.options).items()]
        return (Request("\n".join([item.questions[0], *options, INSTRUCTION])),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade:
        """The grade by rules. "official" compares with the answer that the prediction's file gives, where it gives
        one. "lmms_eval" draws a letter (the same for an item each time) for a reply that names none: its status stays
        "unparsed", so that the draws can be counted.
        """
        del aspect
        check_protocol(self, protocol)
        if protocol == "lmms_eval":
            return _lmms_eval(item, prediction)
        strict = strict_grade(item, prediction)
        if protocol == "strict" or prediction is None or prediction.truth is None or strict.status != "ok":
            return strict
        return Grade("ok", correct=strict.parsed == prediction.truth, parsed=strict.parsed)

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """Accuracy of each type, of each kind (causal, temporal, descriptive), and over all items."""
        check_protocol(self, protocol)
        return accuracies(graded, _groups, _place, **_PRINTED[protocol])

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        """Writes the official tree of places of options. The script wants every item: one that has no prediction, or
        none that names an option, has -1, which is never right. The reply stands beside, for other scorers.
        """
        rows = {item.id: _prediction_row(item, predictions.get(item.id)) for item in items}
        return write_json(folder / "nextqa.json", rows)

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        """The predictions of official files: {"<video>_<qid>": {"prediction": 0 to 4, "answer": 0 to 4}}. Questions
        that share an id share its prediction, as in the script, unless the file has theirs ("<video>_<qid>#2").

        Raises:
            FormatError: a file cannot be read at all, or is no object.
        """
        found, known = PredictionRows(items), {item.id for item in items}
        for path in files:
            pairs = json_pairs_of_file(path)
            given = Counter(id for id, _ in pairs)
            left = known - given.keys()
            for id, value in pairs:
                row = dict(value) if isinstance(value, Pairs) else value
                where = f"{path.name} {id}"
                if found.is_object(row, where):
                    for one in [found.of(id)] if given[id] > 1 else [id, *_sharing(id, left)]:
                        found.read(where, one, partial(_prediction, row))
        return found.predictions


def _sharing(id: str, known: Collection[str]) -> Iterator[str]:
    """The further questions of an id: the official script scores each row of the CSV by the prediction of its id."""
    return takewhile(known.__contains__, (occurrence(id, number) for number in count(1)))


def _item(row: Row) -> Item:
    video, qid, question = cell(row, "video"), cell(row, "qid"), cell(row, "question")
    if not video:
        raise RowError("no video", "names no video.")
    if not qid or not question:
        raise RowError("malformed", f"has no {'question' if qid else 'qid'}.")
    # Blanks at the ends of options are not asked; the published scorers take them off too.
    options = tuple(cell(row, f"a{place}") for place in range(5))
    if not all(options):
        raise RowError("malformed", f"option a{options.index('')} of {video}_{qid} is empty.")
    answer = cell(row, "answer")
    if not answer:
        raise RowError("no answer", f"{video}_{qid} has no answer to score against.")
    if answer not in {"0", "1", "2", "3", "4"}:
        raise RowError("no answer", f"the answer {answer!r} of {video}_{qid} is none of 0 to 4.")
    type = "TN" if cell(row, "type") == "TP" else cell(row, "type")
    if type not in TYPES:
        raise RowError("malformed", f"the type {type!r} of {video}_{qid} is none of {', '.join(TYPES)}, TP.")
    return Item(
        id=f"{video}_{qid}",
        video=video,
        questions=(question,),
        answer=options[int(answer)],
        options=options,
        groups={"type": type, "kind": type[0]},
        source=row,
    )


def _lmms_eval(item: Item, prediction: Prediction | None) -> Grade:
    reply = reply_of(prediction)
    if reply is None:
        return Grade("missing", correct=False)
    picked = parse_multi_choice_response(reply, lettered(item.options), Random(item.id))
    correct = picked.letter == LETTERS[int(item.source["answer"])]
    if picked.guessed:
        return Grade("unparsed" if reply.strip() else "empty", correct=correct, parsed=picked.letter)
    return Grade("ok", correct=correct, parsed=picked.letter)


def _groups(item: Item) -> tuple[str, ...]:
    return f"type: {item.groups['type']}", f"kind: {item.groups['kind']}", "overall"


def _place(group: str) -> int:
    return [*(f"type: {type}" for type in TYPES), *(f"kind: {kind}" for kind in KINDS), "overall"].index(group)


def _prediction_row(item: Item, prediction: Prediction | None) -> Row:
    reply = reply_of(prediction)
    letter = letter_of(reply, item.options) if reply else None
    place = LETTERS.index(letter) if letter else _NONE
    answer = prediction.truth if prediction and prediction.truth else LETTERS[int(item.source["answer"])]
    row = {
        "prediction": place if place < len(item.options) else _NONE,
        "answer": LETTERS.index(answer),
    }
    return {**row, "missing": True} if reply is None else {**row, "reply": reply}


def _prediction(row: Row, item: Item) -> Prediction | None:
    if row.get("missing") is True:
        return None
    place, truth = _option(row, "prediction", item), _option(row, "answer", item)
    if truth is None and row.get("answer") is not None:
        raise RowError("malformed", f"the answer of {item.id!r} is none of the options 0 to 4.")
    letter = LETTERS[place] if place is not None else None
    reply = row.get("reply")
    # The number is the prediction; the text is kept only where it says the same.
    if not isinstance(reply, str) or (reply != letter and letter_of(reply, item.options) != letter):
        reply = letter or ""
    return Prediction((reply,), truth=LETTERS[truth] if truth is not None else None)


def _option(row: Row, key: str, item: Item) -> int | None:
    """The place of an option; None for -1 or nothing. Raises RowError for what is no place of one."""
    value = row.get(key)
    if key == "answer" and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
        raise RowError("malformed", f"the {key} of {item.id!r} must be a place of an option, not {value!r:.60}.")
    if value == _NONE:
        return None
    if not 0 <= value < len(item.options):
        raise RowError("malformed", f"the {key} {value!r} of {item.id!r} is none of the options 0 to 4.")
    return int(value)
