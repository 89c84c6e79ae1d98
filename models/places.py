"""A number of places at which work is done, one piece after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Places(Generic[Result]):
    """Does at most `count` pieces of work at once, in the order in which they came; used by one event loop.

    A place begins its next piece in the same turn of the loop. One that a semaphore hands over stands empty until the
    loop comes to its next holder: milliseconds, where replies come in bursts.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: deque[tuple[asyncio.Future[Result], Callable[[], Awaitable[Result]]]] = deque()
        self._serving = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """What `work` gives or raises, once there was a place for it."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((done, work))
        if self._serving < self._count:
            self._serving += 1
            task = asyncio.create_task(self._serve())
            self._tasks.add(task)  # A task that nobody holds may be collected.
            task.add_done_callback(self._tasks.discard)
        return await done

    async def _serve(self) -> None:
        try:
            while self._waiting:
                done, work = self._waiting.popleft()
                if not done.cancelled():
                    await self._one(done, work)
        finally:
            self._serving -= 1

    async def _one(self, done: asyncio.Future[Result], work: Callable[[], Awaitable[Result]]) -> None:
        try:
            result = await work()
        except asyncio.CancelledError:
            done.cancel()
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # This place, and not something that it waited for.
                raise
        except Exception as error:
            if not done.cancelled():
                done.set_exception(error)
        else:
            if not done.cancelled():
                done.set_result(result)
