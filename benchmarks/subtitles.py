"""Subtitles (SRT): the lines of a file, and those that are spoken when a model's frames are shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.files import text_of_file
from benchmarks.items import Fault
from storage.errors import FormatError

_STAMP = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
_TIMES = re.compile(rf"\s*{_STAMP}\s*-->\s*{_STAMP}")
# `<font color="white" size=".72c">` in Video-MME's files; `{\an8}` places a line, "\N" breaks it.
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of subtitles; `start` and `end` in seconds from the beginning of the video."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Subtitles:
    """The lines of a file in order of time, and the blocks that are none."""

    lines: tuple[Line, ...]
    faults: tuple[Fault, ...] = ()

    def spoken(self, timestamps: Iterable[float]) -> tuple[str, ...]:
        """The texts of the lines that are shown at one of these times (seconds), each line once, in order of time.

        A line is shown from its start until just before its end.
        """
        times = sorted(timestamps)
        return tuple(line.text for line in self.lines if any(line.start <= time < line.end for time in times))


def read_srt(path: Path) -> Subtitles:
    """The lines of an SRT file without markup, those of one block joined by a blank. A block without text is none.

    Raises:
        FormatError: the file cannot be read, or holds blocks but none with times.
    """
    text = text_of_file(path).replace("\r\n", "\n").replace("\r", "\n")
    lines: list[Line] = []
    faults: list[Fault] = []
    for number, block in enumerate(_blocks(text.split("\n")), start=1):
        line = _line(block)
        if isinstance(line, Line):
            lines.append(line)
        elif line:
            faults.append(Fault("malformed", f"{path.name} block {number}", line))
    if faults and not lines:
        raise FormatError(f"{path}: holds no subtitles: {faults[0].where} {faults[0].reason}")
    return Subtitles(tuple(sorted(lines, key=lambda line: (line.start, line.end))), tuple(faults))


def _blocks(rows: Sequence[str]) -> list[list[str]]:
    """Rows between blank ones. A row of times begins a block too, where the blank row before its number is missing."""
    blocks: list[list[str]] = [[]]
    for row in rows:
        if not row.strip():
            blocks.append([])
        elif _TIMES.match(row) and any(_TIMES.match(before) for before in blocks[-1]):
            number = [blocks[-1].pop()] if blocks[-1][-1].strip().isdigit() else []
            blocks.append([*number, row])
        else:
            blocks[-1].append(row)
    return [block for block in blocks if block]


def _line(block: Sequence[str]) -> Line | str | None:
    """The line of a block; None where it has no text, and what is wrong where it is none."""
    place = next((place for place, row in enumerate(block) if _TIMES.match(row)), None)
    if place is None:
        return "has no times such as 00:00:01,000 --> 00:00:02,500."
    found = _TIMES.match(block[place])
    assert found
    start, end = _seconds(found.groups()[:4]), _seconds(found.groups()[4:])
    if end <= start:
        return f"ends at {end:g} s, not after its start at {start:g} s."
    text = _MARKUP.sub("", " ".join(row.strip() for row in block[place + 1 :])).replace("\\N", " ")
    text = " ".join(text.split())
    return Line(start, end, text) if text else None


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = parts
    return (
        int(hours or 0) * 3600
        + int(minutes or 0) * 60
        + int(seconds or 0)
        + int((fraction or "0").ljust(3, "0")) / 1000
    )
