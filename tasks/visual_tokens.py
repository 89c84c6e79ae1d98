"""Stage `visual_tokens`: what the vision tower makes of every kept frame, computed once in a video's life."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from models.meter import METER
from storage.lake import Lake
from tasks.fanout import Outcome
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage

if TYPE_CHECKING:
    from torch import Tensor

    from models.encoding import Encoded
    from models.families import VideoFrames


COLUMNS = ["item_id", "status", "blob", "row", "sets", "timestamps"]


class VisualTokensConfig(BaseModel):
    """How frames go through the vision tower."""

    model_config = ConfigDict(extra="forbid")

    batch_frames: int = Field(
        default=32, ge=1, description="Frames of a video that go through the vision tower together, at least one unit."
    )
    shard_size: int = Field(
        default=8, ge=1, description="Videos whose tokens are held in memory, kept in one file and committed together."
    )


def visual_tokens(ctx: RunContext, config: VisualTokensConfig, frames: StageResult, model: ModelRef) -> StageResult:
    """Encode the kept frames of every video: each, or each pair where the tower folds time, goes through it once.

    The stage is named by the tower alone: a base model, its SFT model and every policy share it.

    Raises:
        ValueError: the model does not load.
    """
    tower = replace(model, merged=(), adapter=None, stages=())
    stage = Stage(
        name="visual_tokens",
        table="visual_tokens",
        config=config.model_dump(exclude={"shard_size"}),
        inputs=(frames.ref,),
        model=tower.tower,
        prompts={},
        seed=0,  # nothing is drawn
        shard_size=config.shard_size,
        reuse=True,
        label=f"visual_tokens {PurePath(model.name).name}",
    )
    settings = TowerSettings(ctx.lake_root, frames.ref, tower, config.batch_frames)
    return run_stage(ctx, stage, lambda: _items(ctx.lake, frames.ref), EncodeFrames, settings)


def _items(lake: Lake, frames: StageRef) -> list[dict[str, Any]]:
    rows = lake.table(frames.table).read(frames.key, columns=["item_id", "status", "item_key"]).to_pylist()
    return [{"item_id": row["item_id"], "frames": row["item_key"]} for row in rows if row["status"] == "ok"]


@dataclass(frozen=True)
class TowerSettings:
    """What a worker needs."""

    lake: str
    frames: StageRef
    model: ModelRef
    batch_frames: int


class EncodeFrames:
    """Frames of a shard's videos in, one Arrow blob of their visual tokens out."""

    def __init__(self, settings: TowerSettings) -> None:
        self._lake = Lake(settings.lake)
        table = self._lake.table(settings.frames.table)
        rows = table.read(settings.frames.key, columns=COLUMNS).to_pylist()
        self._frames = {row["item_id"]: row for row in rows if row["status"] == "ok"}
        self._lm = settings.model.load(self._lake)
        self._tower = settings.model.tower
        self._batch_frames = settings.batch_frames

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002 - nothing is drawn
        videos = [item["item_id"] for item in items]
        passed, encoded = zip(*map(self._counted, videos), strict=True)
        blob = self._lake.blobs.put_arrow(
            pa.table(
                {
                    "video": pa.array(videos, pa.string()),
                    "shape": pa.array([list(each.tokens.shape) for each in encoded], pa.list_(pa.int32())),
                    "data": pa.array([_raw(each.tokens) for each in encoded], pa.large_binary()),
                    "dtype": pa.array([str(each.tokens.dtype).removeprefix("torch.") for each in encoded], pa.string()),
                    "grid": pa.array([list(each.grid) for each in encoded], pa.list_(pa.int32())),
                    "seconds": pa.array([each.seconds for each in encoded], pa.list_(pa.list_(pa.float64()))),
                }
            )
        )
        return [
            Outcome(video, [self._row(video, blob, row, each, count)])
            for row, (video, each, count) in enumerate(zip(videos, encoded, passed, strict=True))
        ]

    def _counted(self, video: str) -> tuple[int, Encoded]:
        """How many frames went through the tower, and what it made of them."""
        before = replace(METER)
        encoded = self._encode(self._frames[video])
        return METER.since(before).calls, encoded

    def _row(self, video: str, blob: str, row: int, encoded: Encoded, passed: int) -> dict[str, Any]:
        sets = self._frames[video]["sets"]
        clips = [{**each, "indices": list(rows)} for each, rows in zip(sets, encoded.clips, strict=True)]
        return {
            "video": video,
            "tower": self._tower,
            "blob": blob,
            "row": row,
            "n_frames": passed,
            "sets": clips,
        }

    def _encode(self, kept: dict[str, Any]) -> Encoded:
        from models.encoding import encode_clips

        frames = decode_frames(self._lake.blobs.open_arrow(kept["blob"])["frames"][kept["row"]].as_py())
        clips = [each["indices"] for each in kept["sets"]]
        encoded = encode_clips(self._lm, frames, clips, kept["timestamps"], self._batch_frames)
        self._check_room(encoded)
        return encoded

    def _check_room(self, encoded: Encoded) -> None:
        """Raises ValueError for a video that no prompt can hold, before anything is asked about it.

        One clip that fits is enough: other sets may be there for another model's eyes, and whoever is asked about one
        that is too long says so about that item alone.
        """
        faults: list[ValueError] = []
        for number in range(len(encoded.clips)):
            try:
                self._lm.prompt("", encoded.shown(number))
            except ValueError as error:
                faults.append(error)
        if len(faults) == len(encoded.clips):
            raise faults[0]


def decode_frames(pictures: list[bytes]) -> VideoFrames:
    """uint8 frames [F, H, W, 3], RGB, of the PNG or JPEG files of one video."""
    import numpy as np
    from PIL import Image

    return np.stack([np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures])


def _raw(tokens: Tensor) -> bytes:
    import torch

    return tokens.view(torch.uint8).numpy().tobytes()
