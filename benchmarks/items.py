"""What a benchmark asks, and what a model said to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FaultKind = Literal["malformed", "duplicate", "unknown", "missing", "no answer", "no video"]


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a benchmark, as its annotation file gives it.

    Attributes:
        id: of its own among the benchmark's items.
        video: name or path, as the file writes it.
        questions: what is asked, as the file writes it; two where the consistency of two answers is graded.
        answer: the true answer; of a multiple choice the text of the right option.
        options: texts of a multiple choice or of a list to choose from, without letters, in order.
        window: the part of the video that is asked about, seconds; None: all of it.
        aspects: what a prediction is graded for, each by itself.
        groups: what scores are broken down by, such as {"duration": "short", "task_type": "Counting Problem"}.
        source: the row as the file has it (what the official form of predictions repeats).
    """

    id: str
    video: str
    questions: tuple[str, ...]
    answer: str
    options: tuple[str, ...] = ()
    window: tuple[float, float] | None = None
    aspects: tuple[str, ...] = ("",)
    groups: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def right(self) -> int:
        """Place of the right option. Raises ValueError where the answer is none of the options."""
        return self.options.index(self.answer)


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of a file that is no item or no prediction, or an item without a prediction.

    Attributes:
        kind: "malformed" (cannot be read), "duplicate" (a second row of one id), "unknown" (a prediction for no item),
            "missing" (an item without a prediction), "no answer" (nothing to score against), "no video".
        where: file and row, or the item's id.
        reason: what is wrong and what to do.
    """

    kind: FaultKind
    where: str
    reason: str


@dataclass(frozen=True)
class Annotations:
    """The items of a file, in its order, and the rows that are none."""

    items: tuple[Item, ...]
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a video a model is shown.

    Attributes:
        timestamps: of its frames, seconds from the beginning of the video.
        subtitles: the lines that are spoken at those times; None: the model is given none.
    """

    timestamps: tuple[float, ...] = ()
    subtitles: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked about a video.

    Attributes:
        text: the user's turn.
        system: the turn before it, if any.
        begin: how the answer begins; the model goes on from there, and what it says is kept without it.
        choices: where they are given, nothing is generated: the log-probability of each as the answer is wanted.
    """

    text: str
    system: str | None = None
    begin: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model said to an item.

    Attributes:
        replies: one to each question; none where nothing is generated.
        scores: of each option as the answer: its log-probability in nats, summed over its tokens.
        n_tokens: of each option.
        preferred: where two options are compared, the probability that the first is the better one, once for each
            order in which they were shown.
        truth: the right answer as the prediction's own file gives it, for the scripts that score against that.
        written: the reply as the prediction's own file has it, where its script scores another text than it would have
            made of `replies`. Never in a lake, so it is no part of what tells predictions apart there (repr).
    """

    replies: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    n_tokens: tuple[int, ...] = ()
    preferred: tuple[float, ...] = ()
    truth: str | None = None
    written: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Predictions:
    """Predictions by the id of their item, and the rows of their file that belong to none."""

    by_id: Mapping[str, Prediction]
    faults: tuple[Fault, ...] = ()


def predicted(items: Iterable[Item], predictions: Mapping[str, Prediction]) -> list[tuple[Item, Prediction]]:
    """The items that have a prediction, in their order."""
    return [(item, predictions[item.id]) for item in items if item.id in predictions]


def replied(items: Iterable[Item], predictions: Mapping[str, Prediction]) -> list[tuple[Item, str]]:
    """The items that have a reply, in their order, with the first."""
    return [(item, each.replies[0]) for item, each in predicted(items, predictions) if each.replies]
