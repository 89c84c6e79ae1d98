"""Which version of a judge answered: behind the name of a hosted model there may be another one each month.

What the replies named is part of the judge's name in the scores, so that numbers by two versions are two conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from models.endpoint_settings import JudgeEndpoint
from tasks.evaluation.entries import Entry
from tasks.evaluation.judges import with_version
from tasks.evaluation.reward_ref import RewardRef
from tasks.judge_endpoint import answered_otherwise, named_models, say_who_answered
from tasks.model_ref import ModelRef


def named_in(grades: Iterable[Mapping[str, Any]]) -> set[str] | None:
    """The models that the judge's replies named, in rows of table `grades`; None where no judge was asked."""
    judged = [row["answered_by"] for row in grades if row["judge"] is not None]
    return {name for name in judged if name} if judged else None


def versions_of(
    model: ModelRef | RewardRef | JudgeEndpoint, predictions: Iterable[Mapping[str, Any]]
) -> tuple[str, ...]:
    """Who answered in the place of an endpoint that is scored itself, by rows of table `predictions`."""
    if not isinstance(model, JudgeEndpoint):
        return ()
    return answered_otherwise(model.model, named_models(row["answered_by"] for row in predictions))


def with_versions(entries: Sequence[Entry], named: Mapping[str, set[str] | None]) -> list[Entry]:
    """The entries, their judges named with who answered in their place, which is warned of.

    A checkpoint about which no judge was asked stands beside the others of its condition, where those have one version.

    Args:
        entries: the numbers of a run.
        named: `named_in` of their grades, by the key of that stage.
    """
    judged = [each for each in entries if each.judge and named.get(each.stages["grades"]) is not None]
    judges: dict[tuple[str, str, str], set[str]] = {}
    models: dict[str, set[str]] = {}
    for each in judged:
        names = named[each.stages["grades"]] or set()
        judges.setdefault(_beside(each), set()).add(_told(each, names))
        models.setdefault(_asked(each), set()).update(names)
    for asked, names in models.items():
        say_who_answered(asked, answered_otherwise(asked, names))
    return [replace(each, judge=_judge(each, named, judges)) for each in entries]


def _judge(entry: Entry, named: Mapping[str, set[str] | None], judges: Mapping[tuple[str, str, str], set[str]]) -> str:
    names = named.get(entry.stages["grades"])
    if entry.judge and names is not None:
        return _told(entry, names)
    others = judges.get(_beside(entry), set())
    return next(iter(others)) if len(others) == 1 else entry.judge


def _told(entry: Entry, names: set[str]) -> str:
    return with_version(entry.judge, answered_otherwise(_asked(entry), names))


def _asked(entry: Entry) -> str:
    """The judge's model, as it was asked for."""
    return entry.judge.rpartition("@")[0]


def _beside(entry: Entry) -> tuple[str, str, str]:
    return entry.benchmark, entry.protocol, entry.judge
