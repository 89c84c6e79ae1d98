"""ActivityNet-QA by exact match: what its scorer prints, and the right value of Free."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from graders import graded, numbers

from benchmarks.benchmark import Benchmark
from benchmarks.exact_match import ActivityNetQaExact
from benchmarks.grades import Call
from benchmarks.items import Item, Prediction, Shown
from benchmarks.metrics import Metric
from storage.errors import FormatError

EXACT = ActivityNetQaExact()


def no_judge(item: Item, aspect: str, call: Call) -> str:
    raise AssertionError(f"no judge is asked: {item} {aspect} {call}")


def metrics(items: tuple[Item, ...], predictions: dict[str, Prediction], protocol: str) -> list[Metric]:
    return EXACT.metrics(graded(EXACT, items, predictions, protocol, no_judge), protocol)


def test_the_published_validation_predictions_give_what_the_scorer_prints(test_data: Path) -> None:
    folder = test_data / "annotations" / "activitynet_qa"
    read = EXACT.read({"answers": folder / "val_a.json.gz"})
    predictions = EXACT.read_predictions([folder / "pred_val_example.json.gz"], read.items)
    assert len(read.items) == 18000
    assert not read.faults
    printed = {
        protocol: {m.group: m.printed for m in metrics(read.items, dict(predictions.by_id), protocol)}
        for protocol in ("official", "strict")
    }
    official, strict = printed["official"], printed["strict"]
    assert (official["overall"], official["type: Free"]) == ("0.3984", "0.7583")
    assert (strict["overall"], strict["type: Free"]) == ("0.3984", "0.5055")
    assert strict == official | {"type: Free": "0.5055"}
    free = next(m for m in metrics(read.items, dict(predictions.by_id), "strict") if m.group == "type: Free")
    assert (free.value, free.n) == (6369 / 12600, 12600)


def saved(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def answers(*kinds: int) -> list[dict[str, object]]:
    return [{"question_id": f"v_a_b_{n}", "answer": "yes", "type": kind} for n, kind in enumerate(kinds)]


def test_free_is_divided_by_whatever_comes_behind_the_first_three_types(tmp_path: Path) -> None:
    items = EXACT.read({"answers": saved(tmp_path / "a.json", answers(3, 0, 3, 4, 1, 2))}).items
    assert {item.video for item in items} == {"a_b"}
    right = {item.id: Prediction(("yes",)) for item in items[:4]}
    wrong = {items[4].id: Prediction(("no",))}
    official, strict = (numbers(metrics(items, right | wrong, protocol)) for protocol in ("official", "strict"))
    # Right of types 3 to 8: three. Types 3, 0 and 4 come first: two questions are left, of types 1 and 2.
    assert official["accuracy", "type: Free"] == 3 / 2
    assert strict["accuracy", "type: Free"] == 1.0
    assert official["accuracy", "overall"] == strict["accuracy", "overall"] == 4 / 6
    assert strict["accuracy", "type: Spatial Relation"] == 0.0


@pytest.mark.parametrize(
    ("reply", "status", "strict"),
    [
        ("Yes.</s>", "ok", True),
        (" yes", "ok", True),
        ("YES!", "ok", True),
        ("yes, it is", "ok", False),
        ("...", "ok", False),
        (" </s>", "empty", False),
        ("", "empty", False),
    ],
)
def test_only_strict_overlooks_the_end_of_a_reply(tmp_path: Path, reply: str, status: str, strict: bool) -> None:
    (item,) = EXACT.read({"answers": saved(tmp_path / "a.json", answers(3))}).items
    grades = {p: EXACT.grade(item, "", Prediction((reply,)), p) for p in ("official", "strict")}
    assert not any(isinstance(grade, Call) or (grade.correct and p == "official") for p, grade in grades.items())
    found = grades["strict"]
    assert not isinstance(found, Call)
    assert (found.status, found.correct) == (status, strict)


def test_the_order_of_the_file_decides_not_that_of_the_grades(tmp_path: Path) -> None:
    items = EXACT.read({"answers": saved(tmp_path / "a.json", answers(3, 0, 3, 4, 1, 2))}).items
    right = {item.id: Prediction(("yes",)) for item in items}
    assert metrics(items[::-1], right, "official")[3].value == metrics(items, right, "official")[3].value == 3 / 2


def test_a_model_is_asked_where_questions_are_given(tmp_path: Path) -> None:
    told = saved(tmp_path / "a.json", answers(3, 0))
    (bare, *_) = EXACT.read({"answers": told}).items
    with pytest.raises(FormatError, match="name the file of questions"):
        EXACT.ask(bare, Shown())
    questions = [{"question_id": "v_a_b_0", "question": "is it red", "video_name": "a_b"}]
    read = EXACT.read({"answers": told, "questions": saved(tmp_path / "q.json", questions)})
    assert [request.text for item in read.items for request in EXACT.ask(item, Shown())] == [
        "Is it red? Answer the question using a single word or phrase."
    ]
    assert [fault.kind for fault in read.faults] == ["malformed"]
    assert isinstance(EXACT, Benchmark)


def test_bad_rows_are_faults(tmp_path: Path) -> None:
    rows = [
        *answers(3),
        {"question_id": "x", "answer": "a", "type": 9},
        {"question_id": "y", "answer": "a", "type": []},
    ]
    rows += [{"question_id": "v_a_b_0", "answer": "yes", "type": 3}, {"question_id": "z", "answer": "", "type": 3}]
    read = EXACT.read({"answers": saved(tmp_path / "a.json", rows)})
    assert len(read.items) == 1
    assert [fault.kind for fault in read.faults] == ["malformed", "malformed", "duplicate", "no answer"]
    empty = EXACT.grade(read.items[0], "", Prediction(("",)), "official")
    assert not isinstance(empty, Call)
    assert (empty.status, empty.correct) == ("empty", False)


def test_questions_that_share_an_id_are_each_paired_with_their_own_answer(tmp_path: Path) -> None:
    asked = [{"question_id": "v_a_0", "question": text} for text in ("is it red", "who sings", "is it red")]
    told = [{"question_id": "v_a_0", "answer": text, "type": 3} for text in ("no", "she", "no")]
    files = {"questions": saved(tmp_path / "q.json", asked), "answers": saved(tmp_path / "a.json", told)}
    read = EXACT.read(files)
    assert [(item.id, item.questions, item.answer) for item in read.items] == [
        ("v_a_0", ("is it red",), "no"),
        ("v_a_0#2", ("who sings",), "she"),
    ]
    assert [(fault.kind, fault.where) for fault in read.faults] == [("duplicate", "a.json row 3")]
    said = [{"question_id": "v_a_0", "answer": text} for text in ("no", "he", "it")]
    found = EXACT.read_predictions([saved(tmp_path / "p.json", said)], read.items)
    assert found.by_id == {"v_a_0": Prediction(("no",)), "v_a_0#2": Prediction(("he",))}
    assert [fault.kind for fault in found.faults] == ["duplicate"]
    both = EXACT.write(tmp_path / "out", read.items, dict(found.by_id))
    assert EXACT.read_predictions(both, read.items).by_id == found.by_id


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    items = EXACT.read({"answers": saved(tmp_path / "a.json", answers(3, 0, 1))}).items
    predictions = {items[0].id: Prediction(("yes",)), items[1].id: Prediction(("no",))}
    (path,) = EXACT.write(tmp_path / "out", items, predictions)
    assert json.loads(path.read_text())[0] == {"question_id": "v_a_b_0", "answer": "yes"}
    read = EXACT.read_predictions([path], items)
    assert read.by_id == predictions
    assert [fault.kind for fault in read.faults] == ["missing"]
