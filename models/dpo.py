"""Direct preference optimisation: adapter "policy" learns from pairs, without a reward model and without sampling.

The reference is the same model with no adapter active. https://arxiv.org/abs/2305.18290
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.advantages import kl_per_token
from models.batches import Batch, Limits, singly
from models.losses import dpo, masked_mean
from models.on_policy import POLICY
from models.pairs import Pair, in_passes, pair_loads
from models.parallel import ALONE, Team, share_out
from models.sequences import Prompt
from models.settings import DpoSettings
from models.training import Journal, Metrics, Trainer, passes, rate_factor
from models.video_lm import VideoLM


@dataclass(frozen=True)
class _Compared:
    """N pairs under policy and reference.

    Attributes:
        loss: their mean loss, with gradients where the adapter has them.
        each: what is told of every pair, [N] each, without gradients.
    """

    loss: Tensor
    each: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.each["margin"])


def train_dpo(
    lm: VideoLM,
    pairs: Sequence[Pair[Prompt]],
    held_out: Sequence[Pair[Prompt]],
    settings: DpoSettings,
    seed: int,
    journal: Journal,
    team: Team = ALONE,
) -> Metrics:
    """Train a fresh adapter "policy" on preferences, from the last saved state on.

    The curves: loss; accuracy, the share of pairs whose chosen answer has the higher implicit reward; both rewards and
    their margin; shift, nats a token of KL(reference || policy), estimated on the pairs' answers and unbiased where
    the reference sampled them; gradient norm and learning rate.

    Args:
        lm: the model to start from; without the adapter it is the reference.
        pairs: what is learned; not empty.
        held_out: pairs to measure only.
        settings: see DpoSettings.
        seed: of everything random.
        journal: keeps states and curves.
        team: the workers that train together.

    Returns:
        The number of held-out pairs, and the same measures of them, each named held_out_*.

    Raises:
        TrainingError: loss or gradient is not finite.
    """
    lm.add_adapter(POLICY, settings.lora, seed)
    lm.use(POLICY)
    learns = {POLICY: lm.adapter_parameters(POLICY)}
    rates = {POLICY: settings.rate}
    trainer = Trainer(learns, rates, settings.max_norm, meters={POLICY: lm.meter}, team=team)
    trainer.resume(journal)
    while trainer.step < settings.steps:
        factor = rate_factor(trainer.step, settings.steps, settings)
        trainer.set_rates(factor)
        metrics = _update(trainer, lm, pairs, passes(len(pairs), settings.batch_size, seed, trainer.step), settings)
        trainer.step += 1
        journal.log(trainer.step, metrics | {"learning_rate": settings.rate * factor})
        trainer.keep(journal, settings.save_every, settings.steps)
    return _evaluate(lm, held_out, settings, team)


def _update(
    trainer: Trainer, lm: VideoLM, pairs: Sequence[Pair[Prompt]], drawn: Sequence[int], settings: DpoSettings
) -> Metrics:
    """One optimiser step on the drawn pairs, a few of them at a time."""

    def part(places: list[int]) -> tuple[Tensor, _Compared]:
        one = _compare(lm, [pairs[drawn[i]] for i in places], settings)
        return one.loss * (len(places) / len(drawn)), _Compared(one.loss.detach(), one.each)

    batch = Batch(singly(len(drawn)), lambda: pair_loads(lm.loads, [pairs[i] for i in drawn]))
    compared, norm = trainer.step_in_parts(batch, part, _limits(settings), POLICY, drawn)
    return _told(compared) | {"gradient_norm": norm}


def _limits(settings: DpoSettings) -> Limits:
    return Limits(settings.forward_batch, settings.forward_tokens)


def _compare(lm: VideoLM, pairs: Sequence[Pair[Prompt]], settings: DpoSettings) -> _Compared:
    prompts = [pair.prompt for pair in pairs] * 2
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    with lm.reference(), torch.no_grad():
        reference, _ = lm.logprobs(prompts, answers)
    policy, mask = lm.logprobs(prompts, answers)
    count = len(pairs)
    new, old = (_of_answers(each, mask, settings) for each in (policy, reference))
    loss, margin = dpo(
        new[:count],
        new[count:],
        old[:count],
        old[count:],
        beta=settings.beta,
        label_smoothing=settings.label_smoothing,
    )
    rewards = settings.beta * (new - old).detach()
    shift = _shift(policy.detach(), reference, mask)
    return _Compared(
        loss,
        {
            "accuracy": (margin > 0).float(),
            "margin": margin,
            "chosen_reward": rewards[:count],
            "rejected_reward": rewards[count:],
            "shift": (shift[:count] + shift[count:]) / 2,
        },
    )


def _of_answers(logprobs: Tensor, mask: Tensor, settings: DpoSettings) -> Tensor:
    """Log-probabilities of whole answers [B] from those of their tokens [B, R], 0 where masked."""
    total = logprobs.sum(1)
    return total / mask.sum(1) if settings.length_normalised else total


def _shift(policy: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Nats a token [B] between the two, from log-probabilities [B, R]."""
    moved = kl_per_token(reference, policy, "k3")
    return torch.stack([masked_mean(row, counted) for row, counted in zip(moved, mask, strict=True)])


def _told(compared: Sequence[_Compared]) -> Metrics:
    """Means over the pairs of all parts."""
    count = sum(map(len, compared))
    loss = sum(float(part.loss) * len(part) for part in compared) / count
    return {"loss": loss} | {
        name: float(torch.cat([part.each[name] for part in compared]).mean()) for name in compared[0].each
    }


@torch.no_grad()
def _evaluate(lm: VideoLM, pairs: Sequence[Pair[Prompt]], settings: DpoSettings, team: Team) -> Metrics:
    if not pairs:
        return {"held_out_pairs": 0.0}

    def compare(places: Sequence[int]) -> _Compared:
        return _compare(lm, [pairs[i] for i in places], settings)

    compared = share_out(list(in_passes(lm.loads, pairs, _limits(settings))), compare, team)
    return {"held_out_pairs": float(len(pairs))} | {f"held_out_{key}": each for key, each in _told(compared).items()}
