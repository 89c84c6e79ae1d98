"""Steps cut by what fits into memory: measured, halved where it runs out, and the same gradient in the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from models.batches import Batch, Limits, Load, singly
from models.parallel import Alone
from models.room import Room
from models.training import Metrics, Trainer

LENGTHS = [30, 10, 40, 10, 20, 10, 40]
BYTES = 100  # Of a token.


@dataclass
class FakeGpu:
    """A device of so many bytes whose meter says that `claimed` are free."""

    bytes: int
    claimed: int
    peak: int = 0
    tidied: int = 0
    passes: list[list[int]] = field(default_factory=list)

    def begin(self) -> None:
        self.peak = 0

    def most(self) -> int:
        return self.peak

    def free(self) -> int:
        return self.claimed

    def tidy(self) -> None:
        self.tidied += 1

    def take(self, places: list[int]) -> None:
        taken = BYTES * len(places) * max(LENGTHS[i] for i in places)
        self.peak = max(self.peak, taken)
        if taken > self.bytes:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {taken} bytes.")
        self.passes.append(places)


def _step(gpu: FakeGpu | None, limits: Limits, steps: int = 1) -> tuple[Trainer, list[Metrics]]:
    """Steps on the squares of a layer's outputs; half of a pass's gradient is there when its memory runs out."""
    torch.manual_seed(0)
    layer, inputs = nn.Linear(4, 1), torch.randn(len(LENGTHS), 4)
    trainer = Trainer({"policy": dict(layer.named_parameters())}, {"policy": 0.1}, 10.0, meters={"policy": gpu})

    def part(places: list[int]) -> tuple[Tensor, Metrics]:
        loss = (layer(inputs[places]) ** 2).sum() / len(LENGTHS)
        if gpu is not None:
            try:
                gpu.take(places)
            except torch.OutOfMemoryError:
                loss.backward()
                raise
        return loss, {"loss": loss.item()}

    loads = [Load(i, length, 0) for i, length in enumerate(LENGTHS)]
    batch = Batch(singly(len(LENGTHS)), lambda: loads)
    return trainer, [trainer.update_in_parts(batch, part, limits, "policy", []) for _ in range(steps)]


def _weights(trainer: Trainer) -> Tensor:
    return trainer.groups["policy"]["weight"].detach()


def test_the_longest_goes_first_and_tells_how_many_go_together(caplog: pytest.LogCaptureFixture) -> None:
    gpu = FakeGpu(bytes=10_000, claimed=10_000)  # 0.8 of it: 80 tokens.
    with caplog.at_level(logging.INFO):
        trainer, told = _step(gpu, Limits(100), steps=2)
    assert gpu.passes[0] == [6]
    second = gpu.passes[len(gpu.passes) // 2 + 1 :]
    for places in [*gpu.passes[1:], *second]:
        assert len(places) == 1 or len(places) * max(LENGTHS[i] for i in places) <= 80
    assert [1, 3, 5, 4] in gpu.passes, "short ones go together"
    plain, expected = _step(None, Limits(100), steps=2)
    for one, other in zip(told, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert torch.allclose(_weights(trainer), _weights(plain), atol=1e-6)
    assert "policy: a pass of 40 tokens took 0 MiB" in caplog.text
    assert "passes have at most 80 tokens" in caplog.text


def test_where_memory_runs_out_the_step_is_made_again_with_half(caplog: pytest.LogCaptureFixture) -> None:
    gpu = FakeGpu(bytes=4_500, claimed=100_000)  # Holds 45 tokens, and claims to hold 800.
    trainer, told = _step(gpu, Limits(100), steps=3)
    plain, expected = _step(None, Limits(100), steps=3)
    for one, other in zip(told, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert torch.allclose(_weights(trainer), _weights(plain), atol=1e-6)
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert 1 <= len(warned) == gpu.tidied <= 4, "what was learned is not learned again in the next step"
    assert "no memory for a pass of 240 tokens; from now on passes have at most 120" in warned[0]


def test_one_that_does_not_fit_alone_is_the_end() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        _step(FakeGpu(bytes=3_500, claimed=100_000), Limits(100))


def test_another_error_is_not_tried_again() -> None:
    room = Room("policy", FakeGpu(1, 1))
    assert not room.shrinks(ValueError("no"))


@pytest.mark.parametrize("limits", [Limits(2), Limits(100, tokens=50)])
def test_the_settings_stay_the_most(limits: Limits) -> None:
    gpu = FakeGpu(bytes=10**9, claimed=10**9)
    _step(gpu, limits)
    for places in gpu.passes:
        assert len(places) <= limits.answers
        assert len(places) == 1 or len(places) * max(LENGTHS[i] for i in places) <= (limits.tokens or 10**9)
    assert sorted(i for places in gpu.passes for i in places) == list(range(len(LENGTHS)))


class _Two(Alone):
    size = 2


def test_workers_that_train_together_do_not_cut_by_what_each_measures() -> None:
    weights = {"policy": dict(nn.Linear(4, 1).named_parameters())}
    with pytest.raises(ValueError, match=r"2 workers must cut a step alike.*fit_memory"):
        Trainer(weights, {"policy": 0.1}, 10.0, meters={"policy": FakeGpu(1, 1)}, team=_Two())
    Trainer(weights, {"policy": 0.1}, 10.0, meters={"policy": None}, team=_Two())
