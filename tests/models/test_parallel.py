"""Two workers train as one does, whatever they learn, and however they divide what each would keep whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from journals import files_of
from tiny import save_random
from together import STEPS, TRAININGS, curves, on_workers, train

from models import parallel
from models.parallel import ALONE, Alone, Team, Workers, share_out
from models.zero import ZeroWorkers

CONFIGS = Path(__file__).parents[2] / "deployments" / "deepspeed"
PARTED = ("sft", "ppo")  # One adapter; two of them on one base.
STOPPED = ("sft", "ppo", "grpo")
LAST = f"state-{STEPS:04d}"
BEGUN = "state-0001"


def _train_all(checkpoint: Path, root: Path) -> None:
    """On each worker: trainings from nothing, from a state that one worker saved, and from one that two saved."""
    plain = Workers()
    for name in TRAININGS:
        train(name, checkpoint, root / "two" / name, plain)
    for name in STOPPED:
        train(name, checkpoint, root / "grown" / name, plain)
        _go_on(name, checkpoint, root, "two", plain)
    for stage in ("zero2", "zero3"):
        config = json.loads((CONFIGS / f"{stage}.json").read_text())
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # or all of so small a model stays whole
        team = ZeroWorkers(config, "cpu")
        for name in PARTED:
            train(name, checkpoint, root / stage / name, team, weights=stage == "zero3")
            _go_on(name, checkpoint, root, stage, team, weights=stage == "zero3")


def _go_on(name: str, checkpoint: Path, root: Path, begun: str, team: Team, *, weights: bool = False) -> None:
    resumed = root / f"{begun} again" / name
    if team.rank == 0:
        shutil.copytree(root / begun / name / BEGUN, resumed / BEGUN)
    team.gather(None)
    train(name, checkpoint, resumed, team, weights=weights)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each way to train: by one worker, by two, begun by one and `grown`, and `... again` after a stop."""
    root = tmp_path_factory.mktemp("trainings")
    checkpoint = save_random(root / "tiny")
    for name in TRAININGS:
        train(name, checkpoint, root / "one" / name, ALONE)
    for name in STOPPED:
        shutil.copytree(root / "one" / name / BEGUN, root / "grown" / name / BEGUN)
    on_workers(2, _train_all, checkpoint, root, folder=root)
    return root


def _near(name: str, step: int) -> float:
    """How near curves are. The first steps differ by the order of additions alone. After them a number whose gradient
    is about as small as that difference may go another way, since AdamW divides it by its own size: so the critic's,
    which begins at zero.
    """
    return 1e-3 if name == "ppo" and step > 1 else 1e-5


def _same(name: str, found: Mapping[str, float], wanted: Mapping[str, float], step: int) -> None:
    near = _near(name, step)
    assert found == pytest.approx(wanted, rel=near, abs=near / 10), (name, step)


DIVIDED = [(stage, name) for stage in ("zero2", "zero3") for name in PARTED]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("way", "name"), [("two", name) for name in TRAININGS] + DIVIDED)
def test_two_workers_learn_what_one_does(way: str, name: str, root: Path) -> None:
    (one, end), (two, same_end) = curves(root / "one" / name), curves(root / way / name)
    assert one.keys() == two.keys() == {str(step) for step in range(1, STEPS + 1)}
    for step, metrics in one.items():
        _same(name, two[step], metrics, int(step))
    _same(name, same_end, end, STEPS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", STOPPED)
def test_what_one_worker_began_two_bring_to_its_end(name: str, root: Path) -> None:
    (one, _), (grown, _) = curves(root / "one" / name), curves(root / "grown" / name)
    assert grown.keys() == {str(step) for step in range(2, STEPS + 1)}
    for step, metrics in grown.items():
        _same(name, metrics, one[step], int(step))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("way", "name"), [("two", name) for name in STOPPED] + DIVIDED)
def test_two_workers_that_were_stopped_end_with_the_same_bytes(way: str, name: str, root: Path) -> None:
    undisturbed = files_of(root / way / name / LAST)
    assert undisturbed
    assert files_of(root / f"{way} again" / name / LAST) == undisturbed


class _One(Alone):
    """One worker of several, which are told what the others made."""

    def __init__(self, rank: int, made: list[list[int]], in_step: bool) -> None:
        self.rank, self.size, self.in_step, self.made = rank, len(made), in_step, made

    def gather(self, mine: list[int]) -> list[list[int]]:  # type: ignore[override]
        assert mine == self.made[self.rank]
        return self.made


@given(jobs=st.integers(0, 20), size=st.integers(2, 7), in_step=st.booleans())
def test_every_worker_gets_all_results_in_order_and_those_in_step_work_equally_often(
    jobs: int, size: int, in_step: bool
) -> None:
    made = [[-job for job in range(jobs)][rank::size] for rank in range(size)]
    worked = []
    for rank in range(size):
        done: list[int] = []

        def do(job: int, done: list[int] = done) -> int:
            done.append(job)
            return -job

        assert share_out(range(jobs), do, _One(rank, made, in_step)) == [-job for job in range(jobs)]
        worked.append(len(done))
    assert not in_step or len({*worked}) == 1
    assert in_step or sum(worked) == jobs


@given(st.lists(st.tuples(st.integers(1, 15), st.booleans()), max_size=12))
def test_tensors_are_summed_in_messages_of_one_dtype_and_a_bounded_size(shapes: list[tuple[int, bool]]) -> None:
    tensors = [torch.zeros(size, dtype=torch.float64 if double else torch.float32) for size, double in shapes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "BUCKET", 10)
        buckets = list(parallel._buckets(tensors))
    assert [id(tensor) for bucket in buckets for tensor in bucket] == [id(tensor) for tensor in tensors]
    for bucket in buckets:
        assert len({tensor.dtype for tensor in bucket}) == 1
        assert len(bucket) == 1 or sum(tensor.numel() for tensor in bucket) <= 10
