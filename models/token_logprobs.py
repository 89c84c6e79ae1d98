"""Log-probabilities and entropies of answers' tokens without the logits of all of them at once.

The logits of a batch are [B, R, V] numbers: with a vocabulary of 152,000 a thousand tokens take 600 MB, several times
over with the softmax and its gradient. Here only real tokens count, a few at a time; their logits are gone before the
next ones are made, and the backward pass computes them again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.losses import entropy

# States [n, D] -> float32 logits [n, V]; tokens that are never sampled are far below all others.
LogitsOf = Callable[[Tensor], Tensor]

LARGEST = 2**25  # Logits that are held at once: 128 MiB in float32, and a few copies of that.


def chunk_of(vocabulary: int) -> int:
    """How many tokens' logits are held at once."""
    return max(1, LARGEST // vocabulary)


def picked_logprobs(
    states: Tensor, ids: Tensor, mask: Tensor, logits_of: LogitsOf, *, temperature: float, chunk: int
) -> Tensor:
    """Log-probability of each token [B, R], 0 where masked.

    Args:
        states: hidden states [B, R, D] from which the tokens are predicted; what is masked may hold anything.
        ids: the tokens [B, R].
        mask: True at those that count [B, R].
        logits_of: the output layer.
        temperature: by which logits are divided.
        chunk: tokens whose logits are held at once.
    """

    def measure(some: Tensor, tokens: Tensor) -> Tensor:
        logprobs = (logits_of(some) / temperature).log_softmax(-1)
        return logprobs.gather(-1, tokens[:, None])[:, 0]

    return _at_tokens(measure, states, ids, mask, chunk)


def entropies(states: Tensor, mask: Tensor, logits_of: LogitsOf, *, temperature: float, chunk: int) -> Tensor:
    """Entropy [B, R] in nats of what each token is drawn from, 0 where masked. Arguments as of `picked_logprobs`."""

    def measure(some: Tensor, _: Tensor) -> Tensor:
        return entropy(logits_of(some) / temperature)

    return _at_tokens(measure, states, mask, mask, chunk)


def _at_tokens(
    measure: Callable[[Tensor, Tensor], Tensor], states: Tensor, ids: Tensor, mask: Tensor, chunk: int
) -> Tensor:
    """`measure(states [n, D], ids [n]) -> [n]` of the tokens that count, as [B, R]."""
    parts = list(zip(states[mask].split(chunk), ids[mask].split(chunk), strict=True))
    if len(parts) > 1 and torch.is_grad_enabled():
        found = [checkpoint(measure, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    else:  # One chunk takes no more than a chunk either way.
        found = [measure(*part) for part in parts]
    values = torch.cat(found)
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)
