"""The page of results: what was measured here, in one or several runs, beside what others published; results.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def results_page(runs: Mapping[Path, Scores], target: Path, benchmarks: Sequence[str] = ()) -> Path:
    """Write the page and return its path.

    Args:
        runs: their scores, by their folders; without any the page shows what others published.
        target: the HTML file.
        benchmarks: names in the registry; none: all.
    """
    called = _called(runs)
    entries = [
        replace(entry, checkpoint=f"{called[folder]}: {entry.checkpoint}") if len(runs) > 1 else entry
        for folder, each in runs.items()
        for entry in each.entries
    ]
    found: dict[str, list[Shelf]] = {}
    for shelf in shelves_of(entries):
        if not benchmarks or shelf.benchmark in benchmarks:
            found.setdefault(shelf.benchmark, []).append(shelf)
    names = ", ".join(called.values())
    headline = f"Measured here ({names}), beside published numbers" if names else "Published numbers"
    page = ResultsPage(headline, [], found)
    target.parent.mkdir(parents=True, exist_ok=True)
    write(target, render("results.html.j2", without_places(Path.cwd()), page=page))
    return target


def _called(runs: Mapping[Path, Scores]) -> dict[Path, str]:
    """Runs by name; where several have one name, the folder tells them apart."""
    names = [each.run for each in runs.values()]
    return {
        folder: each.run if names.count(each.run) == 1 else f"{each.run} ({folder})" for folder, each in runs.items()
    }
