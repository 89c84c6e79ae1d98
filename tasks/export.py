"""A lake's labels in the formats of other libraries, whole: what a format has no room for stands beside it.

A folder of an export holds the format's own file, frames/ (unless the format holds the pictures, or the videos' files
are named), rows.parquet (every row of the lake's labels, left out or not, and why) and README.md (the data card).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from models.comparisons import normalised
from storage.errors import FormatError
from storage.formats import hound, llamafactory, ms_swift, rm, trl, verl
from storage.formats.pairs import Pair, fault_of
from tasks.export_card import card
from tasks.export_config import ExportConfig, FormatName
from tasks.export_media import KeptFrames, Media, NoMediaError, VideoFiles
from tasks.label_versions import LabelVersion, ancestors, chosen_labels
from tasks.progress import SilentProgress

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.progress import Progress

ROWS = "rows.parquet"
_ADDED = ("pairs", "left_out")  # Columns of rows.parquet that the lake does not have.
_COLUMNS = ["item_id", "status", "reason", "video", "question", "a", "b", "answer_a", "answer_b", "preferred"]


class Format(Protocol):
    """A module of storage/formats."""

    FILE: str
    LOAD: str

    def write(self, folder: Path, pairs: Iterator[Pair]) -> None:
        """Writes FILE and what belongs to it."""
        ...

    def read(self, folder: Path) -> Iterator[Pair]:
        """Reads it again."""
        ...


FORMATS: dict[FormatName, Format] = {
    "trl": trl,
    "llamafactory": llamafactory,
    "ms-swift": ms_swift,
    "verl": verl,
    "vlm-rlaif": rm,
    "hound": hound,
}


class ExportError(ValueError):
    """Labels cannot be exported as asked; the message says why and what to do."""


@dataclass
class Exported:
    """What came of an export: `rows` of the lake, of which `labelled` became `pairs`; the others by why not."""

    folder: Path
    labels: LabelVersion
    rows: int = 0
    labelled: int = 0
    pairs: int = 0
    ties: int = 0
    videos: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)


def export(lake: Lake, config: ExportConfig, progress: Progress | None = None) -> Exported:
    """Write an arm's labels in a format. The folder appears whole or not at all.

    Raises:
        LabelsError: there are no such labels.
        ExportError: the folder is in use, the format cannot name files, or no pair is left.
        storage.errors.FormatError: a row does not fit the format.
    """
    if config.to.exists() and (not config.to.is_dir() or any(config.to.iterdir())):
        raise ExportError(f"{config.to} holds something already: name a new or an empty folder.")
    labels = chosen_labels(lake, config.arm, config.key)
    stages = ancestors(lake, labels.key)
    form, done = FORMATS[config.format], Exported(config.to, labels)
    rows = lake.table("preferences").read(labels.key)
    folder = config.to.absolute().with_name(f".{config.to.absolute().name}.part")
    shutil.rmtree(folder, ignore_errors=True)  # Of an export that was killed.
    folder.mkdir(parents=True)
    try:
        decided = _Decided(config, _media(lake, stages, config, folder), done)
        form.write(folder, decided.pairs(rows, progress or SilentProgress()))
        if not done.pairs:
            reasons = ", ".join(f"{count} x {why}" for why, count in done.left_out.most_common(3))
            raise ExportError(f"No pair of {labels} can be exported: {reasons}.")
        pq.write_table(decided.beside(rows), folder / ROWS)
        (folder / "README.md").write_text(card(lake, config, done, stages, form), encoding="utf-8")
        os.replace(folder, config.to.absolute())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return done


def read_back(folder: Path, name: FormatName) -> list[dict[str, Any]]:
    """The lake's rows out of an export, each pair of the format's file checked against its row.

    Raises FormatError when the file and rows.parquet do not say the same.
    """
    try:
        table = pq.read_table(folder / ROWS)
    except (OSError, pa.ArrowException) as error:
        raise FormatError(f"{folder / ROWS}: cannot be read: {error}.") from error
    rows = table.to_pylist()
    expected = {identity: row for row in rows for identity in row["pairs"] or ()}
    for pair in FORMATS[name].read(folder):
        row = expected.pop(pair.id, None)
        if row is None or (pair.question, pair.chosen, pair.rejected) != _texts(row, pair.id):
            raise FormatError(f"{folder / FORMATS[name].FILE}: pair {pair.id!r} is not as {ROWS} has it.")
    if expected:
        raise FormatError(f"{folder / FORMATS[name].FILE}: lacks {len(expected)} pairs, such as {min(expected)!r}.")
    kept: list[dict[str, Any]] = table.drop_columns(list(_ADDED)).to_pylist()
    return kept


def _texts(row: dict[str, Any], identity: str) -> tuple[str, str, str]:
    """Question, chosen and rejected answer of the pair with that id."""
    chosen, _, rejected = identity.rpartition("#")[2].partition("-")
    answers = {row["a"]: row["answer_a"], row["b"]: row["answer_b"]}
    return row["question"], answers[int(chosen)], answers[int(rejected)]


def _media(lake: Lake, stages: list[dict[str, Any]], config: ExportConfig, folder: Path) -> Media:
    if config.videos is not None:
        if config.format == "trl":
            raise ExportError("TRL reads pictures, not the files of videos: leave --videos out.")
        return VideoFiles(config.videos, config.prefix)
    kept = [stage["item_id"] for stage in stages if stage["output_table"] == "frames"]
    if not kept:
        raise ExportError("No frames went into these labels: name the folder of the videos' files with --videos.")
    return KeptFrames(lake, kept[0], config.frame_set, None if config.format == "trl" else folder, config.prefix)


class _Decided:
    """Turns rows into pairs and keeps, row by row, the ids of its pairs or why it has none."""

    def __init__(self, config: ExportConfig, media: Media, done: Exported) -> None:
        self.ids: list[list[str] | None] = []
        self.why: list[str | None] = []
        self._config, self._media, self._done = config, media, done

    def pairs(self, rows: pa.Table, progress: Progress) -> Iterator[Pair]:
        bar = progress.start("export", len(rows))
        try:
            for batch in rows.select(_COLUMNS).to_batches(max_chunksize=1000):
                for row in batch.to_pylist():
                    yield from self._decide(row)
                bar.advance(len(batch))
        finally:
            bar.finish()

    def beside(self, rows: pa.Table) -> pa.Table:
        """`rows` with two columns more: the ids of each row's pairs, and why it has none."""
        ids, why = pa.array(self.ids, pa.list_(pa.string())), pa.array(self.why, pa.string())
        return rows.append_column(_ADDED[0], ids).append_column(_ADDED[1], why)

    def _decide(self, row: dict[str, Any]) -> list[Pair]:
        done, reason = self._done, self._reason(row)
        pairs: list[Pair] = []
        kind = "quarantined" if row["status"] != "ok" else reason  # The card counts; rows.parquet has it in full.
        if reason is None:
            try:
                pairs = self._of(row)
            except NoMediaError as error:
                reason, kind = str(error), "its video cannot be exported"
        done.rows += 1
        done.ties += row["preferred"] == "tie"
        done.labelled += bool(pairs)
        done.pairs += len(pairs)
        if kind is None:
            done.videos.add(row["video"])
        else:
            done.left_out[kind] += 1
        self.ids.append([pair.id for pair in pairs] or None)
        self.why.append(reason)
        return pairs

    def _reason(self, row: dict[str, Any]) -> str | None:
        if row["status"] != "ok":
            return str(row["reason"])
        if row["preferred"] == "tie" and self._config.ties == "leave-out":
            return "a tie"
        if normalised(row["answer_a"]) == normalised(row["answer_b"]):
            return "both answers say the same"
        return fault_of(row["question"], row["answer_a"], row["answer_b"])

    def _of(self, row: dict[str, Any]) -> list[Pair]:
        media = self._media.of(row["video"])
        pictures = self._media.pictures(row["video"]) if self._config.format == "trl" else ()
        order = {"a": [("a", "b")], "b": [("b", "a")], "tie": [("a", "b"), ("b", "a")]}[row["preferred"]]
        return [
            Pair(
                f"{row['item_id']}#{row[chosen]}-{row[rejected]}",
                row["question"],
                row[f"answer_{chosen}"],
                row[f"answer_{rejected}"],
                media,
                chosen == "b",
                pictures,
            )
            for chosen, rejected in order
        ]
