"""Frames to visual tokens, against the model's own path from pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from miniature import checkpoint
from models.families import VideoFrames, family_of, pack

FAMILY = family_of("llava_onevision")
TOKENS_A_FRAME = 4  # 4x4 patches, pooled 2x2


@pytest.fixture(scope="module")
def model() -> Any:
    torch.set_num_threads(1)
    return checkpoint.new_model(2, seed=0).eval()


@pytest.fixture(scope="module")
def processor() -> Any:
    return checkpoint.new_processor()


def _frames(count: int, height: int = 64, width: int = 64) -> VideoFrames:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@torch.no_grad()
def test_a_frame_has_the_same_tokens_alone_and_among_others(model: Any, processor: Any) -> None:
    assert FAMILY.per_frame
    together = FAMILY.encode(model, processor, _frames(5))
    assert together.shape == (5, TOKENS_A_FRAME, checkpoint.HIDDEN)
    for index, frame in enumerate(_frames(5)):
        alone = FAMILY.encode(model, processor, frame[None])
        assert torch.allclose(together[index], alone[0], atol=1e-5)


@torch.no_grad()
def test_joined_tokens_are_those_the_model_makes_of_the_pixels(model: Any, processor: Any) -> None:
    frames = _frames(6, height=48, width=80)
    video = [torch.from_numpy(frame).permute(2, 0, 1) for frame in frames]
    pixels = processor.video_processor(videos=[video], return_tensors="pt")["pixel_values_videos"]
    expected = model.get_video_features(pixels, return_dict=True).pooler_output[0]
    joined = FAMILY.join(model, FAMILY.encode(model, processor, frames))
    assert joined.shape == (6 * TOKENS_A_FRAME + 1, checkpoint.HIDDEN)
    assert torch.allclose(joined, expected, atol=1e-5)


@torch.no_grad()
def test_a_selection_of_kept_tokens_is_what_those_frames_alone_give(model: Any, processor: Any) -> None:
    kept = FAMILY.encode(model, processor, _frames(8))
    selected = FAMILY.join(model, kept[[1, 5]])
    assert torch.allclose(selected, FAMILY.join(model, FAMILY.encode(model, processor, _frames(8)[[1, 5]])), atol=1e-5)


def test_packed_videos_stand_in_order_whatever_their_lengths() -> None:
    videos = [torch.full((length, 2), float(length)) for length in (3, 1, 2)]
    packed = pack(videos)["mm_encoder_outputs"]["video"].pooler_output
    assert packed.shape == (1, 6, 2)
    assert packed[0, :, 0].tolist() == [3, 3, 3, 1, 2, 2]


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'blip' are not supported yet; supported: llava_onevision"):
        family_of("blip")
