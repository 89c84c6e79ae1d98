"""Which published numbers, and which of ours, share a table of the page."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from evaluated_lake import entries_of
from quiz import Quiz, questions
from test_report import plain

from benchmarks.items import Prediction
from benchmarks.published import NOT_SAID, Published, read_published
from tasks.evaluation.entries import Entry
from tasks.evaluation.file_scores import grades_of
from tasks.evaluation.published_scores import HERE, Shelf, shelves_of
from tasks.evaluation.results_page import results_page

SHIPPED = read_published()
ONE = Published(
    "msvd_qa", "accuracy", "M", 0.5, "published", "https://a.example",
    judge="gpt-3.5-turbo", snapshot="0613", scorer="official",
)  # fmt: skip
ELSEWHERE: dict[str, Any] = {"source": "https://b.example", "model": "N"}


def together(one: Published, other: Published) -> bool:
    """Whether the page shows two numbers in one column of one table."""
    shelves = shelves_of([], [one, other])
    return len(shelves) == 1 and len(shelves[0].columns) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"judge": "gpt-4o"}, {"snapshot": "1106"}, {"snapshot": ""}, {"judge": "", "snapshot": ""}, {"metric": "score"},
        {"group": "type: 3"}, {"benchmark": "tgif_qa"}, {"scorer": "llava_hound"}, {"scorer": NOT_SAID},
        {"split": "test"}, {"split": NOT_SAID}, {"subtitles": "with"}, {"subtitles": NOT_SAID},
    ],
)  # fmt: skip
def test_other_judges_items_and_scorers_share_no_column(change: dict[str, Any]) -> None:
    assert not together(ONE, replace(ONE, **ELSEWHERE | change))
    assert together(ONE, replace(ONE, **ELSEWHERE))


@pytest.mark.parametrize(
    "unsaid", [{"snapshot": ""}, {"scorer": NOT_SAID}, {"split": NOT_SAID}, {"subtitles": NOT_SAID}]
)
def test_what_a_source_does_not_say_can_be_compared_inside_it_alone(unsaid: dict[str, Any]) -> None:
    one = replace(ONE, **unsaid)
    assert together(one, replace(one, model="N", value=0.7, kind="re-run"))
    assert not together(one, replace(one, **ELSEWHERE))
    (shelf,) = shelves_of([], [one])
    (name,) = unsaid
    assert f"{name} not said" in shelf.title


def test_without_a_judge_other_sources_stand_beside() -> None:
    one = replace(ONE, judge="", snapshot="")
    assert together(one, replace(one, **ELSEWHERE))


def test_every_shipped_number_is_shown_once_and_only_beside_its_like() -> None:
    shown: Counter[str] = Counter()
    for shelf in shelves_of([]):
        shown[shelf.benchmark] += sum(len(row.values) for row in shelf.rows)
    assert shown == Counter(one.benchmark for one in SHIPPED)
    same = ("judge", "snapshot", "scorer", "split", "subtitles", "benchmark", "metric", "group")
    for one, other in combinations(SHIPPED[::9], 2):
        alike = all(getattr(one, name) == getattr(other, name) for name in same)
        assert together(one, other) == (alike and (one.complete or one.source == other.source))


def ours(benchmark: str, **more: Any) -> list[Entry]:
    items = questions(8)
    said = {each.id: Prediction((each.answer,)) for each in items}
    found = entries_of("tuned", "official", grades_of(Quiz(), items, said, "official"))
    return [replace(each, benchmark=benchmark, registry=benchmark, **more) for each in found]


def beside(mine: list[Entry]) -> tuple[Shelf, set[str]]:
    """The table of ours, and whose published numbers are in it."""
    (shelf,) = (each for each in shelves_of(mine) if any(row.kind == HERE for row in each.rows))
    return shelf, {row.model for row in shelf.rows if row.kind != HERE}


def test_numbers_of_another_split_are_no_neighbours_of_ours() -> None:
    shelf, others = beside(ours("nextqa", split="test"))
    assert (shelf.asked, others) == ("split test", set())
    for called in ("val", "validation", "Val"):
        shelf, others = beside(ours("nextqa", split=called))
        assert (shelf.asked, others) == ("split validation", {"HGA"})
    assert beside(ours("nextqa", split=""))[1] == set(), "Human: neither says which split it was"


@pytest.mark.parametrize(("settings", "asked"), [({}, "without subtitles"), ({"subtitles": True}, "with subtitles")])
def test_unknown_subtitles_are_neighbours_of_neither(settings: dict[str, Any], asked: str) -> None:
    mine = ours("videomme", settings=settings)
    shelf, others = beside(mine)
    assert (shelf.asked, others) == (asked, set())
    told = [each for each in shelves_of(mine) if each != shelf]
    assert {each.asked for each in told} == {"subtitles not said"}
    assert [{row.model for row in each.rows} for each in told] == [
        {"VLM-RLAIF 7B", "Oracle-RLAIF 7B"},
        {"GPT-4o", "Gemini 2.5 Pro"},
    ]


def test_a_benchmark_of_one_set_of_questions_needs_no_name_of_a_split() -> None:
    known = [replace(ONE, benchmark="quiz", judge="", snapshot="")]
    for split in ("", "test"):
        (shelf,) = shelves_of(ours("quiz", split=split), known)
        assert (shelf.asked, len(shelf.rows)) == ("", 2)


def test_the_page_says_what_is_not_known_and_links_what_was_not_read(tmp_path: Path) -> None:
    page = results_page({}, tmp_path / "results.html", ["videomme"]).read_text()
    text = plain(page)
    assert "videomme, subtitles not said: by rules, scorer not said" in text
    assert "videomme, subtitles not said: by rules, scorer official" in text
    assert "frames not said" in text
    assert "frames 384" in text
    assert "as a third party tells it" in text
    assert '<a href="https://arxiv.org/abs/2510.02561">' in page
    assert "which was not looked at" in text
    assert "information synopsis -0.9" in text
