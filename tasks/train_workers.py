"""A training on several workers: Ray Train starts them as one group, and anew where one of them dies.

The group's workers run the code that one worker runs (tasks.training.Trainer), each with its team
(models.parallel.Team). A group that is started anew goes on from the last state in the lake, as a killed run does; Ray
Train keeps no checkpoints of its own.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from models.memory import ran_out
from tasks.expense import NOTHING, Expense, metered
from tasks.worker import Outcome, OutOfMemory, StageFailure, portable

if TYPE_CHECKING:
    from models.parallel import Team

logger = logging.getLogger(__name__)

POLL_S = 0.2
PLACE_S = 5.0
NEEDLESS = ("DatasetsCallback", "PlacementGroupCleanerCallback")


@dataclass(frozen=True)
class TrainingWorkers:
    """How many workers a training has.

    Attributes:
        count: workers; 1: a training runs as every other stage does.
        deepspeed: a DeepSpeed configuration of ZeRO stage 2 or 3, by which they divide what each would keep whole;
            None: plain data parallelism.
    """

    count: int = 1
    deepspeed: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Order:
    """What a group of workers is to do.

    Attributes:
        payload: a pickled (Trainer, Training).
        environment: variables that the workers are given; never written anywhere.
        workers: how many, and how they divide the work.
        gpus: for each of them.
        starts: so often may the group be started.
        search_path: the driver's sys.path, so that whatever the driver imported unpickles.
    """

    payload: bytes = field(repr=False)
    environment: dict[str, str] = field(repr=False)
    workers: TrainingWorkers
    gpus: float
    starts: int
    search_path: list[str] = field(repr=False)


class GroupCancelled(Exception):
    """Nobody waits for the training any more."""


class TrainingGroup:
    """The driver's end of a group of workers."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._conductor: Any = None

    def run(self, cancelled: Callable[[], bool]) -> tuple[list[Outcome], Expense]:
        """What the training gave, and what all workers together did for it.

        Raises:
            StageFailure: it cannot go on, whoever runs it; or its group died too often.
            GroupCancelled: `cancelled` says so.
        """
        import ray

        if lack := _lack(self._order, ray.cluster_resources()):
            logger.warning("%s", lack)
        threads = self._order.workers.count + 2  # the workers may all ask it at once, while it waits for them
        actor = ray.remote(Conductor).options(num_cpus=0, max_concurrency=threads)
        self._conductor = actor.remote()
        try:
            reply = self._conductor.conduct.remote(self._order)
            while not ray.wait([reply], timeout=POLL_S)[0]:
                if cancelled():
                    raise GroupCancelled
            outcomes, refusal, expense = ray.get(reply)
        except ray.exceptions.RayActorError as error:
            if cancelled():
                raise GroupCancelled from error
            raise StageFailure(
                "the process that started the training's workers died, most likely out of memory; run the same command "
                "again to continue"
            ) from error
        finally:
            self.kill()
        if refusal is not None:
            raise refusal
        return outcomes, expense

    def kill(self) -> None:
        """Ends the group: its processes live no longer than their conductor's."""
        conductor, self._conductor = self._conductor, None
        if conductor is None:
            return
        import ray

        if ray.is_initialized():
            place = _place_of(conductor)
            ray.kill(conductor)
            if place is not None:
                ray.util.remove_placement_group(place)


def _lack(order: Order, there: Mapping[str, float]) -> str | None:
    """What is told where Ray has too little for the group, and waits for it: a cluster may grow, another never will."""
    wanted = {"CPU": float(order.workers.count), "GPU": order.workers.count * order.gpus}
    lacking = {name: count for name, count in wanted.items() if there.get(name, 0.0) < count}
    if not lacking:
        return None
    told = " and ".join(f"{count:g} {name}s (it has {there.get(name, 0.0):g})" for name, count in lacking.items())
    return (
        f"A training on {order.workers.count} workers waits until Ray has {told}: where its cluster does not grow by "
        "itself, stop the run, lower run.training_workers or add machines, and run the same command again."
    )


def _place_of(conductor: Any) -> Any:
    """The placement group that holds the workers' CPUs and GPUs; None where nobody can say."""
    import ray

    try:
        return ray.get(conductor.place.remote(), timeout=PLACE_S)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        return None


