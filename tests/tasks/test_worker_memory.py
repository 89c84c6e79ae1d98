"""What a worker gives up is gone before the next is built: two models on one card would not fit."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import ray.cloudpickle
from small import BASE

from models.video_lm import VideoLM
from tasks.fanout import Outcome, StageFailure
from tasks.worker import Reply, WorkerProcess, uncollected
from tasks.worker_handle import Worker


class Loaded:
    """Holds a model as stages do, with the engine that points back at it; notes how many there were before it."""

    models: weakref.WeakSet[VideoLM] = weakref.WeakSet()
    before: list[int] = []
    closed: list[str] = []

    def __init__(self, name: str) -> None:
        self.before.append(len(self.models))
        self.name = name
        self.lm = VideoLM.load(str(BASE))
        self.lm.engine("transformers")
        self.models.add(self.lm)
        if name == "unbuildable":
            raise ValueError("it cannot be built")

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002
        raise StageFailure("it has ended")

    def close(self) -> None:
        self.closed.append(self.name)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcess]:
    """A worker process that holds much memory, in which Python collects nothing by itself."""
    monkeypatch.setattr("tasks.expense.MUCH_MIB", 0)
    gc.collect()
    Loaded.before.clear()
    Loaded.closed.clear()
    gc.disable()
    yield WorkerProcess([])
    gc.enable()


def _prepare(process: WorkerProcess, name: str, *evict: str) -> Reply:
    return process.prepare(name, ray.cloudpickle.dumps((Loaded, name)), evict)


def test_an_evicted_model_is_gone_before_the_next_is_built(process: WorkerProcess) -> None:
    _prepare(process, "first")
    _prepare(process, "second", "first")
    _prepare(process, "beside")
    assert Loaded.before == [0, 0, 1]
    assert Loaded.closed == ["first"]


def test_so_is_that_of_a_stage_which_failed(process: WorkerProcess) -> None:
    _prepare(process, "first")
    assert isinstance(process.process("first", [{"item_id": "one"}], 0).fatal, StageFailure)
    assert isinstance(_prepare(process, "unbuildable").fatal, ValueError)
    _prepare(process, "second")
    assert Loaded.before == [0, 0, 0]
    assert Loaded.closed == ["first"]


@pytest.mark.parametrize(("gpus", "evicted"), [(0, [[], [], ["a"], ["b"]]), (1, [[], ["a"], ["b"], ["c"]])])
def test_a_worker_with_a_gpu_holds_one_processor_and_one_without_two(gpus: float, evicted: list[list[str]]) -> None:
    asked: list[list[str]] = []

    class Watched(Worker):
        def _call(self, _limit_s: float | None, _method: str, _key: str, _payload: bytes, evict: list[str]) -> Any:
            asked.append(evict)
            return Reply()

    worker = Watched(gpus, {})
    for key in "abcd":
        worker.load(key, b"")
        worker.load(key, b"")
    assert asked == evicted


def test_a_small_process_without_a_card_leaves_it_to_python(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.expense.MUCH_MIB", 10**9)
    _prepare(process, "first")
    _prepare(process, "second", "first")
    assert Loaded.before == [0, 1]


def test_python_collects_again_when_a_processor_is_built() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
