"""What a plan says of the judges of the section `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.plan_evaluation import with_judges
from flows.presets import load
from tasks.plan import Line, Plan

BARE = Plan(counts={}, lines=[Line("videos", 4, 4)], workers=1, sample=4, machine="", digest="", notes=["a note"])


def section(folder: Path, file: str = "kitchen.jsonl", **judge: Any) -> str:
    """An override: two questions that the endpoint `fake` grades, and two that rules do."""
    rows = [{"video": "v.mp4", "question": f"what is {n}?", "answer": "a pan"} for n in range(2)]
    (folder / "kitchen.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    ruled = {"benchmark": "custom", "files": {"": str(folder / file)}, "videos": str(folder)}
    judged = {**ruled, "settings": {"scoring": "judge"}, "judge": "fake"}
    endpoint = {"base_url": "http://localhost:1/v1", "model": "judge-1", "max_tokens": 10, "price_output": 5.0, **judge}
    benchmarks = {"ruled": {**ruled, "settings": {"scoring": "contains"}}, "judged": judged}
    return f"evaluate={json.dumps({'benchmarks': benchmarks, 'grading': {'endpoints': {'fake': endpoint}}})}"


def test_each_judge_has_a_line_and_its_budget_bounds_the_plan(tmp_path: Path) -> None:
    p = load("miniature", [section(tmp_path, budget=3.0), f"run.lake={tmp_path / 'lake'}"])
    models = 2 + len(p.arms)
    made = with_judges(BARE, p)
    first, judge = made.lines
    assert (first, made.notes[0]) == (BARE.lines[0], "a note")
    assert judge.name == "grades by fake (judge-1)"
    assert (judge.calls, judge.to_do, judge.output_tokens) == (2 * models, 2 * models, 20 * models)
    assert judge.cost == pytest.approx(100e-6 * models)
    assert made.cost == judge.cost
    assert made.cost_bound == 3.0
    assert judge.note is not None
    assert f"at most {2 * models * 3:,} calls and 0.00" in judge.note
    assert f"the answers of {models} models to 2 benchmarks are not in the sum" in made.notes[1]


def test_what_cannot_be_priced_is_said(tmp_path: Path) -> None:
    made = with_judges(BARE, load("miniature", [section(tmp_path, "nowhere.jsonl")]))
    assert made.lines == BARE.lines
    assert "What its judges will be asked cannot be told" in made.notes[-1]
    assert "nowhere.jsonl" in made.notes[-1]
    assert with_judges(BARE, load("miniature", ["evaluate=null"])) == BARE
