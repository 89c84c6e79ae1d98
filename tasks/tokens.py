"""Reads the visual tokens that the stage `visual_tokens` kept."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.schemas import SCHEMAS
from storage.tables import Table

if TYPE_CHECKING:
    from models.encoding import Encoded
    from models.sequences import Footage
    from storage.lake import Lake
    from tasks.stage import StageRef


COLUMNS = ["video", "status", "blob", "row", "sets"]
SHAPED = ("shape", "dtype", "grid", "seconds")  # What a blob tells of its tokens beside their data.


class MissingTokensError(ValueError):
    """A video has no visual tokens: it is unknown or was quarantined."""


class VisualTokens:
    """Visual tokens by video and frame set, memory-mapped.

    A frame set is one of the sets that the stage `frames` sampled ("policy", "judge_2", ...); each of its clips is a
    selection of the video's kept frames.
    """

    def __init__(self, lake: Lake, ref: StageRef) -> None:
        self._lake = lake
        self._outline_of = lru_cache(64)(lambda blob: lake.blobs.peek_arrow(blob, SHAPED))
        self._rows, self._places = _usable(lake.root, ref.table, ref.key, lake.table(ref.table).version())

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


@lru_cache(2)
def _usable(root: str, name: str, key: str, version: int) -> tuple[pa.Table, dict[str, int]]:  # noqa: ARG001
    """The ok rows of a stage (`version` of its table is for the cache alone), and where each video's is.

    The processors of a worker share them: those of 10,000 videos take 8 MiB, as dicts they would 25.
    """

    def gather(batches: Iterator[pa.RecordBatch]) -> list[pa.RecordBatch]:
        return [batch.filter(pc.equal(batch["status"], "ok")) for batch in batches]

    schema = pa.schema([SCHEMAS[name].field(column) for column in COLUMNS])
    rows = pa.Table.from_batches(Table(root, name).scan(key, COLUMNS, gather), schema)
    return rows, {video: place for place, video in enumerate(rows["video"].to_pylist())}


def keys_of(lake: Lake, tokens: StageRef) -> dict[str, str]:
    """What the visual tokens of each video are known by: the item_key of its row."""

    def gather(batches: Iterator[pa.RecordBatch]) -> dict[str, str]:
        pairs = (zip(batch["item_id"].to_pylist(), batch["item_key"].to_pylist(), strict=True) for batch in batches)
        return dict(chain.from_iterable(pairs))

    return lake.table(tokens.table).scan(tokens.key, ["item_id", "item_key"], gather)
