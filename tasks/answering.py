"""Draws answers to many prompts, those of like length together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.sequences import Prompt, Response
    from models.settings import Sampling
    from models.video_lm import VideoLM


def answers_in_batches(
    lm: VideoLM,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    batch_size: int,
    seed: Callable[[int], int],
    *,
    n: int = 1,
    logprobs: bool = False,
) -> list[list[Response]]:
    """`n` answers to each prompt, in the prompts' order.

    Args:
        lm: the model that answers.
        prompts: what it is asked.
        sampling: how answers are drawn.
        batch_size: prompts a call of the model.
        seed: of a batch, by its number.
        n: answers to each prompt.
        logprobs: whether the responses carry the log-probabilities of their tokens.
    """
    from models.training import batches_by_length

    answers: dict[int, list[Response]] = {}
    for number, batch in enumerate(batches_by_length([len(prompt.ids) for prompt in prompts], batch_size)):
        said = lm.generate([prompts[i] for i in batch], sampling, n=n, seed=seed(number), logprobs=logprobs)
        answers.update(zip(batch, said, strict=True))
    return [answers[i] for i in range(len(prompts))]
