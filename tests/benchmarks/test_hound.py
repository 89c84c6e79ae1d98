"""LLaVA-Hound's own judge, which is shown a true caption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from graders import graded

from benchmarks.benchmark import Benchmark
from benchmarks.grades import Call, Grade
from benchmarks.hound import LlavaHound
from benchmarks.items import Annotations, Item, Prediction, Shown
from storage.errors import FormatError

HOUND = LlavaHound()
REPLIES = ("Explanation: 5 of 5\nScore: 3", "2 and 4 and 4", "nothing", "Score: 7", "Score: 2.9", None)


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def read(folder: Path, captions: list[Any]) -> Annotations:
    turns = [{"from": "human", "value": "<video>\nWhat now?"}, {"from": "gpt", "value": "A jump."}]
    rows = [{"id": f"{n}_1", "video": f"frames/v_{n}.x", "conversations": turns} for n in range(len(REPLIES))]
    return HOUND.read({"questions": lines(folder / "q.jsonl", rows), "captions": lines(folder / "c.jsonl", captions)})


def items(folder: Path) -> tuple[Item, ...]:
    found = read(folder, [{"video": f"/other/v_{n}", "caption": f"Caption {n}."} for n in range(len(REPLIES))])
    assert not found.faults
    return found.items


def test_the_judge_is_shown_the_caption(tmp_path: Path) -> None:
    item = items(tmp_path)[1]
    assert [request.text for request in HOUND.ask(item, Shown())] == ["What now?"]
    call = HOUND.grade(item, "", Prediction(("word " * 300,)), "official")
    assert isinstance(call, Call)
    assert call.system is None
    assert (
        "1. **Ground Truth Video Caption**: Caption 1.\n2. **Question Related to the Caption**: What now?\n"
        in call.user
    )
    assert call.user.count("word") == 256
    assert isinstance(HOUND, Benchmark)


def test_numbers_by_hand(tmp_path: Path) -> None:
    every = items(tmp_path)
    predictions = {item.id: Prediction(("a",)) for item, reply in zip(every, REPLIES, strict=True) if reply}
    said = dict(zip([item.id for item in every], REPLIES, strict=True))
    found = {}
    for protocol in HOUND.protocols:
        grades = graded(HOUND, every, predictions, protocol, lambda item, _, __: said[item.id] or "")
        found[protocol] = HOUND.metrics(grades, protocol)
    accuracy, score = found["official"]
    # 3, 4, 1 (no number), 7, 2.9: three are at least 3.
    assert (accuracy.printed, score.printed) == ("60.00", "3.58")
    assert accuracy.left_out == 1
    accuracy, score = found["strict"]
    # 3 and 2.9 are stated and within 1 to 5; the rest, the missing one too, is wrong.
    assert accuracy.value == pytest.approx(1 / 6)
    assert score.value == pytest.approx(5.9 / 6)
    assert accuracy.left_out == 0


def test_statuses_under_strict(tmp_path: Path) -> None:
    item = items(tmp_path)[0]
    statuses = [HOUND.judged(item, "", reply or "", "strict").status for reply in REPLIES]
    assert statuses == ["ok", "no verdict", "no verdict", "out of range", "ok", "no verdict"]
    official = [HOUND.judged(item, "", reply or "", "official").status for reply in REPLIES]
    assert official == ["ok", "ok", "ok", "off the scale", "ok", "ok"]
    zero = HOUND.judged(item, "", "Score: 0", "official")
    assert (zero.status, zero.score, zero.correct) == ("off the scale", 0.0, False)
    assert HOUND.grade(item, "", Prediction(("</s>",)), "strict") == Grade("empty", False, 0.0)


def test_items_without_a_caption_are_faults(tmp_path: Path) -> None:
    captions = [{"video": "v_0", "caption": "a"}, {"video": "v_0", "caption": "b"}, {"video": "v_1"}]
    found = read(tmp_path, captions)
    assert [item.source["caption"] for item in found.items] == ["b"]
    assert [fault.kind for fault in found.faults] == ["duplicate", "malformed"] + ["no answer"] * 5
    with pytest.raises(FormatError, match='name it under "captions"'):
        HOUND.read({"questions": tmp_path / "q.jsonl"})


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    every = items(tmp_path)
    made = {item.id: Prediction((f"reply {item.id}",)) for item in every[:2]}
    (path,) = HOUND.write(tmp_path / "out", every, made)
    row = json.loads(path.read_text().splitlines()[0])
    assert row["model_prediction"] == {"status": "success", "message": "reply 0_1"}
    assert row["video_path"] == row["modal_path"] == "frames/v_0.x"
    found = HOUND.read_predictions([path], every)
    assert found.by_id == made
    assert {fault.kind for fault in found.faults} == {"missing"}
