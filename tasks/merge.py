"""A trained adapter as a plain checkpoint: base and all adapters in one set of weights, which needs no PEFT."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.model_ref import ModelRef
    from tasks.trained import TrainedAdapter

HEAD_FILES = ("reward_head.safetensors", "reward_form.json")


class FolderInUseError(ValueError):
    """A folder that is to be written holds something already."""


def merge(lake: Lake, adapter: TrainedAdapter, base: ModelRef, to: Path, *, dtype: str | None = None) -> ModelRef:
    """Write config, safetensors and processor into `to`, which appears whole or not at all.

    The adapters are summed in float32 and the weights rounded once (models.merging), as where a run merges them. Where
    the training kept the base in four bits they are merged into the whole weights: what was trained and scored had
    those below it merged likewise and then rounded, and its own on top. So log-probabilities differ by rounding alone.

    A reward model's head goes along as it is: it is a layer that no class of transformers has. So does the base's
    generation_config.json.

    Args:
        lake: of the adapter.
        adapter: which.
        base: the model that it was trained on (`tasks.trained.base_of`).
        to: folder, new or empty.
        dtype: of the weights that are merged and written; None: that of the training.

    Returns:
        What was merged and written.

    Raises:
        FolderInUseError: the folder holds something.
        ValueError: base or adapter do not load.
    """
    whole = replace(base, merged=adapter.adapters, adapter=None, dtype=dtype or base.dtype, quantization="none")
    with new_folder(to) as folder:
        lm = whole.load(lake)
        lm.core.save_pretrained(folder)
        lm.processor.save_pretrained(folder)
        _restore_generation_config(whole, folder)
        copy_head(lake.blobs.folder(adapter.blob), folder)
    return whole


def _restore_generation_config(base: ModelRef, folder: Path) -> None:
    """The base's own file as it is: what is loaded here has none of its taste in sampling (models.loading)."""
    from transformers.utils import cached_file

    name = "generation_config.json"
    file = cached_file(base.name, name, revision=base.revision, _raise_exceptions_for_missing_entries=False)
    if file is not None:
        shutil.copyfile(file, folder / name)


@contextmanager
def new_folder(to: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `to` when all went well.

    Raises:
        FolderInUseError: `to` holds something.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise FolderInUseError(f"{to} holds something already: name a new or an empty folder.")
    place = to.absolute()
    folder = place.with_name(f".{place.name}.part")
    shutil.rmtree(folder, ignore_errors=True)  # Of a command that was killed.
    folder.mkdir(parents=True)
    try:
        yield folder
        os.replace(folder, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_head(adapter: Path, folder: Path) -> list[str]:
    """The files of a reward model's scalar head, where it has one; their names."""
    names = [name for name in HEAD_FILES if (adapter / name).is_file()]
    for name in names:
        shutil.copyfile(adapter / name, folder / name)
    return names
