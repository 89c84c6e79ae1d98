"""The stage `videos`: the videos of a folder, files and folders of frames, each by the hash of its bytes."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.fanout import Outcome
from tasks.frame_folder import SUFFIXES as FRAME_SUFFIXES
from tasks.frame_folder import frame_files, is_frame
from tasks.progress import Progress
from tasks.stage import RunContext, Stage, StageError, StageResult, run_stage

SUFFIXES = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()  # noqa: SIM905 - one line.
)
SHARD_SIZE = 256
HASHING_THREADS = 2


class VideosConfig(BaseModel):
    """Where the videos are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = Field(
        min_length=1, description="Folder with the videos, files or folders of frames; its sub-folders count too."
    )

    @property
    def place(self) -> Path:
        """The absolute folder."""
        return Path(self.folder).expanduser().absolute()


class VideoLister:
    """Processor: turns what the scan found into rows; a file that could not be read is quarantined."""

    def __init__(self, settings: None) -> None: ...

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002 - nothing here is random.
        return [self._outcome(item) for item in items]

    def _outcome(self, item: dict[str, Any]) -> Outcome:
        if item["content"] is None:
            return Outcome(item["item_id"], None, item["reason"])
        columns = {key: item[key] for key in ("video", "content", "bytes")}
        return Outcome(item["item_id"], [columns])


def videos(ctx: RunContext, config: VideosConfig) -> StageResult:
    """Lists the folder's videos in the table `videos`.

    The files' names in the folder and their hashes are the stage's key: a file that is added or changed makes a new
    version of the list, a folder that moves does not.
    Raises StageError for a folder that is missing, unreadable or without videos.
    """
    folder = config.place
    files = list_videos(folder)
    items = _hash_all(folder, files, ctx.progress)
    listing = [[item["video"], item["content"]] for item in items]
    stage = Stage(
        name="videos",
        table="videos",
        config={"listing": hashlib.sha256(repr(listing).encode()).hexdigest()},
        inputs=(),
        model=None,
        prompts={},
        seed=0,  # nothing is drawn
        shard_size=SHARD_SIZE,
    )
    return run_stage(ctx, stage, lambda: items, VideoLister, None)


def list_videos(folder: Path) -> list[Path]:
    """The videos under `folder`, hidden ones left out, sorted by path. Raises StageError.

    A file is one by its suffix. A folder below `folder` is one, of frames, when it holds images and no video file.
    """
    if not folder.exists():
        raise StageError(f"The videos folder {folder} does not exist: make it, or correct the path.")
    if not folder.is_dir():
        raise StageError(f"The videos folder {folder} is a file: name the folder that holds the videos.")
    found = sorted(_walk(folder))
    if not found:
        raise StageError(
            f"The videos folder {folder} holds no video: expected files that end in {' '.join(sorted(SUFFIXES))}, "
            f"or folders of frames ({' '.join(sorted(FRAME_SUFFIXES))})."
        )
    return found


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise StageError(f"The folder {error.filename} cannot be read ({error.strerror}): give this user access to it.")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(place, name) for name in names if not name.startswith(".")]
        films = [path for path in files if path.suffix.lower() in SUFFIXES]
        if films:
            yield from films
        elif Path(place) != folder and any(is_frame(path.name) for path in files):
            yield Path(place)


def _hash_all(folder: Path, files: list[Path], progress: Progress) -> list[dict[str, Any]]:
    bar = progress.start("videos: hashing", len(files))
    items = []
    try:
        with ThreadPoolExecutor(HASHING_THREADS) as threads:
            for item in threads.map(lambda path: _hash(folder, path), files):
                items.append(item)
                bar.advance()
    finally:
        bar.finish()
    return items


def _hash(folder: Path, path: Path) -> dict[str, Any]:
    video = path.relative_to(folder).as_posix()
    item = {"item_id": video, "video": video, "content": None, "bytes": None, "reason": None}
    try:
        content, size = content_of(path)
        return {**item, "content": content, "bytes": size}
    except OSError as error:
        return {**item, "reason": f"cannot be read ({error.strerror}): give this user access to it, or remove it"}


def content_of(path: Path) -> tuple[str, int]:
    """SHA-256 of a video's bytes, and how many they are; of a folder, over those of its frames. Raises OSError."""
    if path.is_dir():
        digests, sizes = zip(*map(content_of, frame_files(path)), strict=True)
        return hashlib.sha256("\n".join(digests).encode()).hexdigest(), sum(sizes)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
