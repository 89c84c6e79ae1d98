"""Training of a reward model on preferences, and what is measured of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.batches import Batch, Limits, singly
from models.losses import bradley_terry
from models.pairs import Pair, in_passes, pair_loads
from models.parallel import ALONE, Team, share_out
from models.reward_model import ADAPTER, RewardModel, RewardPrompt
from models.settings import RewardSettings
from models.training import Journal, Metrics, Trainer, passes, rate_factor
from models.video_lm import VideoLM

RewardPair = Pair[RewardPrompt]


def new_reward_model(lm: VideoLM, settings: RewardSettings, seed: int) -> RewardModel:
    """A reward model with a fresh adapter, before any training."""
    lm.add_adapter(ADAPTER, settings.lora, seed)
    return RewardModel(lm, settings.form)


def train_reward_model(
    reward: RewardModel,
    pairs: Sequence[RewardPair],
    settings: RewardSettings,
    seed: int,
    journal: Journal,
    team: Team = ALONE,
) -> None:
    """Train adapter and head of a reward model on preferences.

    Args:
        reward: fresh, or one that was trained before.
        pairs: to learn from, with prompts that `reward.prompt` made.
        settings: see RewardSettings.
        seed: of the order of the pairs.
        journal: keeps states and curves.
        team: the workers that train together.
    """
    lm = reward.lm
    lm.use(ADAPTER)
    weights = lm.adapter_parameters(ADAPTER) | {f"head.{key}": value for key, value in reward.head.named_parameters()}
    # The pull to the centre is of each pass's mean, so with it passes must not hang on how much memory there is.
    meter = None if settings.centering else lm.meter
    rates = {ADAPTER: settings.rate}
    trainer = Trainer({ADAPTER: weights}, rates, settings.max_norm, meters={ADAPTER: meter}, team=team)
    trainer.resume(journal)
    while trainer.step < settings.steps:
        factor = rate_factor(trainer.step, settings.steps, settings)
        trainer.set_rates(factor)
        drawn = passes(len(pairs), settings.batch_size, seed, trainer.step)
        told = _update(trainer, reward, [pairs[i] for i in drawn], settings, drawn)
        trainer.step += 1
        journal.log(trainer.step, told)
        trainer.keep(journal, settings.save_every, settings.steps)


def _update(
    trainer: Trainer,
    reward: RewardModel,
    batch: Sequence[RewardPair],
    settings: RewardSettings,
    drawn: Sequence[int],
) -> Metrics:
    """One optimiser step on the mean over the batch's pairs."""

    def part(places: list[int]) -> tuple[Tensor, Metrics]:
        chosen, rejected = _score(reward, [batch[i] for i in places])
        share = len(places) / len(batch)
        loss = share * bradley_terry(chosen, rejected, settings.centering)
        return loss, {
            "loss": loss.item(),
            "accuracy": share * (chosen > rejected).float().mean().item(),
            "margin": share * (chosen - rejected).mean().item(),
        }

    limits = Limits(settings.forward_batch, settings.forward_tokens)
    asked = Batch(singly(len(batch)), lambda: pair_loads(reward.loads, batch))
    return trainer.update_in_parts(asked, part, limits, ADAPTER, drawn)


@torch.no_grad()
def score_pairs(
    reward: RewardModel, pairs: Sequence[RewardPair], limits: Limits, team: Team = ALONE
) -> tuple[Tensor, Tensor]:
    """Rewards of the chosen and of the rejected answers, [N] each, without gradients; N at least 1.

    `limits` count a pair as one answer.
    """

    def scores(places: Sequence[int]) -> tuple[Tensor, Tensor]:
        return _score(reward, [pairs[i] for i in places])

    scored = share_out(list(in_passes(reward.loads, pairs, limits)), scores, team)
    chosen, rejected = (torch.cat(column) for column in zip(*scored, strict=True))
    return chosen, rejected


def _score(reward: RewardModel, pairs: Sequence[RewardPair]) -> tuple[Tensor, Tensor]:
    prompts = [pair.prompt for pair in pairs] * 2
    scores = reward.score(prompts, [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
    return scores[: len(pairs)], scores[len(pairs) :]


def measured(chosen: Tensor, rejected: Tensor, pairs: Sequence[RewardPair]) -> dict[str, float]:
    """What is told of held-out pairs and their rewards [N]; the margin also by which answer is the longer one."""
    margin = chosen - rejected
    longer = torch.tensor([len(pairs[i].chosen) - len(pairs[i].rejected) for i in range(len(pairs))])
    by_length = {
        f"held_out_margin_{name}": float(margin[those].mean())
        for name, those in (("longer", longer > 0), ("shorter", longer < 0))
        if those.any()
    }
    return {
        "held_out_accuracy": float((margin > 0).float().mean()),
        "held_out_margin": float(margin.mean()),
        "held_out_loss": float(bradley_terry(chosen, rejected)),
        "held_out_calibration_error": calibration_error(margin),
        "mean_reward": float(torch.cat([chosen, rejected]).mean()),
        **by_length,
    }


def calibration_error(margins: Tensor, bins: int = 10) -> float:
    """How far a reward model's confidence is from how often it is right: the expected calibration error.

    Confidence is sigmoid(|margin|), from one half up; a pair is right where its margin is positive. Pairs are binned by
    confidence, and each bin's |share right - mean confidence| weighs by its pairs.

    Args:
        margins: chosen less rejected [N], N at least 1.
        bins: of equal width between one half and 1.

    Source: https://arxiv.org/abs/1706.04599 equation 3.
    """
    confidence, right = margins.abs().sigmoid().double(), (margins > 0).double()
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=margins.device).index_add(0, place, right - confidence)
    return float(gaps.abs().sum() / len(margins))
