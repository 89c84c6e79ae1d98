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
