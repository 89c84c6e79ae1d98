"""`rlaif convert`: checkpoints of the original LLaVA code, such as VLM-RLAIF's, for this project."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a LoRA adapter's, as it was downloaded.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write; it must not be there.")],
    vision_tower: Annotated[
        str | None, typer.Option("--vision-tower", help="Folder or Hub id of the tower; what config.json names.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option("--base", help="For an adapter: the converted checkpoint that it stands on.")
    ] = None,
) -> None:
    """Writes a checkpoint or adapter of the original LLaVA layout as transformers and PEFT read it."""
    from flows import cli
    from models import llava_original as original

    if to.exists():
        raise ValueError(f"{to} is there already; give a folder that is not.")
    adapter = original.adapter_folder(source)
    if adapter is None:
        original.convert_checkpoint(source, vision_tower, to)
    elif base is None:
        raise ValueError(f"{adapter} holds an adapter: convert its base first, then give --base FOLDER.")
    else:
        original.convert_adapter(adapter, base, to)
    cli.out.print(str(to.absolute()), soft_wrap=True)
