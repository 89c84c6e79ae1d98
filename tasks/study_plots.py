"""A study's figures, each an SVG file that needs nothing beside it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tasks.report_plots import drawing
from tasks.report_scores import BASE, SFT
from tasks.study import Mean, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARM, SEED, PAPER, RULE = "#1f5fa8", "#7fa6d6", "#ffffff", "#dddddd"
LINES = {SFT: ("#b4542a", (0, (4, 3))), BASE: ("#3f7f3f", (0, (1, 1.5)))}
WIDE_IN, CURVE_IN = 7.2, 3.4
_BESIDE_PT = 6
_WIDE_RANGE = 4.0  # From here on numbers stand on a logarithmic axis.


def forest(study: Study) -> str:
    """The arms one below the other: mean and 95 % interval, each seed a dot, SFT and base as lines; in per cent."""
    arms = {label: each for label, each in study.scores.items() if label not in LINES}
    title = f"{study.measure} by arm"
    with drawing(WIDE_IN, 0.9 + 0.28 * len(arms), title) as (figure, axes):
        for place, each in enumerate(arms.values()):
            _mark(axes, each, place, across=True)
        _references(axes, study.scores, axes.axvline)
        axes.set_yticks(range(len(arms)), [*arms])
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.grid(axis="x", color=RULE, linewidth=0.8)
        axes.set_xlabel(f"{study.measure}, % of {study.questions:,} questions; dots are seeds, bars 95 % intervals")
        return _svg(figure)


def over_number(study: Study, title: str, axis: str, points: Mapping[str, float]) -> str:
    """Arms over a number, as in `forest`. Arms that were not scored are left out.

    Args:
        study: the scores.
        title: above the figure.
        axis: what the number is.
        points: the number of each arm; SFT and base may stand among them too.
    """
    shown = [(points[arm], study.scores[arm]) for arm in sorted(points, key=points.__getitem__) if arm in study.scores]
    with drawing(WIDE_IN, CURVE_IN, title) as (figure, axes):
        numbers = [number for number, _ in shown]
        axes.plot(numbers, [100 * each.mean for _, each in shown], color=ARM, linewidth=1.4)
        for number, each in shown:
            _mark(axes, each, number, across=False)
        _references(axes, study.scores, axes.axhline)
        if numbers and min(numbers) > 0 and max(numbers) >= _WIDE_RANGE * min(numbers):
            axes.set_xscale("log")
            axes.set_xticks(numbers, [f"{number:,.0f}" for number in numbers])
            axes.minorticks_off()
        axes.grid(color=RULE, linewidth=0.8)
        axes.set_title(title, fontsize=10, loc="right")
        axes.set_xlabel(axis)
        axes.set_ylabel(f"{study.measure}, %")
        return _svg(figure)


def _mark(axes: Axes, each: Mean, place: float, *, across: bool) -> None:
    """One arm: its seeds, and beside them its mean with the interval; `across`: the score is on the axis across."""
    from matplotlib.transforms import ScaledTranslation

    seeds = [100 * value for value in each.values if value is not None]
    mean = 100 * each.mean
    # An interval of quantiles need not hold the mean; then it has no length on that side.
    span = [[max(0.0, mean - 100 * each.low)], [max(0.0, 100 * each.high - mean)]]
    places = [place] * len(seeds)
    x, y = (0, -_BESIDE_PT) if across else (_BESIDE_PT, 0)
    beside = axes.transData + ScaledTranslation(x / 72, y / 72, axes.figure.dpi_scale_trans)
    at_seeds = (seeds, places) if across else (places, seeds)
    axes.plot(*at_seeds, "o", color=SEED, markersize=3, zorder=2, transform=beside)
    at = (mean, place) if across else (place, mean)
    x_span, y_span = (span, None) if across else (None, span)
    axes.errorbar(*at, xerr=x_span, yerr=y_span, fmt="D", color=ARM, markersize=5, linewidth=1.6, capsize=3, zorder=3)


def _references(axes: Axes, scores: Mapping[str, Mean], line: Callable[..., object]) -> None:
    for label, (color, dashes) in LINES.items():
        if label in scores:
            said = f"{label} {100 * scores[label].mean:.1f}"
            line(100 * scores[label].mean, color=color, linewidth=1.3, linestyle=dashes, zorder=1, label=said)
    if any(label in scores for label in LINES):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=8.5)


def _svg(figure: Figure) -> str:
    figure.patch.set(alpha=1.0, facecolor=PAPER)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
