import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from storage.errors import LakeError
from tasks.fanout import Outcome, ProcessorError, StageFailure, Unit, WorkerPool, next_item
from tasks.worker import Reply
from tasks.worker_handle import Worker


@pytest.fixture
def pool(pair: WorkerPool) -> WorkerPool:
    """Two workers that share the work."""
    return pair


class Square:
    """Doubles as every kind of trouble: an item's `do` says what happens when it is its turn."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        return [Outcome(item["item_id"], [self.row(item, seed, len(items))]) for item in items]

    def row(self, item: dict[str, Any], seed: int, together: int) -> dict[str, Any]:
        match item.get("do"):
            case "raise":
                raise ValueError(f"cannot square {item['item_id']}")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "die once" if not _seen(Path(self.settings["marker"])):
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(600)
            case "slow":
                time.sleep(1)
            case "lake":
                raise LakeError("the lake at /nowhere is full: free space, then run the same command")
        return {"square": item["n"] ** 2, "seed": seed, "together": together}


class Counted(Square):
    """Says when it begins an item; a hang holds the interpreter's lock, as native code may."""

    def row(self, item: dict[str, Any], seed: int, together: int) -> dict[str, Any]:
        next_item()
        if item.get("do") == "hang":
            ctypes.PyDLL(None).sleep(600)
        return super().row(item, seed, together)


class Sloppy:
    """Loses an item: a bug."""

    def __init__(self, settings: Any) -> None: ...

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002
        return [Outcome(item["item_id"], [{}]) for item in items[1:]]


class Finite:
    """Ends for good, as a judge whose endpoint has no more money."""

    def __init__(self, settings: Any) -> None:  # noqa: ARG002
        self.ended = False

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002
        self.ended = self.ended or any(item.get("do") == "end" for item in items)
        if self.ended:
            raise StageFailure("it has ended")
        return [Outcome(item["item_id"], [{}]) for item in items]


class Unbuildable:
    def __init__(self, settings: str) -> None:
        raise FileNotFoundError(f"no weights at {settings}")

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        raise NotImplementedError


class Crashing(Unbuildable):
    def __init__(self, settings: str) -> None:  # noqa: ARG002
        os.kill(os.getpid(), signal.SIGKILL)


class Counting:
    """Counts its constructions in a folder."""

    def __init__(self, settings: str) -> None:
        (Path(settings) / f"{os.getpid()}-{time.monotonic_ns()}").touch()

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002
        return [Outcome(item["item_id"], [{"threads": os.environ["OMP_NUM_THREADS"]}]) for item in items]


def _seen(marker: Path) -> bool:
    seen = marker.exists()
    marker.touch()
    return seen


def units(count: int, size: int, **trouble: str) -> list[Unit]:
    """Items "000", "001" ... in `count` units; `trouble` maps an item id, as i000, to what it does."""
    rows = [{"item_id": f"{n:03}", "n": n, "do": trouble.get(f"i{n:03}")} for n in range(count * size)]
    return [Unit(shard, rows[shard * size : (shard + 1) * size], seed=shard + 7) for shard in range(count)]


def collect(
    pool: WorkerPool, work: list[Unit], processor: type = Square, settings: Any = None, **limits: Any
) -> dict[str, Any]:
    outcomes: dict[str, Any] = {}
    for unit, given in pool.run(processor, settings, work, **limits):
        assert [outcome.item_id for outcome in given] == [item["item_id"] for item in unit.items]
        outcomes |= {outcome.item_id: outcome.rows or outcome.reason for outcome in given}
    return dict(sorted(outcomes.items()))


def test_every_unit_comes_back_whole_with_its_seed(pool: WorkerPool) -> None:
    given = collect(pool, units(3, 4))
    assert given["005"] == [{"square": 25, "seed": 8, "together": 4}]
    assert len(given) == 12


def test_one_bad_item_of_ten_costs_only_itself(pool: WorkerPool) -> None:
    given = collect(pool, units(1, 10, i003="raise"))
    assert given.pop("003") == "ValueError: cannot square 003"
    assert [rows[0]["square"] for rows in given.values()] == [n**2 for n in range(10) if n != 3]


def test_the_good_items_of_a_split_call_are_done_together(pool: WorkerPool) -> None:
    given = collect(pool, units(1, 5, i003="raise"))
    assert {rows[0]["together"] for item, rows in given.items() if item != "003"} == {4}


def test_an_item_that_kills_its_worker_is_quarantined_alone(pool: WorkerPool) -> None:
    given = collect(pool, units(2, 3, i001="die"))
    assert given["001"].startswith("killed its worker 2 times")
    assert sum(isinstance(rows, list) for rows in given.values()) == 5


def test_a_worker_killed_once_changes_nothing(pool: WorkerPool, tmp_path: Path) -> None:
    struck = collect(pool, units(2, 3, i001="die once"), settings={"marker": str(tmp_path / "struck")})
    assert struck == collect(pool, units(2, 3))


