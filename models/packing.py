"""Answers to one prompt in one row: the prompt, with its video, is computed once for all of them.

A row holds a prompt and, behind it, every answer to it. Each answer sees the prompt and itself, and its positions go on
from the prompt's, so that it gets what it would get in a row of its own; only the work is less. Gradients flow as they
would: the prompt's are the sum over its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.sequences import Prompt


@dataclass(frozen=True)
class Packed:
    """B answers in N rows of at most L tokens; R is the longest answer.

    Attributes:
        prompts: each row's prompt.
        ids: tokens [N, L], padded on the right.
        mask: 1 at real tokens [N, L].
        positions: of a token in its prompt and answer: [N, L], or [axes, N, L] where a family has several axes.
        segments: [N, L]: 0 for the prompt, k for its k-th answer, -1 for padding.
        row: each answer's row [B].
        before: columns [B, R] of the states from which an answer's tokens are predicted, 0 where masked.
        last: column [B] of each answer's last token.
        response_ids: the answers' tokens [B, R].
        response_mask: True at them [B, R].
    """

    prompts: list[Prompt]
    ids: Tensor
    mask: Tensor
    positions: Tensor
    segments: Tensor
    row: Tensor
    before: Tensor
    last: Tensor
    response_ids: Tensor
    response_mask: Tensor

    @property
    def shared(self) -> bool:
        """Whether any row holds more than one answer."""
        return len(self.row) > len(self.prompts)

    def attention(self, dtype: torch.dtype) -> Tensor:
        """The attention mask of a forward: `mask`, or, where rows are shared, [N, 1, L, L] to add to the scores."""
        if not self.shared:
            return self.mask
        queries, keys = self.segments[:, :, None], self.segments[:, None, :]
        length = self.ids.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        seen = before & ((keys == 0) | (keys == queries))  # Padding sees its prompt: softmax of nothing is no number.
        added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return added.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def takes_any_attention(text: Any, window: int) -> bool:
    """Whether a language model takes an attention mask of its own for every pair of tokens.

    Flash attention takes none. A layer whose attention slides would take it in the place of its own, and see all of a
    prompt where it is to see its last tokens.

    Args:
        text: configuration of the language model.
        window: tokens that it was made for; attention that slides over as many does not slide.
    """
    if text._attn_implementation not in ("sdpa", "eager"):
        return False
    slides = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or ["full_attention" if slides is None else "sliding_attention"]
    fitting = {"full_attention"} if slides is None or slides < window else {"full_attention", "sliding_attention"}
    return set(kinds) <= fitting


def pack_answers(
    prompts: Sequence[Prompt],
    responses: Sequence[Sequence[int]],
    pad: int,
    device: torch.device,
    *,
    share: bool = True,
    axes: int = 1,
) -> Packed:
    """Rows of prompts with their answers.

    Args:
        prompts: one an answer; those that are the same object share a row.
        responses: the answers' tokens, at least one each.
        pad: token that fills up.
        device: where the tensors are made.
        share: False: a row an answer all the same.
        axes: of a position.

    Raises:
        ValueError: an answer has no tokens.
    """
    if not all(map(len, responses)):
        raise ValueError("An answer without tokens has nothing to compute; each ends with the end token at least.")
    answers: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        answers.setdefault(id(prompt) if share else number, []).append(number)
    rows: list[list[tuple[int, int]]] = []  # Token and segment.
    row, first = [0] * len(prompts), [0] * len(prompts)
    for place, group in enumerate(answers.values()):
        head = prompts[group[0]].ids
        tokens = [(token, 0) for token in head]
        for segment, number in enumerate(group, start=1):
            row[number], first[number] = place, len(tokens)
            tokens += [(token, segment) for token in responses[number]]
        rows.append(tokens)
    length, width = max(map(len, rows)), max(map(len, responses))
    filled = torch.tensor([tokens + [(pad, -1)] * (length - len(tokens)) for tokens in rows], device=device)
    sizes = torch.tensor([len(response) for response in responses], device=device)
    starts = torch.tensor(first, device=device)
    steps = torch.arange(width, device=device)
    mask = steps < sizes[:, None]
    before = torch.where(mask, starts[:, None] + steps - 1, 0)
    before[:, 0] = torch.tensor([len(prompt.ids) - 1 for prompt in prompts], device=device)  # of the prompt's end
    padded = [[*response, *[pad] * (width - len(response))] for response in responses]
    return Packed(
        prompts=[prompts[group[0]] for group in answers.values()],
        ids=filled[..., 0],
        mask=(filled[..., 1] >= 0).long(),
        positions=_positions(prompts, responses, list(answers.values()), axes, length).to(device),
        segments=filled[..., 1],
        row=torch.tensor(row, device=device),
        before=before,
        last=starts + sizes - 1,
        response_ids=torch.tensor(padded, device=device),
        response_mask=mask,
    )


def _positions(
    prompts: Sequence[Prompt],
    responses: Sequence[Sequence[int]],
    groups: Sequence[Sequence[int]],
    axes: int,
    length: int,
) -> Tensor:
    """Positions [N, L], or [axes, N, L] for several axes; each answer counts on from the end of its prompt."""
    positions = torch.zeros(axes, len(groups), length, dtype=torch.long)
    for place, group in enumerate(groups):
        head = prompts[group[0]].placed(axes)
        answers = [torch.arange(len(responses[number])) + head[:, -1:] + 1 for number in group]
        row = torch.cat([head, *answers], dim=1)
        positions[:, place, : row.shape[1]] = row
    return positions[0] if axes == 1 else positions
