"""What the tiny models are taught: captions, answers, answers with a narrative, verdicts and yes/no judgements.

A lesson is a token sequence over one video with the positions that are learned. Verdicts are hard for a model this
small (the chain is: see the truth, compare it with each answer, carry the result to one letter), so their lessons also
mark the slot tokens of the answers: what the truth is there (`truths`) and whether the answer is right (`rights`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from miniature.checkpoint import (
    ANSWER,
    BOS,
    CONTEXT_PROMPT,
    CORRECT_PROMPT,
    EOS,
    VERDICT_PROMPT,
    VIDEO,
    vocabulary,
)
from miniature.world import ACTION_PRIOR, ACTIONS, COLORS, QUESTIONS, SHAPES, Event, Question, Scene
from models.slots import SlotVocabulary

TOKENS_PER_FRAME = 4
SLOTS = SlotVocabulary(
    {
        "color": tuple(COLORS),
        "shape": SHAPES,
        "action": tuple(action.split()[-1] for action in ACTIONS),
    }
)

# Frames shown, by their number in the video: midpoints of equal parts of the whole video, or of one event (a clip).
FRAMES = {
    "8": (1, 3, 5, 7, 9, 11, 13, 15),
    "4": (2, 6, 10, 14),
    "2": (4, 12),
    "clip0": (1, 3, 5, 7),
    "clip1": (9, 11, 13, 15),
}

_IDS = {word: i for i, word in enumerate(vocabulary())}
_SLOT_WORDS = {word for values in SLOTS.values.values() for word in values} | {"moves"}


@dataclass
class Lesson:
    """One training sequence.

    Attributes:
        frames: numbers of the frames shown.
        ids: tokens, the video placeholder already as long as its visual tokens.
        learned: position -> the token to predict there from what stands before it.
        verdict: the learned positions that hold a verdict letter (1) or yes/no (2).
        truths: position -> the token that would be true there.
        rights: position -> whether the token that stands there is true.
    """

    frames: tuple[int, ...]
    ids: list[int]
    learned: dict[int, int] = field(default_factory=dict)
    verdict: dict[int, int] = field(default_factory=dict)
    truths: dict[int, int] = field(default_factory=dict)
    rights: dict[int, bool] = field(default_factory=dict)

    def ask(self, text: str) -> None:
        self.ids += [*encode(text), ANSWER]

    def learn(self, text: str) -> None:
        for token in [*encode(text), EOS]:
            self.learned[len(self.ids)] = token
            self.ids.append(token)

    def judge(self, word: str, sort: int) -> None:
        """Append a one-word judgement that is learned, and the end that is not."""
        self.learned[len(self.ids)] = _IDS[word]
        self.verdict[len(self.ids)] = sort
        self.ids += [_IDS[word], EOS]

    def mark(self, answer: str, truth: str, start: int) -> None:
        """Mark the slot tokens of an answer from position `start` on, as far as it runs in step with the truth."""
        for i, (said, true) in enumerate(zip(words(answer), words(truth), strict=False)):
            if said in _SLOT_WORDS and true in _SLOT_WORDS:
                self.truths[start + i] = _IDS[true]
                self.rights[start + i] = said == true
            elif said != true:
                return
            if (said == "moves") != (true == "moves"):
                return


def words(text: str) -> list[str]:
    """The tokens of a text as the tokenizer splits it: words and single marks."""
    for mark in ".?:":
        text = text.replace(mark, f" {mark} ")
    return text.split()


def encode(text: str) -> list[int]:
    """Token ids of a text that holds no special token.

    Raises:
        KeyError: a word is not in the vocabulary; an unknown word would be learned silently.
    """
    return [_IDS[word] for word in words(text)]


def opening(frames: str) -> Lesson:
    """A lesson that so far only shows a video."""
    numbers = FRAMES[frames]
    return Lesson(numbers, [BOS, *[VIDEO] * (TOKENS_PER_FRAME * len(numbers) + 1)])


def answering(frames: str, question: Question, answer: str, context: str | None = None) -> Lesson:
    """A question about the video, with or without a narrative, and its answer to learn."""
    lesson = opening(frames)
    text = question.text
    lesson.ask(CONTEXT_PROMPT.format(context=context, question=text) if context else text)
    lesson.learn(answer)
    return lesson


def judging(scene: Scene, frames: str, rng: np.random.Generator, context: str | None, easy: bool) -> Lesson:
    """Several judgements about one video: which of two answers is better, or whether one answer is correct."""
    lesson = opening(frames)
    if context:
        lesson.ids += encode(f"context: {context}")
    for question in _questions_to_judge(rng, easy):
        if rng.random() < 0.6:
            _verdict_turn(lesson, scene, question, rng)
        else:
            _correct_turn(lesson, scene, question, rng)
    return lesson


def noisy_narrative(scene: Scene, rng: np.random.Generator) -> str:
    """The clip captions of a captioner that errs now and then, so that narratives are not trusted blindly."""

    def err(event: Event) -> Event:
        if rng.random() < 0.10:
            event = replace(event, action=str(rng.choice(ACTIONS)))
        if rng.random() < 0.05:
            event = replace(event, color=str(rng.choice(list(COLORS))))
        if rng.random() < 0.10:
            event = replace(event, shape=str(rng.choice(SHAPES)))
        return event

    return " ".join(f"{err(event)}." for event in scene.events)


def _verdict_turn(lesson: Lesson, scene: Scene, question: Question, rng: np.random.Generator) -> None:
    truth = question.answer(scene)
    for _ in range(20):
        first = truth if rng.random() < 0.25 else _wrong_answer(scene, question, rng)
        second = _wrong_answer(scene, question, rng)
        if SLOTS.score(truth, first) != SLOTS.score(truth, second):
            break
    if rng.random() < 0.5:
        first, second = second, first
    before_first, before_second = VERDICT_PROMPT.split("{a}")[0], VERDICT_PROMPT.split("{b}")[0]
    start = len(lesson.ids)
    lesson.mark(first, truth, start + len(words(before_first.format(question=question.text))))
    lesson.mark(second, truth, start + len(words(before_second.format(question=question.text, a=first))))
    lesson.ask(VERDICT_PROMPT.format(question=question.text, a=first, b=second))
    lesson.judge("A" if SLOTS.score(truth, first) > SLOTS.score(truth, second) else "B", sort=1)


def _correct_turn(lesson: Lesson, scene: Scene, question: Question, rng: np.random.Generator) -> None:
    truth = question.answer(scene)
    wrong = rng.random() < 0.5
    answer = _wrong_answer(scene, question, rng) if wrong else truth
    lesson.ask(question.text)
    lesson.mark(answer, truth, len(lesson.ids))
    lesson.ids += [*encode(answer), EOS]
    lesson.ask(CORRECT_PROMPT)
    lesson.judge("no" if wrong else "yes", sort=2)


def _wrong_answer(scene: Scene, question: Question, rng: np.random.Generator) -> str:
    """An answer with at least one false slot, made the way a model errs: few slots, often the prior's action."""
    truth = question.answer(scene)
    chance = 0.35 if question.kind == "describe" else 0.5

    def err(event: Event) -> Event:
        if rng.random() < chance:
            prior = rng.random() < 0.4
            event = replace(event, action=ACTION_PRIOR[event.shape] if prior else str(rng.choice(ACTIONS)))
        if rng.random() < 0.8 * chance:
            event = replace(event, color=str(rng.choice(list(COLORS))))
        if rng.random() < 0.8 * chance:
            event = replace(event, shape=str(rng.choice(SHAPES)))
        return event

    for _ in range(100):
        answer = question.answer(replace(scene, events=(err(scene.events[0]), err(scene.events[1]))))
        if SLOTS.score(truth, answer) < 1:
            return answer
    raise AssertionError("a hundred draws changed no slot")


def _questions_to_judge(rng: np.random.Generator, easy: bool) -> list[Question]:
    """Questions for one lesson, none of which gives away the answer of another."""
    single = [question for question in QUESTIONS if question.kind in ("color", "shape", "action")]
    if easy:
        return [single[i] for i in rng.permutation(len(single))]
    if rng.random() < 0.15:
        return [Question("describe")]
    chosen: list[Question] = []
    for event in rng.permutation(2):
        if rng.random() < 0.35:
            chosen.append(Question("event", int(event)))
        else:
            kinds = rng.choice(("color", "shape", "action"), size=2, replace=False, p=(0.2, 0.2, 0.6))
            chosen += [Question(str(kind), int(event)) for kind in kinds]
    return chosen
