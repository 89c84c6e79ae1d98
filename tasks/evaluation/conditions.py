"""The numbers of an evaluation in tables: only what was measured in the same way stands in one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from benchmarks.metrics import ALL_DIGITS
from tasks.evaluation.entries import Entry

if TYPE_CHECKING:
    from benchmarks.metrics import Metric
    from tasks.evaluation.comparison import Difference

OVERALL = "overall"
_LONGEST = 60  # Characters of a setting that are shown.
_CROSSED = re.compile(r", (?=\w+: )")  # Between the parts of "duration: short, domain: Knowledge".


@dataclass(frozen=True)
class Unit:
    """How the numbers of a metric are written: times `scale`, with `digits` decimals, as the official script does."""

    scale: float
    digits: int

    def said(self, value: float | None, *, sign: bool = False) -> str:
        """The number in words, with a true minus sign; a dash where there is none."""
        if value is None:
            return "–"
        text = f"{value * self.scale:{'+' if sign else ''}.{self.digits}f}"
        if not float(text):
            text = text.replace("-", "+" if sign else "")
        return text.replace("-", "−")


def unit_of(metrics: Iterable[Entry | Metric | Difference]) -> Unit:
    """The unit in which the numbers of a metric are printed; of those that a script prints with all digits, four."""
    found = list(metrics)
    digits = (4 if each.digits is None or each.digits == ALL_DIGITS else each.digits for each in found)
    return Unit(max((each.scale for each in found), default=1.0), max(digits, default=0))


@dataclass(frozen=True)
class Cell:
    """A number as it is shown; `interval`: in words, or why there is none."""

    value: str
    interval: str
    n: int
    left_out: int


@dataclass(frozen=True)
class Breakdown:
    """One metric by the groups of one kind ("duration", "duration and domain"): a row a group, a cell a checkpoint."""

    metric: str
    kind: str
    unit: Unit
    groups: tuple[str, ...]
    entries: dict[tuple[str, str], Entry]
    """By group and checkpoint."""

    def cell(self, group: str, checkpoint: str) -> Cell | None:
        found = self.entries.get((group, checkpoint))
        return None if found is None else cell_of(found, self.unit)


@dataclass(frozen=True)
class Condition:
    """All numbers of one benchmark that were measured in one way: by one judge and protocol, with the same frames.

    Attributes:
        benchmark, registry, split, protocol, judge, prompt_hash, frames, n_frames, decoding, limit: as of Entry.
        chosen: its settings, as JSON.
        entries: in their order.
    """

    benchmark: str
    registry: str
    split: str
    protocol: str
    judge: str
    prompt_hash: str
    frames: str
    n_frames: int
    decoding: tuple[tuple[str, float], ...]
    chosen: tuple[tuple[str, str], ...]
    limit: int | None
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """Benchmark, split and protocol."""
        return " · ".join(part for part in (self.benchmark, self.split, self.protocol) if part)

    @property
    def judged_by(self) -> str:
        return f"judge {self.judge}" if self.judge else "rules, no judge"

    @property
    def settings(self) -> list[tuple[str, str]]:
        """All that the numbers depend on, by name."""
        told = [("Benchmark", self.registry), ("Split", self.split), ("Protocol", self.protocol)]
        told += [("Graded by", self.judged_by), *self.asked, ("Prompts", self.prompt_hash)]
        return [(name, value) for name, value in told if value]

    @property
    def asked(self) -> list[tuple[str, str]]:
        """What was asked and how it was answered, by name."""
        drawn = ", ".join(f"{name} {value:g}" for name, value in self.decoding)
        frames = f"{self.frames}, at most {self.n_frames}" if self.n_frames else self.frames
        chosen = _listed(self.chosen)
        limit = "" if self.limit is None else f"at most {self.limit:,} items"
        told = [("Frames", frames), ("Decoding", drawn), ("Settings", chosen), ("Asked", limit)]
        return [(name, value) for name, value in told if value]

    @cached_property
    def checkpoints(self) -> list[str]:
        return list(dict.fromkeys(each.checkpoint for each in self.entries))

    @cached_property
    def units(self) -> dict[str, Unit]:
        """By metric."""
        names = dict.fromkeys(each.metric for each in self.entries)
        return {name: unit_of(each for each in self.entries if each.metric == name) for name in names}

    @cached_property
    def overall(self) -> list[str]:
        """The metrics that have a number over all items; else all of them."""
        found = [each.metric for each in self.entries if each.group == OVERALL]
        return list(dict.fromkeys(found or [each.metric for each in self.entries]))

    def entry(self, checkpoint: str, metric: str | None = None) -> Entry | None:
        """The number over all items, of a metric or of the first; where there is none, that of the first group."""
        own = [each for each in self.entries if each.checkpoint == checkpoint and metric in (None, each.metric)]
        return next((each for each in own if each.group == OVERALL), own[0] if own else None)

    def cell(self, checkpoint: str, metric: str) -> Cell | None:
        found = next(
            (e for e in self.entries if (e.checkpoint, e.metric, e.group) == (checkpoint, metric, OVERALL)), None
        )
        return None if found is None else cell_of(found, self.units[metric])

    def trouble(self, checkpoint: str) -> str:
        """What was not graded, in words."""
        entry = self.entry(checkpoint)
        statuses = {} if entry is None else {name: count for name, count in entry.statuses.items() if name != "ok"}
        return ", ".join(f"{count:,} {name}" for name, count in statuses.items() if count)

    def faults(self) -> dict[str, int]:
        """Rows of the annotation files that are no items, and what could not be asked, by kind."""
        kinds = dict.fromkeys(kind for each in self.entries for kind in each.faults)
        return {kind: max(each.faults.get(kind, 0) for each in self.entries) for kind in kinds}

    @cached_property
    def breakdowns(self) -> list[Breakdown]:
        """Each metric by each kind of group."""
        kinds: dict[tuple[str, str], list[Entry]] = {}
        for each in self.entries:
            if each.group != OVERALL:
                kinds.setdefault((each.metric, _kind(each.group)), []).append(each)
        return [
            Breakdown(
                metric,
                kind,
                self.units[metric],
                tuple(dict.fromkeys(_member(each.group) for each in entries)),
                {(_member(each.group), each.checkpoint): each for each in entries},
            )
            for (metric, kind), entries in kinds.items()
        ]


def cell_of(entry: Entry, unit: Unit) -> Cell:
    """A number with its interval, or why it has none."""
    interval = f"{unit.said(entry.low)} to {unit.said(entry.high)}"
    if entry.low is None:
        interval = "one video, no interval" if entry.n else "no item counts"
    return Cell(unit.said(entry.value), interval, entry.n, entry.left_out)


def conditions_of(entries: Sequence[Entry]) -> list[Condition]:
    """The entries by what they were measured with, in their order."""
    found: dict[Condition, list[Entry]] = {}
    for each in entries:
        found.setdefault(condition_of(each), []).append(each)
    return [replace(condition, entries=tuple(own)) for condition, own in found.items()]


def condition_of(each: Entry) -> Condition:
    """How an entry was measured: its condition, without entries."""
    return Condition(
        benchmark=each.benchmark,
        registry=each.registry,
        split=each.split,
        protocol=each.protocol,
        judge=each.judge,
        prompt_hash=each.prompt_hash,
        frames=each.frames,
        n_frames=each.n_frames,
        decoding=tuple(sorted(each.decoding.items())),
        chosen=_as_json(each.settings),
        limit=each.limit,
        entries=(),
    )


def alike(condition: Condition) -> Condition:
    """What two conditions must share for their checkpoints to be compared; without entries.

    Who compares pairs of answers is itself what is scored: how it was asked and replied is its own.
    """
    plain = replace(condition, entries=())
    return replace(plain, prompt_hash="", decoding=()) if "pairs" in dict(plain.chosen) else plain


def comparable(conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions, those whose checkpoints may be compared as one."""
    found: dict[Condition, list[Entry]] = {}
    for each in conditions:
        found.setdefault(alike(each), []).extend(each.entries)
    return [replace(condition, entries=tuple(own)) for condition, own in found.items()]


