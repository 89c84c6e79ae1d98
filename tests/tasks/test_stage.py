import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.rows import row_digest
from tasks.fanout import Outcome, Unit, WorkerPool
from tasks.progress import SilentProgress
from tasks.stage import QuarantineError, RunContext, Stage, StageError, StageRef, StageResult, run_stage

INPUT = StageRef("frames", "frames", "abc", 3)


class Caption:
    """Writes a narrative for a video; refuses the videos it is told to, and notes each call in a folder."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:
        for item in items:
            (Path(self.settings["seen"]) / item["item_id"]).touch()
        return [self.outcome(item["item_id"], seed) for item in items]

    def outcome(self, video: str, seed: int) -> Outcome:
        if video in self.settings.get("refuse", ()):
            return Outcome(video, None, f"no frame {int(video[1:])} in it")
        return Outcome(video, [{"video": video, "narrative": f"{self.settings['text']} {seed}", "clips": None}])


class Interrupted(Exception):
    pass


class FailingPool(WorkerPool):
    """Gives the first results, then stops as a killed run does."""

    def __init__(self, pool: WorkerPool, after: int) -> None:
        self.pool, self.after = pool, after

    def start(self) -> float:
        return self.pool.start()

    def run(self, *arguments: Any, **limits: Any) -> Iterator[tuple[Unit, list[Outcome]]]:
        for number, result in enumerate(self.pool.run(*arguments, **limits)):
            if number == self.after:
                raise Interrupted
            yield result


@pytest.fixture
def pool(pair: WorkerPool) -> WorkerPool:
    """Two workers that share the work."""
    return pair


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return RunContext(str(tmp_path / "lake"), "run-1", pool, SilentProgress(), max_quarantined=0.5, seed=7)


def stage_of(**changes: Any) -> Stage:
    stage = Stage(
        "captions", "captions", {"text": "a cat"}, (INPUT,), "tiny", {"caption": "Describe."}, seed=7, shard_size=4
    )
    return replace(stage, **changes)


def items(count: int) -> list[dict[str, Any]]:
    return [{"item_id": f"v{n:02}"} for n in reversed(range(count))]


def run(ctx: RunContext, seen: Path, stage: Stage | None = None, count: int = 10, **settings: Any) -> StageResult:
    seen.mkdir(exist_ok=True)
    stage = stage or stage_of()
    settings = {"seen": str(seen), "text": stage.config["text"], **settings}
    return run_stage(ctx, stage, lambda: items(count), Caption, settings)


def digest(ctx: RunContext, key: str) -> str:
    return row_digest(ctx.lake.table("captions").read(key))


def test_a_stage_accounts_for_every_item(ctx: RunContext, tmp_path: Path) -> None:
    result = run(ctx, tmp_path / "seen", refuse=["v03"])
    assert (result.items, result.ok, result.quarantined, result.cached) == (10, 9, 1, False)
    rows = ctx.lake.table("captions").read(result.key).to_pylist()
    assert [row["item_id"] for row in rows] == [f"v{n:02}" for n in range(10)]
    assert [row["shard"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 2
    assert rows[3] | {"status": "quarantined", "reason": "no frame 3 in it", "narrative": None} == rows[3]
    assert {(row["run"], row["model"], row["seed"]) for row in rows[:4]} == {
        ("run-1", "tiny", stage_of().shard_seed(0))
    }
    assert rows[0]["narrative"] == f"a cat {stage_of().shard_seed(0)}"
    (stage,) = ctx.lake.table("stages").read(result.key).to_pylist()
    assert (stage["stage"], stage["items"], stage["quarantined"]) == ("captions", 10, 1)
    assert [event["event"] for event in ctx.lake.table("runs").read().to_pylist()] == ["stage_finished"]


def test_a_complete_stage_is_not_done_again(ctx: RunContext, tmp_path: Path) -> None:
    first = run(ctx, tmp_path / "first")
    again = run_stage(ctx, stage_of(), lambda: pytest.fail("items were asked for"), Caption, None)
    assert again.cached
    assert (again.ref, again.items, again.ok) == (first.ref, 10, 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"text": "a dog"}},
        {"model": "large"},
        {"prompts": {"caption": "Say what you see."}},
        {"seed": 8},
        {"shard_size": 5},
        {"inputs": (replace(INPUT, key="abd"),)},
        {"name": "captions_2"},
        {"attempt": 1},
        {"revision": 2},
    ],
)
def test_whatever_changes_the_result_changes_the_key(changes: dict[str, Any]) -> None:
    assert stage_of(**changes).key != stage_of().key


@pytest.mark.parametrize("changes", [{"reuse": True}, {"label": "arm"}, {"inputs": (replace(INPUT, version=9),)}])
def test_what_does_not_change_the_result_keeps_the_key(changes: dict[str, Any]) -> None:
    assert stage_of(**changes).key == stage_of().key


def test_an_interrupted_stage_goes_on_and_ends_the_same(ctx: RunContext, pool: WorkerPool, tmp_path: Path) -> None:
    whole = replace(ctx, lake_root=str(tmp_path / "undisturbed"))
    run(whole, tmp_path / "whole", refuse=["v03"])
    with pytest.raises(Interrupted):
        run(replace(ctx, pool=FailingPool(pool, after=1)), tmp_path / "before", refuse=["v03"])
    done = set(ctx.lake.table("captions").read(columns=["item_id"])["item_id"].to_pylist())
    assert done
    result = run(ctx, tmp_path / "after", refuse=["v03"])
    assert {path.name for path in (tmp_path / "after").iterdir()} == {f"v{n:02}" for n in range(10)} - done
    assert digest(ctx, result.key) == digest(whole, result.key)


def test_what_an_interrupted_stage_cost_is_written_down(ctx: RunContext, pool: WorkerPool, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(replace(ctx, pool=FailingPool(pool, after=1)), tmp_path / "seen")
    done = run(ctx, tmp_path / "seen")
    events = ctx.lake.table("runs").read().to_pylist()
    assert [(row["event"], row["stage_key"]) for row in sorted(events, key=lambda row: row["at"])] == [
        ("stage_left", done.key),
        ("stage_finished", done.key),
    ]
    assert all(json.loads(row["detail"])["expense"]["seconds"] > 0 for row in events)


def test_who_only_looks_writes_nothing(ctx: RunContext, tmp_path: Path) -> None:
    run(ctx, tmp_path / "seen")
    before = {name: ctx.lake.table(name).version() for name in ctx.lake.tables()}
    looking = replace(ctx, run="look", looks_only=True)
    assert run(looking, tmp_path / "seen").cached
    assert {name: ctx.lake.table(name).version() for name in ctx.lake.tables()} == before


def test_one_worker_writes_the_rows_of_two(ctx: RunContext, tmp_path: Path) -> None:
    two = run(ctx, tmp_path / "two", refuse=["v03"])
    with WorkerPool(1) as single:
        other = replace(ctx, lake_root=str(tmp_path / "other"), pool=single)
        one = run(other, tmp_path / "one", refuse=["v03"])
    assert digest(ctx, two.key) == digest(other, one.key)


def test_two_runs_on_one_lake_at_once_write_each_shard_once(ctx: RunContext, tmp_path: Path) -> None:
    results: list[StageResult] = []
    runs = [replace(ctx, run="left"), replace(ctx, run="right")]
    threads = [threading.Thread(target=lambda one=one: results.append(run(one, tmp_path / one.run))) for one in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(result.items, result.ok) for result in results] == [(10, 10)] * 2
    assert len(ctx.lake.table("captions").read()) == 10


def test_items_that_stand_under_another_key_are_copied(ctx: RunContext, tmp_path: Path) -> None:
    old = run(ctx, tmp_path / "old", count=6, refuse=["v03"])
    grown = stage_of(inputs=(replace(INPUT, key="grown"),), reuse=True)
    new = run(replace(ctx, run="run-2"), tmp_path / "new", grown, count=9)
    assert new.key != old.key
    assert new.reused == 5
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"v03", "v06", "v07", "v08"}
    rows = {row["item_id"]: row for row in ctx.lake.table("captions").read(new.key).to_pylist()}
    assert len(rows) == 9
    assert (rows["v00"]["run"], rows["v00"]["shard"]) == ("run-1", 0)
    assert (rows["v03"]["run"], rows["v03"]["status"]) == ("run-2", "ok")


def test_identity_stands_for_the_content_of_an_item() -> None:
    here = {"item_id": "v", "blob": "1", "identity": "same"}
    assert stage_of().item_key(here) == stage_of().item_key(here | {"blob": "2"})
    assert stage_of().item_key(here) != stage_of().item_key(here | {"identity": "other"})


def test_too_many_quarantined_items_stop_the_run_with_the_reasons(ctx: RunContext, tmp_path: Path) -> None:
    strict = replace(ctx, max_quarantined=0.1)
    with pytest.raises(QuarantineError, match=r"2 of 10 items .* 2 x such as v03: no frame 3 in it"):
        run(strict, tmp_path / "seen", refuse=["v03", "v05"])
    assert not ctx.lake.table("stages").read()
    lenient = run(ctx, tmp_path / "later")
    assert lenient.quarantined == 2
    assert not list((tmp_path / "later").iterdir()), "what is done is kept"
    with pytest.raises(QuarantineError):
        run(strict, tmp_path / "again")


def test_a_retry_tries_what_is_quarantined_and_nothing_else(ctx: RunContext, tmp_path: Path) -> None:
    before = run(ctx, tmp_path / "first", refuse=["v03", "v05"])
    again = replace(ctx, retries=1)
    after = run(again, tmp_path / "second", refuse=["v05"])
    assert (after.ok, after.quarantined, after.reused, after.cached) == (9, 1, 8, False)
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == ["v03", "v05"]
    assert after.key != before.key
    old, new = (ctx.lake.table("captions").read(key).to_pylist() for key in (before.key, after.key))
    assert [row["narrative"] for row in old[:3]] == [row["narrative"] for row in new[:3]]
    assert run(again, tmp_path / "third", refuse=[]).ref.key == after.key, "an attempt counts once"
    assert run(ctx, tmp_path / "third").key == before.key, "without retries the run is what it was"
    assert not list((tmp_path / "third").iterdir())
    healed = run(replace(ctx, retries=5), tmp_path / "fourth")
    assert (healed.ok, healed.quarantined) == (10, 0)
    assert [path.name for path in (tmp_path / "fourth").iterdir()] == ["v05"]


def test_a_retry_that_heals_nothing_changes_nothing_downstream(ctx: RunContext, tmp_path: Path) -> None:
    before = run(ctx, tmp_path / "first", refuse=["v03"])
    after = run(replace(ctx, retries=2), tmp_path / "second", refuse=["v03"])
    assert (after.key, after.ok, after.quarantined) == (before.key, 9, 1)
    assert [path.name for path in (tmp_path / "second").iterdir()] == ["v03"]


def test_what_is_selected_is_in_the_key_of_the_stage_and_not_of_an_item() -> None:
    some, all_of_them = stage_of(selection={"limit": 3}), stage_of(selection={"limit": None})
    assert some.key != all_of_them.key
    assert some.item_key({"item_id": "v00"}) == all_of_them.item_key({"item_id": "v00"})


def test_a_retry_comes_before_the_quarantine_limit(ctx: RunContext, tmp_path: Path) -> None:
    strict = replace(ctx, max_quarantined=0.1)
    with pytest.raises(QuarantineError, match=r"run\.retries=1 tries them once more"):
        run(strict, tmp_path / "seen", refuse=["v03", "v05"])
    assert run(replace(strict, retries=1), tmp_path / "again").quarantined == 0


def test_items_without_an_id_of_their_own_are_refused(ctx: RunContext) -> None:
    with pytest.raises(StageError, match="got the item 'v01' twice"):
        run_stage(ctx, stage_of(), lambda: [*items(3), {"item_id": "v01"}], Caption, None)
    with pytest.raises(StageError, match="Stage captions has no items"):
        run_stage(ctx, stage_of(), list, Caption, None)
