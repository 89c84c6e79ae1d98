"""What every stage promises: named by what it does, sharded for ever the same way, every item accounted for."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from storage.lake import Lake
from storage.tables import Table
from tasks.boards import NOWHERE, Shown
from tasks.expense import NOTHING, Bill, Expense
from tasks.fanout import Outcome, Unit, WorkerPool, derive_seed
from tasks.out_of_memory import naming_what_to_change
from tasks.progress import Progress
from tasks.reuse import copies
from tasks.shards import Item, Shards, TwiceError, Units
from tasks.stage_events import canonical, digest, log_finished, log_left
from tasks.stopwatch import Stopwatch
from tasks.troubles import troubles_of

logger = logging.getLogger(__name__)

DONE_SHARD = -1  # The shard under which the table `stages` holds the one row of a complete stage.


class StageError(RuntimeError):
    """A stage cannot do what it promises; the text says which stage, why and what to do next."""


class QuarantineError(StageError):
    """More items of a stage are quarantined than the run allows."""


@dataclass(frozen=True)
class StageRef:
    """What a stage hands to the next: the rows with `key` in `table`, complete at `version`.

    `content`, where a stage gives it, stands for the key in the name of what is made from these rows: a hash of what is
    used of them, so that other rows that say the same are as good.
    """

    stage: str
    table: str
    key: str
    version: int
    content: str | None = None


@dataclass(frozen=True)
class Stage:
    """One step of a run. Everything but `reuse` and `label` decides the result, and so the key.

    `selection` is what decides which items there are and how they are put together, not what becomes of one of them: it
    is in the stage's key and not in an item's. `stamp` is likewise; its values are columns of the rows, those of copied
    rows too: whom rows are for, where that changes nothing of what else is in them. `attempt` counts how often items
    that ended quarantined were tried again; the ok rows of the attempt before are copied. `revision` is raised when the
    stage's code begins to give something else for the same configuration.
    """

    name: str
    table: str
    config: dict[str, Any]
    inputs: tuple[StageRef, ...]
    model: str | None
    prompts: dict[str, str]
    seed: int
    shard_size: int
    selection: dict[str, Any] = field(default_factory=dict)
    stamp: dict[str, Any] = field(default_factory=dict)
    attempt: int = 0
    revision: int = 1
    reuse: bool = False  # Copy items that stand under another key with the same item_key.
    label: str | None = None  # What tells this stage from its namesakes in a run (an arm, a checkpoint); shown only.

    @property
    def key(self) -> str:
        """16 hex digits. Inputs count by their keys: their versions move with every other stage's commits."""
        inputs = [[ref.stage, ref.table, ref.content or ref.key] for ref in self.inputs]
        made_by = [self.name, self.revision, self.table, self.config, self.prompts, self.model]
        return digest([*made_by, inputs, {**self.selection, **self.stamp}, self.seed, self.shard_size, self.attempt])

    @property
    def before(self) -> str | None:
        """Key of the attempt before this one."""
        return replace(self, attempt=self.attempt - 1).key if self.attempt else None

    @property
    def prompt_hash(self) -> str | None:
        return digest(self.prompts) if self.prompts else None

    def item_key(self, item: Item) -> str:
        """What decides this item's result whatever the run: configuration, prompts, model and the item itself.

        An item may carry `identity` (any JSON): that then stands for its content, whatever blob and row it names.
        """
        content = item.get("identity", item)
        made_by = [self.name, self.revision, self.table, self.config, self.prompts, self.model]
        return digest([*made_by, item["item_id"], content])

    def shard_seed(self, shard: int) -> int:
        return derive_seed(self.seed, self.name, shard)


@runtime_checkable
class AttemptSettings(Protocol):
    """Settings of a processor for which it counts how often its items were tried before."""

    def at_attempt(self, attempt: int) -> Any:
        """The settings for an attempt (Stage.attempt)."""
        ...


class StageResult(BaseModel):
    """Names, versions and counts of a complete stage. `work_seconds` leaves out the waits for Ray and free workers.

    `expense` is what this run paid for it; what an earlier run had done of it is not in there.
    """

    stage: str
    label: str | None
    table: str
    key: str
    version: int
    items: int
    ok: int
    quarantined: int
    reused: int
    seconds: float
    work_seconds: float
    cached: bool
    expense: Expense = NOTHING

    @property
    def ref(self) -> StageRef:
        return StageRef(self.stage, self.table, self.key, self.version)


