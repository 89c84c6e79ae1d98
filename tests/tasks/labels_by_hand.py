"""Labels written by hand, for the trainings that learn from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from small import committed

from miniature.world import QUESTIONS
from storage.lake import Lake
from tasks.stage import StageResult


def row(item: str, **content: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0, **content}


def labels(lake: Lake, videos: Iterable[str], key: str, preferred: list[str], p_a: float) -> StageResult:
    """A version of the labels: one pair a question."""
    rows = [
        row(
            f"{video}-{place}", instruction=f"{video}-{place}", video=video, question=question.text, a=0, b=1,
            answer_a="a red circle moves left.", answer_b="a blue square grows.", p_a=p_a, preferred=preferred[place],
            method="verdict", frame_set="judge_2", with_narrative=False, arm="arm",
        )
        for video in videos
        for place, question in enumerate(QUESTIONS[: len(preferred)])
    ]  # fmt: skip
    return committed(lake.table("preferences"), rows, key)


def questions(lake: Lake, videos: Iterable[str]) -> StageResult:
    """Instructions of split "rl": one a video."""
    asked = [
        row(f"{video}-0", video=video, question=QUESTIONS[0].text, answer="x", kind="event", split="rl")
        for video in videos
    ]
    return committed(lake.table("instructions"), asked, "instructions0")
