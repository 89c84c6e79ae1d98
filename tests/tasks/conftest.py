"""One small worker pool for all tests of this room: Ray takes seconds to start."""

import sys
from collections.abc import Iterator

import pytest

from benchmarks.registry import KNOWN
from tasks.fanout import WorkerPool


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry knows the tests' own benchmark."""
    import toy_benchmark

    monkeypatch.setitem(sys.modules, "benchmarks.toy", toy_benchmark)
    monkeypatch.setitem(KNOWN, "toy", ("toy", "Toy"))
