"""What a person sees when the lake's place is wrong, full or closed; and that no secret gets out."""

import contextlib
import errno
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deltalake
import pytest

from storage import places
from storage.errors import LakeError
from storage.lake import Lake
from storage.sql import query

# Every file longer than this fails with EFBIG, a real refusal by the kernel in the middle of a write.
NO_ROOM = """
import resource, sys
from storage.errors import LakeError
from storage.lake import Lake
lake = Lake(sys.argv[1])
row = {"item_id": "i", "status": "ok", "item_key": "k", "run": "r", "seed": 1, "step": 0, "name": "n", "value": 0.0}
assert lake.table("metrics").commit_shard([row], stage_key="k", shard=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
def write_shard():
    return lake.table("metrics").commit_shard([row], stage_key="k", shard=1)
for write in (write_shard, lambda: lake.blobs.put(b"x" * 5000)):
    try:
        write()
    except LakeError as error:
        print("LakeError:", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(write_shard(), lake.table("metrics").read("k").num_rows, len(lake.blobs.get(lake.blobs.put(b"x" * 5000))))
"""


def rows() -> list[dict[str, Any]]:
    row = {"item_id": "i", "status": "ok", "item_key": "k", "run": "r", "seed": 1, "step": 0, "name": "n", "value": 0.0}
    return [row]


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Permissions do not hold for root; be somebody else inside."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_lake_travels_as_its_root(lake_root: str) -> None:
    lake = Lake(lake_root)
    lake.table("metrics").commit_shard(rows(), stage_key="k", shard=0)
    lake.blobs.put(b"x")
    again: Lake = pickle.loads(pickle.dumps(lake))
    assert again.root == lake.root == lake_root
    assert again.table("metrics").count("k") == {"ok": 1, "quarantined": 0}
    assert repr(again) == f"Lake({lake_root!r})"


def test_roots_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_root: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Lake("a/../b").root == str(tmp_path / "b")
    assert Lake("~/lake").root == str(tmp_path / "home" / "lake")
    assert Lake(f"{s3_root}/").root == s3_root
    assert Lake(Path(s3_root)).root == s3_root  # pathlib takes a slash away


@pytest.mark.parametrize("name", ["sp ace", "q'uo", "ünï çødé", "run=3", "stage_key=zz", "h#x{}", "100 & more"])
def test_odd_names_of_folders_work(tmp_path: Path, name: str) -> None:
    lake = Lake(tmp_path / name / "lake")
    lake.table("metrics").commit_shard(rows(), stage_key="0012", shard=0)
    assert lake.table("metrics").read("0012").num_rows == 1
    assert query(lake, "SELECT run, stage_key FROM metrics").to_pylist() == [{"run": "r", "stage_key": "0012"}]
    assert lake.blobs.get(lake.blobs.put(b"x")) == b"x"


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("lake[1]", "choose a name without them"),
        ("a%20b", "choose a name without them"),
        ("gs://bucket/lake", "name a folder, or s3://bucket/prefix"),
        ("s3://", "names no bucket"),
        ("s3://AKIA:hush@bucket/lake", "holds credentials"),
    ],
)
def test_places_that_cannot_hold_a_lake(root: str, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LakeError, match=message) as refusal:
        Lake(root)
    assert "hush" not in str(refusal.value)


def test_an_unknown_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="no table 'frame'; its tables are videos, frames"):
        Lake(tmp_path).table("frame")


def test_a_file_in_the_way_of_the_lake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "lake"):
        with pytest.raises(LakeError, match="in the way: move it away") as refusal:
            Lake(root)
        assert str(root) in str(refusal.value)


def test_a_file_in_the_way_of_a_table_or_blob(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "metrics").write_text("")
    (tmp_path / "blobs").write_text("")
    with pytest.raises(LakeError, match=r"table metrics at .*in the way: move it away"):
        lake.table("metrics").commit_shard(rows(), stage_key="k", shard=0)
    with pytest.raises(LakeError, match="in the way: move it away"):
        lake.blobs.put(b"x")


def test_a_folder_that_may_not_be_written(open_folder: Path) -> None:
    lake = Lake(open_folder)
    lake.table("metrics").commit_shard(rows(), stage_key="k", shard=0)
    with without_privileges():
        with pytest.raises(LakeError, match=f"open the lake at {open_folder}: it may not be written"):
            Lake(open_folder)
        with pytest.raises(LakeError, match="it may not be written"):
            Lake(open_folder / "inner")
        with pytest.raises(LakeError, match=r"table metrics at .*may not be written.*committed shards are kept"):
            lake.table("metrics").commit_shard(rows(), stage_key="k", shard=1)
        with pytest.raises(LakeError, match=r"write blob .*may not be written"):
            lake.blobs.put(b"x")
        assert lake.table("metrics").read("k").num_rows == 1
    assert lake.table("metrics").commit_shard(rows(), stage_key="k", shard=1)


