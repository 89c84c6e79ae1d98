"""What goes wrong in people's hands, by the command line: each is said without a traceback, and costs nothing done."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.settings import PREFECT_API_URL
from reduced import Place, contents

from flows import cli
from flows.views import stages
from miniature.dataset import write
from storage.lake import Lake
from tasks.evaluation.entries import SCORES, read_scores
from tasks.evaluation.page import PAGE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
Done = subprocess.CompletedProcess[str]
Row = dict[str, Any]
QUICK = (
    "run.workers=1",
    "data.prepare=null",
    "arms=[{name: one, narrative: false, frame_set: judge_2, method: likelihood}]",
)


@dataclass(frozen=True)
class Story:
    """A run that failed late, and the same again when its fault was mended."""

    place: Place
    failed: Done
    mended: Done

    def run(self, *overrides: str) -> Done:
        return self.place.run("story", *QUICK, *overrides)

    @property
    def lake(self) -> Lake:
        return self.place.lake("story")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Story:  # noqa: ARG001 - sets the address
    """Its instructions name speakers by `role`; its PPO asks for what no training can give, and then no longer."""
    place = Place(tmp_path_factory.mktemp("bad"), PREFECT_API_URL.value())
    write(place.data, sft=4, rl=4, benchmark=4, seed=0)
    rewrite(place.data / "sft.json", call_it_role)
    failed = place.run("story", *QUICK, "ppo.training.max_gap=1e-9")
    return Story(place, failed, place.run("story", *QUICK, place.evaluated()))


def rewrite(path: Path, change: Callable[[list[Row]], None]) -> None:
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def call_it_role(rows: list[Row]) -> None:
    for row in rows:
        for turn in row["conversations"]:
            turn["role"] = turn.pop("from")


def refused(done: Done) -> str:
    """What a command that ended with an error told the person."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_training_that_fails_says_why_and_is_no_quarantine(story: Story) -> None:
    said = refused(story.failed)
    assert "policy one: Sampling and training disagree by" in said
    assert "(limit 1e-09)" in said
    rows = story.lake.table("checkpoints").read(columns=["status"])["status"].to_pylist()
    assert set(rows) == {"ok"}


def test_a_mended_training_computes_nothing_before_it_again(story: Story) -> None:
    assert story.mended.returncode == 0, story.mended.stderr
    cached = {row["label"] or row["stage"]: row["cached"] for row in stages(story.lake, "reduced")}
    before = ["videos", "frames", "visual_tokens base", "instructions", "sft", "candidates rl"]
    assert all(cached[name] for name in [*before, "preferences one", "reward_model one"])
    assert not cached["policy one"]


def test_the_run_ends_with_its_models_on_benchmarks(story: Story) -> None:
    told = read_scores(story.place.folder / "story" / SCORES)
    overall = {each.checkpoint: each for each in told.entries if each.group == "overall"}
    assert list(overall) == ["base", "sft", "one"]
    assert all((each.n, each.protocol, each.judge) == (8, "strict", "") for each in overall.values())
    assert len({each.stages["questions"] for each in overall.values()}) == 1
    assert (story.place.folder / "story" / PAGE).is_file()
    decoded = story.lake.table("frames").read(columns=["stage_key"])["stage_key"].to_pylist()
    assert len(set(decoded)) == 1, "the benchmark's videos are the run's own, whose frames are kept already"


def test_role_is_taken_for_from_and_said(story: Story) -> None:
    assert "sft.json: 36 rows name a turn's speaker 'role' instead of 'from': read as the same." in story.failed.stderr


class Typed:
    """The command in this process: for what it refuses before it needs workers."""

    def __init__(self, story: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._story, self._patch, self._capsys = story, monkeypatch, capsys

    def refused(self, *overrides: str, preset: str = "miniature") -> str:
        """What it tells the person."""
        given = [*self._story.place.overrides("story"), *QUICK, *overrides]
        self._patch.setattr(sys, "argv", ["rlaif", "run", "--preset", preset, *given])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = self._capsys.readouterr().err
        assert end.value.code == 1, said
        assert "Traceback" not in said
        return said


@pytest.fixture
def typed(story: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    # Prefect's handler writes for ever to the stderr of the first test that it logged in, which is closed by now.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    return Typed(story, monkeypatch, capsys)


def without_video(rows: list[Row]) -> None:
    del rows[3]["video"]


def with_unknown_key(rows: list[Row]) -> None:
    rows[3]["vidoe"] = rows[3]["video"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_video, "names no video; give one of video, images and image"),
        (with_unknown_key, "unknown key vidoe; known"),
    ],
)
def test_a_bad_instruction_is_named_by_its_row(
    change: Callable[[list[Row]], None], said: str, story: Story, typed: Typed, tmp_path: Path
) -> None:
    before = contents(story.lake)
    shutil.copy(story.place.data / "rl.json", tmp_path / "rl.json")
    rewrite(tmp_path / "rl.json", change)
    heard = typed.refused(f"data.rl={tmp_path / 'rl.json'}")
    assert f"{tmp_path / 'rl.json'} row 4 (id 'rl_00000_" in heard
    assert said in heard
    assert contents(story.lake) == before


