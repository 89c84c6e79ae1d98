"""The decided labels of an arm: what a reward model, or a policy by DPO, learns from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from storage.lake import Lake
from tasks.stage import StageRef
from tasks.training import Lazy

if TYPE_CHECKING:
    from models.pairs import Pair
    from models.sequences import Prompt
    from models.video_lm import VideoLM


def decided(lake: Lake, preferences: StageRef) -> list[dict[str, Any]]:
    """The preferences that are not ties, in a fixed order."""
    columns = ["status", "instruction", "video", "question", "preferred", "answer_a", "answer_b"]
    rows = lake.table(preferences.table).read(preferences.key, columns=columns).to_pylist()
    return [row for row in rows if row["status"] == "ok" and row["preferred"] in ("a", "b")]


def by_content(lake: Lake, preferences: StageRef) -> StageRef:
    """The stage as an input that is named by its decided labels and not by who gave them."""
    labels = json.dumps(decided(lake, preferences), sort_keys=True)
    return replace(preferences, content=hashlib.sha256(labels.encode()).hexdigest()[:16])


def is_held_out(video: str, fraction: float) -> bool:
    """Whether a video's pairs are kept for measuring: by a hash of its name, so that new videos move no old one."""
    return int(hashlib.sha256(video.encode()).hexdigest()[:8], 16) < fraction * 16**8


def pairs_to_learn(
    rows: list[dict[str, Any]],
    held_out: float,
    lm: VideoLM,
    prompt_of: Callable[[dict[str, Any]], Prompt],
) -> tuple[Lazy, Lazy]:
    """Decided pairs as `models.pairs.Pair`: to learn from, and held out.

    Args:
        rows: as `decided` gives them.
        held_out: fraction of the videos whose pairs are only measured.
        lm: the model that learns.
        prompt_of: makes a row's question about its video a prompt.

    Raises:
        ValueError: none is left to learn from.
    """
    kept = [row for row in rows if not is_held_out(row["video"], held_out)]
    held = [row for row in rows if is_held_out(row["video"], held_out)]
    if not kept:
        raise ValueError("No decided preference is left to train on; look at ties and quarantines of preferences.")

    def make(row: dict[str, Any]) -> Pair[Any]:
        from models.pairs import Pair

        chosen, rejected = in_order(row)
        return Pair(prompt_of(row), lm.response_ids(chosen), lm.response_ids(rejected))

    return Lazy(kept, make), Lazy(held, make)


def longer_answer(lm: VideoLM, pair: dict[str, Any]) -> int:
    """Tokens of the longer of a pair's answers."""
    return max(len(lm.response_ids(pair[side])) for side in ("answer_a", "answer_b"))


def in_order(row: dict[str, Any]) -> tuple[str, str]:
    """The two answers of a decided pair, the preferred one first."""
    answers = row["answer_a"], row["answer_b"]
    return answers if row["preferred"] == "a" else answers[::-1]
