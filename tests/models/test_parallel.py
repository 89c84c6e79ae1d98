"""Two workers train as one does, whatever they learn, and however they divide what each would keep whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from journals import files_of
from tiny import save_random
from together import STEPS, TRAININGS, curves, on_workers, train

from models.parallel import ALONE, Team, Workers
from models.zero import ZeroWorkers

CONFIGS = Path(__file__).parents[2] / "deployments" / "deepspeed"
PARTED = ("sft", "ppo", "grpo")  # One adapter; two on one base; one that another is copied from.
LAST = f"state-{STEPS:04d}"
BEGUN = "state-0001"


def _train_all(checkpoint: Path, root: Path) -> None:
    """On each worker: trainings from nothing, from a state that one worker saved, and from one that two saved."""
    plain = Workers()
    for name in TRAININGS:
        train(name, checkpoint, root / "two" / name, plain)
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


WAYS = [("two", name) for name in TRAININGS] + [(stage, name) for stage in ("zero2", "zero3") for name in PARTED]


@pytest.mark.parametrize(("way", "name"), WAYS)
def test_two_workers_learn_what_one_does(way: str, name: str, root: Path) -> None:
    (one, end), (two, same_end) = curves(root / "one" / name), curves(root / way / name)
    assert one.keys() == two.keys() == {str(step) for step in range(1, STEPS + 1)}
    for step, metrics in one.items():
        _same(name, two[step], metrics, int(step))
    _same(name, same_end, end, STEPS)


@pytest.mark.parametrize("name", TRAININGS)
def test_what_one_worker_began_two_bring_to_its_end(name: str, root: Path) -> None:
    (one, _), (grown, _) = curves(root / "one" / name), curves(root / "grown" / name)
    assert grown.keys() == {str(step) for step in range(2, STEPS + 1)}
    for step, metrics in grown.items():
        _same(name, metrics, one[step], int(step))


@pytest.mark.parametrize(("way", "name"), WAYS)
def test_two_workers_that_were_stopped_end_with_the_same_bytes(way: str, name: str, root: Path) -> None:
    undisturbed = files_of(root / way / name / LAST)
    assert undisturbed
    assert files_of(root / f"{way} again" / name / LAST) == undisturbed