class Conductor:
    """The Ray actor that starts the group, hands its workers their order, and hears what came of it.

    It has no share of CPU or GPU. What workers are told and tell goes by calls, since Ray's logs show the rest.
    """

    def __init__(self) -> None:
        self._order: Order
        self._place: Any = None
        self._refusal: Exception | None = None
        self._expense = NOTHING
        self._ended = threading.Event()

    def conduct(self, order: Order) -> tuple[list[Outcome], Exception | None, Expense]:
        """Runs the group to its end: the outcomes, or why there are none, and what was done for it."""
        import ray

        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        # A process that asks every 5 s whether Ray gives up the node; nothing here would do anything about it.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        self._order = order
        outcomes: list[Outcome] = []
        with tempfile.TemporaryDirectory() as folder:
            trainer = _torch_trainer(order, ray.get_runtime_context().current_actor, folder)

            def fit() -> None:
                try:
                    outcomes.extend(trainer.fit().return_value)
                except Exception as error:
                    self.refuse(_given_up(order, error))
                self._ended.set()

            threading.Thread(target=fit, daemon=True).start()
            self._ended.wait()  # a refusal ends it too: Ray Train would start the group again
        return outcomes, self._refusal, self._expense

    def order(self, place: Any) -> Order:
        """What a worker is to do; `place`: Ray's placement group, in which the group stands since its last start."""
        self._place = place
        return self._order

    def place(self) -> Any:
        """The placement group of the group's workers; None before they came to work."""
        return self._place

    def refuse(self, failure: Exception) -> None:
        """A worker says why the training cannot go on, whoever runs it; the first that says so counts."""
        self._refusal = self._refusal or failure
        self._ended.set()

    def pay(self, expense: Expense) -> None:
        """A worker says what it did."""
        self._expense += expense


def _torch_trainer(order: Order, conductor: Any, folder: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    class Trainer(TorchTrainer):  # type: ignore[misc]  # Ray has no types here
        def _create_default_callbacks(self) -> list[Any]:
            """Without two that start a process each: for datasets, of which there are none, and to give back the
            workers' placement group where Ray Train's controller has died. That one asks a dashboard, which a local Ray
            does not have; the driver gives the place back itself (TrainingGroup.kill).
            """
            made = super()._create_default_callbacks()
            return [each for each in made if type(each).__name__ not in NEEDLESS]

    resources = {"CPU": 1.0} | ({"GPU": order.gpus} if order.gpus else {})
    path = order.search_path

    def work() -> list[Outcome]:  # pickled whole: a worker's process does not know this package before
        sys.path.extend(each for each in path if each not in sys.path)
        from tasks.train_workers import train_in_group

        return train_in_group(conductor)

    return Trainer(
        work,
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if order.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=order.workers.count, use_gpu=bool(order.gpus), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="training", storage_path=folder, failure_config=FailureConfig(max_failures=order.starts - 1)
        ),
    )


def _given_up(order: Order, error: Exception) -> StageFailure:
    return StageFailure(
        f"a training on {order.workers.count} workers, whose group is started {order.starts} times at most, ended "
        f"because: {_cause(error)}; run the same command again to continue from the last saved state"
    )


def _cause(error: Exception) -> str:
    """The last line of what a worker said, or of what Ray Train says."""
    failures = getattr(error, "worker_failures", None) or {}
    said = [str(failure).strip() for _, failure in sorted(failures.items())] or [str(error).strip()]
    return "; ".join(dict.fromkeys(each.splitlines()[-1] for each in said if each))


def train_in_group(conductor: Any) -> list[Outcome]:
    """What one worker of the group does, in a process and a process group of torch.distributed that Ray Train made."""
    import ray
    import torch

    order: Order = ray.get(conductor.order.remote(ray.util.get_current_placement_group()))
    os.environ.update(order.environment)
    torch.set_num_threads(1)
    trainer, training = pickle.loads(order.payload)
    try:
        with metered() as spent:
            team = _team(order.workers, training.model.device)
            outcomes: list[Outcome] = trainer(training, team).process([], 0)
            team.gather(None)  # nobody leaves the process group while another is still at it
    except Exception as error:
        ray.get(conductor.pay.remote(spent.expense))
        failure = OutOfMemory.of(error, "this training") if ran_out(error) else error
        if _is_final(failure):
            ray.get(conductor.refuse.remote(portable(failure)))
        raise
    ray.get(conductor.pay.remote(spent.expense))
    return outcomes


def _team(workers: TrainingWorkers, device: str) -> Team:
    if workers.deepspeed is None:
        from models.parallel import Workers

        return Workers()
    from models.zero import ZeroWorkers

    return ZeroWorkers(workers.deepspeed, device)


def _is_final(failure: Exception) -> bool:
    """Whether the training itself says that it cannot go on, or needs more memory than there is.

    A neighbour's death, a disk, or a process killed for its memory may be past when the group is started anew.
    """
    from models.training import TrainingError

    if isinstance(failure, OutOfMemory):
        return True
    return isinstance(failure, StageFailure) and isinstance(failure.__cause__, (TrainingError, ValueError))
