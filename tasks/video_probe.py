"""What a video file holds, read from its packets: the real timeline, never the header's word for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LFS_POINTER = b"version https://git-lfs"
# Decord is measured to give PyAV's very pixels here. Elsewhere it fails, or is silently wrong: HEVC off by one frame,
# AVI another frame after a seek, edit lists and MPEG-TS shifted, 10 bit other colours (docs/decisions.md).
DECORD_CODECS = {"h264", "vp8"}
DECORD_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
DECORD_PIXELS = {"yuv420p"}
DECORD_MIN_SIDE = 16


class VideoError(RuntimeError):
    """This file gives no (or too few) frames; the text says why and what to do."""


@dataclass(frozen=True)
class Orientation:
    """How the stored picture becomes the shown one: transpose, then flip left-right, then flip top-bottom."""

    degrees: int = 0
    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def upright(self) -> bool:
        return not (self.transpose or self.flip_x or self.flip_y)

    def apply(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`picture`: [height, width, 3] as stored; returns [height, width, 3] as shown."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        if self.flip_x:
            picture = picture[:, ::-1]
        return picture[::-1] if self.flip_y else picture


@dataclass(frozen=True)
class VideoInfo:
    """The timeline of a file's first real video stream. Frames count in the order in which they are shown."""

    container: str
    codec: str
    pixels: str
    fps: float
    width: int
    height: int
    orientation: Orientation
    pts: NDArray[np.int64]  # of each frame that is shown, ascending, in time_base units
    times: NDArray[np.float64]  # the same in seconds since the first shown frame
    duration: float  # s, from the first frame to the end of the last
    expected: int  # frames that the file ought to hold: the header's count or the packets', whichever is more
    key_pts: NDArray[np.int64]  # of the frames where decoding can start, ascending
    by_order: bool  # the container stores no usable timestamps: the n-th decoded frame is the n-th of `pts`
    decord_doubt: str | None  # why decord is not to be trusted with this file

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) of the upright picture, before any downscale."""
        return (self.height, self.width) if self.orientation.transpose else (self.width, self.height)


@dataclass(frozen=True)
class _Packets:
    pts: NDArray[np.int64]
    key: NDArray[np.bool_]
    discard: NDArray[np.bool_]
    last_duration: int
    by_order: bool


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first real video stream, decoding in one thread. Raises VideoError."""
    import av

    av.logging.set_level(None)
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (OSError, av.error.FFmpegError) as error:
        raise VideoError(why_unreadable(path, error)) from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
            raise VideoError(f"no video stream: the file holds {', '.join(kinds)} only; remove it or replace it")
        streams[0].thread_type = "NONE"
        yield container, streams[0]


def why_unreadable(path: Path, error: Exception) -> str:
    """Why `av.open` refused the file, in words that name the remedy."""
    if isinstance(error, FileNotFoundError):
        return "the file is gone: put it back, or take it off the list"
    if isinstance(error, PermissionError):
        return "no permission to read the file: make it readable for this user"
    return _what_it_is(path) or f"not a video that can be opened ({type(error).__name__}): replace or convert it"


def _what_it_is(path: Path) -> str | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        boxes = _mp4_boxes(file, size)
    if size == 0:
        return "the file is empty (0 bytes): copy or download it again"
    if head.startswith(LFS_POINTER):
        return "not a video but a git-LFS pointer: fetch the real file with `git lfs pull`"
    if "ftyp" in boxes and "moov" not in boxes:
        return f"cut short: the index of the mp4 (moov box) is missing from its {size} bytes; copy or download it again"
    if all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        return f"not a video but text, beginning {head[:30].decode('utf-8', 'replace')!r}: replace it"
    return None


def _mp4_boxes(file: Any, size: int) -> set[str]:
    """Names of the top-level boxes, as far as they can be followed."""
    names: set[str] = set()
    position = 0
    while position + 8 <= size and len(names) < 64:
        file.seek(position)
        header = file.read(16)
        names.add(header[4:8].decode("latin-1"))
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:
            break
        position += length
    return names


