"""The driver's end of one worker process."""

from __future__ import annotations

import sys
from typing import Any

from tasks.expense import NOTHING, Expense
from tasks.worker import Reply, WorkerProcess

KEPT_PROCESSORS = 2
KEPT_ON_GPU = 1  # A card that holds one model seldom holds two; plan and doctor count one.


class WorkerError(RuntimeError):
    """Workers die before they can do any work, or the pool is used after it was closed."""


class WorkerDiedError(Exception):
    """The worker process went away during a call."""


class WorkerTimedOutError(Exception):
    """A call passed its limit; its worker was killed."""


class Worker:
    """The driver's end of one worker process; starts it when needed and again after its death."""

    def __init__(self, gpus: float, environment: dict[str, str]) -> None:
        self.closed = False
        self._environment = environment
        self._gpus = gpus
        self._kept = KEPT_ON_GPU if gpus else KEPT_PROCESSORS
        self._actor: Any = None
        self._loaded: list[str] = []

    def start(self) -> None:
        import ray

        if self.closed:
            raise WorkerError("this worker pool is closed; open a new one for the next run")
        if self._actor is None:
            # No CPU share, but SPREAD: two pools on one cluster share it instead of waiting for one another.
            actor = ray.remote(WorkerProcess).options(num_cpus=0, num_gpus=self._gpus, scheduling_strategy="SPREAD")
            self._actor = actor.remote(sys.path)
            self._call(None, "ping")
            if self._environment:
                # By a call and not by Ray's runtime_env, which stands in Ray's logs.
                self._call(None, "equip", self._environment)

    def load(self, key: str, payload: bytes) -> Expense:
        """Builds the processor in the process, unless it is there; raises what its construction raised."""
        # The list of this process: a cancellation may kill it meanwhile from another thread, and the next begins empty.
        loaded = self._loaded
        if key in loaded:
            loaded.append(loaded.pop(loaded.index(key)))
            return NOTHING
        evict = loaded[: max(0, len(loaded) + 1 - self._kept)]
        reply: Reply = self._call(None, "prepare", key, payload, evict)
        del loaded[: len(evict)]
        if reply.fatal is not None:
            raise reply.fatal
        loaded.append(key)
        return reply.expense

    def process(self, key: str, items: list[dict[str, Any]], seed: int, item_timeout_s: float | None) -> Reply:
        """One call. An item alone is timed here, several are timed in the process too, one by one (`next_item`)."""
        alone = len(items) == 1
        limit_s = None if item_timeout_s is None else item_timeout_s * len(items)
        loaded = self._loaded
        reply: Reply = self._call(limit_s, "process", key, items, seed, None if alone else item_timeout_s)
        if reply.fatal is not None and key in loaded:
            loaded.remove(key)  # The process has dropped it.
        return reply

    def kill(self) -> None:
        actor, self._actor, self._loaded = self._actor, None, []
        if actor is None:
            return  # A run that found everything done never imported Ray.
        import ray

        if ray.is_initialized():
            ray.kill(actor)

    def _call(self, limit_s: float | None, method: str, *arguments: Any) -> Any:
        import ray

        actor = self._actor
        if actor is None:
            raise WorkerDiedError
        try:
            reference = getattr(actor, method).remote(*arguments)
            if not ray.wait([reference], timeout=limit_s)[0]:
                self.kill()
                raise WorkerTimedOutError
            return ray.get(reference)
        except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as error:
            self.kill()
            raise WorkerDiedError from error
