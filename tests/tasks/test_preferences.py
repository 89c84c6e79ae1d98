"""Candidates to judged pairs, through a real tiny model, real visual tokens and a real lake."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small import committed, keep_scenes, rows_of, scenes

from miniature import checkpoint
from miniature.lessons import FRAMES
from miniature.world import render
from models.comparisons import Comparison, Verdict
from models.encoding import blank_like
from models.video_lm import VideoLM
from storage.rows import row_digest
from tasks.fanout import WorkerPool
from tasks.judged_pairs import pairs_of, pairs_outcome
from tasks.model_ref import ModelRef
from tasks.preferences import (
    JudgePairs,
    JudgeSettings,
    JudgingConfig,
    PreferencesConfig,
    new_judge,
    preferences,
)
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageResult
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

VIDEOS = scenes(3)
ONE, TWO, THREE = VIDEOS
QUESTION = "what is the first shape?"
NARRATIVE = "a red circle grows. a blue cross shrinks."
ANSWERS = ("it is a circle.", "it is a square.", "it is a circle.")
PROMPTS = {
    "likelihood": "{question}",
    "likelihood_context": checkpoint.CONTEXT_PROMPT,
    "verdict": checkpoint.VERDICT_PROMPT,
    "verdict_context": f"context: {{context}} {checkpoint.VERDICT_PROMPT}",
}


def config(**changes: Any) -> PreferencesConfig:
    options = {"method": "likelihood", "frame_set": "judge_2", "narrative": True, "prompts": PROMPTS}
    return PreferencesConfig.model_validate({**options, "min_choice_mass": 0, "shard_size": 2, **changes})


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return RunContext(str(tmp_path / "lake"), "test", pool, SilentProgress(), max_quarantined=0.9, seed=0)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    folder = tmp_path_factory.mktemp("judge")
    checkpoint.save(checkpoint.new_model(2, seed=0), folder)
    return ModelRef.of(str(folder))


@pytest.fixture
def tokens(ctx: RunContext, judge: ModelRef) -> StageResult:
    frames = keep_scenes(ctx.lake, VIDEOS, {"broken.mp4": "no frame decodes"})
    return visual_tokens(ctx, VisualTokensConfig(), frames, judge)


def row(item: str, **content: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0, **content}


def answers(item: str, video: str, texts: tuple[str, ...] = ANSWERS, **changes: Any) -> list[dict[str, Any]]:
    about = {"instruction": item, "video": video, "question": QUESTION, "finished": True, **changes}
    return [row(item, candidate=number, text=text, n_tokens=5, **about) for number, text in enumerate(texts)]


def sampled(ctx: RunContext, *groups: list[dict[str, Any]], key: str = "candidates0") -> StageResult:
    return committed(ctx.lake.table("candidates"), [each for group in groups for each in group], key)


def captioned(ctx: RunContext, narratives: dict[str, str], key: str = "captions0") -> StageResult:
    rows = [row(video, video=video, narrative=text) for video, text in narratives.items()]
    faulty = {**row(TWO), "status": "quarantined", "reason": "its caption was cut"}
    return committed(ctx.lake.table("captions"), [*rows, faulty], key)


def test_one_row_a_pair_and_equal_answers_are_kept_as_ties(
    ctx: RunContext, tokens: StageResult, judge: ModelRef
) -> None:
    candidates = sampled(ctx, answers("one", ONE), answers("three", THREE))
    captions = captioned(ctx, {ONE: NARRATIVE, THREE: "a green square moves up."})
    result = preferences(ctx, config(), candidates, tokens, captions, judge, "context")
    assert (result.items, result.ok, result.quarantined) == (2, 2, 0)
    rows = rows_of(ctx.lake, result)["one"]
    assert [(each["a"], each["b"]) for each in rows] == [(0, 1), (0, 2), (1, 2)]
    assert [(each["answer_a"], each["answer_b"]) for each in rows] == [ANSWERS[:2], ANSWERS[::2], ANSWERS[1:]]
    assert (rows[1]["preferred"], rows[1]["p_a"], rows[1]["score_a"]) == ("tie", 0.5, None)
    assert {each["preferred"] for each in (rows[0], rows[2])} == {"a", "b"}
    assert rows[0]["p_a"] == pytest.approx(1 - rows[2]["p_a"], abs=1e-5)
    for each in rows:
        assert (each["instruction"], each["video"], each["question"]) == ("one", ONE, QUESTION)
        assert (each["method"], each["frame_set"], each["arm"]) == ("likelihood", "judge_2", "context")
        assert (each["with_narrative"], each["narrative"]) == (True, NARRATIVE)


def test_the_judge_sees_the_frames_of_its_set_and_the_narrative(
    ctx: RunContext,
    tokens: StageResult,
    judge: ModelRef,
) -> None:
    lm = VideoLM.load(judge.name)
    shown = lm.encode(render(VIDEOS[ONE])[list(FRAMES["2"])])
    candidates, captions = sampled(ctx, answers("one", ONE)), captioned(ctx, {ONE: NARRATIVE})
    for method in ("likelihood", "verdict"):
        for narrative in (True, False):
            chosen = config(method=method, narrative=narrative)
            result = preferences(ctx, chosen, candidates, tokens, captions, judge, "arm")
            told = NARRATIVE if narrative else None
            (expected,) = new_judge(lm, chosen).judge([Comparison(QUESTION, shown, *ANSWERS[:2], told)])
            assert isinstance(expected, Verdict)
            first = rows_of(ctx.lake, result)["one"][0]
            assert first["p_a"] == pytest.approx(expected.p_a, abs=1e-5)
            assert first["score_b"] == pytest.approx(expected.score_b, abs=1e-4)
            assert (first["with_narrative"], first["narrative"]) == (narrative, told)
            assert (first["p_a_first"] is None) == (method == "likelihood")
            assert first["consistent"] == expected.consistent


def test_the_ground_truth_changes_nothing(ctx: RunContext, tokens: StageResult, judge: ModelRef) -> None:
    """Every answer in the lake is replaced; a judge that read one would decide otherwise."""
    candidates, captions = sampled(ctx, answers("one", ONE)), captioned(ctx, {ONE: NARRATIVE})
    digests = []
    for number, answer in enumerate(("it is a circle.", "it is a square.", None)):
        asked = row("one", video=ONE, question=QUESTION, answer=answer, kind="shape", split="rl")
        committed(ctx.lake.table("instructions"), [asked], f"instructions{number}")
        arm = preferences(ctx, config(batch_size=16 + number), candidates, tokens, captions, judge, "arm")
        assert not arm.cached
        digests.append(row_digest(ctx.lake.table("preferences").read(arm.key), ignore=["stage_key", "item_key"]))
    assert len(set(digests)) == 1


def test_what_cannot_be_judged_is_quarantined_with_its_reason(
    ctx: RunContext,
    tokens: StageResult,
    judge: ModelRef,
) -> None:
    cut = answers("cut", ONE)
    cut[1]["finished"] = False
    failed = {**row("failed"), "status": "quarantined", "reason": "already accounted for"}
    candidates = sampled(
        ctx,
        answers("fine", ONE),
        cut,
        answers("single", ONE, ANSWERS[:1]),
        answers("no narrative", THREE),
        answers("bad narrative", TWO),
        answers("no tokens", "broken.mp4"),
        answers("unsayable", ONE, ("it is a <video>.", "it is a circle.")),
        [failed],
    )
    captions = captioned(ctx, {ONE: NARRATIVE, "broken.mp4": NARRATIVE})
    result = preferences(ctx, config(), candidates, tokens, captions, judge, "arm")
    rows = rows_of(ctx.lake, result)
    assert {name for name, each in rows.items() if each[0]["status"] == "ok"} == {"fine"}
    reasons = {name: each[0]["reason"] or "" for name, each in rows.items()}
    assert "1 of its 3 candidates were cut by the token limit; raise candidates" in reasons["cut"]
    assert "a pair needs two" in reasons["single"]
    assert f"no narrative of video {THREE} for the judge: was not captioned" in reasons["no narrative"]
    assert "its caption was cut" in reasons["bad narrative"]
    assert "broken.mp4 has no visual tokens" in reasons["no tokens"]
    assert "candidates 0 and 1: the judge has no finite log-probability" in reasons["unsayable"]
    assert "failed" not in rows


def test_without_the_narrative_captions_are_not_needed(ctx: RunContext, tokens: StageResult, judge: ModelRef) -> None:
    candidates = sampled(ctx, answers("two", TWO))
    result = preferences(ctx, config(narrative=False), candidates, tokens, None, judge, "arm")
    assert result.ok == 1
    with pytest.raises(ValueError, match="no captions were made"):
        preferences(ctx, config(), candidates, tokens, None, judge, "arm")


def test_a_narrative_for_a_question_is_read_with_that_question(
    ctx: RunContext, tokens: StageResult, judge: ModelRef
) -> None:
    told = {"one": "a red circle grows.", "two": "a blue cross shrinks."}
    rows = [row(name, video=ONE, instruction=name, question=QUESTION, narrative=text) for name, text in told.items()]
    captions = committed(ctx.lake.table("captions"), rows, "by_question")
    candidates = sampled(ctx, *(answers(name, ONE) for name in (*told, "three")))
    judged = rows_of(ctx.lake, preferences(ctx, config(), candidates, tokens, captions, judge, "arm"))
    assert {name: judged[name][0]["narrative"] for name in told} == told
    assert judged["one"][0]["score_a"] != judged["two"][0]["score_a"]
    assert "was not captioned" in judged["three"][0]["reason"]


def test_a_blind_judge_sees_black_frames_whatever_the_video(
    ctx: RunContext, tokens: StageResult, judge: ModelRef
) -> None:
    lm = VideoLM.load(judge.name)
    black = blank_like(lm, lm.encode(render(VIDEOS[ONE])[list(FRAMES["2"])]))
    candidates = sampled(ctx, answers("one", ONE), answers("two", TWO), answers("lost", "broken.mp4"))
    blind = config(narrative=False, blind=True)
    result = preferences(ctx, blind, candidates, tokens, None, judge, "arm")
    rows = rows_of(ctx.lake, result)
    (expected,) = new_judge(lm, blind).judge([Comparison(QUESTION, black, *ANSWERS[:2], None)])
    assert isinstance(expected, Verdict)
    assert rows["one"][0]["p_a"] == pytest.approx(expected.p_a, abs=1e-5) == rows["two"][0]["p_a"]
    assert "has no visual tokens" in rows["lost"][0]["reason"], "a video that vanished is no black one"
    sighted = preferences(ctx, config(narrative=False), candidates, tokens, None, judge, "arm")
    assert sighted.key != result.key
    assert rows_of(ctx.lake, sighted)["one"][0]["p_a"] != rows["one"][0]["p_a"]


def test_labels_made_before_there_were_blind_judges_keep_their_keys() -> None:
    assert "blind" not in config().decisive()
    assert config(blind=True).decisive()["blind"]


def test_the_blind_twin_is_told_nothing_of_the_video() -> None:
    way = JudgingConfig(name="arm", narrative=True, frame_set="judge_2", method="likelihood")
    assert way.blinded() == way.model_copy(update={"name": "arm_blind", "narrative": False, "blind": True})


def test_noise_turns_round_the_share_of_decided_labels_that_is_asked_for() -> None:
    def preferred(fraction: float) -> list[str]:
        found = []
        for number in range(1000):
            item = {"item_id": str(number), "video": ONE, "question": QUESTION, "narrative": None}
            item["candidates"] = list(enumerate(ANSWERS))
            verdicts = [Verdict(0.9, "a"), Verdict(0.5, "tie"), Verdict(0.1, "b")]
            rows = pairs_outcome(item, verdicts, config(label_noise=fraction), "arm").rows
            assert rows is not None
            assert [each["p_a"] for each in rows] == [0.9, 0.5, 0.1], "what the judge said stays"
            found += [each["preferred"] for each in rows]
        return found

    none, tenth, third = (preferred(fraction) for fraction in (0.0, 0.1, 0.3))
    assert none == ["a", "tie", "b"] * 1000
    turned = [[one != other for one, other in zip(none, each, strict=True)] for each in (tenth, third)]
    assert [sum(each) / 2000 for each in turned] == pytest.approx([0.1, 0.3], abs=0.03)
    assert all(more for less, more in zip(*turned, strict=True) if less), "those of a tenth are among those of a third"
    assert tenth[1::3] == ["tie"] * 1000


def test_noise_is_part_of_the_key_only_where_there_is_some() -> None:
    assert config().decisive() == config(label_noise=0.0).decisive()
    assert "label_noise" not in config().decisive()
    assert config(label_noise=0.2).decisive()["label_noise"] == 0.2
    noisy = JudgingConfig(name="n", narrative=True, frame_set="judge_2", method="likelihood", label_noise=0.2)
    assert noisy.blinded().label_noise == 0
    with pytest.raises(ValidationError, match=r"less than or equal to 0\.5"):
        config(label_noise=0.6)


def test_a_policy_that_judges_itself_is_asked_as_the_labeler_is() -> None:
    own = config(judge="self")
    assert (own.endpoint, own.person, own.prompt_name) == (None, None, "likelihood_context")
    assert own.decisive() == config().decisive(), "whose labels they are stands in the model of the key"


def test_a_judge_that_answers_nonsense_is_quarantined(ctx: RunContext, tokens: StageResult, judge: ModelRef) -> None:
    chosen = config(method="verdict", narrative=False, min_choice_mass=0.5)
    item: dict[str, Any] = {"item_id": "x", "video": ONE, "question": QUESTION, "narrative": None, "fault": None}
    item |= {"candidates": list(enumerate(ANSWERS))}
    settings = pickle.loads(pickle.dumps(JudgeSettings(ctx.lake_root, tokens.ref, judge, chosen, "arm")))
    (outcome,) = pickle.loads(pickle.dumps(JudgePairs))(settings).process([item], 0)
    assert outcome.rows is None
    assert "candidates 0 and 1: the judge answers nonsense" in outcome.reason


def test_only_what_is_new_or_changed_is_judged_again(ctx: RunContext, tokens: StageResult, judge: ModelRef) -> None:
    told = {ONE: NARRATIVE, THREE: NARRATIVE}
    one, three, new = answers("one", ONE), answers("three", THREE), answers("new", ONE)
    captions = captioned(ctx, told)
    old = preferences(ctx, config(), sampled(ctx, one, three), tokens, captions, judge, "arm")
    more = preferences(ctx, config(), sampled(ctx, one, three, new, key="c1"), tokens, captions, judge, "arm")
    assert (old.reused, more.reused, more.ok) == (0, 2, 3)
    retold = captioned(ctx, {**told, THREE: "a green square moves up."}, key="captions1")
    again = preferences(ctx, config(), sampled(ctx, one, three, key="c2"), tokens, retold, judge, "arm")
    assert again.reused == 1
    assert rows_of(ctx.lake, again)["one"][0]["p_a"] == rows_of(ctx.lake, old)["one"][0]["p_a"]
    assert rows_of(ctx.lake, again)["three"][0]["p_a"] != rows_of(ctx.lake, old)["three"][0]["p_a"]


def test_a_limit_of_pairs_takes_the_same_ones_each_time() -> None:
    items = [{"item_id": f"i{n}", "candidates": [[c, f"answer {c}"] for c in range(5)]} for n in range(30)]
    taken = [[(a[0], b[0]) for a, b in pairs_of(item, 3)] for item in items]
    assert taken == [[(a[0], b[0]) for a, b in pairs_of(item, 3)] for item in items]
    assert all(len(each) == 3 and each == sorted(set(each)) for each in taken)
    assert len({pair for each in taken for pair in each}) == math.comb(5, 2)
    assert pairs_of(items[0], None) == pairs_of(items[0], 10) == pairs_of(items[0], 99)


def test_settings_of_the_other_method_do_not_make_another_stage() -> None:
    assert config().decisive() == config(min_choice_mass=0.7).decisive()
    assert config().decisive() != config(tie_margin=0.7).decisive()
    verdict = config(method="verdict")
    assert verdict.decisive() != config(method="verdict", min_choice_mass=0.7).decisive()
    assert verdict.prompt_name == "verdict_context"


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": "likelihood"},
        {"method": "guess"},
        {"prompts": {"likelihood": "{question} {answer}"}},
        {"prompts": {"verdict": "{question} {a}"}},
        {"prompts": {"verdicts": "{question} {a} {b}"}},
        {"min_choice_mass": 1.5},
        {"tie_margin": -1},
    ],
)
def test_a_bad_setting_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PreferencesConfig.model_validate(changes)


def test_importing_the_judging_stages_loads_no_heavy_library() -> None:
    code = (
        "import sys, tasks.preferences, tasks.agreement, tasks.benchmark;"
        "print(*{'torch', 'transformers', 'peft', 'ray', 'prefect', 'deltalake'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home())
    assert done.stdout.strip() == ""