def test_a_folder_of_videos_that_is_missing_or_no_folder(story: Story, typed: Typed, tmp_path: Path) -> None:
    before = contents(story.lake)
    missing = typed.refused(f"data.videos={tmp_path / 'nowhere'}")
    assert f"The videos folder {tmp_path / 'nowhere'} does not exist: make it, or correct the path." in missing
    file = typed.refused(f"data.videos={story.place.data / 'sft.json'}")
    assert "sft.json is a file: name the folder that holds the videos." in file
    assert contents(story.lake) == before


def test_videos_that_cannot_be_read_stop_the_run_with_their_reasons(story: Story, tmp_path: Path) -> None:
    shutil.copytree(story.place.data / "videos", tmp_path / "videos")
    (tmp_path / "videos" / "sft_00001.mp4").write_bytes(b"no film at all")
    said = refused(story.run(f"data.videos={tmp_path / 'videos'}"))
    assert "Stage frames: 1 of 12 items are quarantined, more than max_quarantined 0.05 allows." in said
    assert "such as sft_00001.mp4:" in said
    # The others were not decoded again, although they lie in another folder.
    kept = story.lake.table("frames").read(columns=["video", "blob"]).to_pylist()
    assert len({row["blob"] for row in kept if row["video"] == "rl_00000.mp4"}) == 1


def test_a_judge_that_answers_nonsense_stops_the_run(story: Story) -> None:
    said = refused(story.run("arms.0.method=verdict", 'preferences.prompts.verdict="{question} {a} {b}"'))
    # How many depends on how many pairs of answers differ at all: equal ones are ties that nobody is asked about.
    assert re.search(r"Stage preferences: \d+ of 32 items are quarantined, more than max_quarantined 0.05 allows", said)
    assert "below min_choice_mass 0.2" in said


def test_labels_that_fail_the_audit_stop_the_run_before_it_learns_from_them(story: Story) -> None:
    said = refused(story.run("audit.max_blind_agreement=0"))
    assert "The labels 'one' fail the audit" in said
    assert "audit.max_blind_agreement" in said
    assert f"See `rlaif audit {story.lake.root} --arm one`" in said
    done = [each["stage"] for each in stages(story.lake, "reduced")]
    assert "preferences" in done
    assert "reward_model" not in done, "it would have been found complete at once"


def test_a_model_that_is_not_there(typed: Typed) -> None:
    assert "/no/such/model" in typed.refused("models.policy=/no/such/model")


def test_a_preset_with_a_misspelt_key(typed: Typed, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    text = (Path(__file__).parents[2] / "deployments" / "presets" / "miniature.yaml").read_text()
    preset.write_text(text.replace("videos_per_blob:", "videos_per_blub:"))
    said = typed.refused(preset=str(preset))
    assert f"Preset {preset}:" in said
    assert "frames.videos_per_blub: unknown key, did you mean 'videos_per_blob'" in said


def test_a_lake_that_may_not_be_written(typed: Typed) -> None:
    said = typed.refused("run.lake=/sys/lake")
    assert "/sys/lake" in said
    assert "may not be written" in said


def test_a_disk_that_runs_full_keeps_what_is_committed(story: Story) -> None:
    other = ("benchmark.limit=9",)
    scores = story.lake.table("scores")
    before = len(scores.read())
    commits = Path(scores.uri, "_delta_log")
    there = len(list(commits.glob("*.json")))
    with story.place.started("story", *QUICK, *other) as process:
        while len(list(commits.glob("*.json"))) == there:
            assert process.poll() is None
            time.sleep(0.02)
        # The driver commits; its files may no longer grow beyond a few lines. It hears what it would of a full disk.
        psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (4096, 4096))
        assert process.wait(900) == 1
    said = story.place.said("story")
    assert "the disk is full: free space there, then run the same command again: committed shards are kept" in said
    assert "Traceback" not in said
    kept = scores.read().to_pylist()
    assert len(kept) > before
    done = story.run(*other)
    assert done.returncode == 0, done.stderr
    assert [row for row in scores.read().to_pylist() if row in kept] == kept
    assert len(scores.read()) == before + 3 * 9 * 2