def test_a_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(LakeError, match=r"may not be written.*choose another lake"):
        Lake(tmp_path)


@pytest.mark.parametrize("error", [OSError, deltalake.exceptions.DeltaError])
def test_a_full_disk_keeps_what_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    lake = Lake(tmp_path)
    lake.table("metrics").commit_shard(rows(), stage_key="k", shard=0)

    def fail(*_: Any, **__: Any) -> None:
        raise error("Generic LocalFileSystem error\n \x1b[31m↳\x1b[0m No space left on device (os error 28)")

    def fail_file(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(deltalake, "write_deltalake", fail)
        full.setattr(Path, "write_bytes", fail_file)
        with pytest.raises(LakeError, match=r"table metrics at .*disk is full: free space there.*kept") as refusal:
            lake.table("metrics").commit_shard(rows(), stage_key="k", shard=1)
        assert "\x1b" not in str(refusal.value)
        with pytest.raises(LakeError, match="disk is full"):
            lake.blobs.put(b"x")
    assert lake.table("metrics").committed("k", [0, 1]) == {0}
    assert lake.table("metrics").commit_shard(rows(), stage_key="k", shard=1)
    assert lake.blobs.get(lake.blobs.put(b"x")) == b"x"


def test_a_write_that_the_kernel_cuts_short(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("LakeError: Could not write to table metrics")
    assert lines[1].startswith("LakeError: Could not write blob")
    assert all("the disk is full: free space there" in line for line in lines[:2])
    assert lines[2] == "True 2 5000"
    assert list((tmp_path / "blobs" / ".tmp").iterdir()) == []


def test_a_bucket_that_does_not_exist(s3_root: str) -> None:
    with pytest.raises(LakeError, match="create 'no-such-bucket', or correct the name"):
        Lake("s3://no-such-bucket/lake")
    assert s3_root.startswith("s3://")


def test_a_bucket_that_goes_away(s3_root: str) -> None:
    lake = Lake(s3_root)
    lake.root = lake.root.replace("lake-", "gone-")
    with pytest.raises(LakeError, match="the bucket does not exist: create it"):
        lake.table("metrics").commit_shard(rows(), stage_key="k", shard=0)


@pytest.mark.usefixtures("s3_root")
def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(places, "S3_ATTEMPTS", 2)  # All of them wait half a minute between.
    with pytest.raises(LakeError, match="did not answer: check AWS_ENDPOINT_URL"):
        Lake("s3://bucket/lake")


@pytest.mark.usefixtures("s3_root")
def test_an_address_with_credentials_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://someone:hush@127.0.0.1:9")
    with pytest.raises(LakeError, match="AWS_ENDPOINT_URL holds credentials") as refusal:
        Lake("s3://bucket/lake")
    assert "hush" not in str(refusal.value)


@pytest.mark.usefixtures("s3_root")
def test_an_address_without_encryption_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(LakeError, match="set AWS_ALLOW_HTTP=true"):
        Lake("s3://bucket/lake")


def test_secrets_stay_in_the_environment(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(s3_root)
    table = lake.table("metrics")
    table.commit_shard(rows(), stage_key="k", shard=0)
    lake.blobs.put(b"x")
    secrets = [os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"]]
    shown = [repr(lake), repr(table), repr(lake.blobs), *map(repr, (pickle.dumps(lake), pickle.dumps(table)))]
    shown.append(pickle.dumps(lake.blobs).decode("latin1"))
    files = lake.blobs._files._s3()
    shown.extend([repr(files), files.to_json()])
    shown.extend(files.cat_file(path).decode("latin1") for path in files.find(s3_root))
    assert len(shown) >= 11

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(f"signature of {secrets[0]} for {secrets[1]} refused: SignatureDoesNotMatch")

    monkeypatch.setattr(deltalake, "write_deltalake", fail)
    with pytest.raises(LakeError, match="credentials were refused") as refusal:
        table.commit_shard(rows(), stage_key="k", shard=1)
    assert refusal.value.__cause__ is None
    shown.append(str(refusal.value))
    assert not [text for text in shown for secret in secrets if secret in text]
