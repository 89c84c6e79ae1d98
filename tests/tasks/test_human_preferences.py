"""The stage `preferences` with people as its judge: real frames, a real lake, the real page over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from at_the_page import AtThePage, Shown, prefers, served
from pydantic import ValidationError
from small import committed, keep_scenes, picture, rows_of, scenes

from flows.walk import NotDoneError, NoWork
from miniature.lessons import FRAMES
from miniature.world import render
from models.human_judge import Person
from models.templates import shipped
from tasks.fanout import WorkerPool
from tasks.human_desk import Desk, desk_path
from tasks.human_page import JudgingPage
from tasks.human_server import JudgingServer
from tasks.judge_human import JPEG_QUALITY, MAX_SIDE
from tasks.pictures import black_pictures, jpeg
from tasks.preferences import PreferencesConfig, preferences
from tasks.progress import SilentProgress
from tasks.rankings import RankingsConfig
from tasks.stage import RunContext, StageError, StageResult

VIDEOS = scenes(2)
ONE, TWO = VIDEOS
GOOD, BAD, WORSE = "it is a circle.", "it is a square.", "no idea."
NARRATIVE = "a red circle grows.\na blue cross <b>shrinks</b>."


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[RunContext]:
    """Ray starts only for what has to be written: where people have still to be asked, it never does."""
    with WorkerPool(1) as unstarted:
        yield RunContext(str(tmp_path / "lake"), "test", unstarted, SilentProgress(), max_quarantined=0.9, seed=0)


def config(**changes: Any) -> PreferencesConfig:
    options = {"judge": "human", "narrative": False, "frame_set": "judge_2", "shard_size": 2}
    return PreferencesConfig.model_validate({**options, **changes})


def row(item: str, **content: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0, **content}


def answers(item: str, video: str, *texts: str) -> list[dict[str, Any]]:
    about = {"instruction": item, "video": video, "question": f"what is first in {item}?", "finished": True}
    return [row(item, candidate=number, text=text, n_tokens=5, **about) for number, text in enumerate(texts)]


def sampled(ctx: RunContext, *groups: list[dict[str, Any]], key: str = "candidates0") -> StageResult:
    return committed(ctx.lake.table("candidates"), [each for group in groups for each in group], key)


def judge(
    ctx: RunContext,
    candidates: StageResult,
    chosen: PreferencesConfig | None = None,
    captions: StageResult | None = None,
    arm: str = "arm",
) -> StageResult:
    frames = keep_scenes(ctx.lake, VIDEOS, {"gone.mp4": "it vanished while the run was reading it"})
    return preferences(ctx, chosen or config(), candidates, frames, captions, Person(), arm)


def desk(ctx: RunContext) -> Desk:
    return Desk(desk_path(ctx.lake_root))


@contextmanager
def page(ctx: RunContext, arm: str | None = None) -> Iterator[AtThePage]:
    with served(JudgingServer(JudgingPage(ctx.lake, desk(ctx), arm, "ann"))) as address:
        yield AtThePage(address)


def waits(pairs: str, arm: str = "arm") -> Any:
    said = rf"{pairs} for a person, in arm '{arm}'\. Judge them with `rlaif judge .*lake`; then the same command again"
    return pytest.raises(StageError, match=said)


@pytest.mark.slow
def test_what_people_say_at_the_page_becomes_rows_and_is_asked_once(ctx: RunContext, pool: WorkerPool) -> None:
    ctx.pool = pool
    groups = [answers("one", ONE, BAD, GOOD, WORSE), answers("equal", TWO, GOOD, GOOD)]
    groups += [answers("vanished", "gone.mp4", GOOD, BAD), answers("single", ONE, GOOD)]
    with waits("3 pairs wait"):
        judge(ctx, sampled(ctx, *groups))
    assert ctx.lake.table("preferences").read().num_rows == 0
    with page(ctx) as person:
        assert person.shown.left == "6 of 6 left"
        assert person.go_on(prefers(GOOD), most=3) == 3
    with waits("3 pairs wait"):
        judge(ctx, sampled(ctx, *groups))
    with page(ctx) as person:
        assert person.shown.left == "3 of 6 left"
        person.go_on(prefers(GOOD))
        assert "Now give the command again that sent you here (run test)" in " ".join(person.shown.html.split())
    result = judge(ctx, sampled(ctx, *groups))
    assert (result.items, result.ok, result.quarantined) == (4, 2, 2)
    rows = rows_of(ctx.lake, result)
    assert "gone.mp4 has no frames" in rows["vanished"][0]["reason"]
    assert "a pair needs two" in rows["single"][0]["reason"]
    assert [(each["preferred"], each["p_a"], each["consistent"]) for each in rows["one"]] == [
        ("b", 0.0, True),
        ("tie", 0.5, True),
        ("a", 1.0, True),
    ]
    assert [(each["preferred"], each["p_a"], each["consistent"]) for each in rows["equal"]] == [("tie", 0.5, None)]
    first = rows["one"][0]
    assert (first["p_a_first"], first["p_a_second"], first["model"]) == (0.0, 0.0, "human")
    assert (first["reply_first"], first["reply_second"], first["reason_second"]) == ("B", "A", "it is right")
    assert first["latency_s"] >= 0
    assert (first["cost"], first["input_tokens"]) == (None, None)
    assert {each.who for each in desk(ctx).said().values()} == {"ann"}
    assert judge(ctx, sampled(ctx, *groups)).cached

    # Another version of the candidates: only what nobody was asked about waits.
    more = [*groups, answers("two", TWO, BAD, GOOD)]
    with waits("1 pair waits"):
        judge(ctx, sampled(ctx, *more, key="candidates1"))
    with page(ctx) as person:
        assert person.go_on(lambda _: ("A", "")) == 2
    result = judge(ctx, sampled(ctx, *more, key="candidates1"))
    (two,) = rows_of(ctx.lake, result)["two"]
    assert (two["preferred"], two["p_a"], two["p_a_first"], two["p_a_second"]) == ("tie", 0.5, 1.0, 0.0)
    assert (two["consistent"], two["reason_first"]) == (False, None)


@pytest.mark.slow
def test_what_nobody_can_tell_is_quarantined_with_their_reason_and_can_be_asked_again(
    ctx: RunContext, pool: WorkerPool
) -> None:
    ctx.pool = pool
    candidates = sampled(ctx, answers("one", ONE, GOOD, BAD, WORSE), answers("two", TWO, GOOD, BAD))

    def opinion(shown: Shown) -> tuple[str, str]:
        return ("cannot", "too  dark\n") if "one" in shown.question else prefers(GOOD)(shown)

    with waits("4 pairs wait"):
        judge(ctx, candidates)
    with page(ctx) as person:
        assert person.go_on(opinion) == 3, "one answer decides the instruction; its other pairs need nobody"
    result = judge(ctx, candidates)
    rows = rows_of(ctx.lake, result)
    assert (rows["one"][0]["status"], rows["two"][0]["preferred"]) == ("quarantined", "a")
    assert rows["one"][0]["reason"].endswith("a person was asked and could not tell: too dark")
    ctx.retries = 1
    assert judge(ctx, candidates).quarantined == 1, "nobody is asked again unasked"
    ctx.retries = 2
    assert desk(ctx).ask_again() == 1
    with waits("3 pairs wait"):
        judge(ctx, candidates)
    with page(ctx) as person:
        assert person.go_on(prefers(GOOD)) == 6
    again = judge(ctx, candidates)
    assert (again.ok, again.reused) == (2, 1)


def test_the_page_shows_the_frames_the_narrative_and_the_criteria(ctx: RunContext) -> None:
    captions = committed(ctx.lake.table("captions"), [row(ONE, video=ONE, narrative=NARRATIVE)], "captions0")
    candidates = sampled(ctx, answers("one", ONE, GOOD, BAD))
    with waits("1 pair waits", "told"):
        judge(ctx, candidates, config(narrative=True), captions, "told")
    frames = render(VIDEOS[ONE])[list(FRAMES["2"])]
    files = tuple(jpeg(picture(frame), MAX_SIDE, JPEG_QUALITY) for frame in frames)
    with page(ctx) as person:
        shown = person.shown
        assert shown.pictures == list(files)
        assert shown.captions == [f"frame at 0:{place / 8:04.1f}" for place in FRAMES["2"]]
        assert (shown.question, {*shown.answers}) == ("what is first in one?", {GOOD, BAD})
        assert shown.texts["said"] == NARRATIVE
        assert shown.texts["asked"] == shipped("judge_human_context")
    with waits("1 pair waits", "blind"):
        judge(ctx, candidates, config(blind=True), arm="blind")
    with page(ctx, "blind") as person:
        assert person.shown.pictures == list(black_pictures(files))
        assert "black on purpose" in person.shown.html


@pytest.mark.parametrize("context", ["", "_context"])
def test_people_and_endpoints_judge_by_the_same_criteria(context: str) -> None:
    lines = [
        [line for line in shipped(f"judge_{who}{context}").splitlines() if line[:2] in ("1.", "2.", "3.", "4.")]
        for who in ("human", "endpoint")
    ]
    assert len(lines[0]) == 4
    assert lines[0] == lines[1]


def test_both_orders_are_shown_far_apart_and_in_an_order_that_tells_nothing(ctx: RunContext) -> None:
    pairs = 24
    candidates = sampled(ctx, *(answers(f"{number:02}", ONE, GOOD, BAD) for number in range(pairs)))
    with waits(f"{pairs} pairs wait"):
        judge(ctx, candidates)
    seen: list[tuple[str, bool]] = []

    def remember(shown: Shown) -> tuple[str, str]:
        seen.append((shown.question, shown.answers == (GOOD, BAD)))
        return "tie", ""

    with page(ctx) as person:
        person.go_on(remember)
    questions, firsts = zip(*seen, strict=True)
    assert questions[:pairs] == questions[pairs:], "each pair once before any a second time"
    assert len(set(questions)) == pairs
    assert [*questions[:pairs]] not in (sorted(questions[:pairs]), sorted(questions[:pairs], reverse=True))
    assert all(one != other for one, other in zip(firsts[:pairs], firsts[pairs:], strict=True))
    assert 4 < sum(firsts[:pairs]) < pairs - 4, "which order comes first is drawn"


def test_arms_that_ask_the_same_share_what_is_said_and_an_arm_can_be_judged_alone(ctx: RunContext) -> None:
    both, more = answers("one", ONE, GOOD, BAD), answers("two", TWO, GOOD, BAD)
    with waits("1 pair waits"):
        judge(ctx, sampled(ctx, both))
    with waits("2 pairs wait", "other"):
        judge(ctx, sampled(ctx, both, more, key="candidates1"), arm="other")
    kept = desk(ctx)
    assert [kept.left(arm).waiting for arm in ("arm", "other", None)] == [2, 4, 4]
    with page(ctx, "arm") as person:
        assert person.go_on(prefers(GOOD)) == 2
    assert [kept.left(arm).waiting for arm in ("arm", "other", None)] == [0, 2, 2]
    # What an arm no longer asks for waits no longer.
    with waits("1 pair waits", "other"):
        judge(ctx, sampled(ctx, answers("three", TWO, GOOD, BAD), key="candidates2"), arm="other")
    assert kept.left("other").waiting == 2


def test_a_run_that_only_looks_counts_what_is_left_and_bothers_nobody(ctx: RunContext) -> None:
    ctx.looks_only, looking = True, NoWork()
    ctx.pool = looking  # type: ignore[assignment]
    with pytest.raises(NotDoneError) as seen:
        judge(ctx, sampled(ctx, answers("one", ONE, GOOD, BAD), answers("two", TWO, GOOD, BAD)))
    assert seen.value.left == 2
    assert not desk_path(ctx.lake_root).exists()


def test_the_key_of_the_stage_holds_what_is_asked_and_no_setting_of_other_judges() -> None:
    assert (config().person, config().endpoint, Person().identity) == (Person(), None, "human")
    assert set(config().asked) == {"human"}
    assert set(config(narrative=True).asked) == {"human_context"}
    assert config(prompts={"human": "Which?"}).asked != config().asked
    assert config(batch_size=3, tie_margin=0.5, min_choice_mass=0, reduction="mean").decisive() == config().decisive()


def test_what_people_cannot_do_is_refused_before_a_run_exists() -> None:
    with pytest.raises(ValidationError, match="is a person, who gives no method 'likelihood': use verdict"):
        config(method="likelihood")
    for name in ("human", "local"):
        endpoint = {name: {"base_url": "https://host/v1", "model": "m"}}
        with pytest.raises(ValidationError, match=f"cannot be called '{name}', which is the name of another judge"):
            PreferencesConfig.model_validate({"endpoints": endpoint})
    with pytest.raises(ValidationError, match="asks models, not 'human'"):
        RankingsConfig.model_validate({"method": "tournament", "judging": {"judge": "human"}})
    with pytest.raises(ValidationError, match="human"):
        config(prompts={"human": ""})
