"""The candidates of each instruction with all that a judge or ranker is to read about them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow.compute as pc

from storage.lake import Lake
from storage.rows import one_by_one
from tasks.narratives import Narratives
from tasks.stage import StageRef
from tasks.tokens import keys_of


def candidate_groups(
    lake: Lake, candidates: StageRef, tokens: StageRef, captions: StageRef | None
) -> Iterator[dict[str, Any]]:
    """One item an instruction: item_id, video, question, tokens (the key of the video's visual tokens), candidates
    [[number, text], ...], narrative, and fault: why it cannot be compared, or None.

    Args:
        lake: where the stages' rows are.
        candidates: the answers.
        tokens: the visual tokens of whoever compares.
        captions: the narratives that it is to read; None: it reads none.
    """
    columns = ["item_id", "status", "video", "question", "candidate", "text", "finished"]
    answers = lake.table(candidates.table).read(candidates.key, columns=columns)
    answers = answers.filter(pc.equal(answers["status"], "ok"))
    tokens_of, narratives = keys_of(lake, tokens), Narratives(lake, captions)
    for item_id, group in groupby(one_by_one(answers), itemgetter("item_id")):  # Rows are read in the items' order.
        rows = list(group)
        video = rows[0]["video"]
        narrative, fault = (None, None) if captions is None else narratives.of(item_id, video)
        yield {
            "item_id": item_id,
            "video": video,
            "question": rows[0]["question"],
            "tokens": tokens_of.get(video),
            "candidates": [[row["candidate"], row["text"]] for row in rows],
            "narrative": narrative,
            "fault": _cut(rows) or (fault and f"no narrative of video {video} for the judge: {fault}"),
        }


def _cut(rows: list[dict[str, Any]]) -> str | None:
    cut = sum(not row["finished"] for row in rows)
    if not cut:
        return None
    return f"{cut} of its {len(rows)} candidates were cut by the token limit; raise candidates.sampling.max_new_tokens"
