"""`rlaif merge` and `rlaif push`: what a training ended with, out of the lake."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.lake_option import NEWEST, S3Block, open_lake
from tasks.trained import Role

LakeOption = Annotated[str | None, typer.Option("--lake", help=NEWEST)]
ArmOption = Annotated[str | None, typer.Option("--arm", help="Whose adapter; the only arm's by default.")]
RoleOption = Annotated[Role, typer.Option("--role", help="The policy's, the reward model's, or that of SFT.")]
AdapterOption = Annotated[
    str | None,
    typer.Option("--adapter", metavar="BLOB", help="An adapter's blob, or its first characters, in place of --arm."),
]
BaseOption = Annotated[
    str | None,
    typer.Option(help="The model that it was trained on: a folder, a Hub id, or owner/name@commit; a Hub id is known."),
]
AnyBase = Annotated[bool, typer.Option("--any-base", help="Take the base even where it is another than in training.")]


def merge(
    to: Annotated[Path, typer.Option("--out", help="Folder to write, new or empty.")],
    lake: LakeOption = None,
    arm: ArmOption = None,
    role: RoleOption = "policy",
    adapter: AdapterOption = None,
    base: BaseOption = None,
    any_base: AnyBase = False,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the merged weights; that of the training by default."),
    ] = None,
    s3_block: S3Block = None,
) -> None:
    """Writes an arm's model as a plain checkpoint: base and adapters merged, loadable by transformers alone."""
    from flows import cli
    from tasks import merge as merging
    from tasks.trained import base_of, chosen_adapter

    with open_lake(lake, s3_block) as opened:
        chosen = chosen_adapter(opened, arm, role, adapter)
        with cli.out.status(f"merging {chosen.role} {chosen.name}"):
            whole = merging.merge(opened, chosen, base_of(chosen, base, any_base=any_base), to, dtype=dtype)
    merged = f"{len(chosen.adapters)} adapter{'s' if len(chosen.adapters) > 1 else ''}"
    cli.out.print(f"{chosen}: {merged} merged into {whole.label}, {whole.dtype}.", markup=False, soft_wrap=True)
    cli.out.print(f"Checkpoint: {to}  (AutoModelForImageTextToText.from_pretrained)", markup=False, soft_wrap=True)


def push(
    repo: Annotated[str, typer.Option(help="The repository: owner/name.")],
    lake: LakeOption = None,
    arm: ArmOption = None,
    role: RoleOption = "policy",
    adapter: AdapterOption = None,
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    dry_run: Annotated[
        Path | None,
        typer.Option("--dry-run", metavar="FOLDER", help="Write there what would be sent; send nothing."),
    ] = None,
    s3_block: S3Block = None,
) -> None:
    """Sends an arm's adapter with its model card and data card to the Hub. The token is HF_TOKEN's, or the login's."""
    from flows import cli
    from tasks.push import upload, write_folder
    from tasks.trained import chosen_adapter

    with open_lake(lake, s3_block) as opened, tempfile.TemporaryDirectory(prefix="rlaif-push-") as place:
        chosen = chosen_adapter(opened, arm, role, adapter)
        folder = dry_run or Path(place) / "adapter"
        files = write_folder(opened, chosen, repo, folder)
        cli.out.print(f"{chosen}: {', '.join(files)}", markup=False, soft_wrap=True)
        if dry_run is not None:
            cli.out.print(f"Nothing was sent; it lies in {folder}. Fill in the licence.", markup=False, soft_wrap=True)
            return
        message = f"{chosen.role} {chosen.name}, trained by run {chosen.run}"
        with cli.out.status(f"sending to {repo}"):
            address = upload(folder, repo, private=private, message=message)
    cli.out.print(f"Sent: {address}. Fill in the licence on its page.", markup=False, soft_wrap=True)
