"""Which model a stage uses: a name, adapters merged into it, and an adapter on top."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.model_files import faults_of, faults_of_hub

if TYPE_CHECKING:
    from models.parallel import Team
    from models.quantization import Quantization
    from models.video_lm import VideoLM
    from storage.lake import Lake
    from tasks.stage import StageRef


@dataclass(frozen=True)
class ModelRef:
    """A model by name, small enough to travel in a stage's settings.

    Attributes:
        name: a local folder or a Hub id.
        content: what identifies the weights under that name (see `ModelRef.of`).
        merged: blobs of PEFT adapters merged into the weights, in order.
        adapter: blob of the PEFT adapter that is switched on, if any.
        stages: the trainings that `merged` and `adapter` come from, for the lineage of what is made with the model.
        device: torch device.
        dtype: torch dtype by name.
        quantization: "nf4" keeps the language model's weights in four bits (models.quantization).
        gradient_checkpointing: whether trainings save memory by computing layers again; changes no number.
        sampling_copy: whether rollouts are sampled from a copy with the adapter merged in; changes last digits only.
        fit_memory: whether trainings cut their steps by what fits into the GPU's memory; changes last digits only.
    """

    name: str
    content: str
    merged: tuple[str, ...] = ()
    adapter: str | None = None
    stages: tuple[StageRef, ...] = ()
    device: str = "cpu"
    dtype: str = "float32"
    quantization: Quantization = "none"
    gradient_checkpointing: bool = False
    sampling_copy: bool = True
    fit_memory: bool = False

    @classmethod
    def of(cls, name: str, **how: Any) -> ModelRef:
        """The plain model of that name; `how`: device, dtype and what else has a default.

        Raises:
            ValueError: the name is neither a folder with a checkpoint nor a Hub model that this machine can reach, or
                its files cannot be used (tasks.model_files.faults_of).
        """
        return cls(name, model_content(name), **how)

    @property
    def identity(self) -> str:
        """What the model's answers depend on: 16 hex digits."""
        # Left out where it is off, so that what was made before there was such a thing keeps its name.
        rounded = [] if self.quantization == "none" else [self.quantization]
        return _short(json.dumps([self.content, self.merged, self.adapter, self.dtype, *rounded]))

    @property
    def tower(self) -> str:
        """What its visual tokens depend on: adapters and four bits are the language model's alone."""
        return _short(json.dumps([self.content, self.dtype]))

    @property
    def revision(self) -> str | None:
        """The commit of a Hub id; None: it is a folder."""
        return self.content.rpartition("@")[2] if "@" in self.content else None

    @property
    def label(self) -> str:
        """The name as it is written into adapters and rows: a Hub id, or a folder's own name without its place."""
        return Path(self.name).name if Path(self.name).is_dir() else self.name

    def load(self, lake: Lake, team: Team | None = None) -> VideoLM:
        """The model, its adapters read from the lake; `team`: the workers that use it together."""
        import torch

        from models.parallel import ALONE
        from models.room import meter_of
        from models.video_lm import VideoLM

        torch.set_num_threads(1)
        lm = VideoLM.load(
            self.name,
            revision=self.revision,
            merge=[lake.blobs.folder(blob) for blob in self.merged],
            adapter=None if self.adapter is None else lake.blobs.folder(self.adapter),
            device=self.device,
            dtype=self.dtype,
            quantization=self.quantization,
            team=team or ALONE,
        )
        lm.gradient_checkpointing = self.gradient_checkpointing
        lm.sampling_copy = self.sampling_copy
        lm.meter = meter_of(lm.device) if self.fit_memory else None
        return lm


def model_content(name: str) -> str:
    """What identifies a checkpoint's bytes.

    A folder counts by the bytes of its files, about a second a gigabyte: a merged adapter changes neither size nor ends
    of a file. A Hub id counts by its commit.

    Raises:
        ValueError: neither is there, or it is no checkpoint that can be used.
    """
    folder = Path(name)
    if folder.is_dir():
        if faults := "; ".join(faults_of(folder)):
            raise ValueError(f"Model folder {name}: {faults}. Give a checkpoint saved with save_pretrained.")
        files = sorted(path for path in folder.iterdir() if path.is_file())
        return _short(json.dumps([[path.name, _file_digest(path)] for path in files]))
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    try:
        config = cached_file(name, "config.json")
    except OSError as error:
        raise ValueError(
            f"Model {name!r} is neither a local folder nor a Hub model that this machine can reach: {error}"
        ) from error
    commit = extract_commit_hash(config, None)
    if faults := "; ".join(faults_of_hub(name, str(commit))):
        raise ValueError(f"Hub model {name}: {faults}. Name another, or make a folder of it that can be used.")
    return f"{name}@{commit}"


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
