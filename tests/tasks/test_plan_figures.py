"""The arithmetic of plans, and what endpoints will cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.answers import Answer
from models.endpoint import Ticket
from models.endpoint_settings import JudgeEndpoint
from storage.lake import Lake
from tasks.expense import Expense
from tasks.ledger import SqliteLedger, ledger_path
from tasks.plan import PLAN, Line, Plan, Size, digest, evenly, in_the_lake, scaled
from tasks.plan_endpoint import priced
from tasks.preferences import PreferencesConfig
from tasks.stage import StageRef

SPENT = Expense(load_seconds=3.0, seconds=8.0, calls=32, input_tokens=640, output_tokens=64, memory_mib=500.0)
ENDPOINT = JudgeEndpoint(
    base_url="http://judge.example/v1", model="judge", price_input=1.0, price_output=10.0, concurrency=4,
    image_tokens=100, max_tokens=50, reasks=1,
)  # fmt: skip


def a_plan(*lines: Line, workers: int = 2, price_per_hour: float | None = None) -> Plan:
    return Plan({"videos": 4}, list(lines), workers, 16, "2 cores", "0" * 16, price_per_hour)


def test_items_scale_what_they_cost_but_not_the_loading() -> None:
    line = scaled("captions", Size(sampled=16, items=160, to_do=80, shards=10), SPENT, 2, ())
    assert (line.calls, line.input_tokens, line.output_tokens) == (160, 3200, 320)
    assert line.seconds == 8.0 * 5 + 2 * 3.0
    assert line.wall_seconds == 8.0 * 5 / 2 + 3.0
    assert (line.memory_mib, line.on_gpu) == (500.0, False)


def test_one_shard_keeps_one_worker_busy() -> None:
    line = scaled("captions", Size(sampled=16, items=16, to_do=16, shards=1), SPENT, 8, ())
    assert line.wall_seconds == line.seconds == 8.0 + 3.0


def test_a_training_scales_its_steps_and_pays_the_rest_once() -> None:
    spent = replace(SPENT, seconds=9.0, steps=3, step_seconds=6.0)  # The fourth, the first one, warmed up.
    line = scaled("sft", Size(sampled=4, items=100, to_do=100, training=True), spent, 2, ())
    assert line.seconds == pytest.approx((9.0 - 4 * 2.0) + 100 * 2.0 + 3.0)
    assert line.wall_seconds == line.seconds


def test_memory_of_the_gpu_is_told_where_there_is_one() -> None:
    line = scaled("sft", Size(4, 4, 4, training=True), replace(SPENT, gpu_mib=900.0), 1, ())
    assert (line.memory_mib, line.on_gpu) == (900.0, True)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6), st.integers(1, 4))
def test_the_whole_takes_its_longest_chain_or_the_work_shared(times: list[float], workers: int) -> None:
    names = [f"stage {place}" for place in range(len(times))]
    chain = [
        Line(name, 1, 1, seconds=each, wall_seconds=each, needs=tuple(names[place - 1 : place]))
        for place, (name, each) in enumerate(zip(names, times, strict=True))
    ]
    alone = [replace(line, needs=()) for line in chain]
    assert a_plan(*chain, workers=workers).wall_seconds == pytest.approx(sum(times))
    assert a_plan(*alone, workers=workers).wall_seconds == pytest.approx(max(sum(times) / workers, *times))


def test_what_the_lake_holds_costs_nothing() -> None:
    line = in_the_lake("frames", 100, ("videos",))
    assert (line.to_do, line.calls, line.seconds) == (0, 0, 0.0)
    assert a_plan(line).unknown == []


def test_a_stage_that_was_not_measured_is_said_to_be_missing_in_the_sum() -> None:
    assert a_plan(Line("policy a", 60, 60, note="it failed")).unknown == ["policy a"]


def test_money_is_that_of_endpoints_and_of_machines() -> None:
    asked = Line("a", 1, 1, cost=2.0, cost_bound=5.0, account="x", seconds=3600.0, wall_seconds=3600.0)
    assert a_plan(asked, Line("b", 1, 1), price_per_hour=1.5).cost == pytest.approx(2.0 + 1.5)
    assert a_plan(asked, Line("b", 1, 1)).cost_bound == 5.0
    assert a_plan(asked, replace(asked, name="b")).cost_bound == 5.0, "they share the budget of one account"
    assert a_plan(asked, replace(asked, name="b", account="y")).cost_bound == 10.0
    assert a_plan(asked, replace(asked, name="b", account="y", cost_bound=None)).cost_bound is None
    assert a_plan(Line("b", 1, 1)).cost_bound is None


def test_a_plan_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = a_plan(scaled("sft", Size(4, 100, 100, training=True), SPENT, 2, ("frames",)), price_per_hour=2.0)
    made.write(tmp_path)
    assert Plan.read(tmp_path) == made


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"lines": 3}', '{"lines": [{"unknown": 1, "needs": []}]}'])
def test_no_plan_or_a_damaged_one_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / PLAN).write_text(text)
    assert Plan.read(tmp_path) is None


def test_the_digest_ignores_what_costs_nothing() -> None:
    one = {"run": {"name": "a", "workers": 2, "gpus_per_worker": 0}, "sft": {"steps": 3}, "report": {"pairs": 1}}
    renamed = {**one, "run": {**one["run"], "name": "b"}, "report": {"pairs": 2}}
    assert digest(renamed) == digest(one)
    assert digest({**one, "sft": {"steps": 4}}) != digest(one)
    assert digest({**one, "run": {**one["run"], "workers": 3}}) != digest(one)


@given(st.integers(0, 200), st.integers(1, 50))
def test_evenly_takes_distinct_numbers_in_order(total: int, wanted: int) -> None:
    chosen = list(evenly(total, wanted))
    assert len(chosen) == min(total, wanted)
    assert chosen == sorted(set(chosen))
    assert all(0 <= each < total for each in chosen)


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Lake, StageRef]:
    """A sampled pair: 26 bytes of texts and 10 of narrative."""
    lake = Lake(tmp_path / "sample")
    row = {
        "item_id": "q", "instruction": "q", "video": "v", "question": "q" * 10, "a": 0, "b": 1, "answer_a": "a" * 8,
        "answer_b": "b" * 8, "narrative": "n" * 10, "p_a": 0.5, "preferred": "tie", "status": "ok", "item_key": "k",
        "run": "r", "seed": 0, "method": "verdict", "frame_set": "judge", "with_narrative": True, "arm": "a",
    }  # fmt: skip
    lake.table("preferences").commit_shard([row], stage_key="key", shard=0)
    return lake, StageRef("preferences", "preferences", "key", 1)


def judged_by(endpoint: JudgeEndpoint) -> PreferencesConfig:
    return PreferencesConfig(judge="hosted", endpoints={"hosted": endpoint}, narrative=True, method="verdict")


def test_an_endpoint_never_asked_is_priced_by_its_settings(pairs: tuple[Lake, StageRef], tmp_path: Path) -> None:
    config = judged_by(replace(ENDPOINT, requests_per_minute=600))
    line = priced(Line("p", 10, 10), 120, *pairs, config, 3, str(tmp_path / "lake"))
    text = len(config.asked[config.prompt_name].encode()) + 36
    assert line.calls == 120
    assert line.input_tokens == pytest.approx(120 * (300 + text / 4), abs=120)
    assert line.output_tokens == 120 * 50
    assert line.seconds == 12.0
    assert line.cost == pytest.approx(ENDPOINT.price(line.input_tokens or 0, line.output_tokens or 0), rel=0.01)
    assert line.cost_bound is None
    assert "a budget bounds them" in (line.note or "")
    assert "no call yet" in (line.note or "")
    assert not ledger_path(str(tmp_path / "lake")).exists()


def test_earlier_calls_tell_what_one_costs(pairs: tuple[Lake, StageRef], tmp_path: Path) -> None:
    root = str(tmp_path / "lake")
    ledger = SqliteLedger(ledger_path(root), ENDPOINT)
    for place in range(2):
        ticket = ledger.begin(f"call {place}", 1.0)
        assert isinstance(ticket, Ticket)
        ledger.end(ticket, 0.5, f"call {place}", Answer("A", None, False, [], 900 + 200 * place, 20, 2.0, 0.5))
    ledger.close()
    line = priced(Line("p", 10, 10), 100, *pairs, judged_by(ENDPOINT), 3, root)
    assert (line.input_tokens, line.output_tokens) == (100_000, 2_000)
    assert line.cost == pytest.approx(100 * (1000 * 1.0 + 20 * 10.0) / 1e6)
    assert line.seconds == 100 * 2.0 / 4
    assert "as in 2 earlier calls" in (line.note or "")


def test_a_budget_bounds_the_price_by_what_is_left_of_it(pairs: tuple[Lake, StageRef], tmp_path: Path) -> None:
    root, limited = str(tmp_path / "lake"), replace(ENDPOINT, budget=3.0)
    assert priced(Line("p", 1, 1), 10**6, *pairs, judged_by(limited), 3, root).cost_bound == 3.0
    ledger = SqliteLedger(ledger_path(root), limited)
    ledger.begin("a call", 1.0)
    ledger.close()
    assert priced(Line("p", 1, 1), 10**6, *pairs, judged_by(limited), 3, root).cost_bound == 2.0


def test_an_endpoint_without_prices_is_said_to_have_none(pairs: tuple[Lake, StageRef], tmp_path: Path) -> None:
    free = replace(ENDPOINT, price_input=0.0, price_output=0.0)
    line = priced(Line("p", 1, 1), 10, *pairs, judged_by(free), 3, str(tmp_path / "lake"))
    assert "set price_input" in (line.note or "")
    assert "not in it: replies without a verdict are asked for again (reasks 1)" in (line.note or "")
