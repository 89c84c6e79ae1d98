"""The checks that a training makes of itself catch what they are for; the shipped base passes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import LORA, shake

import miniature
from miniature.world import QUESTIONS, render, sample_scene
from models.batches import Limits
from models.canaries import Probe, check_adapter, check_blank
from models.encoding import blank_like
from models.families import VideoFrames
from models.sequences import Footage
from models.training import TrainingError
from models.video_lm import VideoLM

BASE = Path(miniature.__file__).parent / "weights" / "base"
ANSWER_TOKENS = 24


@pytest.fixture
def lm() -> VideoLM:
    torch.set_num_threads(1)
    return VideoLM.load(str(BASE))


@pytest.fixture
def probe(lm: VideoLM) -> Probe:
    """Every question about a scene of its own, before the first adapter."""
    return take(lm, Limits(len(QUESTIONS)))


def take(lm: VideoLM, limits: Limits) -> Probe:
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng) for _ in QUESTIONS]
    shown = [lm.encode(render(scene)[1::2]) for scene in scenes]
    seen = [lm.prompt(question.text, each) for question, each in zip(QUESTIONS, shown, strict=True)]
    blank = [lm.prompt(question.text, blank_like(lm, each)) for question, each in zip(QUESTIONS, shown, strict=True)]
    said = [lm.response_ids(question.answer(scene)) for question, scene in zip(QUESTIONS, scenes, strict=True)]
    return Probe.take(lm, seen, blank, said, limits)


@pytest.fixture
def learned(lm: VideoLM, probe: Probe) -> VideoLM:
    """The model with an adapter "policy" that learned a little."""
    del probe  # taken before
    return learn(lm)


def learn(lm: VideoLM) -> VideoLM:
    lm.add_adapter("policy", LORA, seed=0)
    shake(lm.adapter_parameters("policy").values(), seed=1, scale=0.03)
    lm.use("policy")
    return lm


def test_a_sound_model_passes(learned: VideoLM, probe: Probe) -> None:
    assert check_adapter(learned, "policy", probe)["adapter_canary"] > 0.01
    assert check_blank(learned, probe, ANSWER_TOKENS)["blank_canary"] > 0.5


def test_answers_are_as_long_as_the_window_has_room(learned: VideoLM, probe: Probe) -> None:
    assert check_blank(learned, probe, learned.window)["blank_canary"] > 0.5


class Watched:
    """Notes how many go through a model at once, and is its meter; it has memory to sample for `room` prompts."""

    def __init__(self, lm: VideoLM, monkeypatch: pytest.MonkeyPatch, room: int = 100) -> None:
        self.read: list[int] = []
        self.sampled: list[int] = []
        self.tidied = 0
        logprobs, generate = lm.logprobs, lm.generate

        def reading(prompts: Any, *rest: Any, **more: Any) -> Any:
            self.read.append(len(prompts))
            return logprobs(prompts, *rest, **more)

        def sampling(prompts: Any, *rest: Any, **more: Any) -> Any:
            self.sampled.append(len(prompts))
            if len(prompts) > room:
                raise torch.OutOfMemoryError(f"CUDA out of memory for {len(prompts)} prompts.")
            return generate(prompts, *rest, **more)

        monkeypatch.setattr(lm, "logprobs", reading)
        monkeypatch.setattr(lm, "generate", sampling)

    def begin(self) -> None: ...

    def most(self) -> int:
        return 0

    def free(self) -> int:
        return 0

    def tidy(self) -> None:
        self.tidied += 1


@pytest.mark.parametrize("limits", [Limits(3), Limits(100, tokens=120)])
def test_the_limits_of_the_training_hold_and_change_no_result(
    learned: VideoLM, probe: Probe, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = check_adapter(learned, "policy", probe) | check_blank(learned, probe, ANSWER_TOKENS)
    lm = VideoLM.load(str(BASE))
    watched = Watched(lm, monkeypatch)
    small = take(lm, limits)
    assert torch.allclose(small.base, probe.base, atol=1e-5)
    learn(lm)
    again = check_adapter(lm, "policy", small) | check_blank(lm, small, ANSWER_TOKENS)
    assert again == pytest.approx(found, rel=1e-4)
    assert sum(watched.read) == 3 * len(QUESTIONS)
    assert sum(watched.sampled) == 2 * len(QUESTIONS)
    assert 1 < max(watched.read + watched.sampled) < len(QUESTIONS)
    assert max(watched.read) <= limits.answers


def test_a_model_that_is_fitted_to_its_memory_halves_what_does_not_fit(
    learned: VideoLM, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = check_adapter(learned, "policy", probe) | check_blank(learned, probe, ANSWER_TOKENS)
    lm = VideoLM.load(str(BASE))
    lm.meter = watched = Watched(lm, monkeypatch, room=4)
    small = take(lm, Limits(8))
    learn(lm)
    again = check_adapter(lm, "policy", small) | check_blank(lm, small, ANSWER_TOKENS)
    assert again == pytest.approx(found, rel=1e-4)
    assert set(watched.read) == {1}
    assert watched.sampled[:3] == [8, 4, 4]
    assert watched.tidied == sum(count > 4 for count in watched.sampled)


def test_memory_that_runs_out_is_an_error_where_passes_are_as_the_settings_say(
    learned: VideoLM, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watched(learned, monkeypatch, room=4)
    with pytest.raises(torch.OutOfMemoryError, match=f"for {len(QUESTIONS)} prompts"):
        check_blank(learned, probe, ANSWER_TOKENS)


def test_the_adapter_that_was_named_is_the_one_in_use_afterwards(learned: VideoLM, probe: Probe) -> None:
    learned.add_adapter("value", LORA, seed=2)
    learned.use("value")
    check_adapter(learned, "policy", probe)
    expected = learned.logprobs(probe.prompts, probe.responses)[0]
    learned.use("policy")
    assert torch.equal(learned.logprobs(probe.prompts, probe.responses)[0], expected)


def test_an_adapter_that_does_nothing_is_caught(lm: VideoLM, probe: Probe) -> None:
    lm.add_adapter("policy", LORA, seed=0)
    with pytest.raises(TrainingError, match="Adapter 'policy' changes no log-probability"):
        check_adapter(lm, "policy", probe)


def test_an_adapter_of_no_numbers_is_caught(learned: VideoLM, probe: Probe) -> None:
    with torch.no_grad():
        for weight in learned.adapter_parameters("policy").values():
            weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"Adapter 'policy' changes no log-probability \(nan nats\)"):
        check_adapter(learned, "policy", probe)


def _touch_one_weight(lm: VideoLM) -> None:
    with torch.no_grad():
        lm.core.model.language_model.layers[1].mlp.down_proj.base_layer.weight[3, 4] += 1e-3


def _merge_in_place(lm: VideoLM) -> None:
    """What sampling from merged weights does when it takes them out again: rounding stays behind."""
    lm.model.merge_adapter(["policy"])
    lm.model.unmerge_adapter()


@pytest.mark.parametrize("change", [_touch_one_weight, _merge_in_place])
def test_a_changed_base_is_caught(learned: VideoLM, probe: Probe, change: Callable[[VideoLM], None]) -> None:
    change(learned)
    with pytest.raises(TrainingError, match="changed the frozen base"):
        check_adapter(learned, "policy", probe)


@pytest.fixture
def _blindfold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is shown, a model sees nothing of it."""
    encode = VideoLM.encode

    def blind(lm: VideoLM, frames: VideoFrames) -> Footage:
        seen = encode(lm, frames)
        return replace(seen, tokens=torch.zeros_like(seen.tokens))

    monkeypatch.setattr(VideoLM, "encode", blind)


@pytest.mark.usefixtures("_blindfold")
def test_a_blind_model_is_caught(learned: VideoLM, probe: Probe) -> None:
    check_adapter(learned, "policy", probe)
    with pytest.raises(TrainingError, match="blind to its frames"):
        check_blank(learned, probe, ANSWER_TOKENS)
