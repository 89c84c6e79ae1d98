"""Scores of models and judges with their intervals, differences and recovery; and the headline they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.agreement import ALL, Agreement, read_agreement
from tasks.benchmark import MEASURES, mean_of, paired_difference, summarise
from tasks.intervals import Interval

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.report_data import Arm
    from tasks.stage import StageResult

BASE, SFT = "base", "sft"
HEADLINE = "greedy_exact"


@dataclass(frozen=True)
class Checkpoint:
    """One scored model. Mappings go by measure (MEASURES), `kinds` by the kind of question (greedy, exact).

    `differences`, `kind_differences` are paired, minus SFT; `recovery` is the share of base - SFT that was won back.
    """

    label: str
    title: str
    series: int
    n: int
    cut: int
    """Responses cut by the token limit."""
    measures: dict[str, Interval] = field(default_factory=dict)
    kinds: dict[str, Interval] = field(default_factory=dict)
    differences: dict[str, Interval] = field(default_factory=dict)
    kind_differences: dict[str, Interval] = field(default_factory=dict)
    recovery: dict[str, float] = field(default_factory=dict)


_Rows = list[dict[str, Any]]


def checkpoints_of(lake: Lake, scores: Mapping[str, StageResult], arms: Sequence[Arm]) -> list[Checkpoint]:
    """Every scored model: the base, SFT, the arms in their order, then whatever else there is."""
    by_label = {arm.name: arm for arm in arms}
    order = [label for label in dict.fromkeys((BASE, SFT, *by_label, *scores)) if label in scores]
    rows = {label: _rows(lake, label, scores[label]) for label in order}
    titles = {BASE: "Base", SFT: "SFT"} | {label: arm.title for label, arm in by_label.items()}
    series = {BASE: 0, SFT: 1} | {label: arm.series for label, arm in by_label.items()}
    for label in order:
        series.setdefault(label, len(series))
    return [
        _checkpoint(label, titles.get(label, label), series[label], rows, is_arm=label in by_label) for label in order
    ]


def _rows(lake: Lake, label: str, result: StageResult) -> _Rows:
    columns = ["status", "checkpoint", "instruction", "video", "kind", "decoding", "finished", "exact", "slot"]
    rows = lake.table("scores").read(result.key, columns).to_pylist()
    return [row for row in rows if row["status"] == "ok" and row["checkpoint"] == label]


def _checkpoint(label: str, title: str, series: int, rows: Mapping[str, _Rows], *, is_arm: bool) -> Checkpoint:
    own, sft = rows[label], [] if label == SFT else rows.get(SFT, [])
    kinds = sorted({row["kind"] for row in own})
    summary = summarise(own)
    return Checkpoint(
        label=label,
        title=title,
        series=series,
        n=summary["n"],
        cut=summary["cut"],
        measures=_intervals(summary),
        kinds={kind: each for kind in kinds if (each := mean_of(_of_kind(own, kind), HEADLINE)) is not None},
        differences=_differences(own, sft),
        kind_differences={
            kind: each
            for kind in kinds
            if (each := _gain(_of_kind(own, kind), _of_kind(sft, kind), HEADLINE)) is not None
        },
        recovery=_recoveries(own, rows) if is_arm else {},
    )


def _of_kind(rows: _Rows, kind: str) -> _Rows:
    return [row for row in rows if row["kind"] == kind]


def _intervals(summary: dict[str, Any]) -> dict[str, Interval]:
    return {
        name: Interval(summary[name], low, high, summary["n"]) for name, (low, high) in summary["intervals"].items()
    }


def _differences(own: _Rows, sft: _Rows) -> dict[str, Interval]:
    found = {name: _gain(own, sft, name) for name in MEASURES}
    return {name: each for name, each in found.items() if each is not None}


def _gain(own: _Rows, sft: _Rows, measure: str) -> Interval | None:
    """None where no question was answered by both."""
    decoding, column = MEASURES[measure]
    scored = [
        {row["instruction"] for row in rows if row["decoding"] == decoding and row[column] is not None}
        for rows in (own, sft)
    ]
    return paired_difference(own, sft, measure) if scored[0] & scored[1] else None


def _recoveries(own: _Rows, rows: Mapping[str, _Rows]) -> dict[str, float]:
    """(arm - sft) / (base - sft), where SFT has lost anything that its interval can tell."""
    if SFT not in rows or BASE not in rows:
        return {}
    gained, lost = _differences(own, rows[SFT]), _differences(rows[BASE], rows[SFT])
    return {name: each.value / lost[name].value for name, each in gained.items() if name in lost and lost[name].low > 0}


@dataclass(frozen=True)
class Condition:
    """One way to judge held-out pairs, and how often it agrees with the ground truth; `kinds` by kind of question."""

    name: str
    narrative: bool | None
    frames: int | None
    method: str
    trained: tuple[Arm, ...]
    """The arms that learned from preferences judged this way."""
    agreement: Agreement
    kinds: dict[str, Agreement]


def conditions_of(
    lake: Lake, result: StageResult | None, arms: Sequence[Arm], parameters: Mapping[str, Any]
) -> list[Condition]:
    """What the stage `agreement` measured, in the order of the parameters."""
    if result is None:
        return []
    found = read_agreement(lake, result.ref)
    planned = {each["name"]: each for each in (parameters.get("agreement") or {}).get("conditions") or []}
    sizes = {each["name"]: each.get("n") for each in (parameters.get("frames") or {}).get("sets") or []}
    conditions = []
    for name in [*[name for name in planned if name in found], *[name for name in found if name not in planned]]:
        plan = planned.get(name, {})
        how = (plan.get("narrative"), plan.get("frame_set"), plan.get("method"), plan.get("judge", "local"))
        conditions.append(
            Condition(
                name=name,
                narrative=plan.get("narrative"),
                frames=sizes.get(plan.get("frame_set")),
                method=plan.get("method", "?"),
                trained=tuple(
                    arm
                    for arm in arms
                    if arm.taught_by_judge and (arm.narrative, arm.frame_set, arm.method, arm.judge) == how
                ),
                agreement=found[name][ALL],
                kinds={kind: each for kind, each in found[name].items() if kind != ALL},
            )
        )
    return conditions


def sign(each: Interval) -> int:
    """1 or -1 where the interval leaves 0 out on that side, else 0."""
    return (each.low > 0) - (each.high < 0)


def headline(checkpoints: Sequence[Checkpoint], arms: Sequence[Arm]) -> tuple[str, list[str]]:
    """The result in a sentence, good or bad, and a sentence for each further arm."""
    scored = {each.label: each for each in checkpoints if HEADLINE in each.measures}
    sft = scored.get(SFT)
    told = [(arm, scored[arm.name]) for arm in sorted(arms, key=lambda arm: not arm.narrative) if arm.name in scored]
    if not told:
        if sft is None:
            return "This run has no benchmark scores.", []
        return f"SFT answers {_share(sft)} of {sft.n:,} held-out questions exactly; this run scored no trained arm.", []
    arm, main = told[0]
    first = f"{arm.phrase} answers {_share(main)} of {main.n:,} held-out questions exactly"
    if sft is None:
        return f"{first}; SFT was not scored in this run.", [_further(*each) for each in told[1:]]
    first += f", SFT {_share(sft)} ({_difference(main.differences[HEADLINE])})."
    more = [_recovered(main)] if HEADLINE in main.recovery else []
    return first, more + [_further(*each) for each in told[1:]]


def _further(arm: Arm, checkpoint: Checkpoint) -> str:
    difference = checkpoint.differences.get(HEADLINE)
    said = "" if difference is None else f" ({_difference(difference)})"
    return f"{arm.phrase}: {_share(checkpoint)}{said}."


def _recovered(checkpoint: Checkpoint) -> str:
    share = checkpoint.recovery[HEADLINE]
    if share <= 0:
        return "It recovers nothing of what SFT had lost against the base model."
    return f"It recovers {100 * share:.0f}\u00a0% of what SFT had lost against the base model."


def _share(checkpoint: Checkpoint) -> str:
    return f"{100 * checkpoint.measures[HEADLINE].value:.1f}\u00a0%"


def _difference(each: Interval) -> str:
    span = f"95\u00a0% interval {points(each.low)} to {points(each.high)}"
    what = {1: "difference", -1: "worse: difference", 0: "no clear difference:"}[sign(each)]
    return f"{what} {points(each.value, sign=True)} points, {span}"


def points(share: float, *, sign: bool = False, digits: int = 1) -> str:
    """A share in percentage points, with a true minus sign; never "−0.0"."""
    text = f"{100 * share:{'+' if sign else ''}.{digits}f}"
    return (text if float(text) else text.replace("-", "+" if sign else "")).replace("-", "−")
