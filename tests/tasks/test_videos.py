import hashlib
from pathlib import Path

import pytest

from tasks.fanout import WorkerPool
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageError
from tasks.videos import VideosConfig, list_videos, videos


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return RunContext(str(tmp_path / "lake"), "run-1", pool, SilentProgress(), max_quarantined=0.5, seed=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in ("b.mp4", "a/c.MKV", "a/notes.txt", ".hidden.mp4", ".cache/d.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_every_video_of_the_folder_gets_a_row(ctx: RunContext, folder: Path) -> None:
    result = videos(ctx, VideosConfig(folder=str(folder)))
    assert (result.items, result.ok) == (2, 2)
    rows = ctx.lake.table("videos").read(result.key).to_pylist()
    assert [row["video"] for row in rows] == ["a/c.MKV", "b.mp4"]
    assert rows[1]["content"] == hashlib.sha256(b"b.mp4").hexdigest()
    assert rows[1]["bytes"] == 5


def test_a_folder_that_moves_is_the_same_list(ctx: RunContext, folder: Path) -> None:
    first = videos(ctx, VideosConfig(folder=str(folder)))
    moved = folder.rename(folder.with_name("elsewhere"))
    assert videos(ctx, VideosConfig(folder=str(moved))).key == first.key


def test_a_changed_or_added_file_makes_a_new_list(ctx: RunContext, folder: Path) -> None:
    config = VideosConfig(folder=str(folder))
    first = videos(ctx, config)
    assert videos(ctx, config).cached
    (folder / "b.mp4").write_text("other")
    changed = videos(ctx, config)
    (folder / "e.webm").write_text("new")
    grown = videos(ctx, config)
    assert len({first.key, changed.key, grown.key}) == 3
    assert grown.items == 3


def test_an_unreadable_file_is_quarantined(ctx: RunContext, folder: Path) -> None:
    (folder / "broken.mp4").symlink_to(folder / "gone.mp4")
    result = videos(ctx, VideosConfig(folder=str(folder)))
    assert (result.ok, result.quarantined) == (2, 1)
    rows = ctx.lake.table("videos").read(result.key).to_pylist()
    (reason,) = [row["reason"] for row in rows if row["item_id"] == "broken.mp4"]
    assert reason == "cannot be read (No such file or directory): give this user access to it, or remove it"


def test_a_folder_without_videos_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"/none does not exist: make it"):
        list_videos(tmp_path / "none")
    (tmp_path / "file.mp4").touch()
    with pytest.raises(StageError, match="is a file: name the folder"):
        list_videos(tmp_path / "file.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError, match="holds no video: expected files that end in"):
        list_videos(tmp_path / "empty")

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    # Root reads every folder, so the system's refusal is imitated.
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(StageError, match=r"/empty cannot be read \(Permission denied\): give this user access"):
        list_videos(tmp_path / "empty")
