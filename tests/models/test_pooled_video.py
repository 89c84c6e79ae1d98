"""LLaVA-1.5 with the paper's pooling, and checkpoints in the layout of the original code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor

from models.families.vlm_rlaif import pad_to_square
from models.llava_original import adapter_folder, convert_adapter, convert_checkpoint
from models.reward_model import RewardModel
from models.video_lm import VideoLM
from tasks.model_files import faults_of

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 20, 40, 3), dtype=np.uint8)
PLACES = (zoo.SIDE // 8) ** 2
OLD_NAMES = (
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("model.language_model.", "model."),
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save("vlm_rlaif", tmp_path_factory.mktemp("plain"))


@torch.no_grad()
def test_a_video_is_the_means_of_frames_and_of_places(plain: Path) -> None:
    """Section 1 of the facts: temporal_t = mean over places, spatial_s = mean over frames, after the projector."""
    lm = VideoLM.load(str(plain))
    squares = pad_to_square(torch.from_numpy(FRAMES).permute(0, 3, 1, 2), lm.processor.image_processor.image_mean)
    pixels = lm.processor.image_processor(images=list(squares), return_tensors="pt")["pixel_values"]
    features = torch.stack(list(lm.core.get_image_features(pixels, return_dict=True).pooler_output))
    assert features.shape[:2] == (5, PLACES)
    prompt = lm.prompt("what happens first ?", lm.encode(FRAMES))
    assert prompt.visual.shape[0] == 5 + PLACES
    for frame in range(5):
        assert torch.allclose(prompt.visual[frame], features[frame].mean(0), atol=1e-6)
    for place in range(PLACES):
        assert torch.allclose(prompt.visual[5 + place], features[:, place].mean(0), atol=1e-6)


def test_frames_are_padded_with_the_mean_colour_and_not_cropped() -> None:
    frame = torch.full((1, 3, 2, 5), 9, dtype=torch.uint8)
    square = pad_to_square(frame, [0.5, 0.25, 1.0])
    assert square.shape == (1, 3, 5, 5)
    assert (square[0, :, 1:3] == 9).all()
    for channel, value in enumerate((127, 63, 255)):
        assert (square[0, channel, [0, 3, 4]] == value).all()


def _original(plain: Path, folder: Path) -> Path:
    """The same weights in the original layout, in two pickled shards, and the tower in a folder of its own."""
    import transformers as t

    model = t.LlavaForConditionalGeneration.from_pretrained(plain)
    processor = t.AutoProcessor.from_pretrained(plain)
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    old: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not name.startswith("model.vision_tower."):
            new = next((name.replace(now, then, 1) for now, then in OLD_NAMES if name.startswith(now)), name)
            rows = new in ("model.embed_tokens.weight", "lm_head.weight")
            old[new] = torch.cat([value[:image], value[image + 1 :]]) if rows else value.clone()
    folder.mkdir()
    for layer in range(3):  # transformers of that time saved it
        old[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    names = sorted(old)
    for shard, part in enumerate((names[:7], names[7:])):
        torch.save({name: old[name] for name in part}, folder / f"pytorch_model-0000{shard + 1}-of-00002.bin")
    text = model.config.text_config
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    config: dict[str, Any] = {name: getattr(text, name) for name in fields}
    tower = folder.parent / "clip"
    config |= {
        "model_type": "llava_llama",
        "vocab_size": len(old["lm_head.weight"]),
        "rms_norm_eps": text.rms_norm_eps,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": str(tower),
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
    }
    (folder / "config.json").write_text(json.dumps(config))
    _without_image().save_pretrained(folder)
    model.model.vision_tower.save_pretrained(tower)
    processor.image_processor.save_pretrained(tower)
    return folder


def _without_image() -> Any:
    return zoo.new_tokenizer(bos=True)


@pytest.fixture(scope="module")
def original(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _original(plain, tmp_path_factory.mktemp("original") / "vlm_sft")


@pytest.fixture(scope="module")
def converted(original: Path) -> Path:
    target = original.parent / "converted"
    convert_checkpoint(original, None, target)
    return target


@torch.no_grad()
def test_a_converted_checkpoint_says_what_the_weights_say(plain: Path, converted: Path) -> None:
    """Only the tokenizer's numbers moved: the place of a picture now comes last."""
    before, after = VideoLM.load(str(plain)), VideoLM.load(str(converted))
    shown = before.encode(FRAMES)
    assert torch.allclose(after.encode(FRAMES).tokens, shown.tokens, atol=1e-6)
    prompt = after.prompt("what happens first ?", shown)
    known = {
        before.tokenizer.convert_tokens_to_ids(token): number for token, number in after.tokenizer.get_vocab().items()
    }
    assert len(known) == len(after.tokenizer)
    back = {new: old for old, new in known.items()}
    mapped = type(prompt)(tuple(back[number] for number in prompt.ids), prompt.visual)
    answer = after.response_ids("a red circle grows .")
    found, mask = after.logprobs([prompt], [answer])
    expected, _ = before.logprobs([mapped], [tuple(back[number] for number in answer)])
    assert mask.all()
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_template_is_the_one_that_the_weights_were_trained_with(converted: Path) -> None:
    lm = VideoLM.load(str(converted))
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What happens?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "It falls."}]},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    said = lm.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert said == (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nWhat happens? ASSISTANT: It falls."
        "<|im_end|>USER: Why? ASSISTANT:"
    )
    ids = lm.prompt("what happens first ?", lm.encode(FRAMES)).ids
    assert ids.count(zoo.BOS) == 1


