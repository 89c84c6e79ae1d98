"""How each family of video models turns frames into visual tokens.

Everything above this file (prompts, sampling, log-probabilities, adapters, training) is the same for all families: the
tokens go into the model's own forward as `mm_encoder_outputs`, which transformers accepts from every family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

VideoFrames = npt.NDArray[np.uint8]


class Family(Protocol):
    """Frames in, visual tokens out.

    A family whose tower sees each frame alone (`per_frame`) is encoded once for all frames of a video; any selection
    of them is then joined without a second pass.
    """

    per_frame: bool

    def encode(self, model: Any, processor: Any, frames: VideoFrames) -> Tensor:
        """Visual tokens [F, P, D] of the frames uint8 [F, H, W, 3], RGB, after projector and pooling."""
        ...

    def join(self, model: Any, tokens: Tensor) -> Tensor:
        """The tokens [T, D] that replace one video placeholder, from selected frames' tokens [F, P, D]."""
        ...


class LlavaOnevision:
    """LLaVA-OneVision: each frame is pooled 2x2 after the projector; one newline token ends the video.

    https://github.com/huggingface/transformers/blob/main/src/transformers/models/llava_onevision
    """

    per_frame = True

    def encode(self, model: Any, processor: Any, frames: VideoFrames) -> Tensor:
        pixels = self.pixels(processor, frames)[None].to(model.device, model.dtype)
        return self.encode_pixels(model, pixels)

    def pixels(self, processor: Any, frames: VideoFrames) -> Tensor:
        """Resized and normalised frames [F, 3, h, w], float32."""
        video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        pixels: Tensor = processor.video_processor(videos=[video], return_tensors="pt")["pixel_values_videos"][0]
        return pixels

    def encode_pixels(self, model: Any, pixels: Tensor) -> Tensor:
        """Visual tokens [F, P, D] of normalised frames [1, F, 3, h, w]."""
        tokens: Tensor = model.get_video_features(pixels, return_dict=True).pooler_output[0, :-1]
        return tokens.view(pixels.shape[1], -1, tokens.shape[-1])

    def join(self, model: Any, tokens: Tensor) -> Tensor:
        newline = model.model.image_newline[None].to(tokens)
        return torch.cat([tokens.flatten(0, 1), newline])


FAMILIES: dict[str, Family] = {"llava_onevision": LlavaOnevision()}


def family_of(model_type: str) -> Family:
    """The family of a transformers `config.model_type`.

    Raises:
        ValueError: the family is not supported.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"Models of type {model_type!r} are not supported yet; supported: {', '.join(sorted(FAMILIES))}. "
            "Choose a checkpoint of one of these families."
        )
    return FAMILIES[model_type]


def pack(videos: Sequence[Tensor]) -> dict[str, Any]:
    """The keyword arguments that hand visual tokens to a model's forward.

    Args:
        videos: each video's joined tokens [T_i, D], in the order of the placeholders; lengths may differ, and a prompt
            of text alone has T_i = 0.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    tokens = torch.cat(list(videos))[None]
    if not tokens.numel():
        return {}  # Text alone: the model then runs its language model only.
    return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=tokens)}}
