"""Supervised fine-tuning of an adapter: the start of the policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from models.losses import next_token_loss
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
        told = trainer.update_in_parts(_parts(lm, [examples[i] for i in drawn], settings.forward_batch), ADAPTER, drawn)
        trainer.step += 1
        trainer.numbers["loss"] = told["loss"]
        journal.log(trainer.step, told | {"learning_rate": settings.rate * factor})
        trainer.keep(journal, settings.save_every, settings.steps)
    return trainer.numbers["loss"]


def _parts(lm: VideoLM, batch: Sequence[Example], size: int) -> Iterator[tuple[Tensor, Metrics]]:
    """Each part's share of the mean over all tokens of the batch's answers."""
    whole = Reduction(whole=float(sum(len(each.response) for each in batch)))
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        logprobs, mask = lm.logprobs([each.prompt for each in part], [each.response for each in part])
        loss = next_token_loss(logprobs, mask, whole)
        yield loss, {"loss": loss.item()}
