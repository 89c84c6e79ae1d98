"""Lessons are what the product's own prompts look like, and mark exactly what is to be learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniature import checkpoint, lessons
from miniature.lessons import FRAMES, SLOTS, Lesson
from miniature.world import (
    ACTIONS,
    COLORS,
    FRAMES_PER_EVENT,
    QUESTIONS,
    SHAPES,
    Event,
    Question,
    Scene,
    render,
    sample_scene,
)
from models.video_lm import VideoLM

EVENTS = st.builds(Event, st.sampled_from(list(COLORS)), st.sampled_from(SHAPES), st.sampled_from(ACTIONS))
SCENES = st.builds(Scene, st.tuples(EVENTS, EVENTS), st.just(0))
ASKED = (*QUESTIONS, Question("clip", 0), Question("clip", 1))
SCENE = Scene((Event("red", "circle", "moves left"), Event("cyan", "cross", "shrinks")), seed=4)
VOCABULARY = checkpoint.vocabulary()


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> VideoLM:
    folder: Path = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint.save(checkpoint.new_model(1, seed=0), folder)
    return VideoLM.load(str(folder))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return checkpoint.new_processor().tokenizer


def _judgements(count: int, *, easy: bool = False, context: bool = False) -> list[tuple[Scene, Lesson]]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        scene = sample_scene(rng)
        narrative = lessons.noisy_narrative(scene, rng) if context else None
        made.append((scene, lessons.judging(scene, "2", rng, narrative, easy)))
    return made


@settings(max_examples=40, deadline=None)
@given(SCENES, st.sampled_from(ASKED), st.integers(0, 1000))
def test_the_tokenizer_splits_every_text_as_the_lessons_do(
    tokenizer: Any, scene: Scene, question: Question, seed: int
) -> None:
    narrative = lessons.noisy_narrative(scene, np.random.default_rng(seed))
    answer, text = question.answer(scene), question.text
    said = [
        text,
        answer,
        checkpoint.CORRECT_PROMPT,
        checkpoint.CONTEXT_PROMPT.format(context=narrative, question=text),
        checkpoint.VERDICT_PROMPT.format(question=text, a=answer, b=narrative),
    ]
    for each in said:
        ids = tokenizer(each, add_special_tokens=False)["input_ids"]
        assert ids == lessons.encode(each)
        assert checkpoint.UNK not in ids
    assert tokenizer.decode(lessons.encode(answer)) == answer


def test_a_word_that_the_world_does_not_know_is_not_learned_silently() -> None:
    with pytest.raises(KeyError, match="elephant"):
        lessons.encode("a red elephant grows.")


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("context", [None, "a red circle grows. a blue cross moves up."])
def test_a_question_lesson_is_the_products_own_prompt_and_answer(lm: VideoLM, frames: str, context: str | None) -> None:
    tokens = lm.encode(render(SCENE))[list(FRAMES[frames])]
    for question in ASKED:
        lesson = lessons.answering(frames, question, question.answer(SCENE), context)
        asked = checkpoint.CONTEXT_PROMPT.format(context=context, question=question.text) if context else question.text
        prompt, answer = lm.prompt(asked, tokens).ids, lm.response_ids(question.answer(SCENE))
        assert lesson.ids == [*prompt, *answer]
        assert lesson.learned == dict(enumerate(answer, start=len(prompt)))
        assert lesson.frames == FRAMES[frames]


@dataclass(frozen=True)
class _Turn:
    """One judgement of a lesson, read back from its tokens.

    Attributes:
        sort: 1 for a verdict letter, 2 for yes or no.
        said: the judgement.
        asked: texts of the user before it; the second one stands after `answer`.
        answer: the answer that is called correct or not; empty for a verdict letter.
    """

    sort: int
    said: str
    asked: tuple[str, ...]
    answer: str


def _turns(lesson: Lesson) -> Iterator[_Turn]:
    start = len(lessons.opening("2").ids)
    for at in sorted(lesson.verdict):
        assert lesson.ids[at - 1] == checkpoint.ANSWER
        assert lesson.ids[at + 1] == checkpoint.EOS
        parts = _text(lesson.ids[start : at - 1]).split(" <ans> ")
        answer, _, further = parts[1].partition(" <eos> ") if len(parts) > 1 else ("", "", "")
        yield _Turn(lesson.verdict[at], VOCABULARY[lesson.ids[at]], (parts[0], further), answer)
        start = at + 2
    assert start == len(lesson.ids)


def _text(ids: list[int]) -> str:
    return " ".join(VOCABULARY[token] for token in ids)


def _truth(scene: Scene, question: str) -> str:
    (asked,) = (each for each in QUESTIONS if " ".join(lessons.words(each.text)) == question)
    return asked.answer(scene)


def test_a_judgement_lesson_is_the_products_own_chat(lm: VideoLM) -> None:
    """Verdict prompts as a judge asks them; an answer and whether it is right, as a reward prompt does."""
    tokens = lm.encode(render(SCENE))[list(FRAMES["2"])]
    sorts = set()
    for _, lesson in _judgements(30):
        turn, first = next(_turns(lesson)), min(lesson.verdict)
        prompt = lm.prompt(turn.asked[0], tokens).ids
        if turn.sort == 1:
            assert lesson.ids[:first] == list(prompt)
        else:
            further = lm.next_turn_ids(checkpoint.CORRECT_PROMPT)
            assert lesson.ids[:first] == [*prompt, *lm.response_ids(turn.answer), *further]
        sorts.add(turn.sort)
    assert sorts == {1, 2}


@pytest.mark.parametrize("easy", [True, False])
def test_every_judgement_is_the_truth_about_the_answers(easy: bool) -> None:
    said = []
    undecided = 0
    for scene, lesson in _judgements(150, easy=easy):
        for turn in _turns(lesson):
            said.append(turn.said)
            if turn.sort == 1:
                question, _, answers = turn.asked[0].partition(" answer A : ")
                first, _, second = answers.removesuffix(" better :").partition(" answer B : ")
                truth = _truth(scene, question)
                scores = [SLOTS.score(truth, answer) for answer in (first, second)]
                undecided += scores[0] == scores[1]  # twenty draws found no better one
                assert turn.said == ("A" if scores[0] > scores[1] else "B")
            else:
                right = SLOTS.score(_truth(scene, turn.asked[0]), turn.answer) == 1
                assert turn.said == ("yes" if right else "no")
    counts = Counter(said)
    assert undecided < 0.01 * len(said)
    assert 0.8 < counts["A"] / counts["B"] < 1.25
    assert 0.7 < counts["yes"] / counts["no"] < 1.4


@pytest.mark.parametrize("easy", [True, False])
def test_truths_and_rights_mark_the_slots_of_the_answers(easy: bool) -> None:
    marked = 0
    slot_words = {word for values in SLOTS.values.values() for word in values} | {"moves"}
    for _, lesson in _judgements(60, easy=easy, context=True):
        assert lesson.truths.keys() == lesson.rights.keys()
        for at, truth in lesson.truths.items():
            marked += 1
            assert VOCABULARY[lesson.ids[at]] in slot_words
            assert VOCABULARY[truth] in slot_words
            assert lesson.rights[at] == (lesson.ids[at] == truth)
        assert set(lesson.learned) == set(lesson.verdict)
        assert all(lesson.ids[at] == token for at, token in lesson.learned.items())
    assert marked > 100


def test_a_lesson_never_gives_away_the_answer_to_its_own_question() -> None:
    """Two questions of one lesson are never about the same fact."""
    for _, lesson in _judgements(100):
        text = _text(lesson.ids)
        asked = [question for question in QUESTIONS if " ".join(lessons.words(question.text)) in text]
        for event in (0, 1):
            kinds = [question.kind for question in asked if question.event == event]
            assert kinds.count("event") * (len(kinds) - 1) == 0
            assert "describe" not in kinds or len(asked) == 1


def test_a_narrative_is_true_but_for_a_slot_now_and_then() -> None:
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(500):
        scene = sample_scene(rng)
        told = lessons.noisy_narrative(scene, rng)
        first, second, rest = told.split(".")
        assert rest == ""
        scores.append(SLOTS.score(Question("describe").answer(scene), f"first{first}. then{second}."))
    assert 0.90 < np.mean(scores) < 0.97
    assert max(scores) == 1


def test_shown_frames_are_the_midpoints_of_equal_parts() -> None:
    frames = 2 * FRAMES_PER_EVENT
    for count in (2, 4, 8):
        assert FRAMES[str(count)] == tuple((2 * part + 1) * frames // (2 * count) for part in range(count))
    for clip in (0, 1):
        start = clip * FRAMES_PER_EVENT
        middle = tuple(start + (2 * part + 1) * FRAMES_PER_EVENT // 8 for part in range(4))
        assert FRAMES[f"clip{clip}"] == middle
