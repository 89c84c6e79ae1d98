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
    pictures = _pictures(lake, answers[0], [flip.first.item.id for flip in chosen])
    return [_example(flip, (found.first, found.second), answers, pictures) for flip in chosen]


def _pictures(lake: Lake, answers: Answers, questions: Sequence[str]) -> dict[str, tuple[Picture, ...]]:
    """The frames that were shown with questions; those about a part of a video have a frame set of their own."""
    shown = {question: answers.shown[question] for question in questions if question in answers.shown}
    found: dict[str, tuple[Picture, ...]] = {}
    for frame_set in dict.fromkeys(each.frame_set for each in shown.values()):
        own = {question: each.video for question, each in shown.items() if each.frame_set == frame_set}
        pictures = pictures_of(lake, answers.frames, {*own.values()}, frame_set)
        found |= {question: pictures.get(video, ()) for question, video in own.items()}
    return found


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
    lettered = tuple(f"{letter}. {text}" for letter, text in zip(_LETTERS, item.options, strict=False))
    tags = [f"{kind.replace('_', ' ')}: {value}" for kind, value in item.groups.items()]
    return Example(
        video=item.video,
        window=item.window,
        questions=item.questions,
        options=lettered if len(lettered) == len(item.options) else (),
        answer=item.answer,
        tags=tuple([flip.first.aspect, *tags] if flip.first.aspect else tags),
        won=flip.won,
        sides=(_side(names[0], flip.first, answers[0]), _side(names[1], flip.second, answers[1])),
        pictures=pictures.get(item.id, ()),
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
