import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film import film, number_in, trimmed_by_edit_list
from hypothesis import given
from hypothesis import strategies as st

from tasks.frame_folder import CONTAINER
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


# Printed by the get_index of MVBench's notebook: frames, their rate, the part in seconds, and the 16 places.
MVBENCH = [
    (250, 25, None, [7, 23, 38, 54, 69, 85, 100, 116, 131, 147, 163, 178, 194, 209, 225, 240]),
    (100, 25, None, [3, 9, 15, 22, 28, 34, 40, 46, 53, 59, 65, 71, 77, 83, 90, 96]),
    (250, 25, (2.3, 7.7), [61, 69, 78, 86, 95, 103, 112, 120, 129, 137, 145, 154, 162, 171, 179, 188]),
    (250, 25, (2.3, 99.0), [63, 75, 87, 99, 111, 123, 135, 147, 159, 171, 183, 195, 207, 219, 231, 243]),
    (5, 25, None, [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4]),
]


@pytest.mark.parametrize(("frames", "rate", "part", "places"), MVBENCH)
def test_mvbench_s_rule_is_the_notebook_s(
    frames: int, rate: int, part: tuple[float, float] | None, places: list[int]
) -> None:
    info = replace(made_of([k / rate for k in range(frames)], frames / rate), fps=float(rate))
    assert sample_frames(info, Sample(16, at="mvbench"), part)[0].frames == places
    without = replace(info, fps=0.0)  # A file that does not say its rate has the mean one.
    assert sample_frames(without, Sample(16, at="mvbench"), part)[0].frames == places


def test_mvbench_counts_the_frames_of_a_folder_from_one() -> None:
    """As its read_frame does, at 3 frames a second: "00005.jpg" is the place 4."""
    info = replace(made_of([k / 3 for k in range(90)], 30.0), fps=3.0, container=CONTAINER)
    named = [5, 9, 12, 16, 19, 23, 27, 30, 34, 38, 41, 45, 49, 52, 56, 59]
    assert sample_frames(info, Sample(16, at="mvbench"), (1.2, 20.5))[0].frames == [name - 1 for name in named]


@given(frames=st.integers(1, 400), n=st.integers(1, 64), start=st.floats(0, 12), length=st.floats(0.01, 12))
def test_mvbench_s_places_are_frames_of_the_video(frames: int, n: int, start: float, length: float) -> None:
    info = made_of([k / 10 for k in range(frames)], frames / 10)
    for part in (None, (start, start + length)):
        for window in sample_frames(info, Sample(n, at="mvbench"), part):
            assert len(window.frames) == n
            assert min(window.frames) >= 0
            assert max(window.frames) < frames


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
