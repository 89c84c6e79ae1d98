"""Adapters below a model: summed in float32, rounded once, and before the weights are rounded to four bits."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from coarse import STEP, CoarseConfig, is_rounded, rounded
from tiny import BASE, LORA, save_random, shake
from torch import Tensor

from models import loading, quantization
from models.video_lm import VideoLM


def adapters(base: Path, to: Path, scale: float = 0.02, count: int = 2) -> list[Path]:
    """Saved adapters of that base, each of its own."""
    folders = []
    for number in range(count):
        lm = VideoLM.load(str(base))
        lm.add_adapter("policy", LORA, seed=number)
        shake(lm.adapter_parameters("policy").values(), seed=number, scale=scale)
        folders.append(to / f"adapter_{number}")
        lm.save_adapter("policy", folders[-1], base=BASE)
    return folders


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module", params=sorted(zoo.ZOO))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save(request.param, tmp_path_factory.mktemp("zoo") / request.param)


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked to be in four bits is on a coarse grid instead, which needs neither GPU nor bitsandbytes."""

    def how(asked: str, *_: Any) -> dict[str, Any]:
        return {} if asked == "none" else {"quantization_config": CoarseConfig()}

    monkeypatch.setattr(loading, "load_arguments", how)


def weights(lm: VideoLM) -> dict[str, Tensor]:
    return dict(lm.core.state_dict())


def one_after_another(base: Path, folders: Sequence[Path], dtype: str) -> dict[str, Tensor]:
    """PEFT's own merge, adapter by adapter; each rounds to the dtype."""
    from peft import PeftModel

    core = VideoLM.load(str(base), dtype=dtype).core
    for folder in folders:
        core = PeftModel.from_pretrained(core, folder).merge_and_unload()
    return dict(core.state_dict())


@pytest.mark.parametrize("count", [1, 3])
def test_in_float32_the_weights_are_those_of_merging_one_after_another(base: Path, tmp_path: Path, count: int) -> None:
    folders = adapters(base, tmp_path, count=count)
    found = weights(VideoLM.load(str(base), merge=folders))
    expected = one_after_another(base, folders, "float32")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_in_bfloat16_one_adapter_is_rounded_as_peft_rounds_it(base: Path, tmp_path: Path) -> None:
    folders = adapters(base, tmp_path, count=1)
    found = weights(VideoLM.load(str(base), merge=folders, dtype="bfloat16"))
    expected = one_after_another(base, folders, "bfloat16")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_in_bfloat16_rounds_are_summed_before_they_are_rounded(base: Path, tmp_path: Path) -> None:
    """The same small round nine times over: each alone is lost in most weights, all together are not."""
    folders = adapters(base, tmp_path, scale=0.003, count=1) * 9
    plain = weights(VideoLM.load(str(base), dtype="bfloat16"))
    exact = weights(VideoLM.load(str(base), merge=folders))
    source = weights(VideoLM.load(str(base)))
    found = weights(VideoLM.load(str(base), merge=folders, dtype="bfloat16"))
    touched = [name for name in source if not torch.equal(source[name], exact[name])]
    assert touched
    for name in touched:
        meant = plain[name].float() + (exact[name] - source[name])
        gap = torch.finfo(torch.bfloat16).eps * meant.abs()
        assert ((found[name].float() - meant).abs() <= gap / 2 * 1.001 + 1e-7).all(), name

    def share(got: dict[str, Tensor]) -> float:
        moved = torch.cat([(got[name].float() - plain[name].float()).flatten() for name in touched])
        wanted = torch.cat([(exact[name] - source[name]).flatten() for name in touched])
        return float(moved @ wanted / (wanted @ wanted))

    assert share(found) == pytest.approx(1, abs=0.03)


@pytest.mark.usefixtures("coarse")
def test_adapters_are_in_the_weights_before_they_are_rounded(family: Path, tmp_path: Path) -> None:
    """In every family: its own class, names of weights, tied ones and what is beside the weights come through."""
    folders = adapters(family, tmp_path)
    whole = VideoLM.load(str(family), merge=folders)
    found = VideoLM.load(str(family), merge=folders, quantization="nf4")
    assert found.quantized
    assert type(found.core) is type(whole.core)
    expected, got = weights(whole), weights(found)
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(got[name], rounded(weight) if is_rounded(name) else weight), name
    assert any(is_rounded(name) for name in got)
    assert found.core.config.name_or_path == whole.core.config.name_or_path
    assert found.core.generation_config.to_dict() == whole.core.generation_config.to_dict()
    assert (found.end_ids, found.suppressed) == (whole.end_ids, whole.suppressed)
    assert {name for name, _ in found.core.named_buffers()} == {name for name, _ in whole.core.named_buffers()}
    for name, buffer in whole.core.named_buffers():  # of positions; no state dict has them
        assert torch.equal(found.core.get_buffer(name), buffer), name
    assert not any(parameter.requires_grad for parameter in found.core.parameters())


@pytest.mark.usefixtures("coarse")
def test_an_update_far_below_the_grid_survives_on_average(base: Path, tmp_path: Path) -> None:
    folders = adapters(base, tmp_path, scale=0.03, count=1)
    plain, whole = weights(VideoLM.load(str(base))), weights(VideoLM.load(str(base), merge=folders))
    before = weights(VideoLM.load(str(base), quantization="nf4"))
    after = weights(VideoLM.load(str(base), merge=folders, quantization="nf4"))
    names = [name for name in plain if is_rounded(name)]
    wanted = torch.cat([(whole[name] - plain[name]).flatten() for name in names])
    assert wanted.abs().quantile(0.99) < STEP / 2  # from a point of the grid it would round back to it
    moved = torch.cat([(after[name] - before[name]).flatten() for name in names])
    assert float(moved @ wanted / (wanted @ wanted)) == pytest.approx(1, abs=0.1)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="takes bitsandbytes; its CPU part will do")
def test_four_bits_of_merged_weights_are_those_of_a_merged_checkpoint(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "_check", lambda _device: None)
    folders = adapters(family, tmp_path)
    whole = VideoLM.load(str(family), merge=folders, dtype="bfloat16")
    whole.core.save_pretrained(tmp_path / "merged")
    whole.processor.save_pretrained(tmp_path / "merged")
    expected = weights(VideoLM.load(str(tmp_path / "merged"), dtype="bfloat16", quantization="nf4"))
    found = VideoLM.load(str(family), merge=folders, dtype="bfloat16", quantization="nf4")
    assert found.quantized
    got = weights(found)
    assert got.keys() == expected.keys()
    assert any(name.endswith("quant_state.bitsandbytes__nf4") for name in got)
    assert all(torch.equal(got[name], weight) for name, weight in expected.items())
