"""What is wrong with a checkpoint is said when it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file

from models.encoding import encode_clips
from models.prompting import window_of
from models.settings import Sampling
from models.video_lm import VideoLM


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save("qwen2_vl", tmp_path_factory.mktemp("whole"))


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def _edit(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def _with_processor(model: Path, processor: Path, to: Path) -> Path:
    """The weights of one checkpoint beside the processor's and the tokenizer's files of another."""
    shutil.copytree(processor, to)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copyfile(model / name, to / name)
    return to


def test_pickled_weights_are_refused_with_what_to_do(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"Only safetensors are read.*rlaif convert.*save_pretrained"):
        VideoLM.load(str(copy))


def test_weights_that_are_missing_are_not_made_up(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    gone = next(name for name in sorted(weights) if "mlp" in name)
    save_file(
        {name: value for name, value in weights.items() if name != gone}, copy / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"lacks 1 of its model's weights, such as .*mlp"):
        VideoLM.load(str(copy))


@pytest.mark.parametrize("name", ["qwen2_vl", "smolvlm"])
def test_weights_that_the_configuration_does_not_know_are_not_dropped(tmp_path: Path, name: str) -> None:
    folder = zoo.save(name, tmp_path / name)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "vision_tower.head.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    VideoLM.load(str(folder))  # Parts beside the language model may be left.
    text = json.loads((folder / "config.json").read_text())["text_config"]
    text.pop("layer_types", None)
    _edit(folder / "config.json", text_config={**text, "num_hidden_layers": 2})
    with pytest.raises(ValueError, match=r"\d+ weights in its language model's layers .* such as .*layers\.2\."):
        VideoLM.load(str(folder))


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_weights_that_are_cut_off_are_named(copy: Path, size: int) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"The weights of .*copy' are cut off.*Download it again"):
        VideoLM.load(str(copy))


def test_code_of_its_own_is_not_run(copy: Path) -> None:
    _edit(copy / "config.json", model_type="their_own", auto_map={"AutoConfig": "theirs.Config"})
    (copy / "theirs.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="trust_remote_code is off"):
        VideoLM.load(str(copy))


def test_a_kind_that_transformers_does_not_know_is_named(copy: Path) -> None:
    _edit(copy / "config.json", model_type="never_heard_of")
    with pytest.raises(ValueError, match="never_heard_of"):
        VideoLM.load(str(copy))


def test_missing_processor_files_are_named(copy: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"processor.*preprocessor_config\.json"):
        VideoLM.load(str(copy))


def test_a_missing_tokenizer_is_named(copy: Path) -> None:
    for file in copy.glob("token*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"tokenizer of .* are missing beside the weights"):
        VideoLM.load(str(copy))


def test_a_tokenizer_without_a_chat_template_is_refused(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"has no chat template.*instruction-tuned"):
        VideoLM.load(str(copy))


def test_a_template_that_shows_no_video_is_refused(copy: Path) -> None:
    template = copy / "chat_template.jinja"
    for text, problem in (
        ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}", "fails at a question"),
        ("{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}", "must stand once"),
    ):
        template.write_text(text)
        with pytest.raises(ValueError, match=rf"The chat template of .*{problem}(.|\n)*Take the chat_template\.jinja"):
            VideoLM.load(str(copy))


@pytest.mark.parametrize("other", ["smolvlm", "llava_onevision", "vlm_rlaif", "qwen3_vl"])
def test_a_processor_of_another_family_is_refused(whole: Path, tmp_path: Path, other: str) -> None:
    folder = _with_processor(whole, zoo.save(other, tmp_path / "other"), tmp_path / "mixed")
    with pytest.raises(
        ValueError, match=r"is a \w+Processor, and a model of type 'qwen2_vl' has a Qwen2VLProcessor or"
    ):
        VideoLM.load(str(folder))


@pytest.mark.parametrize(("name", "other"), [("vlm_rlaif", "smolvlm"), ("smolvlm", "llava_onevision")])
def test_no_family_takes_a_processor_of_another(tmp_path: Path, name: str, other: str) -> None:
    folder = _with_processor(zoo.save(name, tmp_path / "one"), zoo.save(other, tmp_path / "other"), tmp_path / "mixed")
    with pytest.raises(ValueError, match=r"is a \w+Processor, and a model of type"):
        VideoLM.load(str(folder))


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ("patch_size", "patch_size 7, and its model patch_size 14"),
        ("merge_size", "merge_size 7, and its model spatial_merge_size 2"),
        ("temporal_patch_size", "temporal_patch_size 7, and its model temporal_patch_size 2"),
    ],
)
def test_a_processor_that_cuts_other_patches_is_refused(copy: Path, size: str, told: str) -> None:
    config = json.loads((copy / "processor_config.json").read_text())
    config["video_processor"][size] = 7
    _edit(copy / "processor_config.json", **config)
    with pytest.raises(ValueError, match=told):
        VideoLM.load(str(copy))


def test_a_later_qwen_may_have_the_processor_of_an_earlier_one(whole: Path, tmp_path: Path) -> None:
    folder = _with_processor(zoo.save("qwen2_5_vl", tmp_path / "later"), whole, tmp_path / "mixed")
    assert VideoLM.load(str(folder)).core.config.model_type == "qwen2_5_vl"


def test_what_is_missing_beside_the_weights_is_said_before_they_are_read(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        VideoLM.load(str(copy))


def test_weights_of_other_shapes_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["intermediate_size"] *= 2
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="have other shapes than its config"):
        VideoLM.load(str(copy))


def test_a_tokenizer_without_padding_takes_its_end(copy: Path) -> None:
    for file in copy.glob("tokenizer*_config.json"):
        told = json.loads(file.read_text())
        del told["pad_token"]
        file.write_text(json.dumps(told))
    lm = VideoLM.load(str(copy))
    assert lm.tokenizer.pad_token_id == lm.tokenizer.eos_token_id
    answers = lm.generate([lm.prompt("what happens first ?"), lm.prompt("describe")], Sampling(max_new_tokens=3), n=2)
    assert [len(each) for each in answers] == [2, 2]


def test_a_llava_with_a_tower_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Pixtral has the type of LLaVA-1.5, and shows each frame at its own size."""
    folder = zoo.save("vlm_rlaif", tmp_path / "pixtral")
    config = json.loads((folder / "config.json").read_text())
    _edit(folder / "config.json", vision_config={"model_type": "pixtral", "hidden_size": 32, "patch_size": 8})
    assert config["vision_config"]["model_type"] == "clip_vision_model"
    with pytest.raises(ValueError, match=r"tower of type 'pixtral'.*Choose a LLaVA-1\.5"):
        VideoLM.load(str(folder))


