"""Versions of labels as the stage `preferences` leaves them in a lake, committed by hand."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from small import committed

from storage.lake import Lake
from tasks.stage import StageResult

Said = tuple[str, str, str, str, float]  # instruction, answer a, answer b, preferred, p(A)


def labelled(
    lake: Lake,
    arm: str,
    said: list[Said],
    *,
    narrative: bool = False,
    blind: bool = False,
    method: str = "likelihood",
    model: str = "judge",
    prompt: str = "0123",
    key: str = "",
    inputs: tuple[StageResult, ...] = (),
    orders: dict[str, tuple[float, float]] | None = None,
    told: str = "it is told.",
) -> StageResult:
    """Labels of an arm; the video of an instruction "i" is "i.mp4". `orders` are p_a_first and p_a_second by
    instruction, `told` is the narrative."""
    rows = []
    for number, (instruction, answer_a, answer_b, preferred, p_a) in enumerate(said):
        first, second = (orders or {}).get(instruction, (None, None))
        shown = {"a": number, "b": number + 1, "answer_a": answer_a, "answer_b": answer_b, "preferred": preferred}
        shown |= {"p_a": p_a, "p_a_first": first, "p_a_second": second, "score_a": None, "score_b": None}
        how = {"method": method, "frame_set": "judge_2", "with_narrative": narrative, "arm": arm}
        about = {"instruction": instruction, "video": f"{instruction}.mp4", "question": f"what of {instruction}?"}
        rows.append({**provenance(instruction), **about, **shown, **how, "narrative": told if narrative else None})
    result = committed(lake.table("preferences"), rows, key or f"labels-{arm}")
    config: dict[str, Any] = {"arm": arm, "narrative": narrative, "method": method, "frame_set": "judge_2"}
    complete(lake, result, config | ({"blind": True} if blind else {}), model=model, prompt=prompt, inputs=inputs)
    return result


def complete(
    lake: Lake,
    result: StageResult,
    config: dict[str, Any],
    *,
    model: str = "judge",
    prompt: str | None = None,
    inputs: tuple[StageResult, ...] = (),
) -> None:
    """What the lake writes down of a complete stage."""
    refs = [{"stage": each.stage, "table": each.table, "key": each.key} for each in inputs]
    row = {**provenance(result.key), "model": model, "prompt_hash": prompt, "stage": result.stage}
    row |= {"config": json.dumps(config), "inputs": json.dumps(refs), "output_table": result.table}
    row |= {"items": result.items, "ok": result.ok, "quarantined": result.quarantined}
    lake.table("stages").commit_shard([row], stage_key=result.key, shard=-1)
    event = {"run": "test", "event_id": uuid.uuid4().hex, "at": datetime.now(UTC), "event": "stage_finished"}
    lake.log([{**event, "stage": result.stage, "stage_key": result.key, "cached": False}])


def asked(lake: Lake, truths: dict[str, str | None], split: str = "benchmark") -> StageResult:
    """Instructions with their answers."""
    rows = [
        {**provenance(item), "video": f"{item}.mp4", "question": f"what of {item}?", "answer": answer, "split": split}
        for item, answer in truths.items()
    ]
    result = committed(lake.table("instructions"), rows, f"instructions-{split}")
    complete(lake, result, {})
    return result


def provenance(item: str) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0}
