"""`rlaif gc` as it is typed: it says what it would do, and does it only with --apply."""

import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from storage.errors import LakeError
from storage.lake import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    row = {"item_id": "i", "status": "ok", "item_key": "k", "run": "r", "seed": 1, "step": 0, "name": "n", "value": 0.0}
    for shard in range(16):
        lake.table("metrics").commit_shard([row], stage_key="k", shard=shard)
    place = Path(lake.root, "blobs", (blob := lake.blobs.put(b"x" * 1234))[:2], blob)
    os.utime(place, (time.time() - 30 * 3600,) * 2)
    return lake


def gc(lake: Lake, *options: str) -> str:
    done = CliRunner().invoke(app, ["gc", lake.root, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_it_is_dry_by_default_and_then_does_what_it_said(lake: Lake) -> None:
    for _ in range(2):
        said = gc(lake)
        assert "small files metrics k 16" in said
        assert "no row blobs 1 1,234" in said
        assert "Nothing was changed; --apply does it." in said
    assert "Removed 1 files, 1,234 bytes." in gc(lake, "--apply")
    assert "Nothing to do." in gc(lake)
    assert Lake(lake.root).table("metrics").read("k").num_rows == 16
    assert "no version metrics 16" not in gc(lake, "--forget-versions-before", "2020-01-01")


def test_the_age_that_protects_runs_at_work(lake: Lake) -> None:
    assert "no row" not in gc(lake, "--older-than", "31")
    assert CliRunner().invoke(app, ["gc", lake.root, "--older-than", "1"]).exit_code == 2


def test_a_lake_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="There is no lake at"):
        CliRunner().invoke(app, ["gc", str(tmp_path / "typo")], catch_exceptions=False)
    assert not (tmp_path / "typo").exists()
