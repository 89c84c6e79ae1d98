"""Reads the visual tokens that the stage `visual_tokens` kept."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

if TYPE_CHECKING:
    from models.encoding import Encoded
    from models.sequences import Footage
    from storage.lake import Lake
    from tasks.stage import StageRef


SHAPED = ("shape", "dtype", "grid", "seconds")  # What a blob tells of its tokens beside their data.


class MissingTokensError(ValueError):
    """A video has no visual tokens: it is unknown or was quarantined."""


class VisualTokens:
    """Visual tokens by video and frame set, memory-mapped.

    A frame set is one of the sets that the stage `frames` sampled ("policy", "judge_2", ...); each of its clips is a
    selection of the video's kept frames.
    """

    def __init__(self, lake: Lake, ref: StageRef) -> None:
        table = lake.table(ref.table).read(stage_key=ref.key, columns=["video", "status", "blob", "row", "sets"])
        self._lake = lake
        self._outline_of = lru_cache(64)(lambda blob: lake.blobs.peek_arrow(blob, SHAPED))
        # Rows stay Arrow's: as dicts, with their sets' frames, those of 10,000 videos would take 25 MiB.
        self._rows = table.filter(pc.equal(table["status"], "ok")).combine_chunks()
        self._places = {video: place for place, video in enumerate(self._rows["video"].to_pylist())}

    def __contains__(self, video: str) -> bool:
        return video in self._places

    def clips(self, video: str, frame_set: str, *, unread: bool = False) -> list[Footage]:
        """Each clip of a set, in order, as its frames were encoded.

        Args:
            video: the video.
            frame_set: the set.
            unread: give the tokens' shape alone: they are on torch's device "meta", and their file's data is not read.

        Raises:
            MissingTokensError: the video has none, or the set was not sampled.
        """
        if video not in self._places:
            raise MissingTokensError(f"Video {video} has no visual tokens; see why in the frames stage.")
        (row,) = self._rows.slice(self._places[video], 1).to_pylist()
        known = sorted({each["name"] for each in row["sets"]})
        if frame_set not in known:
            raise MissingTokensError(
                f"Frame set {frame_set!r} was not sampled; known: {', '.join(known)}. Add it to frames.sets."
            )
        video_tokens = self._video(row, unread)
        order = sorted((each["clip"], number) for number, each in enumerate(row["sets"]) if each["name"] == frame_set)
        return [video_tokens.shown(number) for _, number in order]

    def frames(self, video: str, frame_set: str) -> Footage:
        """The one clip of a set."""
        (shown,) = self.clips(video, frame_set)
        return shown

    def outline(self, video: str, frame_set: str) -> Footage:
        """The same with the shape of its tokens alone."""
        (shown,) = self.clips(video, frame_set, unread=True)
        return shown

    def _video(self, row: dict[str, Any], unread: bool) -> Encoded:
        import numpy as np
        import torch

        from models.encoding import Encoded

        kept, number = self._outline_of(row["blob"]) if unread else self._lake.blobs.open_arrow(row["blob"]), row["row"]
        shape, dtype = kept["shape"][number].as_py(), getattr(torch, kept["dtype"][number].as_py())
        if unread:
            tokens = torch.empty(shape, dtype=dtype, device="meta")
        else:
            # The copy is this video's alone: torch wants memory that it may write to, the map is read-only.
            data = np.frombuffer(kept["data"][number].as_buffer(), dtype=np.uint8).copy()
            tokens = torch.from_numpy(data).view(dtype).view(shape)
        rows, columns = kept["grid"][number].as_py()
        clips = [each["indices"] for each in row["sets"]]
        return Encoded(tokens, (rows, columns), clips, kept["seconds"][number].as_py())


def keys_of(lake: Lake, tokens: StageRef) -> dict[str, str]:
    """What the visual tokens of each video are known by: the item_key of its row."""
    shown = lake.table(tokens.table).read(tokens.key, columns=["item_id", "item_key"])
    return dict(zip(shown["item_id"].to_pylist(), shown["item_key"].to_pylist(), strict=True))
