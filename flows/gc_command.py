"""The command `rlaif gc`: what a lake no longer needs."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from flows.lake_option import NamedLake, S3Block, open_lake

if TYPE_CHECKING:
    from rich.console import Console

    from storage.gc import Chore

HOUR_S = 3600.0


def gc(
    lake: NamedLake,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this, it is only said.")] = False,
    older_than: Annotated[
        float,
        typer.Option(min=2.0, metavar="HOURS", help="Leave what is younger: a run at work writes files before rows."),
    ] = 24.0,
    forget_versions_before: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            help="Moment (UTC): give up the table versions before the ones of then. Otherwise every version stays.",
        ),
    ] = None,
    s3_block: S3Block = None,
) -> None:
    """Compacts small files and removes what no row, no version and no training needs; says so only, unless --apply."""
    from datetime import UTC

    from rich.console import Console

    from storage.gc import do, plan

    out = Console(highlight=False)
    before = forget_versions_before and forget_versions_before.replace(tzinfo=UTC)
    with open_lake(lake, s3_block) as opened:
        chores = plan(opened, min_age_s=older_than * HOUR_S, forget_before=before)
        _show(out, chores)
        if not apply:
            out.print("Nothing was changed; --apply does it." if chores else "Nothing to do.")
            return
        gone = size = 0
        for chore in chores:
            done = do(opened, chore, min_age_s=older_than * HOUR_S)
            if chore.kind != "small files":
                gone, size = gone + len(done), size + sum(file.bytes for file in done)
        out.print(f"Removed {gone} files, {size:,} bytes.")


def _show(out: "Console", chores: Sequence["Chore"]) -> None:
    from rich import box
    from rich.table import Table

    from storage.gc import MEANING

    table = Table(box=box.SIMPLE)
    for heading in ("what", "where", "files", "bytes"):
        table.add_column(heading, justify="right" if heading in ("files", "bytes") else "left")
    for chore in chores:
        where = " ".join(part for part in (chore.table or "blobs", chore.stage_key) if part)
        table.add_row(chore.kind, where, f"{len(chore.files):,}", f"{chore.bytes:,}")
    out.print(table)
    for kind in dict.fromkeys(chore.kind for chore in chores):
        out.print(f"{kind}: {MEANING[kind]}")
