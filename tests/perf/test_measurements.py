"""The measurements are run by hand: what they take from the rooms must be there all the same."""

import importlib
from pathlib import Path

import pytest

PERF = Path(__file__).parents[2] / "perf"
MEASUREMENTS = sorted(path.stem for path in PERF.glob("*.py") if "def main(" in path.read_text())


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_each_finds_what_it_imports(name: str) -> None:
    assert callable(importlib.import_module(f"perf.{name}").main)
