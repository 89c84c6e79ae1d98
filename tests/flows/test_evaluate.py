"""The flow `evaluate` on a real server: what checkpoints share, a judge over HTTP, a second run that asks nobody."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, completion
from kept_artifacts import artifacts
from typer.testing import CliRunner

from benchmarks.registry import KNOWN
from flows.evaluation import How, scoring
from flows.evaluation_parameters import Evaluation
from flows.presets import EVALUATIONS, PresetError, load_evaluation, names
from storage.lake import Lake
from tasks.cluster import RayKeeper
from tasks.evaluation.entries import Entry, read_scores
from tasks.model_ref import ModelRef

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
import toy_benchmark
from small import BASE
from toy_benchmark import World, world


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A Ray that outlives the flows, as a cluster's does."""
    keeper = RayKeeper(2, 0)
    yield
    keeper.release()


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.toy", toy_benchmark)
    monkeypatch.setitem(KNOWN, "toy", ("toy", "Toy"))


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    def reply(call: Call) -> Said:
        return Said(completion("7" if out_of_range(call) else "4"), delay_s=0.1)

    with FakeEndpoint(reply) as server:
        yield server


def out_of_range(call: Call) -> bool:
    """Whether what is asked gets a score that is none, and so is asked for once more."""
    return "second" in call.body["messages"][-1]["content"]


def parameters(folder: Path, made: World, server: FakeEndpoint) -> dict[str, Any]:
    """Two checkpoints on four benchmarks, two of which are one but for what they are called."""
    rows = made.questions()
    parts = [{**row, "window": [0.0, 1.0]} for row in rows] + [{**rows[0], "id": "blind", "video": "nowhere"}]
    choices = [{**row, "options": ["no", row["answer"]]} for row in rows]
    benchmarks = {
        "ruled": made.scored(parts, "ruled.json"),
        "again": made.scored(parts, "ruled.json", split="test", protocols=["strict"]),
        "judged": made.scored(rows, "judged.json", settings={"judged_by": "model"}, judge="fake"),
        "chosen": made.scored(choices, "chosen.json", protocols=["strict"], frame_set="few"),
    }
    given = load_evaluation("miniature", [f"run.folder={folder}", f"run.lake={folder / 'lake'}", "prepare=null"])
    endpoint = {"base_url": server.url, "model": "judge-1", "reasks": 1, "timeout_s": 30}
    values = {
        **given.model_dump(),
        "benchmarks": {label: each.model_dump() for label, each in benchmarks.items()},
        "grading": {"endpoints": {"fake": endpoint}},
        "frames": {"image_format": "png", "sets": [{"name": "policy", "n": 4}, {"name": "few", "n": 2}]},
    }
    values["run"]["max_quarantined"] = 0.2
    made_of = Evaluation.model_validate(values)
    return {name: getattr(made_of, name) for name in Evaluation.model_fields}


def stages(lake: Lake) -> list[dict[str, Any]]:
    rows = lake.table("runs").read().to_pylist()
    return [row | json.loads(row["detail"]) for row in rows if row["event"] == "stage_finished"]


