"""Supervised fine-tuning of an adapter: the start of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.losses import next_token_loss
from models.sequences import Prompt
from models.settings import SftSettings
from models.training import Journal, Trainer, linear_schedule, passes
from models.video_lm import VideoLM

ADAPTER = "policy"


@dataclass(frozen=True)
class Example:
    """A prompt and the tokens of the answer to learn, end token included."""

    prompt: Prompt
    response: tuple[int, ...]


def train_sft(lm: VideoLM, examples: Sequence[Example], settings: SftSettings, seed: int, journal: Journal) -> float:
    """Train adapter "policy" of `lm` on the examples.

    Returns:
        The loss of the last step.
    """
    lm.add_adapter(ADAPTER, settings.lora, seed)
    lm.use(ADAPTER)
    trainer = Trainer({ADAPTER: lm.adapter_parameters(ADAPTER)}, {ADAPTER: settings.rate}, settings.max_norm)
    trainer.resume(journal)
    while trainer.step < settings.steps:
        factor = linear_schedule(trainer.step, settings.steps, warmup=settings.warmup, final=settings.final_rate)
        trainer.set_rates(factor)
        drawn = passes(len(examples), settings.batch_size, seed, trainer.step)
        batch = [examples[i] for i in drawn]
        logprobs, mask = lm.logprobs([each.prompt for each in batch], [each.response for each in batch])
        objective = next_token_loss(logprobs, mask)
        norm = trainer.update(objective, ADAPTER, drawn)
        trainer.step += 1
        trainer.numbers["loss"] = objective.item()
        journal.log(
            trainer.step,
            {"loss": objective.item(), "gradient_norm": norm, "learning_rate": settings.rate * factor},
        )
        trainer.keep(journal, settings.save_every, settings.steps)
    return trainer.numbers["loss"]
