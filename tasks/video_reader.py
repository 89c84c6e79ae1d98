"""Sampling a video by time, and decoding just the frames that the samples show."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.frame_folder import CONTAINER, probe_folder, read_folder
from tasks.video_probe import VideoError, VideoInfo, open_video, probe_file, readable_packets

__all__ = ["Decoded", "Sample", "Sampled", "VideoError", "VideoInfo", "probe", "read_frames", "sample_frames"]

Kept = TypeVar("Kept")
Picture = NDArray[np.uint8]  # [height, width, 3], RGB, upright
_Reader = Callable[[Path, VideoInfo, Sequence[int], Callable[[Picture], Kept]], Iterator[tuple[int, Kept]]]
WITHOUT_INDEX = frozenset({"mpegts", "mpeg"})  # A seek lands beside its aim, and the file is read a second time.
SAME_S = 1e-7  # Two times closer than this are one: the rounding of seconds, far below any frame's length.


@dataclass(frozen=True)
class Sample:
    """`n` times in each of `clips` equal windows of a video."""

    n: int
    clips: int = 1
    at: Literal["midpoint", "endpoint", "mvbench"] = "midpoint"


@dataclass(frozen=True)
class Sampled:
    """One window: [start, end) in seconds, and the index of the frame shown at each of its times (they may repeat)."""

    clip: int
    start: float
    end: float
    frames: list[int]


@dataclass(frozen=True)
class Decoded(Generic[Kept]):
    """What came of reading: (index, kept picture) for each index asked, aligned with the request.

    The index differs from the one asked only where damage swallowed that frame: then it is the last sound one before
    it, or the first there is.
    """

    frames: list[tuple[int, Kept]]
    reader: Literal["decord", "pyav", "pillow"]
    intact: int  # frames of the file that decode without an error, as far as reading had to find out
    note: str | None = None
    passes: int = 1  # readers that went through the file, the one that gave these frames included


class _CannotSay(Exception):
    """A fast way of reading met something that only reading the whole file can settle."""


def probe(path: Path) -> VideoInfo:
    """What a video file, or a folder of frames, holds. Raises VideoError with a reason."""
    return probe_folder(path) if path.is_dir() else probe_file(path)


def sample_frames(info: VideoInfo, sample: Sample, part: tuple[float, float] | None = None) -> list[Sampled]:
    """The frames that `sample` shows; the frame shown at t is the last one whose timestamp is at most t.

    `part`: of the video, from and to seconds; None: all of it. What of it lies outside the video is cut off, as
    MVBench's loader does (https://github.com/OpenGVLab/Ask-Anything, video_chat2/mvbench.ipynb); of a part that lies
    outside as a whole, and of a folder of frames whose rate is not known, there are none.

    `midpoint`: the middles of n equal bins of the window. `endpoint`: numpy's linspace from the window's first to
    its last frame, as VLM-RLAIF takes them (https://github.com/yonseivnl/vlm-rlaif, Evaluation/infer_utils.py).
    `mvbench`: that loader's rule, which divides the distance of the first and last frame and rounds each bin's begin:
    often a frame or two beside the middles.
    """
    first, last = 0.0, info.duration
    if part is not None:
        first, last = max(first, part[0]), min(last, part[1])
        if first >= last or (info.container == CONTAINER and info.fps == 0):
            return []
    edges = np.linspace(first, last, sample.clips + 1)
    windows = [(float(edges[n]), float(edges[n + 1])) for n in range(sample.clips)]
    return [Sampled(clip, start, end, _shown(info, start, end, sample)) for clip, (start, end) in enumerate(windows)]


def _shown(info: VideoInfo, start: float, end: float, sample: Sample) -> list[int]:
    if sample.at == "mvbench":
        return _as_mvbench(info, start, end, sample.n)
    times = _times(info.times, start, end, sample)
    if info.container == CONTAINER and sample.at == "endpoint":
        # Frames count, times do not: the official code rounds places down, whatever floating point made of them.
        first, last = _shown_at(info.times, times[[0, -1]])
        return [int(place) for place in np.linspace(first, last, sample.n, dtype=int)]
    return _shown_at(info.times, times)


def _as_mvbench(info: VideoInfo, start: float, end: float, n: int) -> list[int]:
    """MVBench counts a folder's frames from 1 and the others from 0, by the mean rate of the file."""
    base, count = int(info.container == CONTAINER), len(info.times)
    rate = info.fps or count / info.duration
    first = max(base, round(start * rate))
    last = max(first, min(round(end * rate), count - 1 + base))
    size = (last - first) / n
    places = (first + size / 2 + np.round(size * np.arange(n))).astype(int) - base
    return [int(place) for place in places.clip(0, count - 1)]


def _times(times: NDArray[np.float64], start: float, end: float, sample: Sample) -> NDArray[np.float64]:
    if sample.at == "midpoint":
        return start + (np.arange(sample.n) + 0.5) * (end - start) / sample.n
    inside = times[(times >= start - SAME_S) & (times < end - SAME_S)]
    first, last = (inside[0], inside[-1]) if len(inside) else (start, start)
    return np.linspace(first, last, sample.n)


def _shown_at(times: NDArray[np.float64], at: NDArray[np.float64]) -> list[int]:
    last = np.searchsorted(times, at + SAME_S, side="right") - 1
    return [max(int(index), 0) for index in last]


def read_frames(
    path: Path,
    info: VideoInfo,
    indices: Sequence[int],
    keep: Callable[[Picture], Kept],
    *,
    min_decodable: float = 1.0,
    decord: bool = True,
) -> Decoded[Kept]:
    """Decodes the frames `indices` (ascending, each once); `keep` turns each picture into what is kept of it.

    decord where it is known to be right (unless `decord` is off), else PyAV with seeks, else the whole file with PyAV,
    in which case the frames that do not decode are counted. Raises VideoError when less than the fraction
    `min_decodable` of the file's frames decode without errors; above that the result's note says what is missing.
    PyAV notices flawed pictures; decord passes them on, and only notices packets that do not decode at all.
    """
    if info.container == CONTAINER:
        frames, intact, note = read_folder(path, info, indices, keep, min_decodable)
        return Decoded(frames, "pillow", intact, note)
    fast: list[tuple[_Reader[Kept], Literal["decord", "pyav"], type[Exception]]] = []
    if len(info.pts) == info.expected:
        if decord and info.decord_doubt is None:
            # decord raises DECORDError, RuntimeError, IndexError ...: whatever it is, PyAV decides.
            fast.append((_with_decord, "decord", Exception))
        if not info.by_order and info.container not in WITHOUT_INDEX:
            fast.append((_with_seeks, "pyav", _CannotSay))
    for passes, (read, reader, gives_up) in enumerate(fast, start=1):
        try:
            return Decoded(list(read(path, info, indices, keep)), reader, info.expected, passes=passes)
        except gives_up:
            continue
    return replace(_through(path, info, indices, keep, min_decodable), passes=len(fast) + 1)


def _with_decord(
    path: Path, info: VideoInfo, indices: Sequence[int], keep: Callable[[Picture], Kept]
) -> Iterator[tuple[int, Kept]]:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    if len(reader) != len(info.times):
        raise _CannotSay(f"decord counts {len(reader)} frames, the packets are {len(info.times)}")
    starts = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
    if np.abs(starts - starts[0] - info.times).max() > 0.005:
        raise _CannotSay("decord places the frames at other times than the packets")
    width, height = info.shown_size
    for index in indices:
        picture = reader[index].asnumpy()
        if picture.shape != (height, width, 3):
            raise _CannotSay(f"decord gives a picture of shape {picture.shape}, not {(height, width, 3)}")
        yield index, keep(picture)


def _with_seeks(
    path: Path, info: VideoInfo, indices: Sequence[int], keep: Callable[[Picture], Kept]
) -> Iterator[tuple[int, Kept]]:
    """Jumps to the key frame before each frame asked when that lies ahead. Raises _CannotSay at the least oddity."""
    import av

    with open_video(path) as (container, stream):
        frames, position = _from_here(container, stream, info), -1
        for index in indices:
            key = int(np.searchsorted(info.key_pts, info.pts[index], side="right")) - 1
            landing = int(np.searchsorted(info.pts, info.key_pts[max(key, 0)]))
            if landing > position + 1:
                container.seek(int(info.key_pts[key]), stream=stream)
                frames = _from_here(container, stream, info, first_pts=int(info.key_pts[key]))
            try:
                position, picture = next(found for found in frames if found[0] >= index)
            except (av.error.FFmpegError, EOFError, StopIteration) as error:
                raise _CannotSay(str(error)) from error
            if position != index:
                raise _CannotSay(f"frame {index} did not come out of the decoder")
            yield index, keep(_upright(info, picture))


def _from_here(container: Any, stream: Any, info: VideoInfo, first_pts: int | None = None) -> Iterator[tuple[int, Any]]:
    """(index, frame) from the container's position on; `first_pts` is where a seek was to land."""
    index_of = {pts: index for index, pts in enumerate(info.pts.tolist())}
    for packet in container.demux(stream):
        if first_pts is not None and packet.pts != first_pts:
            raise _CannotSay("a seek did not land on its key frame")
        first_pts = None
        for frame in packet.decode():
            if frame.is_corrupt:
                raise _CannotSay("the decoder flags a frame as corrupt")
            if frame.pts in index_of:
                yield index_of[frame.pts], frame


def _through(
    path: Path, info: VideoInfo, indices: Sequence[int], keep: Callable[[Picture], Kept], min_decodable: float
) -> Decoded[Kept]:
    """Decodes every frame of the file; each index asked is answered by the last sound frame up to it."""
    kept = list[tuple[int, Kept]]()
    last: tuple[int, Any] | None = None
    count, intact = 0, list[int]()

    def answer(until: int) -> None:
        """Answers what was asked before frame `until` with the last sound frame."""
        waiting = [n for n in indices[len(kept) :] if n < until]
        if last is not None and waiting:
            kept.extend([(last[0], keep(_upright(info, last[1])))] * len(waiting))

    with open_video(path) as (container, stream):
        for index, frame, sound in _every_frame(container, stream, info):
            count += 1
            if sound:
                answer(until=index)
                intact.append(index)
                last = index, frame
        answer(until=info.expected)
    note = _damage(info, count, intact)
    if not intact or len(intact) < min_decodable * info.expected:
        raise VideoError(
            f"{note}: under min_decodable {min_decodable:g}; copy or download it again, or lower that limit"
        )
    return Decoded(kept, "pyav", len(intact), note)


def _every_frame(container: Any, stream: Any, info: VideoInfo) -> Iterator[tuple[int, Any, bool]]:
    """(index, frame, whether it is sound) in shown order; after an error decoding resumes at the next key frame."""
    import av

    resync, lost, count, sound = False, 0, 0, True
    for packet in readable_packets(container, stream):
        resync = resync and not packet.is_keyframe
        try:
            frames = [] if resync else packet.decode()
        except (av.error.FFmpegError, EOFError):
            stream.codec_context.flush_buffers()
            resync, frames = True, []
        lost += resync
        for frame in frames:
            index = count + lost if info.by_order else int(np.searchsorted(info.pts, frame.pts or 0, side="right")) - 1
            count += 1
            # Errors spread: a frame that is predicted from a flawed one is flawed, though the decoder does not flag it.
            sound = not frame.is_corrupt and (sound or frame.key_frame)
            if index >= 0:
                yield min(index, len(info.pts) - 1), frame, sound


def _damage(info: VideoInfo, decoded: int, intact: list[int]) -> str | None:
    """What is wrong with the file in words: `decoded` frames came out, those of `intact` without an error in them."""
    if len(intact) >= info.expected:
        return None
    first_lost = next((n for n, index in enumerate(intact) if index != n), len(intact))
    where = f"from {info.times[first_lost]:.2f} s on" if first_lost < len(info.times) else "at its end"
    return f"damaged {where}: {decoded} of {info.expected} frames decode, {len(intact)} of them without errors"


def _upright(info: VideoInfo, frame: Any) -> Picture:
    return info.orientation.apply(frame.to_ndarray(format="rgb24"))
