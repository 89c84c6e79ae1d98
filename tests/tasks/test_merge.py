"""A merged checkpoint answers as the product does with its adapters, and plain transformers loads it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import BASE
from torch import Tensor
from trained_lake import TrainedLake, finish, trained_lake
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from flows.cli import app
from models.video_lm import VideoLM
from storage.lake import Lake
from tasks.merge import FolderInUseError, merge
from tasks.trained import AdapterError, base_of, chosen_adapter, trained_adapters

QUESTION, ANSWERS = "what happens first?", ("a red circle grows.", "a blue cross moves left.")
DTYPES = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TrainedLake:
    return trained_lake(tmp_path_factory.mktemp("trained") / "lake")


def logprobs(lm: VideoLM) -> Tensor:
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    prompt = lm.prompt(QUESTION, lm.encode(frames))
    with torch.no_grad():
        return lm.logprobs([prompt] * len(ANSWERS), [lm.response_ids(answer) for answer in ANSWERS])[0]


def test_plain_transformers_loads_it_and_says_the_same(made: TrainedLake, tmp_path: Path) -> None:
    chosen = chosen_adapter(made.lake, "context")
    merge(made.lake, chosen, base_of(chosen, str(BASE)), tmp_path / "merged")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    plain = VideoLM(model, AutoProcessor.from_pretrained(tmp_path / "merged"))
    assert type(model).__name__ == "LlavaOnevisionForConditionalGeneration"
    assert not any("lora" in name for name, _ in model.named_parameters())
    expected = logprobs(made.tuned.load(made.lake))
    assert (logprobs(plain) - expected).abs().max() < 1e-5
    assert (logprobs(made.base.load(made.lake)) - expected).abs().max() > 0.01, "the adapters change something"
    assert (logprobs(replace(made.base, merged=(made.sft,)).load(made.lake)) - expected).abs().max() > 0.01
    assert model.generation_config.suppress_tokens, "what is never sampled goes along"


def test_in_bfloat16_the_sum_of_the_adapters_is_rounded_once(made: TrainedLake, tmp_path: Path) -> None:
    chosen = chosen_adapter(made.lake, "context")
    for dtype in DTYPES:
        merge(made.lake, chosen, base_of(chosen, str(BASE)), tmp_path / dtype, dtype=dtype)
    (exact, found), (source, rounded) = (
        [VideoLM.load(str(place), dtype=dtype).core.state_dict() for place, dtype in zip(places, DTYPES, strict=True)]
        for places in ([tmp_path / dtype for dtype in DTYPES], [BASE, BASE])
    )
    touched = [name for name, weight in source.items() if not torch.equal(exact[name], weight)]
    assert touched
    for name in touched:
        meant = rounded[name].float() + (exact[name] - source[name])
        half = torch.finfo(torch.bfloat16).eps * meant.abs() / 2
        assert ((found[name].float() - meant).abs() <= half * 1.001 + 1e-7).all(), name


def test_the_base_s_own_settings_of_sampling_go_along(made: TrainedLake, tmp_path: Path) -> None:
    """Those that none may save again, too: a temperature without sampling."""
    base = Path(shutil.copytree(BASE, tmp_path / "base"))
    file = base / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "temperature": 0.7, "repetition_penalty": 1.05}))
    chosen = chosen_adapter(made.lake, "context")
    merge(made.lake, chosen, base_of(chosen, str(base), any_base=True), tmp_path / "merged")
    assert (tmp_path / "merged" / "generation_config.json").read_bytes() == file.read_bytes()
    file.unlink()
    merge(made.lake, chosen, base_of(chosen, str(base), any_base=True), tmp_path / "without")
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "without").generation_config.eos_token_id is not None


def test_a_reward_models_head_goes_along(made: TrainedLake, tmp_path: Path) -> None:
    chosen = chosen_adapter(made.lake, "context", "reward")
    merge(made.lake, chosen, base_of(chosen, str(BASE)), tmp_path / "merged")
    kept = made.lake.blobs.folder(made.reward)
    for name in ("reward_head.safetensors", "reward_form.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (kept / name).read_bytes()


def test_a_folder_that_is_in_use_is_left_alone(made: TrainedLake, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    chosen = chosen_adapter(made.lake, "context")
    with pytest.raises(FolderInUseError, match="holds something already"):
        merge(made.lake, chosen, made.base, tmp_path / "used")
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "file"]


def test_adapters_are_chosen_by_arm_role_and_blob(made: TrainedLake) -> None:
    lake = made.lake
    assert chosen_adapter(lake).blob == made.policy, "the only arm"
    assert chosen_adapter(lake, role="sft").below == ()
    assert chosen_adapter(lake, blob=made.reward[:12]).role == "reward"
    assert chosen_adapter(lake, "context").adapters == (made.sft, made.policy)
    with pytest.raises(AdapterError, match=r"no policy adapter of arm 'other'.*There are:\n  policy context"):
        chosen_adapter(lake, "other")
    with pytest.raises(AdapterError, match="none; train some"):
        chosen_adapter(Lake(Path(lake.root).parent / "empty"))


def test_an_arms_last_round_is_its_policy_and_segments_are_not(tmp_path: Path, made: TrainedLake) -> None:
    lake = Lake(tmp_path / "lake")
    for number in (1, 2):
        finish(lake, made.base, "policy", f"own_round_{number}", f"{number}" * 64)
    assert chosen_adapter(lake, "own").blob == "2" * 64
    assert chosen_adapter(lake, "own_round_1").blob == "1" * 64
    finish(lake, made.base, "policy", "own_segment_1", "3" * 64)
    assert chosen_adapter(lake).blob == "2" * 64
    finish(lake, made.base, "policy", "other", "4" * 64)
    with pytest.raises(AdapterError, match="several arms; name one with --arm"):
        chosen_adapter(lake)
    assert len(trained_adapters(lake)) == 4


def test_only_the_base_of_the_training_is_taken(made: TrainedLake, tmp_path: Path) -> None:
    chosen = chosen_adapter(made.lake, "context")
    found = base_of(chosen, str(BASE))
    assert (found.dtype, found.merged) == ("float32", (made.sft,))
    with pytest.raises(AdapterError, match=r"a folder called 'base'; where it is now only you know: --base FOLDER"):
        base_of(chosen)
    other = tmp_path / "base"
    other.mkdir()
    for path in BASE.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "changed": 1}))
    with pytest.raises(AdapterError, match=r"is not the model that policy context .* was trained on"):
        base_of(chosen, str(other))
    assert base_of(chosen, str(other), any_base=True).name == str(other)
    with pytest.raises(AdapterError, match=r"its config\.json is missing"):
        base_of(chosen, str(tmp_path))


def test_the_command_writes_the_checkpoint_and_says_where(made: TrainedLake, tmp_path: Path) -> None:
    asked = ["merge", "--lake", made.lake.root, "--arm", "context", "--base", str(BASE), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, asked, catch_exceptions=False, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "2 adapters merged into base, float32" in done.output
    assert str(tmp_path / "out") in done.output
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "out").num_parameters() > 700_000
