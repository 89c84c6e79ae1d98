"""Action recognition over a list of labels by answer likelihood: Top-1 and Top-5.

The protocol is ours. VLM-RLAIF reports zero-shot recognition on UCF101 and HMDB51 (arXiv 2402.03746) but released
neither a script nor a description of it, so there is no official protocol to reproduce.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from benchmarks.benchmark import ByRules, check_protocol
from benchmarks.choice_scores import rank, read_scores, usable, write_scores
from benchmarks.files import json_of_file, kind_of_file, one_file, text_of_file
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Item, Prediction, Predictions, Request, Shown
from benchmarks.metrics import Metric, mean, members
from benchmarks.rows import ItemRows, Row, RowError, cell, rows_of_file, wanted
from storage.errors import FormatError

Normalisation = Literal["sum", "mean"]
_TOP = {"Top-1": 1, "Top-5": 5}
_LABEL = ("label", "class", "action", "answer")
_VIDEO = ("video", "video_id", "video_name", "path")


@dataclass(frozen=True)
class Recognition(ByRules):
    """Action recognition. An item is a video; its options are all labels, its aspects Top-1 and Top-5.

    A label ranks by its log-probability as the answer. Labels that tie with the right one stand before it.

    Attributes:
        normalise: "sum" takes a label's log-probability as it is, so that the labels compete with what the model would
            say; "mean" divides it by its tokens, which does not put long labels at a disadvantage but favours those
            whose last tokens follow from their first ones.
        readable: labels are shown as words ("ApplyEyeMakeup" and "apply_eye_makeup" as "apply eye makeup").
        prompt: what the model is asked about a video.
    """

    normalise: Normalisation = "sum"
    readable: bool = True
    prompt: str = "What is the person in the video doing? Answer with the name of the action alone."

    name: ClassVar[str] = "recognition"
    source: ClassVar[str] = "https://arxiv.org/abs/2402.03746"
    protocols: ClassVar[tuple[str, ...]] = ("strict",)
    files: ClassVar[Mapping[str, str]] = {
        "": "videos and their labels: CSV, JSON or JSON lines of video and label, or UCF101's testlist01.txt",
        "labels": "all labels, one a line or a JSON list; may be left out: then those that occur",
    }
    max_new_tokens: ClassVar[int] = 0
    temperature: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if self.normalise not in get_args(Normalisation):
            raise ValueError(f"recognition: normalise is 'sum' or 'mean', not {self.normalise!r}.")

    @property
    def texts(self) -> Mapping[str, str]:
        return {"prompt": self.prompt}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        """The videos of a file. A label that the list does not hold is a fault of its video's row.

        Raises:
            FormatError: a file cannot be read, there are fewer than two labels, or two would be shown alike.
        """
        path = one_file(self.name, files, "labels")
        rows = _listed_rows(path) if kind_of_file(path) == ".txt" else rows_of_file(path, "videos")
        labels = labels_of_file(files["labels"]) if "labels" in files else _occurring(rows)
        shown = self._shown(files.get("labels", path), labels)
        return ItemRows().read(rows, lambda row: self._item(row, shown))

    def _shown(self, path: Path, labels: Sequence[str]) -> dict[str, str]:
        """What is shown for each label."""
        shown = {label: as_words(label) if self.readable else label for label in labels}
        if len(shown) < 2:
            raise FormatError(f"{path}: has {len(shown)} labels; recognition needs two or more.")
        if len(set(shown.values())) < len(shown):
            alike = sorted(label for label, words in shown.items() if list(shown.values()).count(words) > 1)
            raise FormatError(f"{path}: labels {', '.join(alike[:4])} look alike as words: set readable to false.")
        return shown

    def _item(self, row: Row, shown: Mapping[str, str]) -> Item:
        video = wanted(row, "no video", *_VIDEO)
        label = wanted(row, "no answer", *_LABEL)
        if label not in shown:
            raise RowError("no answer", f"its label {label!r} is not among the {len(shown)} labels of the list.")
        return Item(
            id=cell(row, "id") or video,
            video=video,
            questions=(self.prompt,),
            answer=shown[label],
            options=tuple(shown.values()),
            aspects=tuple(_TOP),
            groups={"label": label},
            source=dict(row),
        )

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:
        """One request a video: the log-probability of every label as the answer."""
        del shown
        return (Request(text=self.prompt, choices=item.options),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:
        """Whether the right label is among the first k. `parsed` is the first label."""
        check_protocol(self, protocol)
        if prediction is None:
            return Grade("missing", correct=False)
        scores = self._scores(prediction)
        if not usable(scores, len(item.options)):
            return Grade("unparsed", correct=False)
        first = max(range(len(scores)), key=scores.__getitem__)
        return Grade("ok", correct=rank(scores, item.right) <= _TOP[aspect], parsed=item.options[first])

    def _scores(self, prediction: Prediction) -> tuple[float, ...]:
        if self.normalise == "sum":
            return prediction.scores
        if len(prediction.n_tokens) != len(prediction.scores) or min(prediction.n_tokens, default=0) < 1:
            return ()
        return tuple(score / n for score, n in zip(prediction.scores, prediction.n_tokens, strict=True))

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """Top-1 and Top-5 over all videos, then Top-1 of each label."""
        check_protocol(self, protocol)
        by_aspect = members((one.aspect, one) for one in graded)
        found = [_share(name, "overall", by_aspect[name]) for name in _TOP if name in by_aspect]
        by_label = members((one.item.groups["label"], one) for one in by_aspect.get("Top-1", ()))
        return found + [_share("Top-1", f"label: {label}", ones) for label, ones in sorted(by_label.items())]

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        """Writes `recognition.jsonl`, our form: see `write_scores`."""
        return write_scores(folder / "recognition.jsonl", items, predictions)

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        """Predictions from files that `write` wrote."""
        return read_scores(files, items)


def _share(name: str, group: str, graded: Sequence[Graded]) -> Metric:
    return mean(name, group, [float(one.grade.correct or 0) for one in graded], [one.item.video for one in graded])


def as_words(label: str) -> str:
    """A label as words: "ApplyEyeMakeup" and "apply_eye_makeup" are both "apply eye makeup"; "YoYo" is "yo yo"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\s]+", " ", label)
    return spaced.strip().lower()


