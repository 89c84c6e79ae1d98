"""Video-ChatGPT's five scores: from questions to numbers, official and strict, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from graders import Judge, graded, numbers

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Call, Grade
from benchmarks.items import Item, Prediction, Shown
from benchmarks.video_chatgpt import VideoChatGpt
from storage.errors import FormatError

VCG = VideoChatGpt()


def saved(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def shapes(test_data: Path) -> dict[str, Path]:
    folder = test_data / "annotations" / "shapes"
    return {kind: folder / f"videochatgpt_style_{kind}_qa.json" for kind in ("generic", "temporal", "consistency")}


# What the judge says of the correctness of the first answers, and of all the rest.
FIRST = (
    "{'score': 4.8}",  # official 4, strict 4.8
    '```json\n{"score": 3}\n```',  # official asks for ever, strict 3, lmms-eval 0
    "{'score': 7}",  # official 7, strict none
    "I cannot tell.",  # no verdict
)
REST = {
    "correctness": "{'score': 2}",
    "detail": "{'score': 3}",
    "context": "{'score': 1}",
    "temporal": "{'score': '4'}",
    "consistency": "{'score': 5}",
}


def judge_of(generic: list[str]) -> Judge:
    """Says FIRST of the correctness of the first of these items."""

    def judge(item: Item, aspect: str, call: Call) -> str:
        assert item.answer in call.user
        place = generic.index(item.id) if aspect == "correctness" else len(FIRST)
        return FIRST[place] if place < len(FIRST) else REST[aspect]

    return judge


# 46 generic items (the fifth has no prediction, the sixth an empty one), 25 temporal, 46 consistency.
BY_HAND = {
    # 4 + 7 + 2 (the empty one is judged) + 40 x 2 over 43; two replies and one prediction are out.
    "official": {"correctness": (93 / 43, 3), "detail": (3.0, 1), "context": (1.0, 1)},
    # 4 + 0 + 7 + 0 + 2 + 40 x 2 over 45.
    "lmms_eval": {"correctness": (93 / 45, 1), "detail": (3.0, 1), "context": (1.0, 1)},
    # 4.8 + 3 + 40 x 2 over all 46; 44 of the others have their points.
    "strict": {"correctness": (87.8 / 46, 0), "detail": (132 / 46, 0), "context": (44 / 46, 0)},
}


@pytest.mark.parametrize("protocol", BY_HAND)
def test_a_run_by_hand(protocol: str, shapes: dict[str, Path], tmp_path: Path) -> None:
    read = VCG.read(shapes)
    assert not read.faults
    assert len(read.items) == 46 + 25 + 46
    generic = [item.id for item in read.items if "correctness" in item.aspects]
    made = {item.id: Prediction(tuple(f"a reply to {q}" for q in item.questions)) for item in read.items}
    del made[generic[4]]
    made[generic[5]] = Prediction(("",))
    predictions = VCG.read_predictions(VCG.write(tmp_path, read.items, made), read.items)
    assert predictions.by_id == made
    assert [(fault.kind, fault.where) for fault in predictions.faults] == [("missing", generic[4])]

    metrics = VCG.metrics(graded(VCG, read.items, predictions.by_id, protocol, judge_of(generic)), protocol)
    five = BY_HAND[protocol] | {"temporal": (4.0, 0), "consistency": (5.0, 0)}
    assert [metric.group for metric in metrics] == [*(f"aspect: {aspect}" for aspect in five), "overall"]
    for metric, (value, left_out) in zip(metrics, five.values(), strict=False):
        assert metric.value == pytest.approx(value)
        assert metric.left_out == left_out
    assert metrics[-1].value == pytest.approx(sum(value for value, _ in five.values()) / 5)
    assert metrics[-1].left_out == sum(left_out for _, left_out in five.values())


def test_one_prediction_is_judged_in_three_aspects_and_two_questions_in_one(shapes: dict[str, Path]) -> None:
    items = VCG.read(shapes).items
    generic, temporal, consistency = items[0], items[46], items[-1]
    assert generic.aspects == ("correctness", "detail", "context")
    assert temporal.aspects == ("temporal",)
    assert consistency.aspects == ("consistency",)
    assert [request.text for request in VCG.ask(consistency, Shown())] == list(consistency.questions)
    calls = [VCG.grade(generic, aspect, Prediction(("a",)), "official") for aspect in generic.aspects]
    assert len({call.system for call in calls if isinstance(call, Call)}) == 3
    ids = [item.id for item in items if item.video == "mmaction2_test" and "correctness" in item.aspects]
    assert ids == ["generic/mmaction2_test_0", "generic/mmaction2_test_1"]


def test_vlm_rlaif_shows_the_judge_question_1_twice(shapes: dict[str, Path]) -> None:
    item = VCG.read(shapes).items[-1]
    said = {}
    for protocol in ("official", "vlm_rlaif"):
        call = VCG.grade(item, "consistency", Prediction(("one", "two")), protocol)
        assert isinstance(call, Call)
        said[protocol] = call.user.split("\n")[2:7]
    one, two = item.questions
    assert said["official"] == [
        f"Question 1: {one}",
        f"Question 2: {two}",
        f"Correct Answer: {item.answer}",
        "Predicted Answer to Question 1: one",
        "Predicted Answer to Question 2: two",
    ]
    assert said["vlm_rlaif"] == [said["official"][0], f"Question 2: {one}", *said["official"][2:]]


@pytest.mark.parametrize(
    ("reply", "official", "lmms", "strict"),
    [
        ("{'score': 4.8}", ("ok", 4), ("ok", 4), ("ok", 4.8)),
        ("{'score': 7}", ("off the scale", 7), ("off the scale", 7), ("out of range", 0)),
        ("{'score': -1}", ("off the scale", -1), ("off the scale", -1), ("out of range", 0)),
        ("{''score': 4.8}", ("no verdict", None), ("unparsed", 0), ("ok", 4.8)),
        ("Score: 4", ("no verdict", None), ("unparsed", 0), ("no verdict", 0)),
        ("{'pred': 'yes'}", ("no verdict", None), ("unparsed", 0), ("no verdict", 0)),
        ("", ("no verdict", None), ("unparsed", 0), ("no verdict", 0)),
    ],
)
def test_one_reply_by_three_protocols(
    reply: str, official: Any, lmms: Any, strict: Any, shapes: dict[str, Path]
) -> None:
    item = VCG.read(shapes).items[0]
    for protocol, expected in {"official": official, "lmms_eval": lmms, "strict": strict}.items():
        grade = VCG.judged(item, "detail", reply, protocol)
        assert (grade.status, grade.score) == expected


def test_what_is_no_answer_needs_no_judge_under_strict(shapes: dict[str, Path]) -> None:
    item = VCG.read(shapes).items[-1]
    assert VCG.grade(item, "consistency", Prediction(("a", " ")), "strict") == Grade("empty", False, 0.0)
    assert VCG.grade(item, "consistency", Prediction(("a",)), "strict") == Grade("missing", False, 0.0)
    assert VCG.grade(item, "consistency", None, "official") == Grade("missing")


def test_without_all_five_there_is_no_mean(shapes: dict[str, Path]) -> None:
    read = VCG.read({"temporal": shapes["temporal"]})
    made = {item.id: Prediction(("a",)) for item in read.items}
    found = numbers(VCG.metrics(graded(VCG, read.items, made, "official", judge_of([])), "official"))
    assert found == {("score", "aspect: temporal"): 4.0}
    with pytest.raises(FormatError, match="name some of generic, temporal, consistency"):
        VCG.read({})


def test_records_are_written_as_the_scripts_read_them(shapes: dict[str, Path], tmp_path: Path) -> None:
    items = VCG.read(shapes).items
    made = {item.id: Prediction(tuple("ab"[: len(item.questions)])) for item in items}
    paths = VCG.write(tmp_path, items, made)
    assert [path.name for path in paths] == ["generic_qa.json", "temporal_qa.json", "consistency_qa.json"]
    for path, (kind, shape) in zip(paths, shapes.items(), strict=True):
        rows, source = json.loads(path.read_text()), json.loads(shape.read_text())
        replies = {"pred1": "a", "pred2": "b"} if kind == "consistency" else {"pred": "a"}
        ids = [item.id for item in items if item.id.startswith(kind)]
        assert rows == [row | replies | {"item_id": id} for row, id in zip(source, ids, strict=True)]


def test_records_of_a_question_that_two_files_ask_go_to_the_file_that_they_are_of(tmp_path: Path) -> None:
    both = {"Q": "what then", "A": "it ends", "video_name": "v"}
    only = {"Q": "what", "A": "a dog", "video_name": "v"}
    files = {"generic": saved(tmp_path / "g.json", [both, only]), "temporal": saved(tmp_path / "t.json", [both])}
    items = VCG.read(files).items
    generic = [{**both, "pred": "1"}, {**only, "pred": "2"}]
    lines = tmp_path / "generic.jsonl"
    lines.write_text("\n".join(map(json.dumps, generic)))
    read = VCG.read_predictions([lines, saved(tmp_path / "p.json", [{**both, "pred": "3"}])], items)
    assert read.by_id["generic/v_0"].replies == ("1",)
    assert read.by_id["generic/v_1"].replies == ("2",)


def test_a_question_asked_twice_keeps_its_own_prediction(tmp_path: Path) -> None:
    row = {"Q": "what", "Q1": "a note", "A": "a dog", "video_name": "v"}
    items = VCG.read({"generic": saved(tmp_path / "g.json", [row, row])}).items
    made = {"generic/v_1": Prediction(("x",))}
    assert VCG.read_predictions(VCG.write(tmp_path / "out", items, made), items).by_id == made


def test_bad_rows_are_faults(tmp_path: Path) -> None:
    rows = [{"Q1": "a", "Q2": "b", "A": "c", "video_name": "v"}, {"Q1": "a", "A": "c", "video_name": "v"}, 3]
    rows += [{"Q1": "a", "Q2": "b", "video_name": "v"}, {"Q1": "a", "Q2": "b", "A": "c"}]
    read = VCG.read({"consistency": saved(tmp_path / "c.json", rows)})
    assert [fault.kind for fault in read.faults] == ["malformed", "malformed", "no answer", "no video"]
    said = [{"Q1": "a", "Q2": "b", "A": "c", "video_name": "v", "pred1": "x"}]
    predictions = VCG.read_predictions([saved(tmp_path / "p.json", said)], read.items)
    assert [fault.kind for fault in predictions.faults] == ["malformed", "missing"]
    assert isinstance(VCG, Benchmark)
