"""The reward model's stage: which labels it is named by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from labels_by_hand import labels, questions
from small import base_model, keep_scenes, scenes, small_run

from models.reward_model import RewardModel
from tasks.fanout import StageFailure, WorkerPool
from tasks.reward_model import RewardConfig, RewardTraining, TrainRewardModel, reward_model
from tasks.stage import RunContext, StageResult
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

VIDEOS = scenes(2)
CONFIG = RewardConfig.model_validate(
    {"training": {"steps": 2, "batch_size": 2, "save_every": 2, "held_out": 0.0, "warmup": 1, "rate": 1e-3}}
)


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


def test_other_labels_that_say_the_same_train_nothing_anew(ctx: RunContext) -> None:
    tokens = visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, VIDEOS), base_model())
    instructions = questions(ctx.lake, VIDEOS)

    def train(key: str, preferred: list[str], p_a: float) -> StageResult:
        judged = labels(ctx.lake, VIDEOS, key, preferred, p_a)
        return reward_model(ctx, CONFIG, [judged], None, instructions, tokens, base_model(), "arm")

    first = train("judge-1", ["a", "b", "tie"], p_a=0.9)
    same = train("judge-2", ["a", "b", "tie"], p_a=0.6)
    assert (first.cached, same.cached, same.key) == (False, True, first.key)

    other = train("judge-3", ["a", "b", "b"], p_a=0.9)
    assert not other.cached, "a label moved"
    assert other.key != first.key


def test_a_batch_that_is_not_finite_is_kept_by_name(ctx: RunContext) -> None:
    tokens = visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, VIDEOS), base_model())
    judged = labels(ctx.lake, VIDEOS, "judge", ["a", "b", "b"], 0.9)
    wild = RewardConfig.model_validate(
        {"training": {**CONFIG.training.__dict__, "rate": 1e30, "warmup": 0, "steps": 3}}
    )
    with pytest.raises(StageFailure, match=r"reward arm: .*are not finite.*kept in table runs.*training_stopped"):
        reward_model(ctx, wild, [judged], None, questions(ctx.lake, VIDEOS), tokens, base_model(), "arm")
    told = ctx.lake.table("runs").read(columns=["event", "detail"]).to_pylist()
    (stopped,) = [json.loads(row["detail"]) for row in told if row["event"] == "training_stopped"]
    assert stopped["items"]
    for item in stopped["items"]:
        assert item.keys() == {"instruction", "video", "question", "answer_a", "answer_b"}
        assert item["video"] in VIDEOS


def test_held_out_pairs_go_through_the_model_as_few_at_a_time_as_in_training(
    ctx: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass of a step has two pairs, one without gradients twice as many; a step has all of them."""
    videos = scenes(12)
    tokens = visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, videos), base_model())
    judged = labels(ctx.lake, videos, "judge", ["a", "b", "b"], 0.9)
    few = {**CONFIG.training.__dict__, "batch_size": 24, "forward_batch": 2, "held_out": 0.5}
    config = RewardConfig.model_validate({"training": few})
    together: list[int] = []
    score = RewardModel.score

    def counted(reward: RewardModel, prompts: Any, responses: Any) -> Any:
        together.append(len(prompts) // 2)
        return score(reward, prompts, responses)

    monkeypatch.setattr(RewardModel, "score", counted)
    asked = questions(ctx.lake, videos)
    shared = (ctx.lake_root, "test", "key", "reward", "arm", base_model(), tokens.ref, asked.ref, config, 0)
    _, _, metrics = TrainRewardModel(RewardTraining(*shared, preferences=(judged.ref,), captions=None)).train(ctx.lake)
    assert metrics["held_out_pairs"] > 4
    assert set(together) == {2, 4} | ({int(metrics["held_out_pairs"]) % 4} - {0})
