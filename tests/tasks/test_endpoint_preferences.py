"""The stage `preferences` with a judge behind an endpoint: real frames, a real lake, real workers, real HTTP."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, completion, error, verdict
from PIL import Image
from pydantic import ValidationError
from small import committed, keep_scenes, picture, rows_of, scenes

from miniature.lessons import FRAMES
from miniature.world import render
from models.endpoint_settings import JudgeEndpoint
from tasks.fanout import StageFailure, WorkerPool
from tasks.judge_endpoint import say_what_the_budget_counts
from tasks.ledger import ledger_path
from tasks.model_ref import ModelRef
from tasks.pictures import jpeg
from tasks.preferences import PreferencesConfig, preferences
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageResult

VIDEOS = scenes(2)
ONE, TWO = VIDEOS
QUESTION = "what is the first shape?"
GOOD, BAD = "it is a circle.", "it is a square."


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    def fair(call: Call) -> Said:
        first, second = (call.text.index(json.dumps(answer)) for answer in (GOOD, BAD))
        return verdict("A" if first < second else "B")

    with FakeEndpoint(fair) as server:
        yield server


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return RunContext(str(tmp_path / "lake"), "test", pool, SilentProgress(), max_quarantined=0.9, seed=0)


def config(server: FakeEndpoint, **changes: Any) -> PreferencesConfig:
    endpoint = {"base_url": server.url, "model": "m", "retries": 0, "timeout_s": 30, "max_side": 32, **changes}
    options = {"judge": "hosted", "endpoints": {"hosted": endpoint}, "narrative": False, "frame_set": "judge_2"}
    return PreferencesConfig.model_validate({**options, "shard_size": 2})


def row(item: str, **content: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0, **content}


def answers(item: str, video: str, *texts: str) -> list[dict[str, Any]]:
    about = {"instruction": item, "video": video, "question": f"{QUESTION} ({item})", "finished": True}
    return [row(item, candidate=number, text=text, n_tokens=5, **about) for number, text in enumerate(texts)]


def sampled(ctx: RunContext, *groups: list[dict[str, Any]], key: str = "candidates0") -> StageResult:
    return committed(ctx.lake.table("candidates"), [each for group in groups for each in group], key)


def judge(ctx: RunContext, chosen: PreferencesConfig, candidates: StageResult) -> StageResult:
    frames = keep_scenes(ctx.lake, VIDEOS, {"gone.mp4": "it vanished while the run was reading it"})
    return preferences(ctx, chosen, candidates, frames, None, chosen.endpoints["hosted"], "arm")


@pytest.mark.slow
def test_labels_say_which_version_of_a_judge_gave_them(
    ctx: RunContext, server: FakeEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    def moved(call: Call, fair: Any = server.reply) -> Said:
        return Said({**fair(call).body, "model": "m-0125" if "(one)" in call.text else "m-1106"})

    server.reply = moved
    chosen = config(server)
    result = judge(ctx, chosen, sampled(ctx, answers("one", ONE, BAD, GOOD), answers("two", TWO, BAD, GOOD)))
    rows = rows_of(ctx.lake, result)
    assert [each["answered_by"] for item in ("one", "two") for each in rows[item]] == ["m-0125", "m-1106"]
    assert "its replies name m-0125, m-1106. More than one version has answered" in caplog.text
    caplog.clear()
    server.reply = lambda _: verdict("tie")
    asked_for = judge(ctx, chosen, sampled(ctx, answers("three", ONE, BAD, f"{GOOD}!"), key="candidates1"))
    assert [each["answered_by"] for each in rows_of(ctx.lake, asked_for)["three"]] == ["m"]
    assert "its replies name" not in caplog.text


@pytest.mark.slow
def test_pairs_are_judged_over_http_and_explained(ctx: RunContext, server: FakeEndpoint) -> None:
    chosen = config(server, price_input=1.0, budget=10.0)
    candidates = sampled(
        ctx,
        answers("one", ONE, BAD, GOOD, BAD),
        answers("equal", TWO, GOOD, GOOD),
        answers("vanished", "gone.mp4", GOOD, BAD),
        answers("control", TWO, "\x00" + GOOD, BAD),
    )
    server.reply = lambda call, fair=server.reply: Said(completion("C")) if "\\u0000" in call.text else fair(call)
    result = judge(ctx, chosen, candidates)
    assert (result.items, result.ok, result.quarantined) == (4, 2, 2)
    rows = rows_of(ctx.lake, result)
    assert "gone.mp4 has no frames" in rows["vanished"][0]["reason"]
    assert "third option, its last reply: 'C'" in rows["control"][0]["reason"]
    assert [(each["preferred"], each["p_a"]) for each in rows["equal"]] == [("tie", 0.5)]
    assert [each["preferred"] for each in rows["one"]] == ["b", "tie", "a"]
    first = rows["one"][0]
    assert (first["p_a_first"], first["p_a_second"], first["consistent"]) == (0.0, 0.0, True)
    assert json.loads(first["reply_first"])["verdict"] == "B"
    assert (first["reason_first"], first["input_tokens"], first["output_tokens"]) == ("it is right", 200, 20)
    assert first["cost"] == pytest.approx(200 / 1e6)
    assert first["latency_s"] > 0
    assert (first["model"], first["method"]) == (chosen.endpoints["hosted"].identity, "verdict")
    assert first["prompt_hash"]
    assert ledger_path(ctx.lake_root).is_file()

    parts = next(call for call in server.calls if "\\u0000" not in call.text).body["messages"][0]["content"]
    pictures = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    expected = [jpeg(picture(frame), 32, 85) for frame in render(VIDEOS[ONE])[list(FRAMES["2"])]]
    assert [base64.b64decode(each.removeprefix("data:image/jpeg;base64,")) for each in pictures] == expected

    # Quarantined items that are tried again are asked again; what was answered is not.
    before = len(server.calls)
    server.reply = lambda _: verdict("tie")
    ctx.retries = 1
    again = judge(ctx, chosen, candidates)
    assert (again.ok, again.reused) == (3, 2)
    assert len(server.calls) == before + 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "words"),
    [
        (error(401, "bad key"), "refuses a call without a key"),
        (error(404, "no such model"), "does not know its address or the model 'm'"),
    ],
)
def test_what_no_item_can_mend_stops_the_stage_and_blames_nobody(
    ctx: RunContext, server: FakeEndpoint, said: Said, words: str
) -> None:
    fair, server.reply = server.reply, lambda _: said
    candidates = sampled(ctx, *(answers(f"{number}", ONE, GOOD, BAD) for number in range(5)))
    with pytest.raises(StageFailure, match=words):
        judge(ctx, config(server), candidates)
    assert ctx.lake.table("preferences").read().num_rows == 0
    server.reply = fair
    done = judge(ctx, config(server), candidates)
    assert [row["reason"] for row in ctx.lake.table("preferences").read(done.key, ["reason"]).to_pylist()] == [None] * 5


HALF, ESCAPED = "\ud83d", "\\ud83d"  # Of a character beyond 16 bits: as it is, and as JSON spells it.
HALVES = {
    "in the reply": Said(completion(f'{{"verdict": "A", "reason": "good {HALF}"}}')),
    "in its object": Said(completion(f'{{"verdict": "A", "reason": "good {ESCAPED}"}}')),
    "unreadable": Said(completion(f"C {HALF}")),
    "a refusal": Said(completion(None, message={"content": None, "refusal": f"no {HALF}"})),
    "a bad call": error(400, f"no {HALF}"),
}


@pytest.mark.slow
def test_half_a_character_from_the_server_is_committed_as_a_sign_for_it(ctx: RunContext, server: FakeEndpoint) -> None:
    fair = server.reply
    server.reply = lambda call: next((said for item, said in HALVES.items() if f"({item})" in call.text), fair(call))
    candidates = sampled(ctx, *(answers(item, ONE, GOOD, BAD) for item in [*HALVES, "plain"]))
    result = judge(ctx, config(server), candidates)
    assert (result.ok, result.quarantined) == (3, 3)
    rows = {item: row for item, (row,) in rows_of(ctx.lake, result).items()}
    assert rows["in the reply"]["reply_first"].endswith('good \ufffd"}')
    assert rows["in its object"]["reason_first"] == "good \ufffd"
    for item in ("unreadable", "a refusal", "a bad call"):
        assert "\ufffd" in rows[item]["reason"], item


@pytest.mark.slow
def test_what_was_said_before_a_kill_is_not_asked_again_readable_or_not(
    ctx: RunContext, server: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill comes between the judge and the commit, where every reply is paid and no row is there."""

    def killed(*_: Any, **__: Any) -> bool:
        raise KeyboardInterrupt

    def moody(call: Call) -> Said:
        good_first = call.text.index(json.dumps(GOOD)) < call.text.index(json.dumps(BAD))
        return verdict("A") if good_first else Said(completion("C"))

    fair, server.reply = server.reply, moody
    ctx.max_quarantined = 1.0
    candidates = sampled(ctx, answers("one", ONE, GOOD, BAD))
    with monkeypatch.context() as patch:
        patch.setattr("tasks.stage._Work.commit", killed)
        with pytest.raises(KeyboardInterrupt):
            judge(ctx, config(server), candidates)
    assert len(server.calls) == 1 + 3
    result = judge(ctx, config(server), candidates)
    assert (result.quarantined, len(server.calls)) == (1, 4)
    server.reply = fair
    ctx.retries = 1
    result = judge(ctx, config(server), candidates)
    assert (result.ok, len(server.calls)) == (1, 5)
    assert [row["preferred"] for row in rows_of(ctx.lake, result)["one"]] == ["a"]


