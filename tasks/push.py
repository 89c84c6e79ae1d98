"""A trained adapter on its way to the Hub: its files and cards in a folder, and the folder in a repository."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.merge import copy_head, new_folder
from tasks.model_card import data_card, model_card

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.trained import TrainedAdapter

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class PushError(RuntimeError):
    """The Hub did not take the adapter; the message says why and what to do."""


def write_folder(lake: Lake, adapter: TrainedAdapter, repo: str, to: Path) -> list[str]:
    """Everything that is sent, in a folder that plain PEFT reads too; the names of its files.

    Raises:
        tasks.merge.FolderInUseError: `to` holds something.
    """
    with new_folder(to) as folder:
        below = [f"below/{number}" for number in range(1, len(adapter.below) + 1)]
        for place, blob in [("", adapter.blob), *zip(below, adapter.below, strict=True)]:
            (folder / place).mkdir(parents=True, exist_ok=True)
            for name in _ADAPTER_FILES:
                shutil.copyfile(lake.blobs.folder(blob) / name, folder / place / name)
        heads = copy_head(lake.blobs.folder(adapter.blob), folder)
        (folder / "README.md").write_text(model_card(lake, adapter, below, heads, repo), encoding="utf-8")
        (folder / "DATA_CARD.md").write_text(data_card(lake, adapter), encoding="utf-8")
    return sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file())


def upload(folder: Path, repo: str, *, private: bool, message: str, endpoint: str | None = None) -> str:
    """Send the folder in one commit; the repository is made where it is missing. Returns the commit's address.

    The token is that of the environment (HF_TOKEN) or of `hf auth login`. It is never shown.

    Raises:
        PushError: the Hub refused, or there is no connection to it.
    """
    from httpx2 import TransportError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(endpoint=endpoint)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message).commit_url)
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = (
            "log in with `hf auth login`, or set HF_TOKEN to a token that may write"
            if status in (401, 403)
            else ("see the text; --dry-run keeps the folder")
        )
        raise PushError(f"The Hub did not take {repo}: {str(error).splitlines()[0]}. What to do: {advice}.") from None
    except (TransportError, OfflineModeIsEnabled) as error:
        raise PushError(
            f"The Hub did not take {repo}: no connection to {api.endpoint} ({type(error).__name__}: {error}). What to "
            "do: check the network, HF_ENDPOINT and HF_HUB_OFFLINE; --dry-run keeps the folder."
        ) from None
