"""The reward model's stage: which labels it is named by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import base_model, committed, keep_scenes, scenes, small_run

from miniature.world import QUESTIONS
from tasks.fanout import WorkerPool
from tasks.reward_model import RewardConfig, reward_model
from tasks.stage import RunContext, StageResult
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

VIDEOS = scenes(2)
CONFIG = RewardConfig.model_validate(
    {"training": {"steps": 2, "batch_size": 2, "save_every": 2, "held_out": 0.0, "warmup": 1, "rate": 1e-3}}
)


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


def row(item: str, **content: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0, **content}


def labels(ctx: RunContext, key: str, preferred: list[str], p_a: float) -> StageResult:
    """A version of the labels: one pair a question."""
    rows = [
        row(
            f"{video}-{place}", instruction=f"{video}-{place}", video=video, question=question.text, a=0, b=1,
            answer_a="a red circle moves left.", answer_b="a blue square grows.", p_a=p_a, preferred=preferred[place],
            method="verdict", frame_set="judge_2", with_narrative=False, arm="arm",
        )
        for video in VIDEOS
        for place, question in enumerate(QUESTIONS[: len(preferred)])
    ]  # fmt: skip
    return committed(ctx.lake.table("preferences"), rows, key)


def test_other_labels_that_say_the_same_train_nothing_anew(ctx: RunContext) -> None:
    tokens = visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, VIDEOS), base_model())
    asked = [
        row(f"{video}-0", video=video, question=QUESTIONS[0].text, answer="x", kind="event", split="rl")
        for video in VIDEOS
    ]
    instructions = committed(ctx.lake.table("instructions"), asked, "instructions0")

    def train(judged: StageResult) -> StageResult:
        return reward_model(ctx, CONFIG, judged, instructions, tokens, base_model(), "arm")

    first = train(labels(ctx, "judge-1", ["a", "b", "tie"], p_a=0.9))
    same = train(labels(ctx, "judge-2", ["a", "b", "tie"], p_a=0.6))
    assert (first.cached, same.cached, same.key) == (False, True, first.key)

    other = train(labels(ctx, "judge-3", ["a", "b", "b"], p_a=0.9))
    assert not other.cached, "a label moved"
    assert other.key != first.key
