"""The short form of perf/racing_writers.py: processes that race on one table in a bucket."""

import threading

import pytest

from perf.racing_writers import KEY, actions, check, race, rows
from storage.files import files_of
from storage.lake import Lake

WRITERS = 12


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


@pytest.mark.parametrize("_attempt", range(3))
def test_a_table_that_many_create_at_once_is_described_once(lake_root: str, _attempt: int) -> None:
    start = threading.Barrier(WRITERS)

    def write(writer: int) -> None:
        table = Lake(lake_root).table("metrics")
        start.wait()
        assert table.commit_shard(rows(writer, writer), stage_key=KEY, shard=writer)

    threads = [threading.Thread(target=write, args=[writer]) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    table, files = Lake(lake_root).table("metrics"), files_of(lake_root)
    assert table.committed(KEY, range(WRITERS)) == {*range(WRITERS)}
    log = [actions(files.read(f"tables/metrics/_delta_log/{n:020}.json")) for n in range(table.version() + 1)]
    described = [n for n, commit in enumerate(log) if any("metaData" in action for action in commit)]
    assert described == [0]
