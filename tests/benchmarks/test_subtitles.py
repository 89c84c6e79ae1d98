"""Subtitle files: which lines are spoken when."""

from pathlib import Path

import pytest
from scoring import written

from benchmarks.subtitles import read_srt
from storage.errors import FormatError

SRT = """1
00:00:01,000 --> 00:00:02,500
<font color="white" size=".72c">Hi guys,</font>
I'm going to show you

2
00:00:02,500 --> 00:00:04.000
how to prepare it.

3
01:00:00,000 --> 01:00:01,000
The end.
"""


def test_the_lines_at_the_frames_times_are_given_once_and_in_order(tmp_path: Path) -> None:
    subtitles = read_srt(written(tmp_path / "a.srt", SRT))
    first, second, third = "Hi guys, I'm going to show you", "how to prepare it.", "The end."
    assert [line.text for line in subtitles.lines] == [first, second, third]
    assert subtitles.spoken([0.5, 4.0, 5.0]) == ()
    assert subtitles.spoken([2.4, 1.0, 1.5]) == (first,)
    assert subtitles.spoken([2.5]) == (second,)  # A line ends just before its end.
    assert subtitles.spoken([3600.5, 3.9, 1.0]) == (first, second, third)


def test_odd_files_are_read(tmp_path: Path) -> None:
    text = "\ufeff1\r\n00:01,5 --> 00:02,0\r\n{\\an8}one\\Ntwo\r\n2\r\n00:03,000 --> 00:04,000\r\nthree\r\n\r\n\r\n"
    path = tmp_path / "a.srt"
    path.write_bytes(text.encode())
    lines = read_srt(path).lines
    assert [(line.start, line.end, line.text) for line in lines] == [(1.5, 2.0, "one two"), (3.0, 4.0, "three")]


def test_blocks_that_are_no_lines_are_faults(tmp_path: Path) -> None:
    text = SRT + "\n4\nno times\n\n5\n00:00:09,000 --> 00:00:08,000\nbackwards\n\n6\n00:00:10,000 --> 00:00:11,000\n\n"
    subtitles = read_srt(written(tmp_path / "a.srt", text))
    assert len(subtitles.lines) == 3
    assert [fault.where for fault in subtitles.faults] == ["a.srt block 4", "a.srt block 5"]
    assert read_srt(written(tmp_path / "b.srt", "")).lines == ()
    with pytest.raises(FormatError, match="no subtitles"):
        read_srt(written(tmp_path / "c.srt", "this is no subtitle file"))
