"""Our numbers beside published ones: clearly apart, and in one table only by the same rules or the same judge.

A judge is the same where its snapshot and its prompts are. Ours are worded by us (benchmarks/prompts), so what a judge
decided here has a table of its own beside the published one of the same snapshot. Where a source does not say by whom
or on what its numbers were scored, they can be compared among themselves alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.published import NOT_SAID, Published, read_published
from tasks.evaluation.conditions import OVERALL, Condition, Unit, cell_of, condition_of, unit_of
from tasks.evaluation.entries import Entry

HERE = "measured here"
KINDS = {"published": "published", "re-run": "re-run by others", "here": HERE}
OWN_TASK = "custom"
POINTS = "score"
_SPLITS = {"val": "validation", "valid": "validation"}  # By how else they are called.


@dataclass(frozen=True)
class Value:
    """A number as it is shown, with its interval where it was measured here."""

    said: str
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """One model's numbers from one source.

    Attributes:
        kind: whose numbers they are (KINDS).
        values: by column; a column may be missing.
        source: where they can be read, or how they were measured here.
        secondary: the source repeats them.
        paper: where from, if that is known.
    """

    model: str
    kind: str
    values: dict[str, Value]
    source: str
    note: str
    secondary: bool = False
    paper: str = ""

    @property
    def address(self) -> str:
        """The source, where it is one of the web."""
        return self.source if self.source.startswith("https://") else ""


@dataclass(frozen=True)
class Shelf:
    """Numbers that may stand in one table: of one benchmark, by rules or by one snapshot of a judge, and one scorer.

    Attributes:
        benchmark: name in the registry.
        asked: which split and whether with subtitles, where published numbers of the benchmark tell these apart.
        judge: with its snapshot, and of ours with what identifies its settings; "": rules.
        scorer: script or protocol.
        prompts: hash of the texts that the judge was given here; "" of published numbers.
        alone: the source, where it does not say all of that: its numbers can be compared with no others.
        undated: the judge's snapshot is not said.
        columns: metrics, with their groups where these are not all items; and whether they are per cent.
        rows: published, re-run and measured here, in this order.
    """

    benchmark: str
    asked: str
    judge: str
    scorer: str
    prompts: str
    alone: str
    undated: bool
    columns: dict[str, bool]
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        judged = f"judge {self.judge}" if self.judge else "by rules"
        about = ", ".join(part for part in (self.benchmark, self.asked) if part)
        more = f", prompts {self.prompts}" if self.prompts else f", snapshot {NOT_SAID}" if self.undated else ""
        return f"{about}: {judged}, scorer {self.scorer}{more}"


class _Place(NamedTuple):
    """What numbers of one table have in common: the first attributes of a shelf."""

    benchmark: str
    asked: str
    judge: str
    scorer: str
    prompts: str
    alone: str
    undated: bool = False


class _Asked:
    """What tells the questions of a benchmark apart, by what published numbers say of theirs."""

    def __init__(self, told: Iterable[Published]) -> None:
        told = list(told)
        self._with_splits = {one.benchmark for one in told if one.split}
        self._with_subtitles = {one.benchmark for one in told if one.subtitles}

    def said(self, benchmark: str, split: str, subtitles: str) -> str:
        """In words: nothing, where all are asked the same."""
        called = _SPLITS.get(split.casefold(), split) or NOT_SAID
        parts = [f"split {called}"] if benchmark in self._with_splits else []
        if benchmark in self._with_subtitles:
            parts.append(f"{subtitles} subtitles" if subtitles in ("with", "without") else f"subtitles {NOT_SAID}")
        return ", ".join(parts)


def shelves_of(entries: Sequence[Entry], known: Iterable[Published] | None = None) -> list[Shelf]:
    """The tables of all benchmarks that were measured, those with a number of ours first.

    Args:
        entries: measured here; without any, all that is known is shown.
        known: published numbers; None: those that come with the project.
    """
    told = list(read_published() if known is None else known)
    benchmarks = dict.fromkeys([_name(each) for each in entries] or [each.benchmark for each in told])
    asked = _Asked(told)
    theirs: dict[_Place, list[Published]] = {}
    for one in told:
        theirs.setdefault(_place_of(one, asked), []).append(one)
    ours: dict[_Place, list[Entry]] = {}
    for each in entries:
        ours.setdefault(_our_place(each, asked), []).append(each)
    places = [place for place in dict.fromkeys([*ours, *theirs]) if place.benchmark in benchmarks]
    order, judges = list(benchmarks), {(place.benchmark, published_name(place.judge)) for place in ours}
    places.sort(
        key=lambda each: (
            order.index(each.benchmark),
            (each.benchmark, published_name(each.judge)) not in judges,
        )
    )
    return [_shelf(place, ours.get(place, []), theirs.get(place, [])) for place in places]


def published_benchmarks() -> frozenset[str]:
    """The benchmarks of which published numbers are known."""
    return frozenset(each.benchmark for each in read_published())


def _name(each: Entry) -> str:
    """The benchmark of a number; tasks of one's own are benchmarks of their own."""
    return each.benchmark if each.registry == OWN_TASK else each.registry


