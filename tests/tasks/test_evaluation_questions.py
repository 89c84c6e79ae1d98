"""The items of a benchmark as rows, through real files, videos and workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small import base_model, rows_of, small_run
from toy_benchmark import World, world

from storage.errors import FormatError
from tasks.evaluation.config import ScoredBenchmark
from tasks.evaluation.entries import read_scores
from tasks.evaluation.items import asked_rows, item_of
from tasks.evaluation.questions import questions
from tasks.evaluation.results import Evaluated, results
from tasks.evaluation.sections import check_places
from tasks.fanout import WorkerPool
from tasks.progress import SilentProgress
from tasks.stage import QuarantineError, RunContext, StageError, StageResult
from tasks.videos import VideosConfig, videos

pytestmark = pytest.mark.usefixtures("toy")


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"))


def ask(ctx: RunContext, scored: ScoredBenchmark) -> StageResult:
    return questions(ctx, scored, videos(ctx, VideosConfig(folder=scored.folder)), "mine")


def test_items_come_back_as_the_file_has_them_and_in_its_order(ctx: RunContext, made: World) -> None:
    rows = [*reversed(made.questions())]
    rows[0] |= {"options": ["a", rows[0]["answer"]], "window": [0.5, 1.5], "aspects": ["one", "two"]}
    scored = made.scored(rows)
    found = asked_rows(ctx.lake, ask(ctx, scored).ref)
    assert [item_of(row) for row in found] == list(scored.made.read(scored.places).items)
    assert {row["video"] for row in found} == set(made.scenes), "bound to the files of the folder"
    assert ask(ctx, scored).cached


def test_rows_that_are_no_items_and_items_without_a_video_are_counted_by_kind(ctx: RunContext, made: World) -> None:
    rows = made.questions()
    rows += [{**rows[0], "id": "silent", "answer": ""}, rows[1], {**rows[0], "id": "blind", "video": "nowhere"}]
    result = ask(ctx, made.scored(rows))
    assert (result.items, result.ok, result.quarantined) == (9, 7, 2)
    found = rows_of(ctx.lake, result)
    reasons = sorted(each["reason"] for (each,) in found.values() if each["status"] == "quarantined")
    assert [reason.split(":")[0] for reason in reasons] == ["duplicate", "no answer"]
    (blind,) = found["blind"]
    assert blind["status"] == "ok"
    assert blind["reason"].startswith("no video: video nowhere: not among the readable videos")


def test_too_many_missing_videos_stop_the_run_before_anything_is_decoded(ctx: RunContext, made: World) -> None:
    rows = [{**row, "video": f"x{row['video']}"} if row["id"].startswith("v_1") else row for row in made.questions()]
    strict = replace(ctx, max_quarantined=0.4)
    with pytest.raises(QuarantineError, match=r"3 of 6 rows cannot be asked.*correct the folder or video_prefix"):
        ask(strict, made.scored(rows))


def test_a_prefix_finds_videos_that_are_called_otherwise(ctx: RunContext, made: World) -> None:
    rows = [{**row, "video": row["video"].removeprefix("v_")} for row in made.questions()]
    found = asked_rows(ctx.lake, ask(ctx, made.scored(rows, video_prefix="v_")).ref)
    assert {row["video"] for row in found} == set(made.scenes)
    assert not any(row["reason"] for row in found)


def test_a_limit_takes_the_same_items_always(ctx: RunContext, made: World) -> None:
    def chosen(rows: list[dict[str, Any]], limit: int) -> set[str]:
        return {row["item_id"] for row in asked_rows(ctx.lake, ask(ctx, made.scored(rows, limit=limit)).ref)}

    rows = made.questions()
    three = chosen(rows, 3)
    assert len(three) == 3
    assert chosen([*reversed(rows)], 3) == three
    assert three < chosen(rows, 4)


def test_what_the_file_says_and_the_settings_name_the_stage(ctx: RunContext, made: World, tmp_path: Path) -> None:
    rows = made.questions()
    plain = ask(ctx, made.scored(rows)).key
    assert ask(ctx, made.scored(rows, name="moved.json")).key == plain
    assert ask(ctx, made.scored(rows[1:])).key != plain
    assert ask(ctx, made.scored(rows, settings={"prompt": "say: {question}"})).key != plain
    (tmp_path / "srt").mkdir()
    (tmp_path / "srt" / "v_0.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    assert ask(ctx, made.scored(rows, subtitles=str(tmp_path / "srt"))).key != plain


def test_subtitles_that_are_not_there_are_told_or_refused(
    ctx: RunContext, made: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = "1\n00:00:00,000 --> 00:00:01,000\nhello\n"
    nested = tmp_path / "srt" / "en"
    nested.mkdir(parents=True)
    (nested / "v_0.srt").write_text(f"{line}\n2\nno times\n\n3\nnone\n")
    with pytest.raises(StageError, match=r"none of its 2 videos has subtitles in \S+/srt, where the first .* v_0\.srt"):
        ask(ctx, made.scored(made.questions(), subtitles=str(tmp_path / "srt")))
    scored = made.scored(made.questions(), subtitles=str(nested))
    asked = ask(ctx, scored)
    assert "1 of 2 videos have no subtitles" in caplog.text
    assert "of the others, 2 blocks are broken" in caplog.text
    unasked = StageResult.model_validate({**asked.model_dump(), "table": "predictions", "key": "0" * 16})
    about = Evaluated("mine", scored, "base", base_model(), "strict", None, asked.ref, unasked.ref, unasked.ref)
    (first, *_) = read_scores(results(ctx.lake, "r", [about], tmp_path / "out", SilentProgress())).entries
    assert first.faults == {"broken subtitles": 2, "no subtitles": 1}


def test_a_protocol_that_needs_a_judge_says_so_before_anything_is_answered(ctx: RunContext, made: World) -> None:
    scored = made.scored(made.questions(), settings={"judged_by": "model"})
    with pytest.raises(StageError, match="asks a judge by its protocol 'official', and none is named"):
        ask(ctx, scored)
    ask(ctx, scored.model_copy(update={"judge": "local"}))


def test_a_file_that_cannot_be_read_is_named(ctx: RunContext, made: World) -> None:
    scored = made.scored(made.questions())
    (made.folder / "toy.json").write_text('[{"id": "1",},]')
    with pytest.raises(FormatError, match=r"toy\.json: not JSON.*comma before a closing bracket"):
        ask(ctx, scored)
    (made.folder / "toy.json").unlink()
    with pytest.raises(FormatError, match=r"cannot be read .*correct files of mine"):
        ask(ctx, scored)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"benchmark": "unheard"}, "There is no benchmark 'unheard'"),
        ({"protocols": ["lenient"]}, "toy has no protocol 'lenient'; it knows official, strict"),
        ({"files": {"answers": "a.json"}}, "toy has no file 'answers'; it reads '': a JSON list"),
        ({"settings": {"colour": 1}}, "has no setting 'colour'"),
        ({"benchmark": "videomme", "settings": {"subtitles": True}}, "their folder .subtitles. and settings.subtitles"),
        ({"benchmark": "videomme", "subtitles": "srt"}, "their folder .subtitles. and settings.subtitles"),
    ],
)
def test_a_bad_setting_is_refused(made: World, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        made.scored([], **wrong)


def test_files_and_videos_that_are_not_there_are_named_before_a_run(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    file = tmp_path / "questions.jsonl"
    given: dict[str, Any] = {"benchmark": "custom", "files": {"": str(file)}, "videos": str(tmp_path / "videos")}
    with pytest.raises(ValueError, match=rf"benchmark 'scenes': there is no {file}: correct its files ''"):
        check_places({"scenes": ScoredBenchmark(**given)})
    file.touch()
    check_places({"scenes": ScoredBenchmark(**given)})
    with pytest.raises(ValueError, match="correct its videos"):
        check_places({"scenes": ScoredBenchmark(**{**given, "videos": str(tmp_path / "gone")})})
