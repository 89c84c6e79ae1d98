"""A step's batch may be cut into forward passes: its gradient is the same but for rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import TypeVar

import pytest
from journals import FolderJournal
from test_grpo_training import SETTINGS as GRPO
from test_grpo_training import Ending, _ranks
from test_ppo_training import SETTINGS as PPO
from test_ppo_training import _reward
from test_reward_model_training import SETTINGS as REWARD
from test_room import FakeGpu
from tiny import ANSWERS, LORA, prompts_of, reward_pairs, save_random, scorer_of, shake

from models.batches import Limits
from models.dpo import train_dpo
from models.grpo import Grpo
from models.on_policy import POLICY, batch_of, limits_of, minibatches
from models.pairs import Pair
from models.ppo import Ppo
from models.reward_model import ADAPTER
from models.reward_training import new_reward_model, train_reward_model
from models.settings import DpoSettings, GrpoSettings, PpoSettings, RewardSettings, SftSettings
from models.sft import Example, train_sft
from models.training import Metrics
from models.video_lm import VideoLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


def _sft(lm: VideoLM, limits: Limits, journal: FolderJournal) -> Metrics:
    asked = zip(prompts_of(lm), ANSWERS, strict=True)
    examples = [Example(prompt, lm.response_ids(answer)) for prompt, answer in asked]
    settings = SftSettings(lora=LORA, steps=1, batch_size=3, rate=5e-3, warmup=1)
    train_sft(lm, examples, _within(settings, limits), 0, journal)
    return journal.curves[1]


def _rewards(lm: VideoLM, limits: Limits, journal: FolderJournal) -> Metrics:
    reward = new_reward_model(lm, REWARD, 0)
    shake(lm.adapter_parameters(ADAPTER).values(), seed=1, scale=0.1)
    settings = _within(replace(REWARD, steps=1, batch_size=5), limits)
    train_reward_model(reward, reward_pairs(reward), settings, 0, journal)
    return journal.curves[1]


def _dpo(lm: VideoLM, limits: Limits, journal: FolderJournal) -> Metrics:
    prompts, answers = prompts_of(lm), [lm.response_ids(text) for text in ANSWERS]
    pairs = [Pair(prompt, *both) for prompt in prompts for both in permutations(answers, 2)]
    settings = DpoSettings(lora=LORA, steps=1, batch_size=5, rate=1e-3, warmup=1)
    train_dpo(lm, pairs, pairs[:4], _within(settings, limits), 0, journal)
    return journal.curves[1]


def _updated(algorithm: Ppo | Grpo, limits: Limits) -> Metrics:
    """One step on a rollout that does not depend on the limits."""
    shake(algorithm.lm.adapter_parameters(POLICY).values(), seed=13, scale=0.1)
    rollout, _ = algorithm.rollout(prompts_of(algorithm.lm), 0, [0, 1, 2])
    shake(algorithm.lm.adapter_parameters(POLICY).values(), seed=14, scale=0.02)
    algorithm.settings = _within(algorithm.settings, limits)  # type: ignore[assignment]
    return algorithm.update(rollout, rng_seed=0)  # type: ignore[arg-type]


def _ppo(lm: VideoLM, limits: Limits, _: FolderJournal) -> Metrics:
    settings = replace(PPO, epochs=1, samples=2, minibatch=6, forward_batch=100, entropy_coef=0.01)
    ppo = Ppo(lm, scorer_of(_reward(lm)), settings, 0)
    shake(ppo.value_head.parameters(), seed=12, scale=0.5)
    return _updated(ppo, limits)


def _grpo(lm: VideoLM, limits: Limits, _: FolderJournal) -> Metrics:
    settings = replace(GRPO, epochs=1, minibatch=64, forward_batch=100, entropy_coef=0.01, kl_coef=0.1)
    return _updated(Grpo(lm, _ranks(settings), settings, 3, 0), limits)


AnySettings = TypeVar("AnySettings", SftSettings, RewardSettings, DpoSettings, PpoSettings | GrpoSettings)


def _within(settings: AnySettings, limits: Limits) -> AnySettings:
    return replace(settings, forward_batch=limits.answers, forward_tokens=limits.tokens)


AT_ONCE = Limits(100)


@pytest.mark.parametrize("train", [_sft, _rewards, _dpo, _ppo, _grpo])
def test_a_batch_in_parts_gives_the_gradient_that_it_gives_at_once(
    train: Callable[[VideoLM, Limits, FolderJournal], Metrics], folder: Path, tmp_path: Path
) -> None:
    ways = [AT_ONCE, Limits(1), Limits(2), Limits(100, tokens=1), Limits(100, tokens=190), Limits(2, tokens=500)]
    at_once, *parts = (
        train(Ending.load(str(folder)), limits, FolderJournal(tmp_path / str(number)))
        for number, limits in enumerate(ways)
    )
    assert at_once["gradient_norm"] > 0.001
    for each in parts:
        assert each == pytest.approx(at_once, abs=1e-4, rel=1e-3)


@pytest.mark.parametrize("train", [_sft, _rewards, _dpo, _ppo, _grpo])
def test_layers_that_are_computed_again_change_no_number(
    train: Callable[[VideoLM, Limits, FolderJournal], Metrics], folder: Path, tmp_path: Path
) -> None:
    saving = Ending.load(str(folder))
    saving.gradient_checkpointing = True
    plain = train(Ending.load(str(folder)), Limits(2), FolderJournal(tmp_path / "plain"))
    assert train(saving, Limits(2), FolderJournal(tmp_path / "saving")) == plain


@pytest.mark.parametrize("train", [_sft, _rewards, _dpo, _ppo, _grpo])
def test_steps_that_are_cut_by_memory_give_the_same_gradient(
    train: Callable[[VideoLM, Limits, FolderJournal], Metrics], folder: Path, tmp_path: Path
) -> None:
    fitting = Ending.load(str(folder))
    fitting.meter = FakeGpu(bytes=1, claimed=0)  # As if every pass filled it: units go one by one.
    at_once = train(Ending.load(str(folder)), AT_ONCE, FolderJournal(tmp_path / "at once"))
    assert train(fitting, AT_ONCE, FolderJournal(tmp_path / "fitting")) == pytest.approx(at_once, abs=1e-4, rel=1e-3)


def test_parts_are_whole_questions_and_no_larger_than_asked() -> None:
    settings = replace(PPO, samples=4, minibatch=12, forward_batch=9, epochs=2)
    steps = minibatches(range(20), settings, rng_seed=0, step=3)
    assert [len(step) for step in steps] == [12, 8, 12, 8]
    assert sorted(steps[0] + steps[1]) == sorted(steps[2] + steps[3]) == list(range(20))

    def parts(settings: PpoSettings) -> list[list[int]]:
        return batch_of(None, steps[0], settings.samples, [], []).passes(limits_of(settings))  # type: ignore[arg-type]

    assert [row for part in parts(settings) for row in part] == steps[0]
    assert [len(part) for part in parts(settings)] == [8, 4]
    for part in parts(settings):
        assert all(part[at + 1] == part[at] + 1 for at in range(len(part) - 1) if at % 4 != 3)
    assert [len(part) for part in parts(replace(settings, forward_batch=1))] == [4, 4, 4]
