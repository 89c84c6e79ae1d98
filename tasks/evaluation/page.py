"""The page of an evaluation: scores, categories, paired comparisons, answers that flipped, faults; evaluation.html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark
from tasks.evaluation.comparison import Comparison, Difference, compare
from tasks.evaluation.conditions import OVERALL, Condition, alike, comparable, conditions_of, main_conditions
from tasks.evaluation.entries import Scores
from tasks.evaluation.faults import Faults, faults_of
from tasks.evaluation.flips import Example, examples_of
from tasks.evaluation.graded_rows import AnsweredRows, Answers, benchmark_of
from tasks.evaluation.plots import category_panels, not_drawn
from tasks.evaluation.published_scores import Shelf, published_benchmarks, shelves_of
from tasks.pages import render, without_places, write
from tasks.report_plots import Panel

if TYPE_CHECKING:
    from storage.lake import Lake

PAGE = "evaluation.html"
EXAMPLES = 3  # Flips that are shown, each direction of a comparison.
_NAMED = 4  # From more benchmarks on, the headline only counts them.
_ALL_PAIRS = 4  # From more checkpoints on, each is compared with the first alone.


@dataclass(frozen=True)
class Compared:
    """Two checkpoints under one condition, and some of the answers that flipped."""

    condition: Condition
    found: Comparison
    examples: list[Example]

    @property
    def first_rows(self) -> list[Difference]:
        """The differences over all items; where there are none, all."""
        return [each for each in self.found.differences if each.group == OVERALL] or list(self.found.differences)

    @property
    def more_rows(self) -> list[Difference]:
        """The others."""
        return [each for each in self.found.differences if each not in self.first_rows]


@dataclass(frozen=True)
class EvaluationPage:
    """Everything on the page. Empty lists are parts that this evaluation does not have.

    `panels`, `not_drawn` (figures left out) and examples of flips are those of each benchmark's main condition
    (`main_conditions`), by its anchor: the other protocols read the same answers.
    """

    run: str
    headline: str
    notes: list[str]
    conditions: list[Condition]
    series: dict[str, int]
    panels: dict[str, list[Panel]]
    not_drawn: dict[str, list[str]]
    compared: list[Compared]
    faults: list[Faults]
    shelves: list[Shelf]
    models: dict[str, str]
    command: str


def evaluation_page(
    lake: Lake,
    scores: Scores,
    folder: Path,
    *,
    command: str = "",
    examples: int = EXAMPLES,
) -> Path:
    """Write evaluation.html into the folder and return its path.

    Args:
        lake: where questions, predictions and grades are; nothing is written into it.
        scores: of the run.
        folder: the run's.
        command: what makes the run again; "" where that is not known.
        examples: flipped answers that are shown of each direction of a comparison.
    """
    conditions = conditions_of(scores.entries)
    series = {name: place for place, name in enumerate(dict.fromkeys(each.checkpoint for each in scores.entries))}
    together = comparable(conditions)
    main = {alike(each) for each in main_conditions(together)}
    compared: list[Compared] = []
    faults: list[Faults] = []
    for name in dict.fromkeys(each.benchmark for each in conditions):
        rows = AnsweredRows(lake)
        for condition in (each for each in together if each.benchmark == name):
            compared += _comparisons(rows, condition, examples if alike(condition) in main else 0)
        found = faults_of(rows, [each for each in conditions if each.benchmark == name])
        faults += [] if found is None else [found]
    headline, notes = _headline(together, compared)
    drawn = {_anchor(place): each for place, each in enumerate(conditions) if alike(each) in main}
    page = EvaluationPage(
        run=scores.run,
        headline=headline,
        notes=notes,
        conditions=conditions,
        series=series,
        panels={anchor: category_panels(each, series) for anchor, each in drawn.items()},
        not_drawn={anchor: not_drawn(each) for anchor, each in drawn.items()},
        compared=compared,
        faults=faults,
        shelves=[each for each in shelves_of(scores.entries) if each.benchmark in published_benchmarks()],
        models={each.checkpoint: each.model for each in scores.entries},
        command=command,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write(
        folder / PAGE,
        render("evaluation.html.j2", without_places(Path.cwd()), page=page, anchor=_anchor),
    )
    return folder / PAGE


def _anchor(place: int) -> str:
    return f"condition-{place}"


def _comparisons(rows: AnsweredRows, condition: Condition, examples: int) -> list[Compared]:
    names = condition.checkpoints
    pairs = combinations(names, 2) if len(names) <= _ALL_PAIRS else ((names[0], other) for other in names[1:])
    entries = {name: entry for name in names if (entry := condition.entry(name)) is not None}
    answers = {name: found for name, entry in entries.items() if (found := rows.answers(entry)) is not None}
    return [
        _compared(
            rows.lake,
            condition,
            benchmark_of(rows.lake, entries[one]),
            (one, other),
            (answers[one], answers[other]),
            examples,
        )
        for one, other in pairs
        if one in answers and other in answers and _ids(answers[one]) & _ids(answers[other])
    ]


def _ids(answers: Answers) -> set[tuple[str, str]]:
    return {(each.item.id, each.aspect) for each in answers.graded}


def _compared(
    lake: Lake,
    condition: Condition,
    benchmark: Benchmark,
    names: tuple[str, str],
    answers: tuple[Answers, Answers],
    examples: int,
) -> Compared:
    found = compare(names, benchmark, condition.protocol, answers[0].graded, answers[1].graded)
    return Compared(condition, found, examples_of(lake, found, answers, examples))


def _headline(conditions: Sequence[Condition], compared: Sequence[Compared]) -> tuple[str, list[str]]:
    """What the evaluation says in a sentence, and a sentence for each further comparison with the first checkpoint."""
    main = main_conditions(conditions)
    if not main:
        return "Nothing was scored.", []
    first = main[0].checkpoints[0]
    said = [
        _said(first, name, [each for each in compared if each.condition in main])
        for name in dict.fromkeys(name for each in main for name in each.checkpoints)
        if name != first
    ]
    if any(said):
        headline, *notes = [each for each in said if each]
        return headline, notes
    alone = main[0].entry(first)
    if alone is None or alone.value is None or not alone.n:
        return f"{first} has no score: no item of {main[0].name} counts.", []
    unit = main[0].units[alone.metric]
    more = f", and {len(main) - 1} further benchmarks" if len(main) > 1 else ""
    return f"{first}: {alone.metric} {unit.said(alone.value)} on {main[0].name} ({alone.n:,} items){more}.", []


def _said(first: str, second: str, compared: Sequence[Compared]) -> str:
    """How the second checkpoint does against the first, by the first metric of each benchmark."""
    found = [
        (each.condition.name, each.first_rows[0])
        for each in compared
        if (each.found.first, each.found.second) == (first, second) and each.found.differences
    ]
    if not found:
        return ""
    better = [name for name, each in found if each.sign > 0]
    worse = [name for name, each in found if each.sign < 0]
    unclear = [name for name, _ in found if name not in (*better, *worse)]
    told = (("better", better), ("worse", worse), ("no clear difference", unclear))
    parts = [f"{word} on {_listed(names)}" for word, names in told if names]
    return f"{second} against {first}: {'; '.join(parts)}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED else f"{len(names)} benchmarks"
