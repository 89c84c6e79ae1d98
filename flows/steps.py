"""Runs stages as Prefect tasks: a stage waits for the results it is handed, others run beside it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed

from flows.artifacts import ShownProgress, show_counts
from flows.environment import speak
from flows.s3_block import s3_environment
from flows.secrets import put_keys
from flows.views import UNENDED, runs
from storage.lake import event
from tasks.boards import Shown, check_installed
from tasks.fanout import WorkerPool
from tasks.prepare import PrepareConfig, prepare
from tasks.progress import TerminalProgress
from tasks.reward_model import RewardSource
from tasks.stage import RunContext, StageResult
from tasks.train_workers import TrainingWorkers
from tasks.training import final_adapters
from tasks.usage import UsageSampler

if TYPE_CHECKING:
    from flows.parameters import RunConfig
    from models.endpoint_settings import JudgeEndpoint
    from storage.lake import Lake
    from tasks.model_ref import ModelRef
    from tasks.reward_model import RewardConfig

logger = logging.getLogger(__name__)

DEEPSPEED = Path(__file__).resolve().parent.parent / "deployments" / "deepspeed"
Pending = PrefectFuture[StageResult]


@dataclass(frozen=True)
class Trained:
    """A model with adapters that stages of this run train. Prefect puts the results in the place of the futures.

    Attributes:
        base: the model before.
        merged: the stage whose adapter is merged into the weights, after those that it was trained on itself.
        adapter: the stage whose adapter stands on top, likewise.
    """

    base: ModelRef
    merged: Any = None
    adapter: Any = None

    def resolve(self, lake: Lake) -> ModelRef:
        """The model, now that its stages are complete."""
        merged, adapter = self.base.merged, None
        if self.merged is not None:
            merged = final_adapters(lake, self.merged.ref)
        if self.adapter is not None:
            *under, adapter = final_adapters(lake, self.adapter.ref)
            merged = tuple(under)
        stages = tuple(each.ref for each in (self.merged, self.adapter) if each is not None)
        return replace(self.base, merged=merged, adapter=adapter, stages=stages)


@dataclass(frozen=True)
class Rewarded:
    """A reward model that a stage of this run trains: what `RewardSource.of` takes, some of it yet to come."""

    stage: Any
    config: RewardConfig
    captions: Any
    tokens: Any
    model: Any

    def resolve(self, lake: Lake) -> RewardSource:
        """The reward model, now that its stage is complete."""
        model = self.model.resolve(lake) if isinstance(self.model, Trained) else self.model
        return RewardSource.of(self.stage, self.config, self.captions, self.tokens, model)


class Steps:
    """Hands stages to Prefect and remembers what it handed over."""

    def __init__(self, ctx: RunContext, usage: UsageSampler) -> None:
        self.ctx = ctx
        self.usage = usage
        self.pending: list[Pending] = []

    def __call__(
        self,
        stage: Callable[..., StageResult],
        *inputs: Any,
        label: str | None = None,
        after: Sequence[Pending] = (),
        **named: Any,
    ) -> Pending:
        """Begins `stage(ctx, *inputs, **named)` as soon as the futures among its inputs are done.

        Those of `after` are waited for too. `label` tells it in the UI from its namesakes.
        """
        name = stage.__name__ if label is None else f"{stage.__name__} {label}"
        submit = _perform.with_options(name=stage.__name__, task_run_name=name).submit
        future: Pending = submit(self, stage, inputs, named, return_state=False, wait_for=after)
        self.pending.append(future)
        return future

    def results(self) -> list[StageResult]:
        """Waits for all of them. The first failure is raised as it was, without waiting for the others."""
        for future in as_completed(self.pending):
            future.wait()
            if future.state.is_failed() or future.state.is_crashed():  # Those that only waited for it are "not ready".
                future.result()
        return [future.result() for future in self.pending]

    def unpack(self, value: Any) -> Any:
        """`value` with models in the place of `Trained`, and reward models in the place of `Rewarded`."""
        if isinstance(value, (Trained, Rewarded)):
            return value.resolve(self.ctx.lake)
        if isinstance(value, dict):
            return {key: self.unpack(item) for key, item in value.items()}
        return value


# Prefect's own cache would be a second opinion beside the lake, and its results a second copy.
@task(cache_policy=NO_CACHE, persist_result=False)
def _perform(
    steps: Steps, stage: Callable[..., StageResult], inputs: tuple[Any, ...], named: dict[str, Any]
) -> StageResult:
    return stage(steps.ctx, *map(steps.unpack, inputs), **steps.unpack(named))


@task(name="prepare", cache_policy=NO_CACHE, persist_result=False)
def _prepare(config: PrepareConfig, progress: ShownProgress) -> bool:
    return prepare(config, progress)


def deepspeed(strategy: str) -> dict[str, Any] | None:
    """The configuration of `run.strategy`; None for plain data parallelism."""
    if strategy == "ddp":
        return None
    config: dict[str, Any] = json.loads((DEEPSPEED / f"{strategy}.json").read_text())
    return config


def _say_who_is_here(lake: Lake) -> None:
    for other in runs(lake):
        if other["state"] == UNENDED:
            logger.warning(
                "run %s, begun %s UTC in this lake, has not ended: it was killed, or is still at work. This one goes "
                "on from what it committed; if both are at work, a shard counts once, from the first to commit it.",
                other["run"],
                f"{other['began']:%Y-%m-%d %H:%M:%S}",
            )


@contextmanager
def opened(
    flow: str, run: RunConfig, data: PrepareConfig | None, endpoints: Iterable[JudgeEndpoint] = ()
) -> Iterator[Steps]:
    """A run under way: its data in place, its workers (Ray starts with the first unit of work), progress and events.

    The workers are given what the blocks of the run and of its `endpoints` hold.
    """
    began = time.monotonic()
    check_installed(run.trackers)
    speak()
    with (
        s3_environment(run.s3_block) as of_block,
        UsageSampler() as usage,
        WorkerPool(
            run.workers,
            run.gpus_per_worker,
            environment=of_block | put_keys(endpoints),
            training=TrainingWorkers(run.training_workers, deepspeed(run.strategy)),
        ) as pool,
        TerminalProgress() as terminal,
        ShownProgress(terminal) as progress,
    ):
        shared = (run.max_quarantined, run.seed, run.retries)
        boards = Shown(run.results / "tensorboard", run.trackers, run.name)
        ctx = RunContext(run.lake_root, run.name, pool, progress, *shared, boards=boards)
        _say_who_is_here(ctx.lake)
        ctx.lake.log([event(run.name, "run_started", detail=json.dumps({"flow": flow, **run.model_dump()}))])
        if data is not None and _prepare(data, progress):
            logger.info("the data was written to %s", data.folder)
        steps = Steps(ctx, usage)
        yield steps
        results = steps.results()
        show_counts(run.name, results)
        seconds = time.monotonic() - began
        work = {"work_seconds": sum(result.work_seconds for result in results), "stages": len(results)}
        ctx.lake.log([event(run.name, "run_finished", seconds=seconds, detail=json.dumps(work))])
