"""How many answers go through a model at once: at most so many, and at most so many tokens with their padding.

A pass is a rectangle: its rows are as long as the longest of them. Answers to one prompt stand in one row where the
model shares prompts (models.packing), so a row counts its prompt once, and all its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.parallel import ALONE, Team, share_out
from models.sequences import Prompt


@dataclass(frozen=True)
class Limits:
    """The most that goes through a model at once; what stays together, such as a pair, goes together all the same.

    Attributes:
        answers: the most answers, or prompts.
        tokens: the most tokens, padding included; None: any number.
    """

    answers: int
    tokens: int | None = None


@dataclass(frozen=True)
class Load:
    """What an answer adds to a pass.

    Attributes:
        row: answers with the same name stand in one row.
        prompt: tokens of the prompt, which stands in the row once.
        answer: tokens of the answer.
    """

    row: int
    prompt: int
    answer: int


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Attributes:
        units: places of answers that stay together, such as a pair's.
        loads: of each place. Asked for only where tokens are counted: a prompt's length may have to be read.
    """

    units: Sequence[Sequence[int]]
    loads: Callable[[], Sequence[Load]]

    def passes(self, limits: Limits) -> list[list[int]]:
        """The places of each pass: in the order given, or, where tokens are counted, those of like length together."""
        if limits.tokens is None:
            return list(cut(self.units, _UNCOUNTED, limits))
        loads = self.loads()
        return list(cut(_by_length(self.units, loads), loads, limits))


class _Rectangle:
    """A pass in the making: its rows' lengths."""

    def __init__(self, loads: Iterable[Load] = ()) -> None:
        self._rows: dict[int, int] = {}
        self._answers = 0
        self.add(loads)

    @property
    def tokens(self) -> int:
        return len(self._rows) * max(self._rows.values(), default=0)

    def add(self, loads: Iterable[Load]) -> None:
        for load in loads:
            self._rows[load.row] = self._rows.get(load.row, load.prompt) + load.answer
            self._answers += 1

    def takes(self, loads: Sequence[Load], limits: Limits) -> bool:
        """Whether it stays within the limits with these too."""
        if self._answers + len(loads) > limits.answers or limits.tokens is None:
            return self._answers + len(loads) <= limits.answers
        larger = _Rectangle()
        larger._rows = dict(self._rows)
        larger.add(loads)
        return larger.tokens <= limits.tokens


def tokens_of(loads: Iterable[Load]) -> int:
    """Tokens of a pass over these answers, padding included."""
    return _Rectangle(loads).tokens


class _Uncounted(Sequence[Load]):
    """Loads of which nothing but their number counts."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, place: object) -> Load:  # type: ignore[override]
        return Load(0, 0, 0)


_UNCOUNTED = _Uncounted()


def cut(units: Iterable[Sequence[int]], loads: Sequence[Load], limits: Limits) -> Iterator[list[int]]:
    """The members of units in passes, in the order given.

    Args:
        units: what stays together: places in `loads`.
        loads: of each answer.
        limits: of a pass; a unit that is larger alone is a pass of its own.
    """
    some, filled = list[int](), _Rectangle()
    for unit in units:
        added = [loads[i] for i in unit]
        if some and not filled.takes(added, limits):
            yield some
            some, filled = [], _Rectangle()
        some += unit
        filled.add(added)
    if some:
        yield some


def singly(count: int) -> list[list[int]]:
    """Units of one answer each."""
    return [[i] for i in range(count)]


def batches_by_length(loads: Sequence[Load], limits: Limits) -> Iterator[list[int]]:
    """Indices in batches, items of like length together; ties keep their order."""
    return cut(_by_length(singly(len(loads)), loads), loads, limits)


def in_batches(
    compute: Callable[[list[int]], Tensor], loads: Sequence[Load], limits: Limits, team: Team = ALONE
) -> Tensor:
    """`compute(indices) -> [n]` over all items in batches of like length, in the items' order.

    Each worker of `team` computes its share of the batches; all get the whole.
    """
    result: list[Tensor | None] = [None] * len(loads)
    batches = list(batches_by_length(loads, limits))
    for batch, values in zip(batches, share_out(batches, compute, team), strict=True):
        for index, value in zip(batch, values, strict=True):
            result[index] = value
    return torch.stack([value for value in result if value is not None])


def in_columns(
    compute: Callable[[Sequence[int]], tuple[Tensor, ...]], loads: Sequence[Load], limits: Limits, team: Team = ALONE
) -> list[Tensor]:
    """Tensors [B, R] of all rows, in their order and within the limits, padded with 0 (False) to the longest.

    Each worker of `team` computes its share of the passes; all get the whole.
    """
    parts = share_out(list(cut(singly(len(loads)), loads, limits)), compute, team)
    width = max(part[0].shape[1] for part in parts)
    return [
        torch.cat([nn.functional.pad(each, (0, width - each.shape[1])) for each in column])
        for column in zip(*parts, strict=True)
    ]


def sampling_loads(prompts: Sequence[Prompt], n: int, longest: int) -> list[Load]:
    """What each prompt adds where `n` answers of at most `longest` tokens are sampled: each has a row of its own."""
    return [Load(i, n * (len(prompt.ids) + longest), 0) for i, prompt in enumerate(prompts)]


def _by_length(units: Sequence[Sequence[int]], loads: Sequence[Load]) -> list[Sequence[int]]:
    return sorted(units, key=lambda unit: tokens_of(loads[i] for i in unit))
