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

from models.sequences import Prompt
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
    """

    prompts: Sequence[Prompt]
    blank: Sequence[Prompt]
    responses: Sequence[tuple[int, ...]]
    base: Tensor

    @classmethod
    @torch.no_grad()
    def take(
        cls,
        lm: VideoLM,
        prompts: Sequence[Prompt],
        blank: Sequence[Prompt],
        responses: Sequence[tuple[int, ...]],
    ) -> Probe:
        """Ask the base; call it before the first adapter."""
        return cls(prompts, blank, responses, lm.logprobs(prompts, responses)[0])


@torch.no_grad()
def check_adapter(lm: VideoLM, name: str, probe: Probe) -> Metrics:
    """The adapter changes the log-probabilities; without it they are the base's, bit for bit.

    Returns:
        The largest change in nats.

    Raises:
        TrainingError: one of the two does not hold.
    """
    lm.use(name)
    changed, _ = lm.logprobs(probe.prompts, probe.responses)
    with lm.reference():
        reference, _ = lm.logprobs(probe.prompts, probe.responses)
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
    seen = lm.generate(probe.prompts, greedy)
    unseen = lm.generate(probe.blank, greedy)
    share = float(np.mean([a[0].ids != b[0].ids for a, b in zip(seen, unseen, strict=True)]))
    if share == 0:
        raise TrainingError(
            "A black video gets the same answers: the model is blind to its frames. Check frame set and prompt."
        )
    return {"blank_canary": share}
