import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film import film, number_in, trimmed_by_edit_list

from tasks.video_reader import Sample, VideoError, VideoInfo, probe, read_frames, sample_frames

GROUPS = {"g": "12", "bf": "2"}
HEVC = "keyint=12:log-level=none:open-gop"
FILMS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": GROUPS},
    "h264.mkv": {"options": GROUPS},
    "open_groups.mp4": {"options": {**GROUPS, "x264-params": "open-gop=1"}},
    "ten_bits.mp4": {"pixels": "yuv420p10le"},
    "full_range.mp4": {"pixels": "yuvj420p"},
    "hevc_open.mp4": {"codec": "libx265", "options": {"x265-params": f"{HEVC}=1"}},
    "hevc_closed.mp4": {"codec": "libx265", "options": {"x265-params": f"{HEVC}=0"}},
    "av1.mkv": {"codec": "libsvtav1", "options": {"svtav1-params": "lp=1"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "12", "b": "2M"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12"}},
    "transport.ts": {"options": GROUPS},
    "mpeg4.avi": {"codec": "mpeg4", "options": GROUPS},
    "h264.avi": {"options": GROUPS},
    "mpeg2.mpg": {"codec": "mpeg2video", "fps": 25, "options": GROUPS},
    "picture.gif": {"codec": "gif", "pixels": "rgb8"},
    "turned_90.mp4": {"rotation": 90, "options": GROUPS},
    "turned_-90.mp4": {"rotation": -90, "options": GROUPS},
    "turned_180.mp4": {"rotation": 180, "options": GROUPS},
    "one.mp4": {"frames": 1},
}
WITH_DECORD = {"h264.mp4", "h264.mkv", "vp8.webm", "one.mp4"}


def read(path: Path, info: VideoInfo, indices: list[int], **limits: Any) -> list[tuple[int, int]]:
    """(index, number on the picture) of each frame asked."""
    return read_frames(path, info, indices, number_in, **limits).frames


@pytest.mark.parametrize("decord", [True, False])
@pytest.mark.parametrize("name", FILMS)
def test_the_frames_asked_are_the_frames_given(name: str, decord: bool, tmp_path: Path) -> None:
    path = film(tmp_path / name, **FILMS[name])
    info = probe(path)
    asked = sorted(set(sample_frames(info, Sample(8))[0].frames))
    decoded = read_frames(path, info, asked, number_in, decord=decord)
    assert decoded.frames == [(index, index) for index in asked]
    assert decoded.reader == ("decord" if decord and name in WITH_DECORD else "pyav")
    assert decoded.passes == 1
    assert info.shown_size == (160, 48)
    assert decoded.note is None


def test_a_variable_frame_rate_is_sampled_by_its_timestamps(tmp_path: Path) -> None:
    stamps = [40 * n if n < 30 else 1200 + 400 * (n - 30) for n in range(60)]
    path = film(tmp_path / "variable.mp4", stamps_ms=stamps, options=GROUPS)
    info = probe(path)
    window = sample_frames(info, Sample(6))[0]
    middles = [(n + 0.5) * info.duration / 6 for n in range(6)]
    assert window.frames == [max(n for n in range(60) if stamps[n] / 1000 <= t + 1e-9) for t in middles]
    assert read(path, info, window.frames) == [(n, n) for n in window.frames]


@pytest.mark.parametrize("first", [12, 17])
def test_frames_before_an_edit_list_are_not_shown(first: int, tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.mp4", options=GROUPS)
    path = trimmed_by_edit_list(whole, tmp_path / "trimmed.mp4", first)
    info = probe(path)
    assert len(info.times) == info.expected == 60 - first
    assert read(path, info, [0, 3, 20]) == [(0, first), (3, first + 3), (20, first + 20)]


def test_a_recording_that_begins_in_the_middle_starts_at_its_first_key_frame(tmp_path: Path) -> None:
    source = film(tmp_path / "whole.ts", options=GROUPS).read_bytes()
    path = tmp_path / "middle.ts"
    path.write_bytes(source[188 * 40 :])
    info = probe(path)
    assert info.times[0] == 0
    assert read(path, info, [0, 20, 40]) == [(0, 12), (20, 32), (40, 52)]


def made_of(times: list[float], duration: float) -> VideoInfo:
    from tasks.video_probe import Orientation

    pts = np.arange(len(times), dtype=np.int64)
    return VideoInfo(
        container="mov,mp4,m4a,3gp,3g2,mj2",
        codec="h264",
        pixels="yuv420p",
        fps=10.0,
        width=160,
        height=48,
        orientation=Orientation(),
        pts=pts,
        times=np.array(times),
        duration=duration,
        expected=len(times),
        key_pts=pts[:1],
        by_order=False,
        decord_doubt=None,
    )


@pytest.mark.parametrize(("frames", "n"), [(300, 8), (300, 50), (96, 7), (5, 8), (1, 4), (270, 32)])
def test_endpoints_are_the_rule_of_vlm_rlaif(frames: int, n: int) -> None:
    info = made_of([k / 30 for k in range(frames)], frames / 30)
    exact = [k * (frames - 1) // (n - 1) for k in range(n)]  # numpy's linspace(0, frames - 1, n, dtype=int), exactly.
    assert sample_frames(info, Sample(n, at="endpoint"))[0].frames == exact


def test_windows_cut_the_video_in_equal_parts() -> None:
    info = made_of([k / 10 for k in range(60)], 6.0)
    windows = sample_frames(info, Sample(2, clips=3))
    assert [(w.clip, w.start, w.end) for w in windows] == [(0, 0.0, 2.0), (1, 2.0, 4.0), (2, 4.0, 6.0)]
    assert [w.frames for w in windows] == [[5, 15], [25, 35], [45, 55]]
    assert [w.frames for w in sample_frames(info, Sample(3, clips=3, at="endpoint"))][1] == [20, 29, 39]


def test_a_short_video_repeats_frames() -> None:
    windows = sample_frames(made_of([0.0, 0.1, 0.2], 0.3), Sample(4, clips=2))
    assert [w.frames for w in windows] == [[0, 0, 0, 1], [1, 2, 2, 2]]


def fast_start(tmp_path: Path) -> bytes:
    """A video whose index stands in front, as it does in a stream."""
    return film(tmp_path / "whole.mp4", options=GROUPS, muxing={"movflags": "faststart"}).read_bytes()


def test_a_cut_file_is_refused_with_the_count_or_kept_with_a_note(tmp_path: Path) -> None:
    data = fast_start(tmp_path)
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * 0.95)])
    info = probe(path)
    assert len(info.times) < info.expected == 60
    with pytest.raises(
        VideoError, match=r"damaged from \d\.\d\d s on: \d+ of 60 frames decode.*under min_decodable 0.99"
    ):
        read(path, info, [0, 20], min_decodable=0.99)
    decoded = read_frames(path, info, [0, 20, len(info.times) - 1], number_in, min_decodable=0.5)
    assert decoded.note is not None
    assert "of 60 frames decode" in decoded.note
    assert all(index == number for index, number in decoded.frames), "a lost frame is never passed off as another"
    assert decoded.frames[-1][0] < len(info.times) - 1


def test_pyav_notices_flawed_pictures(test_data: Path, tmp_path: Path) -> None:
    data = bytearray((test_data / "clips" / "mmaction2_test.mp4").read_bytes())
    chance = random.Random(0)
    for _ in range(5):
        data[chance.randrange(200_000, 1_200_000)] ^= 1 << chance.randrange(8)
    path = tmp_path / "flawed.mp4"
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"300 of 300 frames decode, .* of them without errors"):
        read_frames(path, probe(path), [10, 290], np.copy, min_decodable=0.9, decord=False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"<html>404 not found</html>", "not a video but text"),
        (bytes(range(256)) * 8, "not a video that can be opened"),
        (
            b"\x00\x00\x00\x10ftypisom\x00\x00\x00\x00\x00\x00\x10\x00mdat" + bytes(900),
            "cut short: the index of the mp4",
        ),
    ],
)
def test_what_is_no_video_says_what_it_is(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "no.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=reason):
        probe(path)


def test_a_missing_file_and_a_sound_file_say_so(tmp_path: Path) -> None:
    import av

    with pytest.raises(VideoError, match="the file is gone"):
        probe(tmp_path / "none.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(VideoError, match="no video stream: the file holds audio only"):
        probe(tmp_path / "sound.mp4")
