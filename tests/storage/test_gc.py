"""What gc takes from a lake, and above all what it leaves."""

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage.errors import LakeError
from storage.files import files_of
from storage.gc import DAY_S, Chore, do, plan
from storage.lake import Lake
from storage.rows import row_digest
from storage.sql import query

NO_GUARD_S = -60.0  # S3 tells whole seconds.


def provenance(item: str, **more: Any) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "r", "seed": 1, **more}


def preference(shard: int, preferred: str = "a") -> dict[str, Any]:
    texts = {"instruction": "i", "video": "v", "question": "q", "answer_a": "x", "answer_b": "y"}
    numbers = {"a": 0, "b": 1, "p_a": 0.7, "score_a": 1.0, "score_b": 0.0, "p_a_first": 0.7, "p_a_second": 0.7}
    way = {"method": "likelihood", "frame_set": "f", "with_narrative": False, "consistent": True, "arm": "one"}
    return provenance(f"{shard:03}", preferred=preferred, **texts, **numbers, **way)


def checkpoint(step: int, **blobs: str) -> dict[str, Any]:
    return provenance(f"{step:06}", role="sft", step=step, final="blob" in blobs, base="b", metrics="{}", **blobs)


def complete(key: str) -> dict[str, Any]:
    row = {"stage": "sft", "config": "{}", "inputs": "[]", "output_table": "checkpoints"}
    return provenance(key, **row, items=1, ok=1, quarantined=0)


def labelled(root: str, shards: int = 20) -> Lake:
    lake = Lake(root)
    for shard in range(shards):
        lake.table("preferences").commit_shard([preference(shard)], stage_key="old", shard=shard)
    return lake


def clean(lake: Lake, min_age_s: float = NO_GUARD_S, **options: Any) -> dict[str, int]:
    """Everything there is to do; files by kind."""
    counts: dict[str, int] = {}
    for chore in plan(lake, min_age_s=min_age_s, **options):
        counts[chore.kind] = counts.get(chore.kind, 0) + len(do(lake, chore, min_age_s=min_age_s))
    return counts


def paths(lake: Lake) -> set[str]:
    return {file.path for folder in ("tables", "blobs") for file in files_of(lake.root).listing(folder)}


def make_older(lake: Lake, seconds: float = 2 * DAY_S) -> None:
    """Backdates every file of a lake in a folder."""
    for path in paths(lake):
        os.utime(Path(lake.root, path), (time.time() - seconds,) * 2)


def folder_of(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / text
    folder.mkdir()
    (folder / "weights").write_text(text)
    (folder / "config").write_text("{}")
    return folder


def test_a_plan_changes_nothing(lake_root: str) -> None:
    lake = labelled(lake_root)
    lake.blobs.put(b"nobody's")
    before = paths(lake)
    found = {chore.kind: chore for chore in plan(lake, min_age_s=NO_GUARD_S)}
    assert set(found) == {"small files", "no row"}
    assert (len(found["small files"].files), found["no row"].bytes) == (20, len(b"nobody's"))
    assert paths(lake) == before


def test_compaction_keeps_rows_and_every_version(lake_root: str) -> None:
    lake = labelled(lake_root)
    table = lake.table("preferences")
    versions = {version: row_digest(table.read(version=version)) for version in (1, 7, 20)}
    before = table.read()
    assert clean(lake) == {"small files": 20}
    assert len(table.live_files()) == 1
    assert table.read().equals(before)
    assert query(lake, "SELECT stage_key, count(*) n FROM preferences GROUP BY ALL").to_pylist() == [
        {"stage_key": "old", "n": 20}
    ]
    fresh = Lake(lake_root).table("preferences")
    assert {version: row_digest(fresh.read(version=version)) for version in versions} == versions
    assert fresh.committed("old", range(30)) == set(range(20))
    assert not fresh.commit_shard([preference(3, "b")], stage_key="old", shard=3)
    assert fresh.commit_shard([preference(20)], stage_key="old", shard=20)
    assert clean(lake) == {}, "nothing is left to do, and no version has lost a file"
    assert {version: row_digest(fresh.read(version=version)) for version in versions} == versions


def test_forgotten_versions_say_so_and_later_ones_stay(lake_root: str) -> None:
    lake = labelled(lake_root)
    table = lake.table("preferences")
    clean(lake)
    time.sleep(0.01)
    moment = datetime.now(UTC)
    time.sleep(0.01)
    kept = {table.version(): row_digest(table.read())}
    table.commit_shard([preference(20)], stage_key="new", shard=20)
    kept[table.version()] = row_digest(table.read())
    assert clean(lake) == {}
    assert clean(lake, forget_before=moment) == {"no version": 20}
    fresh = Lake(lake_root).table("preferences")
    assert {version: row_digest(fresh.read(version=version)) for version in kept} == kept
    assert fresh.read("old").num_rows == 20, "an older label version is rows under its key, and those stay"
    with pytest.raises(LakeError, match=r"version 5 of table preferences.*forget"):
        fresh.read(version=5)


def test_a_moment_without_time_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="needs a time zone"):
        plan(Lake(tmp_path), forget_before=datetime.now())


