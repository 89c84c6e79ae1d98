"""Scores by category, as figures of a page."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.evaluation.conditions import Breakdown, Condition
from tasks.report_plots import GRID, INK, WIDE_IN, Panel, color_of, drawing, marker_of, svg_text

_ROW_IN = 0.17  # Of one checkpoint in one group.
_MOST_GROUPS = 40  # That a figure holds.


def category_panels(condition: Condition, series: Mapping[str, int]) -> list[Panel]:
    """A figure for each kind of group of each metric; `series` has the checkpoints' colours.

    A kind of one group has none, and neither has one of more than fit, for which see `not_drawn`.
    """
    return [
        Panel(_title(each), _drawn(each, condition.checkpoints, series))
        for each in condition.breakdowns
        if 1 < len(each.groups) <= _MOST_GROUPS
    ]


def not_drawn(condition: Condition) -> list[str]:
    """Why kinds of group have no figure, a sentence each: they are too many for one."""
    return [
        f"{_title(each)}: its {len(each.groups):,} rows are more than the {_MOST_GROUPS} that a figure holds."
        for each in condition.breakdowns
        if len(each.groups) > _MOST_GROUPS
    ]


def _title(each: Breakdown) -> str:
    unit = ", %" if each.unit.scale == 100 else ""
    return f"{each.metric} by {each.kind.replace('_', ' ')}{unit}" if each.kind else f"{each.metric}{unit}"


def _drawn(each: Breakdown, checkpoints: list[str], series: Mapping[str, int]) -> str:
    """Groups one below the other, and in each the checkpoints with their intervals."""
    title = _title(each)
    step = 0.8 / len(checkpoints)
    height = 0.45 + len(each.groups) * max(0.3, _ROW_IN * len(checkpoints) + 0.1)
    said = []
    with drawing(WIDE_IN, height, title) as (figure, axes):
        for place, group in enumerate(each.groups):
            for row, checkpoint in enumerate(checkpoints):
                entry = each.entries.get((group, checkpoint))
                if entry is None or entry.value is None or not entry.n:
                    continue
                value = entry.value * each.unit.scale
                span = None
                if entry.low is not None and entry.high is not None:
                    # An interval of quantiles need not hold the value; then it has no length on that side.
                    low, high = entry.low * each.unit.scale, entry.high * each.unit.scale
                    span = [[max(0.0, value - low)], [max(0.0, high - value)]]
                at = place + (row - (len(checkpoints) - 1) / 2) * step
                marker, color = marker_of(series[checkpoint]), color_of(series[checkpoint])
                axes.errorbar(value, at, xerr=span, fmt=marker, color=color, markersize=5, linewidth=1.6, capsize=2)
                said.append(f"{checkpoint}, {group} {each.unit.said(entry.value)}")
        axes.set_yticks(range(len(each.groups)), [*each.groups])
        axes.set_ylim(len(each.groups) - 0.4, -0.6)
        axes.margins(x=0.06)
        axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        return svg_text(figure, f"{title}: {'; '.join(said)}")
