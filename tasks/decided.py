"""The decided labels of an arm: what a reward model, or a policy by DPO, learns from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from storage.lake import Lake
from tasks.stage import StageRef
from tasks.tokens import VisualTokens
from tasks.training import Lazy, Training

if TYPE_CHECKING:
    from models.reward_model import Pair
    from models.video_lm import VideoLM


def decided(lake: Lake, preferences: StageRef) -> list[dict[str, Any]]:
    """The preferences that are not ties, in a fixed order."""
    columns = ["status", "video", "question", "preferred", "answer_a", "answer_b"]
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
    lake: Lake, training: Training, preferences: StageRef, held_out: float, lm: VideoLM
) -> tuple[Lazy, Lazy]:
    """The decided pairs of a training as `models.reward_model.Pair`: to learn from, and held out.

    Args:
        lake: where the labels are.
        training: names the visual tokens, and in its config the frame set.
        preferences: the labels.
        held_out: fraction of the videos whose pairs are only measured.
        lm: the model that learns.

    Raises:
        ValueError: none is left to learn from.
    """
    rows = decided(lake, preferences)
    kept = [row for row in rows if not is_held_out(row["video"], held_out)]
    held = [row for row in rows if is_held_out(row["video"], held_out)]
    if not kept:
        raise ValueError("No decided preference is left to train on; look at ties and quarantines of preferences.")
    make = partial(_pair, lm, VisualTokens(lake, training.tokens), training.config.frame_set)
    return Lazy(kept, make), Lazy(held, make)


def _pair(lm: VideoLM, tokens: VisualTokens, frame_set: str, row: dict[str, Any]) -> Pair:
    from models.reward_model import Pair

    answers = {"a": lm.response_ids(row["answer_a"]), "b": lm.response_ids(row["answer_b"])}
    other = "b" if row["preferred"] == "a" else "a"
    prompt = lm.prompt(row["question"], tokens.frames(row["video"], frame_set))
    return Pair(prompt, answers[row["preferred"]], answers[other])
