"""The command `rlaif evaluate`: checkpoints on benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flows import environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.evaluation_parameters import Evaluation
    from tasks.evaluation.entries import Entry

out = Console(highlight=False)


def evaluate(
    preset: Annotated[
        str, typer.Option(help="The name of one in deployments/evaluations, or the path of a YAML file.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values on top of the preset's.")
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Only say how many calls judges will be asked and what they cost: expected, and at most."
        ),
    ] = False,
) -> None:
    """Scores checkpoints on benchmarks; an evaluation that was stopped goes on where it was."""
    from flows.evaluation_parameters import Evaluation as Sections
    from flows.presets import load_evaluation
    from tasks.evaluation.entries import SCORES, read_scores
    from tasks.evaluation.page import PAGE

    parameters = load_evaluation(preset, overrides or [])
    if plan:
        show_plan(parameters)
        return
    with out.status("starting"):
        from flows.evaluate import evaluate as flow
    environment.before_flows()
    flow(**{name: getattr(parameters, name) for name in Sections.model_fields})
    scores = parameters.run.results / SCORES
    show(read_scores(scores).entries)
    out.print(f"Scores: {scores}", soft_wrap=True)
    out.print(f"Page:   {scores.with_name(PAGE)}", soft_wrap=True)


def show_plan(parameters: Evaluation) -> None:
    """Prints what judges will be asked, and at what price."""
    from tasks.evaluation.price import judge_prices

    table = Table(box=box.SIMPLE)
    for heading in ("judge", "benchmarks", "calls", "tokens in", "tokens out", "money"):
        table.add_column(heading, justify="left" if heading in ("judge", "benchmarks") else "right")
    checkpoints = parameters.models.checkpoints
    prices = judge_prices(
        parameters.benchmarks,
        parameters.grading,
        sum(not each.only_compares for each in checkpoints),
        parameters.run.lake_root,
        comparing=[each.endpoint for each in checkpoints if each.endpoint is not None],
        frames=parameters.frames,
    )
    for each in prices:
        counts = [f"{count:,}" for count in (each.calls, each.input_tokens, each.output_tokens)]
        table.add_row(each.judge, ", ".join(each.benchmarks), *counts, f"{each.cost:.2f}")
        table.add_row("at most", "", f"{each.most_calls:,}", "", "", f"{each.most_cost:.2f}")
    out.print(table if prices else "No judge will be asked: rules decide all.")
    for note in dict.fromkeys(each.note for each in prices):
        out.print(note, markup=False, soft_wrap=True)


def show(entries: Sequence[Entry]) -> None:
    """Prints the numbers over all items, in a table for each way in which they were measured."""
    from tasks.evaluation.conditions import OVERALL, conditions_of

    for condition in conditions_of(entries):
        table = Table(box=box.SIMPLE, title=f"{condition.name}, {condition.judged_by}", title_justify="left")
        table.add_column("checkpoint", overflow="fold")
        table.add_column("metric", overflow="fold")
        for heading in ("value", "95 %", "n", "left out"):
            table.add_column(heading, justify="right", no_wrap=True)
        for entry in condition.entries:
            if entry.group == OVERALL:
                interval = "" if entry.low is None else f"{entry.low:.3f} to {entry.high:.3f}"
                value = "" if entry.value is None else f"{entry.value:.3f}"
                counts = (f"{entry.n:,}", f"{entry.left_out:,}" if entry.left_out else "")
                table.add_row(entry.checkpoint, entry.metric, value, interval, *counts)
        out.print(table)