def test_files_of_writers_that_never_committed_go(lake_root: str) -> None:
    lake = labelled(lake_root, shards=2)
    files = files_of(lake.root)
    lost = "tables/preferences/stage_key=old/part-00000-lost-c000.snappy.parquet"
    files.write(lost, b"a killed writer's")
    files.write("tables/preferences/_delta_log/_commit_1234.json.tmp", b"{}")
    files.write("tables/preferences/notes.txt", b"not ours")
    assert clean(lake) == {"no version": 1, "leftover": 1}
    assert lost not in paths(lake)
    assert "tables/preferences/notes.txt" in paths(lake)
    assert Lake(lake_root).table("preferences").read().num_rows == 2


def test_blobs_that_a_row_names_anywhere_stay(lake_root: str, tmp_path: Path) -> None:
    lake = Lake(lake_root)
    frames, narrated, nobody = (lake.blobs.put(name) for name in (b"frames", b"narrated", b"nobody's"))
    adapter = lake.blobs.put_folder(folder_of(tmp_path, "adapter"))
    spare = lake.blobs.put_folder(folder_of(tmp_path, "spare"))
    lake.table("frames").commit_shard([provenance("v", video="v", content="c", blob=frames)], stage_key="f", shard=0)
    clip = {"clip": 0, "start": 0.0, "end": 1.0, "text": f"see {narrated}.", "n_tokens": 1}
    lake.table("captions").commit_shard([provenance("v", video="v", clips=[clip])], stage_key="c", shard=0)
    lake.table("checkpoints").commit_shard([checkpoint(3, blob=adapter)], stage_key="t", shard=0)
    assert clean(lake) == {"no row": 4}, "a file, and a folder's two with their manifest"
    fresh = Lake(lake_root)
    assert [fresh.blobs.exists(blob) for blob in (frames, narrated, adapter, nobody, spare)] == [True] * 3 + [False] * 2
    assert fresh.blobs.folder(adapter).is_dir()


def test_states_of_ended_trainings_go_and_those_under_way_stay(lake_root: str, tmp_path: Path) -> None:
    lake = Lake(lake_root)
    states = {name: lake.blobs.put_folder(folder_of(tmp_path, name)) for name in ("first", "last", "running")}
    adapter = lake.blobs.put_folder(folder_of(tmp_path, "adapter"))
    table = lake.table("checkpoints")
    table.commit_shard([checkpoint(1, state=states["first"])], stage_key="done-state", shard=1)
    table.commit_shard([checkpoint(2, state=states["last"])], stage_key="done-state", shard=2)
    table.commit_shard([checkpoint(2, blob=adapter)], stage_key="done", shard=0)
    table.commit_shard([checkpoint(1, state=states["running"])], stage_key="going-state", shard=1)
    lake.table("stages").commit_shard([complete("done")], stage_key="done", shard=-1)
    with_states = table.version()
    assert clean(lake) == {"ended training": 6}
    fresh = Lake(lake_root)
    assert set(fresh.table("checkpoints").read()["stage_key"].to_pylist()) == {"done", "going-state"}
    assert fresh.table("checkpoints").read(version=with_states).num_rows == 4
    assert [fresh.blobs.exists(blob) for blob in (*states.values(), adapter)] == [False, False, True, True]
    assert fresh.table("checkpoints").commit_shard([checkpoint(2)], stage_key="going-state", shard=2)
    assert clean(lake) == {}


def test_a_state_that_an_ended_training_hands_on_stays(lake_root: str, tmp_path: Path) -> None:
    """A further stage goes on from it: the row that the training ended with names it."""
    lake = Lake(lake_root)
    states = [lake.blobs.put_folder(folder_of(tmp_path, name)) for name in ("first", "last")]
    adapter = lake.blobs.put_folder(folder_of(tmp_path, "adapter"))
    table = lake.table("checkpoints")
    for step, state in enumerate(states, 1):
        table.commit_shard([checkpoint(step, state=state)], stage_key="done-state", shard=step)
    table.commit_shard([checkpoint(2, blob=adapter, state=states[1])], stage_key="done", shard=0)
    lake.table("stages").commit_shard([complete("done")], stage_key="done", shard=-1)
    assert clean(lake) == {"ended training": 3}
    fresh = Lake(lake_root)
    assert [fresh.blobs.exists(blob) for blob in (*states, adapter)] == [False, True, True]
    assert fresh.table("checkpoints").read()["stage_key"].to_pylist() == ["done"]
    assert clean(lake) == {}


