"""Supervised fine-tuning of an adapter: the start of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models.batches import Batch, Limits, singly
from models.losses import next_token_loss
from models.parallel import ALONE, Team
from models.reductions import Reduction
from models.sequences import Prompt
from models.settings import SftSettings
from models.training import Journal, Metrics, Trainer, passes, rate_factor
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
    trainer = Trainer(
        {ADAPTER: lm.adapter_parameters(ADAPTER)},
        {ADAPTER: settings.rate},
        settings.max_norm,
        meters={ADAPTER: lm.meter},
        team=team,
    )
    trainer.resume(journal)
    while trainer.step < settings.steps:
        factor = rate_factor(trainer.step, settings.steps, settings)
        trainer.set_rates(factor)
        drawn = passes(len(examples), settings.batch_size, seed, trainer.step)
        told = _update(trainer, lm, [examples[i] for i in drawn], settings, drawn)
        trainer.step += 1
        trainer.numbers["loss"] = told["loss"]
        journal.log(trainer.step, told | {"learning_rate": settings.rate * factor})
        trainer.keep(journal, settings.save_every, settings.steps)
    return trainer.numbers["loss"]


def _update(
    trainer: Trainer, lm: VideoLM, batch: Sequence[Example], settings: SftSettings, drawn: Sequence[int]
) -> Metrics:
    """One optimiser step on the mean over all tokens of the batch's answers."""
    prompts, responses = [each.prompt for each in batch], [each.response for each in batch]
    whole = Reduction(whole=float(sum(map(len, responses))))

    def part(places: list[int]) -> tuple[Tensor, Metrics]:
        logprobs, mask = lm.logprobs([prompts[i] for i in places], [responses[i] for i in places])
        loss = next_token_loss(logprobs, mask, whole)
        return loss, {"loss": loss.item()}

    answers = Batch(singly(len(batch)), lambda: lm.loads(prompts, responses))
    limits = Limits(settings.forward_batch, settings.forward_tokens)
    return trainer.update_in_parts(answers, part, limits, ADAPTER, drawn)
