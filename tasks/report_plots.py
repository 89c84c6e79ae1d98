"""The report's figures: matplotlib without a display, as SVG text that takes its colours and font from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib wants colours and the page wants CSS variables, so that one figure is legible in light and in dark: each of
# these colours is drawn nowhere else and is replaced in the SVG text.
INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--rule)", SURFACE: "var(--surface)"}
_MARKERS = "osD^vP"
_DASHES: list[tuple[float, ...]] = [(), (5, 1.5), (1.5, 1.2), (6, 1.5, 1.5, 1.5)]
SERIES = 6
WIDE_IN, NARROW_IN = 4.6, 3.3  # Where two, or three, figures stand side by side at full width.
_SMOOTHED = 7  # Steps in the running mean of a curve.


@dataclass(frozen=True)
class Panel:
    """A figure (SVG text) with what stands above and below it."""

    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Point:
    """One row of a point plot: a share with its interval, between 0 and 1."""

    label: str
    series: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One training curve: `values` at `steps`."""

    label: str
    series: int
    steps: Sequence[float]
    values: Sequence[float]


def points(
    title: str, rows: Sequence[Point | None], *, reference: float | None = None, width_in: float = WIDE_IN
) -> str:
    """Shares with their intervals, one below the other, in per cent; a dashed line at the reference.

    None leaves a row empty, so that figures side by side keep their rows level.
    """
    with drawing(width_in, 0.4 + 0.34 * len(rows), title) as (figure, axes):
        for place, row in enumerate(rows):
            if row is not None:
                _draw(axes, place, row)
        if reference is not None:
            axes.axvline(100 * reference, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.set_yticks(range(len(rows)), ["" if row is None else row.label for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.margins(x=0.08)
        axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9.5)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        said = "; ".join(f"{row.label} {100 * row.value:.1f} %" for row in rows if row is not None)
        return svg_text(figure, f"{title}: {said}")


def _draw(axes: Axes, place: int, row: Point) -> None:
    axes.errorbar(
        100 * row.value,
        place,
        xerr=[[100 * (row.value - row.low)], [100 * (row.high - row.value)]],
        fmt=marker_of(row.series),
        color=color_of(row.series),
        markersize=6,
        linewidth=2,
        capsize=3,
    )
    at = (1.02, place)
    text = f"{100 * row.value:.1f}"
    axes.annotate(text, at, xycoords=("axes fraction", "data"), va="center", color=INK, fontsize=9.5)


def lines(title: str, curves: Sequence[Line], *, width_in: float = WIDE_IN) -> str:
    """Training curves over one another: thin as measured and, where there are many steps, thick as a running mean."""
    with drawing(width_in, 2.15, title) as (figure, axes):
        for curve in curves:
            color = color_of(curve.series)
            if len(curve.values) > _SMOOTHED:
                axes.plot(curve.steps, curve.values, color=color, linewidth=0.8, alpha=0.35)
            axes.plot(
                curve.steps, running_mean(curve.values), color=color, linewidth=1.9, linestyle=_style(curve.series)
            )
        axes.grid(color=GRID, linewidth=0.8)
        axes.margins(x=0.02)
        axes.set_xlabel("step", color=MUTED, fontsize=9)
        ends = "; ".join(f"{curve.label} from {curve.values[0]:.3g} to {curve.values[-1]:.3g}" for curve in curves)
        return svg_text(figure, f"{title}: {ends}")


def dashes(series: int) -> tuple[float, ...]:
    """The dash pattern of a series: the base, SFT and the first arm are drawn through."""
    return _DASHES[max(0, series - 2) % len(_DASHES)]


def _style(series: int) -> Any:
    return (0, dashes(series)) if dashes(series) else "-"


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean over a centred window, narrower at the ends; short curves stay as they are."""
    if len(values) <= _SMOOTHED:
        return list(values)
    half = _SMOOTHED // 2
    windows = [values[max(0, place - half) : place + half + 1] for place in range(len(values))]
    return [sum(window) / len(window) for window in windows]


@contextmanager
def drawing(width_in: float, height_in: float, name: str) -> Iterator[tuple[Figure, Axes]]:
    """An empty figure in the style of the pages, and its axes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = {
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "axes.edgecolor": GRID,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(colors=MUTED, labelsize=9, length=3)
        yield figure, axes


def marker_of(index: int) -> str:
    """The marker of a series."""
    return _MARKERS[index % SERIES]


def color_of(index: int) -> str:
    """The colour of a series while it is drawn; the page's variable stands for it in the SVG text."""
    return f"#0501{index % SERIES:02x}"


def svg_text(figure: Figure, description: str) -> str:
    """The figure as an `svg` element for the middle of a page: no prolog, no addresses, no ids but those in use."""
    import html

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (xmlns(:xlink)?|width|height|version)="[^"]*"', "", text, count=5)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    text = re.sub(r"#0501([0-9a-f]{2})", lambda match: f"var(--series-{int(match[1], 16)})", text)
    label = html.escape(description, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
