"""The page of an evaluation, read as a browser would read it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluated_lake import JUDGE, Answered, entries_of
from quiz import Quiz, known, questions
from small import keep_scenes, scenes
from test_audit_page import svgs
from test_report import Elements, plain

from benchmarks.items import Item, Prediction
from benchmarks.metrics import ALL_DIGITS, Metric
from benchmarks.multiple_choice import RatioOr
from benchmarks.published import Published
from storage.lake import Lake
from storage.tables import Table
from tasks.evaluation.conditions import cell_of, conditions_of, unit_of
from tasks.evaluation.entries import Entry, Scores
from tasks.evaluation.file_scores import grades_of
from tasks.evaluation.measured import measured
from tasks.evaluation.page import evaluation_page
from tasks.evaluation.published_scores import HERE, shelves_of
from tasks.evaluation.results_page import results_page

MEASURED_TWICE: tuple[dict[str, Any], ...] = (
    {},
    {"benchmark": "short"},
    {"prompt_hash": "0"},
    {"frames": "few"},
    {"decoding": {"top_p": 0.9}},
    {"model": "tuned@4567"},
    {"limit": 20},
    {"settings": {"loud": True}},
    {"settings": {"loud": [1, 2]}},
)
HOSTILE = "<script>alert('x')</script> & </article>"
ITEMS = questions(60)


def replies(right: set[int], hostile: str = "") -> dict[str, str]:
    wrong = {"yes": "no", "no": "yes"}
    return {
        each.id: each.answer if place in right else hostile or wrong[each.answer] for place, each in enumerate(ITEMS)
    }


@pytest.fixture
def answered(tmp_path: Path) -> Answered:
    """Two checkpoints on 60 questions about 30 videos, of which four have frames; the second is better."""
    lake = Lake(tmp_path / "lake")
    frames = keep_scenes(lake, dict(zip((f"v{n}" for n in range(4)), scenes(4).values(), strict=True)))
    made = Answered(lake, ITEMS, frames)
    from labels import complete

    complete(lake, frames, {})
    base = replies(set(range(25)), HOSTILE)
    del base["q059"]
    base["q058"] = ""
    made.checkpoint("base", base, {each.id: "3" if n < 30 else "7" for n, each in enumerate(ITEMS)})
    made.checkpoint(
        "tuned", replies(set(range(5, 58))), {each.id: "5" if n else "dunno" for n, each in enumerate(ITEMS)}
    )
    return made


@pytest.fixture(autouse=True)
def quiz(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quiz among the benchmarks."""
    known(monkeypatch)


def page_of(answered: Answered, folder: Path, **more: Any) -> str:
    return evaluation_page(answered.lake, answered.scores(), folder, **more).read_text()


def table(text: str, begin: str, end: str) -> str:
    return text[text.index(begin) : text.index(end, text.index(begin))]


def test_the_page_shows_scores_comparisons_flips_and_faults(answered: Answered, tmp_path: Path) -> None:
    page = page_of(answered, tmp_path / "run", command="rlaif evaluate here")
    text = plain(page).replace("\u00a0", " ")
    assert "tuned against base: better on quiz · val · strict." in text
    assert "rlaif evaluate here" in text
    for said in ("Protocol official", "Graded by judge judge-1@abc", "Frames policy, at most 8", "Prompts feedbeef"):
        assert said in text, said
    assert "temperature 0" in text
    assert "<td>20</td><td>5</td><td>33</td><td>2</td><td>0</td><td>4.3e-06</td>" in page, "McNemar under strict"
    assert "right → wrong" in text
    assert "wrong → right" in text
    assert "1 × q-lost: there is no video of it" in text
    assert "the judge gave a score that is none" in text
    assert 'src="data:image/png;base64,' in page
    assert svgs(page)


def test_what_differs_in_judge_or_protocol_stands_in_no_common_table(answered: Answered, tmp_path: Path) -> None:
    conditions = conditions_of(answered.entries)
    assert [(each.protocol, each.judge) for each in conditions] == [("official", ""), ("strict", ""), ("judged", JUDGE)]
    assert all(each.checkpoints == ["base", "tuned"] for each in conditions)
    for change in (
        {"judge": "other@abc"},
        {"frames": "judge"},
        {"prompt_hash": "0"},
        {"decoding": {"temperature": 1.0}},
        {"settings": {"loud": True}},
        {"limit": 20},
    ):
        other = replace(answered.entries[0], **change)  # type: ignore[arg-type]
        assert len(conditions_of([answered.entries[0], other])) == 2, change
    text = plain(page_of(answered, tmp_path / "run"))
    official = table(text, "quiz · val · official, rules", "quiz · val · strict, rules")
    assert "1 empty" in official
    assert official.count("tuned") == 1


