"""LoRA adapters on the language model, and the plain copy that samples with one merged in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


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

    saved = load_file(folder / "adapter_model.safetensors")
    wanted = {key.removeprefix("base_model.model.") for key in saved}
    present = {key.replace(f".{name}.", ".") for key in loaded}
    if wanted != present:
        odd = sorted(wanted ^ present)[0]
        raise ValueError(
            f"Adapter {folder} does not fit this model: {len(wanted - present)} of its weights have no place and "
            f"{len(present - wanted)} places stay empty, such as {odd}. Load it on the base that it was trained on."
        )
    if not any(bool(value.any()) for key, value in saved.items() if "lora_B" in key):
        raise ValueError(f"Adapter {folder} changes nothing: its lora_B weights are all zero.")


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
