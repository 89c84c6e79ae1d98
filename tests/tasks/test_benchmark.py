"""Held-out questions answered and scored, through a real tiny model, real visual tokens and a real lake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small import committed, keep_scenes, rows_of, scenes

from miniature import checkpoint
from miniature.lessons import FRAMES, SLOTS
from miniature.world import QUESTIONS, render
from models.settings import LoraSettings, Sampling
from models.slots import exact
from models.video_lm import VideoLM
from tasks.benchmark import BenchmarkConfig, benchmark, paired_difference, summarise
from tasks.fanout import WorkerPool
from tasks.model_ref import ModelRef
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageResult
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

VIDEOS = scenes(2)
ONE, TWO = VIDEOS
SLOT_WORDS = {"values": {name: list(words) for name, words in SLOTS.values.items()}}


def config(**changes: Any) -> BenchmarkConfig:
    limits = {"greedy": {"temperature": 0, "max_new_tokens": 6}, "sampled": {"max_new_tokens": 6}}
    return BenchmarkConfig.model_validate({**limits, "slots": SLOT_WORDS, "batch_size": 4, "shard_size": 8, **changes})


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return RunContext(str(tmp_path / "lake"), "test", pool, SilentProgress(), max_quarantined=0.9, seed=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    folder = tmp_path_factory.mktemp("base")
    checkpoint.save(checkpoint.new_model(2, seed=0), folder)
    return ModelRef.of(str(folder))


def row(item: str, **content: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0, **content}


def asked(item: str, video: str, question: str, answer: str | None, **changes: Any) -> dict[str, Any]:
    about = {"kind": "event", "split": "benchmark", **changes}
    return row(item, video=video, question=question, answer=answer, **about)


@pytest.fixture
def tokens(ctx: RunContext, base: ModelRef) -> StageResult:
    return visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, VIDEOS), base)


@pytest.fixture
def instructions(ctx: RunContext) -> StageResult:
    rows = [
        asked(f"{video}-{n}", video, question.text, question.answer(scene), kind=question.kind)
        for video, scene in VIDEOS.items()
        for n, question in enumerate(QUESTIONS)
    ]
    rows += [asked("elsewhere", ONE, "describe the video.", "a red circle grows.", split="rl")]
    rows += [{**row("lost"), "status": "quarantined", "reason": "no video"}]
    return committed(ctx.lake.table("instructions"), rows, "instructions0")


def test_every_question_is_answered_greedily_and_sampled_and_scored(
    ctx: RunContext, instructions: StageResult, tokens: StageResult, base: ModelRef
) -> None:
    result = benchmark(ctx, config(), instructions, tokens, "base", base)
    assert (result.items, result.ok, result.label) == (2 * len(QUESTIONS), 2 * len(QUESTIONS), "benchmark base")
    lm = VideoLM.load(base.name)
    for item, rows in rows_of(ctx.lake, result).items():
        assert [each["decoding"] for each in rows] == ["greedy", "sampled"]
        video, question = item.rsplit("-", 1)
        shown = lm.encode(render(VIDEOS[video])[list(FRAMES["8"])])
        prompt = lm.prompt(QUESTIONS[int(question)].text, shown)
        ((greedy,),) = lm.generate([prompt], Sampling(temperature=0, max_new_tokens=6))
        assert rows[0]["response"] == greedy.text
        for each in rows:
            truth = QUESTIONS[int(question)].answer(VIDEOS[video])
            assert (each["checkpoint"], each["answer"], each["kind"]) == ("base", truth, QUESTIONS[int(question)].kind)
            assert each["exact"] == float(exact(truth, each["response"]))
            assert each["slot"] == SLOTS.score(truth, each["response"])
            assert each["n_tokens"] <= 6


def test_every_checkpoint_is_scored_on_the_same_items_and_on_its_own(
    ctx: RunContext, instructions: StageResult, tokens: StageResult, base: ModelRef, tmp_path: Path
) -> None:
    lm = VideoLM.load(base.name)
    lm.add_adapter("policy", LoraSettings(rank=4, alpha=64), seed=0)
    for weight in lm.adapter_parameters("policy").values():
        torch.nn.init.normal_(weight, std=0.3)
    lm.save_adapter("policy", tmp_path / "adapter", base=base.name)
    tuned = replace(base, adapter=ctx.lake.blobs.put_folder(tmp_path / "adapter"))
    models = {"base": base, "tuned": tuned}
    results = {name: benchmark(ctx, config(limit=7), instructions, tokens, name, lm) for name, lm in models.items()}
    rows = {label: rows_of(ctx.lake, result) for label, result in results.items()}
    assert sorted(rows["base"]) == sorted(rows["tuned"])
    assert len(rows["base"]) == 7
    lm.use("policy")
    for item, (greedy, _) in rows["tuned"].items():
        video, question = item.rsplit("-", 1)
        shown = lm.encode(render(VIDEOS[video])[list(FRAMES["8"])])
        prompt = lm.prompt(QUESTIONS[int(question)].text, shown)
        assert greedy["response"] == lm.generate([prompt], Sampling(temperature=0, max_new_tokens=6))[0][0].text
    assert any(rows["tuned"][item][0]["response"] != rows["base"][item][0]["response"] for item in rows["base"])
    again = benchmark(ctx, config(limit=7), instructions, tokens, "tuned", tuned)
    new = benchmark(ctx, config(limit=7), instructions, tokens, "new", tuned)
    assert (again.cached, new.cached) == (True, False)


def test_a_response_cut_by_the_limit_is_counted(
    ctx: RunContext, instructions: StageResult, tokens: StageResult, base: ModelRef
) -> None:
    result = benchmark(ctx, config(), instructions, tokens, "base", base)
    rows = [each for both in rows_of(ctx.lake, result).values() for each in both]
    cut = sum(not each["finished"] for each in rows)
    assert cut > 0
    summary = summarise(rows)
    assert (summary["cut"], summary["n"]) == (cut, 2 * len(QUESTIONS))


def test_what_cannot_be_scored_is_quarantined_with_its_reason(
    ctx: RunContext, tokens: StageResult, base: ModelRef
) -> None:
    rows = [
        asked("fine", ONE, "what happens first?", "a red circle grows.", kind=None),
        asked("no answer", ONE, "what happens first?", None),
        asked("no slots", ONE, "what happens first?", "nothing."),
        asked("no tokens", "gone.mp4", "what happens first?", "a red circle grows."),
    ]
    instructions = committed(ctx.lake.table("instructions"), rows, "instructions1")
    found = rows_of(ctx.lake, benchmark(ctx, config(), instructions, tokens, "base", base))
    assert [each["kind"] for each in found["fine"]] == ["other", "other"]
    reasons = {item: each[0]["reason"] for item, each in found.items() if each[0]["status"] == "quarantined"}
    assert "has no answer to score against" in reasons["no answer"]
    assert "list its words under the benchmark's slots" in reasons["no slots"]
    assert "gone.mp4 has no visual tokens" in reasons["no tokens"]
    without = rows_of(ctx.lake, benchmark(ctx, config(slots=None), instructions, tokens, "base", base))
    assert [each["slot"] for each in without["no slots"]] == [None, None]


def test_a_split_without_questions_is_an_error_that_names_the_others(
    ctx: RunContext, instructions: StageResult, tokens: StageResult, base: ModelRef
) -> None:
    with pytest.raises(ValueError, match=r"'test' holds no usable instruction; splits that do: benchmark, rl"):
        benchmark(ctx, config(split="test"), instructions, tokens, "base", base)


@pytest.mark.parametrize("wrong", [{"greedy": {"temperature": 1}}, {"sampled": {"temperature": 0}}, {"slots": {}}])
def test_a_bad_setting_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BenchmarkConfig.model_validate(wrong)


def scored(
    instruction: str, kind: str, greedy: tuple[float, float], sampled: tuple[float, float]
) -> list[dict[str, Any]]:
    about = {"instruction": instruction, "video": f"{instruction}.mp4", "kind": kind, "finished": True}
    return [
        {**about, "decoding": decoding, "exact": right, "slot": slot}
        for decoding, (right, slot) in (("greedy", greedy), ("sampled", sampled))
    ]


def test_a_summary_has_means_intervals_and_kinds() -> None:
    rows = [*scored("1", "color", (1, 1), (0, 0)), *scored("2", "event", (0, 0.5), (1, 1))]
    rows += [*scored("3", "event", (0, 0.25), (0, 0.75)), {"status": "quarantined"}]
    rows[1]["finished"] = False
    found = summarise(rows)
    assert found["n"] == 3
    assert found["cut"] == 1
    assert found["greedy_exact"] == pytest.approx(1 / 3)
    assert found["greedy_slot"] == pytest.approx(1.75 / 3)
    assert found["sampled_exact"] == pytest.approx(1 / 3)
    assert found["sampled_slot"] == pytest.approx(1.75 / 3)
    assert found["intervals"]["greedy_exact"][0] < 1 / 3 < found["intervals"]["greedy_exact"][1]
    assert {kind: each["n"] for kind, each in found["kinds"].items()} == {"color": 1, "event": 2}
    assert found["kinds"]["event"]["greedy_slot"] == pytest.approx(0.375)
    unslotted = summarise([{**each, "slot": None} for each in rows if "slot" in each])
    assert unslotted["greedy_slot"] is None
    assert "greedy_slot" not in unslotted["intervals"]
    assert summarise([])["n"] == 0


def test_a_difference_is_paired() -> None:
    first = [each for n in range(40) for each in scored(str(n), "event", (float(n % 2 == 0), 1), (0, 0))]
    second = [each for n in range(1, 41) for each in scored(str(n), "event", (float(n % 4 == 0), 1), (0, 0))]
    found = paired_difference(first, second, "greedy_exact")
    shared = range(1, 40)
    assert found.n == len(shared)
    assert found.value == pytest.approx(sum((n % 2 == 0) - (n % 4 == 0) for n in shared) / len(shared))
    assert 0 < found.low < found.value < found.high
    itself = paired_difference(first, first, "greedy_exact")
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="nothing to average"):
        paired_difference(first, [], "greedy_exact")
