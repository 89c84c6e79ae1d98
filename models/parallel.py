"""The workers of one training: each computes its share of a step, and all of them take the same step.

A step is cut into the same forward parts whatever the number of workers, and a part's loss is its share of the step's
(models.reductions). So gradients are *added up* over the workers, never averaged: the sum over all parts is the step's
gradient, wherever each part was computed. Sampling and scoring are cut into the same batches, each with a seed of its
own, so an answer does not depend on who drew it. One worker does what it would do without this file, to the byte;
several differ from it by the order in which floating-point numbers are added.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Job = TypeVar("Job")
Result = TypeVar("Result")

BUCKET = 2**23  # Numbers that are summed in one message: 32 MiB in float32.


class Learner(Protocol):
    """Takes the optimiser steps of one group of parameters, together with its likes on the other workers."""

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step."""
        ...

    def add(self, loss: Tensor) -> None:
        """Add the gradient of one part, whose loss is its share of the step's."""
        ...

    def drop(self) -> None:
        """Forget what this worker added since the last step."""
        ...

    def step(self, finite: bool) -> float:
        """The parts of all workers are added: one step on their gradient, clipped.

        Args:
            finite: whether the loss is; where it or the gradient is not, no parameter changes.

        Returns:
            The gradient's norm before clipping; not finite where that is so.
        """
        ...

    def moments(self) -> dict[int, dict[str, Tensor]]:
        """AdamW's state of each parameter, by its number, whole; every worker must ask."""
        ...

    def restore(self, moments: dict[int, dict[str, Tensor]]) -> None:
        """Go on from such a state, and from what the parameters are now."""
        ...


class Team(Protocol):
    """The workers of a training.

    Attributes:
        rank: this one's number, from 0. Number 0 keeps the journal.
        size: how many there are.
        in_step: whether all must run equally many forward and backward passes, because they exchange weights or
            gradients in each.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def in_step(self) -> bool: ...

    def gather(self, mine: Result) -> list[Result]:
        """What each worker has, by rank. Tensors keep their kind of device."""
        ...

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add up over the workers, in place: afterwards all have the same bytes."""
        ...

    def learner(self, parameters: Sequence[nn.Parameter], rate: float, max_norm: float) -> Learner:
        """What takes the steps of these parameters, clipping their gradient to `max_norm`."""
        ...

    def partition(self, model: Any) -> None:
        """Leave each worker a part of a transformers model's frozen weights, where this team does that.

        It comes before the model goes to its device and before any adapter.

        Raises:
            ValueError: weights of this kind cannot be divided.
        """
        ...


class AdamW:
    """Every worker has all of the optimiser's state; gradients are summed before the step.

    https://arxiv.org/abs/1711.05101, without weight decay.
    """

    def __init__(self, team: Team, parameters: Sequence[nn.Parameter], rate: float, max_norm: float) -> None:
        self._team, self._parameters, self._max_norm = team, list(parameters), max_norm
        self._optimizer = torch.optim.AdamW(self._parameters, lr=rate, weight_decay=0.0)

    def set_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def add(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def drop(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def step(self, finite: bool) -> float:
        if self._team.size > 1:
            for parameter in self._parameters:  # a worker without a part of its own has none
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self._team.sum_([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._max_norm))
        if finite and math.isfinite(norm):
            self._optimizer.step()
        self.drop()
        return norm

    def moments(self) -> dict[int, dict[str, Tensor]]:
        state: dict[int, dict[str, Tensor]] = self._optimizer.state_dict()["state"]
        return state

    def restore(self, moments: dict[int, dict[str, Tensor]]) -> None:
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})


class Alone:
    """A training on one worker."""

    rank, size, in_step = 0, 1, False

    def gather(self, mine: Result) -> list[Result]:
        return [mine]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """There is nobody to add."""

    def learner(self, parameters: Sequence[nn.Parameter], rate: float, max_norm: float) -> Learner:
        return AdamW(self, parameters, rate, max_norm)

    def partition(self, model: Any) -> None:
        """Each worker keeps the whole model."""


ALONE = Alone()


class Workers(Alone):
    """The processes of torch.distributed's default group: plain data parallelism.

    The group must have been begun (`torch.distributed.init_process_group`); with GPUs its backend is
    "cpu:gloo,cuda:nccl", so that objects travel without the GPU.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def gather(self, mine: Result) -> list[Result]:
        file = io.BytesIO()
        torch.save(mine, file)
        sent: list[Any] = [None] * self.size
        dist.all_gather_object(sent, file.getvalue())
        return [torch.load(io.BytesIO(each), map_location=_here, weights_only=False) for each in sent]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat, op=dist.ReduceOp.SUM)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))


def _here(storage: Any, location: str) -> Any:
    """A GPU's tensor comes to this worker's GPU, whatever the sender calls its own."""
    return storage if location == "cpu" else storage.to(device=torch.device("cuda", torch.cuda.current_device()))


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Tensors of one dtype in runs of at most BUCKET numbers; a larger one stands alone."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(each.numel() for each in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def is_partitioned(model: nn.Module) -> bool:
    """Whether workers have a part of its weights each (`Team.partition`), so that they must forward in step."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())  # DeepSpeed's mark


def share_out(
    jobs: Sequence[Job],
    do: Callable[[Job], Result],
    team: Team = ALONE,
    idle: Callable[[Job], object] | None = None,
) -> list[Result]:
    """`do(job)` of every job, in their order, on every worker; each worker does its share of them.

    Args:
        jobs: the same on every worker.
        do: gives the same whoever does it.
        team: the workers.
        idle: what a worker does with some job when it has one less than the others and all must keep in step; None:
            it does it, and its result is dropped.
    """
    mine = [do(job) for job in jobs[team.rank :: team.size]]
    if team.size == 1:
        return mine
    if team.in_step and len(mine) < -(-len(jobs) // team.size):
        (idle or do)(jobs[-1])
    done = team.gather(mine)
    return [done[number % team.size][number // team.size] for number in range(len(jobs))]
