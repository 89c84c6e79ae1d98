from __future__ import annotations

import hashlib
import itertools
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.blobs import MANIFEST, Blobs
from storage.errors import LakeError
from storage.lake import Lake

ROWS = [{"video": "a.mp4", "frames": [b"\x00\x01", b""]}, {"video": "b.mp4", "frames": None}]


def make_folder(folder: Path) -> Path:
    (folder / "inner" / "empty").mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(b"\x00" * 1000)
    (folder / "inner" / "config.json").write_text("{}")
    (folder / "link.json").symlink_to(folder / "inner" / "config.json")
    return folder


def file_of(lake: Lake, blob: str, name: str = "") -> Path:
    return Path(lake.root, "blobs", blob[:2], blob, name)


def test_bytes_come_back_under_their_hash(lake_root: str) -> None:
    blobs = Lake(lake_root).blobs
    blob = blobs.put(b"hello")
    assert blob == hashlib.sha256(b"hello").hexdigest()
    assert not blobs.exists(hashlib.sha256(b"other").hexdigest())
    assert blobs.put(b"hello") == blob
    again: Blobs = pickle.loads(pickle.dumps(blobs))
    assert again.exists(blob)
    assert again.get(blob) == b"hello"
    assert blobs.get(blobs.put(b"")) == b""


def test_many_writers_of_one_blob_leave_one_whole_file(lake_root: str) -> None:
    data = os.urandom(300_000)
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: Lake(lake_root).blobs.put(data), range(16)))
    assert len(names) == 1
    assert Lake(lake_root).blobs.get(names.pop()) == data
    if not lake_root.startswith("s3://"):
        assert list(Path(lake_root, "blobs", ".tmp").iterdir()) == []


def test_a_blob_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    blob = lake.blobs.put(b"hello")
    before = file_of(lake, blob).stat()
    lake.blobs.put(b"hello")
    assert file_of(lake, blob).stat().st_mtime_ns == before.st_mtime_ns
    assert file_of(lake, blob).stat().st_ino == before.st_ino


