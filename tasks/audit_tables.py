"""An audit in tables and in words, for its own page and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.audit_limits import ALL, Finding
from tasks.audit_measures import BETWEEN, MEASURES
from tasks.intervals import Interval
from tasks.report_scores import points, sign

TITLES = {
    "ties": "Ties",
    "first": "Position: first shown preferred",
    "consistent": "Both orders agree",
    "always_first": "Always the first",
    "always_second": "Always the second",
    "longer": "Length: longer preferred",
    "longer_true": "Longer truly better",
    "longer_excess": "Length bias",
    "length_slope": "Length slope",
    "repeated": "Repeated judgements agree",
    "equal_ties": "Equal answers tie",
    "truth": "Agrees with the truth",
    "truth_kappa": "Kappa with the truth",
    "calibration_error": "Calibration error of p(A)",
    "brier": "Brier score of p(A)",
    "same": "Same label",
    "kappa": "Kappa",
    "narrative_gain": "Gain of the narrative",
    "narrative_moved": "Moved by the narrative",
    "blind_same": "Same when blind",
    "blind_kappa": "Kappa with the blind judge",
}
# Shown in percentage points with a sign, and as plain numbers; the others are shares.
_DIFFERENCES = {"longer_excess", "narrative_gain"}
_NUMBERS = {"length_slope", "truth_kappa", "calibration_error", "brier", "kappa", "blind_kappa"}
# What a measure is where nothing leans.
_UNBIASED = {"first": 0.5, "longer_excess": 0.0}


@dataclass(frozen=True)
class Cell:
    """One measure as it is shown, its interval, the pairs behind it, and whether the interval tells of a bias."""

    value: str
    interval: str
    n: int
    biased: bool


@dataclass(frozen=True)
class Row:
    """One line of a table: what is measured, what it means, and a cell for each column; None where not measured."""

    title: str
    meaning: str
    cells: tuple[Cell | None, ...]


def versions_in(findings: Sequence[Finding]) -> list[str]:
    """The versions, in the order of their first finding."""
    return list(dict.fromkeys(each.version for each in findings))


def table(findings: Sequence[Finding]) -> list[Row]:
    """A row for each measure that some version has, a cell for each version."""
    found = {(each.measure, each.version): each.found for each in findings if each.other == ALL}
    versions = versions_in(findings)
    return [
        Row(TITLES[name], meaning, tuple(_cell(name, found.get((name, version))) for version in versions))
        for name, meaning in MEASURES.items()
        if any((name, version) in found for version in versions)
    ]


def between(findings: Sequence[Finding]) -> list[Row]:
    """A row for each two versions that were compared, a cell for each measure of BETWEEN."""
    found = {(each.version, each.other, each.measure): each.found for each in findings if each.other != ALL}
    return [
        Row(f"{one} – {other}", "", tuple(_cell(name, found.get((one, other, name))) for name in BETWEEN))
        for one, other in dict.fromkeys((one, other) for one, other, _ in found)
    ]


def between_titles() -> list[tuple[str, str]]:
    """Title and meaning of the columns of `between`."""
    return [(TITLES[name], meaning) for name, meaning in BETWEEN.items()]


def _cell(name: str, found: Interval | None) -> Cell | None:
    if found is None:
        return None
    biased = name in _UNBIASED and not found.low <= _UNBIASED[name] <= found.high
    return Cell(shown(name, found.value), f"{_bare(name, found.low)} to {_bare(name, found.high)}", found.n, biased)


def shown(name: str, value: float) -> str:
    """A measure's value with its unit."""
    if name in _NUMBERS or name in _DIFFERENCES:
        return _bare(name, value)
    return f"{points(value)}\u00a0%"


def _bare(name: str, value: float) -> str:
    if name in _NUMBERS:
        return f"{value:.3f}".replace("-", "−")
    return points(value, sign=name in _DIFFERENCES)


def headline(findings: Sequence[Finding]) -> tuple[str, list[str]]:
    """What is wrong with the labels in a sentence, and a sentence for each further trouble."""
    versions = versions_in(findings)
    if not versions:
        return "There are no labels to audit.", []
    troubles = [text for version in versions for text in _troubles(version, findings)]
    names = versions[0] if len(versions) == 1 else f"{len(versions)} versions of the labels"
    if troubles:
        return troubles[0], troubles[1:]
    measured = {each.measure for each in findings}
    looked = [word for word, name in (("the position", "first"), ("the length", "longer_excess")) if name in measured]
    if not looked:
        return f"Nothing here could tell a bias of {names}: no order was shown and no truth is known.", []
    return f"In {names} no bias to {' or '.join(looked)} of an answer can be told from chance.", []


def _troubles(version: str, findings: Sequence[Finding]) -> list[str]:
    alone = {each.measure: each.found for each in findings if each.version == version and each.other == ALL}
    said = []
    if (first := alone.get("first")) and sign_from(first, 0.5):
        place = "first" if first.value > 0.5 else "second"
        share = first.value if first.value > 0.5 else 1 - first.value
        said.append(
            f"{version} prefers the answer shown {place} in {points(share)}\u00a0% of the showings (50\u00a0% would be "
            f"fair); its two orders agree on {points(alone['consistent'].value)}\u00a0% of the pairs."
        )
    if (excess := alone.get("longer_excess")) and sign(excess):
        more = "more" if excess.value > 0 else "less"
        said.append(
            f"{version} prefers the longer answer {points(abs(excess.value))} points {more} often than the truth does "
            f"(95\u00a0% interval {points(excess.low, sign=True)} to {points(excess.high, sign=True)})."
        )
    if (equal := alone.get("equal_ties")) and equal.value < 1:
        said.append(f"{version} calls only {points(equal.value)}\u00a0% of the pairs of equal answers a tie.")
    same = {each.other: each.found for each in findings if each.version == version and each.measure == "blind_same"}
    for each in findings:
        if each.version == version and each.measure == "blind_kappa" and each.found.low > 0:
            said.append(
                f"{points(same[each.other].value)}\u00a0% of the labels of {version} need no video: {each.other} "
                f"sees none and gives them too (kappa {each.found.value:.2f})."
            )
    return said


def sign_from(found: Interval, neutral: float) -> int:
    """1 or -1 where the interval leaves the neutral value out on that side, else 0."""
    return (found.low > neutral) - (found.high < neutral)
