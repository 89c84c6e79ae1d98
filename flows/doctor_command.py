"""`rlaif doctor`: what stands between this machine and a run, before work starts."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from tasks.doctor import Check, Needs, Report, examine

if TYPE_CHECKING:
    from flows.parameters import Parameters
    from tasks.doctor import Facts

out = Console(highlight=False)
_STYLES = {"ok": "green", "warning": "yellow", "failed": "red"}


def doctor(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values on top of the preset's.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A preset's name, or a YAML file: whether this machine can run it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Checks this machine, and a preset on it: libraries, GPUs, memory, models, lake, disk, Ray, Prefect, data.

    Ends with 1 where a run would fail.
    """
    report = look(preset, overrides or [])
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in report.checks], indent=2))
    else:
        _show(report.checks)
    raise typer.Exit(0 if report.healthy else 1)


def look(preset: str | None, overrides: list[str]) -> Report:
    """Gathers the facts and checks them."""
    from flows.presets import PresetError, load
    from tasks.machine_facts import gather

    if preset is None:
        if overrides:
            raise PresetError("Values on top need the preset that they are on top of: add --preset.")
        return examine(gather(workers=1, gpus=0))
    p = load(preset, overrides)
    facts = gather(p.run.workers, p.run.workers * p.run.gpus_per_worker)
    return examine(_with_places(facts, p), needs_of(p))


def needs_of(p: Parameters) -> Needs:
    """What the preset asks of a machine; memory and disk as `rlaif plan --computed` has them."""
    from flows.plan_command import default_assumptions
    from flows.plan_computed import gpu_memory, lake_gib

    run = p.run
    needs = Needs(
        device=p.models.device,
        dtype=p.models.dtype,
        workers=run.workers,
        gpus_per_worker=run.gpus_per_worker,
        four_bit=p.models.quantization == "nf4",
        vllm=any(engine == "vllm" for _, engine in p.engines()),
    )
    try:
        assumed = default_assumptions(p)
        busiest, gib = gpu_memory(p, assumed)
        return replace(needs, worker_gib=gib, busiest=busiest, disk_gib=lake_gib(p, assumed))
    except ValueError as error:  # A model whose size nobody knows, or questions that cannot be read.
        return replace(needs, unknown=str(error))


def _with_places(facts: Facts, p: Parameters) -> Facts:
    from flows.s3_block import s3_environment
    from tasks.machine_facts import lake_facts, models_of

    data, models = p.data, p.models
    with s3_environment(p.run.s3_block):
        fault, free = lake_facts(p.run.lake_root)
    places = [] if data.prepare is not None else [data.videos, data.sft, data.rl, data.benchmark]
    return replace(
        facts,
        lake=p.run.lake_root,
        lake_fault=fault,
        disk_gib=free,
        models=tuple(models_of([each for each in (models.policy, models.labeler, models.reward) if each])),
        missing_data=tuple(place for place in places if not Path(place).exists()),
    )


def _show(checks: list[Check]) -> None:
    table = Table(box=box.SIMPLE, show_header=False)
    for column in ("check", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("said")
    for check in checks:
        told = check.said if not check.advice else f"{check.said}\n-> {check.advice}"
        table.add_row(check.name, f"[{_STYLES[check.state]}]{check.state}[/]", told.replace("[", "\\["))
    out.print(table)
