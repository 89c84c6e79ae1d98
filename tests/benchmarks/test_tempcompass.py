"""TempCompass: questions and predictions as trees, rules first and then a judge, and the numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graders import graded, numbers

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Call, Grade
from benchmarks.items import Annotations, Prediction, Shown
from benchmarks.tempcompass import TempCompass
from storage.errors import FormatError
from tasks.evaluation.grades import ASKED_AGAIN

TC = TempCompass()
CHOICE = {"question": "What is he doing?\nA. running\nB. sitting", "answer": "B. sitting"}
TREES: dict[str, dict[str, Any]] = {
    "multi-choice": {
        "1": {"action": [CHOICE, {"question": "And then?\nA. up\nB. down", "answer": "A. up"}]},
        "2": {"order": [{"question": "Which first?\nA. red\nB. blue", "answer": "A. red"}]},
    },
    "yes_no": {"1": {"action": [{"question": "Does he sit?", "answer": "yes"}]}},
    "caption_matching": {
        "1": {
            "action": [
                {"question": "Which fits?\nCaption A: He runs.\nCaption B: He sits.", "answer": "Caption B: He sits."}
            ]
        }
    },
    "captioning": {"1": {"action": [{"question": "Information A: ...\nGenerated Caption:", "answer": "A. other"}]}},
}
META = {"1": {"eval_dim": {"action": {"type": "fine-grained action"}, "order": None}}}
IDS = (
    "multi-choice/1/action/0",
    "multi-choice/1/action/1",
    "multi-choice/2/order/0",
    "yes_no/1/action/0",
    "caption_matching/1/action/0",
    "captioning/1/action/0",
)


def saved(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def read(folder: Path, kind: TempCompass = TC, **changed: Any) -> Annotations:
    trees = TREES | {"meta_info": META} | changed
    return kind.read({name: saved(folder / f"{name}.json", tree) for name, tree in trees.items() if tree is not None})


def test_items_have_their_task_dimension_and_fine_aspect(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert not found.faults
    assert tuple(item.id for item in found.items) == IDS
    assert found.items[0].groups == {"task": "multi-choice", "dim": "action", "aspect": "fine-grained action"}
    assert found.items[2].groups["aspect"] == "order"
    assert found.items[5].source["mc_question"] == CHOICE["question"]
    assert "aspect" not in read(tmp_path, meta_info=None).items[0].groups
    asked = [TC.ask(item, Shown())[0].text.rpartition("\n")[2] for item in found.items]
    option, yes_no = "Please directly give the best option:", "Please answer yes or no:"
    assert asked == [option, option, option, yes_no, option, "Generated Caption:"]
    assert isinstance(TC, Benchmark)


def test_lists_as_the_data_set_has_them_are_read_too(tmp_path: Path) -> None:
    row = {"video_id": "9", "dim": "speed", "question": "Describe.", "answer": "A. x"}
    rows = [{**row, "mc_question": "Fast?\nA. yes\nB. no", "mc_answer": "A. yes"}, row]
    found = TC.read({"captioning": saved(tmp_path / "c.json", rows)})
    assert [item.id for item in found.items] == ["captioning/9/speed/0"]
    assert [(fault.kind, fault.where) for fault in found.faults] == [("no answer", "c.json row 2")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    assert TC.read({"captioning": tmp_path / "c.parquet"}).items == found.items


def test_bad_rows_are_faults(tmp_path: Path) -> None:
    tree = {
        "1": {"action": [{"question": "Q", "answer": ""}, "text", {"answer": "A. x"}]},
        "2": [],
        "3": {"speed": {"question": 1}},
    }
    found = read(tmp_path, TC, **{"multi-choice": tree, "captioning": None})
    assert [fault.kind for fault in found.faults] == ["no answer", "malformed", "malformed", "no answer"]
    with pytest.raises(FormatError, match="name some of multi-choice"):
        TC.read({})
    with pytest.raises(FormatError, match="captions are scored by a judge"):
        read(tmp_path, TempCompass(judge=False))


SAID = {IDS[0]: "B</s>", IDS[1]: "It is up", IDS[2]: "C.", IDS[3]: "Nothing", IDS[4]: "B.", IDS[5]: "A man sits."}


def run(
    folder: Path, protocol: str, said: dict[str, str | None], judge: dict[str, str]
) -> dict[tuple[str, str], float]:
    items = read(folder).items
    predictions = {id: Prediction(() if text is None else (text,)) for id, text in said.items()}
    every = graded(TC, items, predictions, protocol, lambda item, _, __: judge[item.id])
    return numbers(TC.metrics(every, protocol))


JUDGE = {IDS[0]: "Incorrect", IDS[1]: "Correct", IDS[3]: "Incorrect", IDS[4]: "Correct", IDS[5]: ""}
BY_HAND = {
    # Right: B, "It is up" by the judge, "B."; "Nothing" is a no; the caption's judge says nothing: -1 of six.
    "official": (
        3 - 1,
        {"multi-choice": 2 / 3, "yes_no": 0.0, "caption_matching": 1.0, "captioning": -1.0},
        (2 / 3, 1.0),
    ),
    # "B</s>" is not "B": the judge decides, against it. -1 counts as 0.
    "lmms_eval": (2, {"multi-choice": 1 / 3, "yes_no": 0.0, "caption_matching": 1.0, "captioning": 0.0}, (1 / 3, 1.0)),
    "vlmevalkit": (
        2 - 1,
        {"multi-choice": 1 / 3, "yes_no": 0.0, "caption_matching": 1.0, "captioning": -1.0},
        (1 / 3, 1.0),
    ),
    # "C." is no option; "Nothing" goes to the judge.
    "strict": (3, {"multi-choice": 2 / 3, "yes_no": 0.0, "caption_matching": 1.0, "captioning": 0.0}, (1 / 3, 0.0)),
}


@pytest.mark.parametrize("protocol", BY_HAND)
def test_numbers_by_hand(protocol: str, tmp_path: Path) -> None:
    found = run(tmp_path, protocol, dict(SAID), JUDGE)
    right, by_task, matched = BY_HAND[protocol]
    assert found["accuracy", "overall"] == pytest.approx(right / 6)
    for task, value in by_task.items():
        assert found["accuracy", f"task: {task}"] == pytest.approx(value)
    assert found["match success", "task: multi-choice"] == pytest.approx(matched[0])
    assert found["match success", "task: yes_no"] == matched[1]
    assert found["accuracy", "dim: order"] == found["accuracy", "task: multi-choice, dim: order"] == 0.0
    # The script's own table says 0.0 of captions, though it has no rules for them.
    assert found.get(("match success", "task: captioning")) == (None if protocol == "strict" else 0.0)
    aspect = "task: multi-choice, aspect: fine-grained action"
    assert found["accuracy", aspect] == found["accuracy", "task: multi-choice, dim: action"]


def test_official_prints_percents_with_one_digit(tmp_path: Path) -> None:
    items = read(tmp_path).items
    predictions = {id: Prediction((text,)) for id, text in SAID.items()}
    every = graded(TC, items, predictions, "official", lambda item, _, __: JUDGE[item.id])
    assert TC.metrics(every, "official")[1].printed == "66.7"
    assert TC.metrics(every, "vlmevalkit")[1].printed == "66.67"


def test_missing_null_and_empty_predictions_are_told_apart(tmp_path: Path) -> None:
    items = read(tmp_path).items
    assert TC.grade(items[0], "", None, "official") == Grade("missing")
    assert TC.grade(items[0], "", None, "strict") == Grade("missing", False, 0.0)
    assert TC.grade(items[5], "", Prediction(()), "official") == Grade("empty", False, 0.0)
    assert isinstance(TC.grade(items[0], "", Prediction(("",)), "official"), Call)
    assert TC.grade(items[0], "", Prediction((" </s>",)), "strict") == Grade("empty", False, 0.0)
    said: dict[str, str | None] = {IDS[0]: "B", IDS[1]: None}
    assert run(tmp_path, "official", said, JUDGE)["accuracy", "task: multi-choice"] == 1 / 2
    assert run(tmp_path, "strict", said, JUDGE)["accuracy", "task: multi-choice"] == 1 / 3


@pytest.mark.parametrize(
    ("protocol", "grade"),
    [
        ("official", Grade("no verdict", False, 0.0, judged=True)),
        ("vlmevalkit", Grade("unparsed", False, 0.0, judged=True)),
        ("strict", Grade("no verdict", False, 0.0, judged=True)),
    ],
)
def test_a_judge_that_says_neither_word(protocol: str, grade: Grade, tmp_path: Path) -> None:
    assert TC.judged(read(tmp_path).items[0], "", "who knows", protocol) == grade


def test_a_judge_that_gives_nothing_for_a_caption(tmp_path: Path) -> None:
    item = read(tmp_path).items[5]
    for protocol in ("official", "vlmevalkit", "lmms_eval"):
        silent = TC.judged(item, "", "", protocol)
        assert silent == Grade("unparsed", False, -1.0, judged=True)
        assert silent.status not in ASKED_AGAIN, "a second reply could make it right"
    assert TC.judged(item, "", "", "strict").status in ASKED_AGAIN
    assert TC.judged(item, "", "Answer: B", "official").correct is False
    assert TC.judged(item, "", "Answer: B", "strict").correct is True
    assert TC.judged(item, "", "Answer: A. running", "strict") == Grade("ok", False, 0.0, "A", judged=True)


def test_a_caption_that_was_never_judged_is_summed_as_the_scripts_sum_it(tmp_path: Path) -> None:
    items = read(tmp_path).items
    every = graded(TC, items, {id: Prediction((text,)) for id, text in SAID.items()}, "official", lambda *_: "Correct")
    lost = [type(one)(one.item, one.aspect, one.prediction, Grade("no verdict")) for one in every]
    found = {protocol: numbers(TC.metrics(lost, protocol)) for protocol in TC.protocols}
    assert found["official"]["accuracy", "overall"] == -1 / 6
    assert found["lmms_eval"]["accuracy", "overall"] == found["strict"]["accuracy", "overall"] == 0.0


def test_what_the_judge_is_asked(tmp_path: Path) -> None:
    items = read(tmp_path).items
    rated = TC.grade(items[3], "", Prediction(("perhaps</s>",)), "official")
    assert isinstance(rated, Call)
    tail = "Yes/No Question:\nDoes he sit?\nGround-Truth Answer: yes\nModel Prediction: perhaps"
    assert rated.user.endswith(tail)
    assert '"Correct"' in rated.user
    caption = TC.grade(items[5], "", Prediction(("He sits.",)), "official")
    lmms = TC.grade(items[5], "", Prediction(("He sits.",)), "lmms_eval")
    assert isinstance(caption, Call)
    assert isinstance(lmms, Call)
    assert caption.user.endswith(f"Video Description:He sits.\nMulti-Choice Question:\n{CHOICE['question']}")
    assert lmms.user == caption.user + "\nAnswer:"


def test_without_a_judge_what_the_rules_do_not_find_is_wrong(tmp_path: Path) -> None:
    kind = TempCompass(judge=False)
    items = read(tmp_path, kind, captioning=None).items
    assert kind.grade(items[1], "", Prediction(("It is up",)), "official") == Grade("unparsed", False, 0.0)


def test_trees_come_back_as_they_were_written_and_response_is_a_prediction(tmp_path: Path) -> None:
    items = read(tmp_path).items
    made = {id: Prediction((text,)) for id, text in SAID.items() if id != IDS[1]} | {IDS[3]: Prediction(())}
    paths = TC.write(tmp_path / "out", items, made)
    assert [path.name for path in paths] == [
        "multi-choice.json",
        "yes_no.json",
        "caption_matching.json",
        "captioning.json",
    ]
    tree = json.loads(paths[0].read_text())
    assert tree["1"]["action"] == [{**CHOICE, "prediction": "B</s>", "item_id": IDS[0]}]
    found = TC.read_predictions(paths, items)
    assert found.by_id == made
    assert [(fault.kind, fault.where) for fault in found.faults] == [("missing", IDS[1])]
    other = {
        "1": {
            "action": [
                {**CHOICE, "response": "A"},
                {**CHOICE, "response": "B"},
                {"question": "?", "prediction": "x"},
                CHOICE,
            ]
        }
    }
    found = TC.read_predictions([saved(tmp_path / "p.json", other)], items[:1])
    assert found.by_id == {IDS[0]: Prediction(("A",))}
    assert [fault.kind for fault in found.faults] == ["duplicate", "unknown", "malformed"]


def test_one_question_asked_twice_keeps_its_own_predictions(tmp_path: Path) -> None:
    twice = {"1": {"action": [TREES["captioning"]["1"]["action"][0]] * 3}}
    items = read(tmp_path, captioning=twice).items
    made = {f"captioning/1/action/{number}": Prediction((f"{number}",)) for number in (1, 2)}
    assert TC.read_predictions(TC.write(tmp_path / "out", items, made), items).by_id == made
