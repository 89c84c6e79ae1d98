"""The candidates of each instruction with all that a judge or ranker is to read about them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from storage.lake import Lake
from tasks.narratives import Narratives
from tasks.stage import StageRef


def candidate_groups(
    lake: Lake, candidates: StageRef, tokens: StageRef, captions: StageRef | None
) -> list[dict[str, Any]]:
    """One item an instruction: item_id, video, question, tokens (the key of the video's visual tokens), candidates
    [[number, text], ...], narrative, and fault: why it cannot be compared, or None.

    Args:
        lake: where the stages' rows are.
        candidates: the answers.
        tokens: the visual tokens of whoever compares.
        captions: the narratives that it is to read; None: it reads none.
    """
    columns = ["item_id", "status", "video", "question", "candidate", "text", "finished"]
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in lake.table(candidates.table).read(candidates.key, columns=columns).to_pylist():
        if row["status"] == "ok":
            groups[row["item_id"]].append(row)
    shown = lake.table(tokens.table).read(tokens.key, columns=["item_id", "item_key"]).to_pylist()
    tokens_of = {row["item_id"]: row["item_key"] for row in shown}
    narratives = Narratives(lake, captions)
    items = []
    for item_id, rows in groups.items():
        video = rows[0]["video"]
        narrative, fault = (None, None) if captions is None else narratives.of(item_id, video)
        items.append(
            {
                "item_id": item_id,
                "video": video,
                "question": rows[0]["question"],
                "tokens": tokens_of.get(video),
                "candidates": [[row["candidate"], row["text"]] for row in rows],
                "narrative": narrative,
                "fault": _cut(rows) or (fault and f"no narrative of video {video} for the judge: {fault}"),
            }
        )
    return items


def _cut(rows: list[dict[str, Any]]) -> str | None:
    cut = sum(not row["finished"] for row in rows)
    if not cut:
        return None
    return f"{cut} of its {len(rows)} candidates were cut by the token limit; raise candidates.sampling.max_new_tokens"
