"""The settings of trainings on several workers, and the files beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from flows.parameters import RunConfig
from flows.plan import sample_of
from flows.presets import PROJECT, PresetError, load
from flows.steps import deepspeed

CLUSTER = PROJECT / "deployments" / "ray" / "cluster.yaml"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"workers": 2, "training_workers": 4}, "training_workers 4 must be at most workers, 2"),
        ({"workers": 2, "training_workers": 2, "gpus_per_worker": 0.5}, "need whole GPUs"),
        ({"workers": 2, "strategy": "zero3"}, "zero3 divides among training_workers"),
    ],
)
def test_what_cannot_train_together_is_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        RunConfig.model_validate({"name": "a", **values})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("models.fit_memory=true", "fit_memory cuts a step by what fits into one GPU, and the 2 run.training_workers"),
        ("models.quantization=nf4", "zero3 cannot divide weights in four bits"),
    ],
)
def test_what_only_one_worker_can_do_is_refused_with_several(change: str, complaint: str) -> None:
    gpus = ["run.workers=2", "run.gpus_per_worker=1", "models.device=cuda"]
    together = [*gpus, "run.training_workers=2", "run.strategy=zero3"]
    with pytest.raises(PresetError, match=complaint):
        load("miniature", [*together, change])
    load("miniature", [*gpus, change])
    load("miniature", together)


def test_each_strategy_has_its_configuration() -> None:
    stages = {name: deepspeed(name) for name in ("ddp", "zero2", "zero3")}
    assert stages["ddp"] is None
    assert [stages[name]["zero_optimization"]["stage"] for name in ("zero2", "zero3")] == [2, 3]  # type: ignore[index]


def test_a_plan_s_sample_trains_on_one_worker(tmp_path: Path) -> None:
    many = load("miniature", ["run.workers=4", "run.training_workers=4", "run.strategy=zero2"])
    run = sample_of(many, tmp_path).run
    assert (run.workers, run.training_workers, run.strategy) == (1, 1, "ddp")


def test_ray_s_launcher_accepts_the_cluster_file() -> None:
    validate_config(prepare_config(yaml.safe_load(CLUSTER.read_text())))
