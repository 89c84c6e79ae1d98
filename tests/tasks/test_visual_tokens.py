"""Kept frames to kept visual tokens, through the real tower."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import BASE, SETS, base_model, keep, keep_scenes, other_lake, picture, rows_of, scenes, small_run

from miniature.lessons import FRAMES
from miniature.world import render
from models.sequences import Footage
from models.settings import LoraSettings
from models.video_lm import VideoLM
from tasks.fanout import WorkerPool
from tasks.model_ref import ModelRef
from tasks.stage import RunContext
from tasks.tokens import MissingTokensError, VisualTokens
from tasks.visual_tokens import EncodeFrames, TowerSettings, VisualTokensConfig, decode_frames, visual_tokens

sys.path.append(str(Path(__file__).parents[1] / "models"))
import zoo

CONFIG = VisualTokensConfig(batch_frames=16, shard_size=2)
SEEN = 10  # of a scene's frames stand in one of its sets


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


def _encode_here(ctx: RunContext, batch_frames: int = 16, videos: int = 3) -> tuple[EncodeFrames, list[dict[str, Any]]]:
    frames = keep_scenes(ctx.lake, scenes(videos))
    processor = EncodeFrames(TowerSettings(ctx.lake_root, frames.ref, base_model(), batch_frames))
    return processor, [{"item_id": video} for video in sorted(scenes(videos))]


def test_kept_tokens_are_those_of_the_frames_of_every_set(ctx: RunContext) -> None:
    shown = scenes(3)
    frames = keep_scenes(ctx.lake, shown, {"scenes/broken.mp4": "no frame decodes"})
    result = visual_tokens(ctx, CONFIG, frames, base_model())
    assert (result.items, result.ok, result.quarantined) == (3, 3, 0)
    kept, lm = VisualTokens(ctx.lake, result.ref), VideoLM.load(str(BASE))
    for video, scene in shown.items():
        for name, clips in {"policy": ["8"], "judge_2": ["2"], "clips": ["clip0", "clip1"]}.items():
            got = kept.clips(video, name)
            assert len(got) == len(clips)
            for tokens, clip in zip(got, clips, strict=True):
                now = lm.encode(render(scene)[list(FRAMES[clip])])
                assert torch.allclose(tokens.tokens, now.tokens, atol=1e-5)
                assert tokens.grid == now.grid
                assert len(tokens.seconds) == len(FRAMES[clip])
    assert "scenes/broken.mp4" not in kept
    with pytest.raises(MissingTokensError, match="known: clips, judge_2, policy"):
        kept.clips("scenes/00.mp4", "judge_3")


def test_a_shard_is_one_blob_and_a_row_says_what_it_needs(ctx: RunContext) -> None:
    result = visual_tokens(ctx, CONFIG, keep_scenes(ctx.lake, scenes(3)), base_model())
    rows = [row for (row,) in rows_of(ctx.lake, result).values()]
    assert len({row["blob"] for row in rows}) == 2
    assert [(row["row"], row["n_frames"], row["tower"]) for row in rows] == [
        (row, SEEN, base_model().tower) for row in (0, 1, 0)
    ]
    assert [each["name"] for each in rows[0]["sets"]] == ["policy", "judge_2", "clips", "clips"]
    blob = ctx.lake.blobs.open_arrow(rows[0]["blob"])
    assert blob.column_names == ["video", "shape", "data", "dtype", "grid", "seconds"]
    assert blob.to_pylist()[0]["shape"] == [SEEN, 4, 128]


def test_adapters_share_the_tokens_of_their_base(ctx: RunContext, tmp_path: Path) -> None:
    frames = keep_scenes(ctx.lake, scenes(1))
    first = visual_tokens(ctx, CONFIG, frames, base_model())
    lm = VideoLM.load(str(BASE))
    lm.add_adapter("policy", LoraSettings(rank=2), seed=0)
    lm.save_adapter("policy", tmp_path / "adapter", base=str(BASE))
    tuned = replace(base_model(), adapter=ctx.lake.blobs.put_folder(tmp_path / "adapter"))
    again = visual_tokens(ctx, CONFIG, frames, tuned)
    assert again.cached
    assert again.key == first.key


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames each pass of a tower was given."""
    counts: list[int] = []
    tower = VideoLM.tower

    def counted(lm: VideoLM, frames: Any, of: int) -> Any:
        counts.append(len(frames))
        return tower(lm, frames, of)

    monkeypatch.setattr(VideoLM, "tower", counted)
    return counts


def test_each_frame_that_is_shown_goes_through_the_tower_once(ctx: RunContext, passed: list[int]) -> None:
    processor, items = _encode_here(ctx, batch_frames=6)
    processor.process(items, seed=0)
    assert passed == [6, 4] * 3


