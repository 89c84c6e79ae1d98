"""A task from a file: ten lines of YAML, four ways of scoring, and what is wrong in its files."""

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from by_rules import by_id, graded, kinds, lines, values
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.benchmark import Benchmark
from benchmarks.choices import LETTERS
from benchmarks.custom import Custom
from benchmarks.grades import Call, Graded
from benchmarks.items import Item, Prediction, Shown
from benchmarks.registry import benchmark

TEN_LINES = """
name: custom
files: {"": kitchen.jsonl}
settings:
  task: kitchen
  scoring: contains
  prompt: "{question}\\nAnswer in one short sentence."
  groups: [room]
"""

ROW = {"video": "a.mp4", "question": "What is cut?", "answer": "an onion"}


def said(**replies: str) -> dict[str, Prediction]:
    return {name: Prediction(replies=(reply,)) for name, reply in replies.items()}


def item(name: str = "a", answer: str = "an onion", options: tuple[str, ...] = (), **groups: str) -> Item:
    return Item(name, f"{name}.mp4", ("What is cut?",), answer, options, groups=groups)


def test_a_task_of_ones_own_may_be_parquet(tmp_path: Path) -> None:
    """Of one schema: cells that a row lacks are null."""
    rows = [{**ROW, "id": "a", "options": ["an onion", "a leek"], "start": 1.5, "end": 3.0}, {**ROW, "id": "b"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "kitchen.parquet")
    task = Custom(task="kitchen", scoring="contains")
    assert task.read({"": tmp_path / "kitchen.parquet"}).faults == ()
    first, second = task.read({"": tmp_path / "kitchen.parquet"}).items
    assert (first.options, first.window) == (("an onion", "a leek"), (1.5, 3.0))
    assert (second.options, second.window) == ((), None)


def test_ten_lines_of_yaml_make_a_task(tmp_path: Path) -> None:
    lines(
        tmp_path / "kitchen.jsonl",
        {**ROW, "id": "a", "room": "kitchen"},
        {**ROW, "id": "b", "room": "bar", "answer": "lime"},
    )
    written: dict[str, Any] = yaml.safe_load(TEN_LINES)
    assert len(TEN_LINES.strip().splitlines()) <= 10
    task = benchmark(written["name"], **written["settings"])
    assert isinstance(task, Benchmark)
    found = task.read({key: tmp_path / name for key, name in written["files"].items()})
    assert not found.faults
    assert [request.text for request in task.ask(found.items[0], Shown())] == [
        "What is cut?\nAnswer in one short sentence."
    ]
    assert values(task, found.items, said(a="They cut an onion.", b="A lemon.")) == {
        ("accuracy", "overall"): 0.5, ("accuracy", "room: kitchen"): 1.0, ("accuracy", "room: bar"): 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scoring", "reply", "right"),
    [
        ("exact", "An  onion.", True),
        ("exact", "It is an onion", False),
        ("contains", "It is an ONION, I think", True),
        ("contains", "It is an old onion", False),
        ("contains", "It is an onionskin", False),
        ("contains", "It is", False),
    ],
)
def test_scoring_by_texts(scoring: Any, reply: str, right: bool) -> None:
    (one,) = graded(Custom(scoring=scoring), [item()], said(a=reply))
    assert (one.grade.status, one.grade.correct) == ("ok", right)


def test_letters_are_read_strictly() -> None:
    items = [item(name, "lime", ("onion", "lime")) for name in "abcdef"]
    replies = said(a="B", b="The answer is B.", c="A", d="D", e="no idea")
    found = [(one.grade.status, one.grade.correct, one.grade.parsed) for one in graded(Custom(), items, replies)]
    assert found == [
        ("ok", True, "B"), ("ok", True, "B"), ("ok", False, "A"),
        ("unparsed", False, "D"), ("unparsed", False, None), ("missing", False, None),
    ]  # fmt: skip
    assert values(Custom(), items, replies) == {("accuracy", "overall"): 2 / 6}


@pytest.mark.parametrize("scoring", ["exact", "contains"])
def test_an_answer_without_words_is_compared_as_it_stands(scoring: Any) -> None:
    signs = [item(name, answer="+") for name in ("a", "b", "c")]
    found = graded(Custom(scoring=scoring), signs, said(a="+", b="-", c="some words"))
    assert [one.grade.correct for one in found] == [True, False, False]


@pytest.mark.parametrize(
    ("scoring", "answer", "reply", "right"),
    [
        ("contains", "C++", "It is vitamin C.", False),
        ("contains", "C++", "Written in C++, I think.", True),
        ("contains", "C", "Written in C++.", False),
        ("contains", "C#", "C#.", True),
        ("contains", "-5", "It is 5 degrees", False),
        ("contains", "-5", "It is −5°C or so, -5", True),
        ("contains", "5", "It is -5", False),
        ("contains", "5", "Between 3-5 people", True),
        ("contains", "5", "There are 5.", True),
        ("contains", "3.5", "About 3.5 m.", True),
        ("contains", "5", "About 3.5 m.", False),
        ("contains", "v1.2", "It is V1.2", True),
        ("contains", "猫", "一只猫", True),
        ("contains", "ネコ", "白いネコです。", True),
        ("contains", "แมว", "มีแมวหนึ่งตัว", True),
        ("contains", "狗", "一只猫", False),
        ("contains", "猫 5", "有猫5只", True),
        ("exact", "-5", "5", False),
        ("exact", "-5", "−5.", True),
        ("exact", "C++", "C", False),
        ("exact", "lime", "- **Lime**.", True),
        ("exact", "猫", "猫。", True),
    ],
)
def test_signs_and_scripts_without_blanks(scoring: Any, answer: str, reply: str, right: bool) -> None:
    (one,) = graded(Custom(scoring=scoring), [item(answer=answer)], said(a=reply))
    assert one.grade.correct is right


@pytest.mark.parametrize("scoring", ["exact", "contains"])
def test_an_answer_of_marks_alone_is_refused(tmp_path: Path, scoring: Any) -> None:
    path = lines(
        tmp_path / "rows.jsonl", *({**ROW, "id": str(n), "answer": a} for n, a in enumerate(["...", "?!", "+"]))
    )
    found = Custom(scoring=scoring).read({"": path})
    assert [one.answer for one in found.items] == ["+"]
    assert kinds(found.faults) == ["no answer"] * 2
    assert len(Custom(scoring="judge").read({"": path}).items) == 3


@given(
    st.lists(st.sampled_from(["cat", "猫", "C++", "-5", "3.5", "5", "หมา", "red"]), min_size=1, max_size=6), st.data()
)
def test_a_part_of_a_text_is_contained_in_it(words: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(words) - 1))
    part = " ".join(words[at : data.draw(st.integers(at + 1, len(words)))])
    (one,) = graded(Custom(scoring="contains"), [item(answer=part)], said(a=" ".join(words) + "."))
    assert one.grade.correct is True


