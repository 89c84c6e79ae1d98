"""What every training loop shares: a state that resumes to the same bits, draws, schedules and batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import files_of
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from models.settings import SftSettings
from models.training import (
    NotFiniteError,
    Trainer,
    mean_metrics,
    passes,
    rate_factor,
    step_rng,
)

STEPS = 6


def rates(**given: Any) -> SftSettings:
    return SftSettings(**given)


def _trainer() -> Trainer:
    torch.manual_seed(0)
    layers = {"policy": nn.Linear(3, 2), "value": nn.Linear(3, 1)}
    groups = {name: dict(layer.named_parameters()) for name, layer in layers.items()}
    return Trainer(groups, {"policy": 0.1, "value": 0.03}, max_norm=0.5)


def _loss(trainer: Trainer, group: str) -> Tensor:
    inputs = torch.from_numpy(step_rng(7, trainer.step).normal(size=(4, 3))).float()
    weights = trainer.groups[group]
    return ((inputs @ weights["weight"].T + weights["bias"] - 1) ** 2).mean()


def _go(trainer: Trainer, until: int) -> None:
    while trainer.step < until:
        trainer.set_rates(rate_factor(trainer.step, STEPS, rates(warmup=2, final_rate=0.1)))
        for group in trainer.groups:
            trainer.numbers[group] = trainer.update(_loss(trainer, group), group, [])
        trainer.step += 1


def _state(trainer: Trainer, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    trainer.save(folder)
    return files_of(folder)


@pytest.mark.parametrize("stop", range(STEPS))
def test_a_loaded_state_continues_bit_for_bit(stop: int, tmp_path: Path) -> None:
    undisturbed, first, second = _trainer(), _trainer(), _trainer()
    _go(undisturbed, STEPS)
    _go(first, stop)
    _state(first, tmp_path / "stopped")
    _go(second, 1)  # whatever the new process did before it loads leaves no trace
    second.load(tmp_path / "stopped")
    assert (second.step, second.numbers) == (first.step, first.numbers)
    _go(second, STEPS)
    assert _state(second, tmp_path / "resumed") == _state(undisturbed, tmp_path / "undisturbed")


def test_a_step_lowers_the_loss_and_clips_the_gradient() -> None:
    trainer = _trainer()
    before = _loss(trainer, "policy")
    norm = trainer.update(_loss(trainer, "policy") * 1000, "policy", [])
    assert norm > trainer.max_norm
    assert _loss(trainer, "policy") < before


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_training_and_changes_nothing(what: str, tmp_path: Path) -> None:
    trainer, calm = _trainer(), _trainer()
    _go(trainer, 2)
    _go(calm, 2)
    before = _state(trainer, tmp_path / "before")
    weight = trainer.groups["policy"]["weight"]
    bad = weight.sum() * math.nan if what == "loss" else (weight * 0).sqrt().sum()  # 0, but its slope has no limit
    assert bool(torch.isfinite(bad)) == (what == "gradient")
    told = r"policy: loss .* after 2 steps are not finite. Lower the learning rate"
    with pytest.raises(NotFiniteError, match=told) as stopped:
        trainer.update(bad, "policy", [7, 3, 7])
    assert stopped.value.items == [3, 7]
    assert _state(trainer, tmp_path / "after") == before
    _go(trainer, 3)
    _go(calm, 3)
    assert _state(trainer, tmp_path / "went on") == _state(calm, tmp_path / "calm")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 1000), st.integers(1, 12))
def test_every_item_is_drawn_once_before_any_comes_twice(count: int, size: int, seed: int, steps: int) -> None:
    drawn = [passes(count, size, seed, step) for step in range(steps)]
    assert {len(batch) for batch in drawn} == {size}
    stream = [item for batch in drawn for item in batch]
    for start in range(0, len(stream), count):
        one_pass = stream[start : start + count]
        assert len(set(one_pass)) == len(one_pass)
        assert set(one_pass) <= set(range(count))
        if len(one_pass) == count:
            assert set(one_pass) == set(range(count))
    # A step draws what it would have drawn had nothing come before it.
    assert passes(count, size * steps, seed, 0) == stream


def test_passes_are_shuffled_anew_and_by_the_seed() -> None:
    first, second = passes(50, 50, 0, 0), passes(50, 50, 0, 1)
    assert first != second
    assert first != sorted(first)
    assert first != passes(50, 50, 1, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(0, 50), st.floats(0, 1))
def test_the_schedule_rises_then_falls_straight_to_its_end(steps: int, warmup: int, final: float) -> None:
    factors = [rate_factor(step, steps, rates(warmup=warmup, final_rate=final)) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    falling = [final + (1 - final) * (1 - step / steps) for step in range(steps)]
    assert factors[max(0, warmup - 1) :] == pytest.approx(falling[max(0, warmup - 1) :])
    assert all(factor <= line for factor, line in zip(factors, falling, strict=True))
    assert rate_factor(steps, steps, rates(warmup=1, final_rate=final)) == pytest.approx(final)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(0, 50))
def test_the_cosine_is_that_of_transformers_without_steps_of_rate_0(steps: int, warmup: int) -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = get_cosine_schedule_with_warmup(optimiser, warmup, steps + 1)
    cosine = rates(warmup=warmup, final_rate=0.0, schedule="cosine")
    for step in range(steps):
        optimiser.step()
        peer.step()
        assert rate_factor(step, steps, cosine) == pytest.approx(peer.get_last_lr()[0], abs=1e-12)
        assert rate_factor(step, steps, cosine) > 0


def test_the_cosine_falls_to_its_last_rate_and_a_linear_one_is_no_part_of_a_key() -> None:
    cosine = rates(warmup=3, final_rate=0.1, schedule="cosine")
    factors = [rate_factor(step, 40, cosine) for step in range(41)]
    assert factors[2] == max(factors) == 1
    assert factors[-1] == pytest.approx(0.1)
    assert TypeAdapter(SftSettings).dump_python(cosine)["schedule"] == "cosine"
    assert "schedule" not in TypeAdapter(SftSettings).dump_python(rates())


def test_warm_up_reaches_the_whole_rate() -> None:
    factors = [rate_factor(step, 10**6, rates(warmup=4, final_rate=0.1)) for step in range(5)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1], abs=1e-4)


def test_metrics_of_several_updates_are_averaged() -> None:
    assert mean_metrics([{"loss": 1.0, "norm": 4.0}, {"loss": 3.0, "norm": 0.0}]) == {"loss": 2.0, "norm": 2.0}
