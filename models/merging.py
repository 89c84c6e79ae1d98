"""A checkpoint with adapters merged into its weights: summed up in float32, rounded once, and only then to four bits.

A weight that was rounded lies on a point of a grid, and an update below half a step rounds back to that point. In
bfloat16 the steps near 0.02 are 1.2e-4, so that of adapters which are merged one after another each may be lost by
itself though their sum would not be. In NF4 steps are wider than most updates: of an adapter that is merged into such
weights between one and two hundredths survive. Merged first it survives whole on average, for weights that are not on
the grid yet lie at all distances from its steps. Shares in figures: docs/decisions.md, "Merged adapters".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from models.adapters import load_onto
from models.loading import load_checkpoint, quantised
from models.quantization import Quantization


def load_merged(
    name: str, revision: str | None, dtype: str, quantization: Quantization, device: str, folders: Sequence[Path]
) -> tuple[Any, Any]:
    """The transformers model, adapters merged in, and its processor.

    Where adapters are merged and `quantization` is on, all weights are in main memory for that time, in `dtype`, beside
    the adapters in float32: about 15 GB for 7B, in every worker that loads the model. Nothing is written to disk.

    Args:
        name: a local folder or a Hub id.
        revision: commit of a Hub id; None: its newest.
        dtype: torch dtype by name.
        quantization: what is done to the weights when all adapters are in them.
        device: where a quantised model is put; any other stays in main memory.
        folders: PEFT adapters, in order; with none it is models.loading.load_checkpoint.

    Raises:
        ValueError: as of models.loading.load_checkpoint; or an adapter does not fit.
    """
    later = quantization != "none" and bool(folders)
    model, processor = load_checkpoint(name, revision, dtype, quantization, device, later=later)
    if folders:
        model = _merged(model, folders)
    return quantised(model, quantization, device, dtype) if later else model, processor


@torch.no_grad()
def _merged(core: Any, folders: Sequence[Path]) -> Any:
    """The plain model, its weights changed in place; each is rounded to its dtype once, after all adapters."""
    model, names = core, [f"merged_{number}" for number in range(len(folders))]
    for name, folder in zip(names, folders, strict=True):
        model = load_onto(model, core, name, folder)
    for layer in (each for each in core.modules() if hasattr(each, "lora_A")):
        total = layer.base_layer.weight.float()
        for name in (each for each in names if each in layer.lora_A):
            total += layer.get_delta_weight(name)  # in order: in float32 the bits of merging one after another
        layer.base_layer.weight.copy_(total)
    return model.unload()
