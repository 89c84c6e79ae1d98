"""Policies that learn from groups, through the miniature's real models and a real lake: by ranks and by rewards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import BASE, base_model, committed, keep_scenes, scenes, small_run

from miniature.checkpoint import CONTEXT_PROMPT
from miniature.lessons import SLOTS
from models.batches import Limits
from models.rankings import Group
from tasks.fanout import WorkerPool
from tasks.group_policy import Groups, GrpoConfig, policy_by_ranks, policy_by_rewards
from tasks.model_ref import ModelRef
from tasks.preferences import PreferencesConfig
from tasks.rankings import RankSettings
from tasks.reward_model import RewardConfig, RewardSource, reward_model
from tasks.stage import RunContext, StageResult
from tasks.tokens import VisualTokens
from tasks.training import Questions, Training
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

VIDEOS = scenes(3)
ASKED = "describe the video."
TRAINING = {
    "iterations": 2,
    "prompts": 3,
    "samples": 4,
    "epochs": 1,
    "minibatch": 12,
    "rate": 1e-3,
    "warmup": 1,
    "save_every": 1,
    "sampling": {"temperature": 3.0, "max_new_tokens": 100},
}


def config(**changes: Any) -> GrpoConfig:
    return GrpoConfig.model_validate({"training": TRAINING, "monitor": {"values": SLOTS.values}, **changes})


def judging(**changes: Any) -> PreferencesConfig:
    prompts = {"likelihood": "{question}", "likelihood_context": CONTEXT_PROMPT}
    return PreferencesConfig.model_validate(
        {"method": "likelihood", "frame_set": "judge_2", "narrative": True, "prompts": prompts, **changes}
    )


@pytest.fixture(scope="module")
def ctx(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return small_run(pool, tmp_path_factory.mktemp("run") / "lake")


@pytest.fixture(scope="module")
def labeler() -> ModelRef:
    return ModelRef.of(str(BASE.parent / "labeler"))


@pytest.fixture(scope="module")
def seen(ctx: RunContext, labeler: ModelRef) -> tuple[StageResult, StageResult]:
    """Visual tokens of the policy and of the labeler."""
    kept = keep_scenes(ctx.lake, VIDEOS)
    return visual_tokens(ctx, VisualTokensConfig(), kept, base_model()), visual_tokens(
        ctx, VisualTokensConfig(), kept, labeler
    )


def row(item: str, **content: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0, **content}


@pytest.fixture(scope="module")
def asked(ctx: RunContext) -> StageResult:
    truth = "first a red circle moves left. then a blue square grows."
    rows = [
        row(f"about {video}", video=video, question=ASKED, answer=truth, kind="description", split="rl")
        for video in VIDEOS
    ]
    return committed(ctx.lake.table("instructions"), rows, "instructions0")


def narrated(ctx: RunContext, key: str, told: list[str]) -> StageResult:
    """Narratives of the videos; an empty one is none."""
    rows = [
        row(video, video=video, narrative=text)
        if text
        else {**row(video), "status": "quarantined", "reason": "the captioner said nothing"}
        for video, text in zip(VIDEOS, told, strict=True)
    ]
    return committed(ctx.lake.table("captions"), rows, key)


@pytest.fixture(scope="module")
def told(ctx: RunContext) -> StageResult:
    return narrated(ctx, "captions0", ["a red circle moves left. a blue square grows."] * 2 + [""])


def metrics(ctx: RunContext, key: str, name: str) -> list[float]:
    rows = ctx.lake.table("metrics").read(key, ["name", "step", "value"]).to_pylist()
    return [each["value"] for each in sorted(rows, key=lambda each: each["step"]) if each["name"] == name]


def by_ranks(
    ctx: RunContext,
    seen: tuple[StageResult, StageResult],
    asked: StageResult,
    told: StageResult,
    labeler: ModelRef,
    settings: GrpoConfig | None = None,
    way: PreferencesConfig | None = None,
) -> StageResult:
    own, other = seen
    ranker = (way or judging(), labeler, other, told)
    return policy_by_ranks(ctx, settings or config(), *ranker, asked, own, base_model(), "ranks")


def test_a_judge_that_only_ranks_trains_a_policy(
    ctx: RunContext, seen: tuple[StageResult, StageResult], asked: StageResult, told: StageResult, labeler: ModelRef
) -> None:
    done = by_ranks(ctx, seen, asked, told, labeler)
    (final,) = [each for each in ctx.lake.table("checkpoints").read(done.key).to_pylist() if each["final"]]
    assert (final["role"], final["arm"], final["step"]) == ("policy", "ranks", 2)
    assert (ctx.lake.blobs.folder(final["blob"]) / "adapter_model.safetensors").exists()
    # The video without a narrative is not ranked, and counted, in each rollout.
    assert metrics(ctx, done.key, "dropped_share") == pytest.approx([1 / 3] * 2)
    assert metrics(ctx, done.key, "contrast_share")[0] > 0
    assert len(metrics(ctx, done.key, "reward_true")) == 2
    assert by_ranks(ctx, seen, asked, told, labeler).cached


def test_what_the_ranker_does_not_use_changes_no_key(
    ctx: RunContext, seen: tuple[StageResult, StageResult], asked: StageResult, told: StageResult, labeler: ModelRef
) -> None:
    done = by_ranks(ctx, seen, asked, told, labeler)
    listwise = {"prompts": {"listwise": "{question} in order: {answers}"}}
    assert by_ranks(ctx, seen, asked, told, labeler, config(**listwise)).key == done.key
    blindfolded = by_ranks(ctx, seen, asked, told, labeler, way=judging(narrative=False))
    assert blindfolded.key != done.key
    assert metrics(ctx, blindfolded.key, "dropped_share") == [0.0, 0.0], "nobody reads the missing narrative"


def test_the_true_answers_may_rank_as_an_upper_bound(
    ctx: RunContext, seen: tuple[StageResult, StageResult], asked: StageResult, told: StageResult, labeler: ModelRef
) -> None:
    done = by_ranks(ctx, seen, asked, told, labeler, config(ranker="truth"))
    assert metrics(ctx, done.key, "dropped_share") == [0.0, 0.0]


def test_a_question_keeps_its_video_where_another_is_left_out(
    ctx: RunContext, seen: tuple[StageResult, StageResult], labeler: ModelRef
) -> None:
    """The first question's video was never decoded: the others are still asked about their own."""
    rows = [
        row(f"about {video}", video=video, question=ASKED, answer="x", kind="description", split="rl")
        for video in ["scenes/gone.mp4", *VIDEOS]
    ]
    questions = committed(ctx.lake.table("instructions"), rows, "instructions1")
    own, other = seen
    training = Training(ctx.lake_root, "test", "key", "policy", "r", base_model(), own.ref, questions.ref, config(), 0)
    lm = base_model().load(ctx.lake)
    left = Questions(ctx.lake, training, "rl", "policy", lm)
    assert left.unseen == 1
    learned = config().training
    assert left.probe(lambda row: row["question"]).limits == Limits(learned.forward_batch, learned.forward_tokens)
    ranking = RankSettings(ctx.lake_root, other.ref, labeler, config().ranking(judging(narrative=False)), "r")
    groups = Groups(ctx.lake, left.rows, ranking, None)
    for number, video in enumerate(VIDEOS):
        asked = groups.of(number, ("a", "b"))
        assert isinstance(asked, Group)
        assert asked.name == f"about {video}"
        assert torch.equal(asked.frames.tokens, VisualTokens(ctx.lake, other.ref).frames(video, "judge_2").tokens)
        shown = lm.prompt(ASKED, VisualTokens(ctx.lake, own.ref).frames(video, "policy"))
        assert torch.equal(left.prompt(left.rows[number]).visual, shown.visual)


