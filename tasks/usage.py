"""Memory and CPU time of a run: this process and everything it started, Ray's processes included."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Self

INTERVAL_S = 0.5
# Reading PSS walks the page tables of every process, so it is read ten times less often than RSS.
PSS_EVERY = 10

_MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """What a run has cost.

    Attributes:
        wall_seconds: since the sampler started.
        cpu_seconds: user and system time of all processes in that time.
        peak_rss_mib: the highest sum of resident set sizes at one sample.
        peak_pss_mib: the highest sum of proportional set sizes; None where the system does not tell.
        peak_processes: the most processes at one sample.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_rss_mib: float
    peak_pss_mib: float | None = None
    peak_processes: int = 1


@dataclass
class _Followed:
    """A process under observation: CPU seconds used before sampling began and until it was last seen."""

    process: Any
    before: float
    cpu: float = 0.0
    alive: bool = True


class UsageSampler:
    """Samples this process and its descendants twice a second. A context manager.

    A local Ray is a descendant (driver -> raylet -> workers); a cluster that was there before is not and is not
    counted. A process stays followed when its parent dies.

    What is counted twice: the sum of RSS counts a page shared by several processes (libraries, Ray's object store,
    memory-mapped files of the lake, pages shared since a fork) once for each of them, so it is an upper bound. The
    sum of PSS divides such pages among their users and is near the truth, but it is read only every PSS_EVERY samples
    and when RSS reaches a new height. What is missed: peaks between two samples, and the CPU time of a process after
    it was last seen, so of one that lives shorter than a sample altogether.
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._followed: dict[tuple[int, float], _Followed] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = time.monotonic()
        self._samples = 0
        self._peak_rss = 0
        self._rss_weighed = 0
        self._peak_pss: int | None = None
        self._peak_processes = 0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._sample()
        self._thread = threading.Thread(target=self._loop, name="usage", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def usage(self) -> Usage:
        """What was used so far; callable while sampling goes on."""
        self._sample()
        with self._lock:
            return Usage(
                wall_seconds=time.monotonic() - self._began,
                cpu_seconds=sum(each.cpu - each.before for each in self._followed.values()),
                peak_rss_mib=self._peak_rss / _MIB,
                peak_pss_mib=None if self._peak_pss is None else self._peak_pss / _MIB,
                peak_processes=self._peak_processes,
            )

    def _loop(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            self._find()
            alive = [each for each in self._followed.values() if each.alive]
            sizes = [_observe(each) for each in alive]
            self._peak_rss = max(self._peak_rss, sum(sizes))
            self._peak_processes = max(self._peak_processes, sum(each.alive for each in alive))
            self._weigh(alive, sum(sizes))
            self._samples += 1

    def _weigh(self, alive: list[_Followed], rss: int) -> None:
        if self._samples % PSS_EVERY and rss < 1.05 * self._rss_weighed:
            return
        self._rss_weighed = max(self._rss_weighed, rss)
        pss = _sum_pss(alive)
        if pss is not None:
            self._peak_pss = max(self._peak_pss or 0, pss)

    def _find(self) -> None:
        import psutil

        own = psutil.Process()
        found = [own, *own.children(recursive=True)]
        pids = {process.pid for process in found}
        for orphan in [each for each in self._followed.values() if each.alive and each.process.pid not in pids]:
            found += _children(orphan.process)
        first = not self._followed
        for process in found:
            key = (process.pid, process.create_time())
            if key not in self._followed:
                # What ran before sampling began owes its earlier CPU time to something else.
                self._followed[key] = _Followed(process, _cpu(process) if first else 0.0)


def _children(process: Any) -> list[Any]:
    import psutil

    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []  # It has ended; what it had left behind was found at an earlier sample.


def _observe(followed: _Followed) -> int:
    """Brings CPU time and liveness up to date and returns the resident bytes."""
    import psutil

    try:
        with followed.process.oneshot():
            followed.alive = followed.process.is_running()
            followed.cpu = max(followed.cpu, _cpu(followed.process))
            return int(followed.process.memory_info().rss)
    except psutil.Error:
        followed.alive = False
        return 0


def _cpu(process: Any) -> float:
    import psutil

    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _sum_pss(followed: list[_Followed]) -> int | None:
    import psutil

    total = 0
    for each in followed:
        try:
            total += getattr(each.process.memory_full_info(), "pss", 0)
        except psutil.Error:
            continue  # Ended, or another user's.
    return total or None
