"""MVBench: a folder of tasks or one file, windows, the prompt that begins the answer, and scores worked out by hand."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from scoring import metrics, said, written

from benchmarks.benchmark import Benchmark
from benchmarks.items import Shown
from benchmarks.mvbench import TASKS, MvBench, truth
from storage.errors import FormatError

BENCHMARK = MvBench()


def row(answer: str = "Red", **more: Any) -> dict[str, Any]:
    return {"video": "1.mp4", "question": "Which?", "candidates": ["Red", "Blue", "Green"], "answer": answer, **more}


def folder_of(folder: Path, **tasks: Any) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    for name, rows in tasks.items():
        written(folder / f"{name}.json", json.dumps(rows))
    return {"": folder}


# Right are A, C, C, B and B. What each scorer makes of it, by hand; 150 items have no prediction.
BY_HAND = {
    "moving_direction_0": "",  # Right for the notebook and VLMEvalKit; lmms-eval leaves it out.
    "moving_direction_1": "C) Smaller",  # Right by all.
    "moving_direction_2": "The answer is (C)",  # Wrong for the notebook, which looks at the first word.
    "moving_direction_3": "Added",  # The text of the right option: VLMEvalKit and strict read it.
    "action_localization_0": "A",  # Wrong by all.
}


def test_the_shapes_are_scored_as_by_hand(test_data: Path) -> None:
    annotations = BENCHMARK.read({"": test_data / "annotations" / "shapes" / "mvbench_style"})
    assert (len(annotations.items), annotations.faults) == (155, ())
    official = metrics(BENCHMARK, annotations, said(BY_HAND), "official")
    assert {group: (metric.printed, metric.n) for group, metric in official.items() if metric.n} == {
        "task: Moving Direction": ("50.00", 4),
        "task: Action Localization": ("0.00", 1),
        "overall": ("40.00", 5),
    }
    assert official["overall"].left_out == 150
    vlmevalkit = metrics(BENCHMARK, annotations, said(BY_HAND), "vlmevalkit")
    assert (vlmevalkit["task: Moving Direction"].printed, vlmevalkit["overall"].printed) == ("100.00", "2.58")
    lmms_eval = metrics(BENCHMARK, annotations, said(BY_HAND), "lmms_eval")
    assert (lmms_eval["task: Moving Direction"].printed, lmms_eval["overall"].printed) == ("66.6667", "50.0000")
    strict = metrics(BENCHMARK, annotations, said(BY_HAND), "strict")
    assert (strict["task: Moving Direction"].value, strict["overall"].value) == (3 / 4, 3 / 155)
    assert [
        BENCHMARK.grade(item, "", said(BY_HAND)[item.id], "strict").status
        for item in annotations.items
        if item.id in BY_HAND
    ] == [
        *("empty", "ok", "ok", "ok", "ok"),
    ]


def test_tasks_come_in_the_notebook_s_order(test_data: Path) -> None:
    annotations = BENCHMARK.read({"": test_data / "annotations" / "shapes" / "mvbench_style"})
    tasks = list(dict.fromkeys(item.groups["task"] for item in annotations.items))
    assert tasks == [task for task in TASKS if task in tasks]
    assert list(metrics(BENCHMARK, annotations, {}, "strict")) == [*(f"task: {task}" for task in tasks), "overall"]
    assert len(TASKS) == 20


def test_one_file_holds_what_the_folder_holds(tmp_path: Path) -> None:
    tasks = {"action_count": [row("Blue")], "action_sequence": [row(start=1, end=2.5), row("Green")]}
    items = BENCHMARK.read(folder_of(tmp_path / "tasks", **tasks)).items
    assert [(item.id, item.window, item.answer) for item in items] == [
        ("action_sequence_0", (1.0, 2.5), "Red"),
        ("action_sequence_1", None, "Green"),
        ("action_count_0", None, "Blue"),
    ]
    names = {file: task for task, (file, _) in TASKS.items()}
    roots = {
        "root": {"Action Count": "perception/videos/"},
        "meta": {names[file]: rows for file, rows in tasks.items()},
    }
    flat = [{**each, "task_type": names[file]} for file, rows in tasks.items() for each in rows]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file, rows in tasks.items():
            archive.writestr(f"json/{file}.json", json.dumps(rows))
    for value in (roots, {names[file]: rows for file, rows in tasks.items()}, flat):
        read = BENCHMARK.read({"": written(tmp_path / "test.json", json.dumps(value))})
        assert [(item.id, item.answer) for item in read.items] == [(item.id, item.answer) for item in items]
        assert read.items[2].video == ("perception/videos/1.mp4" if value is roots else "1.mp4")
    assert [item.id for item in BENCHMARK.read({"": tmp_path / "all.zip"}).items] == [item.id for item in items]
    one = BENCHMARK.read({"": tmp_path / "tasks" / "action_count.json"})
    assert [item.id for item in one.items] == ["action_count_0"]
    assert MvBench(official_folders=True).read({"": tmp_path / "tasks"}).items[0].video == "star/Charades_v1_480/1.mp4"


def test_bad_rows_are_faults_and_cost_no_other(tmp_path: Path) -> None:
    rows = [
        row(),
        row("Yellow"),
        row(""),
        row(candidates=["Red"]),
        row(video=""),
        row(question=None),
        row(start=5, end=5),
        row(start="0", end=1),
        row(start=3),
        3,
        row(start=-1, end=2),
    ]
    annotations = BENCHMARK.read(folder_of(tmp_path / "tasks", action_sequence=rows, notes=[1], action_count={"a": 1}))
    assert [(item.id, item.window) for item in annotations.items] == [
        ("action_sequence_0", None),
        ("action_sequence_10", (0.0, 2.0)),
    ]
    assert [fault.kind for fault in annotations.faults] == [
        *("no answer", "no answer", "malformed", "no video", "malformed"),
        *("malformed", "malformed", "malformed", "malformed", "malformed", "malformed"),
    ]
    with pytest.raises(FormatError, match="none of MVBench's tasks"):
        BENCHMARK.read({"": written(tmp_path / "list.json", json.dumps([row()]))})
    with pytest.raises(FormatError, match="holds no \\.json file"):
        BENCHMARK.read(folder_of(tmp_path / "empty"))


def test_the_prompt_begins_the_answer(tmp_path: Path) -> None:
    item = BENCHMARK.read(folder_of(tmp_path / "tasks", action_sequence=[row()])).items[0]
    (request,) = BENCHMARK.ask(item, Shown())
    assert request.text == "Question: Which?\nOptions:\n(A) Red\n(B) Blue\n(C) Green\nOnly give the best option."
    assert request.begin == "Best option:("
    assert request.system is not None
    assert request.system.startswith("Carefully watch the video and pay attention to")
    # A reply goes on from there: the bracket that the notebook puts back is not the model's.
    assert BENCHMARK.grade(item, "", said({"": "A) Red\nBecause"})[""], "official").correct is True
    assert BENCHMARK.grade(item, "", said({"": "B) Blue"})[""], "official").correct is False


def test_predictions_go_through_the_notebook_s_file(tmp_path: Path, test_data: Path) -> None:
    annotations = BENCHMARK.read({"": test_data / "annotations" / "shapes" / "mvbench_style"})
    files = BENCHMARK.write(tmp_path, annotations.items, said(BY_HAND))
    value = json.loads(files[0].read_text())
    assert value["acc_dict"] == {"Moving Direction": [2, 4], "Action Localization": [0, 1]}
    assert {"pred": "(C) Smaller", "gt": "(C) Smaller", "id": "moving_direction_1"} in value["res_list"]
    read = BENCHMARK.read_predictions(files, annotations.items)
    assert read.by_id == said(BY_HAND)
    assert [fault.kind for fault in read.faults] == ["missing"] * 150


def test_predictions_without_ids_are_told_by_their_order(tmp_path: Path) -> None:
    items = BENCHMARK.read(folder_of(tmp_path / "tasks", action_sequence=[row(), row("Blue"), row("Green")])).items
    rows = [{"pred": f"({letter}) x", "gt": truth(item)} for letter, item in zip("ABC", items, strict=True)]
    path = written(tmp_path / "test.json", json.dumps({"acc_dict": {}, "res_list": rows}))
    assert BENCHMARK.read_predictions([path], items).by_id["action_sequence_1"].replies == ("B) x",)
    with pytest.raises(FormatError, match="3 predictions without ids for 2 items"):
        BENCHMARK.read_predictions([path], items[:2])
    swapped = written(tmp_path / "swapped.json", json.dumps([rows[1], rows[0], {"pred": None}]))
    read = BENCHMARK.read_predictions([swapped], items)
    assert [fault.kind for fault in read.faults] == ["malformed"] * 3 + ["missing"] * 3
    none = written(tmp_path / "none.json", json.dumps({"acc_dict": {}, "res_list": []}))
    assert [fault.kind for fault in BENCHMARK.read_predictions([none], items).faults] == ["missing"] * 3
    with pytest.raises(FormatError, match="no res_list"):
        BENCHMARK.read_predictions([written(tmp_path / "other.json", "{}")], items)


@pytest.mark.parametrize(
    ("pred", "right"),
    [
        (" (B) Blue", True),  # Its first word is empty, and that is a part of every letter.
        ("", True),
        ("(", True),
        ("( B", True),
        (")", True),
        ("B", False),
        ("(B) Blue", False),
        ("(A) Red", True),
        ("(A) Red\n(B) Blue", True),
        ("\n(B) Blue", False),
    ],
)
def test_the_text_of_a_file_is_checked_as_it_stands(pred: str, right: bool, tmp_path: Path) -> None:
    """What the check_ans of the notebook says of it."""
    items = BENCHMARK.read(folder_of(tmp_path / "tasks", action_sequence=[row()])).items
    value = {"res_list": [{"pred": pred, "gt": "(A) Red"}]}
    read = BENCHMARK.read_predictions([written(tmp_path / "test.json", json.dumps(value))], items)
    prediction = read.by_id["action_sequence_0"]
    assert BENCHMARK.grade(items[0], "", prediction, "official").correct is right
    (file,) = BENCHMARK.write(tmp_path / "out", items, read.by_id)
    assert json.loads(file.read_text())["res_list"][0]["pred"] == pred
    # The notebook takes the blanks of a model's own reply away, and so they say nothing.
    assert BENCHMARK.grade(items[0], "", said({"": " B) Blue"})[""], "official").correct is False


def test_unknown_and_double_predictions_are_faults(tmp_path: Path) -> None:
    items = BENCHMARK.read(folder_of(tmp_path / "tasks", action_sequence=[row(), row()])).items
    ids = ["action_sequence_0", "action_sequence_0", "action_count_7", ""]
    path = written(tmp_path / "test.json", json.dumps([{"pred": "(A", "id": id} for id in ids]))
    read = BENCHMARK.read_predictions([path], items)
    assert read.by_id == said({"action_sequence_0": "A"})
    assert [fault.kind for fault in read.faults] == ["duplicate", "unknown", "malformed", "missing"]


def test_of_candidates_of_one_text_the_notebook_takes_the_last(tmp_path: Path) -> None:
    twice = row(candidates=["Red", "Blue", "Red"])
    item = BENCHMARK.read(folder_of(tmp_path / "tasks", action_sequence=[twice])).items[0]
    by_protocol = {p: BENCHMARK.grade(item, "", said({"": "A"})[""], p).correct for p in BENCHMARK.protocols}
    assert by_protocol == {"official": False, "vlmevalkit": False, "lmms_eval": True, "strict": True}


def test_it_is_a_benchmark() -> None:
    assert isinstance(BENCHMARK, Benchmark)
    with pytest.raises(ValueError, match="mvbench has no protocol"):
        BENCHMARK.metrics([], "best")
