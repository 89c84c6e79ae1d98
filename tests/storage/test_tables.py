import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from storage.errors import LakeError
from storage.lake import Lake
from storage.rows import row_digest
from storage.tables import Table

WRITER = """
import sys, time
from storage.lake import Lake
root, writer, at = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
table = Lake(root).table("metrics")
def row(i):
    return {"item_id": f"{writer}-{i}", "status": "ok", "item_key": "x", "run": "r", "seed": 1,
            "step": i, "name": "loss", "value": 0.5}
time.sleep(max(0.0, at - time.time()))
print(table.commit_shard([row(0)], stage_key="k", shard=0))
for i in range(3):
    table.commit_shard([row(i)], stage_key="k", shard=100 + 10 * writer + i)
"""

ENDLESS_WRITER = """
import sys
from storage.lake import Lake
table = Lake(sys.argv[1]).table("metrics")
for shard in range(2000):
    row = {"status": "ok", "item_key": "x", "run": "r", "seed": 1, "step": 0, "name": "loss", "value": 0.5}
    rows = [{**row, "item_id": f"{shard}-{i}"} for i in range(5)]
    table.commit_shard(rows, stage_key="k", shard=shard)
    if shard == 2:
        print("started", flush=True)
"""


def provenance(item: str, **more: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "r1", "seed": 7, **more}


def metrics(shard: int, n: int = 3) -> list[dict[str, Any]]:
    return [provenance(f"{shard:04d}-{i}", step=i, name="loss", value=shard + i / 8) for i in reversed(range(n))]


def together(writers: int, work: Callable[[int], Any]) -> list[Any]:
    start = threading.Barrier(writers)

    def one(writer: int) -> Any:
        start.wait()
        return work(writer)

    with ThreadPoolExecutor(writers) as pool:
        return list(pool.map(one, range(writers)))


def test_a_shard_is_written_once_and_read_in_order(lake_root: str) -> None:
    table = Lake(lake_root).table("metrics")
    assert table.version() == -1
    assert table.read().num_rows == 0
    assert table.committed("k", [0, 1]) == set()
    assert table.commit_shard(metrics(1), stage_key="k", shard=1)
    assert table.commit_shard(metrics(0), stage_key="k", shard=0)
    assert not table.commit_shard(metrics(1), stage_key="k", shard=1)
    assert not Lake(lake_root).table("metrics").commit_shard(metrics(1), stage_key="k", shard=1)
    assert table.committed("k", range(5)) == {0, 1}
    assert table.committed("other", range(5)) == set()
    rows = table.read("k")
    assert rows["item_id"].to_pylist() == ["0000-0", "0000-1", "0000-2", "0001-0", "0001-1", "0001-2"]
    assert set(rows["stage_key"].to_pylist()) == {"k"}
    assert rows["shard"].to_pylist() == [0, 0, 0, 1, 1, 1]
    assert table.count("k") == {"ok": 6, "quarantined": 0}
    assert Lake(lake_root).tables() == ["metrics"]


def test_read_prunes_by_stage_key_chooses_columns_and_goes_back_in_time(lake_root: str) -> None:
    table = Lake(lake_root).table("metrics")
    table.commit_shard(metrics(0), stage_key="first", shard=0)
    then = table.version()
    table.commit_shard(metrics(0, n=2), stage_key="second", shard=0)
    assert table.read("second").num_rows == 2
    assert table.read("none of them").num_rows == 0
    assert table.read().num_rows == 5
    assert table.read(version=then).num_rows == 3
    assert table.read(columns=["value", "step"]).column_names == ["value", "step"]
    with pytest.raises(LakeError, match="no version 99; its newest is 2"):
        table.read(version=99)
    with pytest.raises(LakeError, match=r"no column \['vaule'\]"):
        table.read(columns=["vaule"])


