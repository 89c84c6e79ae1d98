"""The page of results: what was measured here, in one or several runs, beside what others published; results.html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.evaluation.entries import Scores
from tasks.evaluation.published_scores import Shelf, shelves_of
from tasks.pages import render, without_places, write


@dataclass(frozen=True)
class ResultsPage:
    """Everything on the page."""

    headline: str
    notes: list[str]
    benchmarks: dict[str, list[Shelf]]


def results_page(runs: Sequence[Scores], target: Path, benchmarks: Sequence[str] = ()) -> Path:
    """Write the page and return its path.

    Args:
        runs: their scores; without any the page shows what others published.
        target: the HTML file.
        benchmarks: names in the registry; none: all.
    """
    several = len({each.run for each in runs}) > 1
    entries = [
        replace(entry, checkpoint=f"{each.run}: {entry.checkpoint}") if several else entry
        for each in runs
        for entry in each.entries
    ]
    found: dict[str, list[Shelf]] = {}
    for shelf in shelves_of(entries):
        if not benchmarks or shelf.benchmark in benchmarks:
            found.setdefault(shelf.benchmark, []).append(shelf)
    names = ", ".join(dict.fromkeys(each.run for each in runs))
    headline = f"Measured here ({names}), beside published numbers" if names else "Published numbers"
    page = ResultsPage(headline, [], found)
    target.parent.mkdir(parents=True, exist_ok=True)
    write(target, render("results.html.j2", without_places(Path.cwd()), page=page))
    return target
