"""The subtitle files of a benchmark's videos, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from benchmarks.subtitles import read_srt
from storage.errors import FormatError

NO_FILE = "no subtitles"
BROKEN = "broken subtitles"


def subtitle_file(folder: Path, named: str) -> Path:
    """Where the subtitles of a video are, which the annotation file calls `named`."""
    return folder / f"{PurePosixPath(named).stem}.srt"


def subtitle_faults(folder: Path, videos: tuple[str, ...]) -> dict[str, int]:
    """What is wrong with the subtitles of these videos, by kind.

    Args:
        folder: of the files.
        videos: each once, as the annotation file names them.

    Returns:
        Under NO_FILE the videos that have no file, under BROKEN the blocks of files that are no subtitles; a file that
        holds nothing else is none of these: its questions are not asked. Kinds that did not happen are left out.
    """
    files = [subtitle_file(folder, video) for video in videos]
    there = [file for file in files if file.is_file()]
    counts = {NO_FILE: len(files) - len(there), BROKEN: sum(map(_broken, there))}
    return {kind: count for kind, count in counts.items() if count}


def _broken(file: Path) -> int:
    try:
        return len(read_srt(file).faults)
    except FormatError:
        return 0
