"""Families whose video is a row of pictures with a line of text before each.

https://github.com/huggingface/transformers/tree/main/src/transformers/models: internvl and smolvlm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.families.base import Family, VideoFrames, as_video, square
from models.sequences import Footage


class InternVl(Family):
    """InternVL3: "Frame1: <img>...</img>", a line a frame."""

    modality: ClassVar[str] = "image"

    def encode(self, model: Any, processor: Any, frames: VideoFrames, of: int) -> tuple[Tensor, tuple[int, int]]:  # noqa: ARG002
        made = processor.video_processor(videos=[as_video(frames)], return_tensors="pt", do_sample_frames=False)
        pixels = made["pixel_values_videos"][0].to(model.device, model.dtype)
        tokens: Tensor = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        return tokens, square(tokens.shape[1])

    def unfold(self, processor: Any, shown: Footage, count: int) -> str:  # noqa: ARG002
        text: str = processor.replace_video_token({"pixel_values_videos": torch.empty(1, len(shown), 0)}, 0)
        return text


class SmolVlm(Family):
    """SmolVLM2: says how many frames there are and how long they last, then "Frame from 00:04:" before each."""

    modality: ClassVar[str] = "image"

    def encode(self, model: Any, processor: Any, frames: VideoFrames, of: int) -> tuple[Tensor, tuple[int, int]]:  # noqa: ARG002
        made = processor.video_processor(videos=[as_video(frames)], return_tensors="pt", do_sample_frames=False)
        pixels = made["pixel_values"].to(model.device, model.dtype)
        mask = made["pixel_attention_mask"].to(model.device)
        (features,) = model.model.get_image_features(pixels, mask, return_dict=True).pooler_output
        tokens: Tensor = features.view(len(frames), -1, features.shape[-1])
        return tokens, square(tokens.shape[1])

    def unfold(self, processor: Any, shown: Footage, count: int) -> str:  # noqa: ARG002
        from transformers.video_utils import VideoMetadata

        # At one frame a second, the number of a frame is its time.
        times = VideoMetadata(total_num_frames=len(shown), fps=1.0, frames_indices=list(shown.seconds))
        inputs = {"pixel_values": torch.empty(1, len(shown)), "video_metadata": [times]}
        text: str = processor.replace_video_token(inputs, 0)
        return text

    def output(self, model: Any, videos: Sequence[Tensor]) -> Any:  # noqa: ARG002
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=list(videos))
