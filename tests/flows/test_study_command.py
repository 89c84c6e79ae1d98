"""Studies: what a file may say, which runs are made of it and in which order, and the command on the reduced preset."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prefect.settings import PREFECT_API_URL
from reduced import LIMIT_S, Place
from typer.testing import CliRunner

from flows.cli import app
from flows.presets import PresetError, names
from flows.study_file import FOLDER, StudyError, plan_study
from flows.study_runs import Run, perform, runs_of

STUDY: dict[str, Any] = {
    "title": "Two arms",
    "arm": {"narrative": True, "frame_set": "judge_2", "method": "likelihood"},
    "arms": {
        "noisy": {"description": "PPO", "arm": {"label_noise": 0.1}},
        "ranks": {"arm": {"route": "grpo_rank"}, "overrides": {"grpo.ranker": "truth"}},
    },
    "compare": [["ranks", "noisy"]],
    "curves": {"labels": {"title": "Labels", "axis": "labels", "points": ["noisy", "ranks"]}},
}


def written(folder: Path, **changes: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
    return str(path)


@pytest.mark.parametrize("name", names(FOLDER))
def test_every_study_can_be_planned(name: str) -> None:
    plan = plan_study(name, None, [])
    assert all([arm.name for arm in p.arms] == [name] for name, p in plan.parameters.items())


def test_an_arm_is_the_preset_with_its_own_overrides_on_top(tmp_path: Path) -> None:
    plan = plan_study(written(tmp_path, overrides=["sft.training.steps=7"]), None, ["grpo.ranker=listwise"])
    noisy, ranks = plan.parameters.values()
    assert (plan.first.run.name, plan.first.run.workers, noisy.agreement.conditions) == ("study-mine", 1, [])
    assert (noisy.sft.training.steps, noisy.arms[0].label_noise, noisy.grpo.ranker) == (7, 0.1, "listwise")
    assert (ranks.arms[0].route, ranks.arms[0].label_noise, ranks.grpo.ranker) == ("grpo_rank", 0.0, "truth")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"compare": [["ranks", "nosy"]]}, "compare.0: there is no arm 'nosy', did you mean 'noisy'"),
        (
            {"curves": {"c": {"title": "t", "axis": "a", "points": {"rank": 1}}}},
            "curves.c: there is no arm 'rank', did you mean 'ranks'",
        ),
        ({"arm": {"narative": True}}, "arm 'noisy': Preset .*arms.0.narative: unknown key, did you mean 'narrative'"),
        ({"arms": {"a": {"overides": []}}}, "arms.a.overides: unknown key, did you mean 'overrides'"),
        ({"arms": {"a": {"overrides": ["ppo.training.iteratons=3"]}}}, "arm 'a': .*did you mean 'iterations'"),
        ({"arms": {"sft": {}}}, "arm 'sft': .*cannot be called sft"),
        ({"arms": {}}, "arms: Dictionary should have at least 1 item"),
        ({"tilte": "x"}, "tilte: unknown key, did you mean 'title'"),
        (
            {"arms": {"a": {}, "b": {"overrides": {"sft.training.steps": 9, "models.policy": "x"}}}},
            "arms 'a' and 'b' differ in sft, models.policy",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    alone: dict[str, Any] = {"compare": [], "curves": {}} if "arms" in changes else {}
    with pytest.raises(StudyError, match=f"(?s){said}"):
        plan_study(written(tmp_path, **alone, **changes), None, [])


def test_a_study_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(PresetError, match="no study 'minature', did you mean 'miniature'"):
        plan_study("minature", None, [])


def test_arms_or_a_preset_must_be_given() -> None:
    said = CliRunner().invoke(app, ["study"])
    assert said.exit_code == 1
    assert "Give --arms" in said.output


def runs(tmp_path: Path, seeds: int = 2) -> list[Run]:
    return runs_of(plan_study(written(tmp_path), None, [f"run.folder={tmp_path}"]), seeds, parallel=2)


def test_what_arms_share_is_computed_by_a_run_that_the_others_wait_for(tmp_path: Path) -> None:
    made = runs(tmp_path, seeds=3)
    assert [(run.arm, run.seed, run.after) for run in made] == [
        ("noisy", 0, None),
        ("noisy", 1, ("noisy", 0)),
        ("noisy", 2, ("noisy", 0)),
        ("ranks", 0, ("noisy", 0)),
        ("ranks", 1, ("noisy", 1)),
        ("ranks", 2, ("noisy", 2)),
    ]
    assert [run.parameters.run.workers for run in made] == [2, 1, 1, 1, 1, 1]
    assert len({run.parameters.run.lake_root for run in made}) == 1
    assert len({run.parameters.run.name for run in made}) == len({run.log for run in made}) == 6


def standing_in(run: Run, code: str) -> Run:
    return replace(run, command=(sys.executable, "-c", code))


def test_a_run_that_fails_is_told_with_its_log_and_the_others_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    first, *others = runs(tmp_path)
    broken = standing_in(first, "import sys; print('the lamp is out'); sys.exit(3)")
    good = [standing_in(run, "import os; print(os.environ['KEY'])") for run in others]
    failed = perform([broken, *good], {others[-1].id}, 2, {"KEY": "given"}, said.append)
    assert failed == [broken]
    assert len(said) == 3
    assert said[0].startswith("1/3 noisy seed 0: FAILED with 3 after")
    assert f"log {broken.log}: the lamp is out; 2 left" in said[0]
    assert said[-1].endswith("none left")
    assert [run.log.exists() for run in good] == [True, True, False], "what is done is not run again"
    assert "given" in good[0].log.read_text()


def test_runs_under_way_end_with_the_study(tmp_path: Path) -> None:
    endless, quick = runs(tmp_path, seeds=1)
    endless = standing_in(endless, "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    told = f"pathlib.Path({str(endless.log)!r}).read_text().count(chr(10))"
    waiting = f"import pathlib, time\nwhile {told} < 2: time.sleep(0.1)"  # The first line is the command.
    quick = standing_in(replace(quick, after=None), waiting)

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform([endless, quick], set(), 2, {}, interrupt)
    assert not psutil.pid_exists(int(endless.log.read_text().split()[-1]))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_command_runs_what_is_missing_and_compares_what_is_there(
    tmp_path: Path,
    prefect_server: None,  # noqa: ARG001 - it sets the address
) -> None:
    place = Place(tmp_path, PREFECT_API_URL.value())
    own = ("arms=", "agreement.conditions=")
    overrides = [each for each in place.overrides("study") if not each.startswith(own)]
    environment = {**os.environ, "PREFECT_API_URL": str(place.server)}

    def study(parallel: int) -> list[str]:
        return ["study", "--arms", written(tmp_path), "--seeds", "1", "--parallel", str(parallel), *overrides]

    with pytest.raises(StudyError, match="No run of the study has ended"):
        CliRunner().invoke(app, study(0), catch_exceptions=False)
    command = [sys.executable, "-m", "flows.cli", *study(2)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2/2" in done.stdout
    found = json.loads((tmp_path / "study" / "study.json").read_text())
    exact = found["measures"]["greedy_exact"]
    assert list(exact["scores"]) == ["base", "sft", "noisy", "ranks"]
    assert all(None not in each["values"] for each in exact["scores"].values())
    compared = [(each["first"], each["second"]) for each in exact["differences"]]
    assert compared == [("noisy", "sft"), ("ranks", "sft"), ("ranks", "noisy")]
    assert all(0 < arm["cost"]["own"] < arm["cost"]["whole"] for arm in found["arms"].values())
    assert (tmp_path / "study" / "study_labels.svg").exists()
    lake = place.lake("study")
    supervised = [row for row in lake.table("stages").read(columns=["stage"]).to_pylist() if row["stage"] == "sft"]
    assert len(supervised) == 1, "shared by the arms"
    again = CliRunner().invoke(app, study(0), catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert "2 of them are done" in again.output
