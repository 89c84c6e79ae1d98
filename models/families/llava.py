"""The LLaVA families that know video: each frame goes through the tower alone and is pooled by itself.

https://github.com/huggingface/transformers/tree/main/src/transformers/models: llava_onevision, llava_next_video and
video_llava.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.families.base import Family, VideoFrames, as_video, square
from models.sequences import Footage


class LlavaOnevision(Family):
    """LLaVA-OneVision: each frame is pooled 2x2 after the projector; one newline token ends the video."""

    def encode(self, model: Any, processor: Any, frames: VideoFrames, of: int) -> tuple[Tensor, tuple[int, int]]:  # noqa: ARG002
        pixels = self.pixels(processor, frames)[None].to(model.device, model.dtype)
        tokens = self.encode_pixels(model, pixels)
        return tokens, square(tokens.shape[1])

    def pixels(self, processor: Any, frames: VideoFrames) -> Tensor:
        """Resized and normalised frames [F, 3, h, w], float32."""
        made = processor.video_processor(videos=[as_video(frames)], return_tensors="pt", do_sample_frames=False)
        pixels: Tensor = made["pixel_values_videos"][0]
        return pixels

    def encode_pixels(self, model: Any, pixels: Tensor) -> Tensor:
        """Visual tokens [F, P, D] of normalised frames [1, F, 3, h, w]."""
        tokens: Tensor = model.get_video_features(pixels, return_dict=True).pooler_output[0, :-1]
        return tokens.view(pixels.shape[1], -1, tokens.shape[-1])

    def join(self, model: Any, shown: Footage) -> Tensor:
        newline = model.model.image_newline[None].to(shown.tokens)
        return torch.cat([shown.tokens.flatten(0, 1), newline])


class LlavaNextVideo(Family):
    """LLaVA-NeXT-Video: each frame is pooled by a stride of 2 before the projector."""

    def encode(self, model: Any, processor: Any, frames: VideoFrames, of: int) -> tuple[Tensor, tuple[int, int]]:  # noqa: ARG002
        tokens = _features(model, processor, frames).view(len(frames), -1, model.config.get_text_config().hidden_size)
        return tokens, square(tokens.shape[1])

    def output(self, model: Any, videos: Sequence[Tensor]) -> Any:  # noqa: ARG002
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=[video[None] for video in videos])


class VideoLlava(Family):
    """Video-LLaVA: every patch of a frame is a token, the class token too."""

    def encode(self, model: Any, processor: Any, frames: VideoFrames, of: int) -> tuple[Tensor, tuple[int, int]]:  # noqa: ARG002
        tokens = _features(model, processor, frames)
        return tokens, (1, tokens.shape[1])


def _features(model: Any, processor: Any, frames: VideoFrames) -> Tensor:
    made = processor.video_processor(videos=[as_video(frames)], return_tensors="pt", do_sample_frames=False)
    pixels = made["pixel_values_videos"].to(model.device, model.dtype)
    features: Tensor = model.model.get_video_features(pixels, return_dict=True).pooler_output
    return features
