"""Fan-out over Ray actors: one bad item costs only itself, a dead or hung worker is replaced."""

import hashlib
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tasks.cluster import RayKeeper
from tasks.expense import Bill
from tasks.stopwatch import Stopwatch
from tasks.train_workers import GroupCancelled, Order, TrainingGroup, TrainingWorkers
from tasks.worker import (
    Outcome,
    OutOfMemory,
    Processor,
    ProcessorError,
    StageFailure,
    contract_breach,
    derive_seed,
    last_item_done,
    next_item,
)
from tasks.worker_handle import Worker, WorkerDiedError, WorkerError, WorkerTimedOutError

__all__ = [
    "OutOfMemory",
    "Outcome",
    "Processor",
    "ProcessorError",
    "StageFailure",
    "Unit",
    "WorkerError",
    "WorkerPool",
    "derive_seed",
    "last_item_done",
    "next_item",
]

POLL_S = 0.2
ONE_WORKER = TrainingWorkers()


class _CallFailed(Exception):
    """A call gave no outcomes; the text is the reason if a single item was in it."""


class _Cancelled(Exception):
    """The consumer of the results has gone."""


@dataclass(frozen=True)
class Unit:
    """A shard's worth of items (each a dict with `item_id`) and its seed."""

    shard: int
    items: list[dict[str, Any]]
    seed: int


@dataclass
class _Job:
    """One `run`: what to do, and the workers it holds now."""

    key: str
    payload: bytes
    name: str
    chunk: int | None
    item_timeout_s: float | None
    units: Iterator[Unit]
    results: queue.Queue["tuple[Unit, list[Outcome]] | Exception"]
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    busy: set[Worker | TrainingGroup] = field(default_factory=set)
    clock: Stopwatch = field(default_factory=Stopwatch)
    bill: Bill = field(default_factory=Bill)
    whole_stage: bool = False  # No item may be blamed: a call that fails ends the stage.

    def next_unit(self) -> Unit | None:
        with self.lock:
            return None if self.stop.is_set() else next(self.units, None)


