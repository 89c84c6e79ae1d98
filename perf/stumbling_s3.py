"""A labelling in a bucket whose server stumbles, against the same in a folder: the rows must be the same.

    python -m perf.stumbling_s3 [--refused 0.05] [--cut 0.01] [--delayed 0.05] [--seed 0]

Starts a moto S3 server and a proxy in front of it that answers a share of the requests with 500 or 503 (half of these
after doing what was asked), cuts a share half-way, and holds a share up by one to three seconds. Runs the flow
`relabel` on the miniature at a reduced size. Exits with 1 where a row differs or no request failed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flows import environment
from perf.racing_writers import moto
from storage.lake import Lake
from storage.rows import row_digest
from tests.flows.reduced import SMALL
from tests.s3_proxy import Faults, proxy


def label(lake: str, data: str) -> None:
    """One labelling; the body of a process of its own."""
    from flows.parameters import Labelling
    from flows.presets import load
    from flows.relabel import relabel

    places = [f"data.videos={data}/videos", f"run.lake={lake}", f"run.folder={data}/results", "data.prepare=null"]
    places += [f"data.{split}={data}/{split}.json" for split in ("sft", "rl", "benchmark")]
    given = load("miniature", [*SMALL.split(), *places])
    relabel(**{name: getattr(given, name) for name in Labelling.model_fields})


def timed(lake: str, data: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "perf.stumbling_s3", "--label", lake, "--data", data], check=True)
    return time.monotonic() - began


def digests(root: str) -> dict[str, str]:
    """What every table but the event log holds."""
    lake = Lake(root)
    return {name: row_digest(lake.table(name).read()) for name in lake.tables() if name != "runs"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refused", type=float, default=0.05)
    parser.add_argument("--cut", type=float, default=0.01)
    parser.add_argument("--delayed", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    environment.apply()
    if options.label:
        label(options.label, options.data)
        return
    faults = Faults(options.refused, options.cut, options.delayed, seed=options.seed)
    from miniature.dataset import write

    with tempfile.TemporaryDirectory() as folder, moto("stumbling") as server:
        os.environ |= {"RLAIF_CACHE": f"{folder}/cache", "PREFECT_HOME": f"{folder}/prefect"}
        write(Path(folder), sft=8, rl=8, benchmark=2, seed=0)
        plain = timed(f"{folder}/lake", folder)
        with proxy(server, faults) as between:
            os.environ["AWS_ENDPOINT_URL"] = between.url
            stumbling = timed("s3://stumbling/lake", folder)
            counts = dict(between.counts)
        os.environ["AWS_ENDPOINT_URL"] = server
        expected, found = digests(f"{folder}/lake"), digests("s3://stumbling/lake")
    different = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    seconds = {"folder": round(plain), "stumbling_s3": round(stumbling)}
    print(
        json.dumps({"seconds": seconds, "requests": counts, "tables": sorted(found), "different": different}, indent=2)
    )
    if different or not {"refused", "refused_late", "cut_request", "cut_answer", "delayed"} <= set(counts):
        sys.exit("The rows differ, or not every fault happened.")


if __name__ == "__main__":
    main()
