"""Video-MME (arXiv 2405.21075): 2,700 questions with four options on 900 videos, with and without subtitles.

Official scorer: BradyFU/Video-MME@4e7566d, evaluation/eval_your_results.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import choices
from benchmarks.benchmark import ByRules, check_protocol
from benchmarks.files import one_file, write_json
from benchmarks.grades import Grade, Graded
from benchmarks.items import Annotations, Item, Prediction, Predictions, Request, Shown
from benchmarks.metrics import Metric
from benchmarks.multiple_choice import (
    accuracies,
    letter_grade,
    lettered,
    options_at,
    reply_of,
    strict_grade,
    without_letters,
)
from benchmarks.rows import Broken, ItemRows, PredictionRows, Row, RowError, rows_of_file, text_of

INSTRUCTION = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
SUBTITLES = "This video's subtitles are listed below:"
BEGIN = "The best answer is:"

# Keys of a video: today's, and those of June 2024 (the README of that time wrote `video_sub_category`).
VIDEO_KEYS = {
    "duration": ("duration", "duration_category"),
    "domain": ("domain", "video_category"),
    "sub_category": ("sub_category", "video_subcategory", "video_sub_category"),
}

# The official table's order. "Multilingual" is both a domain and a sub-category.
DURATIONS = ("short", "medium", "long")
DOMAINS = (
    *("Knowledge", "Film & Television", "Sports Competition", "Artistic Performance", "Life Record"),
    "Multilingual",
)
SUB_CATEGORIES = (
    *("Humanity & History", "Literature & Art", "Biology & Medicine", "Finance & Commerce", "Astronomy"),
    *("Geography", "Law", "Life Tip", "Technology", "Animation", "Movie & TV Show", "Documentary", "News Report"),
    *("Esports", "Basketball", "Football", "Athletics", "Other Sports", "Stage Play", "Magic Show", "Variety Show"),
    *("Acrobatics", "Handicraft", "Food", "Fashion", "Daily Life", "Travel", "Pet & Animal", "Exercise"),
    "Multilingual",
)
TASK_TYPES = (
    *("Temporal Perception", "Spatial Perception", "Attribute Perception", "Action Recognition"),
    *("Object Recognition", "OCR Problems", "Counting Problem", "Temporal Reasoning", "Spatial Reasoning"),
    *("Action Reasoning", "Object Reasoning", "Information Synopsis"),
)
_TABLE = {"domain": DOMAINS, "sub_category": SUB_CATEGORIES, "task_type": TASK_TYPES}
_VIDEOS_A_DURATION = 300

# How each published scorer reads a letter, what it makes of a reply without one, and how it prints.
_SCORERS: dict[str, tuple[Callable[[str], str], bool | None]] = {
    "official": (choices.videomme_official, None),
    "vlmevalkit": (choices.videomme_vlmevalkit, False),
    "lmms_eval": (choices.lmms_eval, False),
}
_PRINTED: dict[str, dict[str, Any]] = {
    "official": {"digits": 1, "scale": 100.0, "nothing": 0.0},
    "vlmevalkit": {"digits": 3},
    "lmms_eval": {"digits": 1, "scale": 100.0},
    "strict": {},
}


@dataclass(frozen=True)
class VideoMme(ByRules):
    """Video-MME.

    Attributes:
        subtitles: the model is given the lines spoken when its frames are shown, where the video has any.
        skip_missing: the official scorer's: videos without predictions are skipped; else it stops unless every
            duration has 300 videos.
    """

    subtitles: bool = False
    skip_missing: bool = True

    name: ClassVar[str] = "videomme"
    source: ClassVar[str] = "https://github.com/BradyFU/Video-MME"
    protocols: ClassVar[tuple[str, ...]] = ("official", "vlmevalkit", "lmms_eval", "strict")
    files: ClassVar[Mapping[str, str]] = {
        "": "JSON: a list of videos with their questions, or of questions; Parquet: of questions"
    }
    max_new_tokens: ClassVar[int] = 16
    temperature: ClassVar[float] = 0.0

    @property
    def texts(self) -> Mapping[str, str]:
        texts = {"instruction": INSTRUCTION, "begin": BEGIN}
        return {**texts, "subtitles": SUBTITLES} if self.subtitles else texts

    def read(self, files: Mapping[str, Path]) -> Annotations:
        """The questions of a file in the current form, that of June 2024, or one row a question as in the dataset.

        Raises:
            FormatError: the file cannot be read at all, or is no list.
        """
        return ItemRows().read(_questions(one_file(self.name, files)), _item)

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:
        """The README's prompt: subtitles (where given), instruction, question and options, "The best answer is:"."""
        spoken = [SUBTITLES, *shown.subtitles] if self.subtitles and shown.subtitles else []
        options = [f"{letter}. {text}" for letter, text in lettered(item.options).items()]
        return (Request("\n".join([*spoken, INSTRUCTION, item.questions[0], *options, BEGIN])),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade:
        """The grade by rules. "official": a reply without a letter has no verdict and leaves the denominator."""
        del aspect
        check_protocol(self, protocol)
        if protocol == "strict":
            return strict_grade(item, prediction)
        letter_in, unread = _SCORERS[protocol]
        reply = reply_of(prediction)
        if reply is None:
            return Grade("missing", correct=unread)
        return letter_grade(reply, letter_in(reply), right_letter(item), unread=unread)

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """Accuracy of each duration by domain, sub-category, task type and overall, then of all durations likewise.

        Raises:
            ValueError: "official" without `skip_missing`, and a duration has not its 300 videos.
        """
        check_protocol(self, protocol)
        if protocol == "official" and not self.skip_missing:
            _check_videos(graded)
        return accuracies(graded, _groups, _place, **_PRINTED[protocol])

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        """Writes the list of videos with a `response` to each question, under today's keys and those that the
        official script reads. A question without a prediction has an empty response and `missing`.
        """
        videos: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            videos[item.video].append(item)
        return write_json(folder / "videomme.json", [_video_row(of, predictions) for of in videos.values()])

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        """The responses of files in any form that `read` takes.

        Raises:
            FormatError: a file cannot be read at all, or is no list.
        """
        found = PredictionRows(items)
        for path in files:
            for where, row in found.objects(_questions(path)):
                found.read(where, found.of(text_of(row, "question_id")), partial(_response, row))
        return found.predictions


def right_letter(item: Item) -> str:
    """The letter of the right option as the file gives it; of options with one text it may be the second."""
    given = text_of(item.source, "answer").strip()
    return given if given in lettered(item.options) else choices.LETTERS[item.right]


def _questions(path: Path) -> Iterator[tuple[str, Any]]:
    """Each question of a file with the keys of its video, and where it stands; rows that are none as they are."""
    for where, row in rows_of_file(path, "videos or of questions"):
        if not isinstance(row, dict) or "questions" not in row:
            yield where, row
        elif not isinstance(row["questions"], list) or not row["questions"]:
            yield where, Broken("has no list of questions.")
        else:
            yield from _of_video(row, where)


def _of_video(row: Row, where: str) -> Iterator[tuple[str, Any]]:
    video = {key: value for key, value in row.items() if key != "questions"}
    for number, question in enumerate(row["questions"], start=1):
        yield f"{where} question {number}", {**video, **question} if isinstance(question, dict) else question


def _item(row: Row) -> Item:
    id, question = text_of(row, "question_id"), text_of(row, "question")
    if not id or not question:
        raise RowError("malformed", f"has no {'question' if id else 'question_id'}.")
    # The dataset's rows name the file `videoID` and number the video `video_id`.
    video = text_of(row, "video", "videoID", "video_id")
    if not video:
        raise RowError("no video", f"{id!r} names no video.")
    options = without_letters(options_at(row, "options", "choices"))
    groups = {key: text_of(row, *names) for key, names in VIDEO_KEYS.items()} | {"task_type": text_of(row, "task_type")}
    return Item(
        id=id,
        video=video,
        questions=(question,),
        answer=_answer(row, id, options),
        options=options,
        groups={key: value for key, value in groups.items() if value},
        source=row,
    )


def _answer(row: Row, id: str, options: tuple[str, ...]) -> str:
    answer = text_of(row, "answer").strip()
    if not answer:
        raise RowError("no answer", f"{id!r} has no answer to score against.")
    texts = lettered(options)
    if answer not in texts:
        raise RowError("no answer", f"{id!r}: the answer {answer!r} is none of the letters {', '.join(texts)}.")
    return texts[answer]


def _groups(item: Item) -> tuple[str, ...]:
    return _groups_of(tuple(item.groups.get(key, "") for key in ("duration", *_TABLE)))


@lru_cache
def _groups_of(values: tuple[str, ...]) -> tuple[str, ...]:
    """The groups that an item of this duration, domain, sub-category and task type counts in, "overall" among them."""
    duration, *others = values
    each = [f"{key}: {value}" for key, value in zip(_TABLE, others, strict=True) if value]
    if not duration:
        return "overall", *each
    return "overall", *each, f"duration: {duration}", *(f"duration: {duration}, {group}" for group in each)


def _place(group: str) -> tuple[int, ...]:
    """Place of a group in the official table; names that it does not know come last of their kind."""
    parts = dict(part.split(": ", 1) for part in group.split(", ", 1) if ": " in part)
    duration = _rank(DURATIONS, parts["duration"]) if "duration" in parts else len(DURATIONS) + 1
    for kind, (key, names) in enumerate(_TABLE.items()):
        if key in parts:
            return duration, kind, _rank(names, parts[key])
    return duration, len(_TABLE), 0


def _rank(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def _check_videos(graded: Sequence[Graded]) -> None:
    videos = {(each.item.groups.get("duration", ""), each.item.video) for each in graded}
    for duration, n in Counter(duration for duration, _ in videos).items():
        if n != _VIDEOS_A_DURATION:
            raise ValueError(
                f"videomme: the official scorer wants {_VIDEOS_A_DURATION} videos a duration, not {n} as {duration!r} "
                "has: set skip_missing, or give all annotations."
            )


def _video_row(items: Sequence[Item], predictions: Mapping[str, Prediction]) -> Row:
    source = items[0].source
    row = {key: source[key] for key in ("video_id", "videoID", "video", "url") if key in source}
    row.setdefault("video_id", items[0].video)
    for key, names in VIDEO_KEYS.items():
        row |= {name: items[0].groups.get(key, "") for name in names}
    row["missing"] = not any(item.id in predictions for item in items)
    row["questions"] = [_question_row(item, predictions.get(item.id)) for item in items]
    return row


def _question_row(item: Item, prediction: Prediction | None) -> Row:
    return {
        "question_id": item.id,
        "task_type": item.groups.get("task_type", ""),
        "question": item.questions[0],
        "options": [f"{letter}. {text}" for letter, text in lettered(item.options).items()],
        "answer": right_letter(item),
        "response": reply_of(prediction) or "",
        "missing": prediction is None,
    }


def _response(row: Row, item: Item) -> Prediction | None:
    reply = row.get("response")
    if row.get("missing") is True or reply is None:
        return None
    if not isinstance(reply, str):
        raise RowError("malformed", f"the response to {item.id!r} is no text but {reply!r:.60}.")
    return Prediction((reply,))
