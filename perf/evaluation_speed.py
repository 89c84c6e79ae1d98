"""How much faster a benchmark is answered from kept frames and visual tokens, in batches, than one question at a time.

    python -m perf.evaluation_speed [--videos 100] [--model miniature|tower-heavy|both]

Ten questions a video of the tiny world, answered greedily. One at a time: the video is opened and its frames decoded,
go through the tower and are asked about, for each question. In batches: the stages questions, frames, visual_tokens and
answers as `rlaif evaluate` runs them, lake included, in this process and with one worker. CPU seconds of one thread, so
that a busy machine does not count; the answers are compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import miniature
from miniature import checkpoint
from miniature.dataset import encode
from miniature.world import QUESTIONS, render, sample_scene
from models.video_lm import VideoLM
from tasks.evaluation.answers import answers
from tasks.evaluation.config import AnswersConfig, ScoredBenchmark
from tasks.evaluation.items import predictions_by_question
from tasks.evaluation.questions import questions
from tasks.fanout import Unit
from tasks.frames import FramesConfig, FrameSet, frames
from tasks.model_ref import ModelRef
from tasks.progress import SilentProgress
from tasks.stage import RunContext
from tasks.video_reader import Sample, probe, read_frames, sample_frames
from tasks.videos import VideosConfig, videos
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

ASKED = 8  # frames of a video
MODELS = ("miniature", "tower-heavy")
TEXTS = [*(question.text for question in QUESTIONS), " ".join(question.text for question in QUESTIONS[:2])]


class OneProcess:
    """Takes the place of the workers: units are done here, one after the other."""

    workers = 1

    def run(
        self, processor: Any, settings: Any, units: Sequence[Unit], *, chunk: int | None = None, **_: Any
    ) -> Iterator[tuple[Unit, list[Any]]]:
        built = processor(settings)
        for unit in units:
            size = chunk or max(1, len(unit.items))
            parts = [unit.items[start : start + size] for start in range(0, len(unit.items), size)]
            yield unit, [outcome for part in parts for outcome in built.process(part, unit.seed)]


@dataclass(frozen=True)
class Spent:
    """CPU seconds, and the answer to each question."""

    seconds: float
    said: dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=100, help="Videos; ten questions are asked about each.")
    parser.add_argument("--model", choices=[*MODELS, "both"], default="both")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = write_world(folder / "world", arguments.videos)
        first = write_world(folder / "first", 1)
        compared(folder / "first", first, "miniature", checkpoint_of("miniature", folder))  # Imports are no work.
        for name in MODELS if arguments.model == "both" else (arguments.model,):
            print(compared(folder / "world", rows, name, checkpoint_of(name, folder)), flush=True)


def compared(folder: Path, rows: Sequence[dict[str, str]], name: str, model: str) -> str:
    """Both ways with one model, as a line."""
    kept = in_batches(folder, folder / f"lake-{name}", model)
    alone = one_at_a_time(folder, rows, model)
    same = sum(alone.said[item] == kept.said.get(item) for item in alone.said)
    return (
        f"{name}: {len(rows):,} questions on {len({row['video'] for row in rows})} videos: one at a time "
        f"{alone.seconds:.1f} s, in batches from what is kept {kept.seconds:.1f} s: "
        f"{alone.seconds / kept.seconds:.1f} times faster; {same:,} of {len(rows):,} answers are the same"
    )


def one_at_a_time(folder: Path, rows: Sequence[dict[str, str]], model: str) -> Spent:
    """Each question by itself, from the video file."""
    began, said = time.process_time(), {}
    lm, sampling = VideoLM.load(model), scored(folder).sampling
    for row in rows:
        path = folder / "videos" / row["video"]
        info = probe(path)
        (window,) = sample_frames(info, Sample(ASKED))
        decoded = dict(read_frames(path, info, sorted(set(window.frames)), np.asarray).frames)
        shown = lm.encode(np.stack([decoded[index] for index in window.frames]), info.times[window.frames].tolist())
        ((answer,),) = lm.generate([lm.prompt(row["question"], shown)], sampling)
        said[row["id"]] = answer.text
    return Spent(time.process_time() - began, said)


def in_batches(folder: Path, lake: Path, model: str) -> Spent:
    """The stages of an evaluation."""
    ctx = RunContext(str(lake), "speed", OneProcess(), SilentProgress(), max_quarantined=0.0, seed=0)  # type: ignore[arg-type]
    asked, source = scored(folder), VideosConfig(folder=str(folder / "videos"))
    began = time.process_time()
    base = ModelRef.of(model)
    listed = videos(ctx, source)
    items = questions(ctx, asked, listed, "speed")
    config = FramesConfig(sets=(FrameSet(name="policy", n=ASKED),), image_format="png", shard_size=64)
    sampled = frames(ctx, config, listed, source, {"policy": [items]})
    tokens = visual_tokens(ctx, VisualTokensConfig(shard_size=64), sampled, base)
    how = AnswersConfig(batch_size=64, shard_size=512)
    done = answers(ctx, how, asked, items, sampled, tokens, base, "base", "speed")
    spent = time.process_time() - began
    return Spent(spent, {item: each.replies[0] for item, each in predictions_by_question(ctx.lake, done.ref).items()})


def scored(folder: Path) -> ScoredBenchmark:
    """The questions as a benchmark."""
    about = {"settings": {"task": "speed", "scoring": "exact", "prompt": "{question}"}, "max_new_tokens": 24}
    files = {"files": {"": str(folder / "questions.jsonl")}, "videos": str(folder / "videos")}
    return ScoredBenchmark.model_validate({"benchmark": "custom", **about, **files})


def write_world(folder: Path, count: int) -> list[dict[str, str]]:
    """Videos and questions, and the questions' rows."""
    rng, rows = np.random.default_rng(0), []
    (folder / "videos").mkdir(parents=True)
    for number in range(count):
        video = f"{number:04d}.mp4"
        encode(render(sample_scene(rng)), folder / "videos" / video)
        for which, text in enumerate(TEXTS):
            rows.append({"id": f"{number:04d}-{which}", "video": video, "question": text, "answer": "yes"})
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return rows


def checkpoint_of(name: str, folder: Path) -> str:
    """The miniature's base, or one with a tower that takes most of the work, as that of a real model does."""
    base = Path(miniature.__file__).parent / "weights" / "base"
    if name == "miniature":
        return str(base)
    import transformers

    config = transformers.AutoConfig.from_pretrained(base)
    for field, value in {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8}.items():
        setattr(config.vision_config, field, value)
    torch.manual_seed(0)
    checkpoint.save(transformers.LlavaOnevisionForConditionalGeneration(config), folder / name)
    return str(folder / name)


if __name__ == "__main__":
    main()
