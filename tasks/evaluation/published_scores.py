"""Our numbers beside published ones: clearly apart, and only under the same metric and judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.published import Published, published
from tasks.evaluation.conditions import OVERALL, Unit, unit_of
from tasks.evaluation.entries import Entry

HERE = "measured here"
_KINDS = {"published": "published", "re-run": "re-run by others"}


@dataclass(frozen=True)
class Row:
    """One number of one model. `secondary`: as a third party tells it; `address` is where the source can be read."""

    model: str
    value: str
    interval: str = ""
    secondary: bool = False
    source: str = ""
    address: str = ""
    note: str = ""


@dataclass(frozen=True)
class Shelf:
    """Numbers of one benchmark and metric by one judge ("" by rules), by whose they are."""

    benchmark: str
    metric: str
    judge: str
    percent: bool
    parts: tuple[tuple[str, tuple[Row, ...]], ...]

    @property
    def title(self) -> str:
        return f"{self.benchmark}: {self.metric}, {f'judge {self.judge}' if self.judge else 'by rules'}"


def shelves_of(entries: Sequence[Entry], known: Sequence[Published] | None = None) -> list[Shelf]:
    """A table for each benchmark, metric and judge of the entries, and for each judge under whom others published.

    Args:
        entries: measured here; without any, all that is known is shown.
        known: published numbers; None: those that the project knows.
    """
    told = published() if known is None else known
    measured = [each for each in entries if each.group == OVERALL]
    benchmarks = list(
        dict.fromkeys(each.registry for each in entries) or dict.fromkeys(each.benchmark for each in told)
    )
    found = []
    for benchmark in benchmarks:
        ours = [each for each in measured if each.registry == benchmark]
        theirs = [each for each in told if each.benchmark == benchmark]
        keys = [(each.metric, judge_of(each.judge)) for each in ours] + [(each.metric, each.judge) for each in theirs]
        for metric, judge in dict.fromkeys(keys):
            own = [each for each in ours if (each.metric, judge_of(each.judge)) == (metric, judge)]
            others = [each for each in theirs if (each.metric, each.judge) == (metric, judge)]
            found.append(_shelf(benchmark, metric, judge, own, others))
    return found


def judge_of(judge: str) -> str:
    """The judge's model and version, as published numbers name it: without what identifies its settings."""
    return judge.partition("@")[0]


def _shelf(benchmark: str, metric: str, judge: str, ours: Sequence[Entry], theirs: Sequence[Published]) -> Shelf:
    unit = _unit(ours, theirs)
    parts = [(said, tuple(_theirs(each) for each in theirs if each.kind == kind)) for kind, said in _KINDS.items()]
    parts.append((HERE, tuple(_ours(each, unit) for each in ours)))
    return Shelf(benchmark, metric, judge, unit.scale == 100, tuple((kind, rows) for kind, rows in parts if rows))


def _unit(ours: Sequence[Entry], theirs: Sequence[Published]) -> Unit:
    """That of the published numbers where they are per cent and ours are shares."""
    unit = unit_of(ours)
    shares = all(each.value is None or each.value <= 1 for each in ours)
    if shares and any(each.value > 5 for each in theirs):
        return Unit(100.0, max(1, unit.digits if unit.scale == 100 else unit.digits - 2))
    return unit


def _theirs(each: Published) -> Row:
    address = each.source if each.source.startswith(("https://", "http://")) else ""
    return Row(each.model, f"{each.value:g}", "", each.secondary, each.source, address, each.note)


def _ours(each: Entry, unit: Unit) -> Row:
    interval = "" if each.low is None else f"{unit.said(each.low)} to {unit.said(each.high)}"
    how = [each.split, f"protocol {each.protocol}", f"{each.n_frames} frames" if each.n_frames else each.frames]
    note = f"{each.n:,} items{f', {each.left_out:,} left out' if each.left_out else ''}; prompts {each.prompt_hash}"
    return Row(each.checkpoint, unit.said(each.value), interval, source=", ".join(filter(None, how)), note=note)
