"""The losses of RLAIF as pure functions of tensors.

Masks are 1 (or True) at tokens that count. Losses of tokens become one number by a `Reduction`, by default the mean
over the counted tokens of the batch: padding changes nothing. Losses of pairs are means over the pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from models.reductions import PER_TOKEN, Reduction

LARGEST_LOG_RATIO = 20.0


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` counts; both of one shape. NaN when nothing counts."""
    return (values * mask).sum() / mask.sum()


def next_token_loss(logprobs: Tensor, mask: Tensor, reduction: Reduction = PER_TOKEN) -> Tensor:
    """Cross-entropy of the response tokens, from their log-probabilities [B, R] and mask [B, R]."""
    return -reduction(logprobs, mask)


def bradley_terry(
    chosen: Tensor,
    rejected: Tensor,
    centering: float = 0.0,
    margin: Tensor | None = None,
    preference: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the labels under P(chosen beats rejected) = sigmoid(r_chosen - r_rejected - margin).

    The centring term is |mean(r_chosen + r_rejected)|, weighted 1e-3 in VLM-RLAIF: Bradley-Terry alone leaves the level
    of the rewards free.

    Args:
        chosen: rewards [N] of the preferred answers.
        rejected: rewards [N] of the others.
        centering: weight of the pull of the mean reward towards zero.
        margin: by how much [N] the chosen is to lead (Llama 2, https://arxiv.org/abs/2307.09288 equation 2); None: 0.
        preference: soft labels [N], the probability that `chosen` is the better, from the judge's p(A); None: 1.

    Source: https://arxiv.org/abs/2402.03746 section 3 and the reward model of the code published with it.
    """
    lead = chosen - rejected if margin is None else chosen - rejected - margin
    won = -logsigmoid(lead)
    loss = won if preference is None else preference * won - (1 - preference) * logsigmoid(-lead)
    return loss.mean() + centering * (chosen + rejected).mean().abs()


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Direct preference optimisation: Bradley-Terry on implicit rewards beta (log policy - log reference).

    Args:
        chosen: log-probabilities [N] of the preferred answers under the policy, summed over their tokens.
        rejected: those of the others.
        reference_chosen: log-probabilities [N] under the reference; no gradient.
        reference_rejected: those of the others.
        beta: how strongly the policy is held to the reference, reward units a nat.
        label_smoothing: probability that a label is wrong (conservative DPO); 0: the labels are believed.

    Returns:
        The loss, and the implicit rewards' margin [N], chosen less rejected; no gradient.

    Source: https://arxiv.org/abs/2305.18290 equation 7; smoothing: https://ericmitchell.ai/cdpo.pdf.
    """
    margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    loss = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    return loss.mean(), margin.detach()


def policy_loss(
    new: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    reduction: Reduction = PER_TOKEN,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate: mean of max(-A rho, -A clip(rho, 1 - clip, 1 + clip)), rho = exp(new - old).

    Args:
        new: log-probabilities [B, R] under the policy that learns.
        old: log-probabilities [B, R] under the policy that sampled; no gradient.
        advantages: [B, R].
        mask: [B, R].
        clip: how far the ratio may move.
        reduction: how tokens become one number.

    Returns:
        The loss, and the share of the counted tokens of this part whose ratio was clipped.

    Source: https://arxiv.org/abs/1707.06347 equation 7.
    """
    # Padding may hold anything: its ratio is 1. One beyond e^20 is cut before it overflows and its gradient is NaN.
    ratio = (new - old).masked_fill(~mask.bool(), 0.0).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    binding = (-advantages * clipped > -advantages * ratio).float()
    return reduction(loss, mask), masked_mean(binding, mask)


def value_loss(
    new: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float, reduction: Reduction = PER_TOKEN
) -> Tensor:
    """Half the mean of max((V - R)^2, (V_clipped - R)^2), V_clipped within `clip` of the value at sampling time.

    Args:
        new: values [B, R] of the critic that learns.
        old: values [B, R] when the answers were sampled; no gradient.
        returns: targets [B, R].
        mask: [B, R].
        clip: how far a value may move in one rollout; infinity switches clipping off.
        reduction: how tokens become one number.

    Source: https://arxiv.org/abs/2005.12729 section 3 (value function clipping).
    """
    clipped = old + (new - old).clamp(-clip, clip)
    return 0.5 * reduction(torch.maximum((new - returns) ** 2, (clipped - returns) ** 2), mask)


def entropy(logits: Tensor) -> Tensor:
    """Entropy [...] in nats of the distributions that logits [..., V] give; a token of logit -inf adds nothing."""
    logprobs = logits.log_softmax(-1)
    probabilities = logprobs.exp()
    # Masked before the product: 0 x -inf would be NaN in the gradient.
    return -(probabilities * logprobs.masked_fill(probabilities == 0, 0.0)).sum(-1)
