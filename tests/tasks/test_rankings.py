"""Candidates to ranked groups, through the miniature's real labeler, real visual tokens and a real lake."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from orderly import REPLY, save_orderly
from pydantic import ValidationError
from small import BASE, committed, keep_scenes, rows_of, scenes, small_run

from miniature.checkpoint import CONTEXT_PROMPT, VERDICT_PROMPT
from miniature.lessons import FRAMES, SLOTS
from miniature.world import SHAPES, Question, render
from models.batches import Limits
from models.reward_model import ADAPTER, RewardModel
from models.settings import LoraSettings, RewardForm
from tasks.fanout import Outcome, WorkerPool
from tasks.groups import candidate_groups
from tasks.model_ref import ModelRef
from tasks.rank_agreement import rank_agreement
from tasks.rankings import RankGroups, RankingsConfig, RankSettings, rankings
from tasks.stage import RunContext, StageResult
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

VIDEOS = scenes(6)
ASKED = Question("shape", 0)
PROMPTS = {
    "likelihood": "{question}",
    "likelihood_context": CONTEXT_PROMPT,
    "verdict": VERDICT_PROMPT,
    "verdict_context": f"context: {{context}} {VERDICT_PROMPT}",
}
LISTWISE = {
    "listwise": "{question} {answers} better:",
    "listwise_context": "context: {context} {question} {answers} better:",
}


def config(method: str, **changes: Any) -> RankingsConfig:
    judging = {"method": "likelihood", "prompts": PROMPTS}
    own = {"judging": judging, "prompts": LISTWISE, "slots": {"values": SLOTS.values}}
    sampling = {"temperature": 0.0, "max_new_tokens": 12}
    return RankingsConfig.model_validate(
        {"method": method, "frame_set": "judge_2", "sampling": sampling, "shard_size": 4, **own, **changes}
    )


@pytest.fixture(scope="module")
def ctx(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return small_run(pool, tmp_path_factory.mktemp("run") / "lake")


@pytest.fixture(scope="module")
def labeler() -> ModelRef:
    return ModelRef.of(str(BASE.parent / "labeler"))


@pytest.fixture(scope="module")
def tokens(ctx: RunContext, labeler: ModelRef) -> StageResult:
    return visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, VIDEOS), labeler)


def row(item: str, **content: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0, **content}


def answers(item: str, video: str, texts: list[str], **changes: Any) -> list[dict[str, Any]]:
    about = {"instruction": item, "video": video, "question": ASKED.text, "finished": True, **changes}
    return [row(item, candidate=number, text=text, n_tokens=5, **about) for number, text in enumerate(texts)]


def texts_of(video: str) -> list[str]:
    """Two wrong answers, the true one, and a wrong one again, in other letters."""
    truth = ASKED.answer(VIDEOS[video])
    one, two, *_ = (f"it is a {shape}." for shape in SHAPES if shape not in truth)
    return [one, two, truth, one.upper()]


def sampled(ctx: RunContext, *groups: list[dict[str, Any]], key: str) -> StageResult:
    return committed(ctx.lake.table("candidates"), [each for group in groups for each in group], key)


@pytest.fixture(scope="module")
def candidates(ctx: RunContext) -> StageResult:
    groups = [answers(f"rl/{number}", video, texts_of(video)) for number, video in enumerate(VIDEOS)]
    return sampled(ctx, *groups, key="candidates0")


@pytest.fixture(scope="module")
def truths(ctx: RunContext) -> StageResult:
    rows = [
        row(f"rl/{number}", video=video, question=ASKED.text, answer=ASKED.answer(scene), split="rl")
        for number, (video, scene) in enumerate(VIDEOS.items())
    ]
    return committed(ctx.lake.table("instructions"), rows, "instructions0")


def save_reward(ctx: RunContext, labeler: ModelRef, folder: Path, seed: int) -> StageResult:
    """A reward model near the labeler's own likelihood, as a complete training."""
    lm = labeler.load(ctx.lake)
    lm.add_adapter(ADAPTER, LoraSettings(rank=2, alpha=2), seed=0)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in lm.adapter_parameters(ADAPTER).values():
            parameter.add_(torch.randn_like(parameter) * 1e-2)
    RewardModel(lm, RewardForm(kind="likelihood")).save(folder, base="/the/base/of/these/tests")
    final = {"role": "reward", "step": 1, "final": True, "base": labeler.label, "metrics": "{}"}
    rows = [row("arm", **final, blob=ctx.lake.blobs.put_folder(folder))]
    return committed(ctx.lake.table("checkpoints"), rows, f"reward{seed}")


