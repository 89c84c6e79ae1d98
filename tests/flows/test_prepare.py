"""Preparing the data folder: once, whole or not at all, never over somebody's own."""

import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tasks.prepare import PrepareConfig, PrepareError, prepare
from tasks.progress import Progress, SilentProgress

CALLS: list[dict[str, Any]] = []


def write(folder: Path, *, count: int, fail: bool = False) -> None:
    CALLS.append({"count": count})
    for number in range(count):
        (folder / f"{number}.txt").write_text("x")
    if fail:
        raise RuntimeError("out of ideas")


def write_with_bar(folder: Path, *, progress: Progress) -> None:
    bar = progress.start("writing", 1)
    (folder / "0.txt").write_text("x")
    bar.advance()
    bar.finish()


@pytest.fixture(autouse=True)
def writers(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    module = ModuleType("writers_of_a_test")
    vars(module).update(write=write, write_with_bar=write_with_bar)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def config(folder: Path, call: str = "write", **arguments: Any) -> PrepareConfig:
    return PrepareConfig(call=f"writers_of_a_test:{call}", folder=str(folder), arguments=arguments)


def run(wanted: PrepareConfig) -> bool:
    return prepare(wanted, SilentProgress())


def test_the_second_time_nothing_is_written(tmp_path: Path) -> None:
    assert run(config(tmp_path / "data", count=2))
    assert not run(config(tmp_path / "data", count=2))
    assert CALLS == [{"count": 2}]


def test_other_arguments_replace_the_folder(tmp_path: Path) -> None:
    run(config(tmp_path / "data", count=3))
    assert run(config(tmp_path / "data", count=1))
    assert [path.name for path in (tmp_path / "data").glob("*.txt")] == ["0.txt"]


def test_a_failure_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of ideas"):
        run(config(tmp_path / "data", count=2, fail=True))
    assert not (tmp_path / "data").exists()
    assert run(config(tmp_path / "data", count=1))
    assert len(list((tmp_path / "data").glob("*.txt"))) == 1


def test_a_folder_of_somebody_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.mp4").write_text("mine")
    with pytest.raises(PrepareError, match="Move it away"):
        run(config(tmp_path / "data", count=1))
    assert (tmp_path / "data" / "mine.mp4").read_text() == "mine"


def test_two_at_once_write_once(tmp_path: Path) -> None:
    both = [threading.Thread(target=run, args=(config(tmp_path / "data", count=200),)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert CALLS == [{"count": 200}]


def test_a_function_may_show_its_progress(tmp_path: Path) -> None:
    assert run(config(tmp_path / "data", call="write_with_bar"))


def test_a_function_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match="writers_of_a_test:wrote"):
        run(config(tmp_path / "data", call="wrote"))
