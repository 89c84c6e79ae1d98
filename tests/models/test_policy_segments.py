"""On-policy training in segments: goes on from where it stood, against a reward model that may be another."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from journals import FolderJournal, files_of, outcomes
from tiny import BASE, LORA, prompts_of, save_random, scorer_of, shake

from models.grpo import RewardFeedback, train_grpo
from models.on_policy import POLICY
from models.ppo import REWARD, VALUE, train_ppo
from models.reward_model import RewardModel
from models.settings import GrpoSettings, LoraSettings, PolicySettings, PpoSettings, RewardForm, Sampling
from models.training import Journal, TrainingError
from models.video_lm import VideoLM

COUNTS = {"iterations": 5, "prompts": 2, "samples": 2, "minibatch": 2, "forward_batch": 4, "save_every": 2}
SHARED = {"lora": LORA, "sampling": Sampling(max_new_tokens=8), "rate": 5e-3, "warmup": 1, "final_rate": 0.1}
PPO = PpoSettings(**SHARED, **COUNTS, value_rate=5e-3)
GRPO = GrpoSettings(**SHARED, **COUNTS, kl_coef=0.05, reference="epoch")
FIRST, SECOND = range(2), range(2, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


def _reward(lm: VideoLM, taste: int) -> RewardModel:
    lm.add_adapter(REWARD, LoraSettings(rank=2, alpha=6), seed=9)
    reward = RewardModel(lm, RewardForm(kind="likelihood", prompt=""))
    shake(lm.adapter_parameters(REWARD).values(), seed=taste, scale=0.2)
    shake(reward.head.parameters(), seed=taste + 1, scale=0.5)
    return reward


def _train(
    folder: Path, settings: PolicySettings, journal: Journal, out: Path, made: range | None = None, taste: int = 10
) -> None:
    lm = VideoLM.load(str(folder))
    scorer, prompts = scorer_of(_reward(lm, taste)), prompts_of(lm)
    if isinstance(settings, PpoSettings):
        train_ppo(lm, scorer, prompts, settings, 0, journal, iterations=made)
        lm.save_adapter(VALUE, out / VALUE, base=BASE)
    elif isinstance(settings, GrpoSettings):
        train_grpo(lm, RewardFeedback(scorer, settings), prompts, settings, 0, journal, iterations=made)
    lm.save_adapter(POLICY, out / POLICY, base=BASE)


def _state(journal: FolderJournal) -> Path:
    last = journal.resume()
    assert last is not None
    return last


def _after(journal: FolderJournal, folder: Path) -> FolderJournal:
    """A journal that begins with the last state of another, as a stage does that goes on from another."""
    state = _state(journal)
    if not (folder / state.name).exists():
        shutil.copytree(state, folder / state.name)
    return FolderJournal(folder)


@pytest.mark.parametrize("settings", [replace(PPO, normalise_rewards=False), GRPO], ids=["ppo", "grpo"])
def test_in_segments_it_ends_as_in_one_go(folder: Path, tmp_path: Path, settings: PolicySettings) -> None:
    whole = FolderJournal(tmp_path / "whole")
    _train(folder, settings, whole, tmp_path / "whole-out")
    first = FolderJournal(tmp_path / "first")
    _train(folder, settings, first, tmp_path / "first-out", FIRST)
    second = _after(first, tmp_path / "second")
    _train(folder, settings, second, tmp_path / "second-out", SECOND)
    assert (first.saved, second.saved) == ([2], [4, 5])
    assert first.curves | second.curves == whole.curves
    assert files_of(tmp_path / "second-out") == files_of(tmp_path / "whole-out")
    assert files_of(_state(second)) == files_of(_state(whole)), "moments and monitors' means too"


def test_killed_at_any_save_of_a_later_segment_it_ends_with_the_same_adapters(folder: Path, tmp_path: Path) -> None:
    first = FolderJournal(tmp_path / "first")
    _train(folder, PPO, first, tmp_path / "first-out", FIRST)

    def go_on(journal: FolderJournal, out: Path) -> None:
        _after(first, journal.folder)
        _train(folder, PPO, journal, out, SECOND, taste=20)

    calm, *resumed = outcomes(go_on, tmp_path / "runs", saves=2)
    assert len(resumed) == 2
    assert all(files == calm for files in resumed)


def test_another_reward_model_is_measured_by_its_first_rollout(folder: Path, tmp_path: Path) -> None:
    settings = replace(PPO, save_every=1)
    first = FolderJournal(tmp_path / "first")
    _train(folder, settings, first, tmp_path / "first-out", FIRST)
    second = _after(first, tmp_path / "second")
    _train(folder, settings, second, tmp_path / "second-out", SECOND, taste=20)
    assert second.curves[3]["reward"] == pytest.approx(0, abs=1e-4)
    means = {
        step: json.loads((tmp_path / name / f"state-{step:04d}/state.json").read_text())["numbers"]["reward_mean"]
        for name, steps in (("first", [1, 2]), ("second", [3, 4, 5]))
        for step in steps
    }
    assert means[1] == means[2] == pytest.approx(first.curves[1]["reward_raw"])
    assert means[3] == means[4] == means[5] == pytest.approx(second.curves[3]["reward_raw"])
    assert means[2] != means[3]


def test_policy_and_critic_are_where_they_were_and_the_reward_model_is_the_new_one(
    folder: Path, tmp_path: Path
) -> None:
    first = FolderJournal(tmp_path / "first")
    _train(folder, PPO, first, tmp_path / "first-out", FIRST)
    _train(folder, PPO, first, tmp_path / "still-out", range(2, 2), taste=20)
    assert files_of(tmp_path / "still-out") == files_of(tmp_path / "first-out")
    curves = {}
    for taste in (10, 20):
        second = _after(first, tmp_path / f"{taste}")
        _train(folder, PPO, second, tmp_path / f"{taste}-out", range(2, 3), taste=taste)
        curves[taste] = second.curves[3]
    same = ("kl", "entropy", "response_length", "learning_rate")
    assert [curves[10][name] for name in same] == [curves[20][name] for name in same]
    assert curves[10]["reward_raw"] != curves[20]["reward_raw"]


@pytest.mark.parametrize("made", [range(2, 5), range(1, 2)])
def test_a_state_of_other_iterations_is_refused(folder: Path, tmp_path: Path, made: range) -> None:
    """None at all, too: a segment that began again at the first iteration would learn everything twice."""
    journal = FolderJournal(tmp_path / "states")
    if made.stop == 2:
        _train(folder, PPO, journal, tmp_path / "out", range(3))
    with pytest.raises(TrainingError, match=f"Iterations {made.start + 1} to {made.stop} are to be made"):
        _train(folder, PPO, journal, tmp_path / "out", made)
