"""Trainings as a group of Ray Train: what one worker gives, in spite of a death, and an end where none may go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from labels_by_hand import labels, questions
from small import base_model, keep_scenes, rows_of, scenes, small_run

import tasks.dpo
from storage.lake import Lake
from tasks.dpo import DpoConfig, TrainDpo, policy_by_pairs
from tasks.fanout import StageFailure, WorkerPool
from tasks.journal import ReadJournal
from tasks.stage import RunContext, StageRef, StageResult
from tasks.train_workers import Order, TrainingWorkers, _lack
from tasks.training import final_adapter
from tasks.visual_tokens import VisualTokensConfig, visual_tokens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
VIDEOS = scenes(3)
STEPS = 4
SHORT = {"steps": STEPS, "batch_size": 4, "forward_batch": 1, "save_every": 1, "warmup": 1, "rate": 1e-3}
DEATH = "RLAIF_TEST_DEATH"  # Variable with the file that says that a worker has died.
ZERO3 = json.loads((Path(tasks.dpo.__file__).parents[1] / "deployments/deepspeed/zero3.json").read_text())


class _Dying(ReadJournal):
    """That of a worker which is killed in the midst of its first life."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        super().log(step, metrics)
        death = Path(os.environ[DEATH])
        if step == STEPS // 2 and not death.exists():
            death.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class DiesOnce(TrainDpo):
    def journal(self, lake: Lake, begun: StageRef | None = None) -> Any:
        journal = super().journal(lake, begun)
        return _Dying(journal.journal) if isinstance(journal, ReadJournal) else journal


class RunsOutOfMemory(TrainDpo):
    def train(self, lake: Lake) -> tuple[int, str, dict[str, float]]:  # noqa: ARG002
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture(scope="module")
def pool(pair: WorkerPool) -> WorkerPool:
    """Its Ray has room for two."""
    return pair


@pytest.fixture(scope="module")
def death(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("death") / "happened"


@pytest.fixture(scope="module")
def group(pool: WorkerPool, death: Path) -> Iterator[WorkerPool]:
    """Workers of which a training takes two; Ray is that of `pool`."""
    pool.start()
    with WorkerPool(2, environment={DEATH: str(death)}, training=TrainingWorkers(2)) as group:
        yield group


@pytest.fixture(scope="module")
def material(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[StageResult]]:
    """A lake with what a training needs."""
    ctx = small_run(pool, tmp_path_factory.mktemp("lakes") / "first")
    tokens = visual_tokens(ctx, VisualTokensConfig(), keep_scenes(ctx.lake, VIDEOS), base_model())
    judged = labels(ctx.lake, VIDEOS, "judge", ["a", "b"], 0.9)
    return Path(ctx.lake_root), [judged, questions(ctx.lake, VIDEOS), tokens]


def _trained(pool: WorkerPool, material: tuple[Path, list[StageResult]], name: str, **changes: Any) -> Any:
    """The training in a copy of the lake: its context and its result."""
    lake, given = material
    ctx = small_run(pool, lake.with_name(name))
    if not Path(ctx.lake_root).exists():
        shutil.copytree(lake, ctx.lake_root)
    config = DpoConfig.model_validate({"training": SHORT | changes})
    return ctx, policy_by_pairs(ctx, config, *given, base_model(), "arm")


def _bytes(ctx: RunContext, result: StageResult) -> bytes:
    folder = ctx.lake.blobs.folder(final_adapter(ctx.lake, result.ref))
    return (folder / "adapter_model.safetensors").read_bytes()


def _curves(ctx: RunContext, result: StageResult) -> dict[tuple[int, str], float]:
    rows = ctx.lake.table("metrics").read(result.key, ["step", "name", "value"]).to_pylist()
    curves = {(row["step"], row["name"]): row["value"] for row in rows}
    assert len(curves) == len(rows)
    return curves


def test_a_group_gives_what_one_worker_gives_though_one_of_it_is_killed(
    pool: WorkerPool,
    group: WorkerPool,
    death: Path,
    material: tuple[Path, list[StageResult]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone, by_one = _trained(pool, material, "one")
    calm, by_two = _trained(group, material, "two")
    assert by_two.key == by_one.key
    assert _curves(calm, by_two) == pytest.approx(_curves(alone, by_one), rel=1e-5, abs=1e-6)
    (row,) = rows_of(calm.lake, by_two)["arm"]
    (expected,) = rows_of(alone.lake, by_one)["arm"]
    assert json.loads(row["metrics"]) == pytest.approx(json.loads(expected["metrics"]), rel=1e-4, abs=1e-6)
    # The steps were shared; what checks the outcome was done by both.
    assert by_one.expense.calls < by_two.expense.calls < 2 * by_one.expense.calls

    monkeypatch.setattr(tasks.dpo, "TrainDpo", DiesOnce)
    disturbed, by_others = _trained(group, material, "disturbed")
    assert death.exists()
    assert _bytes(disturbed, by_others) == _bytes(calm, by_two)
    assert _curves(disturbed, by_others) == _curves(calm, by_two)


def test_what_no_worker_can_go_on_with_ends_the_stage(
    pool: WorkerPool, material: tuple[Path, list[StageResult]]
) -> None:
    pool.start()
    with (
        WorkerPool(2, training=TrainingWorkers(2, ZERO3)) as divided,
        pytest.raises(StageFailure, match=r"policy arm: .*are not finite.*kept in table runs"),
    ):
        _trained(divided, material, "wild", rate=1e30, warmup=0)
    told = Lake(material[0].with_name("wild")).table("runs").read(columns=["event"]).to_pylist()
    assert [row["event"] for row in told].count("training_stopped") == 1


def test_a_pass_too_large_for_its_gpu_ends_the_stage_with_what_to_change(
    group: WorkerPool, material: tuple[Path, list[StageResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.dpo, "TrainDpo", RunsOutOfMemory)
    with pytest.raises(
        StageFailure, match=r"ran out of memory in .*allocate 2.00 GiB\. What .* Lower .*forward_batch \(now 1\)"
    ):
        _trained(group, material, "full")


def test_a_training_takes_no_more_workers_than_there_are_and_whole_gpus() -> None:
    with pytest.raises(ValueError, match="cannot take 3 of 2 workers"):
        WorkerPool(2, training=TrainingWorkers(3))
    with pytest.raises(ValueError, match="whole GPUs"):
        WorkerPool(2, 0.5, training=TrainingWorkers(2))


def test_a_group_that_waits_for_a_larger_cluster_says_so() -> None:
    order = Order(b"", {}, TrainingWorkers(4), gpus=1.0, starts=1, search_path=[])
    assert _lack(order, {"CPU": 8.0, "GPU": 4.0}) is None
    told = _lack(order, {"CPU": 8.0})
    assert told is not None
    assert "waits until Ray has 4 GPUs (it has 0)" in told
    assert _lack(replace(order, gpus=0.0), {"CPU": 4.0}) is None
