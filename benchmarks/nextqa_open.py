"""NExT-QA's open-ended questions (NExT-OE): WUPS@0 and WUPS@0.9.

Protocols:
    official: eval_oe.py of https://github.com/doc-doc/NExT-OE. Binary and counting questions (DB, DC) need the same
        words; all others get the greater WUPS to the answer and to its second reference. The script stops at an item
        without a prediction; here such an item is left out and counted. It prints WUPS@0 alone.
    lmms_eval: the copy of lmms-eval, which compares the second reference with threshold 0 for WUPS@0.9 too.
    strict: WUPS as it was defined (see `benchmarks.wups`); a missing prediction is 0; end tokens and punctuation are
        no words; an answer of stop words alone keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.benchmark import ByRules, check_protocol
from benchmarks.files import Pairs, json_of_file, json_pairs_of_file, one_file, write_json
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Fault, Item, Prediction, Predictions, Request, Shown, replied
from benchmarks.metrics import Metric, mean
from benchmarks.rows import ItemRows, PredictionRows, Row, RowError, cell, rows_of_file, wanted
from benchmarks.wordnet import wordnet
from benchmarks.wups import STOP_WORDS, WordSimilarity, content, official_content, official_wups, wups
from storage.errors import FormatError

THRESHOLDS = {"WUPS@0": 0.0, "WUPS@0.9": 0.9}
# Types as the script counts them (TP is counted as TN), in the order in which it prints them.
_KINDS = {"causal": ("CW", "CH"), "temporal": ("TN", "TC"), "descriptive": ("DB", "DC", "DL", "DO")}
_KIND_OF = {kind: name for name, kinds in _KINDS.items() for kind in kinds}
_EXACT = ("DB", "DC")
_SECOND = "additional_ref_answer"  # lmms-eval's name for the second reference


@dataclass(frozen=True)
class NextQaOpen(ByRules):
    """NExT-OE. An item's aspects are the two thresholds; grades have scores in [0, 1].

    Attributes:
        word_data: folder of NLTK's data; "": where NLTK looks by itself. See `benchmarks.wordnet`.
        words: takes the place of WordNet, for tests.
    """

    word_data: str = ""
    words: WordSimilarity | None = None

    name: ClassVar[str] = "nextqa_open"
    source: ClassVar[str] = "https://github.com/doc-doc/NExT-OE"
    protocols: ClassVar[tuple[str, ...]] = ("official", "lmms_eval", "strict")
    files: ClassVar[Mapping[str, str]] = {
        "": "the questions: val.csv or test.csv of NExT-OE, or rows of lmms-eval's data set",
        "references": "add_reference_answer_test.json, the second references; may be left out",
    }
    max_new_tokens: ClassVar[int] = 64
    temperature: ClassVar[float] = 0.0

    # What lmms-eval adds to the question; the original asks models that know nothing but short answers.
    after: ClassVar[str] = "\nAnswer a question using a short phrase or sentence."

    @property
    def texts(self) -> Mapping[str, str]:
        return {"after": self.after, "stop words": " ".join(sorted(STOP_WORDS))}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        """The questions of a file. A second reference for no question is a fault, and so is a question without one
        whose video has others (there the official script stops).

        Raises:
            FormatError: a file or the word data cannot be read.
        """
        self._taxonomy()  # missing word data must not be found out after all the answers were generated
        rows = ItemRows()
        seconds = _references(files["references"], rows) if "references" in files else {}
        path = one_file(self.name, files, "references")
        found = rows.read(rows_of_file(path, "questions"), lambda row: _item(row, seconds))
        return Annotations(found.items, found.faults + tuple(_odd_references(found.items, seconds)))

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:
        """The question, with a wish for a short answer."""
        del shown
        return (Request(text=item.questions[0] + self.after),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:
        """The likeness of the reply to the nearest reference, by one threshold."""
        check_protocol(self, protocol)
        if prediction is None or not prediction.replies:
            return Grade("missing", score=0.0 if protocol == "strict" else None)
        reply = prediction.replies[0]
        references = [item.answer, *filter(None, [item.source.get(_SECOND)])]
        taxonomy = self._taxonomy()
        if protocol == "strict":
            score, parsed = _strict(item, reply, references, THRESHOLDS[aspect], taxonomy)
        else:
            second = 0.0 if protocol == "lmms_eval" else THRESHOLDS[aspect]
            score, parsed = _as_script(item, reply, references, (THRESHOLDS[aspect], second), taxonomy)
        exact = item.groups["type"] in _EXACT
        return Grade("ok" if reply.strip() else "empty", score == 1.0 if exact else None, score, parsed)

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """The columns of the official table, WUPS@0 and then WUPS@0.9, of the types that occur."""
        check_protocol(self, protocol)
        found: list[Metric] = []
        for aspect in THRESHOLDS:
            # The official script prints WUPS@0 alone; lmms-eval gives a number as it is.
            digits = 2 if (protocol, aspect) == ("official", "WUPS@0") else None
            scale = 1.0 if protocol == "strict" else 100.0
            for group, ones in _table([one for one in graded if one.aspect == aspect]):
                scores, videos = [one.grade.score for one in ones], [one.item.video for one in ones]
                found.append(mean(aspect, group, scores, videos, digits=digits, scale=scale))
        return found

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        """Writes `nextqa_open.json` as the official script reads it: {video: {qid: reply}}."""
        tree: dict[str, dict[str, str]] = {}
        for item, reply in replied(items, predictions):
            tree.setdefault(item.video, {})[item.id.removeprefix(f"{item.video}_")] = reply
        return write_json(folder / "nextqa_open.json", tree)

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        """Predictions from official files {video: {qid: reply}}."""
        found = PredictionRows(items)
        for path in files:
            for where, id, reply in _replies(path, found):
                found.add(where, found.of(id), reply)
        return found.predictions

    def _taxonomy(self) -> WordSimilarity:
        return self.words if self.words is not None else wordnet(self.word_data)


def _item(row: Row, seconds: Mapping[tuple[str, str], str]) -> Item:
    video, qid = wanted(row, "no video", "video"), wanted(row, "malformed", "qid")
    kind = wanted(row, "malformed", "type")
    kind = "TN" if kind == "TP" else kind
    if kind not in _KIND_OF:
        raise RowError("malformed", f"its type {kind!r} is none of {', '.join(_KIND_OF)}.")
    second = seconds.get((video, qid)) or cell(row, _SECOND)
    return Item(
        id=f"{video}_{qid}",
        video=video,
        questions=(wanted(row, "malformed", "question"),),
        answer=wanted(row, "no answer", "answer"),
        aspects=tuple(THRESHOLDS),
        groups={"kind": _KIND_OF[kind], "type": kind},
        source={**row, "video": video, "qid": qid, _SECOND: second},
    )


def _references(path: Path, rows: ItemRows) -> dict[tuple[str, str], str]:
    """Second references by (video, qid)."""
    value = json_of_file(path)
    if not isinstance(value, dict) or any(not isinstance(by_qid, dict) for by_qid in value.values()):
        raise FormatError(f"{path}: is no JSON object {{video: {{qid: answer}}}}.")
    found = {}
    for video, qid, text in ((video, qid, text) for video, by_qid in value.items() for qid, text in by_qid.items()):
        if isinstance(text, str) and text.strip():
            found[video, qid] = text.strip()
        else:
            rows.fault("malformed", f"{path.name} {video} {qid}", f"is no text but {str(text)[:60]!r}.")
    return found


def _odd_references(items: Sequence[Item], seconds: Mapping[tuple[str, str], str]) -> Iterator[Fault]:
    asked = {(item.video, str(item.source["qid"])) for item in items}
    for video, qid in seconds:
        if (video, qid) not in asked:
            yield Fault("unknown", f"reference {video} {qid}", "is for no question of the annotations.")
    with_others = {video for video, _ in seconds}
    for video, qid in sorted(asked - set(seconds)):
        if video in with_others:
            reason = "has no second reference, though other questions of its video have: one reference is used."
            yield Fault("no answer", f"{video}_{qid}", reason)


def _as_script(
    item: Item, reply: str, references: Sequence[str], thresholds: tuple[float, float], taxonomy: WordSimilarity
) -> tuple[float, str]:
    """Score and compared words by the official script; `thresholds` of the first and of the second reference."""
    said, *right = (official_content(text, taxonomy) for text in (reply, *references))
    if item.groups["type"] in _EXACT:
        return float(said in right), said
    words = taxonomy.tokens(said)
    scores = (
        official_wups(words, taxonomy.tokens(one), threshold, taxonomy)
        for one, threshold in zip(right, thresholds, strict=False)
    )
    return max(scores), said


def _strict(
    item: Item, reply: str, references: Sequence[str], threshold: float, taxonomy: WordSimilarity
) -> tuple[float, str]:
    said, *right = (content(text, taxonomy) for text in (reply, *references))
    if not said:
        return 0.0, ""
    if item.groups["type"] in _EXACT:
        return float(said in right), " ".join(said)
    return max(wups(said, one, threshold, taxonomy) for one in right), " ".join(said)


def _table(graded: Sequence[Graded]) -> Iterator[tuple[str, list[Graded]]]:
    """The columns of the official table, in its order, and who is in them; those that are empty are left out."""
    columns = []
    for kind, types in _KINDS.items():
        columns += [(f"type: {name}", [one for one in graded if one.item.groups["type"] == name]) for name in types]
        columns.append((f"kind: {kind}", [one for one in graded if one.item.groups["kind"] == kind]))
    columns.append(("overall", list(graded)))
    yield from ((group, ones) for group, ones in columns if ones)


def _replies(path: Path, rows: PredictionRows) -> Iterator[tuple[str, str, Any]]:
    """Where it stands, item's id and reply of each prediction of a file, repeated ones too."""
    for video, by_qid in json_pairs_of_file(path):
        if not isinstance(by_qid, Pairs):
            rows.fault("malformed", f"{path.name} {video}", "is no JSON object {qid: reply}.")
            continue
        for qid, reply in by_qid:
            yield f"{path.name} {video} {qid}", f"{video}_{qid}", reply
