"""The data of a plan's sample: a few questions of every split, and links to their videos."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from storage.formats.vlm_rlaif import Instruction, read_instructions, write_instructions
from tasks.frame_folder import frame_files
from tasks.instructions import UnknownVideoError, VideoNames
from tasks.plan import evenly
from tasks.stage import StageError
from tasks.videos import list_videos

VIDEOS = "videos"


def write_sample(videos: Path, files: Mapping[str, str], wanted: int, folder: Path) -> dict[str, int]:
    """Write `wanted` questions of each split, spread over its file, into `folder`, and link their videos there.

    Returns:
        How many there are in all: "videos", and the questions by split.

    Raises:
        StageError: the folder of videos cannot be used, or no question of a split has its video there.
        FormatError: a file of questions cannot be read.
    """
    found = {path.relative_to(videos).as_posix(): path for path in list_videos(videos)}
    names = VideoNames(found)
    counts = {"videos": len(found)}
    for split, file in files.items():
        rows, _ = read_instructions(Path(file))
        counts[split] = len(rows)
        bound = [each for row in rows if (each := _bound(row, names)) is not None]
        if not bound:
            raise StageError(f"{file}: no question's video is in {videos}: correct data.videos or the rows' videos.")
        chosen = [bound[place] for place in evenly(len(bound), wanted)]
        write_instructions(folder / f"{split}.json", chosen)
        for row in chosen:
            _link(found[row.video], folder / VIDEOS / row.video)
    return counts


def _bound(row: Instruction, names: VideoNames) -> Instruction | None:
    """The row with its video's path; None where the run will quarantine it."""
    try:
        return replace(row, video=names.find(row.video))
    except UnknownVideoError:
        return None


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    if source.is_dir():  # A folder of frames; a link to a folder is not searched for videos.
        for frame in frame_files(source):
            _link(frame, target / frame.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(source.absolute(), target)