@pytest.fixture(scope="module")
def reward(ctx: RunContext, labeler: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return save_reward(ctx, labeler, tmp_path_factory.mktemp("reward"), seed=0)


def here(ctx: RunContext, settings: RankSettings, groups: StageResult) -> list[Outcome]:
    """The groups ranked in this process, by what a worker would be sent."""
    ranker = pickle.loads(pickle.dumps(RankGroups))(pickle.loads(pickle.dumps(settings)))
    outcomes: list[Outcome] = ranker.process([*candidate_groups(ctx.lake, groups.ref, settings.shown, None)], 0)
    return outcomes


def test_every_ranker_ranks_the_same_groups_and_sees_what_the_truth_knows(
    ctx: RunContext,
    tokens: StageResult,
    candidates: StageResult,
    truths: StageResult,
    labeler: ModelRef,
    reward: StageResult,
) -> None:
    shown = (candidates, tokens, None)
    stages = {
        "truth": rankings(ctx, config("truth"), *shown, None, "bound", instructions=truths),
        "reward": rankings(ctx, config("reward"), *shown, labeler, "arm", reward=reward),
        "tournament": rankings(ctx, config("tournament"), *shown, labeler, "arm"),
    }
    ranked = {method: rows_of(ctx.lake, result) for method, result in stages.items()}
    for method, groups in ranked.items():
        assert (stages[method].ok, stages[method].quarantined) == (len(VIDEOS), 0)
        for number, video in enumerate(VIDEOS):
            rows = groups[f"rl/{number}"]
            assert [each["text"] for each in rows] == texts_of(video)
            assert [each["candidate"] for each in rows] == [0, 1, 2, 3]
            assert sum(each["rank"] for each in rows) == 6
            assert rows[0]["rank"] == rows[3]["rank"]
            about = {key: rows[0][key] for key in ("method", "arm", "group_size", "distinct", "frame_set", "attempts")}
            arm = "bound" if method == "truth" else "arm"
            assert about == {
                "method": method,
                "arm": arm,
                "group_size": 4,
                "distinct": 3,
                "frame_set": "judge_2",
                "attempts": 1,
            }
    assert all([each["rank"] for each in group] == [2, 2, 0, 2] for group in ranked["truth"].values())
    assert all(each["model"] is None for group in ranked["truth"].values() for each in group)
    flat = {method: [each for group in groups.values() for each in group] for method, groups in ranked.items()}
    for method in ("reward", "tournament"):
        agreed = rank_agreement(flat[method], flat["truth"])
        assert agreed.tau is not None
        assert agreed.tau.value > 0.4, method


def test_listwise_orders_and_groups_without_an_order(
    ctx: RunContext,
    tokens: StageResult,
    candidates: StageResult,
    labeler: ModelRef,
    tmp_path: Path,
) -> None:
    orderly = ModelRef.of(str(save_orderly(tmp_path)))
    result = rankings(ctx, config("listwise"), candidates, tokens, None, orderly, "arm")
    for rows in rows_of(ctx.lake, result).values():
        assert {(each["reply"], each["attempts"], each["score"]) for each in rows} == {(REPLY, 1, None)}
        best = [each["place"] for each in rows if each["rank"] == min(other["rank"] for other in rows)]
        assert set(best) == {1}
        assert rows[0]["prompt_hash"]
    mute = rankings(replace(ctx, max_quarantined=1), config("listwise"), candidates, tokens, None, labeler, "arm")
    reasons = {rows[0]["reason"] for rows in rows_of(ctx.lake, mute).values()}
    assert mute.quarantined == len(VIDEOS)
    assert all(reason.startswith("no order in 3 attempts, the last: the reply") for reason in reasons)


def test_what_cannot_be_ranked_is_quarantined_with_its_reason(
    ctx: RunContext, tokens: StageResult, labeler: ModelRef, truths: StageResult
) -> None:
    one, texts = next(iter(VIDEOS)), texts_of(next(iter(VIDEOS)))
    cut = answers("cut", one, texts)
    cut[1]["finished"] = False
    groups = sampled(
        ctx,
        answers("rl/0", one, texts),
        cut,
        answers("single", one, texts[:1]),
        answers("gone", "gone.mp4", texts),
        answers("unsayable", one, ["it is a <video>.", *texts]),
        answers("equal", one, ["it is red.", "It is red"]),
        key="candidates1",
    )
    settings = RankSettings(ctx.lake_root, tokens.ref, labeler, config("tournament"), "arm")
    outcomes = {outcome.item_id: outcome for outcome in here(ctx, settings, groups)}
    reasons = {name: outcome.reason or "" for name, outcome in outcomes.items() if outcome.rows is None}
    assert sorted(reasons) == ["cut", "gone", "single", "unsayable"]
    assert "1 of its 4 candidates were cut by the token limit; raise candidates" in reasons["cut"]
    assert "an order needs two; raise candidates.n" in reasons["single"]
    assert "gone.mp4 has no visual tokens" in reasons["gone"]
    assert "'it is a <video>.'" in reasons["unsayable"]
    assert "no finite log-probability" in reasons["unsayable"]
    equal = outcomes["equal"].rows or []
    assert [(each["rank"], each["distinct"], each["attempts"]) for each in equal] == [(0.5, 1, 0)] * 2
    known = RankSettings(ctx.lake_root, tokens.ref, None, config("truth"), "arm", truth=truths.ref)
    reasons = {outcome.item_id: outcome.reason or "" for outcome in here(ctx, known, groups) if outcome.rows is None}
    assert "no answer to score against" in reasons["unsayable"]
    assert "equal" not in reasons


def test_groups_of_equal_candidates_are_kept_and_counted(
    ctx: RunContext, tokens: StageResult, truths: StageResult, caplog: pytest.LogCaptureFixture
) -> None:
    one = next(iter(VIDEOS))
    groups = sampled(ctx, answers("rl/0", one, ["it is red.", "It is red"]), key="candidates2")
    with caplog.at_level(logging.INFO, "tasks.rankings"):
        result = rankings(ctx, config("truth"), groups, tokens, None, None, "bound", instructions=truths)
    assert "rankings bound: in 1 of 1 groups all candidates are equal" in caplog.messages
    assert [each["rank"] for each in rows_of(ctx.lake, result)["rl/0"]] == [0.5, 0.5]


def test_the_narrative_is_read_where_there_is_one(
    ctx: RunContext, tokens: StageResult, candidates: StageResult, labeler: ModelRef
) -> None:
    told = {video: f"{scene.events[0]}. {scene.events[1]}." for video, scene in list(VIDEOS.items())[1:]}
    narrated = [row(video, video=video, narrative=text) for video, text in told.items()]
    captions = committed(ctx.lake.table("captions"), narrated, "captions0")
    result = rankings(ctx, config("tournament", narrative=True), candidates, tokens, captions, labeler, "arm")
    rows = rows_of(ctx.lake, result)
    first, *others = VIDEOS
    assert f"no narrative of video {first} for the judge: was not captioned" in rows["rl/0"][0]["reason"]
    for number, video in enumerate(others, 1):
        assert {each["narrative"] for each in rows[f"rl/{number}"]} == {told[video]}
        assert rows[f"rl/{number}"][2]["rank"] == 0  # the narrative says the truth


def test_another_reward_model_ranks_anew_and_the_same_one_keeps_its_ranks(
    ctx: RunContext,
    tokens: StageResult,
    candidates: StageResult,
    labeler: ModelRef,
    reward: StageResult,
    tmp_path: Path,
) -> None:
    shown = (tokens, None, labeler, "arm")
    first = rankings(ctx, config("reward"), candidates, *shown, reward=reward)
    assert rankings(ctx, config("reward"), candidates, *shown, reward=reward).cached
    group = answers("rl/0", next(iter(VIDEOS)), texts_of(next(iter(VIDEOS))))
    fewer = sampled(ctx, group, key="candidates3")
    again = rankings(ctx, config("reward"), fewer, *shown, reward=reward)
    other = rankings(ctx, config("reward"), fewer, *shown, reward=save_reward(ctx, labeler, tmp_path, seed=1))
    assert (again.reused, other.reused) == (1, 0)
    scores = [[each["score"] for each in rows_of(ctx.lake, stage)["rl/0"]] for stage in (first, again, other)]
    assert scores[0] == scores[1] != scores[2]


def test_the_frames_of_the_set_reach_the_ranker(
    ctx: RunContext, tokens: StageResult, candidates: StageResult, labeler: ModelRef, reward: StageResult
) -> None:
    settings = RankSettings(ctx.lake_root, tokens.ref, labeler, config("reward"), "arm", reward=reward.ref)
    outcomes = here(ctx, settings, candidates)
    lm = labeler.load(ctx.lake)
    model = RewardModel.load(
        lm, ctx.lake.blobs.folder(ctx.lake.table("checkpoints").read(reward.key)["blob"][0].as_py())
    )
    for outcome, (video, scene) in zip(outcomes, VIDEOS.items(), strict=True):
        prompt = model.prompt(ASKED.text, lm.encode(render(scene)[list(FRAMES["2"])]), None)
        texts = texts_of(video)[:3]
        expected = model.score_all([prompt] * 3, [lm.response_ids(text) for text in texts], Limits(3)).tolist()
        assert [each["score"] for each in outcome.rows or []][:3] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "lacking"),
    [
        ("reward", "a model and a reward model"),
        ("tournament", "a model"),
        ("listwise", "a model"),
        ("truth", "the instructions with the true answers"),
    ],
)
def test_a_method_names_what_it_lacks(
    ctx: RunContext, tokens: StageResult, candidates: StageResult, method: str, lacking: str
) -> None:
    with pytest.raises(ValueError, match=f"by method '{method}' need {lacking}; hand"):
        rankings(ctx, config(method), candidates, tokens, None, None, "arm")


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "vote"},
        {"method": "truth", "narrative": True},
        {"method": "tournament", "judging": {"max_pairs": 2}},
        {"prompts": {"listwise": "{question}"}},
        {"attempts": 0},
        {"tries": 3},
    ],
)
def test_a_bad_setting_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RankingsConfig.model_validate(changes)


def test_settings_of_the_other_methods_do_not_make_another_stage() -> None:
    assert config("reward").decisive() == config("reward", attempts=1, slots=None).decisive()
    assert config("listwise").decisive() != config("listwise", attempts=1).decisive()
    assert config("tournament").decisive() != config("tournament", judging={"tie_margin": 1}).decisive()
    narrated = config("tournament", narrative=True)
    assert list(narrated.asked()) == ["likelihood_context"]
    assert narrated.decisive()["judging"]["frame_set"] == "judge_2"
    assert not config("listwise").drawn
    assert config("listwise", sampling={"temperature": 1.0}).drawn


def test_importing_the_stage_loads_no_heavy_library() -> None:
    code = "import sys, tasks.rankings; print(*{'torch', 'transformers', 'ray', 'deltalake'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
