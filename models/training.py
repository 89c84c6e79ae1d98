"""What every training loop shares: its optimiser, its schedule, and a state that resumes to the same bytes.

A step draws its batch and its noise from (seed, step) alone, so weights, optimiser moments and a few numbers are the
whole state: a run that was killed continues as if it had not been.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from models.batches import Batch, Limits
from models.room import MemoryMeter, Room

Metrics = dict[str, float]


class TrainingError(RuntimeError):
    """Training cannot go on or its result cannot be trusted; the message says why and what to change."""


class NotFiniteError(TrainingError):
    """A loss or a gradient is not finite.

    Attributes:
        items: numbers of what the step learned from: pairs, or questions.
    """

    def __init__(self, message: str, items: Sequence[int]) -> None:
        super().__init__(message)
        self.items = sorted(set(items))


class Journal(Protocol):
    """Where a training loop leaves its state and its curves."""

    def resume(self) -> Path | None:
        """The folder of the last saved state, if any."""
        ...

    def save(self, step: int, folder: Path) -> None:
        """Keep a state folder under the number of steps done, together with the metrics since the last one."""
        ...

    def log(self, step: int, metrics: Metrics) -> None:
        """Keep one step's metrics."""
        ...


class Trainer:
    """Named groups of parameters with one AdamW each, and what else belongs to the state.

    Attributes:
        step: steps done.
        numbers: further state, saved as JSON.
    """

    def __init__(
        self,
        groups: dict[str, dict[str, nn.Parameter]],
        rates: dict[str, float],
        max_norm: float,
        kept: dict[str, dict[str, nn.Parameter]] | None = None,
        meters: Mapping[str, MemoryMeter | None] | None = None,
    ) -> None:
        """Args:
        groups: parameters that learn, by the group's name.
        rates: each group's highest learning rate.
        max_norm: gradients of a group are clipped to this norm.
        kept: groups of parameters that do not learn here and change all the same: they are saved and loaded too.
        meters: tell how much fits into memory, for groups whose steps are cut by that (models.room).
        """
        self.groups = groups
        self._saved = groups | (kept or {})
        self.rates = rates
        self.max_norm = max_norm
        self._rooms = {name: Room(name, meter) for name, meter in (meters or {}).items() if meter is not None}
        self.step = 0
        self.numbers: dict[str, float] = {}
        self._optimizers = {
            name: torch.optim.AdamW(parameters.values(), lr=rates[name], weight_decay=0.0)
            for name, parameters in groups.items()
        }

    def set_rates(self, factor: float) -> None:
        """Set every group's learning rate to `factor` times its own."""
        for name, optimizer in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.rates[name] * factor

    def update(self, loss: Tensor, group: str, items: Sequence[int]) -> float:
        """One optimiser step of a group.

        Args:
            loss: of the step.
            group: of parameters.
            items: numbers of the pairs or questions that the loss was made of.

        Returns:
            The gradient norm before clipping.

        Raises:
            NotFiniteError: loss or gradient is not finite; nothing was changed.
        """
        return self._step(group, items, *_added_up([(loss, {})]))["gradient_norm"]

    def update_in_parts(
        self,
        batch: Batch,
        part: Callable[[list[int]], tuple[Tensor, Metrics]],
        limits: Limits,
        group: str,
        items: Sequence[int],
    ) -> Metrics:
        """One optimiser step of a group on gradients that are added up over the parts of a batch.

        Args:
            batch: what is learned from.
            part: the share of the loss, and of what is told, of these places of the batch; its memory is free before
                the next is asked for.
            limits: of a part.
            group: of parameters.
            items: numbers of the pairs or questions that the batch is made of.

        Returns:
            What is told, summed over the parts, and `gradient_norm`, before clipping.

        Raises:
            NotFiniteError: loss or gradient is not finite; nothing was changed.
        """
        room = self._rooms.get(group)
        if room is None:
            return self._step(group, items, *_added_up(map(part, batch.passes(limits))))
        while True:
            try:
                sums = _added_up(map(part, room.passes(batch, limits)))
            except Exception as error:
                if not room.shrinks(error):
                    raise
                # Once more from the beginning: a backward pass that broke off may have left half of its gradient.
                self._optimizers[group].zero_grad(set_to_none=True)
            else:
                return self._step(group, items, *sums)

    def _step(self, group: str, items: Sequence[int], total: float, told: Metrics) -> Metrics:
        norm = float(nn.utils.clip_grad_norm_(self.groups[group].values(), self.max_norm))
        finite = math.isfinite(total) and math.isfinite(norm)
        if finite:
            self._optimizers[group].step()
        self._optimizers[group].zero_grad(set_to_none=True)
        if not finite:
            raise NotFiniteError(
                f"{group}: loss {total} and gradient norm {norm} after {self.step} steps are not finite. "
                "Lower the learning rate; the last saved state is kept.",
                items,
            )
        return {**told, "gradient_norm": norm}

    def resume(self, journal: Journal) -> None:
        """Continue from the journal's last state, if it has one."""
        if (state := journal.resume()) is not None:
            self.load(state)

    def keep(self, journal: Journal, every: int, last: int, *, now: bool = False) -> None:
        """Save a state after each `every` steps, after the last one, and `now`."""
        if now or self.step % every == 0 or self.step == last:
            with tempfile.TemporaryDirectory() as folder:
                self.save(Path(folder))
                journal.save(self.step, Path(folder))

    def save(self, folder: Path) -> None:
        """Write weights, moments and numbers: state.safetensors and state.json."""
        from safetensors.torch import save_file

        tensors = {f"weight/{g}/{key}": value.detach() for g, p in self._saved.items() for key, value in p.items()}
        for name, optimizer in self._optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"moment/{name}/{index}/{key}": value for key, value in moments.items()}
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "state.safetensors")
        (folder / "state.json").write_text(json.dumps({"step": self.step, "numbers": self.numbers}, sort_keys=True))

    def load(self, folder: Path) -> None:
        """Continue from a saved state."""
        from safetensors.torch import load_file

        tensors = load_file(folder / "state.safetensors")
        state = json.loads((folder / "state.json").read_text())
        self.step, self.numbers = state["step"], state["numbers"]
        with torch.no_grad():
            for name, parameters in self._saved.items():
                for key, parameter in parameters.items():
                    parameter.copy_(tensors[f"weight/{name}/{key}"])
        for name, optimizer in self._optimizers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                kind, group, *rest = key.split("/")
                if kind == "moment" and group == name:
                    moments.setdefault(int(rest[0]), {})[rest[1]] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def _added_up(parts: Iterable[tuple[Tensor, Metrics]]) -> tuple[float, Metrics]:
    """Adds up the parts' gradients; gives the sums of their losses and of what they tell."""
    total, told = 0.0, dict[str, float]()
    for loss, metrics in parts:
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        for name, value in metrics.items():
            told[name] = told.get(name, 0.0) + value
    return total, told


def linear_schedule(step: int, steps: int, *, warmup: int, final: float) -> float:
    """The learning-rate factor of a step: up over `warmup` steps, then straight down to `final` at the end."""
    return min(1.0, (step + 1) / max(1, warmup)) * (final + (1 - final) * (1 - step / steps))


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The random generator of one step, the same whether or not the run was interrupted before it."""
    return np.random.default_rng([seed, step])


def passes(count: int, size: int, seed: int, step: int) -> list[int]:
    """The `size` items of a step, drawn in shuffled passes over `count`: none comes twice before all came once."""
    start = step * size
    drawn: list[int] = []
    while len(drawn) < size:
        epoch, offset = divmod(start + len(drawn), count)
        order = np.random.default_rng([seed, 1 + epoch]).permutation(count)
        drawn += order[offset : offset + size - len(drawn)].tolist()
    return drawn


def mean_metrics(each: Iterable[Metrics]) -> Metrics:
    """The mean of every metric over several updates."""
    rows = list(each)
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
