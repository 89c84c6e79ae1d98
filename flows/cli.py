"""The command `rlaif`. Heavy libraries are imported by the commands that need them."""

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from flows import environment
from flows.adapter_commands import merge, push
from flows.convert_command import convert
from flows.doctor_command import doctor
from flows.evaluate_command import evaluate
from flows.export_command import export
from flows.gc_command import gc
from flows.import_command import import_file
from flows.judge_command import judge
from flows.lake_option import NEWEST, LakeArgument, S3Block, command, having, newest, open_lake
from flows.plan_command import plan
from flows.results_command import results
from flows.score_command import compare, score

if TYPE_CHECKING:
    from flows.parameters import Parameters
    from flows.views import Origin
    from storage.lake import Lake

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Videos in, a better video model out.",
)
out = Console(highlight=False)
app.command()(convert)
app.command()(gc)
app.command()(plan)
app.command()(doctor)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values on top of the preset's.")
]
LakeOption = Annotated[str | None, typer.Option("--lake", help=NEWEST)]


@app.command()
def demo(overrides: Overrides = None) -> None:
    """The miniature: the whole path on two CPU cores, in minutes. Results in runs/demo."""
    _run("miniature", ["run.name=demo", *(overrides or [])])


@app.command()
def run(
    preset: Annotated[str, typer.Option(help="A preset's name, or the path of a YAML file.")],
    overrides: Overrides = None,
) -> None:
    """Runs a preset; a run that was stopped goes on where it was."""
    _run(preset, overrides or [])


@app.command()
def status(lake: LakeArgument = None, s3_block: S3Block = None) -> None:
    """What a lake holds, what each run did, and what was quarantined and why."""
    with open_lake(lake, s3_block) as opened:
        _show_status(opened)


def _show_status(opened: "Lake") -> None:
    from flows import views

    out.print(f"Lake {opened.root}")
    out.print(_table(views.sizes(opened), {"name": "table", "rows": "rows"}))
    runs = views.runs(opened)
    columns = {
        "run": "run",
        "state": "state",
        "began": "began (UTC)",
        "seconds": "s",
        "stages": "stages",
        "cached": "cached",
    }
    out.print(_table(runs, columns))
    for each in runs:
        if each["failure"]:
            out.print(f"{each['run']} failed: {json.loads(each['failure'])['message']}", markup=False, soft_wrap=True)
    if runs:
        _show_stages(opened, runs[0]["run"])


