"""`rlaif export`: labels for other libraries."""

from pathlib import Path
from typing import Annotated

import typer

from flows.lake_option import NamedLake, S3Block, open_lake
from tasks.export_config import ExportConfig, FormatName, Ties


def export(
    lake: NamedLake,
    form: Annotated[FormatName, typer.Option("--format", help="Whose format.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write, new or empty.")],
    arm: Annotated[str | None, typer.Option("--arm", help="Whose labels; the only arm's by default.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Which labels; those used last by default.")] = None,
    ties: Annotated[
        Ties, typer.Option("--ties", help="Both ways: a tie is two pairs, in which each answer is chosen once.")
    ] = "leave-out",
    frame_set: Annotated[str, typer.Option("--frame-set", help="Which of the kept frames to write.")] = "policy",
    videos: Annotated[
        Path | None, typer.Option("--videos", help="Name the videos' files in this folder, write no frames.")
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="Put before every path of a frame or video.")] = "",
    s3_block: S3Block = None,
) -> None:
    """Writes labels for TRL, LLaMA-Factory, ms-swift, verl, VLM-RLAIF or LLaVA-Hound, with a data card."""
    from flows import cli
    from tasks import export as stage
    from tasks.progress import TerminalProgress

    config = ExportConfig(form, to, arm, key, ties, frame_set, videos, prefix)
    with open_lake(lake, s3_block) as opened, TerminalProgress() as progress:
        done = stage.export(opened, config, progress)
    cli.out.print(
        f"{done.pairs} pairs from {done.labelled} of {done.rows} rows of {done.labels}, {len(done.videos)} videos.",
        markup=False,
        soft_wrap=True,
    )
    for why, count in done.left_out.most_common():
        cli.out.print(f"left out: {count} x {why}", markup=False, soft_wrap=True)
    cli.out.print(f"Data card (fill in the licence): {done.folder / 'README.md'}", markup=False, soft_wrap=True)
