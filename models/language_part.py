"""The language model of a video model as a checkpoint of its own, for engines that are handed embeddings.

Visual tokens are kept, so an engine needs no tower: it is given exactly the embeddings that the trainer's forward sees.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models.parallel import is_partitioned

if TYPE_CHECKING:
    from models.sequences import Prompt
    from models.video_lm import VideoLM


def check_plain(lm: VideoLM) -> None:
    """Refuse a model whose language part is no checkpoint by itself, or needs more of a prompt than its embeddings.

    Raises:
        ValueError: positions in several axes, visual tokens that enter deeper layers too, or weights in few bits or
            divided among workers.
    """
    if is_partitioned(lm.core):
        raise ValueError(
            "A base that is divided among workers cannot be handed to another engine: set engine to transformers, or "
            "run.strategy to ddp or zero2."
        )
    if not all(parameter.is_floating_point() for parameter in lm.core.parameters()):
        raise ValueError(
            "A base in few bits cannot be handed to another engine: load it whole, or set engine to transformers."
        )
    if lm.family.axes > 1:
        raise ValueError(
            f"A model of type {lm.core.config.model_type!r} places visual tokens in time, row and column, which an "
            "engine that is handed embeddings alone cannot know: set engine to transformers."
        )


@torch.no_grad()
def embeddings(lm: VideoLM, prompt: Prompt) -> Tensor:
    """What the language model sees of a prompt: embeddings [L, D] of its tokens, visual tokens in their places.

    Raises:
        ValueError: the prompt has more or fewer places than visual tokens.
    """
    ids = torch.tensor(prompt.ids, device=lm.device)
    embedded: Tensor = lm.core.get_input_embeddings()(ids).clone()
    places = torch.isin(ids, torch.tensor(sorted(lm.family.places(lm.core.config)), device=lm.device))
    if int(places.sum()) != len(prompt.visual):
        raise ValueError(f"A prompt has {int(places.sum())} places for {len(prompt.visual)} visual tokens.")
    embedded[places] = prompt.visual.to(embedded)
    return embedded


def save_language_part(lm: VideoLM, folder: Path) -> None:
    """Write config.json and model.safetensors of the language model, without adapters."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(lm.core.config.get_text_config())
    config.vocab_size = lm.core.get_output_embeddings().weight.shape[0]
    with torch.device("meta"):
        architecture = type(AutoModelForCausalLM.from_config(config)).__name__
    kept = {key: value for key, value in _decoder(lm)[1].state_dict().items() if "lora_" not in key}
    weights = {f"model.{key.replace('.base_layer.', '.')}": value for key, value in kept.items()}
    weights["lm_head.weight"] = lm.core.get_output_embeddings().weight.detach()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_on_disk(weights), folder / "model.safetensors")
    described = {**config.to_dict(), "architectures": [architecture], "tie_word_embeddings": False}
    described["dtype"] = str(lm.core.dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(described, default=str))


def save_language_adapter(lm: VideoLM, name: str, folder: Path) -> None:
    """Write adapter `name` as PEFT reads it on the checkpoint of `save_language_part`.

    Raises:
        ValueError: the adapter has weights outside the language model.
    """
    from safetensors.torch import save_file

    within, _ = _decoder(lm)
    weights = {_renamed(key, name, within): value for key, value in lm.adapter_parameters(name).items()}
    config = lm.model.peft_config[name]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_on_disk(weights), folder / "adapter_model.safetensors")
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(_layers(weights)),
    }
    (folder / "adapter_config.json").write_text(json.dumps(described))


def _decoder(lm: VideoLM) -> tuple[str, Any]:
    """The language model without its head, and what it is called in the whole."""
    decoder = lm.core.model.get_decoder()
    return next((name, module) for name, module in lm.core.named_modules() if module is decoder)


def _on_disk(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors takes them: no two share memory."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}


def _renamed(key: str, adapter: str, within: str) -> str:
    if not key.startswith(f"{within}."):
        raise ValueError(
            f"Adapter {adapter!r} stands on {key}, outside the language model: set engine to transformers."
        )
    return f"base_model.model.model.{key.removeprefix(within + '.').replace(f'.{adapter}.', '.')}"


def _layers(weights: Mapping[str, Tensor]) -> set[str]:
    """The last names of the layers that have LoRA weights."""
    return {match[1] for key in weights if (match := re.search(r"\.(\w+)\.lora_[AB]\.", key))}
