"""Policies that are trained in segments, as stages of a real lake with the miniature's models."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from labels_by_hand import labels, questions
from small import base_model, keep_scenes, other_lake, scenes, small_run
from test_boards import written

from storage.gc import do, plan
from storage.lake import Lake
from tasks.boards import Shown
from tasks.fanout import WorkerPool
from tasks.group_policy import GrpoConfig, policy_by_rewards
from tasks.report_data import curves_of
from tasks.reward_model import RewardConfig, RewardSource, reward_model
from tasks.segments import refresh_name, refreshed_arm
from tasks.stage import RunContext, StageResult
from tasks.training import final_adapter
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

VIDEOS = scenes(2)
REWARD = RewardConfig.model_validate(
    {"training": {"steps": 2, "batch_size": 2, "save_every": 2, "held_out": 0.0, "warmup": 1, "rate": 1e-3}}
)
CONFIG = GrpoConfig.model_validate(
    {
        "training": {
            "iterations": 3,
            "prompts": 2,
            "samples": 4,
            "epochs": 1,
            "minibatch": 8,
            "rate": 1e-3,
            "warmup": 1,
            "save_every": 1,
            "sampling": {"temperature": 3.0, "max_new_tokens": 100},
        }
    }
)
NO_GUARD_S = -60.0


@dataclass
class Bars:
    """In the place of a progress: what was to be done, and what was."""

    begun: dict[str, int] = field(default_factory=dict)
    advanced: int = 0

    def start(self, name: str, total: int) -> Bars:
        self.begun[name] = total
        return self

    def advance(self, count: int = 1) -> None:
        self.advanced += count

    def finish(self) -> None: ...


class Stages:
    """The stages before a policy, in a lake of their own."""

    def __init__(self, ctx: RunContext) -> None:
        self.ctx = ctx
        self.tokens = visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, VIDEOS), base_model())
        self.asked = questions(ctx.lake, VIDEOS)
        judged = labels(ctx.lake, VIDEOS, "labels0", ["a", "b"], p_a=0.9)
        scored = reward_model(ctx, REWARD, [judged], None, self.asked, self.tokens, base_model(), "arm")
        self.reward = RewardSource.of(scored, REWARD, None, self.tokens, base_model())

    def policy(self, made: range | None = None, before: list[StageResult] | None = None, **changes: Any) -> StageResult:
        ctx = replace(self.ctx, **changes)
        given = (self.reward, self.asked, self.tokens, base_model(), "arm")
        return policy_by_rewards(ctx, CONFIG, *given, iterations=made, before=before or [])


@pytest.fixture(scope="module")
def ctx(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return small_run(pool, tmp_path_factory.mktemp("run") / "lake")


@pytest.fixture(scope="module")
def stages(ctx: RunContext) -> Stages:
    return Stages(ctx)


@pytest.fixture(scope="module")
def whole(stages: Stages) -> StageResult:
    return stages.policy()


def final(lake: Lake, done: StageResult) -> dict[str, Any]:
    (row,) = [each for each in lake.table("checkpoints").read(done.key).to_pylist() if each["final"]]
    return row


def steps(lake: Lake, done: StageResult) -> list[int]:
    rows = lake.table("metrics").read(done.key, ["name", "step"]).to_pylist()
    return sorted(row["step"] for row in rows if row["name"] == "kl")


def test_two_segments_make_the_adapter_of_one_training_whatever_gc_takes_between(
    stages: Stages, whole: StageResult, tmp_path: Path
) -> None:
    lake, bars = stages.ctx.lake, Bars()
    first = stages.policy(range(2))
    chores = plan(lake, min_age_s=NO_GUARD_S)
    assert "ended training" in {chore.kind for chore in chores}
    for chore in chores:
        do(lake, chore, min_age_s=NO_GUARD_S)
    shown = Shown(tmp_path)
    second = stages.policy(range(2, 3), [first], progress=bars, boards=shown)
    assert (bars.begun, bars.advanced) == ({"policy arm steps": 1}, 1)
    assert final_adapter(lake, second.ref) == final_adapter(lake, whole.ref)
    assert final_adapter(lake, first.ref) != final_adapter(lake, whole.ref)
    assert [steps(lake, each) for each in (whole, first, second)] == [[1, 2, 3], [1, 2], [3]]
    assert [(final(lake, each)["arm"], final(lake, each)["step"]) for each in (first, second)] == [
        ("arm_segment_1", 2),
        ("arm", 3),
    ]
    # What is told of the policy is told of all its iterations.
    gaps = [json.loads(final(lake, each)["metrics"])["rollout_trainer_gap"] for each in (whole, second)]
    assert gaps[0] == gaps[1]
    assert [step for name, step, _ in written(tmp_path / "policy_arm") if name == "kl"] == [1, 2, 3]
    assert curves_of(lake, {"arm": second}, {"arm": [first]}) == curves_of(lake, {"arm": whole})
    assert [stages.policy(range(2)).cached, stages.policy(range(2, 3), [first]).cached] == [True, True]


def test_only_a_segment_that_another_goes_on_from_keeps_its_state(stages: Stages, whole: StageResult) -> None:
    assert final(stages.ctx.lake, whole)["state"] is None
    assert final(stages.ctx.lake, stages.policy(range(2)))["state"] is not None
    with pytest.raises(Exception, match=rf"final row of training {whole.key} .* names no state"):
        stages.policy(range(2, 3), [whole])


def test_a_refreshed_reward_model_learns_from_all_labels(ctx: RunContext, tmp_path: Path) -> None:
    apart = other_lake(ctx, tmp_path / "lake")
    tokens = visual_tokens(apart, VisualTokensConfig(), keep_scenes(apart.lake, VIDEOS), base_model())
    asked = questions(apart.lake, VIDEOS)
    old = labels(apart.lake, VIDEOS, "old", ["a", "b", "tie"], p_a=0.9)
    new = labels(apart.lake, VIDEOS, "new", ["a"], p_a=0.9)
    level = labels(apart.lake, VIDEOS, "level", ["tie"], p_a=0.5)

    def train(judged: list[StageResult], **changes: Any) -> StageResult:
        config = REWARD.model_copy(update=changes)
        return reward_model(apart, config, judged, None, asked, tokens, base_model(), "arm")

    one, both = train([old]), train([old, new])
    pairs = [json.loads(final(apart.lake, each)["metrics"])["pairs"] for each in (one, both)]
    assert pairs == [4, 6]
    assert train([old, level]).ok == 1, "a refresh in which the judge decided nothing stops no run"
    assert train([old], refresh_every=1).key == one.key, "how often it is refreshed is no part of what it learned"


@pytest.mark.parametrize("name", ["arm", "a_refresh_1"])
def test_a_refresh_is_known_by_its_name_whatever_the_arm_is_called(name: str) -> None:
    assert refreshed_arm(refresh_name(name, 12)) == name
    assert refreshed_arm("arm_refresh_often") == "arm_refresh_often"
