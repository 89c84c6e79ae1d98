"""The figures of an audit: reliability of p(A), and what length does to a preference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.audit_measures import Bin, Judged, LengthUnit, length_difference
from tasks.intervals import RESAMPLES, Interval, bootstrap_mean
from tasks.report_plots import GRID, MUTED, NARROW_IN, Panel, color_of, drawing, svg_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ENDS = 6  # Differences beyond it, in either direction, are drawn as one.


@dataclass(frozen=True)
class Spot:
    """A share (0 to 1) with its interval, at x."""

    x: float
    found: Interval


def reliability_panel(version: str, series: int, bins: Sequence[Bin]) -> Panel:
    """How often A is truly better over p(A); a calibrated judge lies on the diagonal."""
    title = f"{version}: p(A) and the truth"
    with drawing(NARROW_IN, 2.6, title) as (figure, axes):
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        _draw(axes, [Spot(100 * each.p, each.true) for each in bins], series)
        axes.set_xlim(-3, 103)
        _label(axes, "p(A), %", "A truly better, %")
        said = "; ".join(f"{100 * each.p:.0f} % said, {100 * each.true.value:.0f} % true" for each in bins)
        svg = svg_text(figure, f"{title}: {said}")
    pairs = sum(each.true.n for each in bins)
    return Panel(title, svg, f"{pairs:,} pairs that the truth tells apart; the diagonal is a calibrated judge.")


def length_panel(version: str, series: int, pairs: Sequence[Judged], unit: LengthUnit) -> Panel | None:
    """How often A is preferred over how much longer it is, and how often it is truly better; None without pairs."""
    judged = _by_length([(pair, pair.preferred) for pair in pairs], unit)
    if not judged:
        return None
    true = _by_length([(pair, pair.truth) for pair in pairs if pair.truth in ("a", "b")], unit)
    title = f"{version}: length and preference"
    with drawing(NARROW_IN, 2.6, title) as (figure, axes):
        axes.axhline(50, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        if true:
            shares = [100 * spot.found.value for spot in true]
            axes.plot([spot.x for spot in true], shares, color=MUTED, marker="x", markersize=5, linewidth=1)
        _draw(axes, judged, series)
        axes.margins(x=0.05)
        _label(axes, f"length of A minus length of B, {unit}", "A preferred, %")
        said = "; ".join(f"{spot.x:+.0f} {unit} {100 * spot.found.value:.0f} %" for spot in judged)
        svg = svg_text(figure, f"{title}: {said}")
    known = " Crosses: how often A is truly better." if true else ""
    return Panel(title, svg, f"A tie counts half; the ends hold all that lies beyond.{known}")


def _by_length(labels: Sequence[tuple[Judged, str | None]], unit: LengthUnit) -> list[Spot]:
    groups: dict[int, list[tuple[Judged, str | None]]] = {}
    for pair, label in labels:
        difference = length_difference(pair, unit)
        if difference:
            step = 1 if unit == "words" else 5
            place = max(-_ENDS, min(_ENDS, round(difference / step) or (1 if difference > 0 else -1))) * step
            groups.setdefault(place, []).append((pair, label))
    return [
        Spot(
            place,
            bootstrap_mean(
                [0.5 if label == "tie" else float(label == "a") for _, label in groups[place]],
                [pair.video for pair, _ in groups[place]],
                resamples=RESAMPLES,
            ),
        )
        for place in sorted(groups)
    ]


def _draw(axes: Axes, spots: Sequence[Spot], series: int) -> None:
    values = [100 * spot.found.value for spot in spots]
    below = [100 * (spot.found.value - spot.found.low) for spot in spots]
    above = [100 * (spot.found.high - spot.found.value) for spot in spots]
    color = color_of(series)
    axes.errorbar(
        [spot.x for spot in spots], values, yerr=[below, above], fmt="o-", color=color, markersize=5, capsize=2
    )


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_ylim(-4, 104)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_xlabel(x, color=MUTED, fontsize=9)
    axes.set_ylabel(y, color=MUTED, fontsize=9)
