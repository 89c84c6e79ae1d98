"""One small worker pool for all tests of this room: Ray takes seconds to start."""

from collections.abc import Iterator

import pytest

from tasks.fanout import WorkerPool


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool
