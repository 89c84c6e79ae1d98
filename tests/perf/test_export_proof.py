"""What perf/export_proof.sh ends with, by what became of each library; its Python and its installer are stand-ins."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# `python -m venv FOLDER` puts itself and `uv` there; the loader's run ends as BAD says, which names a library.
PYTHON = """#!/bin/bash
here=$(cd "$(dirname "$0")" && pwd)
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$here"/python "$here"/uv "$3/bin/" ;;
"perf/export_load.py $BAD") echo "the loader says no" >&2; exit 1 ;;
perf/export_load.py*) echo "12 pairs" ;;
esac
"""
UV = """#!/bin/bash
for word in "$@"; do [[ $word != "$ABSENT"==* ]] || { echo "no such wheel" >&2; exit 1; }; done
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The script among stand-ins."""
    for name in ("perf/export_proof.sh", "deployments/pip_settings.sh"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in (("python", PYTHON), ("uv", UV)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "code", "last"),
    [
        ({}, 0, "proved: trl verl; failed: none; not proved, could not be installed: none"),
        ({"ABSENT": "verl"}, 1, "proved: trl; failed: none; not proved, could not be installed: verl"),
        (
            {"ABSENT": "verl", "ALLOW_MISSING": "1"},
            0,
            "proved: trl; failed: none; not proved, could not be installed: verl",
        ),
        (
            {"ABSENT": "verl", "ALLOW_MISSING": "1", "BAD": "trl"},
            1,
            "proved: none; failed: trl; not proved, could not be installed: verl",
        ),
    ],
)
def test_it_fails_unless_every_library_was_proved(tree: Path, settings: dict[str, str], code: int, last: str) -> None:
    environment = {"ABSENT": "none", "BAD": "none", "ALLOW_MISSING": "", "TMPDIR": str(tree), **settings}
    done = subprocess.run(
        ["bash", "perf/export_proof.sh", "trl", "verl"],
        cwd=tree,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, last), done.stderr
