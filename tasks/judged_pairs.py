"""An instruction's pairs on their way to a judge, and as rows on their way back."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from models.comparisons import Comparison, NoVerdict, Verdict
from tasks.pictures import MissingFramesError
from tasks.tokens import MissingTokensError
from tasks.worker import Outcome

if TYPE_CHECKING:
    from tasks.preferences import PreferencesConfig

Candidate = tuple[int, str]
TURNED_ROUND = {"a": "b", "b": "a", "tie": "tie"}


def pairs_of(item: dict[str, Any], most: int | None) -> list[tuple[Candidate, Candidate]]:
    """The pairs of an item's candidates, a < b; at most `most`, drawn by the instruction alone and kept in order."""
    pairs = list(combinations(sorted((number, text) for number, text in item["candidates"]), 2))
    if most is None or most >= len(pairs):
        return pairs
    return [pairs[i] for i in sorted(random.Random(item["item_id"]).sample(range(len(pairs)), most))]


def comparisons_of(item: dict[str, Any], most: int | None, frames: Callable[[str], Any]) -> list[Comparison[Any]] | str:
    """What is asked about an instruction, one comparison a pair, or why nothing can be.

    Args:
        item: the instruction, as `tasks.groups` gives it.
        most: how many of its pairs.
        frames: gives a video's frames as the judge takes them, or raises that there are none.
    """
    if item["fault"]:
        return str(item["fault"])
    if len(item["candidates"]) < 2:
        return "it has one candidate, and a pair needs two; raise candidates.n"
    try:
        shown = frames(item["video"])
    except (MissingTokensError, MissingFramesError) as error:
        return str(error)
    return [
        Comparison(item["question"], shown, text_a, text_b, item["narrative"])
        for (_, text_a), (_, text_b) in pairs_of(item, most)
    ]


def pairs_outcome(
    item: dict[str, Any], verdicts: Sequence[Verdict | NoVerdict], config: PreferencesConfig, arm: str
) -> Outcome:
    """The rows of an instruction, one a pair; quarantined when there is no verdict on one of them."""
    about = {
        "instruction": item["item_id"],
        "video": item["video"],
        "question": item["question"],
        "method": config.method,
        "frame_set": config.frame_set,
        "with_narrative": config.narrative,
        "narrative": item["narrative"],
        "arm": arm,
    }
    rows = []
    for ((a, text_a), (b, text_b)), verdict in zip(pairs_of(item, config.max_pairs), verdicts, strict=True):
        if isinstance(verdict, NoVerdict):
            return Outcome(item["item_id"], None, f"candidates {a} and {b}: {verdict.reason}")
        row = {**about, "a": a, "b": b, "answer_a": text_a, "answer_b": text_b, **vars(verdict)}
        if is_turned([item["item_id"], a, text_a, b, text_b], config.label_noise):
            # p_a and the scores stay what the judge gave: a row whose label contradicts them is one that was turned.
            row["preferred"] = TURNED_ROUND[verdict.preferred]
        rows.append(row)
    return Outcome(item["item_id"], rows)


def is_turned(pair: list[Any], fraction: float) -> bool:
    """Whether a pair is of those whose label is turned round, at random: by a hash of what identifies it."""
    return int(hashlib.sha256(json.dumps(pair).encode()).hexdigest()[:8], 16) < fraction * 16**8
