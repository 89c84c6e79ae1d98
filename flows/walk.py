"""Goes through a flow's graph without Prefect, stage after stage: to measure a sample, or to see what is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flows.steps import Rewarded, Trained
from tasks.stage import RunContext, StageResult

logger = logging.getLogger(__name__)
REWARDED_BY = ("stage", "captions", "tokens", "model")  # What of a reward model other stages make.


class NotDoneError(Exception):
    """A stage has work left, and this walk does none; the number of its items that are left."""

    def __init__(self, left: int) -> None:
        super().__init__(left)
        self.left = left


class NoWork:
    """Takes the place of the workers in a run that may only look."""

    workers = 1
    start_seconds = 0.0

    def run(self, _processor: type, _settings: Any, units: Sequence[Any], **_: Any) -> Iterator[Any]:
        """Raises NotDoneError: a complete stage never asks for workers."""
        raise NotDoneError(sum(len(unit.items) for unit in units))


@dataclass(frozen=True)
class Visit:
    """A stage that the walk came by.

    Attributes:
        name: the stage with its label.
        stage: its function's name.
        result: what it gave; None where it could not run.
        left: its items that are not done, where that is known.
        fault: why there is no result.
        broken: whether the stage itself failed, and was not only left undone.
        needs: names of the stages whose results it was handed.
    """

    name: str
    stage: str
    result: StageResult | None = None
    left: int | None = None
    fault: str | None = None
    broken: bool = False
    needs: tuple[str, ...] = ()


class _MissingError(Exception):
    """An input is not there; the text says which."""


class Walk:
    """Stands where a flow has its Steps: `figure(Walk(ctx), parameters)`. A failure costs only what needs its stage."""

    def __init__(self, ctx: RunContext) -> None:
        self.ctx = ctx
        self.visits: list[Visit] = []

    def __call__(
        self,
        stage: Callable[..., StageResult],
        *inputs: Any,
        label: str | None = None,
        after: Sequence[Visit] = (),
        **named: Any,
    ) -> Any:
        """Runs the stage now."""
        name = stage.__name__ if label is None else f"{stage.__name__} {label}"
        needs = tuple(dict.fromkeys(visit.name for visit in visits_in([*inputs, *named.values(), *after])))
        seen = Visit(name, stage.__name__, needs=needs)
        try:
            given = [self._unpack(each) for each in inputs]
            seen = replace(
                seen, result=stage(self.ctx, *given, **{key: self._unpack(each) for key, each in named.items()})
            )
        except NotDoneError as error:
            seen = replace(seen, left=error.left, fault="not done")
        except _MissingError as error:
            seen = replace(seen, fault=str(error))
        except Exception as error:
            # Whatever it is, it is shown beside the stage; the rest of the graph can still be told.
            logger.debug("%s failed", name, exc_info=True)
            seen = replace(seen, fault=str(error) or type(error).__name__, broken=True)
        self.visits.append(seen)
        return seen

    def _unpack(self, value: Any) -> Any:
        """`value` with results in the place of visits."""
        if isinstance(value, Visit):
            if value.result is None:
                raise _MissingError(f"{value.name} was not measured")
            return value.result
        if isinstance(value, Trained):
            merged, adapter = self._unpack(value.merged), self._unpack(value.adapter)
            return replace(value, merged=merged, adapter=adapter).resolve(self.ctx.lake)
        if isinstance(value, Rewarded):
            parts = {name: self._unpack(getattr(value, name)) for name in REWARDED_BY}
            return replace(value, **parts).resolve(self.ctx.lake)
        if isinstance(value, dict):
            return {key: self._unpack(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._unpack(each) for each in value]
        return value


def visits_in(values: Sequence[Any]) -> Iterator[Visit]:
    for value in values:
        if isinstance(value, Visit):
            yield value
        elif isinstance(value, Trained):
            yield from visits_in([value.merged, value.adapter])
        elif isinstance(value, Rewarded):
            yield from visits_in([getattr(value, name) for name in REWARDED_BY])
        elif isinstance(value, list):
            yield from visits_in(value)
        elif isinstance(value, dict):
            yield from visits_in([*value.values()])
