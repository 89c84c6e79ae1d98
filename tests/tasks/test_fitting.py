"""Rows that do not fit into the model's window: each training leaves them out, says so, and goes on with the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from labels_by_hand import row
from small import base_model, committed, keep_scenes, scenes, small_run

from tasks.dpo import DpoConfig, policy_by_pairs
from tasks.fanout import StageFailure, WorkerPool
from tasks.group_policy import GrpoConfig, policy_by_rewards
from tasks.policy import PpoConfig, policy
from tasks.reward_model import RewardConfig, RewardSource, reward_model
from tasks.sft import SftConfig, sft
from tasks.stage import RunContext, StageResult
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

VIDEOS = list(scenes(2))
ASKED, TRUTH = "describe the video.", "a red circle moves left."
LONG = "a red circle moves left. " * 100  # The window of the miniature's models is 512.
LEARNS = {"steps": 2, "batch_size": 8, "forward_batch": 8, "save_every": 2, "warmup": 0, "rate": 1e-3}
PAIRS = {**LEARNS, "held_out": 0.0}
ROLLS: dict[str, Any] = {
    "iterations": 1,
    "samples": 2,
    "epochs": 1,
    "minibatch": 12,
    "rate": 1e-3,
    "warmup": 1,
    "save_every": 1,
}
ROLLS |= {"sampling": {"temperature": 3.0, "max_new_tokens": 60}, "max_unfinished": 1.0}


@pytest.fixture(scope="module")
def ctx(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return small_run(pool, tmp_path_factory.mktemp("run") / "lake")


@pytest.fixture(scope="module")
def tokens(ctx: RunContext) -> StageResult:
    return visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, scenes(2)), base_model())


def asked(ctx: RunContext, *said: tuple[str, str]) -> StageResult:
    """Questions and answers about each video."""
    rows = [
        row(f"{video}-{number}", video=video, question=question, answer=answer, kind="event", split=split)
        for video in VIDEOS
        for number, (question, answer) in enumerate(said)
        for split in ("sft", "rl")
    ]
    return committed(ctx.lake.table("instructions"), rows, f"instructions{hash(said)}")


def judged(ctx: RunContext, *said: tuple[str, str]) -> StageResult:
    """Pairs of each video: the question, and the answer that is preferred."""
    rows = [
        row(
            f"{video}-{number}", instruction=f"{video}-{number}", video=video, question=question, a=0, b=1,
            answer_a=answer, answer_b="a blue square grows.", p_a=0.9, preferred="a", method="verdict",
            frame_set="judge_2", with_narrative=False, arm="arm",
        )
        for video in VIDEOS
        for number, (question, answer) in enumerate(said)
    ]  # fmt: skip
    return committed(ctx.lake.table("preferences"), rows, f"labels{hash(said)}")


GOOD, LONG_QUESTION, LONG_ANSWER = (ASKED, TRUTH), (LONG, TRUTH), (ASKED, LONG)
SAID = (GOOD, LONG_QUESTION, LONG_ANSWER, ("what is <video> ?", TRUTH))


def by_sft(ctx: RunContext, tokens: StageResult, said: tuple[tuple[str, str], ...]) -> StageResult:
    config = SftConfig.model_validate({"training": LEARNS})
    return sft(ctx, config, asked(ctx, *said), tokens, base_model())


def by_dpo(ctx: RunContext, tokens: StageResult, said: tuple[tuple[str, str], ...]) -> StageResult:
    config = DpoConfig.model_validate({"training": PAIRS})
    return policy_by_pairs(ctx, config, judged(ctx, *said), asked(ctx, *SAID), tokens, base_model(), "arm")


REWARD = RewardConfig.model_validate({"training": PAIRS})


def by_reward(ctx: RunContext, tokens: StageResult, said: tuple[tuple[str, str], ...]) -> StageResult:
    return reward_model(ctx, REWARD, [judged(ctx, *said)], None, asked(ctx, *SAID), tokens, base_model(), "arm")


def by_ppo(ctx: RunContext, tokens: StageResult, said: tuple[tuple[str, str], ...]) -> StageResult:
    source = RewardSource.of(by_reward(ctx, tokens, (GOOD,)), REWARD, None, tokens, base_model())
    config = PpoConfig.model_validate({"training": {**ROLLS, "prompts": 4}})
    return policy(ctx, config, source, asked(ctx, *said), tokens, base_model(), "ppo")


def by_grpo(ctx: RunContext, tokens: StageResult, said: tuple[tuple[str, str], ...]) -> StageResult:
    source = RewardSource.of(by_reward(ctx, tokens, (GOOD,)), REWARD, None, tokens, base_model())
    config = GrpoConfig.model_validate({"training": {**ROLLS, "prompts": 4}})
    return policy_by_rewards(ctx, config, source, asked(ctx, *said), tokens, base_model(), "grpo")


Way = Callable[[RunContext, StageResult, tuple[tuple[str, str], ...]], StageResult]


@pytest.mark.parametrize("way", [by_sft, by_reward, by_dpo, by_ppo, by_grpo])
def test_what_does_not_fit_costs_nothing_else(ctx: RunContext, tokens: StageResult, way: Way) -> None:
    """A question and an answer beyond the window, and a text that holds a video's token, stand among good ones."""
    assert way(ctx, tokens, SAID).ok == 1


@pytest.mark.parametrize("way", [by_sft, by_reward, by_dpo, by_ppo])
def test_where_nothing_fits_the_training_says_why_before_it_begins(
    ctx: RunContext, tokens: StageResult, way: Way
) -> None:
    with pytest.raises(
        StageFailure, match=r"None of the 2 .* can be used, the first because .*window is 512\. Shorten"
    ):
        way(ctx, tokens, (LONG_QUESTION,))
