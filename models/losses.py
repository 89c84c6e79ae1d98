"""The losses of RLAIF as pure functions of tensors.

Masks are 1 (or True) at tokens that count. Every reduction is a mean over the counted tokens of the batch, so padding
changes nothing and a batch of one sequence weighs each of its tokens like any other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` counts; both of one shape. NaN when nothing counts."""
    return (values * mask).sum() / mask.sum()


def next_token_loss(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the response tokens, from their log-probabilities [B, R] and mask [B, R]."""
    return -masked_mean(logprobs, mask)


def bradley_terry(chosen: Tensor, rejected: Tensor, centering: float = 0.0) -> Tensor:
    """-log sigmoid(r_chosen - r_rejected), plus a pull of the mean reward towards zero.

    The centring term is |mean(r_chosen + r_rejected)|, weighted 1e-3 in VLM-RLAIF: Bradley-Terry alone leaves the level
    of the rewards free.

    Args:
        chosen: rewards [N] of the preferred answers.
        rejected: rewards [N] of the others.
        centering: weight of the pull.

    Source: https://arxiv.org/abs/2402.03746 section 3 and the reward model of the code published with it.
    """
    return -logsigmoid(chosen - rejected).mean() + centering * (chosen + rejected).mean().abs()


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate: mean of max(-A rho, -A clip(rho, 1 - clip, 1 + clip)), rho = exp(new - old).

    Args:
        new: log-probabilities [B, R] under the policy that learns.
        old: log-probabilities [B, R] under the policy that sampled; no gradient.
        advantages: [B, R].
        mask: [B, R].
        clip: how far the ratio may move.

    Returns:
        The loss, and the share of tokens whose ratio was clipped.

    Source: https://arxiv.org/abs/1707.06347 equation 7.
    """
    ratio = (new - old).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    binding = (-advantages * clipped > -advantages * ratio).float()
    return masked_mean(loss, mask), masked_mean(binding, mask)


def value_loss(new: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half the mean of max((V - R)^2, (V_clipped - R)^2), V_clipped within `clip` of the value at sampling time.

    Args:
        new: values [B, R] of the critic that learns.
        old: values [B, R] when the answers were sampled; no gradient.
        returns: targets [B, R].
        mask: [B, R].
        clip: how far a value may move in one rollout; infinity switches clipping off.

    Source: https://arxiv.org/abs/2005.12729 section 3 (value function clipping).
    """
    clipped = old + (new - old).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((new - returns) ** 2, (clipped - returns) ** 2), mask)
