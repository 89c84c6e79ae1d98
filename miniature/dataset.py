"""Writes the tiny world as users bring theirs: a folder of mp4 files and instruction files that name them."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from miniature.world import FPS, QUESTIONS, SIZE, Frames, Question, Scene, hallucinate, render, sample_scene
from storage.formats.json_rows import write_rows
from storage.formats.vlm_rlaif import Instruction, write_instructions


@dataclass(frozen=True)
class _Split:
    name: str
    scenes: list[Scene]
    told: list[Scene]  # what the answers say is shown

    @property
    def videos(self) -> list[str]:
        return [f"{self.name}_{number:05d}.mp4" for number in range(len(self.scenes))]


@dataclass(frozen=True, kw_only=True)
class Hallucination:
    """How the SFT answers err: as a model with strong language priors reports what it sees.

    Attributes:
        videos: share of the videos whose answers err at all.
        action_prior: chance that an action is the one its shape suggests (world.ACTION_PRIOR).
        color_noise: chance that a colour is a random one.
        shape_noise: chance that a shape is a random one.
    """

    videos: float = 0.8
    action_prior: float = 0.8
    color_noise: float = 0.1
    shape_noise: float = 0.1


def write(
    folder: Path,
    *,
    sft: int,
    rl: int,
    benchmark: int,
    seed: int,
    hallucination: dict[str, float] | None = None,
    progress: Any = None,
) -> None:
    """Write `folder`/videos/*.mp4, `folder`/{sft,rl,benchmark}.json, and benchmark.jsonl with the same questions.

    The last is the form that users write a benchmark of their own in (benchmarks.custom).

    Args:
        folder: where to; made when it is not there.
        sft: videos with (mostly hallucinated) answers for supervised fine-tuning.
        rl: videos with questions; their answers are true and only measured against.
        benchmark: held-out videos with questions and true answers.
        seed: of the world.
        hallucination: fields of Hallucination; what is left out keeps its default.
        progress: shows how far it is (tasks.progress.Progress), if given.
    """
    errs = Hallucination(**(hallucination or {}))
    rng = np.random.default_rng([seed, 7])
    splits = [_split(name, count, errs, rng) for name, count in (("sft", sft), ("rl", rl), ("benchmark", benchmark))]
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    jobs = [(scene, videos / name) for split in splits for scene, name in zip(split.scenes, split.videos, strict=True)]
    bar = None if progress is None else progress.start("render", len(jobs))
    # Spawned, not forked: the caller may be a flow with threads.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for _ in pool.map(_write_video, jobs, chunksize=50):
            if bar is not None:
                bar.advance()
    if bar is not None:
        bar.finish()
    for split in splits:
        write_instructions(folder / f"{split.name}.json", _instructions(split))
    columns = ("id", "video", "question", "answer", "kind")
    asked = [{column: getattr(row, column) for column in columns} for row in _instructions(splits[-1])]
    write_rows(folder / "benchmark.jsonl", asked)


def _split(name: str, count: int, errs: Hallucination, rng: np.random.Generator) -> _Split:
    scenes = [sample_scene(rng) for _ in range(count)]
    if name != "sft":
        return _Split(name, scenes, scenes)
    return _Split(name, scenes, [_told(scene, errs, rng) for scene in scenes])


def _told(scene: Scene, errs: Hallucination, rng: np.random.Generator) -> Scene:
    if rng.random() >= errs.videos:
        return scene
    return hallucinate(
        scene, rng, action_prior=errs.action_prior, color_noise=errs.color_noise, shape_noise=errs.shape_noise
    )


def _instructions(split: _Split) -> list[Instruction]:
    return [
        Instruction(
            id=f"{Path(video).stem}_{_label(question)}",
            video=video,
            question=question.text,
            answer=question.answer(told),
            kind=question.kind,
            source="miniature",
        )
        for video, told in zip(split.videos, split.told, strict=True)
        for question in QUESTIONS
    ]


def _label(question: Question) -> str:
    return question.kind if question.kind == "describe" else f"{question.kind}{question.event + 1}"


def _write_video(job: tuple[Scene, Path]) -> None:
    scene, path = job
    encode(render(scene), path)


def encode(frames: Frames, path: Path) -> None:
    """Write frames uint8 [T, SIZE, SIZE, 3] as H.264 in 4:2:0, which plays everywhere; always the same bytes."""
    import av

    # With x264's assembler code one in seven of these tiny videos came out otherwise from one process to the next.
    options = {"crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "asm=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
