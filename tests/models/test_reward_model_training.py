"""Reward models on a tiny random checkpoint: learn an obvious preference, resume to the same bytes, load loudly."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from journals import FolderJournal, files_of, other_process, outcomes
from tiny import (
    ANSWERS,
    BASE,
    LORA,
    SHAPES,
    adapt,
    logprobs_of,
    prompts_of,
    read_by,
    reward_pairs,
    save_random,
    shake,
)

from models.batches import Limits
from models.reward_model import ADAPTER, RewardModel
from models.reward_training import (
    calibration_error,
    measured,
    new_reward_model,
    score_pairs,
    train_reward_model,
)
from models.settings import RewardForm, RewardSettings
from models.training import Journal
from models.video_lm import VideoLM

HEAD = RewardForm(kind="head", prompt="is this answer correct?")
LIKELIHOOD = RewardForm(kind="likelihood", prompt="")
SETTINGS = RewardSettings(
    form=LIKELIHOOD, lora=LORA, steps=5, batch_size=2, rate=5e-3, warmup=2, max_norm=1.0, save_every=2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def lm(folder: Path) -> VideoLM:
    return VideoLM.load(str(folder))


def _train(folder: Path, journal: Journal, out: Path, seed: int = 0, settings: RewardSettings = SETTINGS) -> None:
    lm = VideoLM.load(str(folder))
    reward = new_reward_model(lm, settings, seed)
    train_reward_model(reward, reward_pairs(reward), settings, seed, journal)
    reward.save(out, base=BASE)


@pytest.mark.parametrize("form", [HEAD, LIKELIHOOD], ids=["head", "likelihood"])
def test_it_learns_an_obvious_preference_and_keeps_it_where_it_was_not_taught(
    folder: Path, lm: VideoLM, tmp_path: Path, form: RewardForm
) -> None:
    journal = FolderJournal(tmp_path)
    settings = replace(SETTINGS, form=form, steps=30, batch_size=6, save_every=30)
    reward = new_reward_model(lm, settings, 0)
    train_reward_model(reward, reward_pairs(reward, SHAPES[:2]), settings, 0, journal)
    unseen = reward_pairs(reward, SHAPES[2:], seed=1)
    metrics = measured(*score_pairs(reward, unseen, Limits(3)), unseen)
    assert metrics["held_out_accuracy"] == 1
    assert metrics["held_out_margin"] > 1
    assert metrics["held_out_calibration_error"] < 0.3
    assert metrics["held_out_loss"] < journal.curves[1]["loss"]
    with lm.reference():
        assert torch.equal(logprobs_of(lm), logprobs_of(VideoLM.load(str(folder))))


@pytest.mark.parametrize("form", [HEAD, LIKELIHOOD], ids=["head", "likelihood"])
def test_killed_at_any_save_it_ends_with_the_same_adapter_and_head(
    folder: Path, tmp_path: Path, form: RewardForm
) -> None:
    settings = replace(SETTINGS, form=form)
    calm, *resumed = outcomes(lambda journal, out: _train(folder, journal, out, settings=settings), tmp_path, saves=3)
    assert {"adapter_model.safetensors", "reward_head.safetensors"} < set(calm)
    assert len(resumed) == 3
    for files in resumed:
        assert files == calm


def test_the_seed_decides_every_byte(folder: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        other_process()
        _train(folder, FolderJournal(tmp_path / f"{name}-states"), tmp_path / name, seed)
        made.append(files_of(tmp_path / name))
    assert made[0] == made[1]
    assert made[0]["adapter_model.safetensors"] != made[2]["adapter_model.safetensors"]


@pytest.mark.parametrize(("save_every", "saved"), [(2, [2, 4, 5]), (100, [5])])
def test_the_last_state_is_saved_whatever_the_interval(
    folder: Path, tmp_path: Path, save_every: int, saved: list[int]
) -> None:
    journal = FolderJournal(tmp_path / "states")
    _train(folder, journal, tmp_path / "out", settings=replace(SETTINGS, save_every=save_every))
    assert journal.saved == saved


def _shaken(lm: VideoLM, form: RewardForm) -> RewardModel:
    """A reward model whose adapter and head both matter."""
    lm.add_adapter(ADAPTER, LORA, seed=3)
    reward = RewardModel(lm, form)
    shake(lm.adapter_parameters(ADAPTER).values(), seed=4, scale=0.2)
    shake(reward.head.parameters(), seed=5, scale=0.5)
    return reward


@pytest.mark.parametrize("form", [HEAD, LIKELIHOOD], ids=["head", "likelihood"])
def test_a_score_does_not_depend_on_the_neighbours_padding(lm: VideoLM, form: RewardForm) -> None:
    reward = _shaken(lm, form)
    prompts, answers = read_by(reward), [lm.response_ids(text) for text in ANSWERS]
    together = reward.score_all(prompts, answers, Limits(3))
    alone = [reward.score([prompt], [answer]).item() for prompt, answer in zip(prompts, answers, strict=True)]
    assert len({round(score, 3) for score in alone}) == 3
    assert together.tolist() == pytest.approx(alone, abs=1e-4)
    assert reward.score_all(prompts, answers, Limits(1)).tolist() == pytest.approx(alone, abs=1e-4)


def test_the_likelihood_form_starts_as_self_preference_and_the_head_form_at_zero(lm: VideoLM) -> None:
    prompts, answers = prompts_of(lm), [lm.response_ids(text) for text in ANSWERS]
    logprobs, mask = lm.logprobs(prompts, answers)
    lm.add_adapter(ADAPTER, LORA, seed=3)
    expected = LIKELIHOOD.likelihood_scale * (logprobs.sum(1) / mask.sum(1))
    with torch.no_grad():
        started = _started(lm, LIKELIHOOD, answers)
        assert started.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        # A further turn is read, never counted as something that the answer said.
        asked = _started(lm, replace(LIKELIHOOD, prompt="is this answer correct?"), answers)
        assert asked.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
        assert not _started(lm, HEAD, answers).any()


def _started(lm: VideoLM, form: RewardForm, answers: list[tuple[int, ...]]) -> torch.Tensor:
    reward = RewardModel(lm, form)
    return reward.score(read_by(reward), answers)


def test_a_reward_prompt_is_the_last_thing_that_the_head_reads(lm: VideoLM) -> None:
    reward = _shaken(lm, HEAD)
    answers = [lm.response_ids(text) for text in ANSWERS]
    bare = RewardModel(lm, replace(HEAD, prompt=""))
    bare.head.load_state_dict(reward.head.state_dict())
    turn = lm.next_turn_ids(HEAD.prompt)
    by_hand = bare.score(read_by(bare), [(*answer, *turn) for answer in answers])
    assert torch.equal(reward.score(read_by(reward), answers), by_hand)
    assert not torch.equal(by_hand, bare.score(read_by(bare), answers))


@pytest.mark.parametrize("form", [HEAD, LIKELIHOOD], ids=["head", "likelihood"])
def test_a_saved_reward_model_scores_the_same_when_loaded(
    folder: Path, lm: VideoLM, tmp_path: Path, form: RewardForm
) -> None:
    reward = _shaken(lm, form)
    answers = [lm.response_ids(text) for text in ANSWERS]
    expected = reward.score(read_by(reward), answers)
    reward.save(tmp_path / "reward", base=BASE)
    fresh = VideoLM.load(str(folder))
    loaded = RewardModel.load(fresh, tmp_path / "reward")
    assert loaded.form == form
    assert torch.equal(loaded.score(read_by(loaded), answers), expected)


def test_an_adapter_without_a_head_is_refused_as_reward_model(folder: Path, lm: VideoLM, tmp_path: Path) -> None:
    adapt(lm).save_adapter("policy", tmp_path / "adapter", base=BASE)
    with pytest.raises(ValueError, match=r"holds no reward_head\.safetensors: it is an adapter, not a reward model"):
        RewardModel.load(VideoLM.load(str(folder)), tmp_path / "adapter")


def test_confidence_is_compared_with_how_often_it_is_right() -> None:
    sure = torch.full((10,), 20.0)
    assert calibration_error(sure) == pytest.approx(0, abs=1e-6)
    assert calibration_error(-sure) == pytest.approx(1, abs=1e-6)
    # Two of three right at a confidence of two thirds.
    margins = torch.log(torch.tensor([2.0, 2.0, 2.0])) * torch.tensor([1, 1, -1])
    assert calibration_error(margins) == pytest.approx(0, abs=1e-6)
    assert calibration_error(torch.cat([margins, sure])) == pytest.approx(0, abs=1e-6)
    assert calibration_error(torch.zeros(4)) == 0.5, "without a preference it is never right"


WORDS = replace(HEAD, words=("yes", "no"))


def test_a_head_may_start_from_what_the_language_model_would_reply(lm: VideoLM, tmp_path: Path) -> None:
    reward = new_reward_model(lm, replace(SETTINGS, form=WORDS), 0)
    answers = [lm.response_ids(text) for text in ANSWERS]
    prompts = read_by(reward)
    hidden = lm.hidden(prompts, [(*answer, *prompt.turn) for prompt, answer in zip(prompts, answers, strict=True)])
    yes, no = (lm.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    logits = lm.core.get_output_embeddings()(hidden.last)
    assert reward.score(prompts, answers).tolist() == pytest.approx((logits[:, yes] - logits[:, no]).tolist(), abs=1e-4)
    reward.save(tmp_path / "reward", base=BASE)
    assert json.loads((tmp_path / "reward" / "reward_form.json").read_text())["words"] == ["yes", "no"]
    with pytest.raises(ValueError, match=r"'yes and no' is 3 tokens, or an unknown one"):
        RewardModel(lm, replace(HEAD, words=("yes and no", "no")))


@pytest.mark.parametrize("where", ["question", "prompt"])
def test_a_narrative_is_read_where_the_form_has_a_place_and_only_if_it_says_so(lm: VideoLM, where: str) -> None:
    asked = {"question": "{question}", "prompt": "is this answer correct?"}
    form = RewardForm(**{**asked, where: f"{{context}} {asked[where]}"}, context="context: {narrative}")
    told = "a red circle grows."
    blind, seeing = _shaken(lm, form), RewardModel(lm, replace(form, rm_context="narrative"))
    seeing.head.load_state_dict(blind.head.state_dict())
    answers = [lm.response_ids(text) for text in ANSWERS]
    without = blind.score(read_by(blind), answers)
    assert torch.equal(blind.score(read_by(blind, told), answers), without)
    assert not torch.equal(seeing.score(read_by(seeing, told), answers), without)
    with pytest.raises(ValueError, match=r"reads the narrative, and there is none for the question 'what color"):
        read_by(seeing)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"question": "what?"}, "question needs {question}"),
        ({"prompt": "{answer}"}, "may hold {context}, and nothing else in braces"),
        ({"context": "none"}, "context needs {narrative}"),
        ({"rm_context": "narrative", "prompt": ""}, "rm_context narrative needs a place for it"),
        ({"prompt": "{"}, "write {{ or }} for a brace"),
    ],
)
def test_texts_that_cannot_be_filled_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        RewardForm(**wrong)