def test_a_row_counts_what_went_through_a_tower_that_folds_time(
    ctx: RunContext, tmp_path: Path, passed: list[int]
) -> None:
    """A frame that different sets pair with different frames goes through it once a pair."""
    frames = keep_scenes(ctx.lake, scenes(1))
    folding = ModelRef.of(str(zoo.save("qwen2_vl", tmp_path / "qwen")))
    processor = EncodeFrames(TowerSettings(ctx.lake_root, frames.ref, folding, 16))
    one = processor._frames["scenes/00.mp4"]
    one["sets"] = [{**SETS[0], "indices": indices} for indices in ([0, 2, 4, 6], [2, 4])]
    ((row,),) = [outcome.rows for outcome in processor.process([{"item_id": "scenes/00.mp4"}], seed=0)]
    assert row["n_frames"] == sum(passed) == 6


def test_the_batch_does_not_change_the_tokens(ctx: RunContext) -> None:
    processor, (item, *_) = _encode_here(ctx, batch_frames=16)
    whole = processor._encode(processor._frames[item["item_id"]])
    processor._batch_frames = 5
    assert torch.allclose(processor._encode(processor._frames[item["item_id"]]).tokens, whole.tokens, atol=1e-5)


def test_a_broken_picture_costs_only_its_video(ctx: RunContext, tmp_path: Path) -> None:
    pictures = {video: [picture(frame) for frame in render(scene)] for video, scene in scenes(3).items()}
    whole = visual_tokens(ctx, VisualTokensConfig(shard_size=3), keep(ctx.lake, pictures), base_model())
    pictures["scenes/01.mp4"][3] = b"not a picture"
    other = other_lake(ctx, tmp_path / "other")
    result = visual_tokens(other, VisualTokensConfig(shard_size=3), keep(other.lake, pictures), base_model())
    rows = {video: row for video, (row,) in rows_of(other.lake, result).items()}
    assert {video: row["status"] for video, row in rows.items()} == {
        "scenes/00.mp4": "ok",
        "scenes/01.mp4": "quarantined",
        "scenes/02.mp4": "ok",
    }
    assert "UnidentifiedImageError" in rows["scenes/01.mp4"]["reason"]
    tokens = VisualTokens(other.lake, result.ref).frames("scenes/02.mp4", "policy").tokens
    assert torch.equal(tokens, VisualTokens(ctx.lake, whole.ref).frames("scenes/02.mp4", "policy").tokens)


def test_a_set_for_longer_windows_costs_no_video_of_this_model(ctx: RunContext) -> None:
    processor, items = _encode_here(ctx)
    config = processor._lm.core.config.get_text_config()
    lengths = [len(processor._lm.prompt("", _shown(processor, items[0], number)).ids) for number in range(len(SETS))]
    assert [each["name"] for each in SETS][:2] == ["policy", "judge_2"]
    config.max_position_embeddings = lengths[0]  # One less than a prompt of the policy's set needs.
    assert all(outcome.rows for outcome in processor.process(items, seed=0))
    config.max_position_embeddings = min(lengths)
    with pytest.raises(ValueError, match="the model's window is"):
        processor.process(items, seed=0)


def _shown(processor: EncodeFrames, item: dict[str, Any], number: int) -> Footage:
    return processor._encode(processor._frames[item["item_id"]]).shown(number)


def test_half_precision_comes_back_as_it_was(ctx: RunContext) -> None:
    frames = keep_scenes(ctx.lake, scenes(1))
    model = replace(base_model(), dtype="bfloat16")
    items = [{"item_id": "scenes/00.mp4"}]
    processor = EncodeFrames(TowerSettings(ctx.lake_root, frames.ref, model, 16))
    ((row,),) = [outcome.rows for outcome in processor.process(items, seed=0)]
    kept = ctx.lake.blobs.open_arrow(row["blob"]).to_pylist()[0]
    tokens = torch.frombuffer(bytearray(kept["data"]), dtype=torch.bfloat16).view(kept["shape"])
    assert kept["dtype"] == "bfloat16"
    assert torch.equal(tokens, processor._encode(processor._frames["scenes/00.mp4"]).tokens)


def test_png_and_jpeg_pictures_become_upright_rgb_frames() -> None:
    frames = render(scenes(1)["scenes/00.mp4"])
    assert np.array_equal(decode_frames([picture(frame) for frame in frames]), frames)
    lossy = decode_frames([picture(frame, "JPEG") for frame in frames])
    assert lossy.shape == frames.shape
    assert np.abs(lossy.astype(int) - frames).mean() < 8
