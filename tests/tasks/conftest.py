"""The worker pools of all tests of this room: Ray takes seconds to start, and a worker to load what it imports."""

import sys
from collections.abc import Iterator

import pytest

from benchmarks.registry import KNOWN
from tasks.cluster import RayKeeper
from tasks.fanout import WorkerPool


@pytest.fixture(scope="session")
def ray_for_two() -> Iterator[None]:
    """Whichever pool is asked for first: a group of two trains in this Ray."""
    keeper = RayKeeper(2, 0)
    yield
    keeper.release()


@pytest.fixture(scope="session")
def pool(ray_for_two: None) -> Iterator[WorkerPool]:  # noqa: ARG001
    """One worker: what a stage makes does not depend on their number, and each would load the model for itself."""
    with WorkerPool(1) as pool:
        yield pool


@pytest.fixture(scope="session")
def pair(ray_for_two: None) -> Iterator[WorkerPool]:  # noqa: ARG001
    """Two, for what they share."""
    with WorkerPool(2) as pair:
        yield pair


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry knows the tests' own benchmark."""
    import toy_benchmark

    monkeypatch.setitem(sys.modules, "benchmarks.toy", toy_benchmark)
    monkeypatch.setitem(KNOWN, "toy", ("toy", "Toy"))
