"""The paper's own model: LLaVA-1.5 that sees a video as T frames' means and S places' means.

VLM-RLAIF (ACL 2024), section 3 and its evaluation code; the pooling is that of Video-ChatGPT
(https://arxiv.org/abs/2306.05424): after the projector, so that it does not commute with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.families.base import Family, VideoFrames, as_video, square

TOWERS = ("clip_vision_model", "siglip_vision_model")


class VlmRlaif(Family):
    """LLaVA-1.5 with T frames of S patches in T + S tokens: 50 frames of 576 become 626."""

    modality: ClassVar[str] = "image"
    content: ClassVar[str] = "image"

    def check(self, config: Any) -> None:
        tower = config.vision_config.model_type
        if tower not in TOWERS:
            raise ValueError(
                f"A model of type 'llava' with a tower of type {tower!r} does not see frames of one size as LLaVA-1.5 "
                f"does; supported towers: {', '.join(TOWERS)}. Choose a LLaVA-1.5 checkpoint, or one of another family."
            )

    def encode(self, model: Any, processor: Any, frames: VideoFrames, of: int) -> tuple[Tensor, tuple[int, int]]:  # noqa: ARG002
        settings = processor.image_processor
        squares = pad_to_square(as_video(frames), settings.image_mean)
        pixels = settings(images=list(squares), return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
        features = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        tokens = torch.stack(list(features))
        return tokens, square(tokens.shape[1])

    def keep(self, tokens: Tensor, clips: Sequence[Sequence[int]]) -> tuple[Tensor, Sequence[Sequence[int]]]:
        """The means alone: tokens [U + S x clips, 1, D], U of the frames over their places, S of each clip's places.

        All tokens of 50 frames would be 236 MB in half precision; their means are 5.
        """
        count, places = tokens.shape[:2]
        over_time = [tokens[list(clip)].mean(0) for clip in clips]
        kept = torch.cat([tokens.mean(1), *over_time])[:, None]
        first = [count + places * number for number in range(len(clips))]
        return kept, [[*clip, *range(at, at + places)] for clip, at in zip(clips, first, strict=True)]

    def output(self, model: Any, videos: Sequence[Tensor]) -> Any:  # noqa: ARG002
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=list(videos))

    def placeholder(self, processor: Any) -> str:
        token: str = processor.image_token
        return token


def pad_to_square(frames: Tensor, mean: list[float]) -> Tensor:
    """Frames [F, 3, N, N] in the middle of squares of the tower's mean colour, from uint8 [F, 3, H, W]."""
    height, width = frames.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    fill = torch.tensor([int(255 * value) for value in mean], dtype=frames.dtype)
    canvas = fill[None, :, None, None].expand(len(frames), -1, side, side).clone()
    canvas[..., top : top + height, left : left + width] = frames
    return canvas
