"""The GPU measurements at tiny size: both ways do the same work, however it is cut, and no result is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.sequences import Prompt
from models.settings import LoraSettings
from perf import gpu_stages
from perf.gpu_ways import Ours, Plain, Work
from perf.model_flops import ModelFlops
from perf.shapes import SHAPES, Shape, new_model

SMALL = SHAPES["small"]
TINY = replace(
    SMALL,
    tower={**SMALL.tower, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "image_size": 16},
    text={**SMALL.text, "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    frames=3,
    new_tokens=4,
    rank=2,
)
ONE_ROW = 40  # Tokens: no two rows fit into a pass.


def work(shape: Shape = TINY, pass_tokens: int | None = None) -> Work:
    return Work(new_model(shape, "cpu"), shape, 4, pass_tokens)


def learned(shape: Shape, pass_tokens: int | None) -> torch.Tensor:
    """How a plain step on pairs, of size 1 along the gradient, moves the adapter [all weights of B]."""
    plain = Plain(work(shape, pass_tokens))
    weights = [weight for name, weight in plain.lm.adapter_parameters("reward").items() if "lora_B" in name]
    plain._steps["reward"] = torch.optim.SGD(weights, lr=1.0)
    plain.reward_step()
    return torch.cat([weight.detach().flatten() for weight in weights])


@pytest.mark.parametrize("pass_tokens", [None, ONE_ROW, 100])
def test_both_ways_compute_the_same_however_it_is_cut(pass_tokens: int | None) -> None:
    with torch.no_grad():
        expected = Plain(work()).logprobs()
        plain, ours = Plain(work(pass_tokens=pass_tokens)).logprobs(), Ours(work(pass_tokens=pass_tokens)).logprobs()
    assert plain.shape == (SMALL.prompts * 4, TINY.new_tokens)
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=0)
    # The plain way leaves tokens that are never sampled in its softmax: a constant a token, above its own.
    gap = ours - expected
    assert (gap > 0).all()
    assert gap.max() < 0.2


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_plain_step_is_the_same_in_parts_and_with_layers_computed_again(checkpointing: bool) -> None:
    expected = learned(TINY, None)
    assert expected.abs().max() > 0
    found = learned(replace(TINY, gradient_checkpointing=checkpointing), ONE_ROW)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("way", [Plain, Ours])
def test_a_large_shape_keeps_only_the_inputs_of_layers(way: type[Plain] | type[Ours]) -> None:
    def kept(checkpointing: bool) -> int:
        done = way(work(replace(TINY, gradient_checkpointing=checkpointing)))
        seen = dict[int, int]()

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            seen[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            if isinstance(done, Plain):
                done._logprobs([0, 1])
            else:
                done.logprobs()
        return sum(seen.values())

    assert kept(True) < kept(False) / 2


@pytest.mark.parametrize("pass_tokens", [None, ONE_ROW])
def test_an_iteration_in_bfloat16_with_layers_computed_again_runs_both_ways(pass_tokens: int | None) -> None:
    shape = replace(TINY, dtype=torch.bfloat16, sampling_copy=False, gradient_checkpointing=True)
    assert Ours(work(shape)).settings.max_gap == 0.03
    Plain(work(shape, pass_tokens)).ppo(0)
    assert Ours(work(shape, pass_tokens)).ppo(0)["rollout_gap"] < 0.03


def test_model_flops_are_those_that_torch_counts() -> None:
    lm = new_model(SMALL, "cpu")
    lm.core.set_attn_implementation("eager")
    sums, prompt, answer = ModelFlops(lm.core), 300, 100
    asked = Prompt(tuple([7] * prompt), torch.zeros(0, SMALL.text["hidden_size"]))
    weights, pairs = sums._parts(prompt, 1, answer, scored=False)
    with FlopCounterMode(display=False) as there, torch.no_grad():
        lm.hidden([asked], [[8] * answer])
    assert there.get_total_flops() == weights + 2 * pairs  # The mask hides half of what is computed.

    lm.add_adapter("policy", LoraSettings(rank=1, alpha=1), 0)
    lm.use("policy")
    with FlopCounterMode(display=False) as trained:
        lm.hidden([asked], [[8] * answer]).before_response.sum().backward()
    assert trained.get_total_flops() == pytest.approx(2 * weights + 3 * 2 * pairs, rel=0.1)


def test_model_flops_of_the_tower_are_those_that_torch_counts() -> None:
    work_here = work(SMALL)
    work_here.lm.core.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counted:
        work_here.encode()
    assert counted.get_total_flops() == gpu_stages.amounts(work_here)["encoding"][1]


def test_a_stage_without_memory_is_told_and_the_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 88 GiB.")

    out = tmp_path / "found.json"
    monkeypatch.setitem(SHAPES, "small", TINY)
    monkeypatch.setattr(Plain, "reward_step", too_large)
    arguments = ["--device", "cpu", "--repeats", "1", "--commit", "abc1234", "--note", "busy", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["gpu_stages", *arguments])
    assert gpu_stages.main() == 1
    found = json.loads(out.read_text())
    assert found["stages"]["reward_model_step"]["plain"] == {"failed": "out of memory; lower --pass-tokens"}
    assert found["stages"]["reward_model_step"]["ours"]["seconds"] > 0
    assert set(found["times_as_fast"]) == {"sampling", "log_probabilities", "ppo_iteration"}
    assert (found["as_asked"], found["commit"], found["note"]) == (False, "abc1234", "busy")
    assert {"torch", "transformers", "peft"} <= set(found["versions"])
    assert found["machine"]["cpu"]


class Meter:
    """models.room.CudaMeter: a pass took 1,000 bytes and 10,000 are free."""

    def __init__(self, _: torch.device) -> None:
        self._began = False

    def begin(self) -> None:
        self._began = True

    def most(self) -> int:
        assert self._began
        return 1000

    def free(self) -> int:
        return 10_000


def test_a_pass_may_have_what_fits_by_what_a_pair_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_stages, "CudaMeter", Meter)
    plain = Plain(work())
    pair = 2 * (len(plain.work.prompts[0].ids) + TINY.new_tokens)
    assert gpu_stages.fitting(plain) == 8 * pair

    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Plain, "reward_step", too_large)
    assert gpu_stages.fitting(plain) == 1


def test_figures_are_compared_with_what_is_asked() -> None:
    def found(sampling: float, vllm: float) -> dict[str, dict[str, dict[str, Any]]]:
        return {
            "sampling": {"plain": {"seconds": 3.0}, "ours": {"seconds": sampling}, "vllm": {"seconds": vllm}},
            "reward_model_step": {"plain": {"seconds": 2.0}, "ours": {"seconds": 1.0}},
            "ppo_iteration": {"plain": {"seconds": 4.0}, "ours": {"seconds": 1.0}},
        }

    assert gpu_stages.compared(found(1.0, 0.8)) == (
        {"sampling": 3.0, "sampling_beside_vllm": 0.8, "reward_model_step": 2.0, "ppo_iteration": 4.0},
        True,
    )
    assert not gpu_stages.compared(found(1.1, 1.0))[1]
    assert not gpu_stages.compared(found(1.0, 0.7))[1]


# Hides what is not to be needed: it is not found, as if it were not installed.
ALONE = """
import sys
from dataclasses import replace

class Without:
    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
from perf import gpu_stages
from perf.shapes import SHAPES

small = SHAPES["small"]
SHAPES["small"] = replace(small, frames=2, new_tokens=2, text={**small.text, "num_hidden_layers": 1})
gpu_stages.main()
"""
ROOMS = {"benchmarks", "flows", "miniature", "storage", "tasks"}
OTHERS = {
    "av",
    "decord",
    "deepspeed",
    "deltalake",
    "duckdb",
    "fastapi",
    "openai",
    "prefect",
    "pyarrow",
    "pydantic",
    "ray",
}


@pytest.mark.slow
def test_it_needs_nothing_but_torch_transformers_and_peft(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    arguments = ["--device", "cpu", "--repeats", "1", "--commit", "abc1234", "--out", str(out)]
    code = ALONE.replace("HIDDEN", repr(ROOMS | OTHERS))
    # Its status says how fast the ways are, which is of no matter here.
    subprocess.run([sys.executable, "-c", code, *arguments], check=False, cwd=Path(__file__).parents[2])
    ways = [way for stage in json.loads(out.read_text())["stages"].values() for way in stage.values()]
    assert len(ways) == 9
    assert not any("failed" in figures for figures in ways)
