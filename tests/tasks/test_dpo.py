"""The stage that trains the policy on preferences: its name, its row, its curves, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labels_by_hand import labels, questions
from small import base_model, keep_scenes, rows_of, scenes, small_run

from tasks.dpo import DpoConfig, policy_by_pairs
from tasks.fanout import StageFailure, WorkerPool
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, StageResult
from tasks.training import final_adapter
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

VIDEOS = scenes(3)
SHORT = {"steps": 2, "batch_size": 4, "forward_batch": 4, "save_every": 2, "warmup": 1, "rate": 1e-3, "held_out": 0.0}


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


@pytest.fixture
def tokens(ctx: RunContext) -> StageResult:
    return visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, VIDEOS), base_model())


def config(**changes: Any) -> DpoConfig:
    return DpoConfig.model_validate({"training": SHORT | changes})


def final(ctx: RunContext, trained: StageResult) -> dict[str, Any]:
    (row,) = rows_of(ctx.lake, trained)["arm"]
    return row


def test_a_policy_is_named_by_its_labels_and_goes_on_from_its_own_adapter(ctx: RunContext, tokens: StageResult) -> None:
    asked = questions(ctx.lake, VIDEOS)

    def train(key: str, preferred: list[str], p_a: float, model: ModelRef) -> StageResult:
        return policy_by_pairs(
            ctx, config(), labels(ctx.lake, VIDEOS, key, preferred, p_a), asked, tokens, model, "arm"
        )

    first = train("judge-1", ["a", "b", "tie"], 0.9, base_model())
    same = train("judge-2", ["a", "b", "tie"], 0.6, base_model())
    assert (first.cached, same.cached, same.key) == (False, True, first.key)
    row = final(ctx, first)
    assert (row["role"], row["step"], row["merged"]) == ("policy", 2, [])
    metrics = json.loads(row["metrics"])
    assert metrics["pairs"] == 2 * len(VIDEOS), "ties teach nothing"
    assert metrics["adapter_canary"] > 0
    assert metrics["blank_canary"] > 0
    curves = ctx.lake.table("metrics").read(first.key, ["name", "step"]).to_pylist()
    assert {each["step"] for each in curves} == {1, 2}
    assert {"loss", "accuracy", "margin", "shift", "gradient_norm"} < {each["name"] for each in curves}

    blob = final_adapter(ctx.lake, first.ref)
    again = train("judge-1", ["a", "b", "tie"], 0.9, replace(base_model(), merged=(blob,), stages=(first.ref,)))
    assert not again.cached
    assert final(ctx, again)["merged"] == [blob]
    assert final_adapter(ctx.lake, again.ref) != blob


@pytest.mark.parametrize(
    ("preferred", "changes", "complaint"),
    [
        (["tie", "tie"], {}, "No decided preference is left"),
        (["a", "b"], {"rate": 1e-30}, "changes no log-probability"),
    ],
    ids=["ties alone", "a canary"],
)
def test_what_cannot_be_learned_ends_the_stage(
    ctx: RunContext, tokens: StageResult, preferred: list[str], changes: dict[str, Any], complaint: str
) -> None:
    judged, asked = labels(ctx.lake, VIDEOS, "judge", preferred, 0.9), questions(ctx.lake, VIDEOS)
    with pytest.raises(StageFailure, match=complaint):
        policy_by_pairs(ctx, config(**changes), judged, asked, tokens, base_model(), "arm")
