"""Four bits: refused where they cannot be, for the language model alone, and never in a copy for sampling.

A model in four bits is run by the last test alone, which takes a GPU and bitsandbytes; it has never been run so far.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny import ANSWERS, LORA, adapt, prompts_of, save_random
from torch import nn

from models.quantization import KEPT, _nf4, load_arguments
from models.settings import Sampling
from models.video_lm import VideoLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it may be possible")
def test_without_a_gpu_it_is_refused_with_what_is_lacking(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"nf4 needs models.device cuda \(now cpu\) and a machine with CUDA.*to none"):
        VideoLM.load(str(folder), quantization="nf4")
    assert load_arguments("none", "cpu", "float32") == {}


def test_only_the_language_models_layers_are_rounded(folder: Path) -> None:
    from transformers.quantizers.quantizers_utils import should_convert_module

    config = _nf4("bfloat16")
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    names = [name for name, each in VideoLM.load(str(folder)).core.named_modules() if isinstance(each, nn.Linear)]
    rounded = {name for name in names if should_convert_module(name, KEPT)}
    assert rounded == {name for name in names if name.startswith("model.language_model.layers.")}
    assert {"lm_head"} < set(names) - rounded


def test_rounded_weights_have_no_plain_copy_and_sample_with_the_adapter_itself(folder: Path) -> None:
    sampling = Sampling(max_new_tokens=8)
    lm, plain = adapt(VideoLM.load(str(folder))), adapt(VideoLM.load(str(folder)))
    lm.core.quantization_method = "bitsandbytes"  # As a model in four bits has it.
    lm.add_adapter("other", LORA, seed=1)
    lm.use("other")
    lm.merge_into_twin("policy")
    assert lm._twin is None
    expected = plain.generate(prompts_of(plain), sampling, seed=3)
    assert lm.generate(prompts_of(lm), sampling, seed=3, merged=True) == expected


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None,
    reason="four bits need CUDA and bitsandbytes",
)
def test_a_base_in_four_bits_answers_and_learns(folder: Path) -> None:
    lm = VideoLM.load(str(folder), device="cuda", dtype="bfloat16", quantization="nf4")
    assert lm.quantized
    assert not VideoLM.load(str(folder)).quantized
    prompts, answers = prompts_of(adapt(lm)), [lm.response_ids(text) for text in ANSWERS]
    logprobs, _ = lm.logprobs(prompts, answers)
    logprobs.sum().backward()  # type: ignore[no-untyped-call]
    assert all(bool(each.grad.any()) for key, each in lm.adapter_parameters("policy").items() if "lora_B" in key)
    lm.merge_into_twin("policy")
    assert lm.generate(prompts, Sampling(max_new_tokens=4), merged=True, logprobs=True)
