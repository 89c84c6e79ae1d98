"""Curves for TensorBoard: what stands in the event files."""

from __future__ import annotations

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from storage.lake import Lake
from tasks.boards import Board

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
    with Board(folder, "policy ranks") as board:
        board.show(lake.table("metrics"), KEY, 2)
        board.show(lake.table("metrics"), KEY, 2)
        curves(lake, 3, 4)
        board.show(lake.table("metrics"), KEY, 4)
    expected = sorted((name, step, step / 10) for step in range(1, 5) for name in ("kl", "reward"))
    assert written(folder / "policy_ranks") == expected
    curves(lake, 5, 6)
    with Board(folder, "policy ranks") as board:
        board.show(lake.table("metrics"), KEY, 6)
    assert len(written(folder / "policy_ranks")) == 12


def test_nothing_is_written_where_nothing_was_learned_or_no_folder_is_given(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    curves(lake, 1, 2)
    with Board(tmp_path / "boards", "sft") as board:
        board.show(lake.table("metrics"), KEY, 0)
    with Board(None, "sft") as board:
        board.show(lake.table("metrics"), KEY, 2)
    assert not (tmp_path / "boards").exists()
