"""A reward model beside the policy: on a base of its own, with a vocabulary of its own, and what it scores once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_ppo_training import NUMBERS, SETTINGS, _reward
from tiny import prompts_of, save_random, scorer_of, shake

from miniature import checkpoint
from models.batches import Limits
from models.on_policy import POLICY
from models.ppo import VALUE, Ppo
from models.sequences import Response
from models.video_lm import VideoLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


def test_reward_model_and_critic_may_stand_on_a_base_of_their_own(folder: Path, tmp_path: Path) -> None:
    lm, larger = VideoLM.load(str(folder)), VideoLM.load(str(_another(tmp_path / "larger")))
    scorer = scorer_of(_reward(larger), lm)
    ppo = Ppo(lm, scorer, SETTINGS, seed=0)
    assert not lm.adapter_parameters(VALUE)
    assert not larger.adapter_parameters(POLICY)
    shake(ppo.value_head.parameters(), seed=12, scale=0.5)
    rollout, metrics = ppo.rollout(prompts_of(lm), 0, NUMBERS)
    alone = scorer.reward.score(rollout.read, [response.ids for response in rollout.responses])
    assert metrics["reward_raw"] == pytest.approx(alone.mean().item(), abs=1e-4)
    before = [value.clone() for value in larger.adapter_parameters(VALUE).values()]
    ppo.update(rollout, rng_seed=0)
    assert not all(map(torch.equal, before, larger.adapter_parameters(VALUE).values()))
    larger.use(VALUE)
    assert torch.equal(rollout.values != 0, rollout.mask)


def test_a_critic_that_speaks_other_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    lm, other = VideoLM.load(str(folder)), VideoLM.load(str(_another(tmp_path / "other")))
    other.tokenizer.add_tokens(["unheard"])
    with pytest.raises(ValueError, match=r"their tokenizers differ\. Choose a reward model of the policy's family"):
        Ppo(lm, scorer_of(_reward(other), lm), SETTINGS, seed=0)


def test_another_tokenizer_reads_the_text_and_a_cut_answer_gets_no_end(folder: Path, tmp_path: Path) -> None:
    lm, other = VideoLM.load(str(folder)), VideoLM.load(str(_another(tmp_path / "other")))
    other.tokenizer.add_tokens(["unheard"])
    scorer = scorer_of(_reward(other), lm)
    prompts, text = scorer.read([0], 2), "it is red."
    ids = other.response_ids(text)
    answers = [Response((5, 6), text, finished=True), Response((5,), text, finished=False)]
    expected = [scorer.reward.score(prompts[:1], [each]).item() for each in (ids, ids[:-1])]
    assert scorer.score(prompts, answers, Limits(2)).tolist() == pytest.approx(expected, abs=1e-4)


def test_a_cut_answer_that_says_nothing_is_read_as_its_end(folder: Path, tmp_path: Path) -> None:
    lm, other = VideoLM.load(str(folder)), VideoLM.load(str(_another(tmp_path / "other")))
    other.tokenizer.add_tokens(["unheard"])
    reward = _reward(other)
    reward.form = replace(reward.form, prompt="")
    scorer = scorer_of(reward, lm)
    (found,) = scorer.score(scorer.read([0], 1), [Response((5,), "", finished=False)], Limits(1)).tolist()
    assert found == pytest.approx(reward.score(scorer.read([0], 1), [other.response_ids("")]).item(), abs=1e-4)


def test_answers_that_are_equal_have_one_reward(folder: Path) -> None:
    lm = VideoLM.load(str(folder))
    scorer = scorer_of(_reward(lm))
    said = [lm.response_ids(text) for text in ("it is red.", "a red circle grows.", "it is red.", "it is red.")]
    answers = [Response(ids, "", finished=True) for ids in said * 2]
    read = scorer.read([0, 1], 4)
    rewards = scorer.score(read, answers, Limits(3))
    for group in (rewards[:4], rewards[4:]):
        assert group[0] == group[2] == group[3] != group[1]
    assert torch.allclose(rewards, scorer.reward.score(read, said * 2), atol=1e-4)
    assert not torch.equal(rewards[:4], rewards[4:])


def _another(folder: Path) -> Path:
    model = checkpoint.new_model(4, seed=7)
    shake(model.parameters(), seed=8, scale=0.05)
    checkpoint.save(model, folder)
    return folder
