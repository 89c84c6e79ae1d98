"""The models that an evaluation scores: checkpoints by name, and adapters that runs trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.lake import Lake
from storage.places import absolute
from tasks.evaluation.reward_ref import RewardRef
from tasks.model_ref import ModelRef
from tasks.trained import base_of, chosen_adapter

# A folder's name and a word in tables and artifacts.
LABEL = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Checkpoint(BaseModel):
    """A model that is scored."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=LABEL, description="What it is called in the results.")
    model: str | None = Field(
        None,
        description="A local folder or a Hub id; for an adapter, where its base is now (empty: the Hub id that it was "
        "trained on).",
    )
    endpoint: str | None = Field(
        None,
        description="One of grading.endpoints, for benchmarks of pairs of answers (pairs: verdict or listwise); empty: "
        "none.",
    )
    lake: str | None = Field(None, description="The lake of a run whose trained adapter is scored; empty: none is.")
    arm: str | None = Field(None, description="Which arm's adapter; empty: that of the only one.")
    role: Literal["policy", "sft", "reward"] = Field(
        "policy",
        description="policy: what an arm learned; sft: where arms began; reward: an arm's reward model, for benchmarks "
        "of pairs of answers (pairs: verdict or listwise), each of which it scores.",
    )

    @property
    def only_compares(self) -> bool:
        """Whether it answers no question, and says of two answers which is better."""
        return self.endpoint is not None or (self.lake is not None and self.role == "reward")

    def resolve(self, lake: Lake, how: dict[str, Any]) -> ModelRef | RewardRef:
        """The model, its adapters in `lake`. `how`: the device and what else ModelRef.of takes.

        An adapter is used with the dtype that it was trained with.

        Raises:
            ValueError: neither model nor lake is given, the checkpoint or the adapter is not there, its base is
                another, or it is a reward model that reads narratives.
        """
        if self.lake is None:
            if self.model is None:
                raise ValueError(f"Checkpoint {self.name}: give its model, or the lake of the run that trained it.")
            return ModelRef.of(self.model, **how)
        home = lake if absolute(self.lake) == lake.root else Lake(self.lake)
        adapter = chosen_adapter(home, self.arm, self.role)
        base = base_of(adapter, self.model)
        if home is not lake:
            for blob in adapter.adapters:
                lake.blobs.put_folder(home.blobs.folder(blob))  # The same bytes have the same name in every lake.
        base = replace(base, device=how.get("device", base.device))
        if self.role != "reward":
            return replace(base, adapter=adapter.blob)
        reward = RewardRef(base, adapter.blob)
        reward.check(lake, self.name)
        return reward
