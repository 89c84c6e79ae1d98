"""Draws answers to many prompts, those of like length together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from models.memory import FORWARD_TOKENS
from models.settings import ENGINE

if TYPE_CHECKING:
    from models.engines import RolloutEngine
    from models.sequences import Prompt, Response
    from models.settings import Sampling
    from models.video_lm import VideoLM


def forward_tokens_field() -> Any:
    """The field `forward_tokens` of a stage whose model is only asked."""
    return Field(default=None, ge=1, **FORWARD_TOKENS)


def engine_field() -> Any:
    """The field `engine` of a stage whose model answers."""
    return Field(default="transformers", **ENGINE)


def answers_in_batches(
    lm: VideoLM | RolloutEngine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    batch_size: int,
    seed: Callable[[int], int],
    *,
    n: int = 1,
    forward_tokens: int | None = None,
    logprobs: bool = False,
) -> list[list[Response]]:
    """`n` answers to each prompt, in the prompts' order.

    Args:
        lm: the model that answers, or an engine that does for it.
        prompts: what it is asked.
        sampling: how answers are drawn.
        batch_size: prompts a call of the model.
        seed: of a batch, by its number.
        n: answers to each prompt.
        forward_tokens: most tokens of a call, prompts and answers at their longest; None: any number.
        logprobs: whether the responses carry the log-probabilities of their tokens.
    """
    from models.batches import Limits, batches_by_length, sampling_loads

    answers: dict[int, list[Response]] = {}
    loads = sampling_loads(prompts, n, sampling.max_new_tokens)
    for number, batch in enumerate(batches_by_length(loads, Limits(batch_size, forward_tokens))):
        said = lm.generate([prompts[i] for i in batch], sampling, n=n, seed=seed(number), logprobs=logprobs)
        answers.update(zip(batch, said, strict=True))
    return [answers[i] for i in range(len(prompts))]
