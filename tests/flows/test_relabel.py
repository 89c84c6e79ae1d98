"""The flow `relabel` as its schedule runs it: the same parameters night after night, over data that grows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_artifacts import artifacts
from pydantic import ValidationError
from reduced import SMALL

from flows.parameters import Labelling
from flows.presets import load
from flows.relabel import relabel
from miniature.dataset import encode, write
from miniature.world import render, sample_scene
from storage.lake import Lake
from tasks.cluster import RayKeeper

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("prefect_server")]
ASKED = 20


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """A Ray that outlives the nights, as a cluster's does: its start is most of a night."""
    keeper = RayKeeper(1, 0)
    yield
    keeper.release()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos and questions."""
    world = tmp_path_factory.mktemp("world")
    write(world, sft=8, rl=8, benchmark=2, seed=0)
    _ask(world, ASKED)
    return world


@pytest.fixture(scope="module")
def first_night(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """The same after its first labelling, and what that told."""
    folder = shutil.copytree(world, tmp_path_factory.mktemp("nights") / "first")
    return folder, night(folder)


@pytest.fixture
def folder(first_night: tuple[Path, dict[str, int]], tmp_path: Path) -> Path:
    """A folder in the morning after its first labelling, for one test."""
    return shutil.copytree(first_night[0], tmp_path / "folder")


def night(folder: Path, **sections: Any) -> dict[str, int]:
    """One labelling of the instructions and videos that the folder holds now: pairs by what became of their label."""
    moved: dict[str, int] = relabel(**(parameters(folder) | sections))["context"]
    return moved


def parameters(folder: Path) -> dict[str, Any]:
    places = [f"data.videos={folder / 'videos'}", f"run.lake={folder / 'lake'}", "data.prepare=null"]
    places += [f"run.folder={folder / 'results'}", "run.name=nights", "run.workers=1"]
    places += [f"data.{split}={folder / split}.json" for split in ("sft", "rl", "benchmark")]
    one = "arms=[{name: context, narrative: true, frame_set: judge_2, method: likelihood}]"
    given = load("miniature", [*SMALL.split(), *places, one])
    return {name: getattr(given, name) for name in Labelling.model_fields}


def _ask(folder: Path, count: int) -> None:
    """The first questions of the world are those that are asked."""
    everything = folder / "all.json"
    if not everything.exists():
        shutil.copy(folder / "rl.json", everything)
    (folder / "rl.json").write_text(json.dumps(json.loads(everything.read_text())[:count]))


def labelled(folder: Path) -> list[dict[str, Any]]:
    """What the stages of the last labelling did."""
    rows = Lake(folder / "lake").table("runs").read().to_pylist()
    return [row | json.loads(row["detail"]) for row in rows if row["event"] == "stage_finished"]


def test_a_night_labels_what_is_new_or_changed_and_nothing_else(
    first_night: tuple[Path, dict[str, int]], folder: Path
) -> None:
    assert first_night[1] == {"new": ASKED}
    assert night(folder) == {"the same": ASKED}, "nothing is new"

    _ask(folder, ASKED + 4)
    assert night(folder) == {"the same": ASKED, "new": 4}
    judged, *_ = [each for each in labelled(folder)[::-1] if each["stage"] == "preferences"]
    assert (judged["items"], judged["reused"]) == (ASKED + 4, ASKED)
    video = json.loads((folder / "rl.json").read_text())[0]["video"]
    shown = sum(row["video"] == video for row in json.loads((folder / "rl.json").read_text()))
    encode(render(sample_scene(np.random.default_rng(99))), folder / "videos" / video)
    moved = night(folder)
    judged, *_ = [each for each in labelled(folder)[::-1] if each["stage"] == "preferences"]
    assert (judged["items"], judged["reused"]) == (ASKED + 4, ASKED + 4 - shown), "a video changed"
    assert sum(moved.values()) - moved.get("gone", 0) == ASKED + 4

    trained = [each for each in labelled(folder) if each["stage"] == "sft"]
    assert len(trained) == 1, "the model whose answers are judged is not trained anew"


def test_what_a_night_labelled_that_told_nothing_is_told_in_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    _ask(folder, ASKED + 4)
    with monkeypatch.context() as ends_early:
        ends_early.setattr("flows.relabel.moves_page", interrupted)
        with pytest.raises(KeyboardInterrupt):
            night(folder)
    assert night(folder) == {"the same": ASKED, "new": 4}


def test_another_prompt_or_judge_is_compared_with_the_labels_before(folder: Path) -> None:
    page = folder / "results" / "moves.html"
    assert f"context: {ASKED} pairs were labelled for the first time." in page.read_text()

    given = parameters(folder)
    prompts = given["preferences"].prompts.model_copy(update={"likelihood_context": "{context} {question}"})
    asked_otherwise = given["preferences"].model_copy(update={"prompts": prompts})
    moved = night(folder, preferences=asked_otherwise)
    assert sum(moved.values()) == ASKED
    assert not {"new", "gone"} & set(moved), "the pairs are the same; their labels may be others"
    assert "another prompt" in page.read_text()
    assert f"of {ASKED} labels moved" in page.read_text()

    other = given["models"].model_copy(update={"labeler": given["models"].policy})
    moved = night(folder, preferences=asked_otherwise, models=other)
    assert sum(moved.values()) == ASKED
    assert not {"new", "gone"} & set(moved)
    assert "another judge" in page.read_text()
    assert "other captions" in page.read_text()
    *_, table = artifacts("moves-nights-context")
    assert f"moves.html]({page.as_uri()})" in table.description


def test_a_mistake_across_sections_is_refused_before_anything_runs(world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world, tmp_path / "folder")
    captions = parameters(folder)["captions"].model_copy(update={"frame_set": "clip"})
    with pytest.raises(ValidationError, match=r"captions: frame_set 'clip' is none of frames\.sets"):
        night(folder, captions=captions)
    rounds = [arm.model_copy(update={"route": "self_dpo"}) for arm in parameters(folder)["arms"]]
    with pytest.raises(ValueError, match="nothing to label here"):
        night(folder, arms=rounds)
    assert Lake(folder / "lake").tables() == ["runs"], "the failures alone are written down"
