"""Grades by rules, by a local judge, and by one over real HTTP; and what they come to in scores.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, completion, error
from small import base_model, rows_of, small_run
from toy_benchmark import Looked, Toy, World, answered, looked_at, world

from models.endpoint_settings import JudgeEndpoint
from tasks.evaluation.conditions import conditions_of
from tasks.evaluation.config import GradingConfig, ScoredBenchmark
from tasks.evaluation.entries import Entry, read_scores
from tasks.evaluation.grades import grades
from tasks.evaluation.published_scores import shelves_of
from tasks.evaluation.questions import questions
from tasks.evaluation.results import Evaluated, results
from tasks.fanout import StageFailure, WorkerPool
from tasks.model_ref import ModelRef
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageResult
from tasks.videos import VideosConfig, videos

pytestmark = pytest.mark.usefixtures("toy")
MODEL = base_model()
JUDGED = {"settings": {"judged_by": "model"}, "judge": "fake"}


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(lambda _: Said(completion("4"))) as server:
        yield server


def endpoint(server: FakeEndpoint, **changes: Any) -> JudgeEndpoint:
    return JudgeEndpoint(**{"base_url": server.url, "model": "judge-1", "retries": 0, "timeout_s": 30, **changes})


def grade(
    ctx: RunContext,
    seen: Looked,
    said: StageResult,
    judge: ModelRef | JudgeEndpoint | None = None,
    protocol: str = "strict",
    **how: Any,
) -> StageResult:
    config = GradingConfig.model_validate({"shard_size": 4, **how})
    return grades(ctx, config, seen.scored, seen.asked, said, judge, protocol, "base", "mine")


def user(call: Call) -> str:
    return str(call.body["messages"][-1]["content"])


def about(
    scored: ScoredBenchmark, seen: Looked, said: StageResult, graded: StageResult, judge: Any = None
) -> Evaluated:
    stages = (seen.asked.ref, said.ref, graded.ref)
    return Evaluated("mine", scored, "base", MODEL, "strict", judge, *stages, n_frames=4)


def test_rules_grade_every_question_those_without_an_answer_too(ctx: RunContext, made: World) -> None:
    rows = made.questions()
    rows += [{**rows[0], "id": "blind", "video": "nowhere", "aspects": ["one", "two"]}]
    rows += [{**rows[0], "id": "unlike", "answer": "never said"}]
    seen = looked_at(ctx, made.scored(rows), MODEL)
    said = answered(ctx, seen, MODEL)
    found = rows_of(ctx.lake, grade(ctx, seen, said))
    replies = rows_of(ctx.lake, said)
    assert sorted(found) == sorted(row["id"] for row in rows)
    for row in rows[:6]:
        (got,) = found[row["id"]]
        assert got["correct"] == (row["answer"] in replies[row["id"]][0]["replies"])
        assert (got["outcome"], got["judge"], got["attempts"], got["cost"]) == ("ok", None, 0, None)
    assert [(each["aspect"], each["outcome"], each["correct"]) for each in found["blind"]] == [
        ("one", "missing", False),
        ("two", "missing", False),
    ]
    assert found["unlike"][0]["correct"] is False
    assert grade(ctx, seen, said).cached
    assert not grade(ctx, seen, said, protocol="official").cached


def test_a_benchmark_whose_code_reads_or_grades_otherwise_is_asked_anew(
    ctx: RunContext, made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = made.scored(made.questions())
    seen = looked_at(ctx, scored, MODEL)
    said = answered(ctx, seen, MODEL)
    before = grade(ctx, seen, said)
    monkeypatch.setattr(Toy, "revision", Toy.revision + 1)
    assert grade(ctx, seen, said).key != before.key
    listed = videos(ctx, VideosConfig(folder=scored.folder))
    assert questions(ctx, scored, listed, "mine").key != seen.asked.key


def test_a_judge_that_says_nothing_usable_is_asked_again_and_then_left(
    ctx: RunContext, made: World, server: FakeEndpoint
) -> None:
    rows = [
        {**row, "id": name, "answer": name}
        for row, name in zip(made.questions(), ("good", "seven", "prose", "empty", "late", "refused"), strict=True)
    ]
    asked: dict[str, int] = {}

    def reply(call: Call) -> Said:
        name = user(call).split(" A: ")[1].split(" P: ")[0]
        asked[name] = asked.get(name, 0) + 1
        said = {
            "good": "4",
            "seven": "7",
            "prose": "I would say it is fine.",
            "empty": "",
            "late": "well" if asked[name] < 3 else "2",
        }
        return error(400, "not this one") if name == "refused" else Said(completion(said[name]))

    server.reply = reply
    seen = looked_at(ctx, made.scored(rows, **JUDGED), MODEL)
    said = answered(ctx, seen, MODEL)
    judge = endpoint(server, reasks=2, price_input=1.0)
    result = grade(ctx, seen, said, judge)
    assert (result.ok, result.quarantined) == (6, 0)
    found = {item: each[0] for item, each in rows_of(ctx.lake, result).items()}
    assert {item: (each["outcome"], each["attempts"]) for item, each in found.items()} == {
        "good": ("ok", 1),
        "seven": ("out of range", 3),
        "prose": ("no verdict", 3),
        "empty": ("no verdict", 3),
        "late": ("ok", 3),
        "refused": ("no verdict", 3),
    }
    assert (found["good"]["score"], found["late"]["score"], found["seven"]["score"]) == (4.0, 2.0, None)
    assert (found["good"]["reply"], found["seven"]["reply"]) == ("4", "7")
    assert "not this one" in found["refused"]["reply"]
    assert {each["judge"] for each in found.values()} == {f"judge-1@{judge.identity}"}
    assert found["good"]["cost"] == pytest.approx(100e-6)
    assert found["seven"]["cost"] == pytest.approx(300e-6)
    assert {asked[name] for name in ("seven", "prose", "empty", "late")} == {3}
    calls = len(server.calls)
    assert grade(ctx, seen, said, judge, protocol="official").ok == 6
    answered_calls = [call for call in server.calls[calls:] if "refused" not in user(call)]
    assert not answered_calls, "what was paid is not asked again by another protocol"
    first = server.calls[0].body
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert "response_format" not in first


def test_a_checkpoint_that_is_called_otherwise_is_not_graded_again(ctx: RunContext, made: World) -> None:
    seen = looked_at(ctx, made.scored(made.questions(), **JUDGED), MODEL)
    first, other = (answered(ctx, seen, MODEL, name) for name in ("base", "renamed"))
    grade(ctx, seen, first, MODEL)
    config = GradingConfig(shard_size=4)
    again = grades(ctx, config, seen.scored, seen.asked, other, MODEL, "strict", "renamed", "mine")
    assert again.reused == again.items == 6
    assert {each["checkpoint"] for (each,) in rows_of(ctx.lake, again).values()} == {"renamed"}


def test_equal_calls_are_made_once(ctx: RunContext, made: World, server: FakeEndpoint) -> None:
    row = made.questions()[0]
    rows = [{**row, "id": str(n)} for n in range(4)]
    seen = looked_at(ctx, made.scored(rows, **JUDGED), MODEL)
    said = answered(ctx, seen, MODEL)
    found = rows_of(ctx.lake, grade(ctx, seen, said, endpoint(server, price_input=1.0)))
    assert len(server.calls) == 1
    assert sorted(each[0]["cost"] for each in found.values()) == pytest.approx([0, 0, 0, 100e-6])


def test_an_endpoint_that_answers_nobody_ends_the_stage_and_nothing_is_blamed(
    ctx: RunContext, made: World, server: FakeEndpoint
) -> None:
    seen = looked_at(ctx, made.scored(made.questions(), **JUDGED), MODEL)
    said = answered(ctx, seen, MODEL)
    server.reply = lambda _: error(401, "who are you?")
    with pytest.raises(StageFailure, match="refuses a call without a key"):
        grade(ctx, seen, said, endpoint(server))
    assert len(ctx.lake.table("grades").read()) == 0
    server.reply = lambda _: Said(completion("5"))
    assert grade(ctx, seen, said, endpoint(server)).ok == 6


def test_a_local_judge_reads_text_alone(ctx: RunContext, made: World) -> None:
    rows = [*made.questions(), {**made.questions()[0], "id": "marked", "answer": "a <video>"}]
    scored = made.scored(rows, settings={"judged_by": "model"}, judge="local")
    seen = looked_at(ctx, scored, MODEL)
    said = answered(ctx, seen, MODEL)
    greedy = rows_of(ctx.lake, grade(ctx, seen, said, MODEL))
    lm = MODEL.load(ctx.lake)
    for row in made.questions():
        (got,) = greedy[row["id"]]
        reply = rows_of(ctx.lake, said)[row["id"]][0]["replies"][0]
        prompt = lm.prompt(f"Q: {row['questions'][0]} A: {row['answer']} P: {reply}", None, system="Grade .")
        ((expected,),) = lm.generate([prompt], GradingConfig().sampling)
        assert (got["reply"], got["outcome"]) == (expected.text, "no verdict")
        assert (got["attempts"], got["cost"]) == (1, 0.0), "asked again, it would say the same"
        assert got["judge"] == f"base@{MODEL.identity} (temperature 0, max_new_tokens 64)"
    assert greedy["marked"][0]["outcome"] == "no verdict"
    assert "placeholder" in greedy["marked"][0]["reply"]
    drawn = grade(ctx, seen, said, MODEL, sampling={"temperature": 1.0, "max_new_tokens": 4}, reasks=1)
    assert {each[0]["attempts"] for each in rows_of(ctx.lake, drawn).values()} == {2}


def test_without_a_judge_the_stage_says_who_is_missing(ctx: RunContext, made: World) -> None:
    seen = looked_at(ctx, made.scored(made.questions(), **JUDGED), MODEL)
    said = answered(ctx, seen, MODEL)
    with pytest.raises(StageFailure, match="Protocol 'strict' of toy asks a judge"):
        grade(ctx, seen, said, None)


def test_scores_say_all_that_they_depend_on(ctx: RunContext, made: World, server: FakeEndpoint, tmp_path: Path) -> None:
    rows = made.questions()
    rows += [{**rows[0], "id": "blind", "video": "nowhere"}, {**rows[0], "id": "mute", "answer": ""}]
    rows[0] |= {"answer": "seven", "kind": "odd"}
    server.reply = lambda call: Said(
        completion("7" if " A: seven P" in user(call) else "1" if "order" in user(call) else "4")
    )
    scored = made.scored(rows, **JUDGED, split="test", name="judged.json")
    seen = looked_at(ctx, scored, MODEL)
    said = answered(ctx, seen, MODEL)
    judges = [endpoint(server, reasks=0), endpoint(server, reasks=0, model="judge-2")]
    done = [about(scored, seen, said, grade(ctx, seen, said, judge), judge) for judge in judges]
    path = results(ctx.lake, "r", done, tmp_path / "out", SilentProgress())
    found = read_scores(path)
    overall = [entry for entry in found.entries if entry.group == "overall"]
    assert [entry.judge for entry in overall] == [f"{each.model}@{each.identity}" for each in judges], (
        "never one column"
    )
    one = overall[0]
    assert one.value == pytest.approx(5 / 7)
    assert one.low is not None
    assert one.high is not None
    assert one.low <= 5 / 7 <= one.high
    assert (one.n, one.left_out, one.printed) == (7, 0, "71.4")
    assert one.statuses == {"missing": 1, "ok": 5, "out of range": 1}
    assert one.faults == {"no answer": 1, "no video": 1}
    assert (one.benchmark, one.registry, one.split, one.checkpoint) == ("mine", "toy", "test", "base")
    assert (one.model, one.frames, one.n_frames) == (f"base@{MODEL.identity}", "policy", 4)
    assert one.decoding == {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 8}
    assert one.stages == {"questions": seen.asked.key, "predictions": said.key, "grades": done[0].grades.key}
    assert {entry.group for entry in found.entries} == {
        "overall",
        "kind: odd",
        *(f"kind: {row['kind']}" for row in rows[1:6]),
    }
    assert json.loads(path.read_text())["entries"][0] == asdict(found.entries[0])
    written = json.loads((tmp_path / "out" / "predictions" / "mine" / "base" / "toy.json").read_text())
    assert [each["id"] for each in written] == [row["id"] for row in rows[:6]], "in the file's order"


def test_a_checkpoint_that_needed_no_judge_stands_beside_one_that_did(
    ctx: RunContext, made: World, server: FakeEndpoint, tmp_path: Path
) -> None:
    """The second was asked about no video that is there, so nobody judged it."""
    ctx = replace(ctx, max_quarantined=1.0)
    judge = endpoint(server)
    entries: list[Entry] = []
    for folder, video in (("one", {}), ("other", {"video": "nowhere"})):
        rows = [{**row, **video} for row in made.questions()]
        seen = looked_at(ctx, made.scored([*rows, {**made.questions()[0], "id": "x", **video}], **JUDGED), MODEL)
        said = answered(ctx, seen, MODEL)
        done = about(seen.scored, seen, said, grade(ctx, seen, said, judge), judge)
        entries += read_scores(results(ctx.lake, "r", [done], tmp_path / folder, SilentProgress())).entries[:1]
    assert [each.statuses for each in entries] == [{"ok": 7}, {"missing": 7}]
    (condition,) = conditions_of(entries)
    assert (condition.judge, condition.n_frames) == (f"judge-1@{judge.identity}", 4)
    by_rules = made.scored(made.questions(), judge="fake")
    seen = looked_at(ctx, by_rules, MODEL)
    said = answered(ctx, seen, MODEL)
    done = about(by_rules, seen, said, grade(ctx, seen, said, judge), judge)
    (first, *_) = read_scores(results(ctx.lake, "r", [done], tmp_path / "ruled", SilentProgress())).entries
    assert first.judge == "", "a protocol that asks no judge has none"


def test_a_local_judge_that_replies_otherwise_is_another(ctx: RunContext, made: World, tmp_path: Path) -> None:
    scored = made.scored(made.questions(), settings={"judged_by": "model"}, judge="local")
    seen = looked_at(ctx, scored, MODEL)
    said = answered(ctx, seen, MODEL)
    entries: list[Entry] = []
    drawn = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 4}
    for number, how in enumerate(({}, {"sampling": {"temperature": 0.0, "max_new_tokens": 4}}, {"sampling": drawn})):
        graded = grade(ctx, seen, said, MODEL, **how)
        grading = GradingConfig.model_validate(how)
        done = replace(about(scored, seen, said, graded, MODEL), grading=grading)
        entries += read_scores(results(ctx.lake, "r", [done], tmp_path / f"{number}", SilentProgress())).entries
        judges = {each["judge"] for (each,) in rows_of(ctx.lake, graded).values()}
        assert judges == {entries[-1].judge}, "grades name it as scores do"
    assert list(dict.fromkeys(each.judge for each in entries)) == [
        f"base@{MODEL.identity} (temperature 0, max_new_tokens 64)",
        f"base@{MODEL.identity} (temperature 0, max_new_tokens 4)",
        f"base@{MODEL.identity} (temperature 1, max_new_tokens 4, top_p 0.9, reasks 2)",
    ]
    assert len(conditions_of(entries)) == 3
    assert [len(shelf.rows) for shelf in shelves_of(entries, [])] == [1, 1, 1], "and no table of results holds two"


def test_scores_say_which_version_of_a_judge_answered(
    ctx: RunContext, made: World, server: FakeEndpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One alias, moved between two checkpoints and while a third is graded; a fourth has nothing to be judged."""
    ctx = replace(ctx, max_quarantined=1.0)
    judge = endpoint(server)
    plain = f"judge-1@{judge.identity}"
    done: list[Evaluated] = []

    def score(name: str, versions: Sequence[str | None], video: dict[str, str]) -> list[Entry]:
        """The checkpoints so far, with another whose questions are its own; replies name the versions in turn."""
        server.reply = lambda _: Said({"model": versions[len(server.calls) % len(versions)], **completion("4")})
        rows = [{**row, "questions": [f"{name}: {row['questions'][0]}"], **video} for row in made.questions()]
        seen = looked_at(ctx, made.scored(rows, **JUDGED, name=f"{name}.json"), MODEL)
        said = answered(ctx, seen, MODEL)
        graded = about(seen.scored, seen, said, grade(ctx, seen, said, judge), judge)
        done.append(replace(graded, checkpoint=name))
        caplog.clear()
        found = read_scores(results(ctx.lake, "r", done, tmp_path / "out", SilentProgress())).entries
        return [each for each in found if each.group == "overall"]

    def warnings() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    (asked_for,) = score("asked", ["judge-1"], {})
    assert asked_for.judge == plain
    assert not warnings()
    done.clear()
    score("old", ["judge-1-0125"], {})
    unjudged = score("unjudged", [None], {"video": "nowhere"})
    assert {each.judge for each in unjudged} == {f"{plain} answered by judge-1-0125"}
    (warned,) = warnings()
    assert "asked for the judge 'judge-1', and its replies name judge-1-0125. To pin" in warned
    entries = score("new", ["judge-1-1106"], {})
    entries = score("mixed", ["judge-1-0125", "judge-1-1106"], {})
    assert {each.checkpoint: each.judge.removeprefix(plain) for each in entries} == {
        "old": " answered by judge-1-0125",
        "unjudged": "",  # Beside which of them it stands cannot be said.
        "new": " answered by judge-1-1106",
        "mixed": " answered by judge-1-0125, judge-1-1106",
    }
    assert len(conditions_of(entries)) == 4, "never one column"
    assert "More than one version has answered" in warnings()[0]
    rows = [row for each in rows_of(ctx.lake, done[0].grades).values() for row in each]
    assert {row["answered_by"] for row in rows} == {"judge-1-0125"}


