"""Stage `import`: preferences from a file, as labels of their own beside those of the judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import FormatError
from storage.formats.hound import read_hound
from storage.formats.official import read_official
from storage.formats.vlm_rlaif import instruction_of
from storage.lake import Lake
from tasks.export_config import ImportFormat
from tasks.fanout import Outcome
from tasks.instructions import UnknownVideoError, VideoNames
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage

METHOD = "import"


class ImportConfig(BaseModel):
    """Which file is imported, and what its labels are called."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(description="The file: VLM-RLAIF's for its reward model, or LLaVA-Hound's JSON lines.")
    format: ImportFormat = Field(description="vlm-rlaif: output_1, output_2, preference; hound: chosen, rejected.")
    arm: str = Field(
        pattern=r"^[a-z0-9_]+$", description="Name of the labels in tables, and of what is trained on them."
    )
    shard_size: int = Field(default=2000, ge=1, description="Questions that are committed together.")


@dataclass(frozen=True)
class Labelled:
    """A pair as its file has it: two answers in its order, the better one, and scores where it tells them."""

    number: int
    id: str
    video: str
    question: str
    answers: tuple[str, str]
    preferred: str
    scores: tuple[float | None, float | None] = (None, None)


def import_labels(ctx: RunContext, config: ImportConfig, frames: StageRef | None) -> StageResult:
    """Bring a file's pairs into the table `preferences`. Nothing is judged, so p_a and the judge's frames are null.

    The rows need neither instructions nor candidates in the lake: they hold question and answers themselves, and the
    file is kept as a blob under its hash, which is the rows' `model`. `item_id` is arm/id; several pairs of one id are
    one item, with answers numbered in the order of the file. With the `frames` of a lake each video is bound to one of
    its videos, and an item without one is quarantined; without frames the names stay as they are. An item with two
    equal outputs is quarantined.

    Raises:
        FormatError: the file cannot be read, is not in the format, or has one id for different questions.
    """
    path = Path(config.file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); correct the file's name.") from error
    blob = ctx.lake.blobs.put(data)
    stage = Stage(
        name="import",
        table="preferences",
        config={"arm": config.arm, "format": config.format, "file": path.name, "sha256": blob},
        inputs=(frames,) if frames else (),
        model=f"{path.name} sha256:{blob}",
        prompts={},
        seed=0,  # Nothing is drawn.
        shard_size=config.shard_size,
        label=f"import {config.arm}",
    )
    settings = ImportSettings(ctx.lake_root, frames, config.arm)
    return run_stage(ctx, stage, lambda: _items(path, config), BindLabels, settings)


def _items(path: Path, config: ImportConfig) -> list[dict[str, Any]]:
    items: dict[str, dict[str, Any]] = {}
    first: dict[str, Labelled] = {}
    for row in _READERS[config.format](path):
        known = first.setdefault(row.id, row)
        if (known.video, known.question) != (row.video, row.question):
            raise FormatError(
                f"{path} row {row.number} (id {row.id!r}): row {known.number} has this id for another question or "
                "video; make ids unique."
            )
        item_id = f"{config.arm}/{row.id}"
        about = {"item_id": item_id, "video": row.video, "question": row.question, "pairs": []}
        pair = [list(row.answers), row.preferred, list(row.scores)]
        items.setdefault(item_id, about)["pairs"].append(pair)
    return list(items.values())


def _official(path: Path) -> Iterator[Labelled]:
    for number, row in enumerate(read_official(path), start=1):
        where = f"{path} row {number}"
        if row.output_1 is None or row.output_2 is None or row.preference is None:
            raise FormatError(f"{where} (id {row.id!r}): is no preference; it has output_1, output_2 and preference.")
        asked = instruction_of(row, where, Counter())
        answers = (row.output_1.value, row.output_2.value)
        yield Labelled(number, asked.id, asked.video, asked.question, answers, "a" if row.preference == 1 else "b")


def _hound(path: Path) -> Iterator[Labelled]:
    for number, row in enumerate(read_hound(path), start=1):
        scores = (row.chosen_score, row.rejected_score)
        yield Labelled(number, row.id, row.video, row.prompt, (row.chosen, row.rejected), "a", scores)


_READERS = {"vlm-rlaif": _official, "hound": _hound}


@dataclass(frozen=True)
class ImportSettings:
    """What a worker needs."""

    lake: str
    frames: StageRef | None
    arm: str


class BindLabels:
    """Turns items into rows, with the lake's names of their videos."""

    def __init__(self, settings: ImportSettings) -> None:
        self._arm = settings.arm
        self._names: VideoNames | None = None
        if settings.frames:
            table = Lake(settings.lake).table(settings.frames.table)
            rows = table.read(settings.frames.key, columns=["item_id", "status", "reason"]).to_pylist()
            self._faults = {row["item_id"]: row["reason"] for row in rows if row["status"] != "ok"}
            self._names = VideoNames(row["item_id"] for row in rows)

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002 - nothing is drawn
        return [self._outcome(item) for item in items]

    def _outcome(self, item: dict[str, Any]) -> Outcome:
        video = item["video"]
        if self._names is not None:
            try:
                video = self._names.find(video)
            except UnknownVideoError as error:
                return Outcome(item["item_id"], None, str(error))
            if video in self._faults:
                return Outcome(item["item_id"], None, f"video {video}: {self._faults[video]}")
        equal = sum(answers[0] == answers[1] for answers, *_ in item["pairs"])
        if equal:
            return Outcome(item["item_id"], None, f"{equal} of its {len(item['pairs'])} pairs have two equal outputs")
        rows = [self._row(item, video, place, pair) for place, pair in enumerate(item["pairs"])]
        return Outcome(item["item_id"], rows)

    def _row(self, item: dict[str, Any], video: str, place: int, pair: list[Any]) -> dict[str, Any]:
        answers, preferred, scores = pair
        return {
            "instruction": item["item_id"],
            "video": video,
            "question": item["question"],
            "a": 2 * place,
            "b": 2 * place + 1,
            "answer_a": answers[0],
            "answer_b": answers[1],
            "preferred": preferred,
            "score_a": scores[0],
            "score_b": scores[1],
            "method": METHOD,
            "arm": self._arm,
        }
