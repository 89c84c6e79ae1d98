"""Learning from groups on a tiny random checkpoint: by rewards and by ranks, resumed to the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from journals import FolderJournal, outcomes
from tiny import BASE, LORA, logprobs_of, prompts_of, save_random, scorer_of, shake
from torch import Tensor

from models.batches import Limits
from models.grpo import REFERENCE, Feedback, Grpo, RankFeedback, RewardFeedback, train_grpo
from models.monitor_limits import MonitorLimits
from models.on_policy import POLICY
from models.parallel import ALONE, Team
from models.rankings import Group, NoRanking, Ranking, ranked_by
from models.reward_model import RewardModel, RewardPrompt
from models.sequences import Response
from models.settings import GrpoSettings, LoraSettings, RewardForm, Sampling
from models.training import Journal, TrainingError
from models.video_lm import VideoLM

SETTINGS = GrpoSettings(
    lora=LORA,
    sampling=Sampling(max_new_tokens=8),
    iterations=3,
    prompts=2,
    samples=3,
    minibatch=3,
    forward_batch=4,
    rate=5e-3,
    warmup=1,
    final_rate=0.1,
    kl_coef=0.05,
    entropy_coef=0.01,
    reference="epoch",
    save_every=1,
)
LEARNING = replace(
    SETTINGS,
    iterations=7,
    prompts=3,
    samples=8,
    minibatch=12,
    forward_batch=24,
    kl_coef=0.0,
    entropy_coef=0.0,
    reference="start",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


class Ending(VideoLM):
    """Takes every answer as ended: cut ones are not ranked, and the tiny model ends by chance alone."""

    def generate(self, *arguments: Any, **named: Any) -> list[list[Response]]:
        return [[replace(each, finished=True) for each in group] for group in super().generate(*arguments, **named)]


def _liked(text: str) -> float:
    return float(text.split().count("first"))


class LikesFirst:
    """A ranker: the more often an answer says first, the better; gives no order of the groups in `refused`."""

    def __init__(self, refused: Sequence[str] = ()) -> None:
        self.refused = refused
        self.asked: list[Group] = []

    def rank(self, groups: Sequence[Group], seed: int = 0) -> list[Ranking | NoRanking]:  # noqa: ARG002 - none drawn
        self.asked += groups
        return [
            NoRanking("it will not say")
            if group.name in self.refused
            else ranked_by(group, {answer: _liked(answer) for answer in group.distinct()})
            for group in groups
        ]


class LikesAll(LikesFirst):
    def rank(self, groups: Sequence[Group], seed: int = 0) -> list[Ranking | NoRanking]:  # noqa: ARG002 - none drawn
        return [ranked_by(group, dict.fromkeys(group.distinct(), 1.0)) for group in groups]


class RewardsFirst(RewardModel):
    """Counts how often an answer says first."""

    def score_all(
        self,
        prompts: Sequence[RewardPrompt],  # noqa: ARG002
        responses: Sequence[Sequence[int]],
        limits: Limits,  # noqa: ARG002
        team: Team = ALONE,  # noqa: ARG002
    ) -> Tensor:
        first = self.lm.response_ids("first")[0]
        return torch.tensor([float(list(response).count(first)) for response in responses])


def _group(number: int, answers: tuple[str, ...]) -> Group | str:
    return Group(str(number), "what?", None, answers)


def _ranks(settings: GrpoSettings, ranker: LikesFirst | None = None) -> RankFeedback:
    return RankFeedback(ranker or LikesFirst(), _group, settings)


def _rewards(lm: VideoLM, settings: GrpoSettings) -> RewardFeedback:
    lm.add_adapter("reward", LoraSettings(rank=2, alpha=6), seed=9)
    return RewardFeedback(scorer_of(RewardsFirst(lm, RewardForm(prompt=""))), settings)


def _feedback(kind: str, lm: VideoLM, settings: GrpoSettings) -> Feedback:
    return _ranks(settings) if kind == "ranks" else _rewards(lm, settings)


@pytest.mark.parametrize("kind", ["ranks", "rewards"])
def test_killed_at_any_save_it_ends_with_the_same_adapters(kind: str, folder: Path, tmp_path: Path) -> None:
    """The reference that moves with each pass is part of the state."""

    def train(journal: Journal, out: Path) -> None:
        lm = Ending.load(str(folder))
        train_grpo(lm, _feedback(kind, lm, SETTINGS), prompts_of(lm), SETTINGS, 0, journal)
        for name in (POLICY, REFERENCE):
            lm.save_adapter(name, out / name, base=BASE)

    calm, *resumed = outcomes(train, tmp_path, saves=3)
    assert len(resumed) == 3
    for files in resumed:
        assert files == calm
    weights = [calm[f"{name}/adapter_model.safetensors"] for name in (POLICY, REFERENCE)]
    assert weights[0] != weights[1]


@pytest.mark.parametrize("advantage", ["grpo", "dr_grpo", "rloo"])
def test_the_policy_finds_what_is_rewarded(advantage: str, folder: Path, tmp_path: Path) -> None:
    lm, journal = Ending.load(str(folder)), FolderJournal(tmp_path)
    settings = replace(LEARNING, advantage=advantage)
    train_grpo(lm, _rewards(lm, settings), prompts_of(lm), settings, 0, journal)
    said = [metrics["reward_raw"] for metrics in journal.curves.values()]
    assert 0 < said[0] < 1
    assert said[-1] > 2 * said[0]
    assert journal.curves[7]["kl"] > journal.curves[1]["kl"] == 0


@pytest.mark.parametrize("reduction", ["token", "sequence", "constant"])
def test_the_policy_finds_what_is_ranked_first(reduction: str, folder: Path, tmp_path: Path) -> None:
    lm, journal = Ending.load(str(folder)), FolderJournal(tmp_path)
    settings = replace(LEARNING, reduction=reduction)
    truth = lambda _, texts: [_liked(text) for text in texts]  # noqa: E731
    train_grpo(lm, _ranks(settings), prompts_of(lm), settings, 0, journal, truth)
    said = [metrics["reward_true"] for metrics in journal.curves.values()]
    assert said[-1] > 1.5 * said[0]


def test_only_the_policy_learns_and_without_it_the_model_is_the_base(folder: Path, tmp_path: Path) -> None:
    lm = Ending.load(str(folder))
    before = {name: value.clone() for name, value in lm.core.named_parameters()}
    settings = replace(SETTINGS, reference="start")
    train_grpo(lm, _rewards(lm, settings), prompts_of(lm), settings, 0, FolderJournal(tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in lm.core.named_parameters() if name in before)
    assert any(value.any() for key, value in lm.adapter_parameters(POLICY).items() if "lora_B" in key)
    with lm.reference():
        assert torch.equal(logprobs_of(lm), logprobs_of(VideoLM.load(str(folder))))


def _grpo(folder: Path, ranker: LikesFirst, settings: GrpoSettings) -> Grpo:
    lm = Ending.load(str(folder))
    return Grpo(lm, _ranks(settings, ranker), settings, questions=3, seed=0)


FINISHED = replace(SETTINGS, samples=4)


def test_a_group_without_an_order_is_dropped_and_counted_and_moves_nothing(folder: Path) -> None:
    grpo = _grpo(folder, LikesFirst(refused=["1"]), FINISHED)
    rollout, metrics = grpo.rollout(prompts_of(grpo.lm)[:2], 0, [0, 1])
    assert metrics["dropped_share"] == 0.5
    assert not rollout.advantages[4:].any()
    assert all(row < 4 for row in rollout.taught)


def test_a_rollout_that_nobody_can_order_stops_the_training(folder: Path) -> None:
    grpo = _grpo(folder, LikesFirst(refused=["0", "1"]), FINISHED)
    with pytest.raises(TrainingError, match=r"No group of a rollout could be judged, the first because: it will not"):
        grpo.rollout(prompts_of(grpo.lm)[:2], 0, [0, 1])


def test_a_cut_answer_is_not_ranked(folder: Path) -> None:
    ranker, lm = LikesFirst(), VideoLM.load(str(folder))
    grpo = Grpo(lm, _ranks(SETTINGS, ranker), SETTINGS, questions=3, seed=0)
    with pytest.raises(TrainingError, match="an answer was cut by the token limit"):
        grpo.rollout(prompts_of(grpo.lm)[:2], 0, [0, 1])
    assert not ranker.asked


def test_groups_of_equal_answers_are_left_out_of_the_update(folder: Path) -> None:
    """A policy that always says the same has nothing to compare, and nothing changes."""
    grpo = _grpo(folder, LikesAll(), FINISHED)
    shake(grpo.lm.adapter_parameters(POLICY).values(), seed=3, scale=0.05)
    before = {key: value.clone() for key, value in grpo.lm.adapter_parameters(POLICY).items()}
    rollout, metrics = grpo.rollout(prompts_of(grpo.lm)[:2], 0, [0, 1])
    assert metrics["contrast_share"] == 0
    assert not rollout.taught
    grpo.update(rollout, rng_seed=0)
    assert all(torch.equal(value, before[key]) for key, value in grpo.lm.adapter_parameters(POLICY).items())


def test_the_reference_moves_at_the_start_of_each_pass(folder: Path) -> None:
    """Of 3 questions, 2 a rollout (0 1, 2 0, 1 2, 0 1, 2 0): where question 0 comes again."""
    grpo = _grpo(folder, LikesFirst(), SETTINGS)
    begun = []
    for step in range(5):
        grpo.trainer.step = step
        begun.append(grpo._begins_pass())
    assert begun == [False, True, False, True, True]


def test_a_training_that_a_monitor_stops_keeps_its_curves_and_its_state(folder: Path, tmp_path: Path) -> None:
    lm, journal = Ending.load(str(folder)), FolderJournal(tmp_path)
    strict = MonitorLimits(action="stop", window=1, max_kl=None, min_entropy=None, min_unique_share=1.0)
    settings = replace(SETTINGS, save_every=100, monitors=strict)
    with pytest.raises(TrainingError, match="min_unique_share"):
        train_grpo(lm, _ranks(settings), prompts_of(lm), settings, 0, journal)
    assert journal.saved == [max(journal.curves)]
    assert journal.curves[journal.saved[0]]["alarm_min_unique_share"] == 1.0


def test_an_estimator_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="k1 has no gradient"):
        replace(SETTINGS, kl_estimator="k1")


def test_an_entropy_bonus_at_a_low_temperature_stays_finite(folder: Path, tmp_path: Path) -> None:
    """Forbidden tokens are at -inf there."""
    lm, journal = Ending.load(str(folder)), FolderJournal(tmp_path)
    settings = replace(SETTINGS, sampling=Sampling(max_new_tokens=8, temperature=0.8))
    train_grpo(lm, _rewards(lm, settings), prompts_of(lm), settings, 0, journal)
    assert list(journal.curves) == [1, 2, 3]


def test_the_kl_term_holds_the_policy_to_the_reference(folder: Path, tmp_path: Path) -> None:
    far = []
    for weight in (0.0, 5.0):
        lm, journal = Ending.load(str(folder)), FolderJournal(tmp_path / str(weight))
        settings = replace(LEARNING, kl_coef=weight, reference="start")
        train_grpo(lm, _rewards(lm, settings), prompts_of(lm), settings, 0, journal)
        far.append(journal.curves[7]["kl"])
    assert far[1] < 0.5 * far[0]