def test_a_hanging_item_is_stopped_and_quarantined(pool: WorkerPool) -> None:
    given = collect(pool, units(1, 3, i002="hang"), item_timeout_s=5.0)  # a loaded machine may take seconds to begin
    assert given["002"] == "took longer than 5 s to process and was stopped"
    assert [given["000"][0]["square"], given["001"][0]["square"]] == [0, 1]


def test_a_hanging_item_among_many_is_stopped_after_its_own_limit(pool: WorkerPool) -> None:
    """Eighty times the limit would pass the time that a test may take."""
    given = collect(pool, units(1, 80, i017="hang"), processor=Counted, item_timeout_s=5.0)
    assert given.pop("017") == "took longer than 5 s to process and was stopped"
    assert {rows[0]["together"] for rows in given.values()} == {79}


def test_a_limit_counts_from_item_to_item(pool: WorkerPool) -> None:
    given = collect(pool, units(1, 3, i000="slow", i001="slow", i002="slow"), processor=Counted, item_timeout_s=1.5)
    assert all(isinstance(rows, list) for rows in given.values())
    assert collect(pool, units(1, 2), processor=Counted, item_timeout_s=None)["001"][0]["square"] == 1


def test_chunks_have_their_own_seed_and_limit(pool: WorkerPool) -> None:
    given = collect(pool, units(1, 5), chunk=2, item_timeout_s=60)
    assert [rows[0]["together"] for rows in given.values()] == [2, 2, 2, 2, 1]
    assert len({rows[0]["seed"] for rows in given.values()}) == 3


def test_a_processor_that_cannot_be_built_stops_the_stage(pool: WorkerPool) -> None:
    with pytest.raises(FileNotFoundError, match="no weights at /models/none") as caught:
        collect(pool, units(4, 2), Unbuildable, "/models/none")
    assert "In the worker" in caught.value.__notes__[0]


def test_a_processor_that_kills_every_worker_stops_the_stage(pool: WorkerPool) -> None:
    with pytest.raises(RuntimeError, match="died 3 times while it loaded Crashing"):
        collect(pool, units(1, 2), Crashing)


def test_a_lake_error_stops_the_stage_as_it_is(pool: WorkerPool) -> None:
    with pytest.raises(LakeError, match="free space, then run the same command"):
        collect(pool, units(1, 3, i001="lake"))


def test_a_processor_that_ended_its_stage_is_not_used_again(pool: WorkerPool) -> None:
    with pytest.raises(StageFailure, match="it has ended"):
        list(pool.run(Finite, None, [Unit(0, [{"item_id": "one", "do": "end"}], 0)]))
    for _ in range(pool.workers):  # Each worker comes by turns.
        assert len(list(pool.run(Finite, None, [Unit(0, [{"item_id": "one"}], 0)]))) == 1


def test_a_lost_item_is_a_bug_not_a_bad_item(pool: WorkerPool) -> None:
    with pytest.raises(ProcessorError, match="asked for 2 items"):
        collect(pool, units(1, 2), Sloppy)


def test_two_stages_share_the_pool(pool: WorkerPool, tmp_path: Path) -> None:
    results: dict[str, Any] = {}
    stages = [
        threading.Thread(target=lambda: results.update(squares=collect(pool, units(6, 2)))),
        threading.Thread(target=lambda: results.update(counts=collect(pool, units(6, 2), Counting, str(tmp_path)))),
    ]
    for stage in stages:
        stage.start()
    for stage in stages:
        stage.join()
    assert len(results["squares"]) == len(results["counts"]) == 12
    assert results["counts"]["000"] == [{"threads": "1"}]
    assert len(list(tmp_path.iterdir())) <= 2, "a processor is built once a worker"


def test_leaving_early_frees_the_workers(pool: WorkerPool) -> None:
    began = time.monotonic()
    results = pool.run(Square, None, units(2, 2, i002="hang"))
    assert next(results)[0].shard == 0
    results.close()
    assert len(collect(pool, units(2, 2))) == 4
    assert time.monotonic() - began < 30


def test_one_worker_gives_what_two_give(pool: WorkerPool) -> None:
    with WorkerPool(1) as single:
        assert collect(single, units(3, 4, i005="raise")) == collect(pool, units(3, 4, i005="raise"))


def test_no_units_start_no_ray() -> None:
    with WorkerPool(2) as idle:
        assert list(idle.run(Square, None, [])) == []
        assert not idle._started


def test_a_closed_pool_says_so() -> None:
    closed = WorkerPool(1)
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        collect(closed, units(1, 1))


def test_what_a_killed_worker_had_built_is_built_again() -> None:
    """A cancellation kills from another thread, at any moment: here while the processor is being built."""

    class Killed(Worker):
        built = 0

        def _call(self, _limit_s: float | None, method: str, *_: Any) -> Any:
            assert method == "prepare"
            self.built += 1
            if self.built == 1:
                self.kill()
            return Reply()

    worker = Killed(0, {})
    for _ in range(3):
        worker.load("key", b"")
    assert worker.built == 2
