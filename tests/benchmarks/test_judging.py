"""Texts for judges: own ones take the place of ours, under our names alone, as they are now."""

from pathlib import Path

import pytest

from benchmarks import judging
from benchmarks.registry import benchmark
from storage.errors import FormatError


def test_a_misnamed_text_of_ones_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("Whence they are.")
    (tmp_path / "qa_user.txt").write_text("Mine.")
    assert judging.prompt("qa_user", str(tmp_path)) == "Mine."
    assert judging.prompt("qa_system", str(tmp_path)) == judging.prompt("qa_system")
    (tmp_path / "qa_usr.txt").write_text("Mine.")
    with pytest.raises(FormatError, match=r"qa_usr\.txt: is no text for a judge; did you mean qa_user\.txt\?"):
        judging.prompt("qa_system", str(tmp_path))


def test_a_text_that_was_edited_is_read_again(tmp_path: Path) -> None:
    mine, kind = tmp_path / "qa_user.txt", benchmark("msvd_qa", prompts=str(tmp_path))
    for text in ("Before.", "After.", ""):
        mine.write_text(text)
        assert kind.texts["qa_user"] == text
