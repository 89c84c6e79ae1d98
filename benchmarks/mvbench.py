"""MVBench (arXiv 2311.17005): 20 tasks of temporal understanding, multiple choice, some about a part of a video.

Official scorer: OpenGVLab/Ask-Anything@4dd8210, video_chat2/mvbench.ipynb.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import choices
from benchmarks.benchmark import ByRules, check_protocol
from benchmarks.files import json_files, json_of_file, one_file, write_json
from benchmarks.grades import Grade, Graded, Status
from benchmarks.items import Annotations, Item, Prediction, Predictions, Request, Shown, predicted
from benchmarks.metrics import Metric
from benchmarks.multiple_choice import accuracies, lettered, options_at, reply_of, strict_grade
from benchmarks.rows import Broken, ItemRows, PredictionRows, Row, RowError, text_of
from storage.errors import FormatError

SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)
INSTRUCTION = "Only give the best option."
BEGIN = "Best option:("

# Each task's name, file and folder of videos in the published archive, in the notebook's order.
_CLEVRER, _PERCEPTION, _CHARADES = "clevrer/video_validation", "perception/videos", "star/Charades_v1_480"
TASKS = {
    "Action Sequence": ("action_sequence", _CHARADES),
    "Action Prediction": ("action_prediction", _CHARADES),
    "Action Antonym": ("action_antonym", "ssv2_video"),
    "Fine-grained Action": ("fine_grained_action", "Moments_in_Time_Raw/videos"),
    "Unexpected Action": ("unexpected_action", "FunQA_test/test"),
    "Object Existence": ("object_existence", _CLEVRER),
    "Object Interaction": ("object_interaction", _CHARADES),
    "Object Shuffle": ("object_shuffle", _PERCEPTION),
    "Moving Direction": ("moving_direction", _CLEVRER),
    "Action Localization": ("action_localization", "sta/sta_video"),
    "Scene Transition": ("scene_transition", "scene_qa/video"),
    "Action Count": ("action_count", _PERCEPTION),
    "Moving Count": ("moving_count", _CLEVRER),
    "Moving Attribute": ("moving_attribute", _CLEVRER),
    "State Change": ("state_change", _PERCEPTION),
    "Fine-grained Pose": ("fine_grained_pose", "nturgbd"),
    "Character Order": ("character_order", _PERCEPTION),
    "Egocentric Navigation": ("egocentric_navigation", "vlnqa"),
    "Episodic Reasoning": ("episodic_reasoning", "tvqa/frames_fps3_hq"),
    "Counterfactual Inference": ("counterfactual_inference", _CLEVRER),
}
_BY_NAME = {name: task for task, (file, _) in TASKS.items() for name in (task, file)}
_PRINTED: dict[str, dict[str, Any]] = {
    "official": {"digits": 2, "scale": 100.0},
    "vlmevalkit": {"digits": 2, "scale": 100.0},
    "lmms_eval": {"digits": 4, "scale": 100.0},
    "strict": {},
}


@dataclass(frozen=True)
class MvBench(ByRules):
    """MVBench.

    Attributes:
        official_folders: videos are named with the folder of their task in the published archive in front, such as
            "clevrer/video_validation/video_10009.mp4"; else as their file writes them.
    """

    official_folders: bool = False

    name: ClassVar[str] = "mvbench"
    source: ClassVar[str] = "https://github.com/OpenGVLab/Ask-Anything/tree/main/video_chat2"
    protocols: ClassVar[tuple[str, ...]] = ("official", "vlmevalkit", "lmms_eval", "strict")
    files: ClassVar[Mapping[str, str]] = {"": "the folder (or zip) of the tasks' JSON files, or one JSON file of all"}
    max_new_tokens: ClassVar[int] = 100
    temperature: ClassVar[float] = 0.0
    folder_fps: ClassVar[float] = 3.0  # Of Episodic Reasoning, whose videos are folders of frames.

    @property
    def texts(self) -> Mapping[str, str]:
        return {"system": SYSTEM, "instruction": INSTRUCTION, "begin": BEGIN}

    def read(self, files: Mapping[str, Path]) -> Annotations:
        """The questions of a folder of task files, of one task's file, or of all tasks in one file: by task, under
        "meta" with the tasks' folders under "root", or as a list whose rows name their `task_type`.

        Raises:
            FormatError: a file cannot be read at all, or none holds a task.
        """
        return ItemRows().read(self._rows(one_file(self.name, files)), _item)

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:
        """The notebook's prompt; the answer begins with "Best option:("."""
        del shown
        options = [f"({letter}) {text}" for letter, text in lettered(item.options).items()]
        text = "\n".join([f"Question: {item.questions[0]}", "Options:", *options, INSTRUCTION])
        return (Request(text, system=SYSTEM, begin=BEGIN),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade:
        """The grade by rules. "official": an empty reply is right for every question, and so is one of a file that
        begins with a blank; an item without a prediction leaves the denominator. "lmms_eval": an empty reply does.
        """
        del aspect
        check_protocol(self, protocol)
        if protocol == "strict":
            return strict_grade(item, prediction)
        reply = reply_of(prediction)
        if reply is None:
            return Grade("missing", correct=False if protocol == "vlmevalkit" else None)
        if protocol == "lmms_eval" and not reply:
            return Grade("empty")
        status: Status = "ok" if reply.strip() else "empty"
        if protocol == "official":
            return Grade(status, correct=choices.check_ans(_scored_text(prediction), truth(item)))
        return Grade(status, correct=_SCORERS[protocol](item, reply))

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """Accuracy of each task, and over all items (with all 4,000 of them also the mean of the tasks)."""
        check_protocol(self, protocol)
        return accuracies(graded, _groups, _place, **_PRINTED[protocol])

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        """Writes the notebook's file: `res_list` of what was predicted and what is right, and `acc_dict`, the counts
        of each task by the notebook's check. Its rows have no ids; ours do.
        """
        known = predicted(items, predictions)
        counts: dict[str, list[int]] = {}
        for item, prediction in known:
            count = counts.setdefault(item.groups["task"], [0, 0])
            count[0] += self.grade(item, "", prediction, "official").correct is True
            count[1] += 1
        rows = [{"pred": _scored_text(prediction), "gt": truth(item), "id": item.id} for item, prediction in known]
        return write_json(folder / "mvbench.json", {"acc_dict": counts, "res_list": rows})

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        """The predictions of the notebook's files. Rows without an id are taken in the items' order, if there is one
        for each item; the right answer that they repeat must be the item's.

        Raises:
            FormatError: a file cannot be read, holds no `res_list`, or fewer or more rows without ids than items.
        """
        found = PredictionRows(items)
        for path in files:
            rows, unnamed = _predictions(path, len(items))
            for number, (where, row) in enumerate(rows):
                if found.is_object(row, where):
                    found.read(where, items[number].id if unnamed else text_of(row, "id"), partial(_prediction, row))
        return found.predictions

    def _rows(self, path: Path) -> Iterator[tuple[str, Any]]:
        """Each row with its task, number and the folder of its video; what is none as it is."""
        any_task = False
        # In the notebook's order, in which its predictions come without ids.
        for file, name, rows, root in sorted(_lists(path), key=lambda each: _order(each[1])):
            task = _BY_NAME.get(name)
            if task is None:
                yield file, Broken(f"{name!r} is none of the 20 tasks: take it out of the folder.")
                continue
            any_task = True
            if not isinstance(rows, list):
                yield file, Broken(f"task {task!r} is no list of questions.")
                continue
            folder = root or (TASKS[task][1] if self.official_folders else "")
            for number, row in enumerate(rows):
                where = f"{file} {TASKS[task][0]} row {number + 1}"
                placed = {"task_type": task, "number": number, "folder": folder}
                yield where, {**row, **placed} if isinstance(row, dict) else row
        if not any_task:
            raise FormatError(f"{path}: holds none of MVBench's tasks, such as action_sequence.json.")


def truth(item: Item) -> str:
    """The right option as the notebook writes it: "(A) text". Of options with one text it takes the last."""
    place = len(item.options) - 1 - item.options[::-1].index(item.answer)
    return f"({choices.LETTERS[place]}) {item.answer}"


def official_prediction(reply: str) -> str:
    """What the notebook keeps of a reply: its first line, with the "(" back that the answer was begun with."""
    return "(" + reply.strip().split("\n")[0]


def _scored_text(prediction: Prediction | None) -> str:
    """What the notebook's check sees: of a file, its text as it stands; of a reply to us, what the notebook keeps."""
    if prediction is not None and prediction.written is not None:
        return prediction.written
    return official_prediction(reply_of(prediction) or "")


def _vlmevalkit(item: Item, reply: str) -> bool:
    right = truth(item)
    return choices.check_ans_vlmevalkit(reply, right) or choices.can_infer(reply, lettered(item.options)) == right[1]


def _lmms_eval(item: Item, reply: str) -> bool:
    return choices.mcq_acc(choices.LETTERS[item.right], reply)


_SCORERS: dict[str, Callable[[Item, str], bool]] = {
    "vlmevalkit": _vlmevalkit,
    "lmms_eval": _lmms_eval,
}


def _order(name: str) -> int:
    return list(TASKS).index(_BY_NAME[name]) if name in _BY_NAME else len(TASKS)


def _lists(path: Path) -> Iterator[tuple[str, str, Any, str]]:
    """File, task's name, rows and folder of each list of questions."""
    for name, value in json_files(path).items():
        file = f"{name}.json"
        if isinstance(value, dict):
            roots = value.get("root") if isinstance(value.get("root"), dict) else {}
            tasks = value["meta"] if isinstance(value.get("meta"), dict) else value
            yield from ((file, task, rows, str((roots or {}).get(task, ""))) for task, rows in tasks.items())
        elif isinstance(value, list) and name not in _BY_NAME and any(_task(row) for row in value):
            by_task: dict[str, list[Any]] = {}
            for row in value:
                by_task.setdefault(_task(row) or "(no task_type)", []).append(row)
            yield from ((file, task, rows, "") for task, rows in by_task.items())
        else:
            yield file, name, value, ""


def _task(row: Any) -> str:
    return text_of(row, "task_type", "task", "sub_task") if isinstance(row, dict) else ""


def _item(row: Row) -> Item:
    question, video = text_of(row, "question"), text_of(row, "video")
    if not question:
        raise RowError("malformed", "has no question.")
    if not video:
        raise RowError("no video", "names no video.")
    options = options_at(row, "candidates", "options")
    answer = text_of(row, "answer")
    if not answer:
        raise RowError("no answer", "has no answer to score against.")
    if answer not in options:
        raise RowError("no answer", f"the answer {answer!r:.60} is none of the {len(options)} candidates.")
    return Item(
        id=f"{TASKS[row['task_type']][0]}_{row['number']}",
        video="/".join(part.strip("/") for part in (row["folder"], video) if part) if row["folder"] else video,
        questions=(question,),
        answer=answer,
        options=options,
        window=_window(row),
        groups={"task": row["task_type"]},
        source={key: value for key, value in row.items() if key not in {"number", "folder"}},
    )


def _window(row: Row) -> tuple[float, float] | None:
    """The part of the video that a row is about, seconds. Raises RowError for one that is none."""
    start, end = row.get("start"), row.get("end")
    if start is None and end is None:
        return None
    if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in (start, end)):
        raise RowError("malformed", f"start and end must be seconds, not {start!r} and {end!r}.")
    assert start is not None
    assert end is not None
    if not 0 <= max(start, 0) < end:
        raise RowError("malformed", f"its part of the video ends at {end} s, not after its start at {start} s.")
    return float(max(start, 0)), float(end)