def test_every_type_of_a_schema_comes_back(lake_root: str) -> None:
    table = Lake(lake_root).table("frames")
    sets = [{"name": "judge", "clip": 0, "start": 0.0, "end": 1.5, "indices": [0, 2]}]
    full = provenance("v.mp4", video="v.mp4", content="c", blob="b", row=3, timestamps=[0.0, 0.5], frame_index=[0, 12])
    given = [{**full, "sets": sets, "fps": 25.0, "reader": "pyav", "rotation": 90}]
    given.append({**provenance("w.mp4"), "status": "quarantined", "reason": "no frame could be read"})
    table.commit_shard(given, stage_key="k", shard=0)
    read = table.read("k").to_pylist()
    assert {key: read[0][key] for key in given[0]} == given[0]
    assert read[1]["reason"] == "no frame could be read"
    assert read[1]["video"] is None
    assert table.count("k") == {"ok": 1, "quarantined": 1}
    assert table.read("k").schema.equals(Lake(lake_root).table("frames").read("nothing").schema)


def test_count_counts_items_and_not_rows(lake_root: str) -> None:
    table = Lake(lake_root).table("candidates")
    rows = [
        provenance("i1", instruction="i1", video="v", question="q", candidate=candidate, text=str(candidate))
        for candidate in (3, 1, 2, 0)
    ]
    table.commit_shard(rows, stage_key="k", shard=0)
    assert table.count("k") == {"ok": 1, "quarantined": 0}
    assert table.read("k")["candidate"].to_pylist() == [0, 1, 2, 3]


def test_a_shard_without_rows_is_committed_too(lake_root: str) -> None:
    table = Lake(lake_root).table("metrics")
    assert table.commit_shard([], stage_key="k", shard=4)
    assert table.committed("k", range(9)) == {4}
    assert not table.commit_shard(metrics(4), stage_key="k", shard=4)
    assert table.read("k").num_rows == 0


def test_of_eight_threads_one_writes_the_shard(lake_root: str) -> None:
    tables = [Lake(lake_root).table("metrics") for _ in range(8)]
    wins = together(8, lambda n: tables[n].commit_shard(metrics(n), stage_key="k", shard=5))
    assert sorted(wins) == [False] * 7 + [True]
    assert tables[0].read("k")["value"].to_pylist()[0] == wins.index(True)
    assert tables[0].read("k").num_rows == 3


def test_of_eight_threads_with_one_table_one_writes_the_shard(lake_root: str) -> None:
    table = Lake(lake_root).table("metrics")
    wins = together(8, lambda n: table.commit_shard(metrics(n), stage_key="k", shard=5))
    assert sorted(wins) == [False] * 7 + [True]
    assert table.read("k").num_rows == 3


def test_unrelated_writers_all_get_in(lake_root: str) -> None:
    def write(writer: int) -> list[bool]:
        table = Lake(lake_root).table("metrics")
        return [table.commit_shard(metrics(n), stage_key="k", shard=n) for n in range(writer * 4, writer * 4 + 4)]

    assert all(all(wins) for wins in together(6, write))
    table = Lake(lake_root).table("metrics")
    assert table.committed("k", range(24)) == set(range(24))
    assert table.read("k").num_rows == 72


