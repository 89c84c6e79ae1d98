"""Video-MME: its files old and new, its prompt, and its table worked out by hand."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scoring import metrics, said, written

from benchmarks.benchmark import Benchmark
from benchmarks.items import Item, Shown
from benchmarks.registry import benchmark
from benchmarks.videomme import VideoMme, right_letter
from storage.errors import FormatError

BENCHMARK = VideoMme()


def question(id: str, answer: str = "A", task_type: str = "Counting Problem", **more: Any) -> dict[str, Any]:
    options = ["A. Apples.", "B. Bananas.", "C. Cherries.", "D. Dates."]
    return {
        "question_id": id,
        "task_type": task_type,
        "question": "Which?",
        "options": options,
        "answer": answer,
        **more,
    }


def video(id: str, *questions: dict[str, Any], **more: Any) -> dict[str, Any]:
    groups = {"duration": "short", "domain": "Knowledge", "sub_category": "Law"}
    return {"video_id": id, **groups, **more, "questions": list(questions)}


def file_of(folder: Path, *rows: Any, name: str = "videomme.json") -> dict[str, Path]:
    return {"": written(folder / name, json.dumps(rows))}


# What each scorer makes of it, by hand. Right are B, B, A, A, C of the first video and A, D, A, A, C of the second.
BY_HAND = {
    "001-1": "B",  # Right by all.
    "001-2": "Answer: B",  # The official script reads the A of "Answer".
    "001-3": "",  # The official script leaves it out; wrong by the others.
    "001-4": "(A) because B is wrong",  # Right by all.
    "001-5": "in an indoor batting cage",  # The text of the right option: strict alone reads it.
    "002-1": "a",  # Right, but only strict reads a small letter.
    "002-2": "Definitely D",  # Right by all, in the official script by the D of "Definitely".
    "002-3": "B \ud83d",  # Wrong by all; half of a pair is no reason to lose it.
    # 002-4 has no prediction.
    "002-5": "E",  # None of the options.
}


def test_the_data_set_s_parquet_is_read_as_its_json(tmp_path: Path) -> None:
    """Columns as lmms-eval and VLMEvalKit read them: one row a question, the file of the video under videoID."""
    about = {"video_id": "001", "videoID": "fFjv93ACGo8", "url": "https://v.example", "duration": "short"}
    about |= {"domain": "Knowledge", "sub_category": "Law"}
    rows = [{**about, **question(f"001-{n}", answer)} for n, answer in enumerate("CA", start=1)]
    path = tmp_path / "test-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    annotations = BENCHMARK.read({"": path})
    assert annotations == BENCHMARK.read(file_of(tmp_path, *rows))
    assert [(item.id, item.video, item.answer) for item in annotations.items] == [
        ("001-1", "fFjv93ACGo8", "Cherries."),
        ("001-2", "fFjv93ACGo8", "Apples."),
    ]


def test_the_shapes_are_scored_as_by_hand(test_data: Path) -> None:
    annotations = BENCHMARK.read({"": test_data / "annotations" / "shapes" / "videomme_style.json"})
    assert (len(annotations.items), annotations.faults) == (154, ())
    official = metrics(BENCHMARK, annotations, said(BY_HAND), "official")
    assert (official["overall"].printed, official["overall"].n, official["overall"].left_out) == ("60.0", 5, 149)
    assert official["duration: short"].printed == "60.0"
    assert official["domain: Sports Competition"].printed == "66.7"
    assert official["duration: short, sub_category: Exercise"].printed == "50.0"
    assert official["task_type: Counting Problem"].printed == "0.0"
    # The script prints 0 where nothing was answered.
    assert (official["domain: Artistic Performance"].printed, official["domain: Artistic Performance"].n) == ("0.0", 0)
    vlmevalkit = metrics(BENCHMARK, annotations, said(BY_HAND), "vlmevalkit")["overall"]
    assert (vlmevalkit.printed, vlmevalkit.n) == ("0.026", 154)  # 4 / 154
    assert metrics(BENCHMARK, annotations, said(BY_HAND), "lmms_eval")["overall"].printed == "2.6"
    strict = metrics(BENCHMARK, annotations, said(BY_HAND), "strict")
    assert (strict["overall"].value, strict["overall"].n) == (6 / 154, 154)
    assert strict["domain: Sports Competition"].value == 4 / 9


def test_every_item_has_a_status(test_data: Path) -> None:
    annotations = BENCHMARK.read({"": test_data / "annotations" / "shapes" / "videomme_style.json"})
    grades = {
        protocol: {
            item.id: BENCHMARK.grade(item, "", said(BY_HAND).get(item.id), protocol) for item in annotations.items[:10]
        }
        for protocol in BENCHMARK.protocols
    }
    statuses = {protocol: [grade.status for grade in each.values()] for protocol, each in grades.items()}
    ok, lost = ["ok"] * 2, ["missing", "unparsed"]
    assert statuses["official"] == [*ok, "empty", "ok", "unparsed", "unparsed", *ok, *lost]
    assert statuses["strict"] == [*ok, "empty", *ok, *ok, "ok", *lost]
    assert grades["strict"]["002-5"].parsed == "E"
    assert grades["official"]["002-4"].correct is None
    assert grades["vlmevalkit"]["002-4"].correct is grades["strict"]["002-4"].correct is False


def test_the_table_has_the_official_order(tmp_path: Path) -> None:
    multilingual = {"domain": "Multilingual", "sub_category": "Multilingual"}
    rows = [
        video("2", question("2-1", task_type="Action Reasoning"), duration="long", **multilingual),
        video("1", question("1-1"), domain="Life Record", sub_category="Food"),
        video("3", question("3-1"), domain="Knowledge", sub_category="Geography"),
    ]
    annotations = BENCHMARK.read(file_of(tmp_path, *rows))
    assert list(metrics(BENCHMARK, annotations, {}, "official")) == [
        "duration: short, domain: Knowledge",
        "duration: short, domain: Life Record",
        "duration: short, sub_category: Geography",
        "duration: short, sub_category: Food",
        "duration: short, task_type: Counting Problem",
        "duration: short",
        "duration: long, domain: Multilingual",
        "duration: long, sub_category: Multilingual",
        "duration: long, task_type: Action Reasoning",
        "duration: long",
        "domain: Knowledge",
        "domain: Life Record",
        "domain: Multilingual",
        "sub_category: Geography",
        "sub_category: Food",
        "sub_category: Multilingual",
        "task_type: Counting Problem",
        "task_type: Action Reasoning",
        "overall",
    ]


def test_old_keys_and_one_row_a_question_give_the_same_items(tmp_path: Path) -> None:
    today = [video("001", question("001-1"), question("001-2", "D")), video("002", question("002-1", "B"))]
    old = [
        {
            "video_id": row["video_id"],
            "duration_category": row["duration"],
            "video_category": row["domain"],
            "video_sub_category": row["sub_category"],
            "questions": [
                {**{k: v for k, v in q.items() if k != "options"}, "choices": q["options"]} for q in row["questions"]
            ],
        }
        for row in today
    ]
    flat = [
        {
            **{key: value for key, value in row.items() if key != "questions"},
            **each,
            "video_id": "9",
            "videoID": row["video_id"],
        }
        for row in today
        for each in row["questions"]
    ]
    plain = BENCHMARK.read(file_of(tmp_path, *today)).items
    assert [item.answer for item in plain] == ["Apples.", "Dates.", "Bananas."]
    for rows in (old, flat):
        assert [_known(item) for item in BENCHMARK.read(file_of(tmp_path, *rows)).items] == [
            _known(item) for item in plain
        ]


def _known(item: Item) -> tuple[Any, ...]:
    return item.id, item.video, item.questions, item.options, item.answer, dict(item.groups)


def test_packed_files_and_json_lines_are_read(tmp_path: Path) -> None:
    rows = [video("1", question("1-1")), video("2", question("2-1"))]
    lines = written(tmp_path / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("rows.json", json.dumps(rows))
    for path in (lines, tmp_path / "rows.json.gz", tmp_path / "rows.zip"):
        assert [item.id for item in BENCHMARK.read({"": path}).items] == ["1-1", "2-1"]


def test_bad_rows_are_faults_and_cost_no_other(tmp_path: Path) -> None:
    annotations = BENCHMARK.read(
        file_of(
            tmp_path,
            video("1", question("1-1"), question("1-1"), question("1-2", ""), question("1-3", "E"), "no question"),
            video("2", question("2-1", options=["A. One."]), {"task_type": "x"}, question("2-3")),
            video("3"),
            video("", question("4-1")),
            7,
        )
    )
    assert [item.id for item in annotations.items] == ["1-1", "2-3"]
    assert [(fault.kind, fault.where.removeprefix("videomme.json ")) for fault in annotations.faults] == [
        ("duplicate", "row 1 question 2"),
        ("no answer", "row 1 question 3"),
        ("no answer", "row 1 question 4"),
        ("malformed", "row 1 question 5"),
        ("malformed", "row 2 question 1"),
        ("malformed", "row 2 question 2"),
        ("malformed", "row 3"),
        ("no video", "row 4 question 1"),
        ("malformed", "row 5"),
    ]


def test_a_broken_line_costs_no_other(tmp_path: Path) -> None:
    rows = [{**question(f"1-{number}"), "videoID": "v", "response": "A"} for number in range(3)]
    lines = [json.dumps(row) for row in rows]
    path = written(tmp_path / "rows.json", "\n".join([lines[0], lines[1][:20], lines[2]]))
    annotations = BENCHMARK.read({"": path})
    assert [item.id for item in annotations.items] == ["1-0", "1-2"]
    assert [fault.where for fault in annotations.faults] == ["rows.json row 2"]
    predictions = BENCHMARK.read_predictions([path], annotations.items)
    assert list(predictions.by_id) == ["1-0", "1-2"]
    assert [fault.kind for fault in predictions.faults] == ["malformed"]


def test_the_public_template_is_refused_with_the_place_of_its_fault(tmp_path: Path) -> None:
    path = written(tmp_path / "template.json", '[{"video_id": "001",\n "questions": [{"question_id": "001-1"},\n ]}\n]')
    with pytest.raises(FormatError, match=r"comma before a closing bracket at line 2"):
        BENCHMARK.read({"": path})
    with pytest.raises(FormatError, match="not a list"):
        BENCHMARK.read({"": written(tmp_path / "one.json", "{}")})


def test_the_prompt_is_the_readme_s(tmp_path: Path) -> None:
    item = BENCHMARK.read(file_of(tmp_path, video("1", question("1-1")))).items[0]
    without = (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        "letter (A, B, C, or D) of the correct option.\nWhich?\nA. Apples.\nB. Bananas.\nC. Cherries.\nD. Dates.\n"
        "The best answer is:"
    )
    spoken = Shown((1.0,), subtitles=("Hi guys,", "welcome."))
    assert [request.text for request in BENCHMARK.ask(item, spoken)] == [without]
    heard = benchmark("videomme", subtitles=True)
    assert heard.ask(item, spoken)[0].text == (
        f"This video's subtitles are listed below:\nHi guys,\nwelcome.\n{without}"
    )
    # Most videos have no subtitle file; some have none at these times.
    assert heard.ask(item, Shown())[0].text == heard.ask(item, Shown(subtitles=()))[0].text == without
    assert set(heard.texts) - set(BENCHMARK.texts) == {"subtitles"}


def test_written_predictions_are_what_the_official_script_counts(tmp_path: Path, test_data: Path) -> None:
    annotations = BENCHMARK.read({"": test_data / "annotations" / "shapes" / "videomme_style.json"})
    files = BENCHMARK.write(tmp_path, annotations.items, said(BY_HAND))
    read = BENCHMARK.read_predictions(files, annotations.items)
    assert read.by_id == said(BY_HAND)
    assert {fault.kind for fault in read.faults} == {"missing"}
    assert len(read.faults) == 154 - len(BY_HAND)
    # The keys that eval_your_results.py (4e7566d) takes, as it takes them with skip_missing.
    counted = [
        (item["video_category"], item["video_subcategory"], each["task_type"], each["response"], each["answer"])
        for item in json.loads(files[0].read_text())
        if item["duration_category"] == "short" and not item["missing"]
        for each in item["questions"]
    ]
    assert len(counted) == 10
    assert [row[3:] for row in counted][:3] == [("B", "B"), ("Answer: B", "B"), ("", "A")]
    # Today's keys stand there too: what was written can be read as annotations.
    assert [_known(item) for item in BENCHMARK.read({"": files[0]}).items] == [_known(i) for i in annotations.items]


def test_bad_predictions_are_faults(tmp_path: Path) -> None:
    annotations = BENCHMARK.read(file_of(tmp_path, video("1", *(question(f"1-{number}") for number in range(5)))))
    rows = [
        video("1", question("1-0", response="A"), question("1-0", response="B"), question("1-1", response=3)),
        video("1", question("1-2", response=None), question("9-9", response="A"), question("", response="A"), 5),
        question("1-3", response=""),
    ]
    read = BENCHMARK.read_predictions([file_of(tmp_path, *rows, name="predictions.json")[""]], annotations.items)
    assert read.by_id == said({"1-0": "A", "1-3": ""})
    assert [fault.kind for fault in read.faults] == [
        *("duplicate", "malformed", "unknown", "malformed", "malformed"),
        *("missing", "missing", "missing"),
    ]


def test_the_official_script_may_want_all_videos(tmp_path: Path) -> None:
    annotations = BENCHMARK.read(file_of(tmp_path, video("1", question("1-1"))))
    whole = VideoMme(skip_missing=False)
    with pytest.raises(ValueError, match="300 videos a duration"):
        metrics(whole, annotations, {}, "official")
    assert metrics(whole, annotations, {}, "strict")["overall"].value == 0
    all_of_them = BENCHMARK.read(file_of(tmp_path, *(video(str(n), question(f"{n}-1")) for n in range(300))))
    replies = {f"{number}-1": "A" for number in range(299)}
    assert metrics(whole, all_of_them, said(replies), "official")["overall"].printed == "100.0"


def test_options_of_one_text_are_told_apart_by_the_letter_given(tmp_path: Path) -> None:
    options = ["A. Red.", "B. Blue.", "C. Red.", "D. Green."]
    item = BENCHMARK.read(file_of(tmp_path, video("1", question("1-1", "C", options=options)))).items[0]
    assert right_letter(item) == "C"
    assert BENCHMARK.grade(item, "", said({"": "C"})[""], "official").correct is True
    assert BENCHMARK.grade(item, "", said({"": "A"})[""], "official").correct is False
    # Both are the right answer, in truth.
    assert BENCHMARK.grade(item, "", said({"": "A"})[""], "strict").correct is True


def test_it_is_a_benchmark_without_a_judge(tmp_path: Path) -> None:
    assert isinstance(BENCHMARK, Benchmark)
    item = BENCHMARK.read(file_of(tmp_path, video("1", question("1-1")))).items[0]
    with pytest.raises(ValueError, match="no judge"):
        BENCHMARK.judged(item, "", "yes", "strict")
    with pytest.raises(ValueError, match="it has official"):
        BENCHMARK.grade(item, "", None, "best")
