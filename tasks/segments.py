"""Segments: iterations of a policy's training that are a stage of their own, because other stages come between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from tasks.stage import StageRef, StageResult


@dataclass(frozen=True)
class Segment:
    """A stretch of a training, or the whole of it.

    Attributes:
        begin: steps of the training that the stages before have done.
        until: those that are done at its end.
        steps: those of the whole training.
        before: the stages of the earlier stretches, in order.
    """

    begin: int
    until: int
    steps: int
    before: tuple[StageRef, ...] = ()

    @classmethod
    def of(cls, steps: int, made: range | None = None, before: Sequence[StageResult] = ()) -> Self:
        """The steps `made` of a training of so many; None: all."""
        if made is None:
            return cls(0, steps, steps)
        return cls(made.start, made.stop, steps, tuple(each.ref for each in before))

    @property
    def is_last(self) -> bool:
        """Whether the training ends with it: no stage goes on from its state."""
        return self.until == self.steps

    @property
    def decisive(self) -> dict[str, Any]:
        """What of it enters the stage's configuration: nothing where it is the whole. Its begin is that of an input."""
        return {} if self.is_last and not self.before else {"until": self.until}

    @property
    def begun(self) -> StageRef | None:
        """The stage that it goes on from."""
        return self.before[-1] if self.before else None

    @property
    def inputs(self) -> tuple[StageRef, ...]:
        return self.before[-1:]

    def name(self, arm: str) -> str:
        """What its rows are called: the last one's are the arm's."""
        return arm if self.is_last else segment_name(arm, len(self.before) + 1)


def segment_name(arm: str, number: int) -> str:
    """What a segment of an arm's policy but the last is called, counted from 1."""
    return f"{arm}_segment_{number}"


_REFRESH = "_refresh_"


def refresh_name(arm: str, number: int) -> str:
    """What labels and reward model of an arm's refresh are called, counted from 1, in the way of an arm of its own."""
    return f"{arm}{_REFRESH}{number}"


def refreshed_arm(name: str) -> str:
    """The arm whose refresh is called so; else the name."""
    arm, _, number = name.rpartition(_REFRESH)
    return arm if number.isdecimal() else name