def test_numbers_are_written_as_the_official_script_prints_them(answered: Answered) -> None:
    official, strict, judged = conditions_of(answered.entries)
    assert official.cell("base", "accuracy").value == "43.10", "25 of 58: the empty and the missing are left out"
    assert official.cell("base", "accuracy").left_out == 2
    assert strict.cell("base", "accuracy").value == "0.4167"
    assert judged.cell("tuned", "score").value == "5.0000"
    assert unit_of([official.entry("base")]).said(-0.00001) == "0.00"
    assert unit_of([official.entry("base")]).said(-0.1, sign=True) == "−10.00"


def test_how_a_number_is_written_does_not_hang_on_the_number(answered: Answered) -> None:
    nothing = replace(answered.entries[0], value=0.0, low=0.0, high=0.0, printed="0.00")
    assert unit_of([nothing]).scale == 100
    assert unit_of([replace(nothing, scale=1.0, digits=ALL_DIGITS, printed=str(1 / 3))]).said(1 / 3) == "0.3333"
    assert unit_of([replace(nothing, scale=1.0, digits=0)]).said(2.0) == "2"
    points = replace(nothing, metric="score", value=0.8, low=None, high=None, scale=1.0, digits=None)
    (shelf,) = shelves_of([points], [])
    assert (shelf.columns, shelf.rows[0].values["score"].said) == ({"score": False}, "0.8000"), "points, no share"


def test_one_video_has_no_interval_and_neither_has_nothing(tmp_path: Path) -> None:
    made = Answered(Lake(tmp_path / "lake"), ITEMS[:2])
    made.checkpoint("base", replies({0}))
    official, strict = conditions_of(made.entries)
    cell = strict.cell("base", "accuracy")
    assert cell is not None
    assert (cell.value, cell.interval) == ("0.5000", "one video, no interval")
    printed = RatioOr(0.0)  # As official scripts that print 0.0 where no reply counts.
    none = measured(Metric("accuracy", "overall", np.zeros((4, 2)), ("a", "b", "c", "d"), printed, scale=100.0))
    assert (none.value, none.interval) == (0.0, None)
    left_out = np.array([[1.0, 1.0], [0.0, 0.0]])
    assert measured(Metric("accuracy", "overall", left_out, ("a", "b"), n=1)).interval is None, "one video counts"
    empty = replace(official.entries[0], value=0.0, low=None, high=None, n=0)
    assert cell_of(empty, unit_of([empty])).interval == "no item counts"
    text = plain(evaluation_page(made.lake, made.scores(), tmp_path).read_text())
    assert "0.5000one video, no interval" in text.replace("0.5000 ", "0.5000")