def _adapter(folder: Path) -> dict[str, Tensor]:
    """A reward model's adapter and head under the names of the original code."""
    inner = folder / "adapter_model" / "lora_default"
    inner.mkdir(parents=True)
    torch.manual_seed(0)
    weights = {}
    for layer in range(3):
        for module in ("q_proj", "v_proj"):
            width = 32 if module == "q_proj" else 16
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            weights[f"{name}.lora_A.weight"] = torch.randn(4, 32)
            weights[f"{name}.lora_B.weight"] = torch.randn(width, 4)
    torch.save(weights, inner / "adapter_model.bin")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    (inner / "adapter_config.json").write_text(json.dumps({**settings, "task_type": "CAUSAL_LM"}))
    torch.save({"weight": torch.randn(1, 32).half(), "bias": torch.zeros(1).half()}, folder / "reward_head")
    return weights


@torch.no_grad()
def test_an_adapter_and_its_reward_head_load_on_the_converted_base(converted: Path, tmp_path: Path) -> None:
    weights = _adapter(tmp_path / "rm")
    found = adapter_folder(tmp_path / "rm")
    assert found == tmp_path / "rm" / "adapter_model" / "lora_default"
    (tmp_path / "rm" / "reward_head").rename(found / "reward_head")
    convert_adapter(found, converted, tmp_path / "out")
    lm = VideoLM.load(str(converted))
    plain = lm.core.model.language_model.layers[1].self_attn.q_proj.weight.clone()
    reward = RewardModel.load(lm, tmp_path / "out")
    assert reward.form.kind == "head"
    assert not any("lora" in name for name, _ in lm.core.model.vision_tower.named_parameters())
    name = "base_model.model.model.layers.1.self_attn.q_proj"
    added = 2.0 * weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
    layer = lm.core.model.language_model.layers[1].self_attn.q_proj
    assert torch.allclose(layer.base_layer.weight + layer.get_delta_weight("reward"), plain + added, atol=1e-5)
    prompt = reward.prompt("what happens first ?", lm.encode(FRAMES), None)
    assert torch.isfinite(reward.score([prompt], [lm.response_ids("it is red .")])).all()


@torch.no_grad()
def test_a_converted_adapter_makes_a_checkpoint_of_its_own(converted: Path, tmp_path: Path) -> None:
    """As docs/models.md says it is done."""
    _adapter(tmp_path / "lora")
    convert_adapter(tmp_path / "lora" / "adapter_model" / "lora_default", converted, tmp_path / "out")
    lm = VideoLM.load(str(converted), merge=[tmp_path / "out"])
    lm.core.save_pretrained(tmp_path / "merged")
    lm.processor.save_pretrained(tmp_path / "merged")
    assert not list(faults_of(tmp_path / "merged"))

    def said(folder: Path, **more: Any) -> Tensor:
        loaded = VideoLM.load(str(folder), **more)
        prompt = loaded.prompt("what happens first ?", loaded.encode(FRAMES))
        return loaded.logprobs([prompt], [loaded.response_ids("it is red .")])[0]

    assert torch.allclose(said(tmp_path / "merged"), said(converted, adapter=tmp_path / "out"), atol=1e-4)
    assert not torch.allclose(said(tmp_path / "merged"), said(converted), atol=1e-2)


def test_a_head_two_levels_above_its_adapter_is_found(converted: Path, tmp_path: Path) -> None:
    _adapter(tmp_path / "rm")
    found = adapter_folder(tmp_path / "rm")
    assert found is not None
    convert_adapter(found, converted, tmp_path / "out")
    assert (tmp_path / "out" / "reward_head.safetensors").is_file()


