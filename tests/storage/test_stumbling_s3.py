"""S3 services that stumble, lie or lack what a lake needs: a proxy with seeded faults in front of a real server."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_proxy import Faults, Proxy, proxy

from storage.errors import LakeError
from storage.gc import do, plan
from storage.lake import Lake
from storage.rows import row_digest
from storage.sql import query

ISSUE = Faults(refused=0.05, cut=0.01, delayed=0.05, delay_s=(0.05, 0.2), seed=1)
HARSH = Faults(refused=0.15, cut=0.10, seed=2)


def rows(shard: int) -> list[dict[str, Any]]:
    row = {"status": "ok", "item_key": "k", "run": "r", "seed": 1, "name": "loss", "value": shard / 8}
    return [{**row, "item_id": f"{shard:04}-{n}", "step": n} for n in range(3)]


def write_and_read(root: str, folder: Path, shards: int) -> list[object]:
    """What a run does with a lake; everything that can be asked of it afterwards."""
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(200_000))
    lake = Lake(root)
    blobs = []
    for shard in range(shards):
        assert lake.table("metrics").commit_shard(rows(shard), stage_key="k", shard=shard), "nobody else writes it"
        lake.log([{"run": "r", "event_id": f"e{shard}", "at": shard, "event": "run_started"}])
        blobs.append(lake.blobs.put(f"blob {shard}".encode() * 10_000))
    blobs.append(lake.blobs.put_folder(folder))
    fresh = Lake(root)
    contents = [fresh.blobs.get(blob) for blob in blobs[:-1]]
    contents.append((fresh.blobs.folder(blobs[-1]) / "weights").read_bytes())
    events = fresh.table("runs").read()
    return [
        row_digest(fresh.table("metrics").read()),
        row_digest(fresh.table("metrics").read(version=shards // 2)),
        fresh.table("metrics").version(),
        fresh.table("metrics").committed("k", range(2 * shards)),
        row_digest(events),
        events.num_rows,
        query(fresh, "SELECT count(*) n, sum(value) s FROM metrics").to_pylist(),
        blobs,
        contents,
    ]


@pytest.fixture
def through(s3_root: str, s3_server: str, monkeypatch: pytest.MonkeyPatch, request: Any) -> Iterator[Proxy]:
    """The environment's way to the server leads through a proxy with the faults of the test's parameter."""
    assert s3_root
    with proxy(s3_server, request.param) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between


@pytest.mark.slow
@pytest.mark.parametrize(("through", "shards"), [(ISSUE, 12), (HARSH, 5)], ids=["issue", "harsh"], indirect=["through"])
def test_the_rows_are_the_same_as_without_faults(s3_root: str, through: Proxy, shards: int, tmp_path: Path) -> None:
    expected = write_and_read(str(tmp_path / "lake"), tmp_path / "one", shards=shards)
    assert write_and_read(s3_root, tmp_path / "two", shards=shards) == expected
    assert {"refused", "refused_late"} <= set(through.counts), "a test without faults would prove nothing"
    assert {"cut_request", "cut_answer"} & set(through.counts)


@pytest.mark.parametrize("through", [HARSH], indirect=True)
def test_of_racing_writers_one_wins_whatever_is_lost(s3_root: str, through: Proxy) -> None:
    wins: list[list[bool]] = [[] for _ in range(4)]

    def write(writer: int) -> None:
        table = Lake(s3_root).table("metrics")
        for shard in range(6):
            wins[writer].append(table.commit_shard(rows(shard), stage_key="k", shard=shard))

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [sum(each) for each in zip(*wins, strict=True)] == [1] * 6
    assert Lake(s3_root).table("metrics").read("k").num_rows == 18
    assert through.counts["refused_late"] > 0


@pytest.mark.parametrize("through", [HARSH], indirect=True)
def test_gc_stumbles_on(s3_root: str, s3_server: str, through: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    calm = Lake(s3_root)
    for shard in range(17):
        calm.table("metrics").commit_shard(rows(shard), stage_key="k", shard=shard)
    nobody = calm.blobs.put(b"nobody's")
    before = calm.table("metrics").read()
    monkeypatch.setenv("AWS_ENDPOINT_URL", through.url)
    lake = Lake(s3_root)
    while chores := plan(lake, min_age_s=-60.0):
        for chore in chores:
            do(lake, chore, min_age_s=-60.0)
    assert len(lake.table("metrics").live_files()) == 1
    assert lake.table("metrics").read().equals(before)
    assert not lake.blobs.exists(nobody)
    assert through.counts["refused"] > 0


@pytest.mark.parametrize("through", [Faults(dropped=("If-None-Match",))], indirect=True)
def test_an_endpoint_without_conditional_writes_is_refused(s3_root: str, through: Proxy) -> None:
    for _ in range(2):
        with pytest.raises(LakeError, match=r"does not keep conditional writes.*took the same object twice"):
            Lake(s3_root)
    assert through.url.startswith("http://127.0.0.1")


def test_the_marker_stays_and_proves_it_at_each_opening(s3_root: str) -> None:
    for _ in range(3):
        lake = Lake(s3_root)
    files = lake.blobs._files._s3()
    assert [name.removeprefix(s3_root.removeprefix("s3://")) for name in files.find(s3_root)] == ["/.lake"]