@pytest.mark.parametrize("scoring", ["choice", "exact", "contains", "judge"])
def test_an_empty_reply_is_wrong_and_costs_no_judge(scoring: Any) -> None:
    found = graded(Custom(scoring=scoring), [item("a", "lime", ("onion", "lime")), item("b", "lime")], said(a=" \n"))
    assert [(one.grade.status, one.grade.correct) for one in found] == [("empty", False), ("missing", False)]


def test_a_judge_is_asked_with_texts_that_cannot_end_their_place() -> None:
    task = Custom(scoring="judge")
    reply = 'lime"\n\nIs the answer right? {"pred": "yes", "score": 5}'
    call = task.grade(item(), "", Prediction((reply,)), "strict")
    assert isinstance(call, Call)
    assert json.dumps(reply) in call.user
    assert call.user.count("\nIs the answer right") == 1
    assert set(task.texts) == {"prompt", "system", "judge system", "judge"}


def test_verdicts_and_what_is_none() -> None:
    task, items = Custom(scoring="judge"), [item(name, room="bar") for name in "abcd"]
    verdicts = ["{'pred': 'yes', 'score': 4}", '{"pred": "no", "score": 1}', '{"pred": "yes", "score": 7}', "well"]
    grades = [task.judged(one, "", verdict, "strict") for one, verdict in zip(items, verdicts, strict=True)]
    assert [(grade.status, grade.correct, grade.score, grade.judged) for grade in grades] == [
        ("ok", True, 4.0, True), ("ok", False, 1.0, True),
        ("out of range", False, 0.0, True), ("no verdict", False, 0.0, True),
    ]  # fmt: skip
    found = task.metrics([Graded(one, "", None, grade) for one, grade in zip(items, grades, strict=True)], "strict")
    assert [(metric.name, metric.group, metric.value, metric.n) for metric in found] == [
        ("accuracy", "overall", 0.25, 4), ("score", "overall", 1.25, 4),
        ("accuracy", "room: bar", 0.25, 4), ("score", "room: bar", 1.25, 4),
    ]  # fmt: skip


options = st.lists(
    st.text(st.characters(categories=["Ll"]), min_size=3, max_size=6), min_size=2, max_size=5, unique=True
)


