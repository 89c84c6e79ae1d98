"""A reward model that a run trained, as an evaluation of pairs of answers uses it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from models.settings import RewardForm
from storage.lake import Lake
from tasks.model_ref import ModelRef

if TYPE_CHECKING:
    from models.reward_model import RewardModel
    from tasks.stage import StageRef


@dataclass(frozen=True)
class RewardRef:
    """A reward model by its base and its adapter.

    Attributes:
        base: the model that it was trained on.
        blob: its adapter with head and form, which names the texts that it reads.
    """

    base: ModelRef
    blob: str

    @property
    def identity(self) -> str:
        """What its scores depend on: 16 hex digits."""
        return replace(self.base, adapter=self.blob).identity

    @property
    def label(self) -> str:
        """The name of its base."""
        return self.base.label

    @property
    def stages(self) -> tuple[StageRef, ...]:
        """The trainings that it comes from, as far as they are known."""
        return self.base.stages

    def check(self, lake: Lake, name: str) -> None:
        """Raises ValueError where it reads what a benchmark does not have; `name`: of the checkpoint."""
        form = RewardForm(**json.loads((lake.blobs.folder(self.blob) / "reward_form.json").read_text()))
        if form.rm_context == "narrative":
            raise ValueError(
                f"Checkpoint {name}: this reward model reads the narrative of a video, and the videos of a benchmark "
                "have none. Score one that was trained with reward.training.form.rm_context none."
            )

    def load(self, lake: Lake) -> RewardModel:
        """The reward model, its adapters read from the lake."""
        from models.reward_model import RewardModel

        return RewardModel.load(self.base.load(lake), lake.blobs.folder(self.blob))
