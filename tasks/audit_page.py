"""The page of `rlaif audit`: versions of the labels, what is wrong with each, and examples. Reads the lake alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.audit import measure
from tasks.audit_examples import examples
from tasks.audit_limits import ALL, AuditConfig, Finding
from tasks.audit_measures import LABELS, Judged, confusion, matched, reliability
from tasks.audit_plots import length_panel, reliability_panel
from tasks.audit_tables import TITLES, between, between_titles, headline, table, versions_in
from tasks.label_versions import LabelVersion, judged_pairs, made_from, truths_of
from tasks.lake_command import lake_command
from tasks.pages import render, without_places, write
from tasks.report_plots import Panel, Point, points
from tasks.stage import StageError

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.report_pairs import Pair

_MOST_TABLES = 6


@dataclass(frozen=True)
class Confusion:
    """How often each label of one version (rows) met each label of another (columns), in the order of LABELS."""

    one: str
    other: str
    counts: list[list[int]]
    total: int


@dataclass(frozen=True)
class AuditPage:
    """Everything on the page. Empty lists are parts that these labels do not have."""

    headline: str
    notes: list[str]
    lake: str
    versions: list[LabelVersion]
    counts: dict[str, int]
    findings: list[Finding]
    shares: list[Panel]
    lengths: list[Panel]
    reliabilities: list[Panel]
    confusions: list[Confusion]
    pairs: list[Pair]
    command: str


def audit_page(lake: Lake, config: AuditConfig, versions: Sequence[LabelVersion], target: Path, command: str) -> Path:
    """Audit versions of the labels and write the page.

    Args:
        lake: where the labels are; nothing is written into it.
        config: what is measured.
        versions: the labels, at least one, with names that differ.
        target: the HTML file.
        command: what makes the page again.

    Raises:
        StageError: none of the versions has a judged pair.
    """
    sources = {version.name: made_from(lake, version.key) for version in versions}
    asked = {found["instructions"].ref: None for found in sources.values() if "instructions" in found}
    truths = truths_of(lake, [*asked], config.truth_splits, config.slots)
    pairs = {version.name: judged_pairs(lake, version.key, truths) for version in versions}
    kept = {version.name: version for version in versions if pairs[version.name]}
    if not kept:
        raise StageError(f"No pair of {', '.join(pairs)} was judged; {lake_command('status', lake.root)} says why.")
    findings = [each for name in kept for each in measure(config, kept, pairs, name)]
    said, notes = headline(findings)
    page = AuditPage(
        headline=said,
        notes=notes,
        lake=lake.root,
        versions=list(kept.values()),
        counts={name: len(pairs[name]) for name in kept},
        findings=findings,
        shares=_shares(findings, list(kept)),
        lengths=_lengths(config, pairs, list(kept)),
        reliabilities=_reliabilities(config, pairs, list(kept)),
        confusions=_confusions(pairs, list(kept)),
        pairs=examples(lake, list(kept.values()), sources, truths, config.slots, config.length_unit),
        command=command,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    write(
        target,
        render(
            "audit.html.j2",
            without_places(Path.cwd()),
            page=page,
            labels=LABELS,
            rows=table(findings),
            columns=versions_in(findings),
            compared=between(findings),
            compared_titles=between_titles(),
        ),
    )
    return target


def _shares(findings: Sequence[Finding], names: Sequence[str]) -> list[Panel]:
    """Position and truth of all versions side by side."""
    found = {(each.measure, each.version): each.found for each in findings if each.other == ALL}
    panels = []
    for measure_name, caption, reference in (
        ("first", "The dashed line is no position bias.", 0.5),
        ("truth", "Pairs that the truth tells apart; the dashed line is chance.", 0.5),
    ):
        rows = [
            Point(name, place, each.value, each.low, each.high)
            for place, name in enumerate(names)
            if (each := found.get((measure_name, name))) is not None
        ]
        if rows:
            title = f"{TITLES[measure_name]}, %"
            panels.append(Panel(title, points(title, rows, reference=reference), caption))
    return panels


def _lengths(config: AuditConfig, pairs: Mapping[str, Sequence[Judged]], names: Sequence[str]) -> list[Panel]:
    drawn = [length_panel(name, place, pairs[name], config.length_unit) for place, name in enumerate(names)]
    return [panel for panel in drawn if panel is not None]


def _reliabilities(config: AuditConfig, pairs: Mapping[str, Sequence[Judged]], names: Sequence[str]) -> list[Panel]:
    bins = {name: reliability(pairs[name], resamples=config.resamples) for name in names}
    return [reliability_panel(name, place, bins[name]) for place, name in enumerate(names) if bins[name]]


def _confusions(pairs: Mapping[str, Sequence[Judged]], names: Sequence[str]) -> list[Confusion]:
    """Those of the versions that differ most."""
    found = []
    for one, other in combinations(names, 2):
        both = matched(pairs[one], pairs[other])
        if both:
            counts = confusion([(a.preferred, b.preferred if a.answers == b.answers else b.turned) for a, b in both])
            found.append(Confusion(one, other, counts.astype(int).tolist(), len(both)))
    same = {(each.one, each.other): sum(each.counts[n][n] for n in range(len(LABELS))) / each.total for each in found}
    return sorted(found, key=lambda each: same[each.one, each.other])[:_MOST_TABLES]
