"""Checks that every training run makes of itself: silent failures of others, turned into errors.

An adapter that does nothing after a load, a policy that never looked at the video, a base that training has changed:
each has spoilt published runs without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.batches import Limits, cut, in_columns, sampling_loads, singly
from models.memory import ran_out
from models.sequences import Prompt, Response
from models.settings import Sampling
from models.training import Metrics, TrainingError
from models.video_lm import VideoLM


@dataclass(frozen=True)
class Probe:
    """A few questions with answers, and what the untouched base says of them.

    Attributes:
        prompts: the questions on their videos.
        blank: the same questions on a black video.
        responses: an answer to each, as tokens.
        base: the base's log-probabilities [B, R], taken before any adapter was added.
        limits: of a pass.
    """

    prompts: Sequence[Prompt]
    blank: Sequence[Prompt]
    responses: Sequence[tuple[int, ...]]
    base: Tensor
    limits: Limits

    @classmethod
    @torch.no_grad()
    def take(
        cls,
        lm: VideoLM,
        prompts: Sequence[Prompt],
        blank: Sequence[Prompt],
        responses: Sequence[tuple[int, ...]],
        limits: Limits,
    ) -> Probe:
        """Ask the base; call it before the first adapter. `limits`: as of the training's own passes."""
        return cls(prompts, blank, responses, _logprobs(lm, prompts, responses, limits), limits)


@torch.no_grad()
def check_adapter(lm: VideoLM, name: str, probe: Probe) -> Metrics:
    """The adapter changes the log-probabilities; without it they are the base's, bit for bit.

    Returns:
        The largest change in nats.

    Raises:
        TrainingError: one of the two does not hold.
    """
    lm.use(name)
    changed = _logprobs(lm, probe.prompts, probe.responses, probe.limits)
    with lm.reference():
        reference = _logprobs(lm, probe.prompts, probe.responses, probe.limits)
    if not torch.equal(reference, probe.base):
        raise TrainingError("Training changed the frozen base: its log-probabilities are not those it began with.")
    change = float((changed - reference).abs().max())
    if not change > 0:  # NaN included
        raise TrainingError(
            f"Adapter {name!r} changes no log-probability ({change} nats): it learned nothing or no numbers, or is not "
            "in use."
        )
    return {"adapter_canary": change}


def check_blank(lm: VideoLM, probe: Probe, max_new_tokens: int) -> Metrics:
    """A black video changes greedy answers: the model looks at what it is shown.

    Args:
        lm: the model.
        probe: what it is asked.
        max_new_tokens: of an answer, as far as the model's window leaves room behind the longest question.

    Returns:
        The share of answers that changed.

    Raises:
        TrainingError: none did.
    """
    longest = max(len(prompt.ids) for prompt in (*probe.prompts, *probe.blank))
    greedy = Sampling(temperature=0.0, max_new_tokens=min(max_new_tokens, lm.window - longest))
    seen = _answers(lm, probe.prompts, greedy, probe.limits)
    unseen = _answers(lm, probe.blank, greedy, probe.limits)
    share = float(np.mean([a.ids != b.ids for a, b in zip(seen, unseen, strict=True)]))
    if share == 0:
        raise TrainingError(
            "A black video gets the same answers: the model is blind to its frames. Check frame set and prompt."
        )
    return {"blank_canary": share}


def _logprobs(lm: VideoLM, prompts: Sequence[Prompt], responses: Sequence[tuple[int, ...]], limits: Limits) -> Tensor:
    """[B, R]. A model that is fitted to its memory goes through them one by one: nothing was measured yet.

    Bits depend on who shares a pass, so base and adapter are asked in the same ones.
    """

    def compute(some: Sequence[int]) -> tuple[Tensor, ...]:
        return lm.logprobs([prompts[i] for i in some], [responses[i] for i in some])

    at_once = limits if lm.meter is None else Limits(1)
    return in_columns(compute, lm.loads(prompts, responses), at_once)[0]


def _answers(lm: VideoLM, prompts: Sequence[Prompt], sampling: Sampling, limits: Limits) -> list[Response]:
    """One answer to each prompt."""
    loads = sampling_loads(prompts, 1, sampling.max_new_tokens)
    passes = cut(singly(len(prompts)), loads, limits)
    return [answer for some in passes for answer in _fitting(lm, [prompts[i] for i in some], sampling)]


def _fitting(lm: VideoLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
    """The answers of one pass, or of its halves where the model is fitted to its memory and that ran out."""
    try:
        return [answer for (answer,) in lm.generate(prompts, sampling)]
    except Exception as error:
        if lm.meter is None or len(prompts) == 1 or not ran_out(error):
            raise
    lm.meter.tidy()  # Not in the block above, where the error still holds what broke off.
    half = len(prompts) // 2
    return [answer for some in (prompts[:half], prompts[half:]) for answer in _fitting(lm, some, sampling)]
