"""What work cost: time of workers, calls, tokens, money, memory. Counted in the worker, summed over a stage."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from models.meter import METER

_MIB = 2**20
MUCH_MIB = 2048  # Beside loading models that make so much, looking for garbage takes no time.


@dataclass(frozen=True)
class Expense:
    """What one or several calls of workers cost; `+` adds them up.

    Attributes:
        load_seconds: building processors, above all loading models, in all workers together.
        seconds: working on items, in all workers together.
        calls: of models: frames encoded, answers sampled, sequences scored or learned from, calls of an endpoint.
        input_tokens: that those calls read, visual tokens included.
        output_tokens: that they wrote.
        cost: paid to endpoints, in the currency of their prices.
        memory_mib: most resident memory of one worker after a call.
        gpu_mib: most memory that one worker's torch held on its GPU; None without one.
        steps: steps of a training that were timed; not its first, which warms up.
        step_seconds: those steps.
    """

    load_seconds: float = 0.0
    seconds: float = 0.0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    memory_mib: float = 0.0
    gpu_mib: float | None = None
    steps: int = 0
    step_seconds: float = 0.0

    def __add__(self, other: Expense) -> Expense:
        on_gpu = [each for each in (self.gpu_mib, other.gpu_mib) if each is not None]
        return Expense(
            load_seconds=self.load_seconds + other.load_seconds,
            seconds=self.seconds + other.seconds,
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=self.cost + other.cost,
            memory_mib=max(self.memory_mib, other.memory_mib),
            gpu_mib=max(on_gpu, default=None),
            steps=self.steps + other.steps,
            step_seconds=self.step_seconds + other.step_seconds,
        )


NOTHING = Expense()


class Bill:
    """Sums what a stage's calls cost; threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = NOTHING

    def add(self, expense: Expense) -> None:
        with self._lock:
            self._total += expense

    @property
    def total(self) -> Expense:
        return self._total


class StepClock:
    """Times the steps of the training that runs in this process."""

    def __init__(self) -> None:
        self.steps, self.seconds = 0, 0.0
        self._last: float | None = None

    def begin(self) -> None:
        """A training begins; its first step is not timed."""
        self._last = None

    def step(self) -> None:
        """A step has ended; what comes between steps (saving) counts to the next."""
        now = time.monotonic()
        if self._last is not None:
            self.steps += 1
            self.seconds += now - self._last
        self._last = now


STEP_CLOCK = StepClock()


class Spent:
    """Filled when the block of `metered` has ended."""

    expense = NOTHING


@contextmanager
def metered() -> Iterator[Spent]:
    """Counts what this process does in the block."""
    spent, began, before = Spent(), time.monotonic(), replace(METER)
    steps, step_seconds = STEP_CLOCK.steps, STEP_CLOCK.seconds
    try:
        yield spent
    finally:
        done = METER.since(before)
        spent.expense = Expense(
            seconds=time.monotonic() - began,
            calls=done.calls,
            input_tokens=done.input_tokens,
            output_tokens=done.output_tokens,
            cost=done.cost,
            memory_mib=_resident_mib(),
            gpu_mib=_gpu_mib(),
            steps=STEP_CLOCK.steps - steps,
            step_seconds=STEP_CLOCK.seconds - step_seconds,
        )


def forget_gpu_peak() -> None:
    """The next processor's memory is measured anew."""
    if (cuda := _cuda()) is not None:
        cuda.reset_peak_memory_stats()


def empty_gpu_cache() -> None:
    """What torch keeps of the card for later is free for whoever wants it."""
    if (cuda := _cuda()) is not None:
        cuda.empty_cache()


def holds_much() -> bool:
    """Whether a model that this process no longer needs may be one too many: it uses a card, or much main memory."""
    return _cuda() is not None or _resident_mib() > MUCH_MIB


def _resident_mib() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss / _MIB)


def _gpu_mib() -> float | None:
    cuda = _cuda()
    return None if cuda is None else cuda.max_memory_reserved() / _MIB


def _cuda() -> Any:
    """torch.cuda where this process has used it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
