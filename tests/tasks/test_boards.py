"""Curves for TensorBoard: what stands in the event files."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from storage.lake import Lake
from tasks.boards import Board, Shown, check_installed

KEY = "0123456789abcdef"


def curves(lake: Lake, first: int, last: int) -> None:
    rows = [
        {
            "item_id": f"{step:06d}",
            "status": "ok",
            "item_key": KEY,
            "run": "test",
            "seed": 0,
            "step": step,
            "name": name,
        }
        | {"value": step / 10}
        for step in range(first, last + 1)
        for name in ("kl", "reward")
    ]
    lake.table("metrics").commit_shard(rows, stage_key=KEY, shard=last)


def written(folder: Path) -> list[tuple[str, int, float]]:
    """What the event files of a folder hold: records of length, checksum, event and checksum."""
    found = []
    for file in folder.iterdir():
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(value.tag, event.step, round(value.simple_value, 6)) for value in event.summary.value]
            data = data[12 + length + 4 :]
    return sorted(found)


def test_each_step_is_shown_once_also_by_the_run_after_a_killed_one(tmp_path: Path) -> None:
    lake, folder = Lake(tmp_path / "lake"), tmp_path / "boards"
    curves(lake, 1, 2)
    with Board(Shown(folder), "policy ranks") as board:
        board.show(lake.table("metrics"), [KEY], 2)
        board.show(lake.table("metrics"), [KEY], 2)
        curves(lake, 3, 4)
        board.show(lake.table("metrics"), [KEY], 4)
    expected = sorted((name, step, step / 10) for step in range(1, 5) for name in ("kl", "reward"))
    assert written(folder / "policy_ranks") == expected
    curves(lake, 5, 6)
    with Board(Shown(folder), "policy ranks") as board:
        board.show(lake.table("metrics"), [KEY], 6)
    assert len(written(folder / "policy_ranks")) == 12


def test_nothing_is_written_where_nothing_was_learned_or_no_folder_is_given(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    curves(lake, 1, 2)
    with Board(Shown(tmp_path / "boards"), "sft") as board:
        board.show(lake.table("metrics"), [KEY], 0)
    with Board(Shown(), "sft") as board:
        board.show(lake.table("metrics"), [KEY], 2)
    assert not (tmp_path / "boards").exists()


class Server:
    """Stands for both trackers' clients: keeps what they are told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    # mlflow.MlflowClient
    def get_experiment_by_name(self, name: str) -> None:
        self.told.append(("experiment", name))

    def create_experiment(self, name: str) -> str:
        return name

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        self.told.append((experiment, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="id"))

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.told.append((run, name, value, step))

    def set_terminated(self, run: str) -> None:
        self.told.append(("end", run))

    # wandb.init and its run
    def init(self, **about: str) -> Server:
        self.told.append(about)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.told.append((values, step))

    def finish(self) -> None:
        self.told.append("end")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    for name, parts in (("mlflow", {"MlflowClient": lambda: server}), ("wandb", {"init": server.init})):
        module = ModuleType(name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module)
    return server


def test_mlflow_is_told_every_step_once(tmp_path: Path, server: Server) -> None:
    lake = Lake(tmp_path / "lake")
    curves(lake, 1, 1)
    with Board(Shown(trackers=("mlflow",), run="mine"), "policy ranks") as board:
        board.show(lake.table("metrics"), [KEY], 1)
        board.show(lake.table("metrics"), [KEY], 1)
        curves(lake, 2, 2)
        board.show(lake.table("metrics"), [KEY], 2)
    steps = [("id", name, step / 10, step) for step in (1, 2) for name in ("kl", "reward")]
    assert server.told == [("experiment", "mine"), ("mine", "policy ranks"), *steps, ("end", "id")]


def test_wandb_is_told_every_step_once(tmp_path: Path, server: Server) -> None:
    lake = Lake(tmp_path / "lake")
    curves(lake, 1, 2)
    with Board(Shown(trackers=("wandb",), run="mine"), "sft") as board:
        board.show(lake.table("metrics"), [KEY], 2)
    about = {"group": "mine", "name": "sft", "reinit": "create_new"}
    steps = [({"kl": step / 10, "reward": step / 10}, step) for step in (1, 2)]
    assert server.told == [about, *steps, "end"]


def test_a_tracker_that_is_not_installed_is_told_of_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else object())
    check_installed(["mlflow"])
    with pytest.raises(ValueError, match=r"run\.trackers names wandb, which is not installed: pip install wandb"):
        check_installed(["mlflow", "wandb"])
