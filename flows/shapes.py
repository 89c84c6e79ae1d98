"""Where the sizes of a preset's models come from: their config.json, or the table that comes with the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from flows.presets import PROJECT
from models.shape import ModelShape
from tasks.model_files import hub_config

TABLE = PROJECT / "deployments" / "shapes.yaml"


class ShapeError(ValueError):
    """Nothing tells how large a model is; the message says what was tried and what to do."""


def shape_of(name: str) -> ModelShape:
    """The sizes of a model by name: of its folder, of this machine's cache, of the Hub, or of deployments/shapes.yaml.

    Raises:
        ShapeError: none of them knows it.
    """
    tried: list[str] = []
    for source, config in _configs(name, tried):
        return ModelShape.of(name, config, source)
    raise ShapeError(
        f"How large {name!r} is cannot be told: {'; '.join(tried)}. Put its config.json into a folder of that name, "
        f"reach the Hub (HF_ENDPOINT, HF_TOKEN for a gated model), or add its configuration to {TABLE}."
    )


def _configs(name: str, tried: list[str]) -> Any:
    """Where the configuration was found and what it says, the first that there is; else why not, in `tried`."""
    file = Path(name) / "config.json"
    if file.is_file():
        yield f"{file}", json.loads(file.read_text())
        return
    tried.append(f"there is no {file}")
    if not Path(name).is_absolute():
        found = _from_hub(name, tried)
        if found is not None:
            yield f"config.json of {name} on the Hub", found
            return
    table = yaml.safe_load(TABLE.read_text())
    if name in table:
        yield f"{TABLE.relative_to(PROJECT)}, since {'; '.join(tried)}", table[name]
        return
    tried.append(f"{TABLE.relative_to(PROJECT)} has no such model")


def _from_hub(name: str, tried: list[str]) -> dict[str, Any] | None:
    try:
        return hub_config(name)
    except Exception as error:  # Of several libraries, none of them ours; the table may still know the model.
        tried.append(f"the Hub does not give its config.json ({type(error).__name__})")
        return None