def _groups(item: Item) -> tuple[str, ...]:
    return f"task: {item.groups['task']}", "overall"


def _place(group: str) -> int:
    return [*(f"task: {task}" for task in TASKS), "overall"].index(group)


def _predictions(path: Path, n_items: int) -> tuple[list[tuple[str, Any]], bool]:
    """The rows of a file, and whether they have no ids: then they are in the items' order."""
    value = json_of_file(path)
    rows = value.get("res_list") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise FormatError(f"{path}: holds no res_list of predictions.")
    unnamed = bool(rows) and not any(isinstance(row, dict) and "id" in row for row in rows)
    if unnamed and len(rows) != n_items:
        raise FormatError(
            f"{path}: {len(rows)} predictions without ids for {n_items} items: they cannot be told apart. "
            "Give every row the id of its item, such as action_sequence_0."
        )
    return [(f"{path.name} row {number}", row) for number, row in enumerate(rows, start=1)], unnamed


def _prediction(row: Row, item: Item) -> Prediction:
    if not isinstance(row.get("pred"), str):
        raise RowError("malformed", f"the prediction for {item.id!r} is no text but {row.get('pred')!r:.60}.")
    if "gt" in row and row["gt"] != truth(item):
        raise RowError("malformed", f"its gt {row['gt']!r:.60} is not that of {item.id!r}: another order of items?")
    reply = row["pred"].removeprefix("(")
    return Prediction((reply,), written=None if official_prediction(reply) == row["pred"] else row["pred"])
