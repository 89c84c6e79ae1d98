"""What killed runs, more workers and two runs at once leave behind: the rows and the adapters of one quiet run.

A kill costs a start of everything, so three stages are killed; `RLAIF_TEST_ALL=1` has every one killed, and two whole
runs race.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from reduced import LIMIT_S, Place, adapters, contents, kill

from flows.plan import what_is_done
from flows.presets import load
from flows.views import lineage
from storage.lake import Lake
from tasks.progress import SilentProgress

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
LONGEST_DELAY_S = 0.2
ONE_ARM = "arms=[{name: ranks, route: grpo_rank, narrative: true, frame_set: judge_2, method: likelihood}]"
REFRESHED = "reward.refresh_every=2"  # The policy of route ppo, of three iterations, learns in two segments.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Place:  # noqa: ARG001 - it sets the address
    return Place(tmp_path_factory.mktemp("reduced"), PREFECT_API_URL.value())


@pytest.fixture(scope="module")
def quiet(place: Place) -> Lake:
    """The lake of a run with one worker that nobody disturbed."""
    done = place.run("quiet", REFRESHED, "run.workers=1")
    assert done.returncode == 0, done.stderr
    return place.lake("quiet")


def rows(lake: Lake, table: str, **having: object) -> int:
    found = lake.table(table).read(columns=["item_id", *having]).to_pylist()
    return sum(all(row[column] == value for column, value in having.items()) for row in found)


def rendered(place: Place) -> int:
    return len(list(place.data.with_name(".data.partial").glob("videos/*.mp4")))


# By the stage that is to be killed: what there is more of as soon as it is under way.
Seen = Callable[[Place, Lake], int]
UNDER_WAY: dict[str, Seen] = {
    "prepare": lambda place, _: rendered(place),
    "frames": lambda _, lake: rows(lake, "frames"),
    "visual_tokens": lambda _, lake: rows(lake, "visual_tokens"),
    "captions": lambda _, lake: rows(lake, "captions"),
    "sft": lambda _, lake: rows(lake, "checkpoints", role="sft", final=False),
    "candidates": lambda _, lake: rows(lake, "candidates"),
    "preferences": lambda _, lake: rows(lake, "preferences", arm="ppo_context"),
    "reward_model": lambda _, lake: rows(lake, "checkpoints", role="reward", final=False),
    "first segment": lambda _, lake: rows(lake, "checkpoints", arm="ppo_context_segment_1", final=False),
    "refresh": lambda _, lake: rows(lake, "preferences", arm="ppo_context_refresh_1"),
    "policy": lambda _, lake: rows(lake, "checkpoints", role="policy", arm="ppo_context", final=False),
    "policy by ranks": lambda _, lake: rows(lake, "checkpoints", role="policy", arm="ranks", final=False),
    "benchmark": lambda _, lake: rows(lake, "scores", checkpoint="ppo_context"),
    "agreement": lambda _, lake: rows(lake, "metrics", step=0),
}
TRAININGS = {"sft", "reward_model", "first segment", "policy", "policy by ranks"}
# One whose rows come from workers, and two trainings of several parts.
OF_EACH_KIND = {"preferences", "first segment", "policy by ranks"}
ALL = os.environ.get("RLAIF_TEST_ALL") == "1"
KILLED = set(UNDER_WAY) if ALL else OF_EACH_KIND


def first_under_way(process: subprocess.Popen[str], place: Place, lake: Lake, left: set[str]) -> str | None:
    """Waits for the first of the stages to commit something; None where the run ends before."""
    seen = written(place, lake)
    before = {stage: UNDER_WAY[stage](place, lake) for stage in left}
    while process.poll() is None:
        time.sleep(0.05)
        if (now := written(place, lake)) == seen:
            continue  # reading rows costs the run under test its processor
        seen = now
        for stage in left:
            if UNDER_WAY[stage](place, lake) > before[stage]:
                return stage
    return None


def written(place: Place, lake: Lake) -> tuple[int, int]:
    """How many videos and how many commits there are."""
    return rendered(place), len(list(Path(lake.root).glob("tables/*/_delta_log/*.json")))


def unfinished(lake: Lake) -> set[str]:
    """Keys that have shards, but are not complete."""
    complete = set(lake.table("stages").read(columns=["stage_key"])["stage_key"].to_pylist())
    tables = [name for name in lake.tables() if name not in ("runs", "stages")]
    begun = {key for name in tables for key in lake.table(name).read(columns=["stage_key"])["stage_key"].to_pylist()}
    return {key.removesuffix("-state") for key in begun} - complete


def test_a_run_that_is_killed_in_every_stage_ends_as_if_it_had_not_been(place: Place, quiet: Lake) -> None:
    """The data folder too is made anew, under kills; its videos' hashes are rows."""
    shutil.rmtree(place.data)
    lake, chance = place.lake("killed"), random.Random(0)
    left, killed, broken_off = set(KILLED), [], 0
    while left:
        # Some with a Prefect server of its own, which then dies with it.
        here = replace(place, server=None if len(killed) % 8 == 1 else place.server)
        with here.started("killed", REFRESHED, "run.workers=1") as process:
            stage = first_under_way(process, here, lake, left)
            if stage is None:
                break
            time.sleep(chance.uniform(0, LONGEST_DELAY_S))
            assert process.poll() is None
            kill(process)
        left.remove(stage)
        killed.append(stage)
        broken_off += bool(unfinished(lake))
        print(time.monotonic(), stage, unfinished(lake))
    assert len(killed) >= 0.7 * len(KILLED)
    assert set(killed) >= TRAININGS & KILLED
    assert broken_off >= 0.3 * len(KILLED)
    done = place.run("killed", REFRESHED, "run.workers=1")
    assert done.returncode == 0, done.stderr
    assert contents(lake) == contents(quiet)
    assert adapters(lake) == adapters(quiet)