@pytest.mark.slow
def test_processes_race_for_a_shard_and_keep_their_own(lake_root: str) -> None:
    at = str(time.time() + 3)
    command = [sys.executable, "-c", WRITER, lake_root]
    writers = [subprocess.Popen([*command, str(n), at], stdout=subprocess.PIPE, text=True) for n in range(4)]
    wins = [writer.communicate(timeout=100)[0].strip() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4
    assert sorted(wins) == ["False"] * 3 + ["True"]
    rows = Lake(lake_root).table("metrics").read("k")
    assert rows.num_rows == 13
    assert rows["item_id"].to_pylist()[0] == f"{wins.index('True')}-0"


def test_a_handle_that_fell_behind_many_commits_is_still_refused(lake_root: str) -> None:
    late, busy = Lake(lake_root).table("metrics"), Lake(lake_root).table("metrics")
    busy.commit_shard(metrics(0), stage_key="k", shard=0)
    assert late.version() == 1
    for shard in range(1, 60):  # past a checkpoint
        busy.commit_shard(metrics(shard, n=1), stage_key="k", shard=shard)
    assert not late.commit_shard(metrics(30), stage_key="k", shard=30)
    assert not Lake(lake_root).table("metrics").commit_shard(metrics(2), stage_key="k", shard=2)
    assert late.commit_shard(metrics(60, n=1), stage_key="k", shard=60)
    assert late.read("k").num_rows == 3 + 60
    assert late.version() == 61


def test_the_event_log_takes_equal_rows_from_many_writers(lake_root: str) -> None:
    def log(writer: int) -> None:
        event = {"run": "r1", "event_id": f"e{writer}", "at": time.time_ns() // 1000, "event": "run_started"}
        Lake(lake_root).log([event])

    together(6, log)
    events = Lake(lake_root).table("runs").read()
    assert sorted(events["event_id"].to_pylist()) == [f"e{n}" for n in range(6)]
    assert events.schema.field("at").type == pa.timestamp("us", tz="UTC")


def test_shards_in_another_order_give_equal_rows(lake_root: str) -> None:
    whole, resumed = Lake(f"{lake_root}/whole").table("metrics"), Lake(f"{lake_root}/resumed").table("metrics")
    for shard in range(4):
        whole.commit_shard(metrics(shard), stage_key="k", shard=shard)
    for shard in (2, 0):
        resumed.commit_shard(metrics(shard), stage_key="k", shard=shard)
    assert row_digest(whole.read("k")) != row_digest(resumed.read("k"))
    again: Table = pickle.loads(pickle.dumps(resumed))
    for shard in set(range(4)) - again.committed("k", range(4)):
        again.commit_shard(metrics(shard), stage_key="k", shard=shard)
    assert whole.read("k").equals(again.read("k"))
    assert row_digest(whole.read("k")) == row_digest(again.read("k"))


@pytest.mark.slow
def test_a_writer_killed_anywhere_leaves_whole_shards(tmp_path: Path) -> None:
    for delay in (0.0, 0.13, 0.29):
        root = tmp_path / str(delay)
        writer = subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, str(root)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "started\n"
        time.sleep(delay)
        writer.kill()
        writer.communicate()
        table = Lake(root).table("metrics")
        done = table.committed("k", range(200))
        assert table.read("k").num_rows == 5 * len(done)
        assert done == set(range(len(done)))
        assert table.commit_shard(metrics(9999), stage_key="k", shard=9999)


def test_a_stage_key_that_would_not_be_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="Stage key 'a/b'"):
        Lake(tmp_path).table("metrics").commit_shard([], stage_key="a/b", shard=0)


def test_a_handle_is_opened_once_for_many_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = deltalake.DeltaTable.__init__

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        opened.append(args)
        real(self, *args, **kwargs)

    monkeypatch.setattr(deltalake.DeltaTable, "__init__", counted)
    lake = Lake(tmp_path)
    for shard in range(20):
        lake.table("metrics").commit_shard(metrics(shard), stage_key="k", shard=shard)
    assert len(opened) <= 2
    assert lake.table("metrics") is lake.table("metrics")


def test_a_table_pickles_as_its_place(tmp_path: Path) -> None:
    table = Lake(tmp_path).table("metrics")
    table.commit_shard(metrics(0), stage_key="k", shard=0)
    again: Table = pickle.loads(pickle.dumps(table))
    assert again.committed("k", [0]) == {0}


def _written_by_older_code(root: str, schema: pa.Schema) -> Table:
    """The table `metrics` as code with that schema would have left it, with one shard of it."""
    table = Table(root, "metrics")
    table._schema = schema
    rows = pa.Table.from_pylist([row | {"stage_key": "old", "shard": 0} for row in metrics(0)], schema=schema)
    deltalake.write_deltalake(table._create(), rows, mode="append")
    return Table(root, "metrics")


def test_a_table_from_before_a_column_is_read_and_written(tmp_path: Path) -> None:
    whole = Table(str(tmp_path), "metrics")._schema
    table = _written_by_older_code(str(tmp_path), whole.remove(whole.get_field_index("arm")))
    assert table.commit_shard([row | {"arm": "one"} for row in metrics(1)], stage_key="new", shard=1)
    assert table.read("old").num_rows == table.read("new").num_rows == 3
    assert {(row["stage_key"], row["arm"]) for row in table.read().to_pylist()} == {("old", None), ("new", "one")}
    assert table.read(columns=["arm"], version=1)["arm"].to_pylist() == [None] * 3


def test_a_table_of_another_version_of_the_code_is_refused(tmp_path: Path) -> None:
    whole = Table(str(tmp_path), "metrics")._schema
    table = _written_by_older_code(str(tmp_path), whole.append(pa.field("wavelength", pa.float64())))
    with pytest.raises(LakeError, match=r"another version of this project.*wavelength.*Choose a new lake"):
        table.read()
