"""How likely a model finds each of several given answers; the prompt, with its video, is computed once for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from models.batches import Batch, Limits, tokens_of

if TYPE_CHECKING:
    from models.batches import Load
    from models.sequences import Prompt
    from models.video_lm import VideoLM


@torch.no_grad()
def choice_logprobs(
    lm: VideoLM,
    prompts: Sequence[Prompt],
    choices: Sequence[Sequence[Sequence[int]]],
    batch_size: int,
    forward_tokens: int | None = None,
) -> list[list[float]]:
    """Log-probability of each choice as the whole answer to its prompt, nats, summed over its tokens.

    Args:
        lm: the model.
        prompts: one a question.
        choices: the tokens of each question's choices, end token included (VideoLM.response_ids).
        batch_size: the most choices of a forward.
        forward_tokens: the most tokens of a forward, padding included; None: any number.
    """
    rows = [prompt for prompt, each in zip(prompts, choices, strict=True) for _ in each]
    answers = [answer for each in choices for answer in each]
    loads, limits = lm.loads(rows, answers), Limits(batch_size, forward_tokens)
    found = [0.0] * len(answers)
    for batch in Batch(list(_units(choices, loads, limits)), lambda: loads).passes(limits):
        logprobs, _ = lm.logprobs([rows[i] for i in batch], [answers[i] for i in batch])
        for i, total in zip(batch, logprobs.double().sum(1).tolist(), strict=True):
            found[i] = total
    scores = iter(found)
    return [[next(scores) for _ in each] for each in choices]


def _units(choices: Sequence[Sequence[Sequence[int]]], loads: Sequence[Load], limits: Limits) -> Iterator[list[int]]:
    """The places of each question's choices, in as few parts as the limits allow: a part computes the prompt once."""
    place = 0
    for each in choices:
        unit: list[int] = []
        for i in range(place, place + len(each)):
            more = [*unit, i]
            over = limits.tokens is not None and tokens_of(loads[j] for j in more) > limits.tokens
            if unit and (len(more) > limits.answers or over):
                yield unit
                more = [i]
            unit = more
        place += len(each)
        if unit:
            yield unit