@app.command()
def report(
    folder: Annotated[Path | None, typer.Argument(help="A run's folder; the newest of runs/ by default.")] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Where a run's report is, and its scores."""
    found = folder or newest("report.html")
    page = (found / "report.html").absolute()
    if not page.is_file():
        _stop(f"{found} holds no report.html, so its run has not ended. Runs with one: {having('report.html')}.")
    summary = json.loads((found / "summary.json").read_text())
    rows = [{"model": name, **scores} for name, scores in summary.get("scores", {}).items()]
    columns = ("model", "greedy_exact", "greedy_slot", "sampled_exact", "n")
    out.print(_table(rows, {column: column for column in columns}))
    out.print(str(page), soft_wrap=True)
    if browser:
        typer.launch(page.as_uri())


@app.command()
def lineage(
    adapter: Annotated[str, typer.Argument(help="An adapter's blob, or the first characters of it.")],
    lake: LakeOption = None,
    s3_block: S3Block = None,
) -> None:
    """Where an adapter comes from: every stage back to the frames and videos."""
    from flows import views

    with open_lake(lake, s3_block) as opened:
        origin = views.lineage(opened, adapter)
        tree = Tree(_describe(opened, origin))
        _grow(opened, tree, origin, {origin.key})
    out.print(tree)


app.command()(merge)
app.command()(push)
app.command()(export)
app.command("import")(import_file)
app.command()(judge)
app.command()(score)
app.command()(compare)
app.command()(results)


@app.command()
def relabel(
    preset: Annotated[str, typer.Option(help="A preset's name, or the path of a YAML file.")],
    overrides: Overrides = None,
) -> None:
    """Labels what is new or changed, and says which labels moved."""
    from flows.relabel_command import run_relabel

    moved, page = run_relabel(preset, overrides or [])
    for arm, counts in moved.items():
        out.print(f"{arm}: {', '.join(f'{pairs} {label}' for label, pairs in counts.items())}", soft_wrap=True)
    out.print(f"Moved labels: {page}", soft_wrap=True)


app.command()(evaluate)


@app.command()
def study(
    overrides: Overrides = None,
    preset: Annotated[str | None, typer.Option(help="A preset's name, or the path of a YAML file.")] = None,
    arms: Annotated[
        str | None,
        typer.Option(help="A study's name, or the path of a YAML file with arms; its preset may stand in it."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from run.seed on.")] = 5,
    parallel: Annotated[
        int, typer.Option(min=0, help="With --arms: runs at a time; 0 runs nothing and compares what is there.")
    ] = 2,
) -> None:
    """Runs arms once a seed and compares them: means, deviations, paired differences, p values.

    The arms are those of a study file, each a run of its own, or those of one preset.
    """
    from flows.study_command import study_arms, study_preset

    if arms is None and preset is None:
        _stop("Give --arms (a study file) or --preset (whose arms are compared).")
    found = (
        study_arms(arms, preset, overrides or [], seeds, parallel, lambda line: out.print(line, soft_wrap=True))
        if arms is not None
        else study_preset(str(preset), overrides or [], seeds)
    )
    out.print(found.table, markup=False, soft_wrap=True)
    out.print(f"Study: {found.page}", soft_wrap=True)
    if found.failures:
        _stop("\n".join(found.failures))


@app.command()
def audit(
    lake: LakeArgument = None,
    arm: Annotated[list[str] | None, typer.Option("--arm", help="Only this arm's labels; may be repeated.")] = None,
    versions: Annotated[int, typer.Option(min=1, help="Versions of each arm's labels, the latest first.")] = 1,
    to: Annotated[Path | None, typer.Option(help="The page; audit.html beside the lake by default.")] = None,
    preset: Annotated[str | None, typer.Option(help="Whose section `audit` says what is measured.")] = None,
    s3_block: S3Block = None,
) -> None:
    """What is wrong with the labels: bias, consistency, agreement, calibration, on one page."""
    from flows.audit_command import run_audit

    with open_lake(lake, s3_block) as opened:
        page = run_audit(opened, arm or [], versions, to, preset, s3_block)
    out.print(str(page), soft_wrap=True)


def main() -> None:
    """The entry point: errors that a person can mend are shown without a traceback."""
    environment.apply()
    try:
        app()
    except Exception as error:
        if not _expected(error):
            raise
        _stop(str(error))


def _run(preset: str, overrides: list[str]) -> None:
    from flows.presets import load

    parameters = load(preset, overrides)
    with out.status("starting"):
        from flows.rlaif import rlaif
    environment.before_flows()
    rlaif(**_sections(parameters))
    _say_where(parameters)


def _sections(parameters: "Parameters") -> dict[str, Any]:
    return {name: getattr(parameters, name) for name in type(parameters).model_fields}


def _say_where(parameters: "Parameters") -> None:
    out.print(f"Report: {parameters.run.results / 'report.html'}", soft_wrap=True)
    root = parameters.run.lake_root
    out.print(f"Lake:   {root}  ({command('status', root, parameters.run.s3_block)})", soft_wrap=True)


def _expected(error: Exception) -> bool:
    """Whether the error's text says all: it was raised by this project for a person, not by a bug."""
    if any(kind.__module__.split(".")[0] in environment.ROOMS for kind in type(error).__mro__):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ValueError) and frame.f_globals["__name__"].split(".")[0] in environment.ROOMS


def _stop(message: str) -> None:
    Console(stderr=True, highlight=False).print(message, style="red", markup=False, soft_wrap=True)
    sys.exit(1)


def _show_stages(lake: "Lake", run: str) -> None:
    from flows import views
    from tasks.troubles import troubles_of

    rows = [{**row, "name": row["label"] or row["stage"]} for row in views.stages(lake, run)]
    columns = {name: name for name in ("name", "items", "ok", "quarantined", "seconds", "cached")}
    out.print(_table(rows, columns, title=f"Latest run: {run}"))
    for row in rows:
        for trouble in troubles_of(lake, row["table"], row["stage_key"]) if row["quarantined"] else ():
            out.print(f"{row['name']}: quarantined {trouble}", markup=False, soft_wrap=True)


def _table(rows: list[dict[str, Any]], columns: dict[str, str], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for name, heading in columns.items():
        table.add_column(heading, justify="right" if rows and isinstance(rows[0].get(name), int | float) else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"
    return f"{value:%Y-%m-%d %H:%M:%S}" if hasattr(value, "strftime") else str(value)


def _describe(lake: "Lake", origin: "Origin") -> str:
    from flows import views

    text = f"{origin.stage} {origin.key}: {origin.ok} ok, {origin.quarantined} quarantined (run {origin.run})"
    return text + (f", {views.frame_count(lake, origin.key)} frames" if origin.table == "frames" else "")


def _grow(lake: "Lake", tree: Tree, origin: "Origin", shown: set[str]) -> None:
    for source in origin.inputs:
        if source.key in shown:
            tree.add(f"{source.stage} {source.key}: as above")
            continue
        shown.add(source.key)
        _grow(lake, tree.add(_describe(lake, source)), source, shown)


if __name__ == "__main__":
    main()
