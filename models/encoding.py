"""A video's frames through the vision tower, each once, whatever the number of clips that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from models.families import VideoFrames
from models.sequences import Footage

if TYPE_CHECKING:
    from models.video_lm import VideoLM


@dataclass(frozen=True)
class Encoded:
    """What is kept of a video.

    Attributes:
        tokens: visual tokens [N, P, C].
        grid: rows and columns in which the P tokens of one of the N lie.
        clips: which of the N a clip shows, in order.
        seconds: when each unit of each clip was.
    """

    tokens: Tensor
    grid: tuple[int, int]
    clips: Sequence[Sequence[int]]
    seconds: Sequence[Sequence[float]]

    def shown(self, clip: int) -> Footage:
        """One of the clips, as a prompt shows it."""
        return Footage(self.tokens[list(self.clips[clip])], self.grid, tuple(self.seconds[clip]))


@torch.no_grad()
def encode_clips(
    lm: VideoLM,
    frames: VideoFrames,
    clips: Sequence[Sequence[int]],
    times: Sequence[float],
    batch_frames: int,
) -> Encoded:
    """Encode the frames that clips show; a unit of frames that several clips share goes through the tower once.

    Args:
        lm: the model.
        frames: uint8 [F, H, W, 3], RGB.
        clips: numbers of frames, in order, of each clip.
        times: seconds [F] of the frames.
        batch_frames: frames that go through the tower together, at least one unit.

    Returns:
        The tokens, in the model's dtype, on the CPU.

    Raises:
        ValueError: the frames have no pixels.
    """
    if 0 in frames.shape:
        raise ValueError(f"Frames of shape {frames.shape} have no pixels; look at the video and at frames.max_side.")
    family, processor = lm.family, lm.processor
    cut = [family.units(processor, clip) for clip in clips]
    units = sorted({unit for clip in cut for unit in clip})
    number = {unit: place for place, unit in enumerate(units)}
    longest = max(map(len, clips))
    size = max(1, batch_frames // family.unit(processor))
    parts: list[Tensor] = []
    grid = (1, 1)
    for start in range(0, len(units), size):
        chosen = [frame for unit in units[start : start + size] for frame in unit]
        tokens, grid = lm.tower(frames[chosen], longest)
        parts.append(tokens.cpu())
    shown = [[number[unit] for unit in clip] for clip in cut]
    kept, rows = family.keep(torch.cat(parts).contiguous(), shown)
    return Encoded(
        kept, grid, rows, [[sum(times[frame] for frame in unit) / len(unit) for unit in clip] for clip in cut]
    )


def blank_like(lm: VideoLM, shown: Footage, size: int = 64) -> Footage:
    """A black video of `size` x `size` pixels with as many frames as another."""
    count = len(shown.seconds) * lm.family.unit(lm.processor)
    return lm.encode(np.zeros((count, size, size, 3), dtype=np.uint8))
