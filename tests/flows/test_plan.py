"""Plans: the walk through the graph, and a plan of the reduced preset by its own stages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, verdict
from prefect.settings import PREFECT_API_URL
from reduced import Place
from typer.testing import CliRunner

from flows.cli import app
from flows.plan import make_plan, sample_of, what_is_done
from flows.presets import load
from flows.walk import NotDoneError, Visit, Walk
from storage.lake import Lake
from tasks.plan import Plan
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageResult

ENDPOINT = "{hosted: {base_url: 'http://127.0.0.1:1/v1', model: m, price_input: 1.0, price_output: 2.0}}"


def result(name: str) -> StageResult:
    counts = {"items": 1, "ok": 1, "quarantined": 0, "reused": 0, "version": 0}
    times = {"seconds": 0.0, "work_seconds": 0.0, "cached": True}
    return StageResult(stage=name, label=None, table="videos", key=name, **counts, **times)


def first(_: Any) -> StageResult:
    return result("first")


def second(_: Any, before: StageResult) -> StageResult:
    assert before.stage == "first"
    return result("second")


def broken(_: Any) -> StageResult:
    raise ValueError("it broke")


def half_done(_: Any) -> StageResult:
    raise NotDoneError(7)


def test_a_failure_costs_only_what_needs_its_stage(tmp_path: Path) -> None:
    pool: Any = None
    walk = Walk(RunContext(str(tmp_path), "walk", pool, SilentProgress(), 1.0, 0))
    good, bad, part = walk(first), walk(broken, label="b"), walk(half_done)
    walk(second, good, after=[bad])
    walk(second, bad, label="of b")
    assert [each.name for each in walk.visits] == ["first", "broken b", "half_done", "second", "second of b"]
    assert [each.fault for each in walk.visits] == [None, "it broke", "not done", None, "broken b was not measured"]
    assert (part.left, walk.visits[3].needs, walk.visits[4].result) == (7, ("first", "broken b"), None)
    assert isinstance(good, Visit)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return Place(tmp_path_factory.mktemp("plan")).overrides("plan")


def test_the_sample_asks_no_endpoint_and_stops_for_no_quality(overrides: list[str], tmp_path: Path) -> None:
    limits = ["audit.max_position_bias=0.1", "audit.max_blind_agreement=0.2"]
    hosted = [f"preferences.endpoints={ENDPOINT}", "arms.0.judge=hosted", "arms.0.method=verdict"]
    whole = load("miniature", [*overrides, *limits, *hosted])
    small = sample_of(whole, tmp_path)
    assert {way.judge for way in small._ways()} == {"local"}
    assert (small.audit.max_position_bias, small.audit.max_blind_agreement, small.audit.min_consistency) == (
        0.5,
        1,
        None,
    )
    assert small.run.lake_root == str(tmp_path / "lake")
    assert small.data.prepare is None
    assert [way.name for way in small.blind_twins()] == [way.name for way in whole.blind_twins()]


def the_longer(call: Call) -> Said:
    """A judge with a will of its own, whatever the order."""
    first, second = (json.loads(answer) for answer in re.findall(r"^Answer [AB]: (.*)$", call.text, re.MULTILINE))
    return verdict("A" if (len(first), first) > (len(second), second) else "B")


def check_sizes(made: Plan) -> None:
    """What the data and the settings fix is exact."""
    assert made.unknown == ["preferences hosted"], [line for line in made.lines if line.note]
    lines = {line.name: line for line in made.lines}
    assert made.counts == {"videos": 32, "clips": 64, "frames": 32 * 22, "sft": 108, "rl": 108, "benchmark": 72}
    sizes = {"frames": 32, "captions": 32, "sft": 3, "candidates rl": 32, "policy hosted": 3, "benchmark sft": 16}
    assert {name: lines[name].to_do for name in sizes} == sizes
    calls = {"captions": 64, "candidates rl": 32 * 4, "benchmark sft": 16 * 2, "preferences hosted": 32 * 12}
    assert {name: lines[name].calls for name in calls} == calls
    assert (lines["preferences hosted"].cost or 0) > 0
    assert made.wall_seconds > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_whose_judge_is_an_endpoint_costs_what_was_planned(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prefect_server: None,  # noqa: ARG001 - it sets the address
) -> None:
    """The whole path: the price told, the run paid, both in the report, and nothing left to pay."""
    place = Place(tmp_path, PREFECT_API_URL.value())
    prices = "price_input: 1000.0, price_output: 1000.0, budget: 100.0, concurrency: 4"
    with FakeEndpoint(the_longer) as server:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        hosted = [
            f"preferences.endpoints={{hosted: {{base_url: '{server.url}', model: m, {prices}}}}}",
            "arms=[{name: hosted, narrative: true, frame_set: judge_2, method: verdict, judge: hosted}]",
            "agreement.conditions=[]",
            "run.workers=1",
            "candidates.n=4",  # Enough for the sample to have answers that differ.
        ]
        p = load("miniature", [*place.overrides("hosted"), *hosted])
        planned = make_plan(p, SilentProgress(), sample=24)
        assert server.calls == [], "a plan calls no endpoint"
        assert not Path(p.run.lake_root).exists(), "a plan leaves nothing behind"
        check_sizes(planned)
        planned.write(p.run.results)
        done = place.run("hosted", *hosted)
        assert done.returncode == 0, done.stderr
        summary = json.loads((p.run.results / "summary.json").read_text())
        stages = {each["name"]: each for each in summary["costs"]["stages"]}
        judged = stages["preferences hosted"]
        assert summary["costs"]["plan"]["same"]
        assert judged["actual"]["calls"] == len(server.calls) <= judged["planned"]["calls"]
        assert judged["actual"]["cost"] == pytest.approx(len(server.calls) * (100 + 10) * 1000 / 1e6)
        for name in ("captions", "candidates rl", "benchmark hosted"):
            assert stages[name]["actual"]["calls"] == stages[name]["planned"]["calls"]
        rows = place.lake("hosted").table("preferences").read(columns=["status", "consistent", "cost"]).to_pylist()
        assert {row["status"] for row in rows} == {"ok"}
        assert all(row["consistent"] for row in rows if row["cost"])

        known = what_is_done(p, SilentProgress())
        assert known["preferences hosted"].result is not None
        assert known["policy hosted"].result is not None


def test_a_lake_that_is_not_there_is_not_made_and_one_without_stages_holds_nothing(
    overrides: list[str], tmp_path: Path
) -> None:
    p = load("miniature", [*overrides, f"run.lake={tmp_path / 'none'}"])
    assert what_is_done(p, SilentProgress()) == {}
    assert not (tmp_path / "none").exists()
    Lake(tmp_path / "empty")
    assert what_is_done(load("miniature", [*overrides, f"run.lake={tmp_path / 'empty'}"]), SilentProgress()) == {}


def test_the_command_shows_the_plan_and_keeps_it(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.expense import Expense
    from tasks.plan import Size, scaled

    spent = Expense(seconds=2.0, calls=10, input_tokens=1000, memory_mib=100.0)
    line = scaled("captions", Size(10, 1000, 1000), spent, 2, ())
    made = Plan({"videos": 1000}, [line], 2, 10, "2 cores", "0" * 16, notes=["a note"])
    monkeypatch.setattr("flows.plan.make_plan", lambda *_, **__: made)
    arguments = ["plan", "--preset", "miniature", *overrides, f"run.folder={tmp_path}"]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "120"})
    assert said.exit_code == 0
    for words in ("1,000 videos", "captions", "100 k", "a note", "with 2 workers"):
        assert words in said.output
    assert json.loads((tmp_path / "plan.json").read_text())["totals"]["wall_seconds"] == made.wall_seconds