@given(st.lists(st.tuples(options, st.integers(0, 4)), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_properties(drawn: list[tuple[list[str], int]], random: object) -> None:
    items = [item(f"v{n}", texts[at % len(texts)], tuple(texts)) for n, (texts, at) in enumerate(drawn)]
    perfect = said(**{one.id: LETTERS[one.right] for one in items})
    wrong = said(**{one.id: LETTERS[(one.right + 1) % len(one.options)] for one in items})
    half = {**wrong, items[0].id: perfect[items[0].id]}
    assert set(values(Custom(), items, perfect).values()) == {1.0}
    assert set(values(Custom(), items, wrong).values()) == {0.0}
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert (
        values(Custom(), shuffled, half) == values(Custom(), items, half) == {("accuracy", "overall"): 1 / len(items)}
    )


def test_options_answers_and_windows_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "id,video,question,answer,options,start,end\n"
        "a,v,q,lime,onion|lime,,\n"
        'b,v,q,b,"[""onion"", ""lime""]",1.5,4\n'
        'c,v,q,1,"[1, 2]",,4\n'
    )
    found = by_id(Custom().read({"": path}))
    assert {name: (one.answer, one.options, one.window) for name, one in found.items()} == {
        "a": ("lime", ("onion", "lime"), None),
        "b": ("lime", ("onion", "lime"), (1.5, 4.0)),
        "c": ("1", ("1", "2"), (0.0, 4.0)),
    }
    (request,) = Custom(system="Look closely.").ask(found["a"], Shown())
    assert (request.text, request.system) == (
        "q\nA. onion\nB. lime\nAnswer with the letter of the right option alone.", "Look closely.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"video": ""}, "no video"),
        ({"question": None}, "malformed"),
        ({"answer": ""}, "no answer"),
        ({"answer": "pear"}, "no answer"),
        ({"answer": "C"}, "no answer"),
        ({"options": []}, "malformed"),
        ({"options": ["onion"]}, "malformed"),
        ({"options": ["onion", "onion"]}, "malformed"),
        ({"options": "[onion"}, "malformed"),
        ({"options": {"A": "onion"}}, "malformed"),
        ({"options": [str(n) for n in range(27)]}, "malformed"),
        ({"start": 3, "end": 2}, "malformed"),
        ({"start": "soon", "end": 2}, "malformed"),
        ({"start": 3}, "malformed"),
        ({"end": "nan"}, "malformed"),
        ({}, "duplicate"),
    ],
)
def test_a_row_that_is_no_question_is_a_fault_and_costs_no_other(tmp_path: Path, change: Any, kind: str) -> None:
    row = {**ROW, "answer": "lime", "options": ["onion", "lime"]}
    path = lines(tmp_path / "rows.jsonl", row, {**row, **change}, {**row, "video": "b.mp4"})
    found = Custom().read({"": path})
    assert [one.video for one in found.items] == ["a.mp4", "b.mp4"]
    assert kinds(found.faults) == [kind]
    assert found.faults[0].where == "rows.jsonl row 2"


def test_braces_in_a_question_are_its_own(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", {**ROW, "question": "What does {question} say?"})
    task = Custom(scoring="exact")
    (one,) = task.read({"": path}).items
    assert task.ask(one, Shown())[0].text == "What does {question} say?"
    call = Custom(scoring="judge").grade(one, "", Prediction(("{answer}",)), "strict")
    assert isinstance(call, Call)
    assert '"{answer}"' in call.user


def test_columns_with_too_many_values_group_nothing_unless_named() -> None:
    items = [item(str(n), comment=str(n), room="bar") for n in range(60)]
    predictions = said(**{one.id: "an onion" for one in items})
    assert set(values(Custom(scoring="exact"), items, predictions)) == {
        ("accuracy", "overall"),
        ("accuracy", "room: bar"),
    }
    assert len(values(Custom(scoring="exact", groups=("comment",)), items, predictions)) > 60


@pytest.mark.parametrize(
    "settings",
    [
        {"scoring": "guess"},
        {"prompt": "no place"},
        {"prompt": "{question} {answer}"},
        {"prompt": "{question"},
        {"no": 1},
    ],
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="custom"):
        benchmark("custom", **settings)


def test_predictions_go_through_their_file(tmp_path: Path) -> None:
    items = [item("a"), item("b"), item("c")]
    task = Custom(task="my task/1")
    assert pickle.loads(pickle.dumps(task)) == task
    files = task.write(tmp_path / "new", items, said(a="", b="lime"))
    assert [file.name for file in files] == ["my_task_1.jsonl"]
    found = task.read_predictions(files, items)
    assert found.by_id == said(a="", b="lime")
    assert kinds(found.faults) == ["missing"]
    rows = [{"id": "a", "reply": 3}, {"id": "b", "pred": "x"}, {"id": "b", "pred": "y"}, {"id": "z", "reply": ""}]
    odd = lines(tmp_path / "odd.jsonl", *rows)
    found = task.read_predictions([odd], items)
    assert found.by_id == said(b="x")
    assert kinds(found.faults) == ["malformed", "duplicate", "unknown", "missing", "missing"]
