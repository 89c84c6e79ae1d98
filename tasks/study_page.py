"""A study as a page (study.md), numbers (study.json) and figures beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tasks.pages import duration, write
from tasks.study import Difference, Study
from tasks.study_cost import Cost
from tasks.study_plots import forest, over_number


@dataclass(frozen=True)
class ArmTold:
    """What is said of an arm beside its scores.

    Attributes:
        description: in words.
        overrides: what makes it, as `rlaif run` takes it.
        cost: of its stages, where they were measured.
        labels: pairs with a label that is no tie, in the mean over the seeds.
    """

    description: str
    overrides: list[str]
    cost: Cost | None = None
    labels: float | None = None


@dataclass(frozen=True)
class Curve:
    """Arms that differ in one number alone.

    Attributes:
        name: of the figure's file.
        title: above it.
        axis: what the number is.
        points: the number of each arm.
    """

    name: str
    title: str
    axis: str
    points: dict[str, float]


@dataclass(frozen=True)
class Findings:
    """All that a study shows.

    Attributes:
        title: of the page.
        studies: one a measure, the main one first.
        arms: by name; empty where the arms stand in a preset.
        curves: to draw.
        missing: what the study lacks, in words.
    """

    title: str
    studies: Sequence[Study]
    arms: Mapping[str, ArmTold] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    missing: Sequence[str] = ()


def write_study(findings: Findings, folder: Path) -> Path:
    """Write study.json, study.md and the figures into the folder; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "title": findings.title,
        "measures": {study.measure: asdict(study) for study in findings.studies},
        "arms": {name: asdict(arm) for name, arm in findings.arms.items()},
        "curves": [asdict(curve) for curve in findings.curves],
        "missing": [*findings.missing],
    }
    write(folder / "study.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    figures = _figures(findings)
    for name, (_, svg) in figures.items():
        write(folder / name, svg)
    page = folder / "study.md"
    write(page, _page(findings, {name: title for name, (title, _) in figures.items()}))
    return page


def _figures(findings: Findings) -> dict[str, tuple[str, str]]:
    """By the names of their files: titles and SVG, of the main measure."""
    if not findings.studies:
        return {}
    study = findings.studies[0]
    found = {f"study_{study.measure}.svg": (f"{study.measure} by arm", forest(study))}
    for curve in findings.curves:
        drawn = over_number(study, curve.title, curve.axis, curve.points)
        found[f"study_{curve.name}.svg"] = (curve.title, drawn)
    return found


def _page(findings: Findings, figures: Mapping[str, str]) -> str:
    parts = [f"# {findings.title}\n"]
    if findings.missing:
        parts.append("Missing: " + "; ".join(findings.missing) + ".\n")
    parts += [f"![{title}]({name})\n" for name, title in figures.items()]
    for study in findings.studies:
        parts.append(f"## {study.measure}\n\n{markdown(study)}")
    if findings.arms:
        parts.append(f"## Arms\n\n{_arms(findings.arms)}\n")
    return "\n".join(parts)


def _arms(arms: Mapping[str, ArmTold]) -> str:
    head = ["arm", "what it is", "decided labels", "own stages, worker time", "whole run", "overrides"]
    return markdown_table(head, [_arm(name, arm) for name, arm in arms.items()])


def _arm(name: str, arm: ArmTold) -> list[str]:
    labels = "" if arm.labels is None else f"{arm.labels:,.0f}"
    costs = ["", ""] if arm.cost is None else [duration(arm.cost.own), duration(arm.cost.whole)]
    told = [arm.description, labels, *costs, " ".join(f"`{each}`" for each in arm.overrides)]
    return [name, *(each.replace("|", "\\|") for each in told)]


def markdown(study: Study) -> str:
    """The study as two tables."""
    seeds = [f"seed {seed}" for seed in study.seeds]
    told = f"{study.measure}, {study.questions:,} questions"
    scores = [
        [label, *_numbers(each.values, ".3f"), f"{each.mean:.3f}", _sd(each.sd), f"[{each.low:.3f}, {each.high:.3f}]"]
        for label, each in study.scores.items()
    ]
    head = ["paired", *seeds, "mean", "sd", "95 % interval", "p", "recovery"]
    differences = [[f"{each.first} - {each.second}", *_difference(each)] for each in study.differences]
    first = markdown_table([told, *seeds, "mean", "sd", "95 % interval"], scores)
    return f"{first}\n\n{markdown_table(head, differences)}\n"


def _difference(each: Difference) -> list[str]:
    recovery = ""
    if (share := each.recovery) is not None:
        recovery = f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"
    interval = f"[{each.low:+.3f}, {each.high:+.3f}]"
    values = _numbers(each.values, "+.3f")
    return [*values, f"{each.mean:+.3f}", _sd(each.sd), interval, f"{each.p:.2g}", recovery]


def _numbers(values: Sequence[float | None], how: str) -> list[str]:
    return ["" if value is None else f"{value:{how}}" for value in values]


def _sd(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a Markdown page, from cells that need no care."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
