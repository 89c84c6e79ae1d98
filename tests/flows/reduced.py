"""The miniature's preset at a size that runs in seconds, by the command that users type; and how to kill it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.compute as pc

from flows.presets import load
from storage.lake import Lake
from storage.rows import row_digest

LIMIT_S = 900.0  # Of one command. Some seconds on an idle machine; minutes on a busy one.
SMALL = """
    data.prepare.arguments.sft=12 data.prepare.arguments.rl=12 data.prepare.arguments.benchmark=8
    frames.shard_size=4 frames.videos_per_blob=4 visual_tokens.shard_size=4 captions.shard_size=4
    sft.training.steps=3 sft.training.batch_size=8 sft.training.save_every=1 sft.training.rate=1e-4
    candidates.n=2 candidates.limit=32 candidates.shard_size=4 preferences.shard_size=4
    reward.training.steps=3 reward.training.batch_size=4 reward.training.save_every=1
    ppo.training.iterations=3 ppo.training.prompts=4 ppo.training.samples=2 ppo.training.minibatch=4
    ppo.training.epochs=1 ppo.training.save_every=1
    grpo.training.iterations=3 grpo.training.prompts=4 grpo.training.samples=4 grpo.training.minibatch=8
    grpo.training.epochs=1 grpo.training.save_every=1
    grpo.training.sampling.temperature=2.0 grpo.training.max_unfinished=1.0
    agreement.limit=16 benchmark.limit=16 benchmark.shard_size=4 evaluate=null
"""
BOTH_ROUTES = (
    "arms=[{name: ppo_context, narrative: true, frame_set: judge_2, method: likelihood}, "
    "{name: ranks, route: grpo_rank, narrative: true, frame_set: judge_2, method: likelihood}]"
)
ONE_CONDITION = "agreement.conditions=[{name: context_2, narrative: true, frame_set: judge_2, method: likelihood}]"


@dataclass(frozen=True)
class Place:
    """Where commands work.

    Attributes:
        folder: of everything they write.
        server: the address of a Prefect server; None: each command starts its own.
    """

    folder: Path
    server: str | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def lake(self, name: str) -> Lake:
        return Lake(self.folder / name / "lake")

    def run(self, name: str, *overrides: str, preset: str = "miniature") -> subprocess.CompletedProcess[str]:
        """Runs the reduced preset to its end with the lake and the report in the folder `name`."""
        return subprocess.run(
            self._command(name, preset, overrides),
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    @contextmanager
    def started(self, name: str, *overrides: str) -> Iterator[subprocess.Popen[str]]:
        """The same under way; nothing of it is left afterwards."""
        with self._output(name).open("a") as output:
            process = subprocess.Popen(
                self._command(name, "miniature", overrides),
                env=self._environment(),
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            kill(process)

    def said(self, name: str) -> str:
        """The output of all that was `started` under this name."""
        return self._output(name).read_text()

    def _output(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def _command(self, name: str, preset: str, overrides: tuple[str, ...]) -> list[str]:
        command = [sys.executable, "-m", "flows.cli", "run", "--preset", preset]
        return [*command, *self.overrides(name), *overrides]

    def overrides(self, name: str) -> list[str]:
        """What makes the miniature's preset this small, with its results in the folder `name`."""
        places = ["run.name=reduced", f"run.lake={self.folder / name / 'lake'}", f"run.folder={self.folder / name}"]
        places += [f"data.prepare.folder={self.data}", f"data.videos={self.data / 'videos'}"]
        places += [f"data.{split}={self.data / split}.json" for split in ("sft", "rl", "benchmark")]
        return [*places, *SMALL.split(), BOTH_ROUTES, ONE_CONDITION]

    def evaluated(self) -> str:
        """What gives the run its last stages back: the models on a benchmark of the held-out questions."""
        scenes = load("miniature").evaluate
        assert scenes is not None
        given = scenes.model_dump(mode="json")
        given["benchmarks"]["scenes"] |= {
            "files": {"": str(self.data / "benchmark.jsonl")},
            "videos": str(self.data / "videos"),
            "limit": 8,
        }
        return f"evaluate={json.dumps(given)}"

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in ("PREFECT_API_URL", "RAY_ADDRESS")}
        api = {"PREFECT_API_URL": self.server} if self.server else {}
        return {**kept, **api, "PREFECT_HOME": str(self.folder / "prefect")}


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the command and everything it started: Ray's processes, the workers, Prefect's server."""
    family: dict[int, psutil.Process] = {}
    if process.poll() is not None:
        return
    try:
        driver = psutil.Process(process.pid)
        while new := [each for each in [driver, *driver.children(recursive=True)] if each.pid not in family]:
            for each in new:  # Stopped first: who lives starts nobody else meanwhile.
                family[each.pid] = each
                _send(each, "suspend")
    except psutil.NoSuchProcess:
        pass  # It ended by itself meanwhile; what it started is in `family` and is killed all the same.
    for each in family.values():
        _send(each, "kill")
    process.wait()
    _, left = psutil.wait_procs(family.values(), timeout=60)
    assert not left


def _send(process: psutil.Process, what: str) -> None:
    try:
        getattr(process, what)()
    except psutil.NoSuchProcess:
        return


def contents(lake: Lake, of_stages_in: Lake | None = None) -> dict[str, str]:
    """A digest of every table's rows; with another lake, of those stages alone that are begun there.

    Left out: the table `runs`, the log of events, with clocks.
    """
    tables = {name: lake.table(name).read() for name in lake.tables() if name != "runs"}
    if of_stages_in is None:
        return {name: row_digest(rows) for name, rows in tables.items()}
    begun = {name: of_stages_in.table(name).read(columns=["stage_key"])["stage_key"].unique() for name in tables}
    kept = {name: rows.filter(pc.is_in(rows["stage_key"], begun[name])) for name, rows in tables.items()}
    return {name: row_digest(rows) for name, rows in kept.items() if len(rows)}


def adapters(lake: Lake) -> dict[str, dict[str, bytes]]:
    """The bytes of every file of the adapters that trainings ended with, by role and arm."""
    rows = lake.table("checkpoints").read(columns=["role", "arm", "final", "blob"]).to_pylist()
    folders = {f"{row['role']} {row['arm'] or ''}".rstrip(): row["blob"] for row in rows if row["final"]}
    return {
        name: {path.name: path.read_bytes() for path in sorted(lake.blobs.folder(blob).iterdir())}
        for name, blob in folders.items()
    }
