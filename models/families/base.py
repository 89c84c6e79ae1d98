"""What a family does, and how it is done by those whose video is one run of placeholders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.sequences import Footage

VideoFrames = npt.NDArray[np.uint8]


class Family(ABC):
    """Frames in, visual tokens out.

    A tower sees a **unit** of frames at a time: one, or a pair where it folds time. What it makes of a unit depends on
    no other, so a video's units are encoded once and any selection of them is a prompt.

    Attributes:
        modality: under which name the model's forward takes the tokens.
        content: what a video is called in the chat template.
        axes: of a position: 1, or 3 (time, row, column) for families with multi-dimensional rotary positions.
    """

    modality: ClassVar[str] = "video"
    content: ClassVar[str] = "video"
    axes: ClassVar[int] = 1

    def check(self, config: Any) -> None:  # noqa: B027 - most families have nothing to refuse
        """Raises ValueError for a checkpoint of this type that cannot be driven as the family is."""

    def unit(self, processor: Any) -> int:  # noqa: ARG002 - those that fold time read it from their processor
        """Frames that the tower sees together."""
        return 1

    def units(self, processor: Any, frames: Sequence[int]) -> list[tuple[int, ...]]:
        """The units of a clip, as numbers of its frames; the last frame fills up a unit that is not full."""
        size = self.unit(processor)
        filled = [*frames, *[frames[-1]] * (-len(frames) % size)]
        return [tuple(filled[start : start + size]) for start in range(0, len(filled), size)]

    @abstractmethod
    def encode(self, model: Any, processor: Any, frames: VideoFrames, of: int) -> tuple[Tensor, tuple[int, int]]:
        """What the tower and the projector make of frames.

        Args:
            model: the transformers model.
            processor: its processor.
            frames: uint8 [F, H, W, 3], RGB, whole units one behind another.
            of: frames of the longest clip that prompts show; some families choose their resolution by it.

        Returns:
            Tokens [U, P, C] of the units, and the grid (rows, columns) of a unit's P places.
        """

    def keep(self, tokens: Tensor, clips: Sequence[Sequence[int]]) -> tuple[Tensor, Sequence[Sequence[int]]]:
        """What of a video's tokens is worth keeping.

        Args:
            tokens: [U, P, C] of its units.
            clips: the units that each clip shows.

        Returns:
            Tokens [N, P', C] and which of the N each clip shows.
        """
        return tokens, clips

    def join(self, model: Any, shown: Footage) -> Tensor:  # noqa: ARG002 - some add a token of the model's own
        """The tokens [T, C] that stand for a video in a prompt."""
        return shown.tokens.flatten(0, 1)

    def placeholder(self, processor: Any) -> str:
        """What stands for a video in the chat template."""
        token: str = processor.video_token
        return token

    def unfold(self, processor: Any, shown: Footage, count: int) -> str:  # noqa: ARG002 - some write more than places
        """What the placeholder becomes: `count` places of visual tokens, and what a family writes between them."""
        return self.placeholder(processor) * count

    def places(self, config: Any) -> set[int]:
        """The tokens that visual tokens replace, in the model's configuration."""
        named = (getattr(config, name, None) for name in ("video_token_id", "image_token_id"))
        return {token for token in named if token is not None}

    def positions(self, model: Any, ids: Tensor, shown: Footage) -> Tensor | None:  # noqa: ARG002
        """Positions [axes, L] of a prompt's tokens [L]; None: they count up."""
        return None

    def pack(self, model: Any, videos: Sequence[Tensor]) -> dict[str, Any]:
        """The keyword arguments that hand visual tokens to a model's forward.

        Args:
            model: the transformers model.
            videos: each prompt's tokens [T_i, C], in the order of the prompts; T_i is 0 for a prompt of text alone.
        """
        filled = [video.to(model.device) for video in videos if len(video)]
        if not filled:
            return {}  # Text alone: the model then runs its language model only.
        return {"mm_encoder_outputs": {self.modality: self.output(model, filled)}}

    def output(self, model: Any, videos: Sequence[Tensor]) -> Any:  # noqa: ARG002 - some split what they kept
        """What the model's own `get_video_features` gives for these videos' tokens [T_i, C]."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=torch.cat(list(videos))[None])


def as_video(frames: VideoFrames) -> Tensor:
    """uint8 [F, 3, H, W] of frames [F, H, W, 3]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)


def square(places: int) -> tuple[int, int]:
    """The grid of P places that lie in a square; one row where they do not."""
    side = int(places**0.5)
    return (side, side) if side * side == places else (1, places)
