"""Which files of a model are on this machine: in its folder, or in the Hub's cache. Nothing is fetched."""

from __future__ import annotations

from pathlib import Path


def model_folder(name: str) -> Path | None:
    """The folder of the model's files: itself, or the newest snapshot of a Hub id in the cache; None: there is none."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # No Hub id, such as an absolute path.
        return None
    return Path(config).parent if isinstance(config, str) else None


def has_weights(name: str) -> bool:
    """Whether safetensors of the model are on this machine."""
    folder = model_folder(name)
    return folder is not None and any(folder.glob("*.safetensors"))
