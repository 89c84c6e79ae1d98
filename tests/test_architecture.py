"""The arrows of the house: flows -> tasks -> {models, benchmarks, storage}; models and storage know nobody."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"flows", "tasks", "models", "benchmarks", "storage", "miniature"}
ALLOWED = {
    "flows": {"tasks", "models", "benchmarks", "storage"},
    "tasks": {"models", "benchmarks", "storage"},
    "benchmarks": {"storage"},
    "models": set(),
    "storage": set(),
    "miniature": {"models", "storage"},
}
FORBIDDEN = {
    "models": {"prefect", "ray", "deltalake", "pyarrow", "duckdb", "pydantic"},
    "benchmarks": {"torch", "transformers", "prefect", "ray", "deltalake", "pyarrow", "duckdb", "pydantic"},
    "storage": {"torch", "transformers", "prefect", "ray"},
}


def imported(path: Path) -> Iterator[str]:
    """The top-level packages that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {package}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for package in imported(path)
        if package in (ROOMS - ALLOWED[room] - {room}) | FORBIDDEN.get(room, set())
    ]
    assert not wrong


def test_every_folder_of_code_is_packaged() -> None:
    """Installed from a wheel, a folder that is not listed would be missing: the checkout's own install hides that."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {".".join(path.parent.relative_to(ROOT).parts) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert there <= listed


def test_the_driver_plans_a_run_without_torch_or_ray() -> None:
    code = "import sys, flows.rlaif, flows.relabel; print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
