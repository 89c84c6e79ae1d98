"""Scores and comparisons of prediction files in words and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tasks.evaluation.conditions import Unit, shown_settings, unit_of

if TYPE_CHECKING:
    from benchmarks.benchmark import Benchmark
    from benchmarks.items import Fault
    from tasks.evaluation.comparison import Comparison, Difference, Flip
    from tasks.evaluation.file_judge import EndpointDecides
    from tasks.evaluation.file_scores import FileScores
    from tasks.evaluation.measured import Measured
    from tasks.evaluation.price import JudgePrice
    from tasks.intervals import Interval

_NOT_KNOWN = "not known"  # Of a prediction file, which does not say how its answers were made.
_LONGEST = 70  # Characters of a reply that are shown in a line.


def as_text(values: dict[str, Any]) -> str:
    """JSON for a terminal or a pipe."""
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)


def scores_in_words(found: FileScores, made: Benchmark, faults: int | None) -> Iterator[str]:
    """Lines to print: what was measured how, the table, statuses and faults (so many of them listed; None: all)."""
    yield _title(found, made)
    yield from _table(
        ("metric", "of", "printed", "95 % interval", "n", "left out"), [_line(each) for each in found.measured]
    )
    statuses = ", ".join(f"{status} {count:,}" for status, count in found.statuses.most_common())
    yield f"{found.predictions:,} predictions; grades by status: {statuses or 'none'}"
    yield from _faults(found.faults, faults)


def _title(found: FileScores, made: Benchmark) -> str:
    how = "as the official script, its faults included" if found.protocol == "official" else ""
    parts = [found.benchmark, found.split, f"protocol {found.protocol}{f' ({how})' if how else ''}"]
    parts += [f"judge {found.judge}" if found.judge else "by rules", f"prompts {found.prompt_hash}"]
    settings = shown_settings(found.settings)
    parts += [f"settings {settings}" if settings else "", f"frames and decoding {_NOT_KNOWN}", made.source]
    return " · ".join(part for part in parts if part)


def _conditions(found: FileScores) -> dict[str, Any]:
    """What the numbers depend on, by the names of scores.json."""
    return {
        "benchmark": found.benchmark,
        "split": found.split,
        "protocol": found.protocol,
        "judge": found.judge,
        "prompt_hash": found.prompt_hash,
        "settings": found.settings,
        "frames": _NOT_KNOWN,
        "decoding": _NOT_KNOWN,
    }


def _line(each: Measured) -> tuple[str, ...]:
    metric, found = each.metric, each.interval
    interval = "" if found is None else _span(unit_of([metric]), found)
    value = "-" if each.value is None else metric.printed
    return metric.name, metric.group, value, interval, f"{metric.n:,}", f"{metric.left_out:,}"


def _span(unit: Unit, found: Interval, *, sign: bool = False) -> str:
    return f"{unit.said(found.low, sign=sign)} to {unit.said(found.high, sign=sign)}"


def _faults(faults: Sequence[Fault], most: int | None) -> Iterator[str]:
    counts = Counter(each.kind for each in faults)
    yield f"faults: {', '.join(f'{kind} {count:,}' for kind, count in counts.most_common()) or 'none'}"
    for kind in counts:
        own = [each for each in faults if each.kind == kind]
        shown = own if most is None else own[:most]
        yield from (f"  {kind}: {each.where}: {each.reason}" for each in shown)
        if len(own) > len(shown):
            yield f"  {kind}: {len(own) - len(shown):,} more; --faults all lists them"


def scores_as_json(found: FileScores) -> dict[str, Any]:
    """All of it, every fault too."""
    return {
        **_conditions(found),
        "predictions": found.predictions,
        "metrics": [_metric(each) for each in found.measured],
        "statuses": dict(found.statuses),
        "faults": [{"kind": each.kind, "where": each.where, "reason": each.reason} for each in found.faults],
    }


def _metric(each: Measured) -> dict[str, Any]:
    metric, found = each.metric, each.interval
    interval = {"value": each.value, **_interval(found)}
    counts = {"n": metric.n, "left_out": metric.left_out}
    return {"metric": metric.name, "group": metric.group, **interval, **counts, "printed": metric.printed}


def _interval(found: Interval | None) -> dict[str, float | None]:
    return {"low": None, "high": None} if found is None else {"low": found.low, "high": found.high}


def paid_in_words(judge: EndpointDecides | None) -> Iterator[str]:
    """What the judge was asked and paid by this command; nothing where there is none."""
    if judge is not None:
        yield f"judge: {judge.calls:,} calls, cost {judge.cost:.4g}; replies that were kept are not asked for again"


def paid_as_json(judge: EndpointDecides | None) -> dict[str, Any]:
    """The same in numbers."""
    return {} if judge is None else {"judge_calls": judge.calls, "judge_cost": judge.cost}


def price_in_words(found: JudgePrice | None) -> Iterator[str]:
    """What a judge will be asked and paid."""
    if found is None:
        yield "No judge will be asked: rules decide all."
        return
    yield (
        f"judge {found.judge}: {found.calls:,} calls, {found.input_tokens:,} tokens in, {found.output_tokens:,} out, "
        f"cost {found.cost:.4g}; at most {found.most_calls:,} calls, cost {found.most_cost:.4g}"
    )
    yield found.note


def price_as_json(found: JudgePrice | None) -> dict[str, Any]:
    """The same in numbers; no calls where rules decide all."""
    return {"calls": 0, "most_calls": 0} if found is None else asdict(found)


def comparison_in_words(found: Comparison, scores: FileScores, made: Benchmark, flips: int) -> Iterator[str]:
    """Lines to print: what was compared how, both tables, and so many of the answers that flipped, each way."""
    yield _title(scores, made)
    yield f"{found.first} → {found.second}: {found.n:,} grades of both, {found.alone:,} of one alone"
    yield from _table(
        ("right or wrong", "both", "lost", "won", "neither", "no verdict", "p (McNemar, exact)"),
        [
            (each.aspect or "all", *map(str, (each.both, each.lost, each.won, each.neither, each.left_out)), _p(each.p))
            for each in found.verdicts
        ],
    )
    yield from _table(
        ("metric", "of", "first", "second", "difference", "95 % interval", "n"),
        [_difference(each) for each in found.differences],
    )
    for won, said in ((False, "right → wrong"), (True, "wrong → right")):
        own = [each for each in found.flips if each.won == won]
        yield from (f"  {said}: {_flip(each)}" for each in own[:flips])
        if len(own) > flips:
            yield f"  {said}: {len(own) - flips:,} more; --flips N lists N, --json all"


def _p(value: float) -> str:
    return f"{value:.2g}"


def _difference(each: Difference) -> tuple[str, ...]:
    unit = unit_of([each])
    values = (unit.said(each.first), unit.said(each.second), unit.said(each.value, sign=True))
    interval = "" if each.interval is None else _span(unit, each.interval, sign=True)
    return each.metric, each.group, *values, interval, f"{each.n:,}"


def _flip(each: Flip) -> str:
    from tasks.evaluation.flips import reply_of

    item, aspect = each.first.item, each.first.aspect
    said = [_cut(reply_of(side)) for side in (each.first, each.second)]
    return f"{item.id}{f' ({aspect})' if aspect else ''}, true {item.answer!r}: {said[0]!r} → {said[1]!r}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def comparison_as_json(found: Comparison, scores: FileScores) -> dict[str, Any]:
    """All of it, every flipped answer too."""
    from tasks.evaluation.flips import reply_of

    return {
        **_conditions(scores),
        "first": found.first,
        "second": found.second,
        "n": found.n,
        "alone": found.alone,
        "verdicts": [
            {name: getattr(each, name) for name in ("aspect", "both", "lost", "won", "neither", "left_out", "p")}
            for each in found.verdicts
        ],
        "differences": [
            {
                "metric": each.metric,
                "group": each.group,
                "first": each.first,
                "second": each.second,
                "value": each.value,
                **_interval(each.interval),
                "n": each.n,
            }
            for each in found.differences
        ],
        "flips": [
            {
                "item": each.first.item.id,
                "aspect": each.first.aspect,
                "won": each.won,
                "first": reply_of(each.first),
                "second": reply_of(each.second),
            }
            for each in found.flips
        ],
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns side by side, numbers to the right."""
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for line in (head, *rows):
        cells = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
