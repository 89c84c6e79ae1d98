"""The worker pools of all tests of this room: Ray takes seconds to start, and a worker to load what it imports."""

import sys
from collections.abc import Iterator

import pytest

from benchmarks.registry import KNOWN
from tasks.fanout import WorkerPool


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    """One worker: what a stage makes does not depend on their number, and each would load the model for itself."""
    with WorkerPool(1) as pool:
        yield pool


@pytest.fixture(scope="session")
def pair() -> Iterator[WorkerPool]:
    """Two, for what they share."""
    with WorkerPool(2) as pair:
        yield pair


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry knows the tests' own benchmark."""
    import toy_benchmark

    monkeypatch.setitem(sys.modules, "benchmarks.toy", toy_benchmark)
    monkeypatch.setitem(KNOWN, "toy", ("toy", "Toy"))
