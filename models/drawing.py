"""What `generate` of transformers is told about drawing, and each drawn token's log-probability, kept as it is drawn.

Asked for scores, `generate` keeps those of every step: [B, steps, V] in float32, 300 MB for one answer of 512 tokens
from a vocabulary of 152,000. A token is known one step after its scores; so only one step's are kept here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.settings import Sampling


class Drawing:
    """How one call of `generate` draws. To be used once.

    Temperature and nucleus go in as processors of our own, the recorder behind them: those that `generate` makes of
    its arguments would come after it, and it would not see what is drawn from.
    """

    def __init__(self, sampling: Sampling, *, record: bool) -> None:
        """`record`: whether to keep the drawn tokens' log-probabilities."""
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        self._greedy = sampling.temperature == 0
        self._processors: list[Any] = []
        if not self._greedy and sampling.temperature != 1:
            self._processors.append(TemperatureLogitsWarper(sampling.temperature))
        if not self._greedy and sampling.top_p < 1:
            self._processors.append(TopPLogitsWarper(top_p=sampling.top_p))
        self._recorder = _Recorder() if record else None

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `generate`."""
        from transformers import LogitsProcessorList

        recorder = [] if self._recorder is None else [self._recorder]
        neutral = None if self._greedy else 1.0
        return {
            "do_sample": not self._greedy,
            "temperature": neutral,
            "top_p": neutral,
            "top_k": None if self._greedy else 0,
            "logits_processor": LogitsProcessorList([*self._processors, *recorder]),
        }

    def logprobs(self, drawn: Tensor) -> Tensor | None:
        """Log-probability [B, T] of each drawn token [B, T] under what it was drawn from, on the CPU; None: not kept.

        Behind an answer's end it is that of the padding, and means nothing.
        """
        return None if self._recorder is None else self._recorder.logprobs(drawn)


class _Recorder:
    """A logits processor that changes nothing and reads each step's token at the next one."""

    def __init__(self) -> None:
        self._picked: list[Tensor] = []
        self._scores: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._pick(input_ids[:, -1])
        self._scores = scores
        return scores

    def logprobs(self, drawn: Tensor) -> Tensor:
        steps = drawn.shape[1]
        if len(self._picked) < steps:  # `generate` may run a step more than it returns.
            self._pick(drawn[:, -1])
        return torch.stack(self._picked[:steps], 1).cpu()

    def _pick(self, tokens: Tensor) -> None:
        if self._scores is not None:
            logprobs = self._scores.float().log_softmax(-1)
            self._picked.append(logprobs.gather(-1, tokens[:, None])[:, 0])
        self._scores = None