class WorkerPool:
    """`workers` long-lived Ray actors for every stage of a run. A context manager; Ray starts at the first unit.

    Several threads may `run` stages at once: they share the workers. An initialised Ray, or the cluster of
    RAY_ADDRESS, is used as it is; otherwise a local one is started, and stopped by `close`. `start_seconds` tells how
    long that start took.
    """

    def __init__(
        self,
        workers: int,
        gpus_per_worker: float = 0,
        max_attempts: int = 3,
        environment: dict[str, str] | None = None,
        training: TrainingWorkers = ONE_WORKER,
    ) -> None:
        """`max_attempts`: so often may a worker die while it loads a processor; once less on one call.

        `environment`: variables that the workers' processes are given; never written anywhere. `training`: how many of
        the workers a training takes; while it runs as a group of its own, they have no processes.
        """
        if training.count > workers or (training.count > 1 and gpus_per_worker % 1):
            raise ValueError(
                f"a training cannot take {training.count} of {workers} workers with {gpus_per_worker:g} GPUs each: it "
                "needs as many workers, and whole GPUs"
            )
        if workers < 1 or max_attempts < 2:
            raise ValueError(
                f"workers must be at least 1 and max_attempts at least 2, not {workers} and {max_attempts}"
            )
        self.workers = workers
        self.max_attempts = max_attempts
        self._gpus, self._environment, self._training = gpus_per_worker, environment or {}, training
        self._all = [Worker(gpus_per_worker, self._environment) for _ in range(workers)]
        self._idle: queue.Queue[Worker] = queue.Queue()
        for worker in self._all:
            self._idle.put(worker)
        self._start_lock, self._taking = threading.Lock(), threading.Lock()
        self._started = self._closed = False
        self.start_seconds = 0.0
        self._keeper: RayKeeper | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> float:
        """Starts Ray and the workers' processes unless they run; returns the seconds this call waited for it."""
        before = time.monotonic()
        with self._start_lock:
            if self._closed:
                raise WorkerError("this worker pool is closed; open a new one for the next run")
            if not self._started:
                self._keeper = RayKeeper(self.workers, self.workers * self._gpus)
                starters = [threading.Thread(target=_warm, args=(worker,), daemon=True) for worker in self._all]
                for thread in starters:
                    thread.start()
                for thread in starters:
                    thread.join()
                self._started = True
                self.start_seconds = time.monotonic() - before
        return time.monotonic() - before

    def close(self) -> None:
        """Ends the workers, and Ray where this pool started it. Safe to call twice."""
        with self._start_lock:
            self._closed = True
            for worker in self._all:
                worker.closed = True
                worker.kill()
            if self._keeper is not None:
                self._keeper.release()
            self._started, self._keeper = False, None

    def run(
        self,
        processor: type,
        settings: Any,
        units: Sequence[Unit],
        *,
        chunk: int | None = None,
        item_timeout_s: float | None = None,
        clock: Stopwatch | None = None,
        bill: Bill | None = None,
    ) -> Iterator[tuple[Unit, list[Outcome]]]:
        """Yields each unit with one outcome an item, in the items' order; units in the order of their completion.

        A unit is one call of `processor(settings).process`, or one call for every `chunk` items; a call may take
        `item_timeout_s` for each of its items (a processor that says `next_item` is held to it item by item). A call
        that raises, kills its worker or passes its limit is repeated item by item to find the guilty, and then once for
        all the others together: so outcomes do not depend on which call failed first. What no item can cause
        (construction fails, LakeError, OutOfMemory of a model) is raised here as it is. Closing the iterator cancels
        what is under way. `clock` is told when workers are at the units, `bill` what it cost.
        """
        if not units:
            return
        self.start()
        payload = _pickle((processor, settings))
        key = hashlib.sha256(payload).hexdigest()
        results: queue.Queue[tuple[Unit, list[Outcome]] | Exception] = queue.Queue(maxsize=self.workers)
        job = _Job(key, payload, processor.__name__, chunk, item_timeout_s, iter(units), results)
        job.clock, job.bill = clock or job.clock, bill or job.bill
        job.whole_stage = getattr(processor, "whole_stage", False)
        servants = [
            threading.Thread(target=self._serve, args=(job,), name=f"fanout-{n}", daemon=True)
            for n in range(min(self.workers, len(units)))
        ]
        for thread in servants:
            thread.start()
        try:
            for _ in range(len(units)):
                result = _get(results)
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            _cancel(job, servants)

    def _serve(self, job: _Job) -> None:
        while (unit := job.next_unit()) is not None:
            result: tuple[Unit, list[Outcome]] | Exception
            in_group = job.whole_stage and self._training.count > 1
            try:
                result = (unit, self._on_a_group(job, unit) if in_group else self._on_a_worker(job, unit))
            except _Cancelled:
                return
            except Exception as error:
                result = error
            job.results.put(result)

    def _on_a_worker(self, job: _Job, unit: Unit) -> list[Outcome]:
        worker = self._take(job)
        since = time.monotonic()
        try:
            return [
                outcome for items, seed in _calls(unit, job.chunk) for outcome in self._settle(job, worker, items, seed)
            ]
        finally:
            job.clock.worked(since)
            with job.lock:
                job.busy.discard(worker)
            self._idle.put(worker)

    def _on_a_group(self, job: _Job, unit: Unit) -> list[Outcome]:
        """A training on several workers: a group of Ray Train in the place of as many of the pool's."""
        taken: list[Worker] = []
        since = time.monotonic()
        order = Order(
            job.payload, self._environment, self._training, self._gpus, self.max_attempts, search_path=[*sys.path]
        )
        group = TrainingGroup(order)
        try:
            self._take_all(job, taken)
            for worker in taken:
                worker.kill()  # its GPU is the group's now
            since = time.monotonic()
            with job.lock:
                job.busy.add(group)
            outcomes, expense = group.run(job.stop.is_set)
            job.bill.add(expense)
            if wrong := contract_breach(unit.items, outcomes):
                raise ProcessorError(f"{job.name}: {wrong}")
            return outcomes
        except GroupCancelled as error:
            raise _Cancelled from error
        finally:
            job.clock.worked(since)
            with job.lock:
                job.busy -= {group, *taken}
            for worker in taken:
                self._idle.put(worker)

    def _take_all(self, job: _Job, taken: list[Worker]) -> None:
        """As many workers as a training takes; two that took half each would wait for one another for ever."""
        while not self._taking.acquire(timeout=POLL_S):
            if job.stop.is_set():
                raise _Cancelled
        try:
            while len(taken) < self._training.count:
                taken.append(self._take(job))
        finally:
            self._taking.release()

    def _take(self, job: _Job) -> Worker:
        while not job.stop.is_set():
            try:
                worker = self._idle.get(timeout=POLL_S)
            except queue.Empty:
                continue
            with job.lock:
                job.busy.add(worker)
            return worker
        raise _Cancelled

    def _settle(self, job: _Job, worker: Worker, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        try:
            return self._attempt(job, worker, items, seed)
        except _CallFailed as failure:
            if job.whole_stage:
                raise StageFailure(f"{job.name} {failure}; run the same command again to continue") from failure
            alone = [self._alone(job, worker, item, seed) for item in items]
        good = [item for item, outcome in zip(items, alone, strict=True) if outcome.rows is not None]
        if len(good) < 2:
            return alone
        # Together once more: what the good ones give must not depend on whether their call was split.
        try:
            together = {outcome.item_id: outcome for outcome in self._attempt(job, worker, good, seed)}
        except _CallFailed:
            return alone
        return [together.get(outcome.item_id, outcome) for outcome in alone]

    def _alone(self, job: _Job, worker: Worker, item: dict[str, Any], seed: int) -> Outcome:
        try:
            return self._attempt(job, worker, [item], seed)[0]
        except _CallFailed as failure:
            return Outcome(item["item_id"], None, str(failure))

    def _attempt(self, job: _Job, worker: Worker, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        """One call, repeated when its worker dies. Raises _CallFailed, _Cancelled, or what no item can cause."""
        # Several that die together are asked one by one at once: a second time together would cost them all again.
        deaths, allowed = 0, self.max_attempts - 1 if len(items) == 1 else 1
        while deaths < allowed:
            self._ready(job, worker)
            try:
                reply = worker.process(job.key, items, seed, job.item_timeout_s)
            except WorkerTimedOutError as slow:
                raise _CallFailed(f"took longer than {job.item_timeout_s:g} s to process and was stopped") from slow
            except WorkerDiedError:
                deaths += 1
                continue
            job.bill.add(reply.expense)
            if reply.fatal is not None:
                raise reply.fatal
            if reply.outcomes is None:
                raise _CallFailed(reply.failure)
            return reply.outcomes
        raise _CallFailed(
            f"killed its worker {deaths} times when processed alone (out of memory, or a crash in native code)"
        )

    def _ready(self, job: _Job, worker: Worker) -> None:
        for _ in range(self.max_attempts):
            if job.stop.is_set():
                raise _Cancelled
            try:
                worker.start()
                return job.bill.add(worker.load(job.key, job.payload))
            except WorkerDiedError:
                continue
        raise WorkerError(
            f"a worker died {self.max_attempts} times while it loaded {job.name}: most likely out of memory; "
            "use fewer workers or a smaller model"
        )


def _warm(worker: Worker) -> None:
    """Starts a worker's process ahead of its first unit; a failure shows again, with its cause, at that unit."""
    try:
        worker.start()
    except WorkerDiedError:
        return


def _pickle(value: Any) -> bytes:
    import ray.cloudpickle

    data: bytes = ray.cloudpickle.dumps(value)
    return data


def _calls(unit: Unit, chunk: int | None) -> list[tuple[list[dict[str, Any]], int]]:
    """The unit's calls: items and seed of each. A unit of one call keeps the unit's seed."""
    size = chunk or len(unit.items)
    if len(unit.items) <= size:
        return [(unit.items, unit.seed)] if unit.items else []
    starts = range(0, len(unit.items), size)
    return [(unit.items[start : start + size], derive_seed(unit.seed, start)) for start in starts]


def _get(results: "queue.Queue[tuple[Unit, list[Outcome]] | Exception]") -> tuple[Unit, list[Outcome]] | Exception:
    # Not one endless get: a cancellation that Prefect raises in this thread arrives only between bytecodes.
    while True:
        try:
            return results.get(timeout=POLL_S)
        except queue.Empty:
            continue


def _cancel(job: _Job, servants: list[threading.Thread]) -> None:
    """Ends a run: nothing more is begun, and a worker that is still at it is killed (the pool replaces it)."""
    with job.lock:
        job.stop.set()
    while any(thread.is_alive() for thread in servants):
        with job.lock:  # A worker leaves `busy` under this lock, so none is killed that already serves another run.
            for worker in job.busy:
                worker.kill()
        try:
            job.results.get(timeout=0.05)
        except queue.Empty:
            continue
