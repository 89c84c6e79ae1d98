"""`rlaif judge` as it is typed: it serves what waits, survives being killed, and says what to do next."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from at_the_page import AtThePage
from typer.testing import CliRunner

from flows.cli import app
from models.comparisons import Comparison
from models.human_judge import HumanJudge, Said, Strip
from storage.lake import Lake
from tasks.human_desk import Desk, desk_path
from tasks.judge_human import Strips
from tasks.pictures import jpeg
from tasks.preferences import PreferencesConfig
from tasks.stage import StageError, StageRef


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two pairs wait in it."""
    lake = Lake(tmp_path / "lake")
    blob = lake.blobs.put_arrow(pa.table({"video": ["v"], "frames": pa.array([[_frame()]], pa.list_(pa.binary()))}))
    provenance = {"item_id": "v", "status": "ok", "item_key": "k", "run": "r", "seed": 0}
    sets = [{"name": "policy", "clip": 0, "start": 0.0, "end": 1.0, "indices": [0]}]
    kept = {"video": "v", "content": "", "blob": blob, "row": 0, "timestamps": [0.0], "sets": sets}
    lake.table("frames").commit_shard([{**provenance, **kept}], stage_key="f" * 16, shard=0)
    config = PreferencesConfig.model_validate({"judge": "human", "narrative": False})
    strip = Strips(lake, StageRef("frames", "frames", "f" * 16, 0), config).of("v")
    judge = HumanJudge({}, text="Which is better?", context_text="")
    asked = [(name, judge.showings(Comparison(f"{name}?", strip, "red", "blue"))) for name in ("one", "two")]
    Desk(desk_path(lake.root)).want("nightly", "people", asked)
    return lake


def _frame() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return jpeg(file.getvalue(), 8, 90)


class Command:
    """`rlaif judge` under way."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "flows.cli", "judge", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._process.stdout is not None
        self.said = self._process.stdout.readline()
        self.address = self.said.split()[-1]

    def end(self, how: signal.Signals) -> str:
        self._process.send_signal(how)
        said, _ = self._process.communicate(timeout=60)
        return said


@pytest.mark.slow
def test_a_killed_page_loses_nothing_and_ctrl_c_says_what_is_left(lake: Lake) -> None:
    command = Command(lake.root, "--who", "ann", "--arm", "people")
    assert command.said.startswith("4 to answer (run nightly, arm people: 4): open http://127.0.0.1:")
    person = AtThePage(command.address)
    person.say("A")
    person.say("B", "it is blue")
    command.end(signal.SIGKILL)
    kept = Desk(desk_path(lake.root)).said().values()
    assert [(each.choice, each.reason, each.who) for each in kept] == [("A", "", "ann"), ("B", "it is blue", "ann")]

    command = Command(lake.root)
    assert command.said.startswith("2 to answer")
    AtThePage(command.address).say("tie")
    assert f"1 of 4 left: go on with `rlaif judge {lake.root}`." in command.end(signal.SIGINT)

    command = Command(lake.root)
    assert "Thank you" in AtThePage(command.address).say("tie").html
    said = command.end(signal.SIGINT)
    assert "Nothing is left, 4 answers are kept. Give the command again that made run nightly: it goes on." in said
    assert "Traceback" not in said


def judge(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["judge", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_lake_without_a_queue_says_so_and_is_not_changed(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    with pytest.raises(
        StageError, match=r"Nothing waits for a person in .*: no run has a queue there\. .*`judge: human`"
    ):
        judge(lake.root)
    assert not desk_path(lake.root).exists()


def test_an_arm_without_a_queue_names_those_with_one(lake: Lake) -> None:
    with pytest.raises(StageError, match=r"Nothing of arm 'context' waits .* arms that do: people"):
        judge(lake.root, "--arm", "context")


def ask(lake: Lake, run: str, arm: str, *questions: str) -> None:
    shown = HumanJudge({}, text="Which is better?", context_text="").showings
    pairs = [(each, shown(Comparison(each, Strip("d", "{}"), "red", "blue"))) for each in questions]
    Desk(desk_path(lake.root)).want(run, arm, pairs)


def test_what_an_abandoned_run_asks_for_can_be_dropped_and_answers_stay(lake: Lake) -> None:
    ask(lake, "abandoned", "people", "three?", "four?")
    ask(lake, "abandoned", "renamed", "four?")
    desk = Desk(desk_path(lake.root))
    desk.say(desk.waiting("renamed")[0], Said("A", "", "ann", "2026-01-01", None), "a page")
    counts = {(each.run, each.arm): each.waiting for each in desk.queues()}
    assert counts == {("abandoned", "people"): 3, ("abandoned", "renamed"): 1, ("nightly", "people"): 4}

    said = judge(lake.root, "--drop", "abandoned", "--arm", "renamed")
    assert "Off the queue (run abandoned, arm renamed: 1). Answers are kept" in said
    said = judge(lake.root, "--drop", "abandoned")
    assert "Off the queue (run abandoned, arm people: 3)." in said
    assert f"4 of 4 left: go on with `rlaif judge {lake.root}`." in said
    with pytest.raises(StageError, match=r"Run 'abandoned' has no queue here. There are: run nightly, arm people: 4\."):
        judge(lake.root, "--drop", "abandoned")
    assert "No queue is left; all answers are kept." in judge(lake.root, "--drop", "nightly")
    assert len(desk.said()) == 1
    ask(lake, "nightly", "people", "four?")
    assert desk.left().waiting == 1, "what was said holds for whoever asks it again"


def test_a_page_says_which_runs_and_arms_wait(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(lake, "nightly", "blind", "three?")
    monkeypatch.setattr("tasks.human_server.JudgingServer.serve_forever", lambda _: None)
    assert "6 to answer (run nightly, arm blind: 2; run nightly, arm people: 4): open" in judge(lake.root)
    assert "2 to answer (run nightly, arm blind: 2): open" in judge(lake.root, "--arm", "blind")


def test_a_port_that_is_taken_is_said(lake: Lake) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(StageError, match="give another, or 0 for a free one"):
            judge(lake.root, "--port", str(other.getsockname()[1]))
