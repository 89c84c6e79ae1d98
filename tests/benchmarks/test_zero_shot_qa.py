"""Zero-shot question answering with a judge: questions, predictions, and the numbers of each protocol by hand."""

from __future__ import annotations

import ast
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from graders import graded, numbers

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Item, Prediction, Shown
from benchmarks.qa_files import TYPES
from benchmarks.registry import benchmark
from benchmarks.zero_shot_qa import ActivityNetQa, MsvdQa
from storage.errors import FormatError

QUESTIONS = [
    {"video_name": "one", "question": "what is he doing", "question_id": "v_one_1"},
    {"video_name": "one", "question": "where is he", "question_id": "v_one_2"},
    {"video_name": "two", "question": "is it red", "question_id": "v_two_1"},
]
ANSWERS = [
    {"question_id": "v_two_1", "answer": "yes", "type": 3},
    {"question_id": "v_one_1", "answer": "yoga", "type": 0},
    {"question_id": "v_one_2", "answer": "in a room", "type": 6},
]


def saved(path: Path, value: Any) -> Path:
    text = json.dumps(value)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def items_of(folder: Path) -> tuple[Item, ...]:
    files = {"questions": saved(folder / "q.json", QUESTIONS), "answers": saved(folder / "a.json", ANSWERS)}
    read = ActivityNetQa().read(files)
    assert not read.faults
    return read.items


def test_the_real_test_set_is_read_from_its_two_zipped_lists(test_data: Path) -> None:
    folder = test_data / "annotations" / "activitynet_qa"
    read = ActivityNetQa().read({"questions": folder / "test_q.json.gz", "answers": folder / "test_a.json.gz"})
    assert len(read.items) == 8000
    assert not read.faults
    assert len({item.video for item in read.items}) == 800
    counts = Counter(item.groups["type"] for item in read.items)
    assert [counts[name] for name in TYPES.values()] == [800, 800, 800, 2094, 697, 318, 386, 606, 1499]


def test_answers_are_paired_by_id_and_one_list_or_turns_do_as_well(tmp_path: Path) -> None:
    paired = items_of(tmp_path)
    by_id = {row["question_id"]: row for row in ANSWERS}
    whole = [{**row, **by_id[str(row["question_id"])]} for row in QUESTIONS]
    turns = [
        {
            "id": row["question_id"],
            "video": row["video_name"],
            "conversations": [{"value": f"<video>\n{row['question']}"}, {"value": row["answer"]}],
        }
        for row in whole
    ]
    lines = tmp_path / "turns.jsonl"
    lines.write_text("\n".join(map(json.dumps, turns)))
    for path in (saved(tmp_path / "whole.json", whole), lines):
        read = MsvdQa().read({"questions": path})
        assert not read.faults
        said = [(item.id, item.video, item.questions, item.answer) for item in read.items]
        assert said == [(item.id, item.video, item.questions, item.answer) for item in paired]


def test_rows_that_are_no_items_are_faults_and_cost_no_other(tmp_path: Path) -> None:
    questions = [*QUESTIONS, QUESTIONS[0], "text", {"video_name": "x", "question": " ", "question_id": "v_x_1"}]
    questions += [{"question": "who", "question_id": "v_x_2"}, {"video_name": "x", "question": "y", "question_id": "z"}]
    answers = [*ANSWERS, ANSWERS[0], {"question_id": "v_x_2", "answer": "a"}, {"question_id": "gone", "answer": "b"}]
    files = {"questions": saved(tmp_path / "q.json", questions), "answers": saved(tmp_path / "a.json", answers)}
    read = ActivityNetQa().read(files)
    assert [item.id for item in read.items] == ["v_one_1", "v_one_2", "v_two_1"]
    found = Counter((fault.kind, fault.where) for fault in read.faults)
    assert found == {
        ("duplicate", "q.json row 4"): 1,
        ("malformed", "q.json row 5"): 1,
        ("malformed", "q.json row 6"): 1,
        ("no video", "q.json row 7"): 1,
        ("no answer", "q.json row 8"): 1,
        ("duplicate", "a.json row 4"): 1,
        ("unknown", "a.json row 6"): 1,
    }


