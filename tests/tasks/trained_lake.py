"""A lake with adapters as trainings leave them: SFT, a policy on it and a reward model, on the miniature's base."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from labels import complete, provenance
from small import base_model, committed

from models.reward_model import RewardModel
from models.settings import LoraSettings, RewardForm
from models.video_lm import VideoLM
from storage.lake import Lake
from tasks.model_ref import ModelRef
from tasks.stage import StageResult

LORA = LoraSettings(rank=4, alpha=8)


@dataclass(frozen=True)
class TrainedLake:
    """The lake, its base, and the blobs of the adapters."""

    lake: Lake
    base: ModelRef
    sft: str
    policy: str
    reward: str

    @property
    def tuned(self) -> ModelRef:
        """The policy as the product itself loads it: SFT merged, the adapter on top."""
        return replace(self.base, merged=(self.sft,), adapter=self.policy)


def trained_lake(root: Path, inputs: tuple[StageResult, ...] = ()) -> TrainedLake:
    """Train nothing, but shake adapters so that each changes the answers."""
    lake, base = Lake(root), base_model()
    sft = _kept(lake, base, "sft", seed=1)
    start = replace(base, merged=(sft,))
    policy, reward = _kept(lake, start, "policy", seed=2), kept_reward(lake, start)
    finish(lake, base, "sft", None, sft, inputs)
    finish(lake, start, "policy", "context", policy, inputs)
    finish(lake, start, "reward", "context", reward, inputs)
    return TrainedLake(lake, base, sft, policy, reward)


def finish(
    lake: Lake, model: ModelRef, role: str, arm: str | None, blob: str, inputs: tuple[StageResult, ...] = ()
) -> StageResult:
    """The rows of a training that has ended."""
    row = {**provenance(arm or role), "role": role, "step": 4, "final": True, "blob": blob, "arm": arm}
    row |= {"base": model.label, "merged": list(model.merged), "metrics": json.dumps({"loss": 0.5})}
    result = committed(lake.table("checkpoints"), [row], f"{role}-{arm}")
    named = result.model_copy(update={"stage": {"reward": "reward_model"}.get(role, role)})
    complete(lake, named, {"training": {"lora": {"rank": 4}}}, model=model.identity, inputs=inputs)
    return named


def shake(lm: VideoLM, name: str, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in lm.adapter_parameters(name).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def _kept(lake: Lake, model: ModelRef, name: str, seed: int) -> str:
    lm = model.load(lake)
    lm.add_adapter(name, LORA, seed)
    shake(lm, name, seed)
    return _put(lake, lambda folder: lm.save_adapter(name, folder, base=model.label))


def kept_reward(lake: Lake, model: ModelRef, form: RewardForm = RewardForm()) -> str:  # noqa: B008 - frozen
    """The blob of a reward model whose adapter was shaken."""
    lm = model.load(lake)
    lm.add_adapter("reward", LORA, 3)
    shake(lm, "reward", 3)
    reward = RewardModel(lm, form)
    return _put(lake, lambda folder: reward.save(folder, base=model.label))


def _put(lake: Lake, save: Callable[[Path], Any]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return lake.blobs.put_folder(Path(folder))