def test_a_window_that_was_stretched_counts_as_stretched(copy: Path) -> None:
    text = VideoLM.load(str(copy)).core.config.get_text_config()
    assert window_of(text) == 2048
    for rope, window in (
        ({"rope_type": "linear", "factor": 2.0}, 4096),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
        ({"rope_type": "dynamic", "factor": 2.0}, 2048),
    ):
        text.rope_parameters = {**text.rope_parameters, **rope}
        assert window_of(text) == window


def test_a_taste_in_sampling_that_a_checkpoint_brings_is_not_followed(copy: Path) -> None:
    """Qwen2.5-VL's own settings have a repetition penalty: what was drawn would not be what is trained."""
    plain = VideoLM.load(str(copy))
    _edit(copy / "generation_config.json", repetition_penalty=1.5, top_k=1, temperature=0.01, do_sample=True)
    lm = VideoLM.load(str(copy))
    prompts = [plain.prompt("what happens first ?")]
    sampling = Sampling(max_new_tokens=8)
    expected = plain.generate(prompts, sampling, n=4, seed=3, logprobs=True)
    assert lm.generate(prompts, sampling, n=4, seed=3, logprobs=True) == expected


def test_nothing_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Give a local folder with config, safetensors and processor"):
        VideoLM.load(str(tmp_path / "nothing"))


@torch.no_grad()
def test_an_answer_that_would_leave_the_window_is_refused_before_it_is_drawn(copy: Path) -> None:
    lm = VideoLM.load(str(copy))
    prompt = lm.prompt("what is shown?")
    room = lm.window - len(prompt.ids)
    with pytest.raises(ValueError, match=rf"{len(prompt.ids)} tokens, an answer up to {room + 1:,} .*lower max_new"):
        lm.generate([prompt], Sampling(max_new_tokens=room + 1))


def test_a_video_that_is_longer_than_the_window_is_refused_with_both_figures(copy: Path) -> None:
    lm = VideoLM.load(str(copy))
    lm.core.config.get_text_config().max_position_embeddings = 20
    frames = np.zeros((12, 40, 56, 3), dtype=np.uint8)
    shown = encode_clips(lm, frames, [range(12)], range(12), 12).shown(0)
    with pytest.raises(ValueError, match=r"36 of them the video's, and the model's window is 20\. Show fewer frames"):
        lm.prompt("what happens first ?", shown)
