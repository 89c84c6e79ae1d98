"""How a command finds its lake and opens it: the place, the credentials, and the words for both."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.s3_block import s3_environment

if TYPE_CHECKING:
    from storage.lake import Lake

NEWEST = "Folder or s3://bucket/prefix; the newest of runs/ by default."
LakeArgument = Annotated[str | None, typer.Argument(help=NEWEST)]
NamedLake = Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix.")]
S3Block = Annotated[
    str | None,
    typer.Option(
        "--s3-block",
        metavar="NAME",
        help="Prefect Secret block with the credentials of an s3:// lake; otherwise from the environment.",
    ),
]


@contextmanager
def open_lake(root: str | None, s3_block: str | None) -> Iterator[Lake]:
    """The lake of a command, with the block's credentials in the environment inside.

    Args:
        root: where it is; None: that of the newest run.
        s3_block: the Prefect Secret block; None: the environment is left as it is.

    Raises:
        LakeError: there is none, or it cannot be used.
        BlockError: the block cannot be used.
    """
    from storage.errors import LakeError
    from storage.lake import Lake

    place = root or str(newest("lake") / "lake")
    # Opening makes the folder of a lake; a mistyped name must not become an empty lake.
    if "://" not in place and not Path(place).expanduser().is_dir():
        raise LakeError(f"There is no lake at {place}. Runs with one: {having('lake')}.")
    with s3_environment(s3_block):
        yield Lake(place)


def command(verb: str, root: str, s3_block: str | None, *options: str) -> str:
    """What to type to give another command about the same lake, opened with the same credentials."""
    block = [] if s3_block is None else ["--s3-block", s3_block]
    return shlex.join(["rlaif", verb, root, *options, *block])


def newest(name: str) -> Path:
    """The folder below runs/ whose `name` was changed last; runs/demo where none has one."""
    found = sorted(Path("runs").glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else Path("runs/demo")


def having(name: str) -> str:
    """The folders below runs/ that hold `name`, for a message."""
    found = sorted(str(path.parent) for path in Path("runs").glob(f"*/{name}"))
    return ", ".join(found) or "none yet (try `rlaif demo`)"
