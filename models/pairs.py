"""A preferred and another answer to one question, as tokens: what reward models and DPO learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from models.sequences import Prompt

AnyPrompt_co = TypeVar("AnyPrompt_co", bound=Prompt, covariant=True)


@dataclass(frozen=True)
class Pair(Generic[AnyPrompt_co]):
    """A prompt with the preferred and the other answer, as tokens with end token."""

    prompt: AnyPrompt_co
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