def overall(entries: tuple[Entry, ...]) -> dict[tuple[str, str, str], Entry]:
    return {(each.benchmark, each.checkpoint, each.protocol): each for each in entries if each.group == "overall"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("prefect_server", "ray")
def test_checkpoints_share_frames_and_features_and_a_second_run_asks_nobody(
    tmp_path: Path, server: FakeEndpoint
) -> None:
    from flows.evaluate import evaluate

    given = parameters(tmp_path, world(tmp_path / "world"), server)
    told = evaluate(**given)
    lake = Lake(tmp_path / "lake")
    done = [each["stage"] for each in stages(lake)]
    models = {"base", "labeler"}
    assert {stage: done.count(stage) for stage in done} == {
        "videos": 1,
        "questions": 4,
        "frames": 1,
        "visual_tokens": 2,  # Their towers have weights of their own.
        "answers": 8,
        "grades": 12,
    }
    found = overall(read_scores(Path(told["scores"])).entries)
    assert set(found) == {
        (benchmark, model, protocol)
        for model in models
        for benchmark, protocol in (
            ("ruled", "official"), ("ruled", "strict"), ("again", "strict"),
            ("judged", "official"), ("judged", "strict"), ("chosen", "strict"),
        )
    }  # fmt: skip
    twice = {each["label"]: each["cached"] for each in stages(lake) if " again" in str(each["label"])}
    assert twice == dict.fromkeys(twice, True), "what another benchmark has asked, answered and graded is used"
    assert len(twice) == 5
    ruled = found["ruled", "base", "strict"]
    assert (ruled.n, ruled.faults, ruled.statuses) == (7, {"no video": 1}, {"missing": 1, "ok": 6})
    assert (found["ruled", "base", "official"].n, found["ruled", "base", "official"].left_out) == (6, 1)
    judged = found["judged", "base", "strict"]
    assert judged.judge.startswith("judge-1@")
    assert set(judged.statuses) == {"ok", "out of range"}
    different = {json.dumps(call.body): 2 if out_of_range(call) else 1 for call in server.calls}
    assert len(server.calls) == sum(different.values()), "protocols and checkpoints ask the same, which is paid once"
    page = (tmp_path / "evaluation.html").read_text()
    assert f"judge {judged.judge}" in page
    assert "rlaif evaluate --preset miniature" in page
    assert (tmp_path / "predictions" / "judged" / "labeler" / "toy.json").is_file()
    ways = {(benchmark, protocol) for benchmark, _, protocol in found}
    assert len(artifacts("evaluation-evaluation-%")) == len(ways)

    calls, seen = len(server.calls), len(stages(lake))
    assert evaluate(**given) == told
    assert len(server.calls) == calls
    assert all(each["cached"] for each in stages(lake)[seen:])


class Begun:
    """In the place of Steps: what was begun, by stage and label, and behind which others."""

    def __init__(self) -> None:
        self.behind: dict[str, list[str]] = {}

    def __call__(self, stage: Any, *_: Any, label: str, after: Any = ()) -> str:
        name = f"{stage.__name__} {label}"
        self.behind[name] = list(after)
        return name


def test_stages_that_do_the_same_wait_for_the_first_of_them(tmp_path: Path, server: FakeEndpoint) -> None:
    given = parameters(tmp_path, world(tmp_path / "world"), server)
    sampling = given["benchmarks"]["again"].model_copy(update={"temperature": 1.0})
    benchmarks = {**given["benchmarks"], "drawn": sampling}
    how = How(benchmarks, given["frames"], given["visual_tokens"], given["answers"], given["grading"], None)
    one = ModelRef.of(str(BASE))
    step: Any = Begun()
    scoring(step, how, {"base": one, "same": one})
    for stage, first in {
        "questions again": "questions ruled",
        "answers again base": "answers ruled base",
        "answers ruled same": "answers ruled base",
        "answers again same": "answers ruled base",
        "answers drawn same": "answers drawn base",
        "grades again base strict": "grades ruled base strict",
    }.items():
        assert step.behind[stage] == [first]
    for stage in ("questions judged", "answers judged base", "answers drawn base", "grades ruled base strict"):
        assert not step.behind[stage]
    assert step.behind["grades judged base strict"] == ["grades judged base official"]


@pytest.mark.parametrize("name", names(EVALUATIONS))
def test_every_evaluation_loads(name: str) -> None:
    assert load_evaluation(name).benchmarks


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("benchmarks.scenes.judge=gpt", r"benchmark 'scenes': judge 'gpt' is none of grading\.endpoints; known: local"),
        ("benchmarks.scenes.judge=local", r"benchmark 'scenes' has judge local, but models\.judge names no model"),
        ("benchmarks.scenes.frame_set=eyes", r"frame_set 'eyes' is none of frames\.sets \(policy\)"),
        ("frames.sets.0.clips=2", "frame_set 'policy' has several clips"),
        ("models.checkpoints.1.name=base", "the names of checkpoints must differ: base, base"),
        ("benchmarks.scenes.limt=3", "benchmarks.scenes.limt: unknown key"),
        ("models.checkpoints.1.endpoint=gpt", r"endpoint 'gpt' is none of grading\.endpoints"),
        (
            'models.checkpoints.1={"name": "r", "lake": "/nowhere", "role": "reward"}',
            "checkpoint 'r' is a reward model and only compares pairs of answers: benchmark 'scenes' asks for more",
        ),
        ("benchmarks={}", "benchmarks: Dictionary should have at least 1 item"),
    ],
)
def test_a_mistake_is_refused_before_anything_runs(override: str, said: str) -> None:
    with pytest.raises(PresetError, match=said):
        load_evaluation("miniature", [override])


def test_the_price_is_told_by_the_command(tmp_path: Path, server: FakeEndpoint) -> None:
    from flows.cli import app

    made = world(tmp_path / "world")
    made.scored(made.questions(), "judged.json")
    judged = {"benchmark": "toy", "files": {"": str(tmp_path / "world" / "judged.json")}, "videos": str(made.videos)}
    judged |= {"settings": {"judged_by": "model"}, "judge": "fake"}
    given = [f"benchmarks={json.dumps({'mine': judged})}", f"run.lake={tmp_path / 'lake'}"]
    given += [f"grading.endpoints={json.dumps({'fake': {'base_url': server.url, 'model': 'judge-1'}})}"]
    said = CliRunner().invoke(app, ["evaluate", "--preset", "miniature", "--plan", *given])
    assert said.exit_code == 0, said.output
    assert re.search(r"fake \(judge-1\) +mine +12 .* 0\.00 +\n +at most +72 +0\.00 +\n", said.output), said.output
    assert "set price_input and price_output to see money" in " ".join(said.output.split())
    assert not server.calls