@pytest.mark.slow
def test_a_used_up_budget_stops_the_stage_and_a_larger_one_goes_on(ctx: RunContext, server: FakeEndpoint) -> None:
    """A call costs 0.001, and may cost 0.001: ten tokens at 100 a million."""
    candidates = sampled(ctx, *(answers(f"{number}", ONE, GOOD, BAD) for number in range(10)))
    limits = {"price_output": 100.0, "max_tokens": 10}
    with pytest.raises(StageFailure, match=r"has used up its budget of 0.0075: 0.007 is spent, .* Raise budget"):
        judge(ctx, config(server, budget=0.0075, **limits), candidates)
    assert len(server.calls) == 7
    assert judge(ctx, config(server, budget=1.0, **limits), candidates).ok == 10
    assert len(server.calls) == 20


@pytest.mark.slow
def test_a_missing_key_and_too_many_workers_are_said_before_any_call(
    ctx: RunContext, pair: WorkerPool, server: FakeEndpoint
) -> None:
    candidates = sampled(ctx, answers("one", ONE, GOOD, BAD))
    with pytest.raises(StageFailure, match="the variable RLAIF_TEST_KEY_THAT_NOBODY_SETS is not set"):
        judge(ctx, config(server, api_key_env="RLAIF_TEST_KEY_THAT_NOBODY_SETS"), candidates)
    with pytest.raises(StageFailure, match=r"takes 1 calls at once, but 2 workers"):
        judge(replace(ctx, pool=pair), config(server, concurrency=1), candidates)
    assert server.calls == []