@dataclass
class RunContext:
    """What all stages of a run share.

    `max_quarantined` is a fraction of a stage's items; `retries` says how often quarantined items are tried again.
    A run that `looks_only` asks what there is to do: it has no workers, writes nothing, and bothers nobody. Training
    curves are copied to the places that `boards` names.
    """

    lake_root: str
    run: str
    pool: WorkerPool
    progress: Progress
    max_quarantined: float
    seed: int
    retries: int = 0
    looks_only: bool = False
    boards: Shown = NOWHERE

    @cached_property
    def lake(self) -> Lake:
        return Lake(self.lake_root)


@dataclass
class _Work:
    """A stage under way: its shards of sorted items, and those of their rows that are copied from other keys."""

    stage: Stage
    table: Table
    run: str
    shards: Shards
    copied: dict[str, list[Item]]

    def unit(self, shard: int) -> Unit:
        """What is left to do of a shard."""
        left = [item for item in self.shards[shard] if item["item_id"] not in self.copied]
        return Unit(shard, left, self.stage.shard_seed(shard))

    def to_do(self, shards: Iterable[int]) -> list[int]:
        """Those of the shards that have something left to do."""
        return [shard for shard in shards if not self.copied or self.unit(shard).items]

    def commit(self, shard: int, outcomes: Sequence[Outcome]) -> None:
        made = {outcome.item_id: outcome for outcome in outcomes}
        rows: list[Item] = []
        for item in self.shards[shard]:
            item_id = item["item_id"]
            if item_id in self.copied:
                rows += [{**row, **self.stage.stamp} for row in self.copied[item_id]]
            else:
                rows += self._rows(shard, item, made[item_id])
        if not self.table.commit_shard(rows, stage_key=self.stage.key, shard=shard):
            logger.info("%s: another run committed shard %d meanwhile; its rows are used", self.stage.name, shard)

    def _rows(self, shard: int, item: Item, outcome: Outcome) -> list[Item]:
        provenance = {
            "item_id": outcome.item_id,
            "status": "quarantined" if outcome.rows is None else "ok",
            "reason": outcome.reason,
            "item_key": self.stage.item_key(item),
            "run": self.run,
            "model": self.stage.model,
            "prompt_hash": self.stage.prompt_hash,
            "seed": self.stage.shard_seed(shard),
        }
        return [{**row, **self.stage.stamp, **provenance} for row in outcome.rows or [{}]]


def run_stage(
    ctx: RunContext,
    stage: Stage,
    items: Callable[[], Iterable[Item]],
    processor: type,
    settings: Any,
    *,
    chunk: int | None = None,
    item_timeout_s: float | None = None,
) -> StageResult:
    """Brings a stage to its end: uses a complete output, continues a partial one, computes the rest.

    `items` (called only when there is something to do) gives dicts with `item_id`; they are sorted by it and cut into
    shards of `shard_size`, each one call of `processor(settings)` (or one for `chunk` items) and one commit.
    Raises QuarantineError above ctx.max_quarantined, StageError for items without an id of their own, and what the
    pool and the lake raise.
    """
    began = time.monotonic()
    task = _Task(items, processor, settings, chunk, item_timeout_s)
    done = _finish(ctx, stage, task)
    for attempt in range(1, ctx.retries + 1):
        if not done.counts["quarantined"]:
            break
        _record(ctx, stage, done)
        again = replace(stage, attempt=attempt)
        tried = done.then(_finish(ctx, again, task))
        _record(ctx, again, tried)
        if tried.counts["ok"] > done.counts["ok"]:  # Else nothing that builds on this stage has a reason to change.
            stage, done = again, tried
    _check_quarantine(ctx, stage, done.counts)
    _record(ctx, stage, done)
    seconds = time.monotonic() - began
    result = StageResult(
        stage=stage.name,
        label=stage.label,
        table=stage.table,
        key=stage.key,
        version=ctx.lake.table(stage.table).version(),
        reused=done.reused,
        seconds=seconds,
        work_seconds=seconds - done.waited,
        cached=done.cached,
        expense=done.expense,
        **done.counts,
    )
    log_finished(ctx, result)
    return result


@dataclass(frozen=True)
class _Done:
    """What the attempts at a stage came to: `counts` of the last; `waited` seconds for Ray and free workers."""

    counts: dict[str, int]
    reused: int = 0
    waited: float = 0.0
    cached: bool = False
    expense: Expense = NOTHING

    def then(self, later: "_Done") -> "_Done":
        """The later attempt; what was waited for and paid counts together."""
        return replace(later, waited=self.waited + later.waited, expense=self.expense + later.expense)


@dataclass(frozen=True)
class _Task:
    """What `run_stage` was given besides the stage."""

    items: Callable[[], Iterable[Item]]
    processor: type
    settings: Any
    chunk: int | None
    item_timeout_s: float | None


