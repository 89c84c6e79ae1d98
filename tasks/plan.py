"""What a run will cost: a small sample of it is run and measured, and its figures are scaled to the whole.

The sample goes through the product's own stages, so there is no model of costs beside them that could be wrong. What is
scaled: items of a stage that works item by item, steps of a training. What is not: loading a model, canaries.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tasks.expense import Expense

logger = logging.getLogger(__name__)

PLAN = "plan.json"
SAMPLE = 16  # Questions of each split that are run to measure.


@dataclass(frozen=True)
class Size:
    """How large a stage is.

    Attributes:
        sampled: units that the sample ran: items, or steps of a training.
        items: units of the whole stage.
        to_do: those that the lake does not hold yet.
        shards: calls into which the whole is cut: so many workers can be at it.
        training: whether the units are steps.
    """

    sampled: int
    items: int
    to_do: int
    shards: int = 1
    training: bool = False


@dataclass(frozen=True)
class Line:
    """One stage of a plan, or of what it came to.

    Attributes:
        name: the stage with its label.
        items: units of the whole stage: items, or steps of a training.
        to_do: those that are not in the lake yet.
        calls: model calls, see tasks.expense.Expense; None where it was not measured, as all below.
        input_tokens: that they read.
        output_tokens: that they write.
        cost: money for endpoints, in the currency of their prices.
        cost_bound: the most that it can be: what is left of the endpoint's budget; None without one.
        account: whom the calls are charged to; lines of one account share its budget.
        memory_mib: of one worker: of its GPU where it has one, else resident.
        on_gpu: whether that is GPU memory.
        seconds: of workers, all together.
        wall_seconds: from the stage's begin to its end when the workers are free for it.
        needs: names of the stages that must end before.
        note: why something is not known, or what it was taken from.
    """

    name: str
    items: int
    to_do: int
    calls: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    cost_bound: float | None = None
    account: str | None = None
    memory_mib: float | None = None
    on_gpu: bool = False
    seconds: float | None = None
    wall_seconds: float | None = None
    needs: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Plan:
    """The price of a run before it begins.

    Attributes:
        counts: what goes in: videos, clips, frames, questions by split.
        lines: its stages in order.
        workers: processes that share the work.
        sample: instructions of each split that were run to measure.
        machine: where that was.
        digest: of the parameters that were planned.
        price_per_hour: of the machines that the workers run on; None: not counted.
    """

    counts: dict[str, int]
    lines: list[Line]
    workers: int
    sample: int
    machine: str
    digest: str
    price_per_hour: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def wall_seconds(self) -> float:
        """From begin to end: what the workers have to do together, but no less than the longest chain of stages."""
        busy = sum(line.seconds or 0.0 for line in self.lines) / self.workers
        ends: dict[str, float] = {}
        for line in self.lines:
            begin = max((ends.get(need, 0.0) for need in line.needs), default=0.0)
            ends[line.name] = begin + (line.wall_seconds or 0.0)
        return max(busy, *ends.values(), 0.0)

    @property
    def unknown(self) -> list[str]:
        """Stages whose time is not in the sum."""
        return [line.name for line in self.lines if line.to_do and line.seconds is None]

    @property
    def cost(self) -> float:
        """Money for endpoints and, with a price by the hour, for machines."""
        hours = self.wall_seconds / 3600 * (self.price_per_hour or 0.0)
        return sum(line.cost or 0.0 for line in self.lines) + hours

    @property
    def cost_bound(self) -> float | None:
        """The most that endpoints can cost; None where one has no budget, or none is asked."""
        bounds = {line.account: line.cost_bound for line in self.lines if line.account is not None}
        known = [bound for bound in bounds.values() if bound is not None]
        return sum(known) if known and len(known) == len(bounds) else None

    def write(self, folder: Path) -> Path:
        """plan.json in the run's folder, for the report to compare with."""
        from tasks.pages import write

        folder.mkdir(parents=True, exist_ok=True)
        totals = {"wall_seconds": self.wall_seconds, "cost": self.cost, "cost_bound": self.cost_bound}
        write(folder / PLAN, json.dumps({**asdict(self), "totals": totals}, indent=2) + "\n")
        return folder / PLAN

    @classmethod
    def read(cls, folder: Path) -> Plan | None:
        """The plan in the run's folder, if there is one that can be read."""
        try:
            values = json.loads((folder / PLAN).read_text())
            lines = [Line(**{**line, "needs": tuple(line["needs"])}) for line in values["lines"]]
            return cls(**{**{each.name: values[each.name] for each in fields(cls)}, "lines": lines})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("%s is no plan (%s): make it again with `rlaif plan`.", folder / PLAN, error)
            return None


def scaled(name: str, size: Size, found: Expense, workers: int, needs: tuple[str, ...]) -> Line:
    """The whole of a stage from what its sample cost."""
    share = size.to_do / size.sampled
    if size.training:
        steps = size.sampled
        a_step = found.step_seconds / found.steps if found.steps else found.seconds / steps
        once = max(0.0, found.seconds - a_step * steps)
        seconds = once + a_step * size.to_do
    else:
        once, seconds = 0.0, found.seconds * share
    together = max(1, min(workers, math.ceil(size.shards * size.to_do / max(1, size.items))))
    loading = found.load_seconds * together
    return Line(
        name=name,
        items=size.items,
        to_do=size.to_do,
        calls=round(found.calls * share),
        input_tokens=round(found.input_tokens * share),
        output_tokens=round(found.output_tokens * share),
        memory_mib=found.memory_mib if found.gpu_mib is None else found.gpu_mib,
        on_gpu=found.gpu_mib is not None,
        seconds=seconds + loading,
        wall_seconds=seconds / together + found.load_seconds,
        needs=needs,
    )


def in_the_lake(name: str, items: int, needs: tuple[str, ...]) -> Line:
    """A stage that is done."""
    return Line(name, items, 0, 0, 0, 0, seconds=0.0, wall_seconds=0.0, needs=needs, note="in the lake")


def actual(name: str, items: int, spent: Expense, seconds: float) -> Line:
    """What a stage came to; `seconds` from its begin to its end."""
    return Line(
        name=name,
        items=items,
        to_do=items,
        calls=spent.calls,
        input_tokens=spent.input_tokens,
        output_tokens=spent.output_tokens,
        cost=spent.cost,
        memory_mib=spent.memory_mib if spent.gpu_mib is None else spent.gpu_mib,
        on_gpu=spent.gpu_mib is not None,
        seconds=spent.seconds + spent.load_seconds,
        wall_seconds=seconds,
    )


def digest(parameters: dict[str, Any]) -> str:
    """What tells the parameters of two runs apart, where that can change what they cost; 16 hex digits."""
    decisive = {key: value for key, value in parameters.items() if key not in ("run", "report")}
    run = parameters.get("run") or {}
    decisive["workers"] = [run.get("workers"), run.get("gpus_per_worker")]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def evenly(total: int, wanted: int) -> Sequence[int]:
    """`wanted` of the numbers 0 to `total` - 1, at equal distances; all when there are fewer."""
    count = min(total, wanted)
    return [place * total // count for place in range(count)]
