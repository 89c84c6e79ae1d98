"""Writes a benchmark of the tiny world, as users bring one of their own: mp4 files, and questions in JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from miniature.dataset import encode
from miniature.world import QUESTIONS, render, sample_scene


def write(folder: Path, *, videos: int, seed: int) -> None:
    """Write `folder`/videos/*.mp4 and `folder`/questions.jsonl: rows of id, video, question, answer, kind.

    Args:
        folder: where to; made when it is not there.
        videos: how many; each with all questions of the world.
        seed: of the world.
    """
    rng = np.random.default_rng([seed, 11])
    place = folder / "videos"
    place.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(videos):
        scene, video = sample_scene(rng), f"scene_{number:04d}.mp4"
        encode(render(scene), place / video)
        for which, question in enumerate(QUESTIONS):
            about = {"id": f"{number:04d}_{which}", "video": video, "question": question.text}
            rows.append({**about, "answer": question.answer(scene), "kind": question.kind})
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
