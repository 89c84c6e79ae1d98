"""What a measurement found, on disk from its first figure on, with the machine and the commit that it was found on."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "peft", "vllm")


class CommitError(RuntimeError):
    """The commit of what is measured is not known; the message says what to do."""


def commit_here() -> str:
    """The commit of the checkout, short; with "-changed" where tracked files differ from it.

    Raises:
        CommitError: this is no git checkout.
    """
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError) as error:
        raise CommitError(f"git knows no commit of {RESULTS.parent} ({error}): give it with --commit.") from error
    return f"{commit}-changed" if changed else commit


def _git(*words: str) -> str:
    told = subprocess.run(["git", *words], cwd=RESULTS.parent, check=True, capture_output=True, text=True)
    return told.stdout.strip()


def machine(device: str) -> dict[str, Any]:
    """The machine: its processor, how busy it was, and its GPU where that is what is measured."""
    told: dict[str, Any] = {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }
    if device.startswith("cuda"):
        gpu = torch.cuda.get_device_properties(device)
        told |= {"gpu": gpu.name, "gpu_gib": round(gpu.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    return told


def _processor() -> str:
    """Its name; the architecture where the system does not tell one."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Python and of what computes, as far as it is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class Record:
    """Results that are written anew with every figure, so that what breaks off later costs none of them.

    Attributes:
        told: all of them so far.
        path: of the file.
    """

    def __init__(self, what: str, device: str, commit: str | None, note: str, out: Path | None) -> None:
        """Args:
        what: is measured, such as gpu_stages-small: the beginning of the file's name.
        device: torch device.
        commit: of the code; None: that of the checkout.
        note: what else a reader must know, such as other work on the machine.
        out: the file; None: perf/results/<what>-<machine>-<commit>.json.

        Raises:
            CommitError: no commit was given and git knows none.
        """
        commit = commit or commit_here()
        here = machine(device)
        self.told: dict[str, Any] = {
            "what": what,
            "arguments": sys.argv[1:],
            "commit": commit,
            "machine": here,
            "versions": versions(),
            "note": note,
        }
        name = re.sub(r"[^a-z0-9]+", "-", (here.get("gpu") or here["cpu"]).lower()).strip("-")
        self.path = out or RESULTS / f"{what}-{name}-{commit}.json"

    def tell(self, **figures: Any) -> None:
        """Print figures on a line of their own and keep them."""
        print(json.dumps(figures), flush=True)
        self.told |= figures
        self._write()

    def tell_stage(self, stage: str, way: str, figures: dict[str, Any]) -> None:
        """The same of one stage done one way."""
        print(json.dumps({"stage": stage, "way": way, **figures}), flush=True)
        self.told.setdefault("stages", {}).setdefault(stage, {})[way] = figures
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".part")
        fresh.write_text(json.dumps(self.told, indent=2) + "\n")
        fresh.replace(self.path)