def test_different_questions_that_share_an_id_are_items_of_their_own(tmp_path: Path, test_data: Path) -> None:
    shapes = test_data / "annotations" / "shapes"
    files = {kind: shapes / f"activitynetqa_style_test_{kind[0]}.json" for kind in ("questions", "answers")}
    read = ActivityNetQa().read(files)
    assert not read.faults
    assert len(read.items) == 159
    told = {item.questions[0]: (item.id, item.answer) for item in read.items if "mmaction2_test_1" in item.id}
    answers = [
        row["answer"] for row in json.loads(files["answers"].read_text()) if row["question_id"] == "v_mmaction2_test_1"
    ]
    assert told == {
        "what is the woman doing": ("v_mmaction2_test_1", answers[0]),
        "what is being cleaned": ("v_mmaction2_test_1#2", answers[1]),
    }
    predictions = {item.id: Prediction((item.questions[0],)) for item in read.items}
    forms = ActivityNetQa().write(tmp_path, read.items, predictions)
    assert all(ActivityNetQa().read_predictions([path], read.items).by_id == predictions for path in forms)
    # As other scripts write them: one id for both, some rows missing, in any order.
    rows = [
        {"id": "v_mmaction2_test_1", "question": "what is being cleaned", "pred": "a dog"},
        {"id": "v_mmaction2_test_1", "question": "what is being cleaned", "pred": "a cat"},
        {"id": "v_mmaction2_test_1", "question": "what is the woman doing", "pred": "sings"},
    ]
    found = ActivityNetQa().read_predictions([saved(tmp_path / "theirs.json", rows)], read.items)
    assert found.by_id == {"v_mmaction2_test_1": Prediction(("sings",)), "v_mmaction2_test_1#2": Prediction(("a dog",))}
    assert Counter(fault.kind for fault in found.faults) == {"duplicate": 1, "missing": 157}


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match='name it under "questions"'):
        ActivityNetQa().read({})
    with pytest.raises(FormatError, match="not a list of questions"):
        ActivityNetQa().read({"questions": saved(tmp_path / "tree.json", {"a": 1})})
    files = {
        "questions": saved(tmp_path / "q.json", QUESTIONS),
        "answers": saved(tmp_path / "a.json", [{"answer": "x"}]),
    }
    with pytest.raises(FormatError, match="cannot be paired"):
        ActivityNetQa().read(files)


def test_the_model_is_asked_plainly_or_as_lmms_eval_asks(tmp_path: Path) -> None:
    item = items_of(tmp_path)[0]
    (plain,) = ActivityNetQa().ask(item, Shown())
    (lmms,) = ActivityNetQa(question="lmms_eval").ask(item, Shown())
    assert plain.text == "what is he doing"
    assert lmms.text == "What is he doing? Answer the question using a single word or phrase."
    assert ActivityNetQa().texts != ActivityNetQa(question="lmms_eval").texts


def call(kind: Benchmark, item: Item, reply: str, protocol: str) -> Call:
    asked = kind.grade(item, "", Prediction((reply,)), protocol)
    assert isinstance(asked, Call)
    return asked


def test_the_judge_is_shown_what_each_protocol_shows_it(tmp_path: Path) -> None:
    item = items_of(tmp_path)[0]
    official = call(ActivityNetQa(), item, "{question} yoga</s>", "official")
    head = "Please evaluate the following video-based question-answer pair:\n\n"
    shown = "Question: what is he doing\nCorrect Answer: yoga\nPredicted Answer: {question} yoga</s>\n\n"
    assert official.user.startswith(head + shown)
    assert "{'pred': 'yes', 'score': 4}" in official.user
    assert official.system
    assert official == call(ActivityNetQa(), item, "{question} yoga</s>", "lmms_eval")
    vlm = call(ActivityNetQa(), item, "yoga</s>", "vlm_rlaif").user
    assert "Question: <image>\nwhat is he doing\n" in vlm
    assert "Predicted Answer: yoga</s>\n" in vlm
    assert "Predicted Answer: yoga\n" in call(ActivityNetQa(), item, " yoga</s>", "strict").user
    long = "word " * 300
    assert call(ActivityNetQa(), item, long, "llava_hound").user.count("word") == 256
    assert call(ActivityNetQa(), item, long, "official").user.count("word") == 300