def _finish(ctx: RunContext, stage: Stage, task: _Task) -> _Done:
    """One attempt at a stage's items, unless it stands complete in the lake."""
    table = ctx.lake.table("stages")
    if table.committed(stage.key, [DONE_SHARD]):
        (counts,) = table.read(stage.key, ["items", "ok", "quarantined"]).to_pylist()
        return _Done(counts, cached=True)
    work, bill, began = _plan(ctx, stage, task.items), Bill(), time.monotonic()
    try:
        with naming_what_to_change(stage.name, stage.label, task.settings, stage.config):
            waited = _compute(ctx, work, task, bill)
    except BaseException:
        log_left(ctx, stage, bill, time.monotonic() - began)
        raise
    return _Done(_account(work), reused=len(work.copied), waited=waited, expense=bill.total)


def _plan(ctx: RunContext, stage: Stage, items: Callable[[], Iterable[Item]]) -> _Work:
    try:
        shards = Shards(items(), stage.shard_size)
    except TwiceError as error:
        raise StageError(f"Stage {stage.name} got the item {error} twice: give each item an id of its own.") from None
    if not shards.items:
        raise StageError(f"Stage {stage.name} has no items: nothing in its inputs is ok. Look at the stage before it.")
    table, copied = ctx.lake.table(stage.table), dict[str, list[Item]]()
    if stage.reuse or stage.attempt:
        copied = copies(table, stage, [stage.item_key(item) for item in shards.each()])
    return _Work(stage, table, ctx.run, shards, copied)


def _compute(ctx: RunContext, work: _Work, task: _Task, bill: Bill) -> float:
    """Commits every shard that is not there yet; returns the seconds in which nothing of this stage was under way."""
    stage, everything = work.stage, range(len(work.shards))
    committed = work.table.committed(stage.key, everything)
    bar = ctx.progress.start(stage.label or stage.name, work.shards.items)
    try:
        bar.advance(sum(map(work.shards.count, committed)))
        missing = [shard for shard in everything if shard not in committed]
        waiting = work.to_do(missing)
        clock = Stopwatch()
        results = ctx.pool.run(
            task.processor,
            task.settings.at_attempt(stage.attempt) if isinstance(task.settings, AttemptSettings) else task.settings,
            Units(waiting, work.unit),
            chunk=task.chunk,
            item_timeout_s=task.item_timeout_s,
            clock=clock,
            bill=bill,
        )
        for shard in sorted({*missing} - {*waiting}):
            work.commit(shard, [])
            bar.advance(work.shards.count(shard))
        while (found := clock.wait(lambda: next(results, None))) is not None:
            unit, outcomes = found
            work.commit(unit.shard, outcomes)
            bar.advance(work.shards.count(unit.shard))
        return clock.idle_seconds()
    finally:
        bar.finish()


def _account(work: _Work) -> dict[str, Any]:
    counts = work.table.count(work.stage.key)
    items = work.shards.items
    if counts["ok"] + counts["quarantined"] != items:
        raise StageError(
            f"Stage {work.stage.name} lost count: of {items} items {counts['ok']} are ok and {counts['quarantined']} "
            f"quarantined under key {work.stage.key} of table {work.table.name}. If nobody changed the lake by hand, "
            "this is a bug; a new lake helps."
        )
    return {"items": items, **counts}


def _check_quarantine(ctx: RunContext, stage: Stage, counts: dict[str, int]) -> None:
    if counts["quarantined"] <= ctx.max_quarantined * counts["items"]:
        return
    troubles = "; ".join(map(str, troubles_of(ctx.lake, stage.table, stage.key)[:3]))
    raise QuarantineError(
        f"Stage {stage.name}: {counts['quarantined']} of {counts['items']} items are quarantined, more than "
        f"max_quarantined {ctx.max_quarantined:g} allows. Commonest reasons: {troubles}. Mend or remove these items "
        f"and run again; run.retries={ctx.retries + 1} tries them once more as they are (a time limit, memory), and "
        "run.max_quarantined lets more of them pass. What is done is kept."
    )


def _record(ctx: RunContext, stage: Stage, done: _Done) -> None:
    """Writes down that the stage is complete, unless that stands there."""
    if done.cached:
        return
    row = {
        "item_id": stage.key,
        "status": "ok",
        "item_key": stage.key,
        "run": ctx.run,
        "model": stage.model,
        "prompt_hash": stage.prompt_hash,
        "seed": stage.seed,
        "stage": stage.name,
        "config": canonical(stage.config),
        # Without their versions, which count the commits of all runs and so are no content; the event log has them.
        "inputs": canonical([{"stage": ref.stage, "table": ref.table, "key": ref.key} for ref in stage.inputs]),
        "output_table": stage.table,
        **done.counts,
    }
    ctx.lake.table("stages").commit_shard([row], stage_key=stage.key, shard=DONE_SHARD)
