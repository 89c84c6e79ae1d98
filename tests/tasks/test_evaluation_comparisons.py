"""Benchmarks of judges: a judge is shown both answers in both orders, here and over real HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, completion, verdict
from small import base_model, rows_of, small_run
from toy_benchmark import SETS, Looked, World, looked_at, world

from miniature.checkpoint import VERDICT_PROMPT
from models.comparisons import Comparison, Verdict
from models.endpoint_settings import JudgeEndpoint
from models.judge import VerdictJudge
from tasks.evaluation.comparisons import comparisons
from tasks.evaluation.config import AnswersConfig, GradingConfig, ScoredBenchmark
from tasks.evaluation.entries import read_scores
from tasks.evaluation.grades import grades
from tasks.evaluation.results import Evaluated, results
from tasks.fanout import WorkerPool
from tasks.judge_prompts import JudgePrompts
from tasks.model_ref import ModelRef
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageResult
from tasks.tokens import VisualTokens

MODEL = base_model()
PROMPTS = JudgePrompts(verdict=VERDICT_PROMPT)


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(lambda _: verdict("A")) as server:
        yield server


def triplets(made: World) -> ScoredBenchmark:
    """The first questions of each video, with the true answer and a wrong one; and one without its video."""
    rows = [
        {
            "id": row["id"],
            "video": row["video"],
            "prompt": row["questions"][0],
            "chosen": row["answer"],
            "rejected": "no",
        }
        for row in made.questions()
    ]
    rows.append({**rows[0], "id": "blind", "video": "nowhere"})
    (made.folder / "triplets.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    about = {"files": {"": str(made.folder / "triplets.jsonl")}, "videos": str(made.videos), "pairs": "verdict"}
    return ScoredBenchmark.model_validate({"benchmark": "video_reward_bench", **about})


def compare(ctx: RunContext, seen: Looked, model: ModelRef | JudgeEndpoint) -> StageResult:
    shown = seen.tokens if isinstance(model, ModelRef) else seen.sampled
    about = (seen.scored, seen.asked, seen.sampled, shown, model, "judge", "mine")
    return comparisons(ctx, AnswersConfig(shard_size=4), *about, PROMPTS)


def test_a_model_here_compares_as_the_judge_of_preferences_does(ctx: RunContext, made: World) -> None:
    seen = looked_at(ctx, triplets(made), MODEL, SETS)
    result = compare(ctx, seen, MODEL)
    assert (result.ok, result.quarantined) == (6, 1)
    lm, kept = MODEL.load(ctx.lake), VisualTokens(ctx.lake, seen.tokens.ref)
    judge = VerdictJudge(lm, text=PROMPTS.verdict, context_text=PROMPTS.verdict_context)
    found = rows_of(ctx.lake, result)
    for row in made.questions():
        (got,) = found[row["id"]]
        pair = Comparison(row["questions"][0], kept.frames(got["video"], "policy"), row["answer"], "no")
        (said,) = judge.judge([pair])
        if isinstance(said, Verdict):
            assert got["preferred"] == pytest.approx([said.p_a_first, said.p_a_second], abs=1e-4)
        else:
            assert (got["preferred"], got["replies"]) == ([], [said.reason])
    assert found["blind"][0]["reason"].startswith("no video")


def test_an_endpoint_is_shown_pictures_and_both_orders_are_graded(
    ctx: RunContext, made: World, server: FakeEndpoint, tmp_path: Path
) -> None:
    answers = {row["questions"][0]: row["answer"] for row in made.questions()}

    def reply(call: Call) -> Said:
        first = re.findall(r'^Answer A: "?([^"\n]*)"?$', call.text, re.MULTILINE)[0]
        asked = [question for question in answers if question in call.text]
        if asked == [made.questions()[0]["questions"][0]]:
            return Said(completion("neither, I think"))
        return verdict("B" if first == "no" else "A")

    server.reply = reply
    seen = looked_at(ctx, triplets(made), MODEL, SETS)
    judge = JudgeEndpoint(base_url=server.url, model="m", retries=0, reasks=0, logprobs="off")
    result = compare(ctx, seen, judge)
    assert all(part["type"] in ("text", "image_url") for part in server.calls[0].body["messages"][0]["content"])
    found = rows_of(ctx.lake, result)
    given = {item: each[0]["preferred"] for item, each in found.items() if each[0]["status"] == "ok"}
    assert sorted(map(tuple, given.values())) == [(), (), *[(1.0, 1.0)] * 4]
    graded = grades(ctx, GradingConfig(), seen.scored, seen.asked, result, None, "strict", "judge", "mine")
    stages: Any = (seen.asked.ref, result.ref, graded.ref)
    done = Evaluated("mine", seen.scored, "judge", judge, "strict", None, *stages)
    entries = read_scores(results(ctx.lake, "r", [done], tmp_path / "out", SilentProgress())).entries
    (accuracy,) = [each for each in entries if (each.metric, each.group) == ("accuracy", "overall")]
    assert accuracy.model == f"m@{judge.identity}"
    assert accuracy.value == pytest.approx(8 / 14), "four of seven triplets, in two orders"
    assert accuracy.statuses == {"missing": 2, "no verdict": 4, "ok": 8}
