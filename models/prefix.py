"""Where sampling begins: a prompt, with its video, is computed once for all of the answers that are drawn to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.families import Family
from models.sequences import Prompt, left_pad


@dataclass(frozen=True)
class Start:
    """What a model's `generate` is called with.

    Attributes:
        inputs: tokens [B x n, L], their mask, and the state of all but their last ones.
        length: L, of the padded prompts.
        tokens: tokens that were computed to come here.
    """

    inputs: dict[str, Any]
    length: int
    tokens: int


def begin(model: Any, family: Family, prompts: Sequence[Prompt], pad: int, n: int) -> Start:
    """The beginning of `n` answers to each of B prompts, side by side.

    With several answers a prompt, all of its tokens but the last go through the model once; the keys and values that
    they leave are then shared out. `generate` computes the last one for each answer.
    """
    ids, mask = left_pad([prompt.ids for prompt in prompts], pad)
    ids, mask = ids.to(model.device), mask.to(model.device)
    visual = family.pack(model, [prompt.visual for prompt in prompts])
    positions = _positions(prompts, mask, family.axes)
    placed = {} if positions is None else {"position_ids": positions}
    tokens = int(mask.sum())
    if n == 1:
        return Start({"input_ids": ids, "attention_mask": mask, **placed, **visual}, ids.shape[1], tokens)
    counted = (mask.cumsum(-1) - 1).clamp(min=0)
    state = model.model(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=(counted if positions is None else positions)[..., :-1],
        use_cache=True,
        **visual,
    ).past_key_values
    state.batch_repeat_interleave(n)
    inputs = {
        "input_ids": ids.repeat_interleave(n, 0),
        "attention_mask": mask.repeat_interleave(n, 0),
        **{name: each.repeat_interleave(n, -2) for name, each in placed.items()},
        "past_key_values": state,
    }
    return Start(inputs, ids.shape[1], tokens + len(prompts) * (n - 1))


def _positions(prompts: Sequence[Prompt], mask: Tensor, axes: int) -> Tensor | None:
    """Positions [1 + axes, B, L] of left-padded prompts, the count of tokens first; None where that count is all."""
    if axes == 1:
        return None
    positions = torch.zeros(1 + axes, *mask.shape, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        placed = prompt.placed(axes)
        counted = torch.arange(placed.shape[1])[None]
        positions[:, row, mask.shape[1] - placed.shape[1] :] = torch.cat([counted, placed])
    return positions.to(mask.device)
