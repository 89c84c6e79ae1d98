"""The tiny world shows what it says, says it in words that parse, and is the same every time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixels import seen

from miniature.lessons import SLOTS
from miniature.world import (
    ACTION_PRIOR,
    ACTIONS,
    COLORS,
    FRAMES_PER_EVENT,
    QUESTIONS,
    SHAPES,
    SIZE,
    Event,
    Question,
    Scene,
    hallucinate,
    render,
    sample_scene,
)

EVENTS = st.builds(Event, st.sampled_from(list(COLORS)), st.sampled_from(SHAPES), st.sampled_from(ACTIONS))
SCENES = st.builds(Scene, st.tuples(EVENTS, EVENTS), st.integers(0, (1 << 31) - 1))


@settings(max_examples=15, deadline=None)
@given(SCENES)
def test_rendering_is_deterministic(scene: Scene) -> None:
    frames = render(scene)
    assert frames.shape == (2 * FRAMES_PER_EVENT, SIZE, SIZE, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, render(scene))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_frame_sequence_shows_what_it_says(shape: str, action: str, seed: int) -> None:
    for color, other in zip(COLORS, reversed(COLORS), strict=True):
        scene = Scene((Event(color, shape, action), Event(other, SHAPES[seed], ACTIONS[seed])), seed)
        frames = render(scene)
        assert (seen(frames[:FRAMES_PER_EVENT]), seen(frames[FRAMES_PER_EVENT:])) == scene.events


@settings(max_examples=60, deadline=None)
@given(SCENES)
def test_any_scene_shows_both_its_events_in_order(scene: Scene) -> None:
    frames = render(scene)
    assert (seen(frames[:FRAMES_PER_EVENT]), seen(frames[FRAMES_PER_EVENT:])) == scene.events


def test_the_seed_moves_the_picture_and_not_its_meaning() -> None:
    events = (Event("red", "circle", "grows"), Event("blue", "cross", "moves up"))
    one, other = render(Scene(events, 1)), render(Scene(events, 2))
    assert not np.array_equal(one, other)
    assert seen(one[:FRAMES_PER_EVENT]) == seen(other[:FRAMES_PER_EVENT])


def _facts(scene: Scene, question: Question) -> dict[tuple[int, str], str]:
    """The facts that a question asks for, written down apart from the answer's text."""
    shown = list(scene.events) if question.kind == "describe" else [scene.events[question.event]]
    slots = {
        (part, name): {"color": event.color, "shape": event.shape, "action": event.action.split()[-1]}[name]
        for part, event in enumerate(shown)
        for name in ("color", "shape", "action")
    }
    if question.kind in ("color", "shape", "action"):
        return {(0, question.kind): slots[(0, question.kind)]}
    return slots


@settings(max_examples=60, deadline=None)
@given(SCENES, st.sampled_from([*QUESTIONS, Question("clip", 0), Question("clip", 1)]))
def test_a_true_answer_parses_to_the_facts_that_were_asked(scene: Scene, question: Question) -> None:
    answer = question.answer(scene)
    assert SLOTS.parse(answer) == _facts(scene, question)
    assert SLOTS.score(answer, answer) == 1


@settings(max_examples=60, deadline=None)
@given(SCENES, SCENES, st.sampled_from(QUESTIONS))
def test_a_false_answer_scores_the_share_of_facts_that_it_has_right(
    scene: Scene, other: Scene, question: Question
) -> None:
    truth, said = _facts(scene, question), _facts(other, question)
    right = sum(said[slot] == value for slot, value in truth.items())
    assert SLOTS.score(question.answer(scene), question.answer(other)) == pytest.approx(right / len(truth))


def test_questions_are_told_apart_by_their_text() -> None:
    assert len({question.text for question in QUESTIONS}) == len(QUESTIONS) == 9


def test_scenes_are_drawn_evenly_and_by_their_seed() -> None:
    def draw(seed: int) -> list[Scene]:
        rng = np.random.default_rng(seed)
        return [sample_scene(rng) for _ in range(2000)]

    scenes = draw(0)
    assert scenes == draw(0)
    assert scenes != draw(1)
    for index in (0, 1):
        for slot, values in (("color", COLORS), ("shape", SHAPES), ("action", ACTIONS)):
            counts = Counter(getattr(scene.events[index], slot) for scene in scenes)
            assert set(counts) == set(values)
            assert max(counts.values()) < 1.3 * min(counts.values())


def test_hallucination_errs_as_often_as_it_is_told_to() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(1000)]
    told = [hallucinate(scene, rng, action_prior=0.6, color_noise=0.3, shape_noise=0.0) for scene in scenes]
    pairs = [
        pair for one, other in zip(scenes, told, strict=True) for pair in zip(one.events, other.events, strict=True)
    ]
    priors = [said.action == ACTION_PRIOR[true.shape] for true, said in pairs]
    assert np.mean(priors) == pytest.approx(0.6 + 0.4 / 6, abs=0.04)  # some actions are the prior's by themselves
    assert np.mean([said.color != true.color for true, said in pairs]) == pytest.approx(0.3 * 5 / 6, abs=0.04)
    assert all(said.shape == true.shape for true, said in pairs)
    assert all(one.seed == other.seed for one, other in zip(scenes, told, strict=True))


def test_no_noise_leaves_a_scene_as_it_is() -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene(rng)
    assert hallucinate(scene, rng, action_prior=0, color_noise=0, shape_noise=0) == scene