def labels_of_file(path: Path) -> list[str]:
    """The labels of a file in its order: one a line, with or without a number in front (UCF101's classInd.txt), a JSON
    list, or a JSON object {label: number}.

    Raises:
        FormatError: it cannot be read, holds what is no label, or one twice.
    """
    value: Any
    if kind_of_file(path) == ".json":
        value = json_of_file(path)
        labels = list(value) if isinstance(value, list | dict) else []
    else:
        labels = [re.sub(r"^\d+[\s,]+", "", line.strip()) for line in text_of_file(path).splitlines() if line.strip()]
    if not labels or any(not isinstance(label, str) or not label.strip() for label in labels):
        raise FormatError(f"{path}: is no list of labels: one label a line, or a JSON list of texts.")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise FormatError(f"{path}: has {', '.join(twice[:4])} more than once.")
    return labels


def _listed_rows(path: Path) -> list[tuple[str, Row]]:
    """Rows of UCF101's lists: "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1", where the folder is the label."""
    rows = []
    for number, line in enumerate(text_of_file(path).splitlines(), start=1):
        if line.strip():
            video = re.sub(r"\s+\d+$", "", line.strip())
            rows.append((f"{path.name} row {number}", {"video": video, "label": video.rpartition("/")[0]}))
    return rows


def _occurring(rows: Sequence[tuple[str, Any]]) -> list[str]:
    """The labels that occur, sorted, so that the order of the rows does not matter."""
    found = set()
    for _, row in rows:
        try:
            found.add(cell(row, *_LABEL) if isinstance(row, dict) else "")
        except RowError:
            continue  # the row becomes a fault when its item is made
    return sorted(found - {""})
