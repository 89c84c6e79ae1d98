"""Benchmarks of pairs: judges and rankers see both answers in both orders, here and over HTTP; reward models one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, completion, verdict
from small import base_model, rows_of, small_run
from toy_benchmark import SETS, Looked, World, looked_at, world
from trained_lake import kept_reward

from miniature.checkpoint import VERDICT_PROMPT
from models.comparisons import Comparison, Verdict
from models.endpoint_settings import JudgeEndpoint
from models.judge import VerdictJudge
from models.settings import RewardForm
from tasks.evaluation.comparers import Comparing
from tasks.evaluation.comparisons import comparisons
from tasks.evaluation.conditions import conditions_of
from tasks.evaluation.config import AnswersConfig, GradingConfig, ScoredBenchmark
from tasks.evaluation.entries import Entry, read_scores
from tasks.evaluation.grades import grades
from tasks.evaluation.price import judge_prices
from tasks.evaluation.results import Evaluated, results
from tasks.evaluation.reward_ref import RewardRef
from tasks.fanout import WorkerPool
from tasks.frames import FramesConfig
from tasks.judge_prompts import JudgePrompts, RankPrompts
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageResult
from tasks.tokens import VisualTokens

MODEL = base_model()
PROMPTS = JudgePrompts(verdict=VERDICT_PROMPT)
GRADING = GradingConfig(prompts=PROMPTS)


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


def triplets(made: World, by: str = "verdict", name: str = "triplets.jsonl", **more: Any) -> ScoredBenchmark:
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
    rows += [{**rows[0], "id": id, **changes} for id, changes in more.items()]
    (made.folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    about = {"files": {"": str(made.folder / name)}, "videos": str(made.videos), "pairs": by}
    return ScoredBenchmark.model_validate({"benchmark": "video_reward_bench", **about})


def compare(ctx: RunContext, seen: Looked, model: Comparing, grading: GradingConfig = GRADING) -> StageResult:
    shown = seen.sampled if isinstance(model, JudgeEndpoint) else seen.tokens
    about = (seen.scored, seen.asked, seen.sampled, shown, model, "judge", "mine")
    return comparisons(ctx, AnswersConfig(shard_size=4), *about, grading)


def overall(
    ctx: RunContext,
    seen: Looked,
    result: StageResult,
    model: Comparing,
    folder: Path,
    grading: GradingConfig = GRADING,
) -> dict[str, Entry]:
    """The numbers over all triplets, by metric."""
    graded = grades(ctx, GradingConfig(), seen.scored, seen.asked, result, None, "strict", "judge", "mine")
    stages = (seen.asked.ref, result.ref, graded.ref)
    done = Evaluated("mine", seen.scored, "judge", model, "strict", None, *stages, grading=grading)
    entries = read_scores(results(ctx.lake, "r", [done], folder / "out", SilentProgress())).entries
    return {each.metric: each for each in entries if each.group == "overall"}


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
    accuracy = overall(ctx, seen, result, judge, tmp_path)["accuracy"]
    assert accuracy.model == f"m@{judge.identity}"
    assert accuracy.value == pytest.approx(8 / 14), "four of seven triplets, in two orders"
    assert accuracy.statuses == {"missing": 2, "no verdict": 4, "ok": 8}


@pytest.mark.parametrize("by", ["verdict", "listwise"])
def test_the_version_of_an_endpoint_that_compares_is_in_its_name(
    ctx: RunContext, made: World, server: FakeEndpoint, tmp_path: Path, by: str
) -> None:
    said = verdict("A").body if by == "verdict" else completion("A > B")
    server.reply = lambda _: Said({**said, "model": "m-0125"})
    seen = looked_at(ctx, triplets(made, by=by, name=f"{by}.jsonl"), MODEL, SETS)
    judge = JudgeEndpoint(base_url=server.url, model="m", retries=0, reasks=0, logprobs="off")
    result = compare(ctx, seen, judge)
    rows = [row for (row,) in rows_of(ctx.lake, result).values() if row["status"] == "ok"]
    assert {row["answered_by"] for row in rows} == {"m-0125"}
    numbers = overall(ctx, seen, result, judge, tmp_path)
    assert numbers["accuracy"].model == f"m@{judge.identity} answered by m-0125"


def test_a_reward_model_scores_each_answer_alone_with_the_texts_that_it_was_trained_with(
    ctx: RunContext, made: World, tmp_path: Path
) -> None:
    form = RewardForm(words=("yes", "no"), question="what ? {question}", prompt="is it correct ?")
    model = RewardRef(MODEL, kept_reward(ctx.lake, MODEL, form))
    same = {"chosen": "A Circle.", "rejected": "a circle"}
    seen = looked_at(ctx, triplets(made, name="rewarded.jsonl", same=same, odd={"chosen": "a <video>"}), MODEL, SETS)
    result = compare(ctx, seen, model)
    assert (result.ok, result.quarantined) == (8, 1)
    found = {item: row for item, (row,) in rows_of(ctx.lake, result).items()}
    kept, reward = VisualTokens(ctx.lake, seen.tokens.ref), model.load(ctx.lake)
    right = 0
    for row in made.questions():
        got, answers = found[row["id"]], (row["answer"], "no")
        prompt = reward.prompt(row["questions"][0], kept.frames(got["video"], "policy"), None)
        good, bad = (reward.score([prompt], [reward.lm.response_ids(each)]).item() for each in answers)
        assert good != bad
        assert got["preferred"] == pytest.approx([1 / (1 + math.exp(bad - good))], abs=1e-4)
        right += good > bad
    assert (found["same"]["preferred"], found["odd"]["preferred"]) == ([0.5], [])
    assert "cannot say" in found["odd"]["replies"][0]
    numbers = overall(ctx, seen, result, model, tmp_path)
    assert set(numbers) == {"accuracy", "accuracy, ties half"}, "it has no orders"
    assert numbers["accuracy"].value == pytest.approx(right / 9)
    assert numbers["accuracy, ties half"].value == pytest.approx((right + 0.5) / 9)
    assert numbers["accuracy"].model == f"base@{model.identity}"
    assert compare(ctx, seen, model).cached
    other = RewardRef(MODEL, kept_reward(ctx.lake, MODEL, RewardForm(words=("yes", "no"))))
    assert compare(ctx, seen, other).key != result.key


def test_a_ranker_is_shown_both_answers_in_both_orders(
    ctx: RunContext, made: World, server: FakeEndpoint, tmp_path: Path
) -> None:
    first, second, third, *_ = [row["questions"][0] for row in made.questions()]

    def reply(call: Call) -> Said:
        a, _ = re.findall(r"^Answer [AB]: (.*)$", call.text, re.MULTILINE)
        if first in call.text:
            return Said(completion("A > B"))  # whatever stands first
        if second in call.text and a == "no":
            return Said(completion("both are fine"))
        return Said(completion("B > A" if a == "no" else "A > B"))

    server.reply = reply
    seen = looked_at(ctx, triplets(made, by="listwise", name="ranked.jsonl"), MODEL, SETS)
    ranker = JudgeEndpoint(base_url=server.url, model="m", retries=0, reasks=1)
    result = compare(ctx, seen, ranker)
    asked = {row["id"]: row["questions"][0] for row in made.questions()}
    for item, question in asked.items():
        ((row,), (expected)) = rows_of(ctx.lake, result)[item], {first: [1, 0], second: [1, math.nan], third: [1, 1]}
        assert row["preferred"] == pytest.approx(expected[question], nan_ok=True)
    numbers = overall(ctx, seen, result, ranker, tmp_path)
    # By video, of the first question one order is right, of the second one, of the third both; and one has no video.
    assert numbers["accuracy"].value == pytest.approx(2 * (1 + 1 + 2) / 14)
    assert numbers["consistent"].value == pytest.approx(2 / 7)
    assert (numbers["accuracy, chosen first"].value, numbers["accuracy, chosen second"].value) == (
        pytest.approx(6 / 7),
        pytest.approx(2 / 7),
    )
    assert numbers["accuracy"].statuses == {"missing": 2, "no verdict": 2, "ok": 10}
    # The miniature has not learned to write orders: nothing is made of what it says.
    here = rows_of(ctx.lake, compare(ctx, seen, MODEL))
    rows = [row for (row,) in here.values() if row["status"] == "ok"]
    assert all(math.isnan(share) for row in rows for share in row["preferred"])
    assert all("no order in 1 attempts" in each for row in rows for each in row["replies"])


def test_scores_say_what_was_asked_about_the_pairs_and_how_the_replies_were_drawn(
    ctx: RunContext, made: World, server: FakeEndpoint, tmp_path: Path
) -> None:
    ranked = {"sampling": {"temperature": 0.5, "max_new_tokens": 8}, "reasks": 1}
    remote = JudgeEndpoint(base_url=server.url, model="m", retries=0, reasks=0, temperature=0.3, max_tokens=9)
    reward = RewardRef(MODEL, kept_reward(ctx.lake, MODEL, RewardForm(words=("yes", "no"))))
    told: dict[str, Entry] = {}
    for name, by, model, changes in (
        ("verdict", "verdict", MODEL, {"prompts": PROMPTS}),
        ("other verdict", "verdict", MODEL, {"prompts": {"verdict": f"{VERDICT_PROMPT} now"}}),
        ("remote", "verdict", remote, {}),
        ("other remote", "verdict", remote, {"prompts": {"endpoint": f"{JudgePrompts().endpoint} Now."}}),
        ("reward", "verdict", reward, {}),
        ("reward again", "verdict", reward, {"prompts": {"verdict": f"{VERDICT_PROMPT} now"}}),
        ("listwise", "listwise", MODEL, ranked),
        ("other listwise", "listwise", MODEL, {**ranked, "ranking": {"listwise": f"{RankPrompts().listwise} Now."}}),
        ("remote listwise", "listwise", remote, ranked),
    ):
        grading = GradingConfig.model_validate(changes)
        seen = looked_at(ctx, triplets(made, by=by, name="told.jsonl"), MODEL, SETS)
        result = compare(ctx, seen, model, grading)
        told[name] = overall(ctx, seen, result, model, tmp_path / name, grading)["accuracy"]
    hashes = {name: each.prompt_hash for name, each in told.items()}
    assert hashes["reward"] == hashes["reward again"], "it is asked by texts of its own"
    assert hashes["listwise"] == hashes["remote listwise"]
    assert len(set(hashes.values())) == 7
    assert len(conditions_of([told["verdict"], told["other verdict"]])) == 2
    decoding = {name: each.decoding for name, each in told.items()}
    assert decoding["verdict"] == decoding["reward"] == {}, "no reply is drawn"
    assert decoding["remote"] == decoding["remote listwise"] == {"temperature": 0.3, "max_new_tokens": 9, "reasks": 0}
    assert decoding["listwise"] == {"temperature": 0.5, "max_new_tokens": 8, "top_p": 1.0, "reasks": 1}


@pytest.mark.parametrize("by", ["verdict", "listwise"])
def test_the_price_of_an_endpoint_that_compares_is_told_without_a_call(
    made: World, server: FakeEndpoint, tmp_path: Path, by: str
) -> None:
    endpoint = JudgeEndpoint(base_url=server.url, model="m", max_tokens=50, image_tokens=100, price_output=4.0)
    grading, scored = GradingConfig(endpoints={"fake": endpoint}), triplets(made, by=by, name="priced.jsonl")
    asked = {"checkpoints": 1, "lake": str(tmp_path / "lake"), "frames": FramesConfig(sets=SETS)}
    (price,) = judge_prices({"mine": scored}, grading, **asked, comparing=["fake"])
    assert (price.calls, price.benchmarks) == (2 * 7, ("mine",)), "both orders of every pair"
    assert price.input_tokens > 14 * 4 * 100, "four pictures a call, and the text"
    assert price.cost == pytest.approx(14 * 50 * 4e-6)
    assert price.most_calls == 14 * 3, "as often as its reasks let it be asked"
    assert price.most_cost == pytest.approx(3 * price.cost)
    (twice,) = judge_prices({"mine": scored}, grading, **asked, comparing=["fake", "fake"])
    assert twice.calls == 2 * price.calls
    likely = triplets(made, by="likelihood", name="priced.jsonl")
    assert judge_prices({"mine": likely}, grading, **asked, comparing=["fake"]) == []
    assert not server.calls
