"""The doctor's checks on machines that are made up, and the facts of this one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import BASE
from typer.testing import CliRunner

from flows.cli import app
from flows.doctor_command import needs_of
from flows.presets import load
from tasks.doctor import Check, Facts, Gpu, Model, Needs, Package, examine
from tasks.machine_facts import lake_facts, models_of, packages

A100 = Gpu("A100", 79.0, 78.0, bfloat16=True)
MODEL = Model("owner/name", ())
GOOD = Facts(
    python="3.11.7",
    packages=(Package("torch", ">=2.13", "2.13.0", fits=True),),
    torch="2.13.0",
    gpus=(A100, A100),
    readers={"av": None, "decord": None},
    memory_gib=64.0,
    shared_mib=8000.0,
    open_files=65536,
    ray="a local one starts",
    ray_fault=None,
    prefect="each command starts its own",
    prefect_fault=None,
    bitsandbytes=True,
    vllm=True,
    lake="/lake",
    disk_gib=500.0,
    models=(MODEL,),
)
NEEDS = Needs("cuda", "bfloat16", 2, 1, worker_gib=40.0, busiest="policy", disk_gib=100.0, four_bit=True, vllm=True)


def told(facts: Facts, needs: Needs | None = NEEDS) -> dict[str, Check]:
    return {check.name: check for check in examine(facts, needs).checks}


def test_a_machine_that_has_all_is_healthy() -> None:
    report = examine(GOOD, NEEDS)
    assert report.healthy
    assert {check.state for check in report.checks} == {"ok"}
    assert not any(check.advice for check in report.checks)


@pytest.mark.parametrize(
    ("change", "name", "state", "said", "advice"),
    [
        ({"python": "3.12.1"}, "python", "warning", "3.12.1", "Python 3.11"),
        (
            {"packages": (Package("peft", ">=0.21", "0.9", fits=False),)},
            "packages",
            "failed",
            r"peft 0.9 (wanted >=0.21)",
            "constraints.txt",
        ),
        (
            {"packages": (Package("peft", ">=0.21", None, fits=False),)},
            "packages",
            "failed",
            "peft is not installed",
            "constraints.txt",
        ),
        ({"readers": {"av": "does not load: x"}}, "reader av", "failed", "does not load", "reinstall av"),
        ({"open_files": 1023}, "open files", "failed", "1,023", "ulimit -n"),
        ({"open_files": 1024}, "open files", "warning", "1,024", "ulimit -n"),
        ({"shared_mib": 64.0}, "shared memory", "warning", "64 MiB", "--shm-size"),
        ({"ray_fault": "no GPUs"}, "Ray", "failed", "no GPUs", "RAY_ADDRESS"),
        ({"prefect_fault": "does not answer"}, "Prefect", "failed", "does not answer", "make up"),
        ({"gpus": ()}, "GPUs", "failed", "none; 2 wanted", "CUDA_VISIBLE_DEVICES"),
        ({"gpus": (), "torch": "2.13.0+cpu"}, "GPUs", "failed", "none", "CUDA build"),
        ({"gpus": (A100,)}, "GPUs", "failed", "A100 (79 GiB); 2 wanted", "run.workers"),
        ({"gpus": (), "cluster": "h:1"}, "GPUs", "warning", "2 wanted of the cluster at h:1", "ray status"),
        ({"gpus": (), "cluster": "h:1"}, "memory", "warning", "there is no card", "see GPUs"),
        ({"gpus": ()}, "memory", "failed", "there is no card", "see GPUs"),
        ({"gpus": (replace(A100, bfloat16=False),) * 2}, "bfloat16", "failed", "not supported", "models.dtype=float32"),
        ({"gpus": (replace(A100, free_gib=41.0),) * 2}, "memory", "warning", "41.0 GiB free", "forward_batch"),
        ({"gpus": (A100, replace(A100, free_gib=39.0))}, "memory", "failed", "39.0 GiB free", "larger card"),
        ({"bitsandbytes": False}, "bitsandbytes", "failed", "is not installed", "pip install bitsandbytes"),
        ({"vllm": False}, "vLLM", "failed", "is not installed", "engine to transformers"),
        ({"lake_fault": "it is full"}, "lake", "failed", "it is full", "run.lake"),
        ({"disk_gib": 105.0}, "disk", "failed", "105 GiB free; about 100 GiB wanted", "fewer frames"),
        ({"missing_data": ("data/videos",)}, "data", "failed", "not there: data/videos", "data.videos="),
        ({"models": (Model("a/b", None, hub="404"),)}, "model a/b", "failed", "nor on the Hub: 404", "rlaif convert"),
        (
            {"models": (Model("owner/name", ("no tokenizer", "no weights")),)},
            "model owner/name",
            "failed",
            "no tokenizer; no weights",
            "mend",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    change: dict[str, Any], name: str, state: str, said: str, advice: str
) -> None:
    checks = told(replace(GOOD, **change))
    assert checks[name].state == state
    assert said in checks[name].said
    assert advice in checks[name].advice
    assert examine(replace(GOOD, **change), NEEDS).healthy == (state == "warning")


def test_a_preset_on_cuda_wants_a_card_whatever_its_workers_reserve() -> None:
    assert told(replace(GOOD, gpus=()), replace(NEEDS, gpus_per_worker=0))["GPUs"].said == "none; 1 wanted"


def test_a_preset_for_the_cpu_asks_for_memory_and_no_card() -> None:
    needs = Needs("cpu", "float32", workers=4, gpus_per_worker=0, worker_gib=10.0, busiest="policy")
    checks = told(replace(GOOD, gpus=(), bitsandbytes=False), needs)
    assert "GPUs" not in checks
    assert "bitsandbytes" not in checks
    assert checks["memory"].state == "ok"
    assert told(replace(GOOD, gpus=(), memory_gib=39.0), needs)["memory"].state == "failed", "of all four workers"


def test_what_cannot_be_estimated_is_a_warning() -> None:
    checks = told(GOOD, replace(NEEDS, worker_gib=None, disk_gib=None, unknown="no config.json"))
    assert (checks["memory"].state, checks["disk"].state) == ("warning", "ok")
    assert "no config.json" in checks["memory"].said


def test_a_worker_on_a_part_of_a_card_shares_its_memory() -> None:
    assert told(GOOD, replace(NEEDS, workers=2, gpus_per_worker=0.5))["memory"].state == "failed"


def test_packages_are_compared_with_the_pins() -> None:
    found = {each.name: each for each in packages(["torch>=2.13", "typer<0.1", "no-such-thing", 'x; extra == "dev"'])}
    assert [found[name].fits for name in ("torch", "typer", "no-such-thing")] == [True, False, False]
    assert "x" not in found
    assert all(each.fits for each in packages()), "this environment is the project's own"


def test_models_are_looked_at_where_they_lie(tmp_path: Path) -> None:
    (whole,) = models_of([str(BASE), str(BASE)])
    assert (whole.faults, whole.hub) == ((), None)
    assert told(replace(GOOD, models=(whole,)))[f"model {BASE}"].state == "ok"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    half, gone = models_of([str(tmp_path), str(tmp_path / "gone")])
    assert "'bert' are not supported" in (half.faults or [""])[0]
    assert (gone.faults, gone.hub) == (None, "there is no such folder")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert"}, "'bert' are not supported"),
        ({"model_type": "internvl_chat", "auto_map": {"AutoModel": "x"}}, "want to run code of their own"),
        ({}, "names no model_type"),
        ({"model_type": "llava"}, None),
    ],
)
def test_what_the_hub_tells_of_a_model_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], said: str | None
) -> None:
    monkeypatch.setattr("tasks.machine_facts.hub_config", lambda _: config)
    (model,) = models_of(["owner/not-on-this-machine"])
    check = told(replace(GOOD, models=(model,)))["model owner/not-on-this-machine"]
    assert check.state == ("ok" if said is None else "failed")
    assert (said or "the Hub has it") in check.said


def test_a_lake_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    fault, free = lake_facts(str(tmp_path / "runs" / "new" / "lake"))
    assert fault is None
    assert (free or 0) > 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    fault, _ = lake_facts(str(tmp_path / "file"))
    assert "move it away" in (fault or "")


def test_a_bucket_is_opened_as_a_run_opens_it(s3_root: str) -> None:
    assert lake_facts(s3_root) == (None, None)
    fault, _ = lake_facts("s3://no-such-bucket-here/lake")
    assert "does not exist" in (fault or "")


def test_needs_are_those_of_the_plan() -> None:
    needs = needs_of(load("miniature"))
    assert (needs.device, needs.workers, needs.four_bit, needs.unknown) == ("cpu", 2, False, None)
    assert 2.0 < (needs.worker_gib or 0) < 16


@pytest.mark.slow
def test_the_command_ends_with_1_where_a_run_would_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    asked = ["doctor", "--preset", "miniature", "--json", f"run.lake={tmp_path / 'lake'}"]
    done = CliRunner().invoke(app, asked)
    checks = {each["name"]: each for each in json.loads(done.output)}
    assert done.exit_code == any(each["state"] == "failed" for each in checks.values())
    assert checks["Ray"]["state"] == checks["lake"]["state"] == "ok"
    bad = CliRunner().invoke(app, [*asked, f"models.policy={tmp_path / 'gone'}"])
    assert bad.exit_code == 1
    assert {each["state"] for each in json.loads(bad.output) if each["name"].endswith("gone")} == {"failed"}