def test_what_checkpoints_and_protocols_share_is_read_once(
    answered: Answered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, read = Counter[tuple[str, str | None]](), Table.read

    def counted(table: Table, key: str | None = None, *more: Any, **named: Any) -> Any:
        seen[table.name, key] += 1
        return read(table, key, *more, **named)

    monkeypatch.setattr(Table, "read", counted)
    page_of(answered, tmp_path / "run")
    rows = {key: count for (table, key), count in seen.items() if table in {"questions", "predictions", "grades"}}
    assert {"questions-quiz", "predictions-base", "grades-tuned-strict"} <= set(rows)
    assert set(rows.values()) == {1}


def test_hostile_replies_stay_texts(answered: Answered, tmp_path: Path) -> None:
    page = page_of(answered, tmp_path / "run")
    assert "<script" not in page
    assert " ".join(HOSTILE.split()) in plain(page)
    for tag, attributes in Elements(page).found:
        assert tag not in {"script", "iframe", "object", "embed"}
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#", "https://"))


def test_the_same_evaluation_gives_the_same_page(answered: Answered, tmp_path: Path) -> None:
    assert page_of(answered, tmp_path / "one") == page_of(answered, tmp_path / "two")


def test_one_checkpoint_alone_makes_a_page_too(tmp_path: Path) -> None:
    made = Answered(Lake(tmp_path / "lake"), ITEMS)
    made.checkpoint("base", replies(set(range(30))))
    text = plain(page_of(made, tmp_path / "run"))
    assert "base: accuracy 0.5000 on quiz · val · strict (60 items)." in text
    assert "No two checkpoints answered the same questions" in text
    assert "No answer flipped" in text


def test_an_evaluation_without_scores_says_so(tmp_path: Path) -> None:
    page = evaluation_page(Lake(tmp_path / "lake"), Scores("night", ()), tmp_path / "run")
    text = plain(page.read_text())
    assert "Nothing was scored." in text
    assert "Nothing was scored in this run." in text


def test_a_benchmark_of_which_no_item_counts_has_no_number(tmp_path: Path) -> None:
    made = Answered(Lake(tmp_path / "lake"), ITEMS)
    made.checkpoint("base", {})
    made.checkpoint("tuned", replies(set(range(60))))
    page = page_of(made, tmp_path / "run")
    assert "no item counts" in plain(page)
    Elements(page)


def measured_here(judge: str = "") -> list[Entry]:
    said = {each.id: Prediction((each.answer,)) for each in ITEMS[:30]}
    return entries_of("tuned", "official", grades_of(Quiz(), ITEMS, said, "official"), judge)


def known_numbers() -> list[Published]:
    about = {"benchmark": "quiz", "metric": "accuracy", "source": "https://example.org/a", "scorer": "official"}
    return [
        Published(**about, model="theirs", value=0.4974, kind="published", judge="gpt", snapshot="0613"),
        Published(**about, model="again", value=0.481, kind="re-run", judge="gpt", snapshot="0301", secondary=True),
        Published(**about, model="unsaid", value=0.62, kind="published", judge="gpt"),
        Published(
            **about | {"source": "https://example.org/b"}, model="else", value=0.7, kind="published", judge="gpt"
        ),
        Published(**about, model="scores", value=0.5, kind="re-run"),
        Published(**about | {"benchmark": "other"}, model="far", value=0.1, kind="published"),
    ]


def test_published_numbers_stand_beside_ours_only_under_the_same_judge() -> None:
    shelves = shelves_of(measured_here("gpt-0613@0123"), known_numbers())
    assert [(each.judge, each.prompts, each.alone, [row.model for row in each.rows]) for each in shelves] == [
        ("gpt-0613@0123", "feedbeef", "", ["tuned"]),  # Its prompts are not those of the published number.
        ("gpt-0613", "", "", ["theirs"]),
        ("gpt-0301", "", "", ["again"]),
        ("gpt", "", "https://example.org/a", ["unsaid"]),
        ("gpt", "", "https://example.org/b", ["else"]),
        ("", "", "", ["scores"]),
    ]
    (ours,), (theirs,) = shelves[0].rows, shelves[1].rows
    assert (theirs.kind, theirs.address) == ("published", "https://example.org/a")
    assert theirs.values["accuracy"].said == "49.74"
    assert (ours.kind, ours.values["accuracy"].said) == (HERE, "100.00")
    assert shelves[2].rows[0].secondary
    assert "snapshot not said" in shelves[3].title


def test_judges_of_one_name_with_other_settings_share_no_table() -> None:
    mine = [*measured_here("gpt-0613@aaaa"), *measured_here("gpt-0613@bbbb")]
    first, second, third, *_ = shelves_of(mine, known_numbers())
    assert [(each.judge, len(each.rows)) for each in (first, second)] == [("gpt-0613@aaaa", 1), ("gpt-0613@bbbb", 1)]
    assert "gpt-0613@aaaa" in first.title
    assert (third.judge, third.rows[0].model) == ("gpt-0613", "theirs"), "the published number of its snapshot is next"


def test_ours_by_rules_stand_beside_theirs_of_the_same_scorer() -> None:
    first, *others = shelves_of(measured_here(), known_numbers())
    assert [row.model for row in first.rows] == ["scores", "tuned"]
    assert all(row.kind != HERE for each in others for row in each.rows)


def test_tasks_of_ones_own_are_no_common_benchmark() -> None:
    mine = [replace(each, registry="custom", benchmark=name) for name in ("one", "two") for each in measured_here()]
    assert {each.benchmark: len(each.rows) for each in shelves_of(mine, [])} == {"one": 1, "two": 1}


def test_what_differs_in_files_or_prompts_has_a_row_of_its_own() -> None:
    mine = [replace(each, **change) for change in MEASURED_TWICE for each in measured_here()]
    (shelf,) = shelves_of(mine, [])
    assert len(shelf.rows) == len(MEASURED_TWICE)
    assert len({(row.source, row.note) for row in shelf.rows}) == len(MEASURED_TWICE), "and says what differs"
    assert "asked at most 20 items" in shelf.rows[6].source
    assert "settings loud true" in shelf.rows[7].source


def test_without_scores_of_ours_all_that_is_known_is_shown() -> None:
    assert {each.benchmark for each in shelves_of([], known_numbers())} == {"quiz", "other"}
    known = shelves_of([])
    assert {row.kind for each in known for row in each.rows} == {"published", "re-run by others"}
    for each in known:
        assert each.columns
        assert all(row.values for row in each.rows)


def test_the_page_of_results_tells_runs_apart(tmp_path: Path) -> None:
    runs = {Path(name): Scores(name, tuple(measured_here())) for name in ("one", "two")}
    page = results_page(runs, tmp_path / "new" / "results.html").read_text()
    assert "Measured here (one, two), beside published numbers" in plain(page)
    assert "one: tuned" in plain(page)
    assert "two: tuned" in plain(page)
    Elements(page)
    every = results_page({}, tmp_path / "results.html", ["msvd_qa"]).read_text()
    assert "msvd_qa" in every
    assert "tgif_qa" not in every


def test_runs_of_one_name_keep_all_their_numbers(tmp_path: Path) -> None:
    runs = {Path("runs", name): Scores("evaluation", tuple(measured_here())) for name in ("first", "second")}
    text = plain(results_page(runs, tmp_path / "results.html").read_text())
    for folder in runs:
        assert text.count(f"evaluation ({folder}): tuned") == 1


def test_the_page_shows_settings_and_limit(tmp_path: Path) -> None:
    made = Answered(Lake(tmp_path / "lake"), ITEMS)
    made.checkpoint("base", replies(set(range(30))))
    entries = [replace(each, settings={"scoring": "contains", "prompt": "x" * 99}, limit=60) for each in made.entries]
    text = plain(evaluation_page(made.lake, Scores("night", tuple(entries)), tmp_path).read_text())
    assert f"Settings prompt {'x' * 59}…, scoring contains" in text
    assert "Asked at most 60 items" in text


def test_judges_that_were_asked_otherwise_are_compared_and_share_no_table(answered: Answered, tmp_path: Path) -> None:
    strict = [each for each in answered.entries if each.protocol == "strict"]
    asked = {"base": {"prompt_hash": "aaaa", "decoding": {}}, "tuned": {"prompt_hash": "bbbb"}}

    def page(settings: dict[str, Any]) -> str:
        told = [replace(each, settings=settings, **asked[each.checkpoint]) for each in strict]
        assert [each.checkpoints for each in conditions_of(told)] == [["base"], ["tuned"]]
        return evaluation_page(answered.lake, Scores("night", tuple(told)), tmp_path / "run").read_text()

    pairs = page({"pairs": "verdict"})
    assert "tuned against base: better on quiz · val · strict." in plain(pairs)
    assert len(svgs(pairs)) == 2, "each table has its figure"
    assert "No two checkpoints answered the same questions" in plain(page({}))


def test_an_item_is_read_back_from_the_lake_as_it_was(answered: Answered) -> None:
    from tasks.evaluation.graded_rows import AnsweredRows, benchmark_of

    entry = next(each for each in answered.entries if each.checkpoint == "base" and each.protocol == "judged")
    found = AnsweredRows(answered.lake).answers(entry)
    assert found is not None
    assert [each.item for each in found.graded] == [replace(each, source=dict(each.source)) for each in ITEMS]
    assert found.graded[3].grade == Quiz().judged(ITEMS[3], "", "3", "judged")
    assert found.graded[59].prediction is None
    assert found.replies["q003", ""] == "3"
    assert AnsweredRows(answered.lake).answers(replace(entry, stages={})) is None
    assert isinstance(found.graded[0].item, Item)
    assert benchmark_of(answered.lake, entry) == Quiz(loud=True)
