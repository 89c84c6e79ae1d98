"""What went wrong in an evaluation, counted by kind, with examples: nothing is dropped without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.evaluation.conditions import Condition
from tasks.evaluation.flips import reply_of
from tasks.evaluation.graded_rows import AnsweredRows
from tasks.troubles import Trouble, troubles_of

if TYPE_CHECKING:
    from storage.lake import Lake

_EXAMPLES = 3
_MEANINGS = {
    "empty": "the reply is empty",
    "unparsed": "the reply names no answer",
    "missing": "there is no prediction",
    "no verdict": "the judge gave no verdict that can be read, asked as often as allowed; or the grading of it failed",
    "out of range": "the judge gave a score that is none",
    "off the scale": "the judge gave a score that is none, and the protocol counts it as it stands",
}


@dataclass(frozen=True)
class Ungraded:
    """Grades of one status other than "ok"; `examples` are item, and what was replied."""

    checkpoint: str
    condition: Condition
    status: str
    meaning: str
    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Faults:
    """What went wrong with one benchmark of a run.

    Attributes:
        benchmark: what the run calls it.
        kinds: rows of annotation files that are no items, and items that could not be asked or graded, by kind.
        ungraded: by condition, checkpoint and status.
        troubles: why items were quarantined, by what they are.
    """

    benchmark: str
    kinds: dict[str, int]
    ungraded: list[Ungraded]
    troubles: dict[str, tuple[Trouble, ...]]


def faults_of(rows: AnsweredRows, conditions: Sequence[Condition]) -> Faults | None:
    """The faults of one benchmark, whose conditions these are; None where it has none."""
    kinds: dict[str, int] = {}
    for each in conditions:
        for kind, count in each.faults().items():
            kinds[kind] = max(count, kinds.get(kind, 0))
    ungraded = [one for each in conditions for name in each.checkpoints for one in _ungraded(rows, each, name)]
    found = Faults(conditions[0].benchmark, kinds, ungraded, _troubles(rows.lake, conditions))
    return found if any(kinds.values()) or found.ungraded or found.troubles else None


def _ungraded(rows: AnsweredRows, condition: Condition, checkpoint: str) -> list[Ungraded]:
    entry = condition.entry(checkpoint)
    if entry is None:
        return []
    statuses = {status: count for status, count in entry.statuses.items() if status != "ok" and count}
    answers = rows.answers(entry) if statuses else None
    graded = [] if answers is None else answers.graded
    told = {} if answers is None else answers.replies
    found = []
    for status, count in statuses.items():
        own = [each for each in graded if each.grade.status == status][:_EXAMPLES]
        examples = tuple((each.item.id, told.get((each.item.id, each.aspect)) or reply_of(each)) for each in own)
        found.append(Ungraded(checkpoint, condition, status, _MEANINGS.get(status, ""), count, examples))
    return found


def _troubles(lake: Lake, conditions: Sequence[Condition]) -> dict[str, tuple[Trouble, ...]]:
    stages: dict[tuple[str, str], str] = {}
    for each in (entry for condition in conditions for entry in condition.entries):
        for table, key in each.stages.items():
            stages.setdefault((table, key), table if table == "questions" else f"{table} of {each.checkpoint}")
    found = {name: troubles_of(lake, table, key) for (table, key), name in stages.items()}
    return {name: each for name, each in found.items() if each}
