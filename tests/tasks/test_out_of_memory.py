"""A model that runs out of memory stops its stage, blames no item, and says which settings were too large."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flows.parameters import Parameters
from flows.presets import load
from models.memory import Latest, ran_out
from models.settings import LoraSettings, SftSettings
from tasks.candidates import CandidatesConfig
from tasks.fanout import Outcome, OutOfMemory, StageFailure, Unit, WorkerPool
from tasks.model_ref import ModelRef
from tasks.out_of_memory import naming_what_to_change, sizes_of
from tasks.sft import SftConfig
from tasks.stage import RunContext, Stage, run_stage
from tasks.training import Trainer, Training
from tasks.worker import WorkerProcess

IMPOSSIBLE = 2**50


@dataclass(frozen=True)
class GreedySettings:
    """Of a processor that asks torch for more than any machine has. `calls`: where it notes each call."""

    calls: str
    config: Any
    model: ModelRef
    when: str = "process"


class Greedy:
    def __init__(self, settings: GreedySettings) -> None:
        self.calls = Path(settings.calls)
        if settings.when == "load":
            torch.empty(IMPOSSIBLE)

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002
        from models.memory import LATEST

        (self.calls / "-".join(item["item_id"] for item in items)).touch()
        LATEST.begin("sampling from", "prompts", 16, 4312)
        torch.empty(IMPOSSIBLE)
        return []


def _settings(tmp_path: Path, **more: Any) -> GreedySettings:
    model = ModelRef("somewhere", "content", device="cpu", dtype="bfloat16")
    return GreedySettings(str(tmp_path), CandidatesConfig(batch_size=16), model, **more)


def test_items_are_not_asked_one_by_one(pool: WorkerPool, tmp_path: Path) -> None:
    units = [Unit(0, [{"item_id": name} for name in "abc"], 0)]
    with pytest.raises(
        OutOfMemory, match=r"^in sampling from 16 prompts of up to 4,312 tokens \(68,992 with padding\)"
    ):
        list(pool.run(Greedy, _settings(tmp_path), units))
    assert [each.name for each in tmp_path.iterdir()] == ["a-b-c"]


def _run(pool: WorkerPool, tmp_path: Path, settings: GreedySettings) -> None:
    from tasks.progress import SilentProgress

    ctx = RunContext(str(tmp_path / "lake"), "test", pool, SilentProgress(), max_quarantined=1.0, seed=0)
    config = {"batch_size": 16, "sampling": {"max_new_tokens": 512}}
    stage = Stage("candidates", "candidates", config, (), None, {}, seed=0, shard_size=4, label="candidates rl")
    try:
        run_stage(ctx, stage, lambda: [{"item_id": "one"}], Greedy, settings)
    finally:
        assert ctx.lake.table("candidates").count(stage.key) == {"ok": 0, "quarantined": 0}


def test_a_stage_names_what_was_tried_and_the_settings_with_their_values(pool: WorkerPool, tmp_path: Path) -> None:
    with pytest.raises(StageFailure) as caught:
        _run(pool, tmp_path, _settings(tmp_path))
    told = str(caught.value)
    assert told.startswith("Stage candidates rl ran out of memory in sampling from 16 prompts of up to 4,312 tokens")
    assert "tried to allocate 4503599627370496 bytes" in told
    assert "candidates.forward_tokens (now null), candidates.batch_size (now 16), " in told
    assert "candidates.sampling.max_new_tokens (now 512)" in told
    assert "models.dtype (now bfloat16)" in told
    assert "gradient_checkpointing" not in told, "nothing is learned here"
    assert told.endswith("Complete stages are kept otherwise: the same command goes on from them.")


def test_what_is_told_to_keep_a_stage_is_not_in_its_key(tmp_path: Path) -> None:
    """And what is told to lower is: a training far on its way must not begin anew without a word."""
    model = ModelRef("somewhere", "content")
    config = SftConfig(training=SftSettings(forward_batch=3), split="sft", frame_set="policy")
    settings = GreedySettings(str(tmp_path), config, model)

    def sentences(decisive: dict[str, Any]) -> list[str]:
        with pytest.raises(StageFailure) as caught, naming_what_to_change("sft", None, settings, decisive):
            raise OutOfMemory("in a pass.")
        return str(caught.value).split(". ")

    _, kept, lowered, other, *_ = sentences(config.model_dump(mode="json"))
    assert kept.startswith("What this stage has done is kept where you take fewer run.workers on one machine")
    for name in ("gradient_checkpointing (now false)", "fit_memory (now false)", "sampling_copy (now true)"):
        assert f"models.{name}" in kept
        changed: Any = {name.split()[0]: "(now true)" not in name}
        assert replace(model, **changed).identity == model.identity
    assert "forward" not in kept
    assert lowered == (
        "Lower sft.training.forward_tokens (now null), sft.training.forward_batch (now 3): with another value this "
        "stage begins again"
    )
    assert other.startswith("With another models.dtype (now float32), models.quantization (now none), or fewer frames")
    _, kept, lowered, *_ = sentences(config.model_dump(mode="json", exclude={"training": {"forward_batch"}}))
    assert "sft.training.forward_batch (now 3)" in kept
    assert "forward_batch" not in lowered


def test_a_model_that_is_too_large_to_load_says_so(pool: WorkerPool, tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match=r"candidates rl ran out of memory in loading the model: .*DefaultCPU"):
        _run(pool, tmp_path, _settings(tmp_path, when="load"))


class GreedyTraining(Trainer):
    def train(self, lake: Any) -> tuple[int, str, dict[str, float]]:  # noqa: ARG002
        torch.empty(IMPOSSIBLE)
        raise NotImplementedError


def test_a_training_names_its_settings_too(tmp_path: Path) -> None:
    import ray.cloudpickle

    ref = SimpleNamespace()
    model = ModelRef("somewhere", "content")
    config = SftConfig(
        split="sft",
        frame_set="policy",
        training=SftSettings(lora=LoraSettings(rank=4), forward_batch=3, forward_tokens=900),
    )
    training = Training(str(tmp_path), "run", "key", "sft", None, model, ref, ref, config, 0)  # type: ignore[arg-type]
    worker = WorkerProcess([])
    worker.prepare("key", ray.cloudpickle.dumps((GreedyTraining, training)), [])
    reply = worker.process("key", [{"item_id": "sft"}], 0)
    assert isinstance(reply.fatal, OutOfMemory)
    assert list(sizes_of("sft", training)) == ["sft.training.forward_tokens", "sft.training.forward_batch"]


SECTIONS = ["sft", "captions", "candidates", "reward", "ppo", "grpo", "self_dpo", "benchmark", "visual_tokens"]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_names_are_those_of_the_parameters(section: str) -> None:
    p: Parameters = load("miniature")
    config = p.self_dpo.learning() if section == "self_dpo" else getattr(p, section)
    found = sizes_of("some stage", SimpleNamespace(config=config))
    assert found
    for name, value in found.items():
        assert attrgetter(name)(p) == value


def test_a_judge_is_named_by_its_section() -> None:
    p = load("miniature")
    found = sizes_of("preferences", SimpleNamespace(config=p.judging(p.arms[0])))
    assert found == {"preferences.forward_tokens": None, "preferences.batch_size": p.preferences.batch_size}


def test_what_is_no_lack_of_memory_of_torch_is_none() -> None:
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not ran_out(RuntimeError("shapes do not fit"))
    assert not ran_out(MemoryError("a huge video"))


def test_what_is_tried_is_told_in_words() -> None:
    latest = Latest()
    latest.begin("encoding", "frames", 32)
    assert str(latest.tried) == "encoding 32 frames"
    latest.begin("a forward pass over", "rows", 4, 1000)
    assert str(latest.tried) == "a forward pass over 4 rows of up to 1,000 tokens (4,000 with padding)"
