"""Writes the data of a preset that makes its own, once."""

import fcntl
import hashlib
import importlib
import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.progress import Progress

MANIFEST = "prepared.json"


class PrepareConfig(BaseModel):
    """What writes the data folder when it is not there."""

    model_config = ConfigDict(extra="forbid")

    call: str = Field(
        pattern=r"^[\w.]+:[\w.]+$", description='"module:function"; called with the folder and the arguments.'
    )
    folder: str = Field(description="Folder to write; appears whole or not at all.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the function.")


class PrepareError(RuntimeError):
    """The data cannot be prepared; the message says why."""


def prepare(config: PrepareConfig, progress: Progress) -> bool:
    """Makes the data folder unless it stands there, written by the same call; returns whether it did.

    A folder that the same function wrote with other arguments, or before its code changed, is replaced. Safe to kill
    and to run twice at once. A function with a parameter `progress` is given the run's, to show how far it is.

    Raises:
        PrepareError: the function does not exist, or the folder holds something that was not prepared here.
    """
    folder = Path(config.folder).absolute()
    wanted = config.model_dump(include={"call", "arguments"}) | {"code": _code(config.call)}
    with _alone(folder):
        found = _manifest(folder)
        if found == wanted:
            return False
        if folder.exists() and (found is None or found.get("call") != config.call):
            raise PrepareError(
                f"{folder} was not written by {config.call}, so it is not overwritten. Move it away, or set "
                "data.prepare to null to use it as it is."
            )
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _call(config, partial, progress)
        (partial / MANIFEST).write_text(json.dumps(wanted, indent=2, sort_keys=True))
        _swap(partial, folder)
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a lock beside the folder; the system releases it when this process dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _call(config: PrepareConfig, folder: Path, progress: Progress) -> None:
    function = _function(config.call)
    wants_progress = "progress" in inspect.signature(function).parameters
    function(folder, **config.arguments, **({"progress": progress} if wants_progress else {}))


def _code(call: str) -> str:
    """A hash of the package that holds the function: what it wrote before a change of its code is written anew."""
    module = inspect.getmodule(_function(call))
    if module is None or module.__file__ is None:
        return ""
    files = sorted(Path(module.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _swap(fresh: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _function(call: str) -> Callable[..., None]:
    module, _, name = call.partition(":")
    try:
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PrepareError(f"data.prepare.call: {call!r} cannot be imported: {error}") from error
    return function