def probe_file(path: Path) -> VideoInfo:
    """Reads the packets (no pictures but the first) of a file. Raises VideoError with a reason."""
    with open_video(path) as (container, stream):
        packets = _read_packets(container, stream)
        streams, promised = len(container.streams.video), _promised(container, stream)
        rate, base, coder = stream.average_rate or stream.guessed_rate, float(stream.time_base), stream.codec_context
        name = container.format.name
    fps = float(rate) if rate else 0.0
    tick = 1 / fps if packets.by_order and fps else base
    shown = np.sort(packets.pts[~packets.discard])
    picture = _first_picture(path)
    info = VideoInfo(
        container=name,
        codec=coder.name,
        pixels=coder.pix_fmt or "unknown",
        fps=fps,
        width=picture.width if picture else coder.width,
        height=picture.height if picture else coder.height,
        orientation=_orientation(picture),
        pts=shown,
        times=(shown - shown[0]) * tick,
        duration=float(shown[-1] - shown[0] + _last_duration(packets, shown)) * tick or (1 / fps if fps else 0.0),
        expected=max(len(shown), promised - int(packets.discard.sum())),
        key_pts=np.sort(packets.pts[packets.key]),
        by_order=packets.by_order,
        decord_doubt=None,
    )
    return _with_doubt(info, packets, streams)


def _promised(container: Any, stream: Any) -> int:
    """How many packets the file's index or header says there are; 0 where it does not say."""
    if "mp4" in container.format.name:
        return len(stream.index_entries)  # Without what an edit list cuts off; the header counts that, too.
    return int(stream.frames)


def _with_doubt(info: VideoInfo, packets: _Packets, streams: int) -> VideoInfo:
    doubts = [
        (info.container not in DECORD_CONTAINERS, f"container {info.container}"),
        (info.codec not in DECORD_CODECS, f"codec {info.codec}"),
        (info.pixels not in DECORD_PIXELS, f"pixel format {info.pixels}"),
        (not info.orientation.upright, f"rotation tag {info.orientation.degrees}"),
        (streams > 1, f"{streams} video streams"),
        (bool(packets.discard.any()), "edit list"),
        (_leading_pictures(packets), "open groups of pictures"),
        (packets.by_order, "no timestamps"),
        (info.expected != len(info.pts), f"{info.expected} frames in the header, {len(info.pts)} in the file"),
        (min(info.width, info.height) < DECORD_MIN_SIDE, f"size {info.width}x{info.height}"),
    ]
    return replace(info, decord_doubt=next((text for doubtful, text in doubts if doubtful), None))


def _read_packets(container: Any, stream: Any) -> _Packets:
    rows, duration = [], 0
    for packet in readable_packets(container, stream):
        if packet.size:
            rows.append((packet.pts, packet.is_keyframe, packet.is_discard))
            duration = packet.duration or 0
    first_key = next((n for n, row in enumerate(rows) if row[1]), None)
    if first_key is None:
        raise VideoError("no frame that decoding could start from: the file is damaged; copy or download it again")
    return _usable(rows[first_key:], duration, in_order=container.format.name == "avi")


def readable_packets(container: Any, stream: Any) -> Iterator[Any]:
    """The stream's packets up to the end of the file, or of its readable part."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, EOFError):
            return
        if packet is None:
            return
        yield packet


def _usable(rows: list[tuple[int | None, bool, bool]], duration: int, in_order: bool) -> _Packets:
    """Timestamps of the packets from the first key frame on; the packets' order where there are none."""
    key = np.array([row[1] for row in rows])
    discard = np.array([row[2] for row in rows])
    stamps = [row[0] for row in rows]
    if in_order or None in stamps:
        return _Packets(np.arange(len(rows), dtype=np.int64), key, discard, 1, by_order=True)
    pts = np.array(stamps, dtype=np.int64)
    kept = pts >= pts[0]  # Pictures shown before the first key frame lean on frames that the file does not hold.
    return _Packets(pts[kept], key[kept], discard[kept], duration, by_order=False)


def _last_duration(packets: _Packets, shown: NDArray[np.int64]) -> float:
    if packets.last_duration:
        return float(packets.last_duration)
    return float(np.median(np.diff(shown))) if len(shown) > 1 else 0.0


def _leading_pictures(packets: _Packets) -> bool:
    """Whether some picture is stored after a key frame and shown before it."""
    later_minimum = np.minimum.accumulate(packets.pts[::-1])[::-1]
    return bool(np.any(packets.key[:-1] & (later_minimum[1:] < packets.pts[:-1])))


def _first_picture(path: Path) -> Any:
    """The first frame that decodes without fuss (it alone carries the display matrix), or None."""
    import av

    with open_video(path) as (container, stream):
        try:
            return next(container.decode(stream), None)
        except (av.error.FFmpegError, EOFError):
            return None


def _orientation(picture: Any) -> Orientation:
    """From the display matrix: https://ffmpeg.org/doxygen/trunk/group__lavu__video__display.html"""
    if picture is None:
        return Orientation()
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    degrees = int(picture.rotation)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(degrees, transpose=True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(degrees, flip_x=a < 0, flip_y=d < 0)
