"""Answers to a benchmark's questions, through real videos, frames, visual tokens, a tiny model and workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import base_model, rows_of, small_run
from toy_benchmark import World, answered, looked_at, world

from models.settings import Sampling
from models.video_lm import VideoLM
from storage.rows import row_digest
from tasks.evaluation.items import predictions_by_question
from tasks.fanout import WorkerPool
from tasks.stage import RunContext
from tasks.tokens import VisualTokens

pytestmark = pytest.mark.usefixtures("toy")
MODEL = base_model()


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def lm() -> VideoLM:
    return VideoLM.load(MODEL.name)


@pytest.mark.parametrize("settings", [{}, {"system": "describe the video.", "begin": "it is"}])
def test_replies_are_what_the_model_says_to_each_question_alone(
    ctx: RunContext, made: World, lm: VideoLM, settings: dict[str, Any]
) -> None:
    rows = made.questions()
    rows[0] |= {"questions": [rows[0]["questions"][0], "describe the video."]}
    rows[1] |= {"window": [1.0, 2.0]}
    seen = looked_at(ctx, made.scored(rows, settings=settings, frame_set="few"), MODEL)
    result = answered(ctx, seen, MODEL)
    found = rows_of(ctx.lake, result)
    kept = VisualTokens(ctx.lake, seen.tokens.ref)
    assert (result.items, result.ok) == (len(rows), len(rows))
    for row in rows:
        (got,) = found[row["id"]]
        frame_set = "few@1-2" if "window" in row else "few"
        assert (got["frame_set"], got["n_frames"], got["checkpoint"]) == (frame_set, 2, "base")
        shown = kept.frames(got["video"], frame_set)
        prompts = [lm.prompt(question, shown, **settings) for question in row["questions"]]
        alone = [lm.generate([prompt], Sampling(temperature=0, max_new_tokens=8))[0][0] for prompt in prompts]
        assert got["replies"] == [each.text for each in alone]
        assert got["finished"] == [each.finished for each in alone]
        assert got["n_tokens"] == [len(each.ids) for each in alone]
        assert all(question in asked for question, asked in zip(row["questions"], got["requests"], strict=True))


def test_choices_are_weighed_as_if_each_stood_alone(ctx: RunContext, made: World, lm: VideoLM) -> None:
    rows = [
        {**row, "options": ["a red circle grows.", "no", f"a {row['answer']}", row["answer"]]}
        for row in made.questions()
    ]
    seen = looked_at(ctx, made.scored(rows, settings={"begin": "it is"}), MODEL)
    found = rows_of(ctx.lake, answered(ctx, seen, MODEL, batch_size=3))
    kept = VisualTokens(ctx.lake, seen.tokens.ref)
    for row in rows:
        (got,) = found[row["id"]]
        prompt = lm.prompt(row["questions"][0], kept.frames(got["video"], "policy"), begin="it is")
        choices = [lm.response_ids(option, "it is") for option in row["options"]]
        alone = [float(lm.logprobs([prompt], [ids])[0].double().sum()) for ids in choices]
        assert got["scores"] == pytest.approx(alone, abs=1e-3)
        assert got["n_tokens"] == [len(ids) for ids in choices]
        assert got["replies"] == []
    limited = rows_of(ctx.lake, answered(ctx, seen, MODEL, "limited", forward_tokens=100))
    for row in rows:
        assert limited[row["id"]][0]["scores"] == pytest.approx(found[row["id"]][0]["scores"], abs=1e-3)


def test_equal_requests_of_a_shard_are_answered_once(ctx: RunContext, made: World) -> None:
    row = made.questions()[0]
    twins = [{**row, "id": str(n)} for n in range(4)]
    sampling = {"temperature": 1.0, "max_new_tokens": 12}
    seen = looked_at(
        ctx, made.scored([*twins, {**row, "id": "5", "questions": ["describe the video."]}], **sampling), MODEL
    )
    found = rows_of(ctx.lake, answered(ctx, seen, MODEL, shard_size=8))
    assert len({tuple(found[str(n)][0]["replies"]) for n in range(4)}) == 1, "drawn once, though drawn at random"


def test_what_cannot_be_asked_is_counted_with_its_reason(ctx: RunContext, made: World) -> None:
    rows = made.questions()
    rows += [
        {**rows[0], "id": "blind", "video": "nowhere"},
        {**rows[0], "id": "late", "window": [5.0, 6.0]},
        {**rows[0], "id": "picture", "questions": ["what is in <image> ?"]},
    ]
    seen = looked_at(ctx, made.scored(rows), MODEL)
    result = answered(ctx, seen, MODEL)
    assert (result.ok, result.quarantined) == (6, 3)
    reasons = {item: each[0]["reason"] for item, each in rows_of(ctx.lake, result).items() if each[0]["reason"]}
    assert reasons["blind"].startswith("no video: video nowhere")
    assert reasons["late"].startswith("window: 5-6 s lies outside of video v_0.mp4, which lasts 2 s")
    assert reasons["picture"].startswith("not asked: The text 'what is in <image> ?' holds a token")
    assert sorted(predictions_by_question(ctx.lake, result.ref)) == sorted(row["id"] for row in rows[:6])


def test_a_question_more_costs_that_question_alone(ctx: RunContext, made: World) -> None:
    rows = made.questions()
    first = answered(ctx, looked_at(ctx, made.scored(rows[:-1]), MODEL), MODEL)
    again = answered(ctx, looked_at(ctx, made.scored(rows[:-1]), MODEL), MODEL)
    assert again.cached
    more = answered(ctx, looked_at(ctx, made.scored(rows), MODEL), MODEL)
    assert (more.items, more.reused) == (6, 5)
    graded_otherwise = [{**row, "answer": "another"} for row in rows]
    same = answered(ctx, looked_at(ctx, made.scored(graded_otherwise), MODEL), MODEL)
    assert same.reused == 6, "the true answer is no part of what is asked"
    other = answered(ctx, looked_at(ctx, made.scored(rows, settings={"prompt": "{question} now"}), MODEL), MODEL)
    assert other.reused == 0
    assert first.key != more.key


def test_a_checkpoint_that_is_called_otherwise_answers_nothing_again(ctx: RunContext, made: World) -> None:
    rows = [*made.questions(), {**made.questions()[0], "id": "blind", "video": "nowhere"}]
    seen = looked_at(ctx, made.scored(rows), MODEL)
    first, renamed = answered(ctx, seen, MODEL, "base"), answered(ctx, seen, MODEL, "renamed")
    assert renamed.key != first.key
    assert renamed.reused == 6
    said, again = rows_of(ctx.lake, first), rows_of(ctx.lake, renamed)
    assert {each["checkpoint"] for (each,) in again.values()} == {"renamed"}
    assert {each["checkpoint"] for (each,) in said.values()} == {"base"}
    assert all(again[item][0]["replies"] == said[item][0]["replies"] for item in said)


def test_the_order_of_the_file_and_the_number_of_workers_change_nothing(
    ctx: RunContext, pair: WorkerPool, made: World, tmp_path: Path
) -> None:
    rows = made.questions()
    sampling = {"temperature": 1.0}
    one = answered(ctx, looked_at(ctx, made.scored(rows, **sampling), MODEL), MODEL)
    elsewhere = small_run(pair, tmp_path / "other")
    two = answered(elsewhere, looked_at(elsewhere, made.scored([*reversed(rows)], **sampling), MODEL), MODEL)
    columns = ["item_id", "replies", "n_tokens"]
    assert (
        ctx.lake.table("predictions")
        .read(one.key, columns)
        .equals(elsewhere.lake.table("predictions").read(two.key, columns))
    )


def test_a_run_that_was_stopped_goes_on_with_the_shards_that_are_missing(
    ctx: RunContext, made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = looked_at(ctx, made.scored(made.questions()), MODEL)
    commits = []

    def once(self: Any, rows: Any, **where: Any) -> bool:
        if self.name == "predictions" and commits:
            raise KeyboardInterrupt
        commits.append(self.name)
        return bool(real(self, rows, **where))

    from storage.tables import Table

    real = Table.commit_shard
    with monkeypatch.context() as stopped:
        stopped.setattr(Table, "commit_shard", once)
        with pytest.raises(KeyboardInterrupt):
            answered(ctx, seen, MODEL, shard_size=2)
    assert commits == ["predictions"]
    result = answered(ctx, seen, MODEL, shard_size=2)
    whole = small_run(ctx.pool, tmp_path / "whole")
    other = answered(whole, looked_at(whole, made.scored(made.questions()), MODEL), MODEL, shard_size=2)
    rows = [lake.table("predictions").read(key) for lake, key in ((ctx.lake, result.key), (whole.lake, other.key))]
    assert result.key == other.key
    assert row_digest(rows[0]) == row_digest(rows[1])


def test_another_checkpoint_answers_from_the_same_visual_tokens(ctx: RunContext, made: World, tmp_path: Path) -> None:
    from models.settings import LoraSettings

    lm = VideoLM.load(MODEL.name)
    lm.add_adapter("policy", LoraSettings(rank=4, alpha=64), seed=0)
    for weight in lm.adapter_parameters("policy").values():
        torch.nn.init.normal_(weight, std=0.3)
    lm.save_adapter("policy", tmp_path / "adapter", base=MODEL.name)
    tuned = replace(MODEL, adapter=ctx.lake.blobs.put_folder(tmp_path / "adapter"))
    seen = looked_at(ctx, made.scored(made.questions()), MODEL)
    assert looked_at(ctx, made.scored(made.questions()), tuned).tokens.cached
    base, other = (
        rows_of(ctx.lake, answered(ctx, seen, model, name)) for name, model in (("base", MODEL), ("tuned", tuned))
    )
    assert any(base[item][0]["replies"] != other[item][0]["replies"] for item in base)
