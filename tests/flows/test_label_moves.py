"""How labels moved between two labellings, on tables as the stage `preferences` writes them."""

import json
from pathlib import Path
from typing import Any

from storage.lake import Lake, event
from tasks.label_moves import BEGAN, TOLD, latest, moves, standing

OLD, NEW = "a" * 16, "b" * 16


def _pair(instruction: str, answers: tuple[str, str], preferred: str) -> dict[str, Any]:
    shown = {"answer_a": answers[0], "answer_b": answers[1], "preferred": preferred, "a": 0, "b": 1, "p_a": 0.5}
    how = {"method": "likelihood", "frame_set": "judge", "with_narrative": False, "arm": "one"}
    places = {"instruction": instruction, "video": "v", "question": "q"}
    return {"item_id": instruction, "status": "ok", "item_key": "k", "run": "r", "seed": 0, **places, **how, **shown}


def _label(lake: Lake, key: str, pairs: list[dict[str, Any]], judge: str = "judge") -> None:
    lake.table("preferences").commit_shard(pairs, stage_key=key, shard=0)
    row = {"item_id": key, "status": "ok", "item_key": key, "run": "r", "seed": 0, "stage": "preferences"}
    row |= {"config": '{"arm":"one"}', "inputs": "[]", "output_table": "preferences", "model": judge}
    lake.table("stages").commit_shard([{**row, "items": 1, "ok": 1, "quarantined": 0}], stage_key=key, shard=-1)
    lake.log([{**event("r", "stage_finished"), "stage": "preferences", "stage_key": key}])


def _labelled_twice(root: Path) -> Lake:
    lake = Lake(root)
    before = [("q1", "a"), ("q2", "a"), ("q3", "tie"), ("q4", "b"), ("q5", "b"), ("q6", "a")]
    after = [("q1", "a"), ("q2", "b"), ("q3", "b"), ("q4", "tie"), ("q7", "a")]
    _label(lake, OLD, [_pair(name, ("red", "blue"), label) for name, label in before])
    # Shown the other way round, the same label names the other letter.
    turned = _pair("q5", ("blue", "red"), "a")
    _label(lake, NEW, [*(_pair(name, ("red", "blue"), label) for name, label in after), turned])
    return lake


def test_moves_are_counted_by_what_became_of_the_label(tmp_path: Path) -> None:
    found = {row["label"]: (row["pairs"], row["example"]) for row in moves(_labelled_twice(tmp_path), OLD, NEW)}
    assert found == {
        "the same": (2, "q1"),
        "turned round": (1, "q2"),
        "no longer a tie": (1, "q3"),
        "now a tie": (1, "q4"),
        "gone": (1, "q6"),
        "new": (1, "q7"),
    }


def test_nothing_moves_between_a_labelling_and_itself(tmp_path: Path) -> None:
    assert [row["label"] for row in moves(_labelled_twice(tmp_path), NEW, NEW)] == ["the same"]


def test_the_latest_labelling_of_an_arm_and_a_judge(tmp_path: Path) -> None:
    lake = _labelled_twice(tmp_path)
    found = latest(lake, "preferences", "one", model="judge")
    assert found is not None
    assert (found.key, found.table, found.cached) == (NEW, "preferences", True)
    assert latest(lake, "preferences", "one") == found
    assert latest(lake, "preferences", "other") is None
    assert latest(lake, "preferences", "one", model="another judge") is None
    assert latest(Lake(tmp_path / "empty"), "sft", model="base") is None


def test_a_labelling_that_told_nothing_is_told_by_the_next_of_its_arm(tmp_path: Path) -> None:
    lake = _labelled_twice(tmp_path)

    def key(arm: str = "one") -> str | None:
        found = standing(lake, arm)
        return found and found.key

    def told(name: str, **arms: str | None) -> None:
        lake.log([event("r", name, detail=json.dumps(arms))])

    assert (key(), key("two")) == (NEW, None), "nobody ever told anything: the latest"
    told(BEGAN, one=OLD)
    assert key() == OLD, "it was killed: what it began with"
    told(BEGAN, two=None)
    told(TOLD, two="c" * 16)
    assert key() == OLD, "another arm's page tells nothing of this one"
    told(TOLD, one=NEW)
    assert key() == NEW
    told(BEGAN, one=None)
    assert key() is None, "it began with no labels"
