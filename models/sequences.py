"""Prompts, responses, and the tensors that they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Footage:
    """The frames that a prompt shows, as a family's tower saw them.

    A unit is a frame, or as many as the tower sees together.

    Attributes:
        tokens: visual tokens [U, P, C] of U units; C is the model's width, or some times that where several layers of
            the tower are kept.
        grid: rows and columns in which a unit's P tokens lie.
        seconds: when each unit was [U], from the video's beginning.
    """

    tokens: Tensor
    grid: tuple[int, int]
    seconds: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, units: Sequence[int] | slice) -> Footage:
        """A selection of the units."""
        numbers = list(range(len(self))[units] if isinstance(units, slice) else units)
        return Footage(self.tokens[numbers], self.grid, tuple(self.seconds[number] for number in numbers))


@dataclass(frozen=True)
class Prompt:
    """A tokenised question about one video, or about nothing but its own text.

    Attributes:
        ids: tokens [L]; as many of them as `visual` is long are places of visual tokens.
        visual: visual tokens [T, C] that replace those places, in order; T is 0 where no video is shown.
        positions: position [axes, L] of each token where a family counts them in time, row and column; None: they
            count up.
    """

    ids: tuple[int, ...]
    visual: Tensor
    positions: Tensor | None = None

    def placed(self, axes: int) -> Tensor:
        """The positions [axes, L] of the prompt's tokens; what follows counts up from the last one."""
        return torch.arange(len(self.ids)).expand(axes, -1) if self.positions is None else self.positions


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