def published_name(judge: str) -> str:
    """A judge's model and version, as published numbers name it: without what identifies its settings."""
    return judge.rpartition("@")[0] if "@" in judge else judge


def _place_of(one: Published, asked: _Asked) -> _Place:
    """Numbers without a judge may differ in frames and prompts: these stand in their rows."""
    judge = one.judge and f"{one.judge}-{one.snapshot}".removesuffix("-")
    about = asked.said(one.benchmark, one.split, one.subtitles)
    undated = bool(one.judge and not one.snapshot)
    return _Place(one.benchmark, about, judge, one.scorer, "", "" if one.complete else one.source, undated)


def _our_place(each: Entry, asked: _Asked) -> _Place:
    name, subtitles = _name(each), "with" if each.settings.get("subtitles") else "without"
    about = asked.said(name, each.split, subtitles)
    return _Place(name, about, each.judge, each.protocol, each.prompt_hash if each.judge else "", "")


def _shelf(place: _Place, ours: Sequence[Entry], theirs: Sequence[Published]) -> Shelf:
    wanted = dict.fromkeys([*(_column(one.metric, one.group) for one in theirs)])
    shown = [each for each in ours if each.group == OVERALL or _column(each.metric, each.group) in wanted]
    columns = {column: _percent(column) for column in [*_columns(shown), *wanted]}
    rows = [*_their_rows(theirs), *_our_rows(shown)]
    rows.sort(key=lambda row: list(KINDS.values()).index(row.kind))
    return Shelf(*place, columns=columns, rows=tuple(rows))


def _column(metric: str, group: str) -> str:
    return metric if group == OVERALL else f"{metric}, {group}"


def _columns(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(_column(each.metric, each.group) for each in entries))


def _percent(column: str) -> bool:
    """Whether a column holds shares: all do but a judge's points."""
    return column.partition(", ")[0] != POINTS


def _their_rows(theirs: Sequence[Published]) -> list[Row]:
    """One row for each model and source."""
    found: dict[tuple[str, str, str, str, bool, str], list[Published]] = {}
    for one in theirs:
        note = f"frames {one.frames}; {one.note}".removesuffix("; ")
        found.setdefault((one.model, KINDS[one.kind], one.source, note, one.secondary, one.paper), []).append(one)
    return [
        Row(model, kind, {_column(one.metric, one.group): _told(one) for one in own}, source, note, secondary, paper)
        for (model, kind, source, note, secondary, paper), own in found.items()
    ]


def _told(one: Published) -> Value:
    text = f"{one.value * (100 if _percent(one.metric) else 1):.6g}"
    return Value(text if "." in text else f"{text}.0")


def _our_rows(ours: Sequence[Entry]) -> list[Row]:
    """One row for each checkpoint, model and way of measuring, so that no number takes the place of another."""
    found: dict[tuple[str, str, Condition], list[Entry]] = {}
    for each in ours:
        found.setdefault((each.checkpoint, each.model, condition_of(each)), []).append(each)
    return [
        Row(
            model=checkpoint,
            kind=HERE,
            values={_column(each.metric, each.group): _measured(each, ours) for each in own},
            source=_how(condition),
            note=f"{_counts(own[0])}; model {model}; prompts {condition.prompt_hash}",
        )
        for (checkpoint, model, condition), own in found.items()
    ]


def _how(condition: Condition) -> str:
    asked = [f"{name.lower()} {said}" for name, said in condition.asked]
    return ", ".join(part for part in (condition.benchmark, condition.split, *asked) if part)


def _counts(each: Entry) -> str:
    return f"{each.n:,} items" + (f", {each.left_out:,} left out" if each.left_out else "")


def _measured(each: Entry, ours: Sequence[Entry]) -> Value:
    unit = unit_of(other for other in ours if other.metric == each.metric)
    if _percent(each.metric) and unit.scale == 1:
        unit = Unit(100.0, max(1, unit.digits - 2))
    cell = cell_of(each, unit)
    return Value(cell.value, cell.interval)
