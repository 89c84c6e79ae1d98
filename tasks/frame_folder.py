"""Folders of frame images in the place of video files, as VLM-RLAIF's data has them.

The frames are the folder's images in the order of their names. Nothing in it says at what rate they were taken, so
their times count frames: the n-th is shown from n on, and `fps` is 0; unless whoever asks knows the rate (`at_rate`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.video_probe import Orientation, VideoError, VideoInfo

SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
CONTAINER = "folder"
_BAD = (OSError, SyntaxError, ValueError)  # What Pillow raises for images that are damaged, or none.

Picture = NDArray[np.uint8]
Kept = TypeVar("Kept")


def frame_files(folder: Path) -> list[Path]:
    """The folder's images, sorted by name; hidden ones are left out. Raises OSError."""
    return sorted(path for path in folder.iterdir() if is_frame(path.name))


def is_frame(name: str) -> bool:
    """Whether a file of that name is an image that is not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def probe_folder(folder: Path) -> VideoInfo:
    """The timeline of a folder of frames. Raises VideoError when no image of it can be read."""
    files = frame_files(folder)
    size = next(filter(None, map(_size, files)), None)
    if size is None:
        raise VideoError(f"none of its {len(files)} frame images can be read: copy or download the folder again")
    count = len(files)
    return VideoInfo(
        container=CONTAINER,
        codec="images",
        pixels="rgb24",
        fps=0.0,
        width=size[0],
        height=size[1],
        orientation=Orientation(),
        pts=np.arange(count, dtype=np.int64),
        times=np.arange(count, dtype=np.float64),
        duration=float(count),
        expected=count,
        key_pts=np.arange(count, dtype=np.int64),
        by_order=True,
        decord_doubt="no video file",
    )


def at_rate(info: VideoInfo, fps: float | None) -> VideoInfo:
    """The timeline in seconds, where it is a folder's and the rate at which its frames were taken is known."""
    if info.container != CONTAINER or fps is None:
        return info
    return replace(info, fps=fps, times=info.pts / fps, duration=info.expected / fps)


def read_folder(
    folder: Path, info: VideoInfo, indices: Sequence[int], keep: Callable[[Picture], Kept], min_decodable: float
) -> tuple[list[tuple[int, Kept]], int, str | None]:
    """(index, kept picture) for each index asked, how many frames are sound, and what is wrong, if anything.

    An image that cannot be read is answered as a frame that damage swallowed in a video's file: by the last sound one
    before it, or the first there is. Raises VideoError when less than `min_decodable` of the images can be read, when
    they are of different sizes, and when there are others than at the probe.
    """
    files = frame_files(folder)
    if len(files) != info.expected:
        raise VideoError("changed while the run was reading it: run again when nothing writes to it")
    pictures = [(index, _picture(files[index], info)) for index in indices]
    whole = [(index, keep(picture)) for index, picture in pictures if picture is not None]
    if len(whole) == len(indices):
        return whole, len(files), None
    sound = [index for index, file in enumerate(files) if _picture(file, info) is not None]
    broken = sorted(set(range(len(files))) - set(sound))
    note = f"damaged: {len(sound)} of {len(files)} frame images can be read, not {files[broken[0]].name}"
    if not sound or len(sound) < min_decodable * len(files):
        raise VideoError(
            f"{note}: under min_decodable {min_decodable:g}; copy or download them again, or lower that limit"
        )
    shown = [max((index for index in sound if index <= asked), default=sound[0]) for asked in indices]
    kept = {index: keep(_sound(files[index], info)) for index in dict.fromkeys(shown)}
    return [(index, kept[index]) for index in shown], len(sound), note


def _sound(file: Path, info: VideoInfo) -> Picture:
    picture = _picture(file, info)
    if picture is None:
        raise VideoError("changed while the run was reading it: run again when nothing writes to it")
    return picture


def _size(file: Path) -> tuple[int, int] | None:
    """(width, height), or None for an image that cannot be read."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
            return image.size
    except _BAD:
        return None


def _picture(file: Path, info: VideoInfo) -> Picture | None:
    """[height, width, 3], or None for an image that cannot be read."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            picture = np.asarray(image.convert("RGB"))
    except _BAD:
        return None
    if picture.shape != (info.height, info.width, 3):
        height, width, _ = picture.shape
        raise VideoError(
            f"its frames are of different sizes: {file.name} has {width}x{height}, the first "
            f"{info.width}x{info.height}; make them equal"
        )
    return picture
