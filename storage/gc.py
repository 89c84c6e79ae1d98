"""What a lake no longer needs: small files, files of no version, blobs that no row names, states of ended trainings.

`plan` says what there is to do and `do` does one piece of it. Each piece may be stopped anywhere and done again. Beside
a run at work nothing is taken that is younger than `min_age_s`: a run writes a file before the row that names it, and
puts a file that is there already afresh (storage.files.FRESH_S).
"""

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from storage.blobs import MANIFEST
from storage.errors import LakeError, explained
from storage.files import FRESH_S, Found, files_of
from storage.history import kept_files
from storage.lake import Lake
from storage.references import named_blobs
from storage.schemas import STATE_SUFFIX

Kind = Literal["small files", "ended training", "no version", "no row", "leftover"]
MEANING: dict[Kind, str] = {
    "small files": "written together; the old files stay for the old versions",
    "ended training": "states that an ended training will not continue from: rows and blobs",
    "no version": "files of killed or beaten writers, and of forgotten versions",
    "no row": "blobs of killed runs",
    "leftover": "temporary files of killed writers",
}
MIN_AGE_S = 2 * FRESH_S  # Below this a file that a run has just found there might be taken from it.
DAY_S = 24 * 3600.0
_SMALL_BYTES = 8 * 2**20
_TARGET_BYTES = 64 * 2**20
_MANY_FILES = 16
_BLOB = re.compile(r"blobs/[0-9a-f]{2}/([0-9a-f]{64})(/.+)?")
_DATA = re.compile(r"[^/].*\.parquet")
# What delta-rs leaves of a write or a commit to a folder that was killed.
_LEFTOVER = re.compile(r".*(\.tmp|#\d+)|blobs/\.tmp/.*")


@dataclass(frozen=True)
class Chore:
    """A piece of work.

    Attributes:
        kind: what it is about; see MEANING.
        table: the table it works in; None for blobs.
        stage_key: the partition to compact, or whose rows go; None: the whole table, or no rows.
        files: what is removed, or written together; the paths are below the lake's root.
    """

    kind: Kind
    table: str | None
    stage_key: str | None
    files: tuple[Found, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def plan(lake: Lake, *, min_age_s: float = DAY_S, forget_before: datetime | None = None) -> list[Chore]:
    """What there is to do now; nothing is changed.

    Every version of every table stays readable, but with `forget_before` (with a time zone) only the version of that
    moment and the later ones. Raises LakeError.
    """
    if forget_before is not None and forget_before.tzinfo is None:
        raise LakeError("The moment before which versions are forgotten needs a time zone.")
    older_than = time.time() - min_age_s
    with explained("look through the lake", lake.root):
        # Blobs are listed before the rows are read: a row that is committed in between names a blob that is listed.
        blobs = list(files_of(lake.root).listing("blobs"))
        chores: list[Chore] = []
        for name in lake.tables():
            chores += _compactions(lake, name)
            chores += _without_version(lake, name, older_than, forget_before)
        return [*chores, *_without_row(lake, blobs, older_than)]


def do(lake: Lake, chore: Chore, *, min_age_s: float = DAY_S) -> list[Found]:
    """Do a piece of work; returns the files that went, of a compaction those that were written together.

    What has become younger than `min_age_s` since it was planned is left. Raises LakeError.
    """
    if chore.kind == "small files":
        assert chore.table is not None
        compacted = lake.table(chore.table).compact(chore.stage_key, _TARGET_BYTES)
        return list(chore.files) if compacted else []
    if chore.table is not None and chore.stage_key is not None:
        lake.table(chore.table).delete_stage(chore.stage_key)
    files, older_than = files_of(lake.root), time.time() - min_age_s
    with explained("remove files", lake.root):
        return [file for file in chore.files if files.remove(file.path, older_than)]


def _compactions(lake: Lake, name: str) -> Iterator[Chore]:
    partitions: dict[str | None, list[Found]] = defaultdict(list)
    for stage_key, file in lake.table(name).found_files():
        if file.bytes < _SMALL_BYTES:
            partitions[stage_key].append(file)
    for stage_key, files in partitions.items():
        if len(files) >= _MANY_FILES:
            yield Chore("small files", name, stage_key, tuple(files))


def _without_version(lake: Lake, name: str, older_than: float, forget_before: datetime | None) -> Iterator[Chore]:
    folder = f"tables/{name}/"
    old = [file for file in files_of(lake.root).listing(folder.rstrip("/")) if file.made < older_than]
    leftover = tuple(file for file in old if _LEFTOVER.fullmatch(file.path))
    if leftover:
        yield Chore("leftover", name, None, leftover)
    live = {file.path for _, file in lake.table(name).found_files()}
    data = [file for file in old if _DATA.fullmatch(file.path) and not file.path.startswith(f"{folder}_delta_log/")]
    unsure = [file for file in data if file.path not in live]
    if not unsure:
        return
    kept = kept_files(lake.root, name, lake.table(name).version(), forget_before)
    gone = tuple(file for file in unsure if file.path.removeprefix(folder) not in kept)
    if gone:
        yield Chore("no version", name, None, gone)


def _without_row(lake: Lake, listed: list[Found], older_than: float) -> Iterator[Chore]:
    leftover = tuple(file for file in listed if _LEFTOVER.fullmatch(file.path) and file.made < older_than)
    if leftover:
        yield Chore("leftover", None, None, leftover)
    ended = _ended_states(lake)
    named = named_blobs(lake, without=frozenset(ended))
    blobs: dict[str, list[Found]] = defaultdict(list)
    for file in listed:
        if match := _BLOB.fullmatch(file.path):
            blobs[match[1]].append(file)
    spare = {
        blob: _manifest_first(files)
        for blob, files in blobs.items()
        if blob not in named and max(file.made for file in files) < older_than
    }
    for stage_key, states in ended.items():
        files = [file for blob in sorted(states) for file in spare.pop(blob, ())]
        yield Chore("ended training", "checkpoints", stage_key, tuple(files))
    if spare:
        yield Chore("no row", None, None, tuple(file for blob in sorted(spare) for file in spare[blob]))


def _manifest_first(files: list[Found]) -> list[Found]:
    """Without its manifest a folder is not there: what is left of it when this is stopped half-way harms nobody."""
    return sorted(files, key=lambda file: (not file.path.endswith(f"/{MANIFEST}"), file.path))


def _ended_states(lake: Lake) -> dict[str, set[str]]:
    """The blobs of states that nothing continues from, by the stage key of their rows."""
    complete = set(lake.table("stages").read(columns=["item_id"])["item_id"].to_pylist())
    states: dict[str, set[str]] = defaultdict(set)
    for row in lake.table("checkpoints").read(columns=["stage_key", "state"]).to_pylist():
        key = row["stage_key"]
        if key.endswith(STATE_SUFFIX) and key.removesuffix(STATE_SUFFIX) in complete and row["state"]:
            states[key].add(row["state"])
    return states
