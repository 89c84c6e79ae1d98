"""The command `rlaif plan`: what a run will cost, told before it begins, measured or computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from tasks.plan import SAMPLE, Line, Plan

if TYPE_CHECKING:
    from flows.parameters import Parameters
    from tasks.plan_costs import Assumptions

out = Console(highlight=False)
IN_A_PIPE = 140  # Columns where nobody's terminal says how many there are.
COUNTED = ("videos", "sft", "rl", "benchmark")


def plan(
    preset: Annotated[str, typer.Option(help="A preset's name, or the path of a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values on top of the preset's.")
    ] = None,
    sample: Annotated[int, typer.Option(min=4, help="Questions of each split that are run to measure.")] = SAMPLE,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price of an hour of the machines that the workers run on.")
    ] = None,
    measured: Annotated[
        bool | None,
        typer.Option(
            "--measured/--computed",
            help="Run a sample (fetches models that are not here), or compute from sizes alone; by default a sample "
            "is run where models and data are on this machine.",
        ),
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Computed alone: the card (h100, a100-80, l4, rtx-4090, ...), what cannot be known (utilisation, "
            "answer_tokens, ...), and videos, sft, rl, benchmark where the data is not here. May be repeated.",
        ),
    ] = None,
) -> None:
    """What a run will cost: videos, calls, tokens, money, memory and hours of every stage.

    Runs a small sample and measures it; where models or data are not here, computes from sizes and assumptions.
    """
    from flows import environment
    from flows.presets import load

    parameters = load(preset, overrides or [])
    environment.keep_terminal_clear()
    missing = list(not_here(parameters))
    if measured is False or (measured is None and missing):
        compute(parameters, assume or [], missing if measured is None else [], price_per_hour)
        return
    if assume:
        raise typer.BadParameter("a measured plan assumes nothing: add --computed", param_hint="--assume")
    _measure(parameters, sample, price_per_hour)


def _measure(parameters: Parameters, sample: int, price_per_hour: float | None) -> None:
    from flows.plan import make_plan
    from flows.plan_evaluation import with_judges
    from tasks.progress import TerminalProgress

    with TerminalProgress() as progress:
        made = with_judges(make_plan(parameters, progress, sample=sample, price_per_hour=price_per_hour), parameters)
    show(made)
    out.print(f"Plan: {made.write(parameters.run.results)}", soft_wrap=True)
    out.print("The run's report will show it beside what it came to.", soft_wrap=True)


def not_here(p: Parameters) -> Iterator[str]:
    """What a sample would need and is not on this machine."""
    from tasks.model_files import has_weights

    for name in dict.fromkeys(each for each in (p.models.policy, p.models.labeler, p.models.reward) if each):
        if not has_weights(name):
            yield f"the weights of {name}"
    if p.data.prepare is None:
        yield from (
            place for place in (p.data.videos, p.data.sft, p.data.rl, p.data.benchmark) if not Path(place).exists()
        )


def compute(p: Parameters, assume: Sequence[str], missing: Sequence[str], price_per_hour: float | None) -> None:
    """Prints a plan that is computed, and says so first."""
    from flows.plan_computed import compute_plan
    from flows.plan_evaluation import with_judges
    from tasks.plan_costs import as_count

    named = [each for each in assume if each.partition("=")[0] in COUNTED]
    counted = {each.partition("=")[0]: as_count(each) for each in named}
    assumed = default_assumptions(p).with_values([each for each in assume if each not in named])
    out.print("COMPUTED, not measured.", style="bold yellow")
    if missing:
        out.print(f"Not on this machine: {', '.join(missing)}.", markup=False, soft_wrap=True)
    made = with_judges(compute_plan(p, assumed, counted, price_per_hour), p)
    show(made)
    on_cards = sum(line.seconds or 0.0 for line in made.lines if line.on_gpu) / 3600
    if on_cards:
        out.print(f"About {on_cards:,.0f} GPU hours of {assumed.card}.", style="bold")
    out.print("A plan that is measured: `rlaif plan --measured` where models, data and cards are.", soft_wrap=True)


def default_assumptions(p: Parameters) -> Assumptions:
    """The card of this machine, where it is known; a core for workers without a GPU."""
    from tasks.plan_costs import Assumptions, card_here

    if not p.run.gpus_per_worker:
        return Assumptions(card="cpu")
    return Assumptions(card=card_here() or Assumptions.card)


def show(made: Plan) -> None:
    """Prints the plan."""
    from tasks.pages import duration

    if not out.is_terminal:
        out.width = max(out.width, IN_A_PIPE)
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
    # Where it is narrow, names and pairs of words give way, and no figure is cut off.
    table.add_column("stage", overflow="fold", min_width=8)
    for heading in ("to do", "calls", "tokens in", "out", *(["money"] if paid else []), "GiB", "worker time"):
        table.add_column(heading, justify="right", overflow="fold", no_wrap=heading not in ("to do", "worker time"))
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