def test_lineage_of_a_policy_names_every_stage_before_it(quiet: Lake) -> None:
    rows = quiet.table("checkpoints").read(columns=["role", "arm", "final", "blob", "merged"]).to_pylist()
    (policy,) = [row for row in rows if row["final"] and (row["role"], row["arm"]) == ("policy", "ppo_context")]
    (supervised,) = [row for row in rows if row["final"] and row["role"] == "sft"]
    assert policy["merged"] == [supervised["blob"]]
    found, left = set(), [lineage(quiet, policy["blob"])]
    while left:
        origin = left.pop()
        found.add(origin.stage)
        left += origin.inputs
    begin = {"videos", "frames", "instructions", "visual_tokens", "captions"}
    assert found == {*begin, "sft", "candidates", "preferences", "reward_model", "policy"}


def test_nothing_is_left_to_do_of_a_run_that_ended(place: Place, quiet: Lake) -> None:
    before = contents(quiet)
    done = what_is_done(load("miniature", [*place.overrides("quiet"), REFRESHED]), SilentProgress())
    assert len(done) > 15
    assert [visit.name for visit in done.values() if visit.result is None or not visit.result.cached] == []
    more = what_is_done(
        load("miniature", [*place.overrides("quiet"), REFRESHED, "benchmark.limit=20"]), SilentProgress()
    )
    left = {name: visit.left for name, visit in more.items() if visit.result is None}
    assert left == {f"benchmark {name}": 20 for name in ("base", "sft", "ppo_context", "ranks")}
    assert contents(quiet) == before, "a plan writes nothing"


@pytest.mark.skipif(not ALL, reason="RLAIF_TEST_ALL=1 runs it; tests/tasks/test_stage.py has stages that race")
def test_two_runs_of_one_lake_at_once_end_well_and_as_one_whatever_their_workers(place: Place, quiet: Lake) -> None:
    """The quiet run had one worker and an arm more; these have two and one, and race for every shard."""
    lake = place.lake("both")
    with (
        place.started("both", ONE_ARM, "run.workers=2") as first,
        place.started("both", ONE_ARM, "run.workers=1") as second,
    ):
        assert (first.wait(LIMIT_S), second.wait(LIMIT_S)) == (0, 0), place.said("both")
    tables = {"videos", "frames", "visual_tokens", "captions", "instructions", "candidates", "checkpoints", "scores"}
    assert contents(lake, of_stages_in=lake).keys() >= tables
    assert contents(lake, of_stages_in=lake) == contents(quiet, of_stages_in=lake)
    assert set(adapters(lake)) == {"sft", "policy ranks"}
    assert adapters(lake).items() <= adapters(quiet).items()
