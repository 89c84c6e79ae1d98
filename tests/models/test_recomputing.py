"""Gradient checkpointing: the same losses and gradients from less kept memory, and sampling as ever."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kept import kept_bytes
from test_packing import _gradients, _repeated
from tiny import adapt, prompts_of, save_random
from torch import nn

from models.recomputing import layers_of
from models.settings import Sampling
from models.video_lm import VideoLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def lm(folder: Path) -> VideoLM:
    return adapt(VideoLM.load(str(folder)))


def test_log_probabilities_and_gradients_are_the_same_to_the_bit(lm: VideoLM) -> None:
    prompts, answers = _repeated(lm)
    plain, norms = _gradients(lm, prompts, answers)
    lm.gradient_checkpointing = True
    again, others = _gradients(lm, prompts, answers)
    assert torch.equal(plain, again)
    assert all(torch.equal(one, other) for one, other in zip(norms, others, strict=True))
    assert any(norm.any() for norm in norms)


def test_less_is_kept_for_the_backward_pass(lm: VideoLM) -> None:
    prompts, answers = _repeated(lm)
    plain = kept_bytes(lambda: lm.hidden(prompts, answers))
    lm.gradient_checkpointing = True
    assert kept_bytes(lambda: lm.hidden(prompts, answers)) < plain / 4


def test_every_layer_of_the_language_model_is_computed_again_and_no_other(lm: VideoLM) -> None:
    prompts, answers = _repeated(lm)
    lm.gradient_checkpointing = True
    calls: dict[str, int] = {}
    for name, module in lm.core.named_modules():
        if isinstance(module, nn.Linear) and not name.startswith("lm_head"):
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    logprobs, _ = lm.logprobs(prompts, answers)
    calls.clear()
    logprobs.sum().backward()  # type: ignore[no-untyped-call]
    assert len(layers_of(lm.core)) == len(list(lm.core.model.language_model.layers))
    assert {name.split(".layers.")[0] for name in calls} == {"model.language_model"}
    assert set(calls.values()) == {1}


def test_sampling_and_layers_are_as_they_were(lm: VideoLM) -> None:
    sampling = Sampling(max_new_tokens=6)
    before = lm.generate(prompts_of(lm), sampling, logprobs=True)
    lm.gradient_checkpointing = True
    lm.hidden(*_repeated(lm))
    assert lm.generate(prompts_of(lm), sampling, logprobs=True) == before
    assert not any(module.training for module in lm.core.modules())


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"models.gradient_checkpointing: Linear has no layers"):
        layers_of(nn.Linear(2, 2))