def test_a_pickled_tower_is_read_as_tensors_and_a_broken_one_is_named(original: Path, tmp_path: Path) -> None:
    import transformers as t
    from safetensors.torch import load_file, save_file

    tower = tmp_path / "clip"
    tower.mkdir()
    for file in (original.parent / "clip").iterdir():
        (tower / file.name).write_bytes(file.read_bytes())
    weights = load_file(tower / "model.safetensors")
    (tower / "model.safetensors").unlink()
    torch.save(weights, tower / "pytorch_model.bin")
    convert_checkpoint(original, str(tower), tmp_path / "out")
    converted = t.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    found = converted.model.vision_tower.state_dict()
    assert all(
        torch.equal(found[name], value) for name, value in t.CLIPVisionModel.from_pretrained(tower).state_dict().items()
    )
    (tower / "pytorch_model.bin").write_bytes(pickle.dumps(_Bad()))
    with pytest.raises(ValueError, match="does not load"):
        convert_checkpoint(original, str(tower), tmp_path / "other")
    (tower / "pytorch_model.bin").unlink()
    gone = next(name for name in sorted(weights) if "mlp" in name)
    save_file(
        {name: value for name, value in weights.items() if name != gone}, tower / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"tower .* lacks 1 weights"):
        convert_checkpoint(original, str(tower), tmp_path / "other")
    (tower / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="does not load"):
        convert_checkpoint(original, str(tower), tmp_path / "other")
    assert not (tmp_path / "other").exists()


class _Bad:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("a pickle ran",)


def test_a_pickle_that_holds_more_than_tensors_is_not_opened(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in original.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(pickle.dumps(_Bad()))
    with pytest.raises(ValueError, match="does not hold tensors alone and is not opened"):
        convert_checkpoint(tmp_path, None, tmp_path / "out")
    assert "a pickle ran" not in capsys.readouterr().out


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r"holds no weights \(pytorch_model\*\.bin"),
        ({"config.json": "{"}, r"config\.json is no JSON: .*Download it again"),
        (
            {"config.json": '{"mm_projector_type": "mlp2x_gelu", "mm_vision_tower": "TOWER"}'},
            "does not say hidden_size",
        ),
        ({"model.safetensors": LFS}, r"model\.safetensors is cut off, or only points at the weights"),
        ({"pytorch_model.bin": LFS}, r"pytorch_model\.bin does not hold tensors alone"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_not_converted(
    original: Path, tmp_path: Path, files: dict[str, str], said: str
) -> None:
    for file in original.iterdir():
        if file.suffix != ".bin":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    for name, text in files.items():
        (tmp_path / name).write_text(text.replace("TOWER", str(original.parent / "clip")))
    with pytest.raises(ValueError, match=said):
        convert_checkpoint(tmp_path, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_layer_may_be_left_out_where_it_is_the_table(original: Path, tmp_path: Path) -> None:
    source = tmp_path / "tied"
    source.mkdir()
    for file in original.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    shard = next(path for path in source.glob("*.bin") if "lm_head.weight" in torch.load(path, weights_only=True))
    kept = torch.load(shard, weights_only=True)
    table = kept.pop("lm_head.weight")
    torch.save(kept, shard)
    with pytest.raises(ValueError, match=r"lacks 1 weights, such as lm_head\.weight"):
        convert_checkpoint(source, None, tmp_path / "out")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    convert_checkpoint(source, None, tmp_path / "out")
    core = VideoLM.load(str(tmp_path / "out")).core
    assert torch.equal(core.lm_head.weight, core.get_input_embeddings().weight)
    assert core.lm_head.weight.shape[1] == table.shape[1]


def test_an_adapter_is_converted_whole_and_for_its_base_or_not_at_all(converted: Path, tmp_path: Path) -> None:
    weights = _adapter(tmp_path / "rm")
    source = tmp_path / "rm" / "adapter_model" / "lora_default"

    def refused(base: Path, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            convert_adapter(source, base, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused(tmp_path / "gone", r"gone is no base to stand on: config\.json is missing")
    refused(zoo.save("smolvlm", tmp_path / "smolvlm"), r"is a 'smolvlm', no converted LLaVA")
    torch.save({"weight": torch.randn(1, 40)}, tmp_path / "rm" / "reward_head")
    refused(converted, r"reward_head holds no row of 32 weights")
    torch.save({name: value.repeat(2, 2) for name, value in weights.items()}, source / "adapter_model.bin")
    refused(converted, r"does not fit this model: .*is for layers of size 64, and this one's is 32")
    (source / "adapter_model.bin").unlink()
    refused(converted, r"holds no weights \(adapter_model\.bin")
    (source / "adapter_config.json").write_text("{")
    refused(converted, r"adapter_config\.json is no JSON")


def test_what_is_missing_is_named(original: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no checkpoint folder: config\.json is missing"):
        convert_checkpoint(tmp_path / "nothing", None, tmp_path / "out")
    for file in original.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ValueError, match=r"lacks \d+ weights, such as .*; is a shard missing"):
        convert_checkpoint(tmp_path, None, tmp_path / "out")
    config = json.loads((original / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "mm_projector_type": "linear"}))
    with pytest.raises(ValueError, match="mm_projector_type 'linear'"):
        convert_checkpoint(tmp_path, None, tmp_path / "out")
