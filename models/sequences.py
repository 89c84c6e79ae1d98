"""Prompts, responses and the tensors they become: left-padded questions beside right-padded answers."""

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
    """Hidden states over left-padded prompts and right-padded responses.

    Attributes:
        states: [B, P + R, D].
        ids: tokens [B, P + R].
        mask: 1 at real tokens [B, P + R].
        start: P, the column of the first response token.
    """

    states: Tensor
    ids: Tensor
    mask: Tensor
    start: int

    @property
    def response_mask(self) -> Tensor:
        """True at response tokens [B, R]."""
        return self.mask[:, self.start :].bool()

    @property
    def before_response(self) -> Tensor:
        """The states [B, R, D] from which each response token is predicted."""
        return self.states[:, self.start - 1 : -1]

    @property
    def last(self) -> Tensor:
        """The state [B, D] at each sequence's last real token."""
        end = self.mask.shape[1] - 1 - self.mask.flip(1).argmax(1)
        return self.states[torch.arange(len(end), device=end.device), end]


def left_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token rows as one tensor [B, L] padded on the left, and its mask."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(row)
        mask[i, longest - len(row) :] = 1
    return ids, mask


def join_sides(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """Prompts padded on the left beside responses padded on the right: ids [B, P + R], mask, and P."""
    ids, mask = left_pad(prompts, pad)
    start = ids.shape[1]
    flipped, flipped_mask = left_pad([list(reversed(response)) for response in responses], pad)
    ids, mask = torch.cat([ids, flipped.flip(1)], 1), torch.cat([mask, flipped_mask.flip(1)], 1)
    return ids.to(device), mask.to(device), start
