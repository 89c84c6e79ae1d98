"""The short form of perf/racing_writers.py: processes that race on one table in a bucket."""

import pytest

from perf.racing_writers import check, race
from storage.lake import Lake


@pytest.mark.slow
def test_no_shard_is_lost_none_is_twice_and_one_wins(s3_root: str) -> None:
    assert race(s3_root, writers=6, rounds=3)["rounds"] == 3


def test_the_check_can_fail(s3_root: str) -> None:
    table = Lake(s3_root).table("metrics")
    with pytest.raises(AssertionError, match="not exactly one winner"):
        check(s3_root, writers=1, rounds=1, won={0: [1_000_000], 1: [1_000_000]})
    with pytest.raises(AssertionError, match="a shard is lost"):
        check(s3_root, writers=1, rounds=1, won={0: [1_000_000]})
    assert table.version() == -1
