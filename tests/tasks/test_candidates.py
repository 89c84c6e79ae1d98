"""Instructions to sampled answers, through the shipped tiny model on rendered scenes."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import BASE, base_model, keep_scenes, rows_of, scenes, small_run

from miniature.lessons import FRAMES
from miniature.world import QUESTIONS, render
from models.video_lm import VideoLM
from storage.formats.vlm_rlaif import Instruction, write_instructions
from tasks.candidates import CandidatesConfig, CandidateSettings, SampleAnswers, candidates, choose
from tasks.fanout import WorkerPool
from tasks.instructions import InstructionsConfig, instructions
from tasks.stage import RunContext, StageResult
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

VIDEOS = scenes(2)
SAMPLING = {"temperature": 1.0, "max_new_tokens": 24}
WILD = {"temperature": 3.0, "max_new_tokens": 8}  # at 1 the trained model repeats itself


@pytest.fixture(scope="module")
def ctx(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return small_run(pool, tmp_path_factory.mktemp("run") / "lake")


def _config(**changes: Any) -> CandidatesConfig:
    return CandidatesConfig.model_validate({"n": 3, "sampling": SAMPLING, "shard_size": 4, "batch_size": 6, **changes})


ASKED = [
    Instruction(f"{video[7:9]}-{n}", video, question.text)
    for video in VIDEOS
    for n, question in enumerate(QUESTIONS[:3])
]


def _instructions(ctx: RunContext, folder: Path, rl: list[Instruction]) -> StageResult:
    """`rl` and an instruction whose video is quarantined in the split rl, one instruction in the split sft."""
    write_instructions(folder / "rl.json", [*rl, Instruction("bad", "broken.mp4", "what happens?")])
    write_instructions(folder / "sft.json", ASKED[:1])
    files = {split: str(folder / f"{split}.json") for split in ("rl", "sft")}
    return instructions(ctx, InstructionsConfig(files=files), _frames(ctx))


def _frames(ctx: RunContext) -> StageResult:
    return keep_scenes(ctx.lake, VIDEOS, {"broken.mp4": "no frame decodes"})


@pytest.fixture(scope="module")
def inputs(ctx: RunContext, tmp_path_factory: pytest.TempPathFactory) -> tuple[StageResult, StageResult]:
    return (
        _instructions(ctx, tmp_path_factory.mktemp("data"), ASKED),
        visual_tokens(ctx, VisualTokensConfig(), _frames(ctx), base_model()),
    )


def _here(ctx: RunContext, tokens: StageResult, items: list[dict[str, Any]], **changes: Any) -> list[Any]:
    return SampleAnswers(CandidateSettings(ctx.lake_root, tokens.ref, base_model(), _config(**changes))).process(
        items, 5
    )


def _item(name: str, video: str = "scenes/00.mp4", question: str = "describe the video.") -> dict[str, Any]:
    return {"item_id": name, "video": video, "question": question}


def test_every_instruction_of_the_split_gets_its_answers(
    ctx: RunContext,
    inputs: tuple[StageResult, StageResult],
) -> None:
    result = candidates(ctx, _config(), *inputs, base_model())
    assert (result.items, result.ok, result.quarantined) == (6, 6, 0)
    rows = rows_of(ctx.lake, result)
    assert sorted(rows) == [f"rl/{video}-{n}" for video in ("00", "01") for n in range(3)]
    for item, answers in rows.items():
        assert [row["candidate"] for row in answers] == [0, 1, 2]
        assert {row["instruction"] for row in answers} == {item}
        assert {row["video"] for row in answers} == {f"scenes/{item[3:5]}.mp4"}
        assert {row["question"] for row in answers} == {QUESTIONS[int(item[-1])].text}
        assert all(row["finished"] and row["n_tokens"] <= 24 and row["logprob"] < 0 for row in answers)


def test_the_log_probability_is_the_trainers(
    ctx: RunContext,
    inputs: tuple[StageResult, StageResult],
) -> None:
    lm, tokens = VideoLM.load(str(BASE)), inputs[1]
    prompt = lm.prompt("describe the video.", lm.encode(render(VIDEOS["scenes/00.mp4"])[list(FRAMES["8"])]))
    (outcome,) = _here(ctx, tokens, [_item("x")])
    for row in outcome.rows:
        ids = lm.response_ids(row["text"])
        assert len(ids) == row["n_tokens"]
        assert row["logprob"] == pytest.approx(float(lm.logprobs([prompt], [ids])[0].sum()), abs=1e-3)


def test_the_same_seed_gives_the_same_answers_and_another_seed_others(
    ctx: RunContext,
    inputs: tuple[StageResult, StageResult],
) -> None:
    def texts(seed: int) -> list[str]:
        run = replace(ctx, seed=seed)
        rows = rows_of(run.lake, candidates(run, _config(sampling=WILD), *inputs, base_model()))
        return [row["text"] for item in sorted(rows) for row in rows[item]]

    first = texts(0)
    assert texts(1) != first
    assert texts(0) == first
    (again,) = _here(ctx, inputs[1], [_item("x")])
    assert _here(ctx, inputs[1], [_item("x")]) == [again]


def test_an_answer_cut_by_the_limit_is_kept_and_said(
    ctx: RunContext,
    inputs: tuple[StageResult, StageResult],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = _config(sampling={"max_new_tokens": 3})
    with caplog.at_level(logging.WARNING):
        result = candidates(ctx, config, *inputs, base_model())
    rows = [row for answers in rows_of(ctx.lake, result).values() for row in answers]
    assert len(rows) == 18
    assert not any(row["finished"] for row in rows)
    assert "18 of 18 answers were cut at 3 tokens; raise candidates.sampling.max_new_tokens" in caplog.text


def test_a_limit_takes_the_same_spread_out_instructions_each_time(
    ctx: RunContext,
    inputs: tuple[StageResult, StageResult],
) -> None:
    result = candidates(ctx, _config(limit=2), *inputs, base_model())
    assert result.items == 2
    rows = [{"item_id": f"rl/{n:03d}"} for n in range(100)]
    ten = choose(rows, 10)
    assert ten == choose(list(reversed(rows)), 10)
    assert ten == choose(rows, 30)[:10]
    assert len({row["item_id"][3] + row["item_id"][4] for row in ten}) > 4
    assert len(choose(rows, None)) == 100


def test_answers_are_kept_when_instructions_are_added(
    ctx: RunContext, inputs: tuple[StageResult, StageResult], tmp_path: Path
) -> None:
    config = _config(reuse=True, limit=4, n=2)  # n: no other test's answers stand in the lake
    few = candidates(ctx, config, _instructions(ctx, tmp_path, ASKED[1:5]), inputs[1], base_model())
    more = candidates(ctx, config.model_copy(update={"limit": 6}), *inputs, base_model())
    assert (few.reused, more.reused, more.ok) == (0, 4, 6)
    old, new = rows_of(ctx.lake, few), rows_of(ctx.lake, more)
    assert all([r["text"] for r in new[item]] == [r["text"] for r in old[item]] for item in old)
    other_seed = candidates(replace(ctx, seed=1), config, *inputs, base_model())
    assert other_seed.reused == 0


def test_a_video_without_tokens_costs_only_its_instructions(
    ctx: RunContext,
    inputs: tuple[StageResult, StageResult],
) -> None:
    good, bad = _here(ctx, inputs[1], [_item("good"), _item("bad", video="gone.mp4")])
    assert len(good.rows) == 3
    assert bad.rows is None
    assert "gone.mp4 has no visual tokens" in bad.reason


def test_a_question_with_the_placeholder_is_quarantined_alone(
    ctx: RunContext,
    inputs: tuple[StageResult, StageResult],
) -> None:
    good, bad = _here(ctx, inputs[1], [_item("good"), _item("bad", question="what is <video>?")])
    assert len(good.rows) == 3
    assert "remove it" in bad.reason


def test_an_unknown_split_is_named_beside_those_that_are_there(
    ctx: RunContext,
    inputs: tuple[StageResult, StageResult],
) -> None:
    with pytest.raises(ValueError, match=r"candidates\.split 'test' holds no usable instruction; .*: rl, sft\."):
        candidates(ctx, _config(split="test"), *inputs, base_model())
