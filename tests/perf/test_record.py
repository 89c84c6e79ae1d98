"""Results of measurements: they name machine and commit, and stand on disk from the first figure on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perf import record
from perf.record import CommitError, Record


def test_a_file_is_named_by_what_where_and_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "_processor", lambda: "AMD EPYC(TM) 7763")
    kept = Record("gpu_stages-small", "cpu", "abc1234", "", None)
    assert kept.path == tmp_path / "gpu_stages-small-amd-epyc-tm-7763-abc1234.json"


def test_each_figure_is_on_disk_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Record("a", "cpu", "abc1234", "busy", tmp_path / "made" / "found.json")
    kept.tell_stage("sampling", "plain", {"seconds": 1.5})
    assert json.loads(kept.path.read_text())["stages"] == {"sampling": {"plain": {"seconds": 1.5}}}
    kept.tell_stage("sampling", "ours", {"failed": "out of memory"})
    kept.tell(as_asked=False)
    found = json.loads(kept.path.read_text())
    assert found["stages"]["sampling"]["ours"] == {"failed": "out of memory"}
    assert (found["as_asked"], found["note"]) == (False, "busy")
    assert [path.name for path in kept.path.parent.iterdir()] == ["found.json"]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_without_git_the_commit_must_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nothing"))
    with pytest.raises(CommitError, match=r"give it with --commit"):
        Record("a", "cpu", None, "", None)
