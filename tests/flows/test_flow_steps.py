"""Stages as Prefect tasks: real stages, a real server, real workers."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import ray
from kept_artifacts import artifacts
from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.hooks import log_cancelled, log_failed
from flows.parameters import RunConfig
from flows.presets import load
from flows.steps import opened
from flows.views import runs, stages
from storage.lake import Lake
from tasks.cluster import RayKeeper
from tasks.frames import FramesConfig
from tasks.stage import RunContext, StageError, StageResult
from tasks.videos import VideosConfig, videos

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
DEFAULT = load("miniature")


def echo(ctx: RunContext, config: FramesConfig, found: StageResult) -> StageResult:
    """A stage that only looks at what it was handed."""
    assert (ctx.run, found.stage, len(config.sets)) == ("small", "videos", 1)
    return found.model_copy(update={"stage": "echo", "label": "echo small"})


def broken(ctx: RunContext, found: StageResult) -> StageResult:  # noqa: ARG001 - a stage that never gets to them
    raise StageError("the lamp is out")


def slow(ctx: RunContext) -> StageResult:
    bar = ctx.progress.start("slow", 4)
    for _ in range(4):
        time.sleep(1)
        bar.advance()
    bar.finish()
    return StageResult(
        stage="slow", label=None, table="videos", key="0", version=0, items=4, ok=4, quarantined=0,
        reused=0, seconds=4.0, work_seconds=4.0, cached=False,
    )  # fmt: skip


@flow(name="small", task_runner=ThreadPoolTaskRunner(), on_failure=[log_failed])  # type: ignore[arg-type]
def small(run: RunConfig, folder: str, fail: bool = False) -> list[str]:
    with opened("small", run, None) as step:
        found = step(videos, VideosConfig(folder=folder))
        step(broken if fail else echo, *([] if fail else [FramesConfig()]), found, label="small")
        if not fail:
            step(slow)
        done = step.results()
    return [result.stage for result in done]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("films")
    for number in range(3):
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width = stream.height = 32
            for shade in range(8):
                image = np.full((32, 32, 3), 20 * shade + number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    return str(folder)


def config(folder: Path) -> RunConfig:
    return RunConfig(name="small", lake=str(folder / "lake"), workers=1)


def test_a_run_leaves_its_stages_events_and_artifacts(films: str, tmp_path: Path) -> None:
    run = config(tmp_path)
    assert small(run, films) == ["videos", "echo", "slow"]
    lake = Lake(run.lake_root)
    (row,) = runs(lake)
    assert (row["run"], row["state"], row["stages"]) == ("small", "finished", 1)
    assert row["seconds"] > 4
    assert [(each["stage"], each["ok"]) for each in stages(lake, "small")] == [("videos", 3)]
    (table,) = artifacts("stages-small")
    assert [each["stage"] for each in json.loads(table.data)] == ["videos", "echo small", "slow"]
    assert [each.data for each in artifacts("progress-slow")] == [100.0]

    # Complete: no worker is needed any more.
    small(run, films)
    assert runs(lake)[0]["cached"] == 1


@pytest.fixture
def ray_of_another() -> Iterator[None]:
    """A Ray that was there before the run, as of a notebook or of another run in the same process."""
    keeper = RayKeeper(1, 0)
    yield
    keeper.release()


@pytest.mark.usefixtures("ray_of_another")
def test_a_failure_is_raised_as_it_was_and_logged(films: str, tmp_path: Path) -> None:
    run = config(tmp_path)
    with pytest.raises(StageError, match="the lamp is out"):
        small(run, films, fail=True)
    assert ray.is_initialized(), "the run did not start it"
    (row,) = runs(Lake(run.lake_root))
    assert row["state"] == "failed"
    assert "the lamp is out" in json.loads(row["failure"])["message"]


def test_a_cancellation_is_logged_for_the_lake_of_the_run(tmp_path: Path) -> None:
    run = config(tmp_path)
    state = SimpleNamespace(name="Cancelling", message=None)
    log_cancelled(flow=small, flow_run=SimpleNamespace(id=1, parameters={"run": run.model_dump()}), state=state)  # type: ignore[arg-type]
    (event,) = Lake(run.lake_root).table("runs").read().to_pylist()
    assert (event["run"], event["event"]) == ("small", "run_cancelled")
