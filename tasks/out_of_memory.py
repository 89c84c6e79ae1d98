"""What to change where a model ran out of memory: the settings of the stage that decide how much it takes at once.

Most of them stand in the stage's key, so with another value the stage begins again. Those that do not are told first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from tasks.fanout import OutOfMemory, StageFailure
from tasks.model_ref import ModelRef

# Most effective first. `batch_size` of a training counts for an optimiser step, not for a pass.
_SIZES = ("forward_tokens", "forward_batch", "batch_size", "batch_frames", "max_new_tokens")
# Of the section `models`: how a model is loaded stands in no key; what a model is stands in those of all its stages.
_LOADING = ("device",)
_LEARNING = ("gradient_checkpointing", "sampling_copy", "fit_memory")
_IDENTITY = ("dtype", "quantization")
_ELSEWHERE = {"dpo": "self_dpo"}  # Sections that are not called as their config is.


@contextmanager
def naming_what_to_change(stage: str, label: str | None, settings: Any, decisive: Mapping[str, Any]) -> Iterator[None]:
    """Turns an OutOfMemory of the block into a StageFailure that names stage, pass and settings.

    Args:
        stage: the stage's name.
        label: what tells it from its namesakes.
        settings: of its processor, with the stage's `config` and `model` where it has them.
        decisive: the configuration in its key.
    """
    try:
        yield
    except OutOfMemory as error:
        advice = _advice(stage, settings, decisive)
        raise StageFailure(f"Stage {label or stage} ran out of memory {error} {advice}") from error


def sizes_of(stage: str, settings: Any) -> dict[str, Any]:
    """The settings that decide how much goes through a model at once, as a run names them, and their values."""
    found = dict(_walk(getattr(settings, "config", settings), (stage,)))
    return {name: found[name] for size in _SIZES for name in found if name.endswith(f".{size}")}


def _advice(stage: str, settings: Any, decisive: Mapping[str, Any]) -> str:
    sizes = sizes_of(stage, settings)
    learns = any(name.endswith(".forward_batch") for name in sizes)
    # One that is off is left out of the key, and enters it once it is set.
    anew = {name: value for name, value in sizes.items() if value is None or _has(decisive, name.rpartition(".")[2])}
    free = {name: value for name, value in sizes.items() if name not in anew}
    free |= _of_models(settings, (*_LOADING, *_LEARNING) if learns else _LOADING)
    told = [
        "What this stage has done is kept where you take fewer run.workers on one machine"
        + (f", or another {_listed(free)}" if free else "")
    ]
    told += [f"Lower {_listed(anew)}: with another value this stage begins again"] if anew else []
    identity = _of_models(settings, _IDENTITY)
    told += [
        (f"With another {_listed(identity)}, or fewer" if identity else "With fewer")
        + " frames in frames.sets, every stage that uses them begins again"
    ]
    return ". ".join(told) + ". Complete stages are kept otherwise: the same command goes on from them."


def _has(config: Any, name: str) -> bool:
    """Whether a key's configuration has a setting of that name, at whatever depth."""
    if not isinstance(config, Mapping):
        return False
    return name in config or any(_has(each, name) for each in config.values())


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


def _of_models(settings: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """These of the section `models`, as the stage's model was loaded."""
    model = getattr(settings, "model", None)
    return {f"models.{name}": getattr(model, name) for name in names} if isinstance(model, ModelRef) else {}
