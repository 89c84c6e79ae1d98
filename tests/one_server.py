"""One server for all processes of a test run: who needs it first starts it, who leaves last stops it."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest

LIMIT_S = 180.0  # Of a start. Seconds on an idle machine.
Start = Callable[[Path, int], subprocess.Popen[bytes]]


def common_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """The folder of that name which all processes of pytest-xdist share."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def one_server(folder: Path, start: Start, health: str) -> Iterator[str]:
    """The address of the server.

    Args:
        folder: shared by the processes, and by nobody else.
        start: begins the server, which may keep its files in the folder, on a port of 127.0.0.1.
        health: a path that it answers as soon as it can be used.
    """
    # Locks rather than a count: those of a process that crashed are gone with it.
    with (folder / "door").open("w") as door, (folder / "users").open("w") as users:
        fcntl.flock(door, fcntl.LOCK_EX)
        try:
            fcntl.flock(users, fcntl.LOCK_SH)
            if not (folder / "server").exists():
                _begin(folder, start, health)
        finally:
            fcntl.flock(door, fcntl.LOCK_UN)
        pid, address = (folder / "server").read_text().split()
        try:
            yield address
        finally:
            fcntl.flock(door, fcntl.LOCK_EX)
            if _alone(users):
                psutil.Process(int(pid)).kill()  # nothing of it is kept
                (folder / "server").unlink()


def _alone(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _begin(folder: Path, start: Start, health: str) -> None:
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    server = start(folder, port)
    deadline = time.monotonic() + LIMIT_S
    while not _answers(address + health):
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            raise RuntimeError(f"no server at {address}: it ended with {server.poll()}, or needs over {LIMIT_S:g} s")
        time.sleep(0.1)
    (folder / "server").write_text(f"{server.pid} {address}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        request(url)
    except (urllib.error.URLError, OSError):
        return False
    return True


def request(url: str, method: str = "GET") -> None:
    """Asks past any proxy of the environment: none may come between a test and the loopback."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(urllib.request.Request(url, method=method), timeout=10).close()
