"""The Qwen-VL families: two frames make one unit, any resolution, positions in time, row and column.

https://github.com/huggingface/transformers/tree/main/src/transformers/models: qwen2_vl, qwen2_5_vl and qwen3_vl.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from models.families.base import Family, VideoFrames, as_video
from models.sequences import Footage

VIDEO = 2  # What `mm_token_type_ids` calls a video's place; text is 0.


class Qwen2Vl(Family):
    """Qwen2-VL. The tower sees the units of a video apart, its resolution follows the size of the frames."""

    axes: ClassVar[int] = 3

    def unit(self, processor: Any) -> int:
        return int(processor.video_processor.temporal_patch_size)

    def encode(self, model: Any, processor: Any, frames: VideoFrames, of: int) -> tuple[Tensor, tuple[int, int]]:
        # The resolution depends on the number of frames: always that of the longest clip, so that units fit together.
        unit, merge = self.unit(processor), processor.video_processor.merge_size
        longest = of + -of % unit
        parts = [_patched(processor, frames[at : at + longest], longest) for at in range(0, len(frames), longest)]
        _, (rows, columns) = parts[0]
        units = -(-len(frames) // unit)
        grid = torch.tensor([[units, rows, columns]], device=model.device)
        patches = torch.cat([each for each, _ in parts])[: units * rows * columns]
        return self.features(model, patches.to(model.device, model.dtype), grid), (rows // merge, columns // merge)

    def features(self, model: Any, pixels: Tensor, grid: Tensor) -> Tensor:
        """Tokens [U, P, C] of the patches of one video with its grid [1, 3] (units, rows, columns)."""
        (tokens,) = model.get_video_features(pixels, grid, return_dict=True).pooler_output
        return tokens.view(int(grid[0, 0]), -1, tokens.shape[-1])  # type: ignore[no-any-return]

    def positions(self, model: Any, ids: Tensor, shown: Footage) -> Tensor | None:
        kinds = (ids == model.config.video_token_id)[None].int() * VIDEO
        found, _ = model.model.get_rope_index(
            ids[None], mm_token_type_ids=kinds, video_grid_thw=_patches(model, shown), **self.timing(shown)
        )
        return behind_the_video(found[:, 0], ids == model.config.video_token_id)

    def timing(self, shown: Footage) -> dict[str, Any]:  # noqa: ARG002 - the first generation does not tell the time
        """What positions depend on beside the grid."""
        return {}

    def output(self, model: Any, videos: Sequence[Tensor]) -> Any:  # noqa: ARG002
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=list(videos))


class Qwen25Vl(Qwen2Vl):
    """Qwen2.5-VL: positions in time follow the seconds between units."""

    def timing(self, shown: Footage) -> dict[str, Any]:
        if len(shown) == 1:
            return {}
        return {"second_per_grid_ts": [(shown.seconds[-1] - shown.seconds[0]) / (len(shown) - 1)]}


class Qwen3Vl(Qwen2Vl):
    """Qwen3-VL: "<0.5 seconds>" before each unit, and features of several layers of the tower.

    A place holds the features for the embedding and, behind them, those that the language model's first layers add.
    """

    def features(self, model: Any, pixels: Tensor, grid: Tensor) -> Tensor:
        made = model.get_video_features(pixels, grid, return_dict=True)
        levels = [made.pooler_output, *made.deepstack_features]
        tokens = torch.cat([torch.cat(list(level)) for level in levels], -1)
        return tokens.view(int(grid[0, 0]), -1, tokens.shape[-1])

    def unfold(self, processor: Any, shown: Footage, count: int) -> str:  # noqa: ARG002
        from transformers.video_utils import VideoMetadata

        merge, unit = processor.video_processor.merge_size, self.unit(processor)
        # At one frame a second, the number of a frame is its time; a unit is told at the mean of its frames.
        times = [second for second in shown.seconds for _ in range(unit)]
        inputs = {
            "video_grid_thw": torch.tensor([[len(shown), shown.grid[0] * merge, shown.grid[1] * merge]]),
            "video_metadata": [VideoMetadata(total_num_frames=len(times), fps=1.0, frames_indices=times)],
        }
        text: str = processor.replace_video_token(inputs, 0)
        return text

    def output(self, model: Any, videos: Sequence[Tensor]) -> Any:
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        width = model.config.get_text_config().hidden_size
        first, *deeper = zip(*(video.split(width, -1) for video in videos), strict=True)
        return BaseModelOutputWithDeepstackFeatures(pooler_output=list(first), deepstack_features=deeper)


def _patched(processor: Any, frames: VideoFrames, of: int) -> tuple[Tensor, tuple[int, int]]:
    """Patches of at most `of` frames at the resolution that `of` frames have, and the rows and columns of a frame.

    Behind the patches of the frames there may be those of frames that fill up.
    """
    filled = np.concatenate([frames, np.repeat(frames[-1:], of - len(frames), axis=0)])
    made = processor.video_processor(
        videos=[as_video(filled)], return_tensors="pt", do_sample_frames=False, cap_pixels_per_frame=True
    )
    _, rows, columns = made["video_grid_thw"][0].tolist()
    return made["pixel_values_videos"], (rows, columns)


def behind_the_video(positions: Tensor, video: Tensor) -> Tensor:
    """Positions [3, L] whose text after the video begins one after the largest that the video has.

    So the weights were trained (https://arxiv.org/abs/2409.12191, section 2.1). transformers 5.23 goes on after the
    video's rows and columns, in the middle of its time where that is longer.

    Args:
        positions: [3, L].
        video: True [L] at the video's places.
    """
    end = int(video.nonzero()[-1]) + 1
    gap = positions[:, :end].max() + 1 - positions[0, end]
    return torch.cat([positions[:, :end], positions[:, end:] + gap], dim=1)


def _patches(model: Any, shown: Footage) -> Tensor:
    merge = model.config.vision_config.spatial_merge_size
    return torch.tensor([[len(shown), shown.grid[0] * merge, shown.grid[1] * merge]], device=shown.tokens.device)
