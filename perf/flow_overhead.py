"""What the flow adds to the work of its stages: wall time over the sum of the stages' own work, with one worker.

    python -m perf.flow_overhead [--preset miniature] [section.key=value ...]

Runs the preset once into an empty folder, with one worker, so that no two stages' work overlaps and hides what the flow
costs. The start of Ray and of Prefect's server are left out and shown beside it. Exits with 1 above the promised 1.05.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIMIT = 1.05


def measure(preset: str, overrides: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        here = [f"run.folder={folder}", f"run.lake={folder}/lake", "run.workers=1"]
        began = time.perf_counter()
        subprocess.run([_rlaif(), "run", "--preset", preset, *overrides, *here], check=True)
        seconds = time.perf_counter() - began
        return overhead(json.loads((Path(folder) / "summary.json").read_text()), seconds)


def overhead(summary: dict[str, Any], process_seconds: float) -> dict[str, float]:
    """`summary`: summary.json of a run with one worker that found nothing done."""
    assert not any(stage["cached"] for stage in summary["stages"])
    work = sum(stage["work_seconds"] for stage in summary["stages"])
    ray = summary["flow"]["ray_start_seconds"]
    wall = summary["wall_seconds"] - ray
    return {
        "overhead": wall / work,
        "flow_wall_seconds": wall,
        "work_seconds": work,
        "ray_start_seconds": ray,
        "process_and_server_start_seconds": process_seconds - summary["wall_seconds"],
    }


def _rlaif() -> str:
    return str(Path(sys.executable).with_name("rlaif"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="miniature")
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value")
    options = parser.parse_args()
    found = measure(options.preset, options.overrides)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=2))
    return int(found["overhead"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
