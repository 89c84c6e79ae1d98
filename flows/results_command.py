"""The command `rlaif results`: what was measured here beside what others published, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def results(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of runs with scores.json; all of runs/ by default.")
    ] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", help="Only this one, by its name; may be repeated.")
    ] = None,
    to: Annotated[Path, typer.Option(help="The page.")] = Path("runs/results.html"),
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Our scores beside published ones, on one page: published, re-run by others, measured here.

    Without scores of ours the page shows what others published.
    """
    from benchmarks.registry import KNOWN
    from flows import cli
    from tasks.evaluation.entries import SCORES, read_scores
    from tasks.evaluation.results_page import results_page

    unknown = [each for each in benchmark or [] if each not in KNOWN]
    if unknown:
        raise ValueError(f"There is no benchmark {unknown[0]!r}; known: {', '.join(KNOWN)}.")
    given = folders or [file.parent for file in sorted(Path("runs").glob(f"*/{SCORES}"))]
    runs = {each: read_scores(each / SCORES) for each in dict.fromkeys(each.absolute() for each in given)}
    page = results_page(runs, to.absolute(), benchmark or [])
    cli.out.print(str(page), soft_wrap=True)
    if browser:
        typer.launch(page.as_uri())
