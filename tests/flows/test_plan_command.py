"""How a plan is shown: no figure is cut off, however narrow the place."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

import flows.plan_command
from flows.plan_command import show
from tasks.plan import Line, Plan

NAME = "policy_by_rewards an_arm_with_a_long_name"
PLAN = Plan(
    counts={"videos": 9900},
    lines=[
        Line(
            NAME, 50_000, 40_123, 1_234_567, 50_000_000_000, 12_345_678, memory_mib=76_543.0, seconds=1e6, cost=1234.5,
        )
    ],
    workers=8,
    sample=0,
    machine="",
    digest="",
)  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
def test_no_figure_is_cut_off_at_eighty_columns(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    file = io.StringIO()
    monkeypatch.setattr(flows.plan_command, "out", Console(file=file, width=80, force_terminal=terminal))
    show(PLAN)
    said = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert "…" not in said
    for figure in ("40,123", "50,000", "1.23 M", "12.3 M", "1234.50", "74.75", "277 h"):
        assert figure in said
    longest = max(map(len, said.splitlines()))
    assert longest <= 80 if terminal else NAME in said, "a pipe is wide enough for names too"
