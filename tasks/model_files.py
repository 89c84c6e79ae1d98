"""Which files of a model are on this machine: in its folder, or in the Hub's cache. Nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.shape import SUPPORTED

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


def model_type(name: str) -> str | None:
    """The `model_type` of a model whose files are on this machine; None: they are not, or do not say."""
    folder = model_folder(name)
    if folder is None or not (folder / "config.json").is_file():
        return None
    found: str | None = json.loads((folder / "config.json").read_text()).get("model_type")
    return found


def faults_of(folder: Path) -> Iterator[str]:
    """What makes a folder no checkpoint that can be used, as far as its small files tell; nothing: it is complete."""
    files = {path.name for path in folder.iterdir()}
    yield from _faults_of_config(folder / "config.json")
    if not any(each.endswith(".safetensors") for each in files):
        pickled = any(each.endswith((".bin", ".pt", ".pth")) for each in files)
        yield (
            "its weights are pickles, which may run code, and only safetensors are read: load it once in a place of "
            "its own and save it with save_pretrained (the original LLaVA layout: `rlaif convert`)"
            if pickled
            else "no weights (*.safetensors)"
        )
    if not {"processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"} & files:
        yield "no processor (processor_config.json or preprocessor_config.json)"
    if not {"tokenizer.json", "tokenizer.model", "vocab.json"} & files:
        yield "no tokenizer"
    elif not _has_template(folder):
        yield "no chat template (chat_template.jinja)"


def _faults_of_config(file: Path) -> Iterator[str]:
    try:
        config = json.loads(file.read_text())
    except (ValueError, OSError):
        config = None
    yield from faults_of_config(config)


def faults_of_config(config: Any) -> Iterator[str]:
    """Why the content of a config.json is that of no checkpoint that can be used; None: there is none."""
    try:
        model_type = config["model_type"]
    except (KeyError, TypeError):
        yield "its config.json is missing or names no model_type"
        return
    if model_type in SUPPORTED:
        return
    if "auto_map" in config:
        yield (
            f"models of type {model_type!r} want to run code of their own (auto_map), and trust_remote_code is off and "
            "stays off: take the checkpoint that transformers has a class for, often the one whose name ends in -hf"
        )
        return
    yield f"models of type {model_type!r} are not supported; supported: {', '.join(sorted(SUPPORTED))}"


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and "chat_template" in json.loads(file.read_text())


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
