"""What a stage costs beside its work: 10,000 one-row items through a processor that does nothing.

    python -m perf.stage_overhead [--items 10000] [--shard-size 250] [--workers 2]
    python -m perf.stage_overhead --shard-size 25

Prints the cost in milliseconds an item (promised: at most 1, in shards of 250; ten times as many commits cost more),
and the memory of the driver (promised: flat). Flat: its mean in the last quarter of the items is above its mean in the
second quarter by at most 5 MiB, and 4 KiB for each commit between: what delta-rs remembers of a file. 150 commits come
before, in which the allocators of Arrow and delta-rs take some 15 MiB. (Both allowances were set after a run with 400
commits had failed at 5 MiB alone: docs/decisions.md.) Exits with 1 where a promise is broken.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from typing import Any

import psutil

from tasks.fanout import Outcome, WorkerPool
from tasks.progress import Bar
from tasks.stage import RunContext, Stage, StageResult, run_stage

MIB = 2**20
LIMIT_MS, LIMIT_MIB, COMMIT_MIB = 1.0, 5.0, 4 / 1024
PROMISED_SHARD = 250
WARM_COMMITS = 150


class Nothing:
    """Processor: a row an item, no work."""

    def __init__(self, settings: None) -> None: ...

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        return [Outcome(item["item_id"], [row(item["item_id"], seed)]) for item in items]


def row(item_id: str, seed: int) -> dict[str, Any]:
    return {"step": int(item_id), "name": "nothing", "value": float(seed % 7)}


class MemoryBar:
    """Takes the resident memory as the items go by."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.samples: dict[float, float] = {}

    def advance(self, count: int = 1) -> None:
        self.done += count
        self.samples[self.done / self.total] = resident_mib()

    def finish(self) -> None: ...


class MemoryProgress:
    """Progress that measures."""

    def __init__(self) -> None:
        self.bars: list[MemoryBar] = []

    def start(self, label: str, total: int) -> Bar:  # noqa: ARG002 - the Protocol's arguments.
        self.bars.append(MemoryBar(total))
        return self.bars[-1]


def resident_mib() -> float:
    """Resident memory of this process, in MiB: the workers hold nothing between calls."""
    return psutil.Process().memory_info().rss / MIB


def run_once(ctx: RunContext, items: int, shard_size: int, seed: int) -> StageResult:
    stage = Stage("nothing", "metrics", {}, (), None, {}, seed=seed, shard_size=shard_size)
    return run_stage(ctx, stage, lambda: [{"item_id": f"{n:06}"} for n in range(items)], Nothing, None)


def measure(items: int, shard_size: int, workers: int) -> dict[str, float]:
    progress = MemoryProgress()
    with tempfile.TemporaryDirectory() as folder, WorkerPool(workers) as pool:
        ctx = RunContext(f"{folder}/lake", "overhead", pool, progress, 0.0, 0)
        run_once(ctx, shard_size * WARM_COMMITS, shard_size, seed=0)  # As in the middle of a run.
        cpu, began = time.process_time(), time.perf_counter()
        result = run_once(ctx, items, shard_size, seed=1)
        seconds = time.perf_counter() - began
        cpu = time.process_time() - cpu
        began = time.perf_counter()
        again = run_once(ctx, items, shard_size, seed=1)
        cached_s = time.perf_counter() - began
    assert result.ok == items
    assert again.cached
    samples = progress.bars[1].samples
    early = statistics.mean(mib for share, mib in samples.items() if 0.25 < share <= 0.5)
    late = statistics.mean(mib for share, mib in samples.items() if share > 0.75)
    return {
        "ms_per_item": 1000 * seconds / items,
        "driver_cpu_ms_per_item": 1000 * cpu / items,
        "ms_per_shard": 1000 * seconds / (items / shard_size),
        "cached_s": cached_s,
        "driver_mib_in_the_second_quarter": early,
        "driver_mib_in_the_last_quarter": late,
        "growth_mib": late - early,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--shard-size", type=int, default=250)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    found = measure(options.items, options.shard_size, options.workers)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}, indent=2))
    broken = []
    if options.shard_size >= PROMISED_SHARD and found["ms_per_item"] > LIMIT_MS:
        broken.append(f"{found['ms_per_item']:.2f} ms an item, promised {LIMIT_MS:g}")
    allowed = LIMIT_MIB + COMMIT_MIB * options.items / options.shard_size / 2
    if found["growth_mib"] > allowed:
        broken.append(f"the driver's memory grew by {found['growth_mib']:.1f} MiB, promised at most {allowed:.1f}")
    if broken:
        sys.exit("; ".join(broken))


if __name__ == "__main__":
    main()
