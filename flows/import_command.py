"""`rlaif import`: labels from a file."""

from pathlib import Path
from typing import Annotated

import typer

from flows.lake_option import S3Block
from tasks.export_config import ImportFormat


def import_file(
    lake: Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix; made where there is none.")],
    file: Annotated[Path, typer.Argument(help="File with preferences.")],
    form: Annotated[ImportFormat, typer.Option("--format", help="vlm-rlaif: its file for the reward model.")],
    arm: Annotated[str, typer.Option("--arm", help="Name of these labels.")],
    max_quarantined: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of the questions that may be quarantined.")
    ] = 0.05,
    s3_block: S3Block = None,
) -> None:
    """Brings preferences of VLM-RLAIF or LLaVA-Hound into a lake, as labels of their own."""
    from flows import cli
    from flows.s3_block import s3_environment
    from storage.lake import Lake, event
    from tasks.fanout import WorkerPool
    from tasks.import_labels import ImportConfig, import_labels
    from tasks.label_versions import latest_frames
    from tasks.progress import TerminalProgress
    from tasks.stage import RunContext
    from tasks.troubles import troubles_of

    config = ImportConfig(file=str(file), format=form, arm=arm)
    with (
        s3_environment(s3_block) as of_block,
        WorkerPool(1, environment=of_block) as pool,
        TerminalProgress() as progress,
    ):
        ctx = RunContext(Lake(lake).root, f"import-{arm}", pool, progress, max_quarantined, seed=0)
        frames = latest_frames(ctx.lake)
        ctx.lake.log([event(ctx.run, "run_started")])
        done = import_labels(ctx, config, frames)
        ctx.lake.log([event(ctx.run, "run_finished", seconds=done.seconds)])
        troubles = troubles_of(ctx.lake, done.table, done.key)
    bound = f"bound to the videos of frames {frames.key}" if frames else "videos by the file's names: no frames here"
    cli.out.print(
        f"{done.ok} of {done.items} questions imported, {done.quarantined} quarantined; {bound}. Labels {done.key}.",
        markup=False,
        soft_wrap=True,
    )
    for trouble in troubles:
        cli.out.print(f"quarantined {trouble}", markup=False, soft_wrap=True)