def test_texts_for_the_judge_can_be_replaced_from_a_folder(tmp_path: Path) -> None:
    (item, *_) = items_of(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    (own / "qa_user.txt").write_text("Is {prediction} {answer}? {'pred': 'no'} {other}\n")
    kind = ActivityNetQa(prompts=str(own))
    asked = call(kind, item, "sport", "official")
    assert asked.user == "Is sport yoga? {'pred': 'no'} {other}"
    assert asked.system == call(ActivityNetQa(), item, "sport", "official").system
    assert kind.texts["qa_user"] != ActivityNetQa().texts["qa_user"]
    with pytest.raises(FormatError, match="no such folder"):
        call(ActivityNetQa(prompts=str(tmp_path / "gone")), item, "sport", "official")


def test_unknown_protocols_and_settings_are_refused(tmp_path: Path) -> None:
    (item, *_) = items_of(tmp_path)
    with pytest.raises(ValueError, match="msvd_qa has no protocol 'lmms_eval'; it has official"):
        MsvdQa().judged(item, "", "", "lmms_eval")
    with pytest.raises(ValueError, match="'msvd_qa' has no setting 'subtitles'"):
        benchmark("msvd_qa", subtitles=True)
    for name in ("msvd_qa", "msrvtt_qa", "tgif_qa", "activitynet_qa"):
        found = benchmark(name)
        assert isinstance(found, Benchmark)
        assert found.name == name


# Ten questions about one video each; the reply of the judge to each, None for no prediction.
JUDGED = (
    "{'pred': 'yes', 'score': 5}",
    "{'pred': 'yes', 'score': 4.8}",
    "{'pred': 'no', 'score': 1}",
    "{'pred': 'unknown', 'score': 0}",
    "{'pred': 'maybe', 'score': 2}",
    "{'pred': 'yes', 'score': 7}",
    "Sure: {'pred': 'yes', 'score': 4}",
    "{'score': 3}",
    "I cannot say",
    None,
)
# Accuracy: yes of (yes, no); score: sum of counted. Worked out by hand from the rules of each script.
BY_HAND = {
    # Verdicts yes yes no no - yes; scores 5 4 1 0 2 7; the four others are in neither.
    "official": (3 / 5, 19 / 6, 5, 4),
    "vlm_rlaif": (3 / 5, 19 / 6, 5, 4),
    # The reply without 'pred' counts in the mean, with its 3.
    "video_llava": (3 / 5, 22 / 7, 5, 3),
    # Seven are read; "unknown" holds a "no", and "maybe" holds neither.
    "lmms_eval": (4 / 6, 23 / 7, 4, 3),
    # "yes" or "no" in the whole reply: yes yes no no - yes yes - "caNNOt"; scores 5 4 1 0 2 7 4 3.
    "llava_hound": (4 / 7, 26 / 8, 3, 2),
    # Right: three readable replies of yes; points 5, 4.8, 1, 2 for none, 4: of ten.
    "strict": (3 / 10, 14.8 / 10, 0, 0),
}


def ten(folder: Path) -> tuple[tuple[Item, ...], dict[str, Prediction]]:
    rows = [
        {"video_name": f"v{n}", "question": "what", "answer": "that", "question_id": f"{n}"} for n in range(len(JUDGED))
    ]
    items = ActivityNetQa().read({"questions": saved(folder / "ten.json", rows)}).items
    return items, {item.id: Prediction(("this",)) for item in items if JUDGED[int(item.id)] is not None}


@pytest.mark.parametrize("protocol", BY_HAND)
def test_the_numbers_of_each_protocol_by_hand(protocol: str, tmp_path: Path) -> None:
    items, predictions = ten(tmp_path)
    every = graded(ActivityNetQa(), items, predictions, protocol, lambda item, _, __: JUDGED[int(item.id)] or "")
    accuracy, score = ActivityNetQa().metrics(every, protocol)
    assert [(m.name, m.group) for m in (accuracy, score)] == [("accuracy", "overall"), ("score", "overall")]
    right, points, no_verdict, no_score = BY_HAND[protocol]
    assert accuracy.value == pytest.approx(right)
    assert score.value == pytest.approx(points)
    assert (accuracy.left_out, score.left_out) == (no_verdict, no_score)
    assert (accuracy.n, score.n) == (10 - no_verdict, 10 - no_score)


def test_statuses_say_what_happened(tmp_path: Path) -> None:
    items, predictions = ten(tmp_path)
    found = {
        protocol: [
            one.grade.status
            for one in graded(
                ActivityNetQa(), items, predictions, protocol, lambda item, _, __: JUDGED[int(item.id)] or ""
            )
        ]
        for protocol in ("official", "strict")
    }
    assert found["official"] == ["ok"] * 5 + ["off the scale"] + ["no verdict"] * 3 + ["missing"]
    strict = ["ok", "ok", "ok", "no verdict", "no verdict", "out of range", "ok", "no verdict", "no verdict", "missing"]
    assert found["strict"] == strict
    assert ActivityNetQa().grade(items[0], "", Prediction((" </s>",)), "strict") == Grade("empty", False, 0.0)
    assert isinstance(ActivityNetQa().grade(items[0], "", Prediction(("",)), "official"), Call)


@pytest.mark.parametrize("protocol", [name for name in ActivityNetQa.protocols if name != "strict"])
@pytest.mark.parametrize("score", [-1, 0, 5, 6, 7])
def test_a_score_off_the_scale_counts_as_the_scripts_count_it_and_its_status_says_so(
    protocol: str, score: int, tmp_path: Path
) -> None:
    item = items_of(tmp_path)[0]
    grade = ActivityNetQa().judged(item, "", f"{{'pred': 'yes', 'score': {score}}}", protocol)
    if protocol == "llava_hound" and score < 0:  # It reads digits alone.
        assert (grade.status, grade.score) == ("ok", None)
        return
    expected = "ok" if 0 <= score <= 5 else "off the scale"
    assert (grade.status, grade.correct, grade.score) == (expected, True, float(score))
    points = ActivityNetQa().metrics([Graded(item, "", Prediction(("x",)), grade)], protocol)[1]
    assert (points.value, points.left_out) == (score, 0)


def test_numbers_are_printed_as_the_scripts_print_them(tmp_path: Path) -> None:
    items, predictions = ten(tmp_path)
    printed = {}
    for protocol in ("official", "llava_hound"):
        every = graded(ActivityNetQa(), items, predictions, protocol, lambda item, _, __: JUDGED[int(item.id)] or "")
        printed[protocol] = [metric.printed for metric in ActivityNetQa().metrics(every, protocol)]
    assert printed == {"official": ["0.6", "3.1666666666666665"], "llava_hound": ["57.14", "3.25"]}


def test_scores_come_by_type_of_question_too(tmp_path: Path) -> None:
    items = items_of(tmp_path)
    said = {"v_one_1": "{'pred': 'yes', 'score': 5}"}
    predictions = {item.id: Prediction(("x",)) for item in items}
    no = "{'pred': 'no', 'score': 1}"
    every = graded(ActivityNetQa(), items, predictions, "strict", lambda item, _, __: said.get(item.id, no))
    found = numbers(ActivityNetQa().metrics(every, "strict"))
    assert found["accuracy", "type: Motion"] == 1.0
    assert found["score", "type: Yes/No"] == 1.0
    assert found["accuracy", "overall"] == pytest.approx(1 / 3)


def test_predictions_are_written_as_each_script_reads_them_and_read_again(tmp_path: Path) -> None:
    items = items_of(tmp_path)
    predictions = {items[0].id: Prediction(('he does "yoga"\n…',)), items[2].id: Prediction(("",))}
    paths = {path.name: path for path in ActivityNetQa().write(tmp_path / "out", items, predictions)}
    assert set(paths) == {"video_chatgpt.json", "video_llava.jsonl", "vlm_rlaif.json", "llava_hound.jsonl"}
    first = {
        "video_chatgpt.json": {"video_name": "one", "Q": "what is he doing", "A": "yoga", "pred": 'he does "yoga"\n…'},
        "video_llava.jsonl": {"id": "v_one_1", "question": "what is he doing", "answer": "yoga"},
        "vlm_rlaif.json": {"id": "v_one_1", "question": "<image>\nwhat is he doing", "pred": 'he does "yoga"\n…'},
        "llava_hound.jsonl": {"query": "what is he doing", "answer": "yoga"},
    }
    for name, path in paths.items():
        text = path.read_text()
        # Video-LLaVA's scorer reads a line as Python, the others read JSON.
        rows = [ast.literal_eval(line) for line in text.splitlines()] if name == "video_llava.jsonl" else None
        rows = rows or ([json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text))
        assert len(rows) == 2
        assert first[name].items() <= rows[0].items()
        read = ActivityNetQa().read_predictions([path], items)
        assert read.by_id == predictions
        assert [(fault.kind, fault.where) for fault in read.faults] == [("missing", "v_one_2")]


def test_predictions_without_ids_belong_to_the_next_question_of_their_video(tmp_path: Path) -> None:
    rows = [{"video_name": "v", "question": "what", "answer": answer, "question_id": answer} for answer in ("a", "b")]
    items = MsvdQa().read({"questions": saved(tmp_path / "q.json", rows)}).items
    said = [{"video_name": "v", "Q": "what", "A": "?", "pred": str(n)} for n in range(3)]
    said += [{"video_name": "w", "Q": "what", "A": "?", "pred": "x"}]
    read = MsvdQa().read_predictions([saved(tmp_path / "p.json", said)], items)
    assert read.by_id == {"a": Prediction(("0",)), "b": Prediction(("1",))}
    assert [fault.kind for fault in read.faults] == ["duplicate", "unknown"]


def test_answers_without_ids_are_paired_by_place_whatever_row_is_broken(tmp_path: Path) -> None:
    questions = saved(tmp_path / "q.json", [QUESTIONS[0], "broken", QUESTIONS[2]])
    answers = saved(tmp_path / "a.json", [{"answer": "first"}, {"answer": "second"}, {"answer": "third"}])
    read = MsvdQa().read({"questions": questions, "answers": answers})
    assert [(item.id, item.answer) for item in read.items] == [("v_one_1", "first"), ("v_two_1", "third")]
    assert [(fault.kind, fault.where) for fault in read.faults] == [
        ("malformed", "q.json row 2"),
        ("unknown", "a.json row 2"),
    ]


def test_a_broken_line_costs_no_other(tmp_path: Path) -> None:
    items = items_of(tmp_path)
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "v_one_1", "pred": "a"}\n{"id": "v_one_2", "pre\n\n{"id": "v_two_1", "pred": "c"}\n')
    read = ActivityNetQa().read_predictions([path], items)
    assert read.by_id == {"v_one_1": Prediction(("a",)), "v_two_1": Prediction(("c",))}
    broken = read.faults[0]
    assert (broken.kind, broken.where) == ("malformed", "p.jsonl row 2")
    assert broken.reason.startswith("is not JSON")
    path.write_text('{"id": "v_one_1", "pred": "a"}')
    assert list(ActivityNetQa().read_predictions([path], items).by_id) == ["v_one_1"]


def test_broken_predictions_are_faults(tmp_path: Path) -> None:
    items = items_of(tmp_path)
    rows: list[Any] = [
        {"id": "v_one_1", "pred": None},
        {"id": "v_one_2", "pred": "first"},
        {"id": "v_one_2", "pred": "second"},
        {"id": "v_gone_1", "pred": "x"},
        {"id": "v_two_1", "model_prediction": {"status": "error", "message": "boom"}},
        7,
    ]
    read = ActivityNetQa().read_predictions([saved(tmp_path / "p.json.gz", rows)], items)
    assert read.by_id == {"v_one_2": Prediction(("first",))}
    assert [fault.kind for fault in read.faults] == [
        "malformed",
        "duplicate",
        "unknown",
        "malformed",
        "malformed",
        "missing",
        "missing",
    ]
    assert "its status is 'error'" in read.faults[3].reason