def test_what_is_young_is_left_alone(tmp_path: Path) -> None:
    lake = labelled(str(tmp_path), shards=1)
    nobody = lake.blobs.put(b"nobody's yet")
    files_of(lake.root).write("tables/preferences/stage_key=old/part-0-x-c000.snappy.parquet", b"on its way")
    temporary = tmp_path / "blobs" / ".tmp" / "half"
    temporary.write_bytes(b"half of it")
    assert clean(lake, min_age_s=DAY_S) == {}
    make_older(lake)
    again = lake.blobs.put(b"nobody's yet")  # by a run at work, which will name it
    assert clean(lake, min_age_s=DAY_S) == {"no version": 1, "leftover": 1}
    assert again == nobody
    assert lake.blobs.get(nobody) == b"nobody's yet"


def test_a_blob_that_is_put_again_after_the_plan_stays(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    file, folder = lake.blobs.put(b"x"), lake.blobs.put_folder(folder_of(tmp_path, "adapter"))
    make_older(lake)
    chores = plan(lake, min_age_s=DAY_S)
    lake.blobs.put(b"x")
    lake.blobs.put_folder(tmp_path / "adapter")
    assert [do(lake, chore, min_age_s=DAY_S) for chore in chores] == [[]]
    assert Lake(lake.root).blobs.exists(file)
    assert Lake(lake.root).blobs.folder(folder).is_dir()


def test_stopped_anywhere_it_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path / "lake")
    state, adapter = (lake.blobs.put_folder(folder_of(tmp_path, name)) for name in ("state", "adapter"))
    lake.table("checkpoints").commit_shard([checkpoint(1, state=state)], stage_key="t-state", shard=1)
    lake.table("checkpoints").commit_shard([checkpoint(1, blob=adapter)], stage_key="t", shard=0)
    lake.table("stages").commit_shard([complete("t")], stage_key="t", shard=-1)
    files = type(files_of(lake.root))
    remove: Callable[..., bool] = files.remove
    left = [1]

    def killed(self: Any, path: str, older_than: float) -> bool:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return remove(self, path, older_than)

    monkeypatch.setattr(files, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        clean(lake)
    monkeypatch.undo()
    assert not Lake(lake.root).blobs.exists(state), "without its manifest it is not there"
    assert clean(lake) == {"no row": 2}
    assert Lake(lake.root).blobs.folder(adapter).is_dir()
    assert clean(lake) == {}


def test_beside_writers_at_work_no_row_and_no_blob_is_lost(lake_root: str) -> None:
    lake = labelled(lake_root)
    stop = threading.Event()
    written: list[str] = []
    errors: list[Exception] = []

    def write() -> None:
        mine = Lake(lake_root)
        shard = 0
        try:
            while not stop.is_set():
                blob = mine.blobs.put(f"blob {shard}".encode())
                row = provenance(f"{shard:04}", video="v", content="c", blob=blob)
                assert mine.table("frames").commit_shard([row], stage_key="f", shard=shard)
                assert mine.table("preferences").commit_shard([preference(shard)], stage_key="new", shard=shard)
                written.append(blob)
                shard += 1
        except Exception as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until = time.monotonic() + 30
        while len(written) < 40 and not errors and time.monotonic() < until:
            clean(lake, min_age_s=3600.0)
    finally:
        stop.set()
        writer.join()
    assert not errors
    fresh = Lake(lake_root)
    assert fresh.table("frames").read("f")["blob"].to_pylist() == written
    assert all(fresh.blobs.exists(blob) for blob in written)
    assert fresh.table("preferences").read("new").num_rows == len(written)
    assert fresh.table("preferences").read("old").num_rows == 20
    assert len(fresh.table("preferences").live_files()) < 20 + len(written), "it was compacted meanwhile"


def test_two_cleaners_do_no_harm(lake_root: str) -> None:
    lake = labelled(lake_root)
    chores: list[Chore] = plan(lake, min_age_s=NO_GUARD_S)
    first, second = Lake(lake_root), Lake(lake_root)
    second.table("preferences").version()
    assert [len(do(first, chore)) for chore in chores] == [20]
    assert [len(do(second, chore)) for chore in chores] in ([0], [20])
    assert Lake(lake_root).table("preferences").read().num_rows == 20


def test_a_moment_in_the_future_keeps_the_newest_version(tmp_path: Path) -> None:
    lake = labelled(str(tmp_path))
    clean(lake)
    assert clean(lake, forget_before=datetime.now(UTC) + timedelta(days=1)) == {"no version": 20}
    assert lake.table("preferences").read().num_rows == 20
