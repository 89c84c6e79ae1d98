"""Advantages from ranks alone: GRPO_rank of Oracle-RLAIF, its published table, and readings that keep the sign.

An oracle orders the G responses to one prompt; nothing else is known of them. Ranks are [N, G], 0 = best; responses
that tie share their average rank (models.rankings.average_ranks), the oracle's and the policy's alike. Advantages are
[N, G], hold for every token of a response, and sum to zero over each group.

The paper (Oracle-RLAIF, https://arxiv.org/abs/2510.02561) compares the oracle's rank r with the rank r' that the
policy's own log-probabilities give: nDCG = DCG(r') / DCG(r), delta = 1 - nDCG, A = mean(delta) - delta. Why that loses
the sign of what is to be learned, and why its printed table follows another formula than its text:
docs/rank_advantage.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.rankings import average_ranks
from models.settings import DcgForm, RankBound, RankMode

ROUNDING = 1e-6  # Far below the step between any two ranks of a group, far above the rounding of float32.


def discounted_gain(ranks: Tensor, form: DcgForm) -> Tensor:
    """How much a place in the order is worth, 1 for the best; falls with the rank.

    `written`: 1 / ((1 + r) log2(2 + r)), the formula in the paper's text. `table`: log2(2 + r) / (1 + r), which its
    printed advantages follow. `log`: 1 / log2(2 + r), the usual discount of DCG
    (https://dl.acm.org/doi/10.1145/582415.582418).
    """
    log = torch.log2(2 + ranks)
    if form == "written":
        return 1 / ((1 + ranks) * log)
    return log / (1 + ranks) if form == "table" else 1 / log


def policy_ranks(logprobs: Tensor) -> Tensor:
    """Average ranks [N, G], 0 = likeliest, of log-probabilities [N, G].

    Hand it the mean over each response's tokens: sums would rank short responses first.
    """
    ranks = [average_ranks(group) for group in logprobs.tolist()]
    return torch.tensor(ranks, dtype=logprobs.dtype, device=logprobs.device)


def rank_advantages(
    ranks: Tensor,
    predicted: Tensor | None = None,
    *,
    mode: RankMode = "oracle",
    dcg: DcgForm = "log",
    bound: RankBound = "none",
    standardise: bool = False,
) -> Tensor:
    """Advantages [N, G] of responses from their ranks.

    Modes:
        oracle: DCG(r) less the group's mean. The oracle alone decides, so the better always has the larger advantage.
            With `table` these are the advantages that the paper prints.
        paper: mean(delta) - delta with delta = 1 - DCG(r') / DCG(r): agreement of the policy with the oracle is
            rewarded, not goodness. Kept to compare with; it teaches the policy to be worse.
        signed: DCG(r) - DCG(r') less the group's mean: up where the policy underrates, down where it overrates,
            nothing where both orders agree.
        tie_aware: signed, but a response that the policy ranks anywhere among those that the oracle ties it with has
            no error: which of equal responses is likelier is no mistake.

    Args:
        ranks: the oracle's [N, G], float.
        predicted: the policy's own [N, G] (`policy_ranks`); all modes but `oracle` need them.
        mode: as above.
        dcg: what a place is worth.
        bound: mode paper: the ratio above 1, where the policy ranks higher than the oracle, as it is (`none`), cut at 1
            (`clamp`), or turned over (`symmetric`). Only the last two keep delta within [0, 1).
        standardise: divide by the group's (population) standard deviation, where it is not zero.

    Raises:
        ValueError: the mode needs `predicted`.
    """
    gain = discounted_gain(ranks, dcg)
    if mode == "oracle":
        raw = gain
    elif predicted is None:
        raise ValueError(f"rank mode {mode!r} compares with the policy's own ranks: hand them over")
    elif mode == "paper":
        raw = _agreement(gain, discounted_gain(predicted, dcg), bound)
    else:
        if mode == "tie_aware":
            predicted = torch.where(_among_ties(ranks, predicted), ranks, predicted)
        raw = gain - discounted_gain(predicted, dcg)
    advantages = raw - raw.mean(1, keepdim=True)
    advantages = advantages.masked_fill((raw == raw[:, :1]).all(1, keepdim=True), 0.0)  # rounding is no contrast
    if standardise:
        deviation = advantages.square().mean(1, keepdim=True).sqrt()
        # Rounding may leave a group without contrast beside zero; that must not become 1.
        advantages = torch.where(deviation > ROUNDING, advantages / deviation.clamp(min=ROUNDING), 0.0)
    return advantages


def _agreement(gain: Tensor, predicted: Tensor, bound: RankBound) -> Tensor:
    """nDCG = 1 - delta; the constant 1 leaves with the mean."""
    ratio = predicted / gain
    if bound == "clamp":
        return ratio.clamp(max=1)
    return torch.minimum(ratio, 1 / ratio) if bound == "symmetric" else ratio


def _among_ties(ranks: Tensor, predicted: Tensor) -> Tensor:
    """Whether the predicted rank is one that the oracle's tie takes: within (ties - 1) / 2 of its average rank."""
    others = (ranks[:, None, :] == ranks[:, :, None]).sum(2) - 1
    return (predicted - ranks).abs() <= others.to(ranks.dtype) / 2
