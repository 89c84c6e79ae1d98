"""Grades that no worker lived to give: wrong under strict, as a judge that failed elsewhere, and always counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, completion
from small import base_model, small_run
from test_report import plain
from toy_benchmark import CRASH, World, answered, looked_at, world

from benchmarks.benchmark import Benchmark
from benchmarks.items import Item, Prediction
from benchmarks.metrics import Metric
from benchmarks.registry import benchmark
from models.endpoint_settings import JudgeEndpoint
from tasks.evaluation.config import GradingConfig
from tasks.evaluation.entries import Entry, Scores, read_scores
from tasks.evaluation.grades import grades
from tasks.evaluation.items import graded_items
from tasks.evaluation.page import evaluation_page
from tasks.evaluation.results import Evaluated, results
from tasks.fanout import WorkerPool
from tasks.progress import SilentProgress

pytestmark = pytest.mark.usefixtures("toy")
MODEL = base_model()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"))


def test_a_grade_that_is_quarantined_is_in_the_number_and_on_the_page(
    pool: WorkerPool, made: World, tmp_path: Path
) -> None:
    ctx = small_run(pool, tmp_path / "lake")
    rows = made.questions()
    rows[0] |= {"answer": "crash", "aspects": ["one", "two"]}
    scored = made.scored(rows, settings={"judged_by": "model"}, judge="fake", name="failed.json")
    seen = looked_at(ctx, scored, MODEL)
    said = answered(ctx, seen, MODEL)
    done = []

    def reply(call: Call) -> Said:
        return Said(completion(CRASH if " A: crash " in str(call.body["messages"][-1]["content"]) else "4"))

    with FakeEndpoint(reply) as server:
        judge = JudgeEndpoint(base_url=server.url, model="judge-1", retries=0)
        for protocol in ("official", "strict"):
            about = (seen.asked, said, judge, protocol, "base", "mine")
            graded = grades(ctx, GradingConfig(shard_size=4), scored, *about)
            assert (graded.ok, graded.quarantined) == (5, 1)
            stages = (seen.asked.ref, said.ref, graded.ref)
            done.append(Evaluated("mine", scored, "base", MODEL, protocol, judge, *stages, n_frames=4))
    found = read_scores(results(ctx.lake, "r", done, tmp_path / "out", SilentProgress()))
    official, strict = (overall(found.entries, protocol) for protocol in ("official", "strict"))
    assert (official.value, official.n, official.left_out) == (1.0, 5, 2)
    assert (strict.value, strict.n, strict.left_out) == (pytest.approx(5 / 7), 7, 0)
    for one in (official, strict):
        assert one.statuses == {"no verdict": 2, "ok": 5}
        assert one.faults == {"not graded: RuntimeError": 1}, "of one item, however many aspects it has"
    page = evaluation_page(ctx.lake, Scores("r", found.entries), tmp_path / "out")
    text = plain(page.read_text())
    assert "could not be asked or graded: 1 not graded: RuntimeError" in text
    assert f"1 × RuntimeError: {CRASH}" in text
    assert "or the grading of it failed" in text
    assert text.count(rows[0]["id"]) >= 2, "it is shown as an example of either protocol"


def overall(entries: Sequence[Entry], protocol: str) -> Entry:
    return next(each for each in entries if (each.protocol, each.group) == (protocol, "overall"))


QA = {"question": "who?", "answer": "a dog", "video_name": "v", "question_id": "1"}
SCORES = {"Q": "who?", "A": "a dog", "video_name": "v"}
CAPTION = {"question": "Caption:", "answer": "A. up", "mc_question": "What?\nA. up\nB. down", "mc_answer": "A. up"}


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        (
            "activitynet_qa",
            {"questions": [QA]},
            # Video-ChatGPT's script and those that go back to it ask for a verdict until there is one: in no number.
            {"official": None, "video_llava": None, "vlm_rlaif": None, "lmms_eval": None, "llava_hound": None}
            | {"strict": 0.0},
        ),
        ("video_chatgpt", {"generic": [SCORES]}, {"official": None, "vlm_rlaif": None, "lmms_eval": 0.0, "strict": 0}),
        (
            "tempcompass",
            {"captioning": {"1": {"action": [CAPTION]}}},
            # The scripts sum a rating of -1 for a caption about which the judge says nothing.
            {"official": -1.0, "vlmevalkit": -1.0, "lmms_eval": 0.0, "strict": 0.0},
        ),
        (
            "tempcompass",
            {"yes_no": {"1": {"action": [{"question": "up?", "answer": "yes"}]}}},
            {"official": 0.0, "vlmevalkit": 0.0, "lmms_eval": 0.0, "strict": 0.0},
        ),
    ],
)
def test_each_protocol_takes_it_as_a_judge_that_failed(
    name: str, files: dict[str, Any], expected: dict[str, float | None], tmp_path: Path
) -> None:
    made = benchmark(name)
    for key, rows in files.items():
        (tmp_path / f"{key}.json").write_text(json.dumps(rows))
    (item,) = made.read({key: tmp_path / f"{key}.json" for key in files}).items
    assert {protocol: first_number(made, item, protocol) for protocol in made.protocols} == expected


def first_number(made: Benchmark, item: Item, protocol: str) -> float | None:
    """The first metric over an item whose grade is quarantined; None where it is left out, and counted so."""
    lost = {"item_id": item.id, "status": "quarantined", "question": None, "aspect": None}
    said = {item.id: Prediction(("up",))}
    first: Metric = made.metrics(graded_items([item], said, [lost], protocol), protocol)[0]
    assert first.n + first.left_out == 1
    return first.value if first.n else None
