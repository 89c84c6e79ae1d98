"""Parts of videos that questions are about: each is a frame set of its own, sampled from that part alone."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.stage import StageRef, StageResult


@dataclass(frozen=True, order=True)
class Window:
    """The part [start, end) of a video, in seconds, from which the frame set `frame_set` is sampled."""

    frame_set: str
    start: float
    end: float

    @property
    def name(self) -> str:
        """The name of the set that is sampled from this part."""
        return window_set(self.frame_set, self.start, self.end)


def window_set(frame_set: str, start: float | None, end: float | None) -> str:
    """Name of the frame set of a part of a video; of all of it, where no part is asked for, the set's own."""
    # As {:g} writes them, but milliseconds of a long video are kept.
    return frame_set if start is None or end is None else f"{frame_set}@{start:.10g}-{end:.10g}"


@dataclass(frozen=True)
class AskedWindows:
    """What questions ask for.

    Attributes:
        of: the windows of each video, sorted, each once.
        refs: the stages that ask for any, named by what they ask for alone.
    """

    of: Mapping[str, Sequence[Window]]
    refs: tuple[StageRef, ...]


def asked_windows(lake: Lake, asking: Mapping[str, Sequence[StageResult]]) -> AskedWindows:
    """The windows that the questions of `asking` have, which holds `questions` stages by the frame set they ask for."""
    of: defaultdict[str, set[Window]] = defaultdict(set)
    refs = []
    for frame_set, stages in asking.items():
        for ref in (stage.ref for stage in stages):
            rows = lake.table(ref.table).read(ref.key, columns=["status", "video", "start", "end"]).to_pylist()
            found = sorted(
                {
                    (row["video"], row["start"], row["end"])
                    for row in rows
                    if row["status"] == "ok" and row["start"] is not None
                }
            )
            for video, start, end in found:
                of[video].add(Window(frame_set, start, end))
            if found:
                text = json.dumps([frame_set, found])
                refs.append(replace(ref, content=hashlib.sha256(text.encode()).hexdigest()[:16]))
    return AskedWindows({video: sorted(each) for video, each in of.items()}, tuple(refs))