def test_the_key_of_the_stage_holds_the_judge_and_not_its_limits(server: FakeEndpoint) -> None:
    plain = config(server)
    limits = {"concurrency": 4, "requests_per_minute": 7.0, "budget": 3.0, "price_input": 1.0, "retries": 9}
    limited = config(server, **limits, timeout_s=3.0)
    assert limited.endpoints["hosted"].identity == plain.endpoints["hosted"].identity
    assert limited.decisive() == plain.decisive()
    assert set(plain.asked) == {"endpoint", "again"}
    for changes in ({"model": "n"}, {"temperature": 0.5}, {"max_side": 64}, {"structured": "off"}, {"reasks": 0}):
        assert config(server, **changes).endpoints["hosted"].identity != plain.endpoints["hosted"].identity
    local = PreferencesConfig()
    assert PreferencesConfig(endpoints=plain.endpoints).decisive() == local.decisive()


def test_a_judge_that_is_no_endpoint_is_refused(server: FakeEndpoint, ctx: RunContext) -> None:
    with pytest.raises(ValidationError, match=r"none of preferences.endpoints; known: local"):
        PreferencesConfig(judge="hosted")
    hosted = {"hosted": JudgeEndpoint(base_url=server.url, model="m")}
    with pytest.raises(ValidationError, match="gives no method 'likelihood'"):
        PreferencesConfig(judge="hosted", method="likelihood", endpoints=hosted)
    chosen = config(server)
    candidates = sampled(ctx, answers("one", ONE, GOOD, BAD))
    with pytest.raises(ValueError, match="was handed another judge"):
        preferences(ctx, chosen, candidates, candidates, None, ModelRef("x", "y"), "arm")


def test_a_budget_of_a_lake_on_s3_says_once_on_which_machine_it_is_counted(
    ctx: RunContext, server: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    candidates = sampled(ctx, answers("one", ONE, GOOD, BAD))
    monkeypatch.setattr("tasks.preferences.run_stage", lambda *_: candidates)
    monkeypatch.setattr("tasks.preferences.say_whose_rows", lambda *_: None)  # There are none.
    in_bucket, looking = (replace(ctx, lake_root="s3://bucket/lake", looks_only=looks) for looks in (False, True))
    in_bucket.lake = looking.lake = ctx.lake  # No bucket is there.
    dear = config(server, price_input=1.0, budget=10.0)

    def said(run: RunContext, chosen: PreferencesConfig) -> list[str]:
        caplog.clear()
        preferences(run, chosen, candidates, candidates, None, chosen.endpoints["hosted"], "arm")
        return [record.getMessage() for record in caplog.records if "budget" in record.getMessage()]

    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    say_what_the_budget_counts.cache_clear()
    assert said(ctx, dear) == said(in_bucket, config(server)) == said(looking, dear) == []
    (warning,) = said(in_bucket, dear)
    assert "counted on this machine" in warning
    assert str(tmp_path / "cache") in warning
    assert said(in_bucket, dear) == []


def test_pictures_shrink_to_the_limit_and_fitting_jpegs_stay_as_they_are() -> None:
    file = io.BytesIO()
    Image.new("RGB", (300, 100), "red").save(file, "JPEG")
    assert jpeg(file.getvalue(), 300, 85) == file.getvalue()
    with Image.open(io.BytesIO(jpeg(file.getvalue(), 150, 85))) as small:
        assert (small.format, small.size) == ("JPEG", (150, 50))