def test_a_cut_file_is_mended_by_putting_it_again(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    blob = lake.blobs.put(b"hello")
    file_of(lake, blob).write_bytes(b"hel")
    with pytest.raises(LakeError, match="is damaged"):
        lake.blobs.get(blob)
    lake.blobs.put(b"hello")
    assert lake.blobs.get(blob) == b"hello"


def test_missing_and_misnamed_blobs_say_so(lake_root: str) -> None:
    blobs = Lake(lake_root).blobs
    nowhere = "0" * 64
    folder = blobs.put(b"a file")
    for read in (blobs.get, blobs.folder, blobs.open_arrow):
        with pytest.raises(LakeError, match="restore it"):
            read(nowhere)
        with pytest.raises(LakeError, match="is not the name of a blob"):
            read("../../etc/passwd")
    with pytest.raises(LakeError, match="file or folder"):
        blobs.folder(folder)


def test_a_folder_comes_back_file_by_file(lake_root: str, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "adapter")
    blobs = Lake(lake_root).blobs
    blob = blobs.put_folder(source)
    lines = [
        f"{hashlib.sha256((source / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("adapter.safetensors", "inner/config.json", "link.json")
    ]
    assert blob == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert blobs.exists(blob)
    local = Lake(lake_root).blobs.folder(blob)
    assert (local / "adapter.safetensors").read_bytes() == b"\x00" * 1000
    assert (local / "link.json").read_text() == "{}"
    assert blobs.put_folder(local) == blob  # the manifest is no part of its own folder


def test_an_unfinished_folder_is_not_there_and_is_finished_by_a_rerun(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    source = make_folder(tmp_path / "adapter")
    blob = lake.blobs.put_folder(source)
    file_of(lake, blob, MANIFEST).unlink()
    file_of(lake, blob, "link.json").unlink()
    assert not lake.blobs.exists(blob)
    with pytest.raises(LakeError, match="restore it"):
        Lake(lake.root).blobs.folder(blob)
    assert lake.blobs.put_folder(source) == blob
    assert (Lake(lake.root).blobs.folder(blob) / "link.json").read_text() == "{}"


def test_a_changed_file_in_a_folder_is_found(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    blob = lake.blobs.put_folder(make_folder(tmp_path / "adapter"))
    file_of(lake, blob, "inner/config.json").write_text("[]")
    with pytest.raises(LakeError, match=r"damaged: .*config.json does not hash"):
        Lake(lake.root).blobs.folder(blob)


def test_folders_without_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(LakeError, match="must hold files"):
            Lake(tmp_path / "lake").blobs.put_folder(folder)


def test_an_arrow_table_is_mapped_and_not_copied(lake_root: str) -> None:
    blobs = Lake(lake_root).blobs
    table = pa.table({"video": ["a"] * 100, "data": [b"x" * 100_000] * 100})
    blob = blobs.put_arrow(table)
    before = pa.total_allocated_bytes()
    opened = Lake(lake_root).blobs.open_arrow(blob)
    assert opened.equals(table)
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_few_arrow_tables_stay_open(tmp_path: Path) -> None:
    blobs = Lake(tmp_path).blobs
    names = [blobs.put_arrow(pa.table({"n": [n]})) for n in range(20)]
    tables = [blobs.open_arrow(name) for name in names]
    assert blobs.open_arrow(names[-1]) is tables[-1]
    assert blobs.open_arrow(names[0]) is not tables[0]
    assert [table["n"][0].as_py() for table in tables] == list(range(20))


def test_what_is_no_arrow_file_is_refused(lake_root: str) -> None:
    blobs = Lake(lake_root).blobs
    with pytest.raises(LakeError, match="ArrowInvalid"):
        blobs.open_arrow(blobs.put(b"not an Arrow file at all"))


def test_a_damaged_copy_in_the_cache_is_found(s3_root: str, tmp_path: Path) -> None:
    blob = Lake(s3_root).blobs.put_arrow(pa.Table.from_pylist(ROWS))
    Lake(s3_root).blobs.open_arrow(blob)
    copy = tmp_path / "cache" / "blobs" / blob[:2] / blob
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")
    with pytest.raises(LakeError, match="Delete that file"):
        Lake(s3_root).blobs.open_arrow(blob)
    copy.unlink()
    assert Lake(s3_root).blobs.open_arrow(blob).to_pylist() == ROWS


tables = st.lists(
    st.fixed_dictionaries(
        {
            "video": st.none() | st.text(max_size=5),
            "frames": st.none() | st.lists(st.none() | st.binary(max_size=9), max_size=3),
            "n": st.none() | st.integers(-5, 5),
            "seen": st.none() | st.booleans(),
        }
    ),
    max_size=12,
)
SCHEMA = pa.schema([("video", pa.string()), ("frames", pa.list_(pa.binary())), ("n", pa.int32()), ("seen", pa.bool_())])


@settings(max_examples=60, deadline=None)
@given(rows=tables, cuts=st.lists(st.integers(0, 12), max_size=3), extra=st.integers(0, 9))
def test_how_a_table_was_made_does_not_change_its_blob(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], cuts: list[int], extra: int
) -> None:
    blobs = Lake(tmp_path_factory.getbasetemp() / "determinism").blobs
    whole = pa.Table.from_pylist(rows, schema=SCHEMA)
    edges = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    pieces = [whole.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    pieced = pa.concat_tables(pieces) if pieces else whole
    sliced = pa.Table.from_pylist([rows[0]] * extra + rows if rows else rows, schema=SCHEMA).slice(extra if rows else 0)
    blob = blobs.put_arrow(whole)
    assert blobs.put_arrow(pieced) == blob
    assert blobs.put_arrow(sliced) == blob
    assert blobs.open_arrow(blob).to_pylist() == rows


class Counted:
    """A file that counts the bytes that are read of it."""

    def __init__(self, file: Any, read: list[int]) -> None:
        self._file, self._read = file, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, *asked: int) -> bytes:
        got: bytes = self._file.read(*asked)
        self._read.append(len(got))
        return got


def test_small_columns_are_read_without_the_large_ones(lake_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder and in a bucket: a few kilobytes of a blob of 8 MB, and no copy of it."""
    names, shapes = ["a", "b", "c", "d"], [[1, 2], [3], [], [4, 5]]
    table = pa.table({"video": names, "data": [bytes([number]) * 2**21 for number in range(4)], "shape": shapes})
    blob = Lake(lake_root).blobs.put_arrow(table)
    blobs = Lake(lake_root).blobs
    read: list[int] = []
    opened = blobs._files.opened
    monkeypatch.setattr(blobs._files, "opened", lambda path: Counted(opened(path), read))
    monkeypatch.setattr(blobs._files, "local", lambda _: pytest.fail("a copy was fetched"))
    assert blobs.peek_arrow(blob, ["video", "shape"]).to_pydict() == {"video": names, "shape": shapes}
    assert 0 < sum(read) < 2**16
    with pytest.raises(LakeError, match="is not, or not as what was asked for"):
        blobs.peek_arrow("0" * 64, ["video"])
