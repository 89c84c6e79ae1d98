"""Random tensors over responses of different lengths."""

import torch
from torch import Tensor


def ragged(seed: int, rows: int = 3, width: int = 5) -> tuple[list[Tensor], Tensor]:
    """Three random float64 tensors [rows, width] and a right-padded mask."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(3)]
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    return tensors, torch.arange(width) < lengths[:, None]
