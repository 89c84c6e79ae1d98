"""Which files a model has, in its folder, in the Hub's cache or on the Hub, and why they cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from models.shape import PROCESSORS, SUPPORTED

TIMEOUT_S = 5.0
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
AGAIN = "download it again"
SMALL_FILES = ("*.json", "*.jinja")  # All that is looked into but weights.


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


def faults_of(folder: Path, listed: frozenset[str] | None = None) -> Iterator[str]:
    """Why a folder is no checkpoint that can be used, as far as small files and headers tell; nothing: it is whole.

    `listed`: the files that belong to it, where some are still elsewhere.
    """
    files = {path.name for path in folder.iterdir()} if listed is None else listed
    yield from _faults_of_config(folder / "config.json")
    if not any(each.endswith(".safetensors") for each in files):
        pickled = any(each.endswith((".bin", ".pt", ".pth")) for each in files)
        yield (
            "its weights are pickles, which may run code, and only safetensors are read: load it once in a place of "
            "its own and save it with save_pretrained (the original LLaVA layout: `rlaif convert`)"
            if pickled
            else "no weights (*.safetensors)"
        )
    yield from _faults_of_weights(folder, files)
    yield from _faults_of_processor(folder)
    if not {"tokenizer.json", "tokenizer.model", "vocab.json"} & files:
        yield "no tokenizer"
    else:
        yield from _faults_of_template(folder)


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


def faults_of_hub(name: str, revision: str) -> Iterator[str]:
    """The same of a model on the Hub: its list of files and its small files are fetched, its weights are not.

    Where the Hub is not reached, what the cache has of the model is all that there is.
    """
    import httpx
    from huggingface_hub import HfApi, snapshot_download

    listed = None
    try:
        listed = frozenset(HfApi().list_repo_files(name, revision=revision))
        folder = snapshot_download(name, revision=revision, allow_patterns=list(SMALL_FILES))
    except (OSError, httpx.HTTPError):
        folder = snapshot_download(name, revision=revision, local_files_only=True)
    yield from faults_of(Path(folder), listed)


def _faults_of_weights(folder: Path, files: Set[str]) -> Iterator[str]:
    """Of each file its header alone is read, which says how long the file must be; of an index its names."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            yield f"{file.name} is cut off, or only points at weights as git without LFS leaves it ({error}): {AGAIN}"
    for file in sorted(folder.glob("*.safetensors.index.json")):
        try:
            parts = set(json.loads(file.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            yield f"{file.name} cannot be read: {AGAIN}"
            continue
        if gone := sorted(map(str, parts - files)):
            yield f"{len(gone)} of {len(parts)} files that {file.name} names are missing, such as {gone[0]}: {AGAIN}"


def _faults_of_processor(folder: Path) -> Iterator[str]:
    there = [folder / name for name in PROCESSOR_FILES if (folder / name).is_file()]
    if not there:
        yield "no processor (processor_config.json or preprocessor_config.json)"
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (ValueError, AttributeError, OSError):
        return  # Told of config.json itself.
    named = None
    for file in there:
        try:
            named = named or json.loads(file.read_text()).get("processor_class")
        except (ValueError, AttributeError, OSError):
            yield f"{file.name} cannot be read: {AGAIN}"
    known = PROCESSORS.get(kind, ())
    if named and known and named not in known:
        yield (
            f"its processor is a {named}, and a model of type {kind!r} has a {' or '.join(known)}: take the files of "
            "processor and tokenizer from the model that it was made of"
        )


def _faults_of_template(folder: Path) -> Iterator[str]:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return
    file = folder / "tokenizer_config.json"
    try:
        if file.is_file() and "chat_template" in json.loads(file.read_text()):
            return
    except (ValueError, TypeError, OSError):
        yield f"{file.name} cannot be read: {AGAIN}"
        return
    yield "no chat template (chat_template.jinja)"


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
