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
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from models.batches import Batch, Limits
from models.parallel import ALONE, Team, share_out
from models.room import MemoryMeter, Room
from models.settings import ScheduleName

Part = TypeVar("Part")
Told = TypeVar("Told")
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
        team: the workers that train together; on each the same steps are taken.
    """

    def __init__(
        self,
        groups: dict[str, dict[str, nn.Parameter]],
        rates: dict[str, float],
        max_norm: float,
        kept: dict[str, dict[str, nn.Parameter]] | None = None,
        meters: Mapping[str, MemoryMeter | None] | None = None,
        team: Team = ALONE,
    ) -> None:
        """Args:
        groups: parameters that learn, by the group's name.
        rates: each group's highest learning rate.
        max_norm: gradients of a group are clipped to this norm.
        kept: groups of parameters that do not learn here and change all the same: they are saved and loaded too.
        meters: tell how much fits into memory, for groups whose steps are cut by that (models.room).
        team: the workers that train together.

        Raises:
            ValueError: several workers are to cut their steps by what each of them measures.
        """
        self.groups = groups
        self.team = team
        self._saved = groups | (kept or {})
        self.rates = rates
        self.max_norm = max_norm
        self._rooms = {name: Room(name, meter) for name, meter in (meters or {}).items() if meter is not None}
        if self._rooms and team.size > 1:
            raise ValueError(
                f"{team.size} workers must cut a step alike, but by models.fit_memory each would cut it by what fits "
                "into its own GPU: set that to false, and forward_tokens to what fits."
            )
        self.step = 0
        self.numbers: dict[str, float] = {}
        self._learners = {
            name: team.learner([*parameters.values()], rates[name], max_norm) for name, parameters in groups.items()
        }

    def set_rates(self, factor: float) -> None:
        """Set every group's learning rate to `factor` times its own."""
        for name, learner in self._learners.items():
            learner.set_rate(self.rates[name] * factor)

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
        learner = self._learners[group]
        share_out([loss], learner.add, self.team, idle=lambda same: learner.add(same * 0))
        return self._step(group, items, loss.item())

    def update_in_parts(
        self,
        batch: Batch,
        part: Callable[[list[int]], tuple[Tensor, Metrics]],
        limits: Limits,
        group: str,
        items: Sequence[int],
    ) -> Metrics:
        """The same as `step_in_parts` where what is told of a part is its share of some metrics.

        Returns:
            What is told, summed over the parts, and `gradient_norm`, before clipping.
        """
        each, norm = self.step_in_parts(batch, part, limits, group, items)
        told = dict[str, float]()
        for metrics in each:
            for name, value in metrics.items():
                told[name] = told.get(name, 0.0) + value
        return {**told, "gradient_norm": norm}

    def step_in_parts(
        self,
        batch: Batch,
        part: Callable[[list[int]], tuple[Tensor, Told]],
        limits: Limits,
        group: str,
        items: Sequence[int],
    ) -> tuple[list[Told], float]:
        """One optimiser step of a group on gradients that are added up over the parts of a batch, and over workers.

        Args:
            batch: what is learned from, the same on every worker: each computes its share of the parts.
            part: the share of the loss of these places of the batch, and what is told of them; its memory is free
                before the next is asked for.
            limits: of a part.
            group: of parameters.
            items: numbers of the pairs or questions that the batch is made of.

        Returns:
            What is told of every part, in their order, and the gradient norm before clipping.

        Raises:
            NotFiniteError: loss or gradient is not finite; nothing was changed.
        """
        learner = self._learners[group]

        def add(places: list[int]) -> tuple[float, Told]:
            loss, told = part(places)
            learner.add(loss)
            return loss.item(), told

        if group in self._rooms:
            done = self._in_room(batch, add, limits, group)
        else:
            parts = batch.passes(limits)
            done = share_out(parts, add, self.team, idle=lambda places: learner.add(part(places)[0] * 0))
        return [told for _, told in done], self._step(group, items, sum((loss for loss, _ in done), 0.0))

    def _in_room(self, batch: Batch, add: Callable[[list[int]], Part], limits: Limits, group: str) -> list[Part]:
        """What `add` gives for each part, cut by what fits into memory; from the beginning where it runs out."""
        room = self._rooms[group]
        while True:
            try:
                return [add(places) for places in room.passes(batch, limits)]
            except Exception as error:
                if not room.shrinks(error):
                    raise
                # A backward pass that broke off may have left half of its gradient.
                self._learners[group].drop()

    def _step(self, group: str, items: Sequence[int], total: float) -> float:
        norm = self._learners[group].step(math.isfinite(total))
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise NotFiniteError(
                f"{group}: loss {total} and gradient norm {norm} after {self.step} steps are not finite. "
                "Lower the learning rate; the last saved state is kept.",
                items,
            )
        return norm

    def resume(self, journal: Journal) -> None:
        """Continue from the journal's last state, if it has one.

        Raises:
            TrainingError: the workers did not find the same state.
        """
        if (state := journal.resume()) is not None:
            self.load(state)
        # Nobody goes on, and so nobody saves another state, before all have read this one.
        if len(found := {*self.team.gather(self.step)}) > 1:
            raise TrainingError(
                f"The workers begin after {sorted(found)} steps: not all of them see the same lake. Give every machine "
                "the same address of it (run.lake)."
            )

    def keep(self, journal: Journal, every: int, last: int, *, now: bool = False) -> None:
        """Save a state after each `every` steps, after the last one, and `now`; the first worker writes it."""
        if not now and self.step % every and self.step != last:
            return
        tensors = self._tensors()
        if self.team.rank == 0:
            with tempfile.TemporaryDirectory() as folder:
                self._write(Path(folder), tensors)
                journal.save(self.step, Path(folder))

    def save(self, folder: Path) -> None:
        """Write weights, moments and numbers: state.safetensors and state.json. Every worker must ask."""
        self._write(folder, self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"weight/{g}/{key}": value.detach() for g, p in self._saved.items() for key, value in p.items()}
        for name, learner in self._learners.items():
            for index, moments in learner.moments().items():
                tensors |= {f"moment/{name}/{index}/{key}": value for key, value in moments.items()}
        return tensors

    def _write(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

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
        for name, learner in self._learners.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                kind, group, *rest = key.split("/")
                if kind == "moment" and group == name:
                    moments.setdefault(int(rest[0]), {})[rest[1]] = value
            learner.restore(moments)


class Rates(Protocol):
    """The settings that say how a learning rate moves."""

    @property
    def warmup(self) -> int: ...
    @property
    def final_rate(self) -> float: ...
    @property
    def schedule(self) -> ScheduleName: ...


def rate_factor(step: int, steps: int, rates: Rates) -> float:
    """What the highest learning rate is multiplied by in a step, counted from 0: up over `warmup` steps, then down.

    linear: up while it already falls straight from 1 in the first step to `final_rate` behind the last. cosine: the
    cosine schedule with warm-up of transformers (get_cosine_schedule_with_warmup) over one step more, without its
    first: that and the one behind the last have the rate 0.
    """
    rising, final = min(1.0, (step + 1) / max(1, rates.warmup)), rates.final_rate
    if rates.schedule == "linear":
        return rising * (final + (1 - final) * (1 - step / steps))
    if step < rates.warmup:
        return rising
    gone = (step + 1 - rates.warmup) / max(1, steps + 1 - rates.warmup)
    return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, gone))) / 2


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
