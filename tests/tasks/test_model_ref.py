"""What a model is, what is only how it is run, and which folders are refused before any work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import miniature
from tasks.model_ref import ModelRef

BASE = Path(miniature.__file__).parent / "weights" / "base"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_four_bits_make_another_model_with_the_same_eyes_and_saving_memory_does_not() -> None:
    plain, rounded = ModelRef("base", "content"), ModelRef("base", "content", quantization="nf4")
    assert plain.identity != rounded.identity
    assert plain.tower == rounded.tower
    saving = ModelRef("base", "content", gradient_checkpointing=True, fit_memory=True)
    assert saving.identity == plain.identity


def _lose(*names: str) -> Callable[[Path], None]:
    def lose(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return lose


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _of(**config: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _as(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def _halved(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _one_shard_of_two(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def _broken_tokenizer_config(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text("{")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_lose("config.json"), "config.json is missing"),
        (_of(), "names no model_type"),
        (_of(model_type="bert"), "'bert' are not supported; supported: internvl, llava"),
        (_of(model_type="own", auto_map={"AutoModel": "own.Own"}), r"auto_map.*trust_remote_code is off"),
        (_pickled, "pickles, which may run code.*save_pretrained.*rlaif convert"),
        (_lose("model.safetensors"), "no weights"),
        (_lose("processor_config.json"), "no processor"),
        (_lose("tokenizer.json"), "no tokenizer"),
        (_lose("chat_template.jinja"), "no chat template"),
        (_as("processor_config.json", "{"), r"processor_config\.json cannot be read: download it again"),
        (
            _as("processor_config.json", '{"processor_class": "Qwen2VLProcessor"}'),
            r"its processor is a Qwen2VLProcessor, and a model of type 'llava_onevision' has a LlavaOnevisionProcessor",
        ),
        (_broken_tokenizer_config, r"tokenizer_config\.json cannot be read: download it again"),
        (_halved, r"model\.safetensors is cut off.*download it again"),
        (_as("model.safetensors", ""), r"model\.safetensors is cut off.*download it again"),
        (_as("model.safetensors", LFS), r"model\.safetensors .*git without LFS.*download it again"),
        (_one_shard_of_two, r"1 of 2 files that .*index\.json names are missing, such as model-00002"),
        (_as("model.safetensors.index.json", "[]"), r"index\.json cannot be read: download it again"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused_by_its_files(
    spoil: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    assert ModelRef.of(str(folder)).content
    spoil(folder)
    with pytest.raises(ValueError, match=said) as caught:
        ModelRef.of(str(folder))
    assert str(folder) in str(caught.value)


@pytest.fixture
def on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model on the Hub, its small files in the cache; what lies in `elsewhere` is on the Hub alone."""
    folder = tmp_path / "models--team--model" / "snapshots" / COMMIT
    shutil.copytree(BASE, folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "model.safetensors").rename(elsewhere / "model.safetensors")

    def listed(_: object, name: str, revision: str) -> list[str]:
        assert (name, revision) == ("team/model", COMMIT)
        return [path.name for place in (folder, elsewhere) for path in place.iterdir()]

    monkeypatch.setattr("transformers.utils.cached_file", lambda *_: str(folder / "config.json"))
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", listed)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    return folder


def test_a_hub_model_counts_by_its_commit_and_its_weights_stay_there(on_the_hub: Path) -> None:
    assert ModelRef.of("team/model").content == f"team/model@{COMMIT}"
    assert not (on_the_hub / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_of(model_type="own", auto_map={"AutoModel": "own.Own"}), r"auto_map.*trust_remote_code is off"),
        (_of(model_type="bert"), "'bert' are not supported"),
        (_lose("chat_template.jinja"), "no chat template"),
        (_lose("processor_config.json"), "no processor"),
        (_as("model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}'), "such as b.safetensors"),
        (
            lambda folder: _pickled(folder.parents[2] / "elsewhere"),
            "pickles, which may run code",
        ),
    ],
)
def test_a_hub_model_that_cannot_be_used_is_refused_before_its_weights_are_fetched(
    spoil: Callable[[Path], None], said: str, on_the_hub: Path
) -> None:
    spoil(on_the_hub)
    with pytest.raises(ValueError, match=rf"Hub model team/model: .*{said}"):
        ModelRef.of("team/model")


def test_without_a_network_the_cache_must_have_all_of_it(on_the_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreached(*_: object, **__: object) -> list[str]:
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", unreached)
    with pytest.raises(ValueError, match=r"no weights \(\*\.safetensors\)"):
        ModelRef.of("team/model")
    shutil.copy(BASE / "model.safetensors", on_the_hub)
    assert ModelRef.of("team/model").content == f"team/model@{COMMIT}"
