"""Every training on a tiny random checkpoint, on one worker or on several processes of torch.distributed (gloo)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from journals import FolderJournal
from test_grpo_training import SETTINGS as GRPO
from test_grpo_training import Ending, _group
from test_ppo_training import SETTINGS as PPO
from test_ppo_training import _reward
from test_reward_model_training import SETTINGS as REWARD
from tiny import ANSWERS, LORA, growing_pairs, prompts_of, reward_pairs, scorer_of

from models.batches import Limits
from models.canaries import Probe, check_adapter
from models.dpo import train_dpo
from models.grpo import RankFeedback, RewardFeedback, train_grpo
from models.judge import LikelihoodJudge
from models.parallel import Team, is_partitioned
from models.ppo import train_ppo
from models.rankers import TournamentRanker
from models.reward_training import new_reward_model, score_pairs, train_reward_model
from models.settings import DpoSettings, SftSettings
from models.sft import ADAPTER, Example, train_sft
from models.training import Journal, Metrics
from models.video_lm import VideoLM

STEPS = 2
# Each step has three parts: on two workers one of them has none of its own in the second round.
SFT = SftSettings(lora=LORA, steps=STEPS, batch_size=3, forward_batch=1, rate=5e-3, warmup=1, save_every=1)
# Two parts, of two pairs and of one: a pair has 27 tokens.
DPO = DpoSettings(
    lora=LORA, steps=STEPS, batch_size=3, forward_batch=3, forward_tokens=60, rate=5e-3, warmup=1, save_every=1
)


def _sft(lm: VideoLM, journal: Journal, team: Team) -> Metrics:
    asked = zip(prompts_of(lm), ANSWERS, strict=True)
    examples = [Example(prompt, lm.response_ids(answer)) for prompt, answer in asked]
    prompts, answers = [each.prompt for each in examples], [each.response for each in examples]
    probe = Probe.take(lm, prompts, prompts, answers, Limits(2))
    loss = train_sft(lm, examples, SFT, 0, journal, team)
    return {"loss": loss, **check_adapter(lm, ADAPTER, probe)}


def _rewards(lm: VideoLM, journal: Journal, team: Team) -> Metrics:
    settings = replace(REWARD, steps=STEPS, batch_size=3, forward_batch=1, save_every=1)
    reward = new_reward_model(lm, settings, 0)
    pairs = reward_pairs(reward)
    train_reward_model(reward, pairs, settings, 0, journal, team)
    chosen, rejected = score_pairs(reward, pairs[:5], Limits(2), team)
    return {"margin": float((chosen - rejected).mean())}


def _dpo(lm: VideoLM, journal: Journal, team: Team) -> Metrics:
    pairs = growing_pairs(lm)
    return train_dpo(lm, pairs[3:], pairs[:3], DPO, 0, journal, team)


def _ppo(lm: VideoLM, journal: Journal, team: Team) -> Metrics:
    settings = replace(PPO, iterations=STEPS, prompts=3, minibatch=6, forward_batch=2, entropy_coef=0.01)
    train_ppo(lm, scorer_of(_reward(lm, "likelihood")), prompts_of(lm), settings, 0, journal, team=team)
    return {}


def _grpo(lm: VideoLM, journal: Journal, team: Team) -> Metrics:
    settings = replace(GRPO, iterations=STEPS, prompts=3, minibatch=9, forward_batch=3)
    feedback = RewardFeedback(scorer_of(_reward(lm, "likelihood")), settings, team)
    train_grpo(lm, feedback, prompts_of(lm), settings, 0, journal, team=team)
    return {}


def _ranks(lm: VideoLM, journal: Journal, team: Team) -> Metrics:
    settings = replace(GRPO, iterations=STEPS, prompts=3, minibatch=9, forward_batch=3, reference="start")
    judge = LikelihoodJudge(lm, text="{question}", context_text="{context} {question}", batch_size=2, team=team)
    feedback = RankFeedback(TournamentRanker(judge), _group, settings)
    train_grpo(lm, feedback, prompts_of(lm), settings, 0, journal, team=team)
    return {}


TRAININGS: dict[str, Callable[[VideoLM, Journal, Team], Metrics]] = {
    "sft": _sft,
    "reward": _rewards,
    "dpo": _dpo,
    "ppo": _ppo,
    "grpo": _grpo,
    "ranks": _ranks,
}


class Reader(FolderJournal):
    """The journal of a worker that is not the first: it finds the states that the first one keeps."""

    def save(self, step: int, folder: Path) -> None:  # noqa: ARG002
        raise AssertionError("one worker keeps the journal")


def train(name: str, checkpoint: Path, out: Path, team: Team, *, weights: bool = False) -> None:
    """One training to its end, its states and curves in `out`, going on from a state that stands there.

    `weights`: whether the workers are to have a part of the base's weights each; they then compute layers again too, as
    who divides a base will want.
    """
    journal = (FolderJournal if team.rank == 0 else Reader)(out)
    lm = Ending.load(str(checkpoint), team=team)
    lm.gradient_checkpointing = weights
    assert is_partitioned(lm.core) == weights
    base = [value for key, value in lm.core.get_decoder().layers.named_parameters() if key.endswith("proj.weight")]
    assert all(value.numel() == 0 for value in base) == weights
    told = TRAININGS[name](lm, journal, team)
    if weights:  # nothing was left whole by the way
        assert sum(value.numel() for value in base) < sum(value.ds_numel for value in base) / 4
    adapters = {key: value.detach() for key, value in lm.core.named_parameters() if "lora_" in key}
    for theirs in team.gather(adapters):
        assert all(torch.equal(value, adapters[key]) for key, value in theirs.items())
    if team.rank == 0:
        (out / "curves.json").write_text(json.dumps([journal.curves, told]))


def curves(out: Path) -> tuple[dict[str, Metrics], Metrics]:
    """The metrics of every step, and those of the end."""
    steps, told = json.loads((out / "curves.json").read_text())
    return steps, told


def on_workers(size: int, work: Callable[..., None], *arguments: object, folder: Path) -> None:
    """`work(*arguments)` on processes of their own, joined in one group by a file in `folder`."""
    mp.spawn(_joined, (size, folder / "rendezvous", work, arguments), nprocs=size)


def _joined(rank: int, size: int, meeting: Path, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    work(*arguments)
    dist.barrier()
    dist.destroy_process_group()
