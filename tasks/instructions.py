"""Stage `instructions`: the questions of every split, each bound to a video of this run."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from storage.errors import FormatError
from storage.formats.vlm_rlaif import read_instructions
from storage.lake import Lake
from tasks.fanout import Outcome
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage

logger = logging.getLogger(__name__)

# A slash would let ("a", "b/c") and ("a/b", "c") be one instruction.
Split = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$")]


class InstructionsConfig(BaseModel):
    """Where the questions stand."""

    model_config = ConfigDict(extra="forbid")

    files: dict[Split, str] = Field(
        min_length=1, description="Instruction file of each split, in the row format of VLM-RLAIF (JSON list or JSONL)."
    )
    shard_size: int = Field(default=2000, ge=1, description="Instructions that are committed together.")


def instructions(ctx: RunContext, config: InstructionsConfig, frames: StageResult) -> StageResult:
    """Read the files and bind each row to its video.

    A row whose video is unknown, ambiguous or quarantined is quarantined with that reason. An instruction's id is
    `split/id`. The stage is named by the files' bytes, so a moved file is the same and a changed one is another.

    Raises:
        FormatError: a file cannot be read or is not in the format; the message names file and row.
    """
    stage = Stage(
        name="instructions",
        table="instructions",
        config={"files": {split: _digest(split, path) for split, path in config.files.items()}},
        inputs=(frames.ref,),
        model=None,
        prompts={},
        seed=0,  # nothing is drawn
        shard_size=config.shard_size,
    )
    settings = InstructionSettings(ctx.lake_root, frames.ref)
    return run_stage(ctx, stage, lambda: _items(config.files), BindVideos, settings)


def _digest(split: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FormatError(
            f"{path}: cannot be read ({error.strerror}); correct the file of split {split!r} or make it readable."
        ) from error


def _items(files: dict[str, str]) -> list[dict[str, Any]]:
    items = []
    for split, path in files.items():
        rows, notices = read_instructions(Path(path))
        for notice in notices:
            logger.warning(notice)
        items += [{**asdict(row), "item_id": f"{split}/{row.id}", "split": split} for row in rows]
    return items


@dataclass(frozen=True)
class InstructionSettings:
    """What a worker needs."""

    lake: str
    frames: StageRef


class BindVideos:
    """Finds each instruction's video among those of the frames stage."""

    def __init__(self, settings: InstructionSettings) -> None:
        table = Lake(settings.lake).table(settings.frames.table)
        rows = table.read(settings.frames.key, columns=["item_id", "status", "reason"]).to_pylist()
        self._faults = {row["item_id"]: row["reason"] for row in rows if row["status"] != "ok"}
        self._names = VideoNames(row["item_id"] for row in rows)

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002 - nothing is drawn
        return [self._bind(item) for item in items]

    def _bind(self, item: dict[str, Any]) -> Outcome:
        try:
            video = self._names.find(item["video"])
        except UnknownVideoError as error:
            return Outcome(item["item_id"], None, str(error))
        if video in self._faults:
            return Outcome(item["item_id"], None, f"video {video}: {self._faults[video]}")
        columns = ("question", "answer", "kind", "split", "source")
        return Outcome(item["item_id"], [{"video": video, **{column: item[column] for column in columns}}])


class UnknownVideoError(ValueError):
    """A name fits no video, or more than one."""


class VideoNames:
    """Finds videos by name, with or without folders and extension; never guesses between two."""

    def __init__(self, videos: Iterable[str]) -> None:
        """`videos`: paths relative to the data folder, posix."""
        self._whole: defaultdict[str, set[str]] = defaultdict(set)
        self._tails: defaultdict[str, set[str]] = defaultdict(set)
        for video in videos:
            path = PurePosixPath(video)
            for named in (path, path.with_suffix("")):
                self._whole[str(named)].add(video)
                for tail in _tails(named):
                    self._tails[tail].add(video)

    def find(self, name: str) -> str:
        """The video that `name` means: its path, the end of its path, or its path with more folders before it.

        Raises:
            UnknownVideoError: no video or several fit; the message says which.
        """
        path = PurePosixPath(name)
        if str(path) in self._whole.get(str(path), ()):
            return str(path)
        whole, tails = self._whole, self._tails
        found = whole.get(str(path)) or tails.get(str(path)) or _union(whole.get(tail, set()) for tail in _tails(path))
        if not found:
            raise UnknownVideoError(
                f"video {name}: not among the readable videos of the data folder; add the file, make it readable, "
                "or correct the row's video"
            )
        if len(found) > 1:
            some = ", ".join(sorted(found)[:3])
            raise UnknownVideoError(
                f"video {name}: {len(found)} videos fit this name ({some}); write its path from the data folder"
            )
        return next(iter(found))


def _tails(path: PurePosixPath) -> list[str]:
    return ["/".join(path.parts[start:]) for start in range(len(path.parts))]


def _union(sets: Iterable[set[str]]) -> set[str]:
    return {each for one in sets for each in one}
