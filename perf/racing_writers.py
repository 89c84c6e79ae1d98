"""Sixteen processes that write one table in a bucket: no shard lost, none twice, one winner a version.

    python -m perf.racing_writers [--writers 16] [--rounds 50]

Starts a moto S3 server. In each round every writer commits a shard of its own, and all of them race for one more. Exits
with 1 where a promise is broken.
"""

import argparse
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from typing import Any

from storage.files import files_of
from storage.lake import Lake

RACED = 1_000_000  # Shards from here on are raced for.
KEY = "raced"


@contextmanager
def moto(bucket: str) -> Iterator[str]:
    """A moto S3 server with an empty bucket, in this process's environment while the block runs; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "moto",
        "AWS_SECRET_ACCESS_KEY": "moto-takes-any",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", url.rsplit(":", 1)[1]]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        for attempt in range(300):
            try:
                opener.open(urllib.request.Request(f"{url}/{bucket}", method="PUT"), timeout=10).close()
                break
            except OSError:
                if attempt == 299 or server.poll() is not None:
                    raise
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


def rows(writer: int, shard: int) -> list[dict[str, Any]]:
    row = {"status": "ok", "item_key": "k", "run": "r", "seed": 1, "name": "writer", "value": float(writer)}
    return [{**row, "item_id": f"{shard}-{n}", "step": n} for n in range(3)]


def write(root: str, writer: int, writers: int, rounds: int, start: Barrier, wins: Any) -> None:
    """One process: its own shards and the raced ones; the raced shards that it won go to `wins`."""
    table = Lake(root).table("metrics")
    won = []
    for n in range(rounds):
        start.wait()
        own = n * writers + writer
        if not table.commit_shard(rows(writer, own), stage_key=KEY, shard=own):
            raise RuntimeError(f"writer {writer} was told that its own shard {own} was there already")
        if table.commit_shard(rows(writer, RACED + n), stage_key=KEY, shard=RACED + n):
            won.append(RACED + n)
    wins.put((writer, won))


def race(root: str, writers: int, rounds: int) -> dict[str, float]:
    """All rounds on the lake at `root`; figures. Raises AssertionError where a promise is broken."""
    context = multiprocessing.get_context("spawn")
    start, wins = context.Barrier(writers), context.Queue()
    processes = [
        context.Process(target=write, args=(root, n, writers, rounds, start, wins), daemon=True) for n in range(writers)
    ]
    for process in processes:
        process.start()
    began = time.monotonic()
    won: dict[int, list[int]] = {}
    while len(won) < writers:
        writer, shards = wins.get(timeout=1800)
        won[writer] = shards
    seconds = time.monotonic() - began
    for process in processes:
        process.join()
    check(root, writers, rounds, won)
    most = max(map(len, won.values()))
    return {"writers": writers, "rounds": rounds, "seconds": seconds, "most_races_won_by_one": most}


def check(root: str, writers: int, rounds: int, won: dict[int, list[int]]) -> None:
    """The promises: what the writers were told, what the table holds, and what its log says."""
    table = Lake(root).table("metrics")
    winners = Counter(shard for shards in won.values() for shard in shards)
    raced = range(RACED, RACED + rounds)
    assert winners == Counter(raced), f"shards with not exactly one winner: {winners - Counter(raced)}"
    shards = {*range(writers * rounds), *raced}
    assert table.committed(KEY, shards) == shards, "a shard is lost"
    read = table.read(KEY)
    count = Counter(read["shard"].to_pylist())
    assert count == Counter(dict.fromkeys(shards, 3)), "rows are lost or doubled"
    value = dict(zip(read["shard"].to_pylist(), read["value"].to_pylist(), strict=True))
    assert all(value[shard] == writer for writer, mine in won.items() for shard in mine), "rows of a loser"
    assert table.version() == len(shards), f"{table.version()} versions for {len(shards)} shards"
    files = files_of(root)
    commits = [f"tables/metrics/_delta_log/{version:020}.json" for version in range(1, table.version() + 1)]
    names = [action["txn"]["appId"] for path in commits for action in actions(files.read(path)) if "txn" in action]
    assert sorted(names) == sorted(f"{KEY}/{shard}" for shard in shards), "a transaction stands twice in the log"


def actions(commit: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in commit.decode().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache, moto("racing"):
        os.environ["RLAIF_CACHE"] = cache
        try:
            found = race("s3://racing/lake", options.writers, options.rounds)
        except AssertionError as broken:
            sys.exit(f"BROKEN: {broken}")
    print(json.dumps({name: round(value, 2) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
