"""Stage `questions`: the items of a benchmark, each bound to a video of its folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.benchmark import Benchmark
from benchmarks.items import Item
from storage.lake import Lake
from tasks.candidates import choose
from tasks.evaluation.config import ScoredBenchmark, place_digest
from tasks.evaluation.items import NO_VIDEO, asked_rows, item_of, question_row
from tasks.evaluation.judges import asks_judge
from tasks.evaluation.spoken import BROKEN, NO_FILE, subtitle_faults, subtitle_file
from tasks.fanout import Outcome
from tasks.instructions import UnknownVideoError, VideoNames
from tasks.stage import (
    QuarantineError,
    RunContext,
    Stage,
    StageError,
    StageRef,
    StageResult,
    run_stage,
)

logger = logging.getLogger(__name__)

SHARD_SIZE = 2000


def questions(ctx: RunContext, config: ScoredBenchmark, videos: StageResult, label: str) -> StageResult:
    """Reads the annotation files of a benchmark; one row an item.

    A row of the files that is no item is quarantined, its reason begins with the kind of its fault. An item whose video
    is not there stays an item, which its row's reason says: it is not asked, and counts as not answered. The stage is
    named by the files' bytes, the benchmark's settings and its texts.

    Raises:
        FormatError: a file cannot be read, or is none of the benchmark's.
        QuarantineError: more faults and missing videos than ctx.max_quarantined allows.
        StageError: a protocol needs a judge, and the configuration names none; or no video has subtitles where they
            are shown.
    """
    made = config.made
    stage = Stage(
        name="questions",
        table="questions",
        config={
            "benchmark": config.benchmark,
            "settings": config.settings,
            "files": {name: place_digest(place, f"files of {label}") for name, place in config.places.items()},
            "video_prefix": config.video_prefix,
            "subtitles": config.spoken and place_digest(config.spoken, f"subtitles of {label}"),
        },
        selection={"limit": config.limit},
        inputs=(videos.ref,),
        model=None,
        prompts=dict(made.texts),
        seed=0,  # nothing is drawn
        shard_size=SHARD_SIZE,
        revision=made.revision,
        label=f"questions {label}",
    )
    settings = QuestionsSettings(ctx.lake_root, videos.ref, config.benchmark, config.video_prefix)
    result = run_stage(ctx, stage, lambda: _items(config), BindItems, settings)
    rows = asked_rows(ctx.lake, result.ref)
    _check_videos(ctx, result, rows)
    _check_subtitles(config.spoken, rows, label)
    _check_judge(config, made, rows, label)
    return result


def _items(config: ScoredBenchmark) -> list[dict[str, Any]]:
    found = config.made.read(config.places)
    items = [{"item_id": item.id, "item": item, "place": place} for place, item in enumerate(found.items)]
    for item in items:
        item["identity"] = [item["place"], repr(item["item"])]
    faults = [
        {"item_id": f"fault {number:06d}", "fault": f"{fault.kind}: {fault.where}: {fault.reason}"}
        for number, fault in enumerate(found.faults)
    ]
    return [*(items if config.limit is None else choose(items, config.limit)), *faults]


@dataclass(frozen=True)
class QuestionsSettings:
    """What a worker needs."""

    lake: str
    videos: StageRef
    benchmark: str
    video_prefix: str


class BindItems:
    """Finds each item's video among those of the folder."""

    def __init__(self, settings: QuestionsSettings) -> None:
        table = Lake(settings.lake).table(settings.videos.table)
        rows = table.read(settings.videos.key, columns=["item_id", "status", "reason"]).to_pylist()
        self._unread = {row["item_id"]: row["reason"] for row in rows if row["status"] != "ok"}
        self._names = VideoNames(row["item_id"] for row in rows)
        self._settings = settings

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002 - nothing is drawn
        return [self._bind(item) for item in items]

    def _bind(self, found: dict[str, Any]) -> Outcome:
        if "fault" in found:
            return Outcome(found["item_id"], None, found["fault"])
        item: Item = found["item"]
        path = PurePosixPath(item.video)
        named = str(path.with_name(f"{self._settings.video_prefix}{path.name}")) if path.name else item.video
        video, why = named, None
        try:
            video = self._names.find(named)
            why = self._unread.get(video)
        except UnknownVideoError as error:
            why = str(error)
        row = question_row(item, found["place"], self._settings.benchmark, video)
        return Outcome(item.id, [row], None if why is None else f"{NO_VIDEO}: {why}")


def _check_videos(ctx: RunContext, result: StageResult, rows: list[dict[str, Any]]) -> None:
    """Raises QuarantineError where too many items cannot be asked."""
    without = [row["reason"] for row in rows if row["reason"]]
    lost = len(without) + result.quarantined
    if without and lost > ctx.max_quarantined * result.items:
        raise QuarantineError(
            f"Stage {result.label}: {lost} of {result.items} rows cannot be asked, {len(without)} of them because "
            f"their video is not there, more than max_quarantined {ctx.max_quarantined:g} allows. The first: "
            f"{without[0]}. Add the videos, correct the folder or video_prefix, or raise run.max_quarantined: what "
            "cannot be asked then counts as not answered."
        )


def _check_subtitles(folder: Path | None, rows: list[dict[str, Any]], label: str) -> None:
    """Says what is wrong with the subtitles. Raises StageError where no video that is asked about has any."""
    videos = tuple(dict.fromkeys(row["named"] for row in rows if not row["reason"]))
    if folder is None or not videos:
        return
    faults = subtitle_faults(folder, videos)
    if faults.get(NO_FILE) == len(videos):
        raise StageError(
            f"Benchmark {label}: none of its {len(videos)} videos has subtitles in {folder}, where the first would be "
            f"{subtitle_file(folder, videos[0]).name}: correct its subtitles (the files stand in that folder itself), "
            "or leave them out."
        )
    if faults:
        without, broken = faults.get(NO_FILE, 0), faults.get(BROKEN, 0)
        logger.warning(
            "benchmark %s: %d of %d videos have no subtitles in %s; of the others, %d blocks are broken and not shown",
            label,
            without,
            len(videos),
            folder,
            broken,
        )


def _check_judge(config: ScoredBenchmark, made: Benchmark, rows: list[dict[str, Any]], label: str) -> None:
    """Raises StageError where a protocol will ask a judge and there is none: before anything is answered."""
    if config.judge is not None or not rows:
        return
    for protocol in config.scored_by:
        if asks_judge(made, item_of(rows[0]), protocol):
            raise StageError(
                f"Benchmark {label} ({config.benchmark}) asks a judge by its protocol {protocol!r}, and none is named: "
                "set its judge to local (models.judge) or to one of grading.endpoints, or leave the protocol out."
            )
