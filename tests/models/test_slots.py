from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniature.lessons import SLOTS
from miniature.world import ACTIONS, COLORS, QUESTIONS, SHAPES, Event, Question, Scene
from models.slots import SlotVocabulary, exact

VALUES = {"color": tuple(COLORS), "shape": SHAPES, "action": ACTIONS}

events = st.builds(Event, st.sampled_from(VALUES["color"]), st.sampled_from(SHAPES), st.sampled_from(ACTIONS))
scenes = st.builds(lambda first, second: Scene((first, second), seed=0), events, events)


def asked(question: Question) -> list[tuple[int, str]]:
    """The facts (event, slot) that an answer to the question states."""
    slots = [question.kind] if question.kind in VALUES else list(VALUES)
    return [(event, slot) for event in ((0, 1) if question.kind == "describe" else (question.event,)) for slot in slots]


def corrupted(scene: Scene, event: int, slot: str, value: str) -> Scene:
    changed = list(scene.events)
    changed[event] = replace(changed[event], **{slot: value})
    return replace(scene, events=(changed[0], changed[1]))


@settings(max_examples=100, deadline=None)
@given(scene=scenes, question=st.sampled_from(QUESTIONS))
def test_every_single_slot_corruption_costs_exactly_its_slot(scene: Scene, question: Question) -> None:
    truth = question.answer(scene)
    facts = asked(question)
    assert SLOTS.score(truth, truth) == 1
    for event, slot in facts:
        for value in set(VALUES[slot]) - {getattr(scene.events[event], slot)}:
            said = question.answer(corrupted(scene, event, slot, value))
            assert SLOTS.score(truth, said) == pytest.approx(1 - 1 / len(facts))
            assert not exact(truth, said)


@settings(max_examples=200, deadline=None)
@given(scene=scenes, other=scenes, question=st.sampled_from(QUESTIONS))
def test_the_score_is_one_minus_the_share_of_wrong_slots(scene: Scene, other: Scene, question: Question) -> None:
    facts = asked(question)
    wrong = sum(getattr(scene.events[event], slot) != getattr(other.events[event], slot) for event, slot in facts)
    assert SLOTS.score(question.answer(scene), question.answer(other)) == pytest.approx(1 - wrong / len(facts))


@given(scene=scenes, question=st.sampled_from(QUESTIONS))
def test_case_spacing_and_punctuation_do_not_count(scene: Scene, question: Question) -> None:
    truth = question.answer(scene)
    said = f"  {truth.replace('.', ' !').upper()}  "
    assert SLOTS.score(truth, said) == 1
    assert exact(truth, said)


def test_two_words_of_one_slot_contradict_each_other() -> None:
    assert SLOTS.score("it is red.", "it is red blue.") == 0
    assert SLOTS.score("a red circle grows.", "a red red circle grows.") == pytest.approx(2 / 3)


def test_a_fact_told_of_the_other_event_is_wrong() -> None:
    truth = "first a red circle grows. then a blue cross shrinks."
    assert SLOTS.score(truth, "first a blue cross shrinks. then a red circle grows.") == 0
    assert SLOTS.score(truth, "first a red circle grows.") == pytest.approx(1 / 2)


def test_an_answer_without_slots_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="list its words under the benchmark's slots"):
        SlotVocabulary({"color": ("red",)}).score("it is blue.", "it is red.")
