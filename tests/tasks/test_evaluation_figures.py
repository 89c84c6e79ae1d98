"""Scores by category: kinds of groups, their figures, and those that have none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from evaluated_lake import entries_of
from quiz import known, questions
from test_audit_page import svgs
from test_report import plain

from benchmarks.grades import Grade, Graded
from benchmarks.items import Item
from benchmarks.registry import benchmark
from storage.lake import Lake
from tasks.evaluation.conditions import conditions_of
from tasks.evaluation.entries import Entry, Scores
from tasks.evaluation.page import evaluation_page
from tasks.evaluation.plots import category_panels, not_drawn


@pytest.fixture(autouse=True)
def quiz(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quiz among the benchmarks."""
    known(monkeypatch)


def scored() -> Entry:
    """A number of a checkpoint that is right in everything."""
    graded = [Graded(each, "", None, Grade("ok", correct=True)) for each in questions(4)]
    return entries_of("tuned", "strict", graded)[0]


def of_every_group(kinds: dict[str, int]) -> list[Item]:
    """Items in which each member of the first kind meets all members of the others."""
    (first, firsts), *others = kinds.items()
    called = {"task": ("multi-choice", "yes_no", "caption_matching", "captioning")}

    def member(kind: str, place: int) -> str:
        return called[kind][place] if kind in called else f"{kind} {place}"

    return [
        Item(
            f"{one}-{n}",
            f"v{one}-{n}",
            ("?",),
            "a",
            groups={first: member(first, one)} | {kind: member(kind, n % count) for kind, count in others},
        )
        for one in range(firsts)
        for n in range(max(count for _, count in others))
    ]


def test_groups_by_two_things_are_a_kind_of_their_own_and_a_figure_that_is_left_out_is_named(tmp_path: Path) -> None:
    first = scored()
    crossed = [
        f"duration: {duration}, {kind}: {kind} {number}"
        for duration in ("short", "long")
        for kind, count in (("domain", 6), ("sub_category", 30))
        for number in range(count)
    ]
    groups = ["overall", *(f"domain: domain {number}" for number in range(6)), "duration: short", "duration: long"]
    entries = [replace(first, group=group) for group in [*groups, *crossed, "no name"]]
    (condition,) = conditions_of(entries)
    assert [(each.kind, len(each.groups)) for each in condition.breakdowns] == [
        ("domain", 6),
        ("duration", 2),
        ("duration and domain", 12),
        ("duration and sub_category", 60),
        ("", 1),
    ]
    crosses = condition.breakdowns[2]
    assert crosses.groups[0] == "short · domain 0"
    assert crosses.cell("long · domain 5", "tuned") is not None
    page = evaluation_page(Lake(tmp_path / "lake"), Scores("night", tuple(entries)), tmp_path / "run").read_text()
    assert len(svgs(page)) == 3, "by domain, by duration and by both"
    assert "accuracy by duration and domain" in plain(page)
    said = "No figure of accuracy by duration and sub category: its 60 rows are more than the 40 that a figure holds."
    assert said in plain(page)
    assert plain(page).count("No figure of") == 1


@pytest.mark.parametrize(
    ("name", "kinds", "figures", "left_out"),
    [
        (
            "videomme",
            {"duration": 3, "domain": 6, "sub_category": 30, "task_type": 12},
            {"duration", "domain", "sub category", "task type", "duration and domain", "duration and task type"},
            "duration and sub category: its 90 rows",
        ),
        (
            "tempcompass",
            {"task": 4, "dim": 5, "aspect": 11},
            {"task", "dim", "task and dim"},
            "task and aspect: its 44 rows",
        ),
    ],
)
def test_real_benchmarks_have_figures_by_what_they_are_broken_down_by(
    name: str, kinds: dict[str, int], figures: set[str], left_out: str
) -> None:
    blank = scored()
    graded = [Graded(each, "", None, Grade("ok", correct=True)) for each in of_every_group(kinds)]
    found = benchmark(name).metrics(graded, "strict")
    entries = [replace(blank, metric=each.name, group=each.group) for each in found if each.name == "accuracy"]
    (condition,) = conditions_of(entries)
    assert {each.title for each in category_panels(condition, {"tuned": 0})} == {
        f"accuracy by {one}" for one in figures
    }
    (said,) = not_drawn(condition)
    assert said.startswith(f"accuracy by {left_out} ")
