"""Rewards a token, and how much better each token was than expected.

Tensors are [B, R]: B responses, padded on the right to R tokens. Masks are 1 at response tokens, end token included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.settings import GroupAdvantage, KlEstimator


def kl_per_token(logprobs: Tensor, reference: Tensor, estimator: KlEstimator) -> Tensor:
    """An estimate of KL(policy || reference) from sampled tokens, d = log policy - log reference.

    k1 is d: unbiased, often negative. k1_clamped is max(d, 0): the published VLM-RLAIF. k3 is exp(-d) - 1 + d:
    unbiased and never negative.

    Source: http://joschu.net/blog/kl-approx.html
    """
    difference = logprobs - reference
    if estimator == "k3":
        difference = difference.clamp(-20, 20)  # exp of more overflows
    if estimator == "k1":
        return difference
    if estimator == "k1_clamped":
        return difference.clamp(min=0)
    return (-difference).exp() - 1 + difference


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """-kl_coef * KL at every token; the response's score [B] is added at its last one."""
    rewards = -kl_coef * kl * mask
    last = mask.long().sum(1) - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def penalised(
    scores: Tensor, lengths: Tensor, finished: Tensor, *, limit: int, length_penalty: float, unfinished_penalty: float
) -> Tensor:
    """Scores [B] less what an answer loses for its length and for not ending.

    score + unfinished_penalty where it did not end + length_penalty * length / limit. Both are relative: they are added
    to the score and do not replace it.

    Args:
        scores: [B].
        lengths: tokens of each answer [B], its end token included.
        finished: [B], True where the answer ended by itself.
        limit: the token limit of answers.
        length_penalty: mostly negative; -10 in the code published with VLM-RLAIF (there called a bonus).
        unfinished_penalty: mostly negative; -8 there.

    Source: https://arxiv.org/abs/2402.03746 and the code published with it.
    """
    cut = (~finished.bool()).to(scores.dtype)
    return scores + unfinished_penalty * cut + length_penalty * lengths.to(scores.dtype) / limit


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation over each response.

    delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lam A_{t+1}; nothing follows the last token.

    Returns:
        advantages and returns (A + V), both [B, R] and 0 where masked.

    Source: https://arxiv.org/abs/1506.02438 equation 16.
    """
    mask = mask.to(rewards.dtype)
    values = values * mask
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        advantages[:, t] = following
        next_value = values[:, t]
    return advantages, (advantages + values) * mask


def whiten(values: Tensor, mask: Tensor, epsilon: float = 1e-8, *, shift_mean: bool = True) -> Tensor:
    """Scale to (population) variance 1 over the counted entries, around 0 or around their own mean; 0 elsewhere.

    Args:
        values: [B, R].
        mask: [B, R].
        epsilon: added to the variance.
        shift_mean: whether the mean becomes 0; else it stays what it was.
    """
    mask = mask.to(values.dtype)
    mean = (values * mask).sum() / mask.sum()
    variance = ((values - mean) ** 2 * mask).sum() / mask.sum()
    centred = (values - mean) * torch.rsqrt(variance + epsilon)
    return (centred if shift_mean else centred + mean) * mask


def group_advantages(scores: Tensor, kind: GroupAdvantage, epsilon: float = 1e-4) -> Tensor:
    """How much better each of a prompt's responses is than its group; holds for all of the response's tokens.

    grpo: (score - mean) / (deviation + epsilon), the deviation unbiased and epsilon 1e-4 as in TRL; verl adds 1e-6
    (https://arxiv.org/abs/2402.03300 section 4.1.2). dr_grpo: score - mean: dividing would weigh groups with little
    contrast most (https://arxiv.org/abs/2503.20783 section 3.1). rloo: score - mean of the others
    (https://arxiv.org/abs/2402.14740 section 2).

    Args:
        scores: [N, G], G responses to each of N prompts, G at least 2.
        kind: as above.
        epsilon: added to the deviation.

    Returns:
        [N, G]; each row sums to 0. A group whose scores are all equal gets 0.

    Raises:
        ValueError: a response stands alone.
    """
    size = scores.shape[1]
    if size < 2:
        raise ValueError("a response is compared with its group: sample at least 2 to each prompt")
    centred = scores - scores.mean(1, keepdim=True)
    centred = centred.masked_fill((scores == scores[:, :1]).all(1, keepdim=True), 0.0)  # rounding is no contrast
    if kind == "dr_grpo":
        return centred
    if kind == "rloo":
        return centred * size / (size - 1)
    return centred / (scores.std(1, keepdim=True) + epsilon)