def main_conditions(conditions: Sequence[Condition]) -> list[Condition]:
    """One condition a benchmark for what is said in a sentence: the strict one, else the first."""
    found: dict[str, Condition] = {}
    for each in conditions:
        if each.benchmark not in found or (each.protocol == "strict" != found[each.benchmark].protocol):
            found[each.benchmark] = each
    return list(found.values())


def shown_settings(settings: Mapping[str, Any]) -> str:
    """A benchmark's settings in a line."""
    return _listed(_as_json(settings))


def _as_json(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, json.dumps(value, ensure_ascii=False)) for name, value in sorted(settings.items()))


def _listed(chosen: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {_shortened(value)}" for name, value in chosen)


def _shortened(value: str) -> str:
    """JSON in a line of a page: a word without its quotes, of a prompt the beginning."""
    text = value.strip('"')
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _kind(group: str) -> str:
    """What the groups of a kind are by: "duration" of "duration: short", "duration and domain" where it is crossed."""
    return " and ".join(part.partition(": ")[0] for part in _CROSSED.split(group) if ": " in part)


def _member(group: str) -> str:
    """Which of its kind a group is: "short", or "short · Knowledge" where it is crossed."""
    return " · ".join(part.partition(": ")[2] or part for part in _CROSSED.split(group))
