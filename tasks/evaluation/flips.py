"""Answers that flipped between two checkpoints, with what they saw and what was said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.grades import Graded
from benchmarks.items import Item
from tasks.evaluation.comparison import Comparison, Flip
from tasks.evaluation.graded_rows import Answers
from tasks.report_pairs import Picture, lot, pictures_of

if TYPE_CHECKING:
    from storage.lake import Lake

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Side:
    """What one checkpoint said, what the protocol read out of it, and what the judge replied, where one was asked."""

    checkpoint: str
    reply: str
    correct: bool
    status: str
    parsed: str | None
    score: float | None
    judge_reply: str | None


@dataclass(frozen=True)
class Example:
    """A question that one of two checkpoints has right and the other wrong."""

    video: str
    window: tuple[float, float] | None
    questions: tuple[str, ...]
    options: tuple[str, ...]
    answer: str
    tags: tuple[str, ...]
    won: bool
    sides: tuple[Side, Side]
    pictures: tuple[Picture, ...] = ()


def examples_of(lake: Lake, found: Comparison, answers: tuple[Answers, Answers], each: int) -> list[Example]:
    """Up to `each` flips a direction, drawn by lot and always the same; those to the worse first."""
    chosen = [flip for won in (False, True) for flip in _drawn(found.flips, won)[:each]]
    first, second = answers
    videos = {first.videos.get(flip.first.item.id, flip.first.item.video) for flip in chosen}
    pictures = pictures_of(lake, first.frames, videos, first.frame_set)
    return [_example(flip, (found.first, found.second), (first, second), pictures) for flip in chosen]


def _drawn(flips: Sequence[Flip], won: bool) -> list[Flip]:
    own = [flip for flip in flips if flip.won == won]
    return sorted(own, key=lambda flip: lot(flip.first.item.video, flip.first.item.id, (flip.first.aspect, "")))


def _example(
    flip: Flip,
    names: tuple[str, str],
    answers: tuple[Answers, Answers],
    pictures: dict[str, tuple[Picture, ...]],
) -> Example:
    item = flip.first.item
    video = answers[0].videos.get(item.id, item.video)
    lettered = tuple(f"{letter}. {text}" for letter, text in zip(_LETTERS, item.options, strict=False))
    tags = [f"{kind.replace('_', ' ')}: {value}" for kind, value in item.groups.items()]
    return Example(
        video=video,
        window=item.window,
        questions=item.questions,
        options=lettered if len(lettered) == len(item.options) else (),
        answer=item.answer,
        tags=tuple([flip.first.aspect, *tags] if flip.first.aspect else tags),
        won=flip.won,
        sides=(_side(names[0], flip.first, answers[0]), _side(names[1], flip.second, answers[1])),
        pictures=pictures.get(video, ()),
    )


def _side(name: str, graded: Graded, answers: Answers) -> Side:
    grade = graded.grade
    said = answers.replies.get((graded.item.id, graded.aspect))
    return Side(name, reply_of(graded), bool(grade.correct), grade.status, grade.parsed, grade.score, said)


def reply_of(graded: Graded) -> str:
    """What was replied, in words, also where nothing was generated."""
    prediction = graded.prediction
    if prediction is None:
        return ""
    if prediction.preferred:
        shares = " and ".join(f"{share:.2f}" for share in prediction.preferred)
        return f"The first is better with a probability of {shares}, by the order in which they were shown."
    if prediction.scores and not prediction.replies:
        return f"Most likely: {_likeliest(graded.item, prediction.scores)}"
    return "\n".join(prediction.replies)


def _likeliest(item: Item, scores: Sequence[float]) -> str:
    place = max(range(len(scores)), key=scores.__getitem__)
    return item.options[place] if place < len(item.options) else f"option {place + 1}"
