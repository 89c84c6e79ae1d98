"""LoRA adapters on the tiny random checkpoint: on, off, saved, loaded, merged, and as a plain twin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zoo
from tiny import BASE, LORA, adapt, logprobs_of, save_random, shake
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from miniature import checkpoint
from models.settings import LoraSettings
from models.video_lm import VideoLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def lm(folder: Path) -> VideoLM:
    return VideoLM.load(str(folder))


@pytest.fixture
def adapted(lm: VideoLM) -> VideoLM:
    return adapt(lm)


def test_a_fresh_adapter_changes_nothing_and_a_learned_one_does(lm: VideoLM) -> None:
    base = logprobs_of(lm)
    lm.add_adapter("policy", LORA, seed=0)
    lm.use("policy")
    assert torch.equal(logprobs_of(lm), base)
    shake(lm.adapter_parameters("policy").values(), seed=2, scale=0.2)
    assert (logprobs_of(lm) - base).abs().max() > 0.01


def test_adapter_off_is_the_base_bit_for_bit(folder: Path, adapted: VideoLM) -> None:
    with adapted.reference():
        off = logprobs_of(adapted)
    assert torch.equal(off, logprobs_of(VideoLM.load(str(folder))))
    assert not torch.equal(off, logprobs_of(adapted))


def test_only_the_adapter_in_use_learns(adapted: VideoLM) -> None:
    adapted.add_adapter("value", LORA, seed=1)
    for name in ("value", "policy"):
        adapted.use(name)
        learning = {key for key, parameter in adapted.core.named_parameters() if parameter.requires_grad}
        assert learning == set(adapted.adapter_parameters(name))
    assert not any("vision_tower" in key for key in adapted.adapter_parameters("policy"))


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (r".*\.q_proj", r"'\.\*\\\\\.q_proj' fits \d+ layers outside the language model, such as '.*vision_tower"),
        (r".*\.c_attn", r"fits no layer of the model, whose layers have names as 'model\.language_model\.layers\.0"),
        (r".*language_model.*", r"fits 'model\.language_model', which is no linear layer"),
    ],
)
def test_an_adapter_stands_on_the_language_model_s_linear_layers_alone(
    adapted: VideoLM, modules: str, said: str
) -> None:
    """With an adapter there already, as beside a policy."""
    before = [name for name, _ in adapted.core.named_parameters()]
    with pytest.raises(ValueError, match=said):
        adapted.add_adapter("value", replace(LORA, modules=modules), seed=1)
    assert [name for name, _ in adapted.core.named_parameters()] == before


def test_modules_that_are_no_regular_expression_are_refused_with_the_settings() -> None:
    with pytest.raises(ValueError, match=r"modules '\(\(' is no regular expression: missing \)"):
        LoraSettings(modules="((")


def test_a_copied_adapter_answers_like_its_source(adapted: VideoLM) -> None:
    expected = logprobs_of(adapted)
    adapted.add_adapter("value", LORA, seed=1)
    adapted.copy_adapter("policy", "value")
    adapted.use("value")
    assert torch.equal(logprobs_of(adapted), expected)


def test_the_twin_samples_as_the_adapter_and_leaves_the_base_alone(folder: Path, adapted: VideoLM) -> None:
    adapted.merge_into_twin("policy")
    assert torch.allclose(logprobs_of(adapted, merged=True), logprobs_of(adapted), atol=1e-4)
    shake(adapted.adapter_parameters("policy").values(), seed=3, scale=0.1)
    stale = (logprobs_of(adapted, merged=True) - logprobs_of(adapted)).abs().max()
    adapted.merge_into_twin("policy")
    assert stale > 0.01
    assert torch.allclose(logprobs_of(adapted, merged=True), logprobs_of(adapted), atol=1e-4)
    with adapted.reference():
        assert torch.equal(logprobs_of(adapted), logprobs_of(VideoLM.load(str(folder))))


def test_a_saved_adapter_loads_on_top_and_merges_in(folder: Path, adapted: VideoLM, tmp_path: Path) -> None:
    adapted.save_adapter("policy", tmp_path / "adapter", base=BASE)
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    expected = logprobs_of(adapted)
    loaded = VideoLM.load(str(folder), adapter=tmp_path / "adapter")
    assert torch.equal(logprobs_of(loaded), expected)
    merged = VideoLM.load(str(folder), merge=[tmp_path / "adapter"])
    assert torch.allclose(logprobs_of(merged), expected, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in merged.core.parameters())


def test_a_policy_on_a_merged_sft_adapter_saves_and_loads(folder: Path, adapted: VideoLM, tmp_path: Path) -> None:
    adapted.save_adapter("policy", tmp_path / "sft", base=BASE)
    tuned = VideoLM.load(str(folder), merge=[tmp_path / "sft"])
    tuned.add_adapter("policy", LORA, seed=4)
    tuned.use("policy")
    shake(tuned.adapter_parameters("policy").values(), seed=5, scale=0.2)
    tuned.save_adapter("policy", tmp_path / "policy", base=BASE)
    again = VideoLM.load(str(folder), merge=[tmp_path / "sft"], adapter=tmp_path / "policy")
    assert torch.equal(logprobs_of(again), logprobs_of(tuned))
    with again.reference():
        assert torch.equal(logprobs_of(again), logprobs_of(VideoLM.load(str(folder), merge=[tmp_path / "sft"])))


def test_the_same_adapter_is_saved_as_the_same_bytes(adapted: VideoLM, tmp_path: Path) -> None:
    for name in ("one", "two"):
        adapted.save_adapter("policy", tmp_path / name, base=BASE)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_an_adapter_that_does_not_fit_is_refused(adapted: VideoLM, tmp_path: Path) -> None:
    adapted.save_adapter("policy", tmp_path / "adapter", base=BASE)
    checkpoint.save(checkpoint.new_model(2, seed=0), tmp_path / "smaller")
    with pytest.raises(ValueError, match="adapter"):
        VideoLM.load(str(tmp_path / "smaller"), adapter=tmp_path / "adapter")


def test_an_adapter_for_another_width_is_refused(adapted: VideoLM, tmp_path: Path) -> None:
    adapted.save_adapter("policy", tmp_path / "adapter", base=BASE)
    other = zoo.save("llava_onevision", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    wider = LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(**config))
    wider.save_pretrained(other)
    with pytest.raises(ValueError, match=r"lora_\w\.weight is for layers of size \d+, .*base that it was trained on"):
        VideoLM.load(str(other), adapter=tmp_path / "adapter")


def test_an_adapter_of_another_family_is_refused_though_its_shapes_fit(tmp_path: Path) -> None:
    one, other = (VideoLM.load(str(zoo.save(name, tmp_path / name))) for name in ("qwen2_vl", "qwen2_5_vl"))
    adapt(one).save_adapter("policy", tmp_path / "adapter", base=BASE)
    message = "trained on a Qwen2VLForConditionalGeneration, and this model is a Qwen2_5_VLForConditionalGeneration"
    with pytest.raises(ValueError, match=message):
        other.load_adapter("policy", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["auto_mapping"] = None
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    other.load_adapter("policy", tmp_path / "adapter")
    assert other.adapter_parameters("policy"), "whose base is not told is judged by its shapes alone"


def _pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _as(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "adapter_config.json").write_text(text)

    return change


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_pickled, r"no adapter_model\.safetensors\. Only safetensors are read: a \.bin file is a pickle"),
        (_cut, r"adapter_model\.safetensors is cut off.*Copy it again"),
        (_without("adapter_model.safetensors"), r"has no adapter_model\.safetensors\. Copy the adapter again"),
        (_without("adapter_config.json"), r"holds no adapter: adapter_config\.json is missing"),
        (_as("{"), r"adapter_config\.json is no JSON"),
        (_as('{"peft_type": "IA3"}'), r"is not that of a LoRA adapter"),
    ],
)
def test_an_adapter_that_is_not_whole_is_named(
    lm: VideoLM, adapted: VideoLM, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    adapted.save_adapter("policy", tmp_path / "adapter", base=BASE)
    spoil(tmp_path / "adapter")
    with pytest.raises(ValueError, match=said):
        lm.load_adapter("other", tmp_path / "adapter")


def test_an_adapter_that_changes_nothing_is_refused(folder: Path, lm: VideoLM, tmp_path: Path) -> None:
    lm.add_adapter("policy", LORA, seed=0)
    lm.save_adapter("policy", tmp_path / "fresh", base=BASE)
    with pytest.raises(ValueError, match="changes nothing"):
        VideoLM.load(str(folder), adapter=tmp_path / "fresh")