def test_a_ranker_without_any_narrative_stops_the_stage_and_says_why(
    ctx: RunContext, seen: tuple[StageResult, StageResult], asked: StageResult, labeler: ModelRef
) -> None:
    silent = narrated(ctx, "captions1", ["", "", ""])
    with pytest.raises(Exception, match=r"No group of a rollout could be judged.*the captioner said nothing"):
        by_ranks(ctx, seen, asked, silent, labeler)


def test_a_reward_model_trains_a_policy_without_a_critic(
    ctx: RunContext, seen: tuple[StageResult, StageResult], asked: StageResult
) -> None:
    pairs = [
        row(
            f"about {video}", instruction=f"about {video}", video=video, question=ASKED, a=0, b=1,
            preferred="a", p_a=0.9, answer_a="first a red circle grows. then a blue cross grows.", answer_b="it grows.",
            method="verdict", frame_set="judge_2", with_narrative=False, arm="arm",
        )
        for video in VIDEOS
    ]  # fmt: skip
    labels = committed(ctx.lake.table("preferences"), pairs, "labels0")
    short = RewardConfig.model_validate(
        {"training": {"steps": 2, "batch_size": 2, "save_every": 2, "held_out": 0.0, "warmup": 1, "rate": 1e-3}}
    )
    scored = reward_model(ctx, short, [labels], None, asked, seen[0], base_model(), "arm")
    reward = RewardSource.of(scored, short, None, seen[0], base_model())
    done = policy_by_rewards(ctx, config(), reward, asked, seen[0], base_model(), "arm")
    assert done.ok == 1
    assert len(metrics(ctx, done.key, "reward_raw")) == 2
