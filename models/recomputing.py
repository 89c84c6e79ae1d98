"""Gradient checkpointing: a layer keeps its input for the backward pass and computes everything else again there.

https://arxiv.org/abs/1604.06174. Numbers stay what they are; a step takes a third more time and much less memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """In the block, forwards with gradients keep only the inputs of the language model's layers.

    The layers have it built in, but only while they train (`training`), where they refuse caches and dropout is on.
    Here models are never switched to training: it is asked of the layers alone, not of what is in them, and taken back
    at once, so that sampling is as it was. Adapters must not be switched between a forward and its backward, which
    computes with those that are on.

    Args:
        model: a transformers model whose `language_model` is made of GradientCheckpointingLayer.
    """
    if not torch.is_grad_enabled():
        yield
        return
    layers = layers_of(model)
    for layer in layers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        layer.gradient_checkpointing = layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False


def layers_of(model: Any) -> list[Any]:
    """The language model's layers.

    Raises:
        ValueError: it has none that can be computed again.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [
        module
        for name, module in model.named_modules()
        if re.search(r"\b(language|text)_model\b", name) and isinstance(module, GradientCheckpointingLayer)
    ]
    if not layers:
        raise ValueError(
            f"models.gradient_checkpointing: {type(model).__name__} has no layers in its language model that can be "
            "computed again; set it to false."
        )
    return layers
