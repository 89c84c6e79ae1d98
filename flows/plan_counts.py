"""How many videos and questions a plan is about that is computed: those that are here, else assumed ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flows.material import instruction_files
from flows.parameters import Parameters
from storage.formats.vlm_rlaif import read_instructions
from tasks.videos import VideosConfig, list_videos

PER_VIDEO = 10  # Questions to a video, where neither is here.
ANSWERED_WITHOUT_LIMIT, SCORED_WITHOUT_LIMIT = 10_000, 1_000
SPLITS = ("sft", "rl", "benchmark")


def counts_of(p: Parameters, given: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """Videos, and questions by split; and what was assumed of them."""
    files, folder = instruction_files(p.data).files, VideosConfig(folder=p.data.videos).place
    here = {split: len(read_instructions(Path(file))[0]) for split, file in files.items() if Path(file).is_file()}
    rl = max(p.candidates.limit or ANSWERED_WITHOUT_LIMIT, _practised(p))
    guessed = {"sft": p.sft.training.steps * p.sft.training.batch_size, "rl": rl}
    guessed["benchmark"] = p.benchmark.limit or SCORED_WITHOUT_LIMIT
    counts = {split: given.get(split, here.get(split, guessed[split])) for split in SPLITS}
    asked = counts["rl"] + counts["benchmark"]
    if folder.is_dir():
        here["videos"] = len(list_videos(folder))
    videos = given.get("videos", here.get("videos", max(1, asked // PER_VIDEO)))
    counts = {"videos": videos, **counts}
    missing = [f"{name}={counts[name]}" for name in counts if name not in here and name not in given]
    note = f"The data is not here, so its size is assumed too (--assume): {', '.join(missing)}."
    return counts, [note] if missing else []


def _practised(p: Parameters) -> int:
    """Questions that policies are trained on: those of all rollouts, but no more than the published 99,000."""
    of_route = {"ppo": p.ppo.training, "grpo": p.grpo.training, "grpo_rank": p.grpo.training}
    trainings = [of_route[arm.route] for arm in p.arms if arm.route in of_route]
    return min(99_000, max((each.iterations * each.prompts for each in trainings), default=0))
