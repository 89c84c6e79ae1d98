"""Which files of a model are on this machine: in its folder, or in the Hub's cache. Nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TIMEOUT_S = 5.0


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


def hub_config(name: str) -> dict[str, Any]:
    """config.json of a Hub id, from the cache or the Hub.

    Asked once and for a few seconds: the Hub's own client tries six times, half a minute where there is no network.

    Raises:
        Exception: of the Hub's client or of what carries it: no such model, no access, no network.
    """
    from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    found: dict[str, Any]
    kept = try_to_load_from_cache(name, "config.json")
    if isinstance(kept, str):
        found = json.loads(Path(kept).read_text())
        return found
    url = hf_hub_url(name, "config.json")
    answer = get_session().get(url, headers=build_hf_headers(), timeout=TIMEOUT_S, follow_redirects=True)
    answer.raise_for_status()
    found = answer.json()
    return found
