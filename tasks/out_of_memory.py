"""What to change where a model ran out of memory: the settings of the stage that decide how much it takes at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from tasks.fanout import OutOfMemory, StageFailure
from tasks.model_ref import ModelRef

# Most effective first. `batch_size` of a training counts for an optimiser step, not for a pass.
_SIZES = ("forward_tokens", "forward_batch", "batch_size", "batch_frames", "max_new_tokens")
_ELSEWHERE = {"dpo": "self_dpo"}  # Sections that are not called as their config is.


@contextmanager
def naming_what_to_change(stage: str, label: str | None, settings: Any) -> Iterator[None]:
    """Turns an OutOfMemory of the block into a StageFailure that names stage, pass and settings.

    Args:
        stage: the stage's name.
        label: what tells it from its namesakes.
        settings: of its processor, with the stage's `config` and `model` where it has them.
    """
    try:
        yield
    except OutOfMemory as error:
        raise StageFailure(f"Stage {label or stage} ran out of memory {error} {_advice(stage, settings)}") from error


def sizes_of(stage: str, settings: Any) -> dict[str, Any]:
    """The settings that decide how much goes through a model at once, as a run names them, and their values."""
    found = dict(_walk(getattr(settings, "config", settings), (stage,)))
    return {name: found[name] for size in _SIZES for name in found if name.endswith(f".{size}")}


def _advice(stage: str, settings: Any) -> str:
    sizes = sizes_of(stage, settings)
    machine = _machine(settings, learns=any(name.endswith(".forward_batch") for name in sizes))
    told = [f"Lower {_listed(sizes)}"] if sizes else []
    told += [f"Look at {_listed(machine)}"] if machine else []
    told += ["Fewer frames in frames.sets and fewer run.workers on one machine take less too"]
    return ". ".join(told) + ". What is done is kept: the same command goes on from it."


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} (now {value if isinstance(value, str) else json.dumps(value)})" for name, value in settings.items()
    )


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, BaseModel) and (section := _section(value)):
        path = (section,)
    members = _members(value)
    for name, member in members.items():
        if name in _SIZES and not (name == "batch_size" and "forward_batch" in members):
            yield ".".join((*path, name)), member
        elif is_dataclass(member) or isinstance(member, BaseModel):
            yield from _walk(member, (*path, name))


def _members(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return dict(value)
    return {each.name: getattr(value, each.name) for each in fields(value)} if is_dataclass(value) else {}


def _section(config: BaseModel) -> str | None:
    """The section of a run's parameters that a config is called after: PpoConfig is ppo."""
    name, is_config = re.subn(r"Config$", "", type(config).__name__)
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return _ELSEWHERE.get(snake, snake) if is_config else None


def _machine(settings: Any, *, learns: bool) -> dict[str, Any]:
    """What of the section `models` decides about memory."""
    model = getattr(settings, "model", None)
    if not isinstance(model, ModelRef):
        return {}
    told = [
        "device",
        "dtype",
        "quantization",
        *(["gradient_checkpointing", "sampling_copy", "fit_memory"] if learns else []),
    ]
    return {f"models.{name}": getattr(model, name) for name in told}
