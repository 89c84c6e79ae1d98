"""Supervised fine-tuning of an adapter: the start of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models.losses import next_token_loss
from models.parallel import ALONE, Team
from models.reductions import Reduction
from models.sequences import Prompt
from models.settings import SftSettings
from models.training import Journal, Metrics, Trainer, linear_schedule, passes
from models.video_lm import VideoLM

ADAPTER = "policy"


@dataclass(frozen=True)
class Example:
    """A prompt and the tokens of the answer to learn, end token included."""

    prompt: Prompt
    response: tuple[int, ...]


def train_sft(
    lm: VideoLM,
    examples: Sequence[Example],
    settings: SftSettings,
    seed: int,
    journal: Journal,
    team: Team = ALONE,
) -> float:
    """Train adapter "policy" of `lm` on the examples, together with the other workers of `team`.

    Returns:
        The loss of the last step.
    """
    lm.add_adapter(ADAPTER, settings.lora, seed)
    lm.use(ADAPTER)
    groups = {ADAPTER: lm.adapter_parameters(ADAPTER)}
    trainer = Trainer(groups, {ADAPTER: settings.rate}, settings.max_norm, team=team)
    trainer.resume(journal)
    while trainer.step < settings.steps:
        factor = linear_schedule(trainer.step, settings.steps, warmup=settings.warmup, final=settings.final_rate)
        trainer.set_rates(factor)
        drawn = passes(len(examples), settings.batch_size, seed, trainer.step)
        told = _update(trainer, lm, [examples[i] for i in drawn], drawn, settings.forward_batch)
        trainer.step += 1
        trainer.numbers["loss"] = told["loss"]
        journal.log(trainer.step, told | {"learning_rate": settings.rate * factor})
        trainer.keep(journal, settings.save_every, settings.steps)
    return trainer.numbers["loss"]


def _update(trainer: Trainer, lm: VideoLM, batch: Sequence[Example], drawn: Sequence[int], size: int) -> Metrics:
    """One optimiser step on the mean over all tokens of the batch's answers, `size` of them at a time."""
    whole = Reduction(whole=float(sum(len(each.response) for each in batch)))

    def share(part: Sequence[Example]) -> tuple[Tensor, Metrics]:
        logprobs, mask = lm.logprobs([each.prompt for each in part], [each.response for each in part])
        loss = next_token_loss(logprobs, mask, whole)
        return loss, {"loss": loss.item()}

    parts = [batch[start : start + size] for start in range(0, len(batch), size)]
    return trainer.update_in_parts(share, parts, ADAPTER, drawn)
