"""The stage `rankings` with a model behind an endpoint: real frames, a real lake, real workers, real HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, completion, error, verdict
from pydantic import ValidationError
from small import committed, keep_scenes, rows_of, scenes, small_run

from models.endpoint_settings import JudgeEndpoint
from tasks.fanout import StageFailure, WorkerPool
from tasks.rankings import RankingsConfig, rankings
from tasks.stage import RunContext, StageResult

VIDEOS = scenes(2)
ONE, TWO = VIDEOS
BEST, GOOD, BAD = "it is a red circle.", "it is a circle.", "it is a square."
WORTH = {BEST: 3, GOOD: 2, BAD: 1}


def fair(call: Call) -> Said:
    """Orders by worth, or judges by it, whatever was asked for."""
    shown = dict(re.findall(r'^Answer ([A-Z]): "?([^"\n]*)"?$', call.text, re.MULTILINE))
    order = sorted(shown, key=lambda label: -WORTH[shown[label]])
    if "best first" in call.text:
        assert "response_format" not in call.body, "an order is no verdict"
        return Said(completion(" > ".join(order)))
    return verdict(order[0])


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(fair) as server:
        yield server


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


def config(server: FakeEndpoint, method: str, **changes: Any) -> RankingsConfig:
    endpoint = {"base_url": server.url, "model": "m", "retries": 0, "timeout_s": 30, "max_side": 32}
    options = {"method": method, "frame_set": "judge_2", "endpoint": endpoint, "shard_size": 2}
    return RankingsConfig.model_validate({**options, **changes})


def row(item: str, **content: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0, **content}


def rank(ctx: RunContext, chosen: RankingsConfig, arm: str = "arm", model: JudgeEndpoint | None = None) -> StageResult:
    frames = keep_scenes(ctx.lake, VIDEOS, {"gone.mp4": "it vanished while the run was reading it"})
    texts = {"one": (ONE, [BAD, BEST, GOOD, BEST]), "two": (TWO, [GOOD, GOOD]), "gone": ("gone.mp4", [GOOD, BAD])}
    rows = [
        row(item, candidate=number, text=text, n_tokens=5, instruction=item, video=video, question="?", finished=True)
        for item, (video, answers) in texts.items()
        for number, text in enumerate(answers)
    ]
    candidates = committed(ctx.lake.table("candidates"), rows, "candidates0")
    return rankings(ctx, chosen, candidates, frames, None, model or chosen.endpoint, arm)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "calls"), [("tournament", 6), ("listwise", 1)])
def test_an_endpoint_ranks_and_is_paid_once(ctx: RunContext, server: FakeEndpoint, method: str, calls: int) -> None:
    result = rank(ctx, config(server, method))
    rows = rows_of(ctx.lake, result)
    assert [each["rank"] for each in rows["one"]] == [3, 0.5, 2, 0.5], "equal answers share their rank"
    assert [each["rank"] for each in rows["two"]] == [0.5, 0.5]
    assert "has no frames" in rows["gone"][0]["reason"]
    assert (result.ok, result.quarantined) == (2, 1)
    assert len(server.calls) == calls
    assert rank(ctx, config(server, method, batch_size=4), arm="again").ok == 2
    assert len(server.calls) == calls, "what was paid is not asked again"


@pytest.mark.slow
def test_a_reply_that_is_no_order_is_asked_for_again_and_then_quarantined(
    ctx: RunContext, server: FakeEndpoint
) -> None:
    server.script = [Said(completion("A > A > B")), Said(completion("B", finish="length"))]
    rows = rows_of(ctx.lake, rank(ctx, config(server, "listwise", attempts=3)))
    assert rows["one"][0]["attempts"] == 3
    assert {each["answered_by"] for each in rows["one"]} == {"m"}
    server.reply = lambda _: Said(completion("they are all fine"))
    rows = rows_of(ctx.lake, rank(ctx, config(server, "listwise", attempts=2, frame_set="policy"), arm="other"))
    assert "no order in 2 attempts" in rows["one"][0]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tournament", "listwise"])
def test_an_endpoint_that_answers_nobody_ends_the_stage(ctx: RunContext, server: FakeEndpoint, method: str) -> None:
    server.reply = lambda _: error(404, "no such model")
    with pytest.raises(StageFailure, match="does not know its address or the model 'm'"):
        rank(ctx, config(server, method))
    assert "one" not in ctx.lake.table("rankings").read()["item_id"].to_pylist(), "nothing is blamed on it"


def test_endpoints_where_they_do_not_belong_are_refused(ctx: RunContext, server: FakeEndpoint) -> None:
    for method in ("reward", "truth"):
        with pytest.raises(ValidationError, match=f"method '{method}' asks no endpoint"):
            config(server, method)
    chosen = config(server, "listwise")
    assert chosen.endpoint is not None
    with pytest.raises(ValueError, match=r"another model than rankings\.endpoint"):
        rank(ctx, chosen, model=replace(chosen.endpoint, model="other"))
