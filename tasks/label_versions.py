"""Versions of the labels in a lake: which there are, how each was made, from what, and its pairs."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.sql import query
from tasks.audit_measures import Judged
from tasks.grading import Truths
from tasks.stage import StageError, StageResult

if TYPE_CHECKING:
    from models.slots import SlotVocabulary
    from storage.lake import Lake
    from tasks.stage import StageRef

# Newest first: by the last time that a run made or used them.
_USED = """
SELECT s.*, max(e."at") AS used FROM stages s JOIN runs e ON e.stage_key = s.item_id AND e.event = 'stage_finished'
WHERE s.stage = $stage GROUP BY ALL ORDER BY used DESC, s.item_id
"""
# Of judges and of imports alike, also where a run was killed before it said that it had made them.
_LABELS = """
SELECT s.*, max(e."at") AS used FROM stages s
LEFT JOIN runs e ON e.stage_key = s.item_id AND e.event = 'stage_finished'
WHERE s.output_table = 'preferences' GROUP BY ALL ORDER BY used DESC NULLS LAST, s.item_id
"""


class LabelsError(ValueError):
    """There are no such labels in the lake; the message says which there are."""


@dataclass(frozen=True)
class LabelVersion:
    """One version of the labels: a complete stage in the table `preferences`.

    Attributes:
        name: what it is called where it is compared with others.
        key: its stage key.
        stage: the stage's name: `preferences` of a judge, `import` of a file.
        ok: how many instructions are labelled.
        quarantined: how many are not.
        config: how the pairs were judged; of an import, the file.
        model: identity of the judge.
        prompt: hash of what it was asked.
        sources: keys of the stages that it was made from, by stage.
    """

    name: str
    key: str
    stage: str
    ok: int
    quarantined: int
    config: dict[str, Any]
    model: str | None
    prompt: str | None
    sources: dict[str, str]

    def __str__(self) -> str:
        return f"{self.key} ({self.arm}, {self.stage}: {self.ok} ok, {self.quarantined} quarantined)"

    @property
    def arm(self) -> str:
        return str(self.config["arm"])

    @property
    def narrative(self) -> bool:
        return bool(self.config.get("narrative", False))  # An import does not say.

    @property
    def blind(self) -> bool:
        return bool(self.config.get("blind", False))  # Only stages of blind judges have it.

    def like(self, other: LabelVersion) -> bool:
        """Whether both judge alike but for narrative and sight."""
        apart = {"arm", "narrative", "blind"}
        ways = [{key: value for key, value in each.config.items() if key not in apart} for each in (self, other)]
        return ways[0] == ways[1] and self.model == other.model


def label_version(lake: Lake, name: str, key: str) -> LabelVersion:
    """The version with that stage key.

    Raises:
        StageError: it is not complete.
    """
    rows = lake.table("stages").read(key).to_pylist()
    if not rows:
        raise StageError(f"Labels {key} are not complete in {lake.root}; run the same labelling again to end it.")
    return _version(name, rows[0])


def latest_versions(lake: Lake, arms: Sequence[str] = (), each: int = 1) -> list[LabelVersion]:
    """The judges' latest labels of every arm, or of `arms`; up to `each` versions an arm, the older ones named by key.

    Raises:
        StageError: there are no labels, or an arm has none.
    """
    rows = stages_by_use(lake, "preferences")
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_arm.setdefault(json.loads(row["config"])["arm"], []).append(row)
    unknown = sorted(set(arms) - set(by_arm))
    if unknown or not by_arm:
        known = f"arms with labels: {', '.join(sorted(by_arm))}" if by_arm else "label first, with `rlaif run`"
        raise StageError(
            f"{lake.root} holds no complete labels{' of ' if unknown else ''}{', '.join(unknown)}; {known}."
        )
    found = []
    for arm in arms or sorted(by_arm):
        newest, *older = by_arm[arm][:each]
        found += [_version(arm, newest), *(_version(f"{arm} {row['item_id'][:8]}", row) for row in older)]
    return found


def chosen_labels(lake: Lake, arm: str | None = None, key: str | None = None) -> LabelVersion:
    """The labels with that key, or the last used ones of an arm; of the only arm where none is named. Imports count.

    Raises:
        LabelsError: there are none, or several arms and none is named.
    """
    found = _all_labels(lake)
    fitting = [each for each in found if arm in (None, each.arm) and key in (None, each.key)]
    known = "\n".join(f"  {each}" for each in found) or "  none; label some with `rlaif run` or `rlaif import`"
    if not fitting:
        asked = " and ".join(f"{name} {value!r}" for name, value in (("arm", arm), ("key", key)) if value is not None)
        raise LabelsError(f"{lake.root} holds no complete labels{' of ' + asked if asked else ''}. There are:\n{known}")
    if key is None and len({each.arm for each in fitting}) > 1:
        raise LabelsError(f"{lake.root} holds labels of several arms; name one with --arm. There are:\n{known}")
    return fitting[0]


def _all_labels(lake: Lake) -> list[LabelVersion]:
    """Those of judges and of imports, the last used first; each is named as its arm."""
    if not {"stages", "runs"} <= set(lake.tables()):
        return []
    rows = query(lake, _LABELS).to_pylist()
    return [_version(json.loads(row["config"])["arm"], row) for row in rows]


def latest_frames(lake: Lake) -> StageRef | None:
    """The complete frames stage that a run used last."""
    found = stages_by_use(lake, "frames")
    return stage_result(lake, found[0]).ref if found else None


def stages_by_use(lake: Lake, stage: str) -> list[dict[str, Any]]:
    """The rows of table `stages` for complete stages of that name, the last used first."""
    if not {"stages", "runs"} <= set(lake.tables()):
        return []
    rows: list[dict[str, Any]] = query(lake, _USED, {"stage": stage}).to_pylist()
    return rows


def ancestors(lake: Lake, key: str) -> list[dict[str, Any]]:
    """Rows of the table `stages`: the stage with that key, then those that went into it, each once, nearest first."""
    known = {row["item_id"]: row for row in lake.table("stages").read().to_pylist()}
    waiting, found = deque([key]), dict[str, dict[str, Any]]()
    while waiting:
        row = known.get(waiting.popleft())
        if row is not None and row["item_id"] not in found:
            found[row["item_id"]] = row
            waiting.extend(ref["key"] for ref in json.loads(row["inputs"]))
    return list(found.values())


def made_from(lake: Lake, key: str) -> dict[str, StageResult]:
    """The stages that the stage with that key was made from, by name; of namesakes the nearest."""
    nearest: dict[str, dict[str, Any]] = {}
    for row in ancestors(lake, key)[1:]:
        nearest.setdefault(row["stage"], row)
    return {name: stage_result(lake, row) for name, row in nearest.items()}


def stage_result(lake: Lake, row: dict[str, Any]) -> StageResult:
    """What a row of table `stages` says, as a stage that was found complete."""
    table = row["output_table"]
    return StageResult(
        stage=row["stage"],
        label=None,
        table=table,
        key=row["item_id"],
        version=lake.table(table).version(),
        items=row["items"],
        ok=row["ok"],
        quarantined=row["quarantined"],
        reused=0,
        seconds=0.0,
        work_seconds=0.0,
        cached=True,
    )


def judged_pairs(lake: Lake, key: str, truths: Truths) -> list[Judged]:
    """The ok pairs of a version, with their truth."""
    columns = ["status", "instruction", "video", "answer_a", "answer_b", "preferred", "p_a"]
    rows = lake.table("preferences").read(key, [*columns, "p_a_first", "p_a_second"]).to_pylist()
    return [judged_pair(row, truths) for row in rows if row["status"] == "ok"]


def judged_pair(row: dict[str, Any], truths: Truths) -> Judged:
    """A row of table `preferences`."""
    answers = (row["answer_a"], row["answer_b"])
    orders = (row["p_a_first"], row["p_a_second"])
    return Judged(
        instruction=row["instruction"],
        video=row["video"],
        answers=answers,
        preferred=row["preferred"],
        p_a=row["p_a"],
        orders=None if None in orders else orders,
        truth=truths.better(row["instruction"], answers),
    )


def truths_of(
    lake: Lake, instructions: Sequence[StageRef], splits: Sequence[str], slots: SlotVocabulary | None
) -> Truths:
    """The answers of those splits that count as true."""
    columns = ["item_id", "status", "answer", "split"]
    rows = [row for ref in instructions for row in lake.table("instructions").read(ref.key, columns).to_pylist()]
    return Truths([row for row in rows if row["split"] in splits], slots)


def _version(name: str, row: dict[str, Any]) -> LabelVersion:
    sources = {each["stage"]: each["key"] for each in json.loads(row["inputs"])}
    config = json.loads(row["config"])
    return LabelVersion(
        name=name,
        key=row["item_id"],
        stage=row["stage"],
        ok=row["ok"],
        quarantined=row["quarantined"],
        config=config,
        model=row["model"],
        prompt=row["prompt_hash"],
        sources=sources,
    )
