"""The command `rlaif plan`: what a run will cost, told before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from tasks.plan import SAMPLE, Line, Plan

out = Console(highlight=False)


def plan(
    preset: Annotated[str, typer.Option(help="A preset's name, or the path of a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values on top of the preset's.")
    ] = None,
    sample: Annotated[int, typer.Option(min=4, help="Questions of each split that are run to measure.")] = SAMPLE,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price of an hour of the machines that the workers run on.")
    ] = None,
) -> None:
    """What a run will cost: videos, calls, tokens, money, memory and hours of every stage. Runs a small sample."""
    from flows import environment
    from flows.plan import make_plan
    from flows.presets import load
    from tasks.progress import TerminalProgress

    parameters = load(preset, overrides or [])
    environment.keep_terminal_clear()
    with TerminalProgress() as progress:
        made = make_plan(parameters, progress, sample=sample, price_per_hour=price_per_hour)
    show(made)
    out.print(f"Plan: {made.write(parameters.run.results)}", soft_wrap=True)
    out.print("The run's report will show it beside what it came to.", soft_wrap=True)


def show(made: Plan) -> None:
    """Prints the plan."""
    from tasks.pages import duration

    out.print(", ".join(f"{count:,} {name}" for name, count in made.counts.items()))
    out.print(_table(made.lines))
    for name in made.unknown:
        out.print(f"Not in the sum: {name}", style="yellow", markup=False, soft_wrap=True)
    for note in [*_remarks(made.lines), *made.notes]:
        out.print(note, markup=False, soft_wrap=True)
    out.print(
        f"About {duration(made.wall_seconds)} with {made.workers} workers; memory up to "
        f"{max((line.memory_mib or 0 for line in made.lines), default=0) / 1024:.1f} GiB a worker.",
        style="bold",
    )
    paid = any(line.cost for line in made.lines) or made.price_per_hour
    if paid:
        bound = made.cost_bound
        most = "" if bound is None else f"; endpoints no more than {bound:.2f}, which their budgets leave"
        out.print(f"Money: about {made.cost:.2f}{most}.", style="bold")


def _table(lines: Sequence[Line]) -> Table:
    from tasks.pages import duration, thousands

    paid = any(line.cost for line in lines)
    table = Table(box=box.SIMPLE)
    table.add_column("stage", no_wrap=True)
    for heading in ("to do", "calls", "tokens in", "out", *(["money"] if paid else []), "GiB", "worker time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(
            line.name,
            f"{line.to_do:,}" if line.to_do in (0, line.items) else f"{line.to_do:,} of {line.items:,}",
            *(thousands(each) for each in (line.calls, line.input_tokens, line.output_tokens)),
            *([f"{line.cost:.2f}" if line.cost else ""] if paid else []),
            "" if not line.memory_mib else f"{line.memory_mib / 1024:.2f}",
            "?" if line.seconds is None else duration(line.seconds),
        )
    return table


def _remarks(lines: Sequence[Line]) -> list[str]:
    """The lines' notes, each once with the stages that it is about."""
    about: dict[str, list[str]] = {}
    for line in lines:
        if line.note:
            about.setdefault(line.note, []).append(line.name)
    return [f"{note} ({', '.join(names)})" for note, names in about.items()]
