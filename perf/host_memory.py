"""Memory of the host for 100 to 10,000 samples: driver and worker through two real stages, each count in a new process.

    python -m perf.host_memory [--samples 100 1000 10000] [--limit 1.05]

A sample is a question about a video of its own, whose visual tokens lie in the lake; the miniature's base answers it
twice, and prefers one of the answers by likelihood (stages `candidates` and `preferences`, one worker, shards of 64).
The tokens are noise: what a model makes of them does not matter here. 150 commits of another stage come before, as in
perf.stage_overhead: the allocators of Arrow and delta-rs take some 15 MiB in the first ones. Prints the peak resident
memory of driver and worker as Linux counts it (VmHWM), and the ratio of the most samples to the fewest. Exits with 1
where a ratio is above the limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

import flows.rlaif  # noqa: F401 - what a run's driver has imported
import miniature
from models.settings import Sampling
from perf.stage_overhead import WARM_COMMITS, Nothing
from storage.lake import Lake
from tasks.candidates import CandidatesConfig, candidates
from tasks.fanout import WorkerPool
from tasks.model_ref import ModelRef
from tasks.preferences import PreferencesConfig, preferences
from tasks.progress import SilentProgress
from tasks.stage import RunContext, Stage, StageResult, run_stage

FLAT = 1.05
SHARD = 64
BASE = Path(miniature.__file__).parent / "weights" / "base"
QUESTION = "describe the video."
FRAMES = list(range(8))
# As many sets of frames a video as the miniature has.
NAMES = [("policy", 0), ("judge_2", 0), ("judge_4", 0), ("clips", 0), ("clips", 1)]
SETS = [{"name": name, "clip": clip, "start": 0.0, "end": 2.0, "indices": FRAMES} for name, clip in NAMES]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--limit", type=float, default=FLAT)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(peaks(options.one)))
        return 0
    found = {count: _in_a_new_process(count) for count in sorted(options.samples)}
    for count, peak in found.items():
        print(f"{count:>7,} samples: " + ", ".join(f"{who} {mib:.0f} MiB" for who, mib in peak.items()), flush=True)
    fewest, *_, most = found.values()
    ratios = {who: most[who] / fewest[who] for who in most}
    print(", ".join(f"{who} {ratio:.3f}" for who, ratio in ratios.items()))
    return int(max(ratios.values()) > options.limit)


def _in_a_new_process(count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "perf.host_memory", "--one", str(count)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    peak: dict[str, float] = json.loads(out.splitlines()[-1])
    return peak


def peaks(count: int) -> dict[str, float]:
    """Peak memory in MiB of driver and worker after `count` samples."""
    with tempfile.TemporaryDirectory() as folder, WorkerPool(1) as pool:
        ctx = RunContext(f"{folder}/lake", "memory", pool, SilentProgress(), max_quarantined=0.5, seed=0)
        asked, shown = _material(folder, count)
        _warm(ctx)
        _ask(ctx, asked, shown)
        return {"driver": _peak_mib("self"), "worker": max(map(_peak_mib, _workers()))}


def _ask(ctx: RunContext, asked: StageResult, shown: StageResult) -> None:
    model, sampling = ModelRef.of(str(BASE)), Sampling(max_new_tokens=32)
    config = CandidatesConfig(n=2, sampling=sampling, batch_size=64, shard_size=SHARD)
    answers = candidates(ctx, config, asked, shown, model)
    judging = PreferencesConfig(frame_set="policy", method="likelihood", narrative=False, shard_size=SHARD)
    preferences(ctx, judging, answers, shown, None, model, "arm")


def _questions(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        video = f"{number:06d}.mp4"
        yield {"item_id": f"rl/{number:06d}", "video": video, "question": QUESTION, "split": "rl"}


def _warm(ctx: RunContext) -> None:
    """Commits and reads of another stage: the allocators of Arrow and delta-rs take what they take once."""
    stage = Stage("nothing", "metrics", {}, (), None, {}, seed=0, shard_size=1)
    run_stage(ctx, stage, lambda: [{"item_id": f"{n:06}"} for n in range(WARM_COMMITS)], Nothing, None)


def _material(folder: str, count: int) -> tuple[StageResult, StageResult]:
    """Questions, and visual tokens of as many videos; written in a process of its own, so that no other holds them."""
    command = "import sys; from perf.host_memory import write; write(sys.argv[1], int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", command, f"{folder}/lake", str(count)], check=True)
    lake = Lake(f"{folder}/lake")
    return _complete(lake, "instructions"), _complete(lake, "visual_tokens")


def write(root: str, count: int) -> None:
    """Questions about `count` videos, and noise as the videos' visual tokens, in files of a shard each."""
    import numpy as np
    import torch

    from models.video_lm import VideoLM

    lake, lm = Lake(root), VideoLM.load(str(BASE))
    shape = [len(FRAMES), *lm.encode(np.zeros((1, 64, 64, 3), dtype=np.uint8)).tokens.shape[1:]]

    def rows() -> Iterator[dict[str, Any]]:
        for start in range(0, count, SHARD):
            videos = [f"{number:06d}.mp4" for number in range(start, min(start + SHARD, count))]
            data = [torch.randn(shape).numpy().tobytes() for _ in videos]
            same = {
                "shape": shape,
                "dtype": "float32",
                "grid": [1, shape[1]],
                "seconds": [[0.0] * len(FRAMES)] * len(SETS),
            }
            columns = {name: [value] * len(data) for name, value in same.items()}
            blob = lake.blobs.put_arrow(pa.table({"video": videos, "data": data, **columns}))
            for row, video in enumerate(videos):
                about = {"item_id": video, "video": video, "tower": "noise", "blob": blob, "row": row}
                yield {**about, "n_frames": len(FRAMES), "sets": SETS}

    _written(lake, "visual_tokens", rows())
    _written(lake, "instructions", _questions(count))


def _written(lake: Lake, table: str, rows: Iterator[dict[str, Any]]) -> None:
    """Rows committed as a complete stage would have."""
    made = {"status": "ok", "item_key": "noise", "run": "memory", "seed": 0}
    lake.table(table).commit_shard([{**row, **made} for row in rows], stage_key=table, shard=0)


def _complete(lake: Lake, table: str) -> StageResult:
    counts = lake.table(table).count(table)
    return StageResult(
        stage=table,
        label=None,
        table=table,
        key=table,
        version=lake.table(table).version(),
        items=sum(counts.values()),
        ok=counts["ok"],
        quarantined=counts["quarantined"],
        reused=0,
        seconds=0,
        work_seconds=0,
        cached=False,
    )


def _workers() -> list[str]:
    below = psutil.Process().children(recursive=True)
    return [str(each.pid) for each in below if "ray::WorkerProcess" in " ".join(each.cmdline())]


def _peak_mib(pid: str) -> float:
    """Most resident memory that a process ever had, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) / 1024


if __name__ == "__main__":
    sys.exit(main())
