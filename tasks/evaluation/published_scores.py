"""Our numbers beside published ones: clearly apart, and in one table only by the same rules or the same judge.

A judge is the same where its snapshot and its prompts are. Ours are worded by us (benchmarks/prompts), so what a judge
decided here has a table of its own beside the published one of the same snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.published import Published, read_published
from tasks.evaluation.conditions import OVERALL, Condition, Unit, cell_of, condition_of, unit_of
from tasks.evaluation.entries import Entry

HERE = "measured here"
KINDS = {"published": "published", "re-run": "re-run by others", "here": HERE}
OWN_TASK = "custom"
POINTS = "score"
OWN_SCORER = "official"  # What published numbers mean that name no scorer.


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
    """

    model: str
    kind: str
    values: dict[str, Value]
    source: str
    note: str
    secondary: bool = False

    @property
    def address(self) -> str:
        """The source, where it is one of the web."""
        return self.source if self.source.startswith("https://") else ""


@dataclass(frozen=True)
class Shelf:
    """Numbers that may stand in one table: of one benchmark, by rules or by one snapshot of a judge, and one scorer.

    Attributes:
        benchmark: name in the registry.
        judge: with its snapshot, and of ours with what identifies its settings; "": rules.
        scorer: script or protocol.
        prompts: hash of the texts that the judge was given here; "" of published numbers.
        alone: the source, where the judge's snapshot is not said: its numbers can be compared with no others.
        columns: metrics, with their groups where these are not all items; and whether they are per cent.
        rows: published, re-run and measured here, in this order.
    """

    benchmark: str
    judge: str
    scorer: str
    prompts: str
    alone: str
    columns: dict[str, bool]
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        judged = f"judge {self.judge}" if self.judge else "by rules"
        more = f", prompts {self.prompts}" if self.prompts else ", snapshot not said" if self.alone else ""
        return f"{self.benchmark}: {judged}, scorer {self.scorer}{more}"


_Place = tuple[str, str, str, str, str]  # The first five attributes of a shelf.


def shelves_of(entries: Sequence[Entry], known: Iterable[Published] | None = None) -> list[Shelf]:
    """The tables of all benchmarks that were measured, those with a number of ours first.

    Args:
        entries: measured here; without any, all that is known is shown.
        known: published numbers; None: those that come with the project.
    """
    told = list(read_published() if known is None else known)
    benchmarks = dict.fromkeys([_name(each) for each in entries] or [each.benchmark for each in told])
    theirs: dict[_Place, list[Published]] = {}
    for one in told:
        theirs.setdefault(_place(one), []).append(one)
    ours: dict[_Place, list[Entry]] = {}
    for each in entries:
        prompts = each.prompt_hash if each.judge else ""
        ours.setdefault((_name(each), each.judge, each.protocol, prompts, ""), []).append(each)
    places = [place for place in dict.fromkeys([*ours, *theirs]) if place[0] in benchmarks]
    order, judges = list(benchmarks), {(name, published_name(judge)) for name, judge, *_ in ours}
    places.sort(key=lambda place: (order.index(place[0]), (place[0], published_name(place[1])) not in judges))
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


def _place(one: Published) -> _Place:
    judge = f"{one.judge}-{one.snapshot}" if one.snapshot else one.judge
    alone = one.source if one.judge and not one.snapshot else ""
    return one.benchmark, judge, one.scorer or OWN_SCORER, "", alone


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
    found: dict[tuple[str, str, str, str, bool], list[Published]] = {}
    for one in theirs:
        found.setdefault((one.model, KINDS[one.kind], one.source, one.note, one.secondary), []).append(one)
    return [
        Row(model, kind, {_column(one.metric, one.group): _told(one) for one in own}, source, note, secondary)
        for (model, kind, source, note, secondary), own in found.items()
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
