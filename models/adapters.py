"""LoRA adapters on the language model, and the plain copy that samples with one merged in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.loading import SAFE
from models.shape import layers_for

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RIGHT_BASE = "Load it on the base that it was trained on."


def check_fits(folder: Path, core: Any) -> None:
    """Refuse an adapter of another base, and files that are not whole, before PEFT reads them.

    Args:
        folder: where the adapter was saved; PEFT writes the class of its base into the configuration.
        core: the transformers model that it is to stand on.

    Raises:
        ValueError: it has no configuration or no whole safetensors, or was trained on a model of another class or with
            layers of another size.
    """
    told, made = (_config(folder).get("auto_mapping") or {}).get("base_model_class"), type(core).__name__
    if told not in (None, made):
        raise ValueError(f"Adapter {folder} was trained on a {told}, and this model is a {made}. {RIGHT_BASE}")
    check_shapes(folder, _shapes(folder), core)


def check_shapes(folder: Path, shapes: Mapping[str, Sequence[int]], core: Any) -> None:
    """Refuse LoRA weights, as PEFT names them, that have no layer of their size in the model.

    Raises:
        ValueError: naming `folder`, where they are from, and the first that does not fit.
    """
    layers = dict(core.named_modules())
    for key, shape in shapes.items():
        name, _, part = key.removeprefix("base_model.model.").partition(".lora_")
        layer: Any = layers.get(name)
        side = {"A.weight": 1, "B.weight": 0}.get(part)
        if side is None or not hasattr(layer, "in_features"):
            raise ValueError(f"Adapter {folder} does not fit this model: {key} has no place in it. {RIGHT_BASE}")
        wanted = layer.in_features if side else layer.out_features
        if shape[side] != wanted:
            raise ValueError(
                f"Adapter {folder} does not fit this model: {key} is for layers of size {shape[side]}, and this one's "
                f"is {wanted}. {RIGHT_BASE}"
            )


def check_pattern(core: Any, pattern: str) -> None:
    """Refuse an adapter on other layers than the language model's linear ones, before any is added.

    Args:
        core: the transformers model; it may have adapters.
        pattern: regular expression of the names of layers (models.settings.LoraSettings.modules).

    Raises:
        ValueError: as of models.shape.layers_for; or a layer is not linear.
    """
    plain = {name: layer for name, layer in core.named_modules() if ".lora_" not in name and "base_layer" not in name}
    if other := [name for name in layers_for(pattern, plain) if not hasattr(plain[name], "in_features")]:
        raise ValueError(f"lora.modules {pattern!r} fits {other[0]!r}, which is no linear layer: make it more exact.")


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no adapter: {CONFIG} is missing. Give the folder that PEFT saved.") from error
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is no JSON: {error}. Copy the adapter again.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError(f"{folder / CONFIG} is not that of a LoRA adapter, and no other kind is known here.")
    return config


def _shapes(folder: Path) -> dict[str, list[int]]:
    """The shapes of an adapter's weights by name, from the header of their file alone."""
    from safetensors import SafetensorError, safe_open

    file = folder / WEIGHTS
    if not file.is_file():
        pickled = f" {SAFE}" if (folder / "adapter_model.bin").is_file() else " Copy the adapter again."
        raise ValueError(f"Adapter {folder} has no {WEIGHTS}.{pickled}")
    try:
        with safe_open(file, framework="pt") as weights:
            return {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{file} is cut off, or only points at the weights ({error}). Copy it again.") from error


def check_loaded(folder: Path, name: str, loaded: Mapping[str, Tensor]) -> None:
    """Refuse an adapter that went nowhere: PEFT loads one that does not fit, or is all zero, without a word.

    Args:
        folder: where the adapter was saved.
        name: what it is called in the model.
        loaded: the model's weights of that adapter by name.

    Raises:
        ValueError: the saved weights are not those of the model, or they change nothing.
    """
    from safetensors.torch import load_file

    saved = load_file(folder / WEIGHTS)
    wanted = {key.removeprefix("base_model.model.") for key in saved}
    present = {key.replace(f".{name}.", ".") for key in loaded}
    if wanted != present:
        odd = sorted(wanted ^ present)[0]
        raise ValueError(
            f"Adapter {folder} does not fit this model: {len(wanted - present)} of its weights have no place and "
            f"{len(present - wanted)} places stay empty, such as {odd}. {RIGHT_BASE}"
        )
    if not any(bool(value.any()) for key, value in saved.items() if "lora_B" in key):
        raise ValueError(f"Adapter {folder} changes nothing: its lora_B weights are all zero.")


def load_onto(model: Any, core: Any, name: str, folder: Path) -> Any:
    """The PEFT model with one more saved adapter, which stands still.

    Args:
        model: `core`, or the PEFT model around it.
        core: the transformers model.
        name: what the adapter is called from now on.
        folder: where it was saved.

    Raises:
        ValueError: the adapter is not whole, does not fit this model, or changes nothing.
    """
    from peft import PeftModel

    check_fits(folder, core)
    if isinstance(model, PeftModel):
        model.load_adapter(folder, adapter_name=name)
    else:
        model = PeftModel.from_pretrained(core, folder, adapter_name=name)
    model.eval().requires_grad_(False)
    check_loaded(folder, name, parameters_of(core, name))
    return model


def parameters_of(core: Any, name: str) -> dict[str, nn.Parameter]:
    """The weights of one adapter by name."""
    return {key: value for key, value in core.named_parameters() if "lora_" in key and f".{name}." in key}


def save_plain(model: Any, name: str, folder: Path, base: str) -> None:
    """Write adapter `name` of a PEFT model as VideoLM.save_adapter says."""
    model.peft_config[name].base_model_name_or_path = base
    model.save_pretrained(folder, selected_adapters=[name])
    inner = folder / name
    if inner.is_dir():  # PEFT nests every adapter that is not called "default"
        for file in sorted(inner.iterdir()):
            file.rename(folder / file.name)
        inner.rmdir()
    (folder / "README.md").unlink(missing_ok=True)


def merged_twin(core: Any, twin: Any, name: str) -> Any:
    """The plain copy with adapter `name` merged in; `twin`: the one to refresh, or None."""
    layers = {key: module for key, module in core.named_modules() if hasattr(module, "lora_A")}
    if twin is None:
        twin = _plain_twin(core, layers)
    for key, layer in layers.items():
        twin.get_submodule(key).weight.copy_(layer.base_layer.weight + layer.get_delta_weight(name))
    return twin


def _plain_twin(core: Any, layers: dict[str, Any]) -> Any:
    """A copy of the model without adapters that shares all weights but those of `layers`."""
    import copy

    adapted = {id(layer.base_layer.weight) for layer in layers.values()}
    shared = {id(p): p for p in core.parameters() if id(p) not in adapted}
    for layer in layers.values():  # adapters are dropped below: do not copy them first
        for part in ("lora_A", "lora_B"):
            shared[id(getattr(layer, part))] = getattr(layer, part)
    twin = copy.deepcopy(core, shared)
    for key in layers:
        parent, _, child = key.rpartition(".")
        setattr(twin.get_submodule(parent), child, twin.get_submodule(key).base_layer)
    return twin
