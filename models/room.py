"""How much fits into a GPU's memory at once: measured from a pass, and learned where memory runs out all the same.

A pass with gradients takes so many bytes for each of its tokens, most for the longest rows. So the first pass is the
longest unit of a step alone; what it took says how many tokens go together from then on. Where memory still runs out,
a pass may have half of what was tried, for good. Gradients are sums over passes, so how a step is cut changes no more
than the last digits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch

from models.batches import Batch, Limits, tokens_of
from models.memory import ran_out

logger = logging.getLogger(__name__)

USED = 0.8  # Of what is free: moments of the optimiser are yet to come, and free memory is in pieces.
_MIB = 2**20


class MemoryMeter(Protocol):
    """What a device tells of its memory, in bytes."""

    def begin(self) -> None:
        """From now on the most that is taken is watched."""
        ...

    def most(self) -> int:
        """The most that was taken since `begin`, beyond what was taken then."""
        ...

    def free(self) -> int:
        """What could be taken now."""
        ...

    def tidy(self) -> None:
        """Gives back what is held for nothing."""
        ...


class CudaMeter:
    """A GPU's memory as torch counts it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0

    def begin(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)

    def most(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) - self._before

    def free(self) -> int:
        held = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0]) + held

    def tidy(self) -> None:
        torch.cuda.empty_cache()


def meter_of(device: torch.device) -> MemoryMeter | None:
    """The meter of a GPU; None for what has none, where steps are cut as their settings say."""
    return CudaMeter(device) if device.type == "cuda" else None


class Room:
    """What passes of one group of parameters may take.

    Attributes:
        tokens: the most tokens of a pass, padding included; None: not known yet.
    """

    def __init__(self, name: str, meter: MemoryMeter) -> None:
        """`name`: of the group, for the log."""
        self.tokens: int | None = None
        self._name, self._meter = name, meter
        self._trying, self._alone, self._ran_out = 0, False, False

    def passes(self, batch: Batch, limits: Limits) -> Iterator[list[int]]:
        """The places of each pass of a step, as `Batch.passes`; one is asked for when the one before is done with."""
        if self._ran_out:  # Not where it was caught: what broke off is held by its error until that is dealt with.
            self._meter.tidy()
            self._ran_out = False
        loads = batch.loads()
        units = sorted(batch.units, key=lambda unit: tokens_of(loads[i] for i in unit))
        if self.tokens is None:
            *units, longest = units
            self._trying, self._alone = tokens_of(loads[i] for i in longest), True
            self._meter.begin()
            yield list(longest)
            self._learn(self._meter.most())
        most = self.tokens if limits.tokens is None else min(limits.tokens, self.tokens or limits.tokens)
        for places in replace(batch, units=units).passes(replace(limits, tokens=most)):
            self._trying, self._alone = tokens_of(loads[i] for i in places), places in map(list, units)
            yield places

    def shrinks(self, error: Exception) -> bool:
        """Whether a step is worth another try after an error: memory ran out, and its passes may be made smaller."""
        if not ran_out(error) or self._alone:
            return False
        self.tokens, self._ran_out = self._trying // 2, True
        logger.warning(
            "%s: no memory for a pass of %s tokens; from now on passes have at most %s",
            self._name,
            f"{self._trying:,}",
            f"{self.tokens:,}",
        )
        return True

    def _learn(self, taken: int) -> None:
        free = self._meter.free()
        self.tokens = max(1, int(USED * free / max(1, taken) * self._trying))
        logger.info(
            "%s: a pass of %s tokens took %d MiB and %d MiB are free: passes have at most %s tokens",
            self._name,
            f"{self._trying:,}",
            taken // _MIB,
            free // _MIB,
            f"{self.tokens:,}",
        )
