"""Frames to visual tokens, against the model's own path from pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from miniature import checkpoint
from models.families import VideoFrames
from models.video_lm import VideoLM

TOKENS_A_FRAME = 4  # 4x4 patches, pooled 2x2


@pytest.fixture(scope="module")
def lm() -> VideoLM:
    torch.set_num_threads(1)
    return VideoLM(checkpoint.new_model(2, seed=0), checkpoint.new_processor())


def _frames(count: int, height: int = 64, width: int = 64) -> VideoFrames:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_a_frame_has_the_same_tokens_alone_and_among_others(lm: VideoLM) -> None:
    together = lm.encode(_frames(5)).tokens
    assert together.shape == (5, TOKENS_A_FRAME, checkpoint.HIDDEN)
    for index, frame in enumerate(_frames(5)):
        assert torch.allclose(together[index], lm.encode(frame[None]).tokens[0], atol=1e-5)


@torch.no_grad()
def test_joined_tokens_are_those_the_model_makes_of_the_pixels(lm: VideoLM) -> None:
    frames = _frames(6, height=48, width=80)
    video = [torch.from_numpy(frame).permute(2, 0, 1) for frame in frames]
    pixels = lm.processor.video_processor(videos=[video], return_tensors="pt")["pixel_values_videos"]
    expected = lm.core.get_video_features(pixels, return_dict=True).pooler_output[0]
    joined = lm.family.join(lm.core, lm.encode(frames))
    assert joined.shape == (6 * TOKENS_A_FRAME + 1, checkpoint.HIDDEN)
    assert torch.allclose(joined, expected, atol=1e-5)


def test_packed_videos_stand_in_order_whatever_their_lengths(lm: VideoLM) -> None:
    videos = [torch.full((length, 2), float(length)) for length in (3, 0, 1, 2)]
    packed = lm.family.pack(lm.core, videos)["mm_encoder_outputs"]["video"].pooler_output
    assert packed.shape == (1, 6, 2)
    assert packed[0, :, 0].tolist() == [3, 3, 3, 1, 2, 2]
    assert not lm.family.pack(lm.core, videos[1:2])