def test_a_number_of_nothing_is_no_number(ctx: RunContext, made: World, tmp_path: Path) -> None:
    scored = made.scored([{**made.questions()[0], "answer": "x"}, {**made.questions()[0], "id": "b", "video": "no"}])
    seen = looked_at(ctx, scored, MODEL)
    said = answered(ctx, seen, MODEL)
    official = grade(ctx, seen, said, protocol="official")
    done = [Evaluated("mine", scored, "base", MODEL, "official", None, seen.asked.ref, said.ref, official.ref)]
    path = results(ctx.lake, "r", done, tmp_path / "out", SilentProgress())
    overall = read_scores(path).entries[0]
    assert (overall.value, overall.n, overall.left_out, overall.judge) == (0.0, 1, 1, "")
    with pytest.raises(ValueError, match="is no file of scores"):
        read_scores(tmp_path / "nothing.json")
    older = json.loads(path.read_text())
    del older["entries"][0]["limit"]
    path.write_text(json.dumps(older))
    with pytest.raises(ValueError, match=r"'limit'.*older version.*started again"):
        read_scores(path)


def test_scores_say_the_settings_that_are_not_the_benchmarks_own(ctx: RunContext, made: World, tmp_path: Path) -> None:
    chosen = {"prompt": "{question}", "system": "Be short.", "judged_by": "rules"}
    spoken = tmp_path / "spoken"
    spoken.mkdir()
    (spoken / "v_0.srt").write_text("1\n00:00:00,000 --> 00:00:09,000\nHello.\n")
    scored = made.scored(made.questions(), settings=chosen, limit=3, subtitles=str(spoken), name="chosen.json")
    seen = looked_at(ctx, scored, MODEL)
    said = answered(ctx, seen, MODEL)
    official = grade(ctx, seen, said, protocol="official")
    done = [Evaluated("mine", scored, "base", MODEL, "official", None, seen.asked.ref, said.ref, official.ref)]
    one = read_scores(results(ctx.lake, "r", done, tmp_path / "out", SilentProgress())).entries[0]
    assert (one.settings, one.limit, one.n + one.left_out) == ({"system": "Be short.", "subtitles": True}, 3, 3)
