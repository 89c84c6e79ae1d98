"""Prompts, responses, and the tensors that they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """A tokenised question about one video, or about nothing but its own text.

    Attributes:
        ids: tokens; the video placeholder is as long as `visual`.
        visual: visual tokens [T, D] that replace the placeholder; T is 0 where no video is shown.
    """

    ids: tuple[int, ...]
    visual: Tensor


@dataclass(frozen=True)
class Response:
    """One sampled answer.

    Attributes:
        ids: tokens, with the end token when there is one.
        text: the answer without special tokens.
        finished: whether it ended by itself; False when the token limit cut it.
        logprobs: log-probability of each token when it was sampled, at the temperature used; empty when not asked for.
    """

    ids: tuple[int, ...]
    text: str
    finished: bool
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Hidden:
    """Last hidden states at B responses of at most R tokens.

    Attributes:
        before_response: the states [B, R, D] from which each response token is predicted.
        last: the state [B, D] at each response's last token.
        ids: the responses' tokens [B, R].
        response_mask: True at them [B, R].
    """

    before_response: Tensor
    last: Tensor
    ids: Tensor
    response_mask: Tensor


def left_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token rows as one tensor [B, L] padded on the left, and its mask."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(row)
        mask[i, longest - len(row) :] = 1
    return ids, mask
