"""Tells a stage's own work from its waiting: for Ray to start, and for workers that are busy with other stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

Got = TypeVar("Got")
Span = tuple[float, float]


class Stopwatch:
    """Notes when workers are at this stage's units, from their threads, and when the stage's own thread waits."""

    def __init__(self) -> None:
        self._working: list[Span] = []
        self._waiting: list[Span] = []

    def worked(self, since: float) -> None:
        """A worker was at a unit from `since` (time.monotonic) to now."""
        self._working.append((since, time.monotonic()))

    def wait(self, get: Callable[[], Got]) -> Got:
        """What `get` gives; the time it takes is waiting, as far as no worker is at work in it."""
        since = time.monotonic()
        try:
            return get()
        finally:
            self._waiting.append((since, time.monotonic()))

    def idle_seconds(self) -> float:
        """Seconds in which the stage's thread waited and no worker was at its units."""
        return sum(end - start for start, end in self._waiting) - _shared(self._waiting, self._working)


def _shared(waiting: Iterable[Span], working: Iterable[Span]) -> float:
    """Seconds that lie in both; spans of `waiting` do not overlap, those of `working` may."""
    busy = _merged(working)
    return sum(max(0.0, min(end, until) - max(start, since)) for start, end in waiting for since, until in busy)


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
