"""Sizes of models from their configuration: against the models themselves, and against published counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
import zoo
from tiny import LORA, prompts_of, random_frames, save_random
from torch.utils.flop_counter import FlopCounterMode

from models.shape import ModelShape
from models.video_lm import VideoLM
from tasks.plan_costs import Assumptions, Costs

SHAPES = yaml.safe_load((Path(__file__).parents[2] / "deployments" / "shapes.yaml").read_text())
FRAME = (252, 448)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def lm(folder: Path) -> VideoLM:
    return VideoLM.load(str(folder))


@pytest.fixture(scope="module")
def shape(folder: Path) -> ModelShape:
    return ModelShape.of("tiny", json.loads((folder / "config.json").read_text()), "a test")


def test_parameters_and_layers_are_those_of_the_model(lm: VideoLM, shape: ModelShape) -> None:
    assert shape.parameters == sum(parameter.numel() for parameter in lm.core.parameters())
    assert (shape.layers, shape.hidden) == (3, lm.hidden_size)
    lm.add_adapter("policy", LORA, seed=0)
    assert shape.lora(LORA.modules, LORA.rank) == sum(each.numel() for each in lm.adapter_parameters("policy").values())
    for pattern, said in (("no such layer", "fits no layer"), (r".*\.q_proj", r"layers outside the language model")):
        with pytest.raises(ValueError, match=said):
            shape.lora(pattern, 4)


@pytest.mark.parametrize("name", sorted(set(zoo.ZOO) - {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}))
def test_kept_tokens_are_those_of_the_family(name: str, tmp_path: Path) -> None:
    """Those of Qwen follow the size of the frames, within bounds that only the processor knows."""
    folder = zoo.save(name, tmp_path / name)
    shape = ModelShape.of(name, json.loads((folder / "config.json").read_text()), "the zoo")
    frames = random_frames(5)
    family = VideoLM.load(str(folder))
    prompt = family.prompt("describe the video .", family.encode(frames))
    newline = int(name == "llava_onevision")
    assert shape.kept_tokens(len(frames), (64, 64)) + newline == len(prompt.visual)
    assert shape.parameters == sum(parameter.numel() for parameter in family.core.parameters())


def test_work_is_what_torch_counts(folder: Path, shape: ModelShape) -> None:
    """Multiplications of a forward pass, as torch sees them; norms and the like are left out by both."""
    plain = VideoLM.load(str(folder))
    prompt = prompts_of(plain)[0]
    answer = plain.response_ids("it is red.")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain.logits(plain.hidden([prompt], [answer]).before_response)
    tokens = len(prompt.ids) + len(answer)
    costs = Costs(shape, Assumptions(card="h100", utilisation=1.0), "bfloat16")
    head = 2 * shape.vocabulary * shape.hidden * (tokens - len(answer))  # Of the answer alone the product makes logits.
    computed = costs.read(1, tokens).seconds * 989e12 - head
    assert computed == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("llava-hf/llava-1.5-7b-hf", 7_063_427_072),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976),
        ("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", 256_484_928),
        ("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", 507_482_304),
    ],
)
def test_known_shapes_have_as_many_weights_as_the_published_checkpoints(name: str, published: int) -> None:
    assert ModelShape.of(name, SHAPES[name], "the table").parameters == published


@pytest.mark.parametrize(
    ("name", "frames", "tokens"),
    [
        ("llava-hf/llava-1.5-7b-hf", 50, 626),  # The published count of VLM-RLAIF.
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 8, 8 * 196 + 1),
        ("LanguageBind/Video-LLaVA-7B-hf", 8, 2056),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 16, 8 * 9 * 16),
        ("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", 4, 4 * (64 + 12)),
    ],
)
def test_families_have_their_tokens(name: str, frames: int, tokens: int) -> None:
    assert ModelShape.of(name, SHAPES[name], "the table").video_tokens(frames, FRAME) == tokens


def test_what_transformers_does_not_know_is_said() -> None:
    with pytest.raises(ValueError, match=r"The configuration of odd \(a test\) is none that transformers knows"):
        ModelShape.of("odd", {"model_type": "no_such_model"}, "a test")
