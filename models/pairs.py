"""A preferred and another answer to one question, as tokens: what reward models and DPO learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from models.batches import Limits, Load, cut, singly, tokens_of
from models.sequences import Prompt

AnyPrompt_co = TypeVar("AnyPrompt_co", bound=Prompt, covariant=True)


@dataclass(frozen=True)
class Pair(Generic[AnyPrompt_co]):
    """A prompt with the preferred and the other answer, as tokens with end token."""

    prompt: AnyPrompt_co
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


# Prompts and answers -> what each answer adds to a pass (VideoLM.loads).
LoadsOf = Callable[[Sequence[AnyPrompt_co], Sequence[Sequence[int]]], list[Load]]


def pair_loads(loads_of: LoadsOf[AnyPrompt_co], pairs: Sequence[Pair[AnyPrompt_co]]) -> list[Load]:
    """What each pair, both answers together, adds to a pass."""
    both = [tokens_of(loads_of([pair.prompt] * 2, [pair.chosen, pair.rejected])) for pair in pairs]
    return [Load(number, tokens, 0) for number, tokens in enumerate(both)]


def in_passes(
    loads_of: LoadsOf[AnyPrompt_co], pairs: Sequence[Pair[AnyPrompt_co]], limits: Limits
) -> Iterator[list[int]]:
    """The places of the pairs of each pass, in the order given; `limits` count a pair as one answer.

    Pairs may be made when they are asked for: no more are in memory than may go through a model at once, and none is
    asked for where tokens are not counted.
    """
    for start in range(0, len(pairs), limits.answers):
        some = range(start, min(start + limits.answers, len(pairs)))
        if limits.tokens is None:
            yield list(some)
            continue
        loads = pair_loads(loads_of, [pairs[i] for i in some])
        for places in cut(singly(len(some)), loads, limits):
            yield [some[i] for i in places]
