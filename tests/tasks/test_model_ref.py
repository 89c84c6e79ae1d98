"""What a model is, what is only how it is run, and which folders are refused before any work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import miniature
from tasks.model_ref import ModelRef

BASE = Path(miniature.__file__).parent / "weights" / "base"


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
