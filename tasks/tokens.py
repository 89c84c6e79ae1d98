"""Reads the visual tokens that the stage `visual_tokens` kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

if TYPE_CHECKING:
    from torch import Tensor

    from storage.lake import Lake
    from tasks.stage import StageRef


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
        # Rows stay Arrow's: as dicts, with their sets' frames, those of 10,000 videos would take 25 MiB.
        self._rows = table.filter(pc.equal(table["status"], "ok")).combine_chunks()
        self._places = {video: place for place, video in enumerate(self._rows["video"].to_pylist())}

    def __contains__(self, video: str) -> bool:
        return video in self._places

    def clips(self, video: str, frame_set: str) -> list[Tensor]:
        """The tokens [F, P, D] of each clip of a set, in order.

        Raises:
            MissingTokensError: the video has none, or the set was not sampled.
        """
        if video not in self._places:
            raise MissingTokensError(f"Video {video} has no visual tokens; see why in the frames stage.")
        (row,) = self._rows.slice(self._places[video], 1).to_pylist()
        chosen = [each for each in row["sets"] if each["name"] == frame_set]
        if not chosen:
            known = sorted({each["name"] for each in row["sets"]})
            raise MissingTokensError(
                f"Frame set {frame_set!r} was not sampled; known: {', '.join(known)}. Add it to frames.sets."
            )
        tokens = self._video(row)
        return [tokens[each["indices"]] for each in sorted(chosen, key=lambda each: each["clip"])]

    def frames(self, video: str, frame_set: str) -> Tensor:
        """The tokens [F, P, D] of a set with one clip."""
        (tokens,) = self.clips(video, frame_set)
        return tokens

    def _video(self, row: dict[str, Any]) -> Tensor:
        import numpy as np
        import torch

        kept = self._lake.blobs.open_arrow(row["blob"])
        shape = kept["shape"][row["row"]].as_py()
        dtype = getattr(torch, kept["dtype"][row["row"]].as_py())
        # The copy is this video's alone: torch wants memory that it may write to, the map is read-only.
        data = np.frombuffer(kept["data"][row["row"]].as_buffer(), dtype=np.uint8).copy()
        return torch.from_numpy(data).view(dtype).view(shape)


def keys_of(lake: Lake, tokens: StageRef) -> dict[str, str]:
    """What the visual tokens of each video are known by: the item_key of its row."""
    shown = lake.table(tokens.table).read(tokens.key, columns=["item_id", "item_key"])
    return dict(zip(shown["item_id"].to_pylist(), shown["item_key"].to_pylist(), strict=True))
